"""Models of other types, channels and ranges, and models that run on whole images only."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image

from srcnn_rt import ArgumentError, Engine, ImageError, ModelError
from srcnn_rt.cli import main
from srcnn_rt.evaluation.seam_check import verify
from srcnn_rt.models import spec
from srcnn_rt.models.spec import ValueRange
from tests.conftest import drawing
from tests.helpers.models import save, value
from tests.helpers.reference import quantise

node = helper.make_node


def kernel(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)


def blur(path: Path, channels: int, **more: object) -> Path:
    """Write a padded x1 model that blurs every channel by 5x5."""
    weights = {"w": np.full((channels, 1, 5, 5), 1 / 25, np.float32)}
    conv = node("Conv", ["lr", "w"], ["hr"], pads=[2] * 4, group=channels)
    return save(path, [conv], weights, channels=channels, **more)


def convolved(image: np.ndarray) -> np.ndarray:
    """Blur by definition, with zeros outside."""
    h, w, _ = image.shape
    padded = np.pad(image.astype(np.float64), [(2, 2), (2, 2), (0, 0)])
    return sum(padded[i : i + h, j : j + w] for i in range(5) for j in range(5)) / 25


def test_scale_one_and_any_number_of_channels(tmp_path: Path) -> None:
    for channels in (1, 3, 4, 7):
        path = blur(tmp_path / f"{channels}.onnx", channels)
        image = drawing(40, 55, channels).astype(np.float32)
        with Engine(path, provider="cpu", tile=16) as e:
            assert (e.scale, e.margin) == (1, 2)
            assert np.abs(e.upscale(image) - convolved(image)).max() < 1e-6
            if channels > 3:
                with pytest.raises(ImageError, match=f"takes images of {channels} channels, got rgb"):
                    e.upscale(image[..., :3])


def test_a_four_channel_model_sees_alpha_as_a_channel(tmp_path: Path) -> None:
    image = quantise(drawing(30, 30, 4), np.uint8)
    with Engine(blur(tmp_path / "m.onnx", 4), provider="cpu", tile=16) as e:
        expected = quantise(convolved(image / 255), np.uint8)
        assert np.abs(e.upscale(image).astype(int) - expected).max() <= 1


def test_float16_models(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = [value(n, ["n", 1, "h", "w"], TensorProto.FLOAT16) for n in ("lr", "hr")]
    weights = {
        "w": kernel(rng, 4, 1, 3, 3).astype(np.float16),
        "v": kernel(rng, 4, 4, 3, 3).astype(np.float16),
    }
    nodes = [
        node("Conv", ["lr", "w"], ["a"], pads=[1] * 4), node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "v"], ["c"], pads=[1] * 4), node("DepthToSpace", ["c"], ["hr"], blocksize=2),
    ]  # fmt: skip
    path = save(tmp_path / "half.onnx", nodes, weights, inputs=kinds[:1], outputs=kinds[1:])
    assert spec.load(path)[1].facts.types == ("float16", "float16")
    assert [c.passed for c in verify(path)].count(False) == 0
    image = drawing(40, 50, 1).astype(np.float32)
    results = [Engine(path, provider="cpu", tile=tile).upscale(image) for tile in (512, 16)]
    assert results[0].dtype == np.float32
    assert np.abs(results[0] - results[1]).max() < 2e-3


def test_uint8_models_are_fed_and_read_in_bytes(tmp_path: Path) -> None:
    kinds = [value(n, ["n", 3, "h", "w"], TensorProto.UINT8) for n in ("lr", "hr")]
    nodes = [
        node("Cast", ["lr"], ["f"], to=TensorProto.FLOAT),
        node("Conv", ["f", "w"], ["c"], pads=[1] * 4, group=3),
        node("Round", ["c"], ["r"]), node("Clip", ["r", "zero", "top"], ["k"]),
        node("Cast", ["k"], ["hr"], to=TensorProto.UINT8),
    ]  # fmt: skip
    weights = {"w": np.full((3, 1, 3, 3), 1 / 9, np.float32), "zero": np.float32(0), "top": np.float32(255)}
    weights = {k: np.asarray(v) for k, v in weights.items()}
    path = save(tmp_path / "bytes.onnx", nodes, weights, inputs=kinds[:1], outputs=kinds[1:])
    image = quantise(drawing(33, 47), np.uint8)
    padded = np.pad(image.astype(np.float64), [(1, 1), (1, 1), (0, 0)])
    expected = sum(padded[i : i + 33, j : j + 47] for i in range(3) for j in range(3)) / 9
    for tile in (512, 8):
        with Engine(path, provider="cpu", tile=tile) as e:
            assert np.abs(e.upscale(image) - expected).max() <= 0.5001
    assert [c.passed for c in verify(path)].count(False) == 0


def test_value_ranges(tmp_path: Path) -> None:
    """A model that adds 10 shows in which range it was fed."""
    nodes, weights = [node("Add", ["lr", "ten"], ["hr"])], {"ten": np.array(10, np.float32)}
    path = save(tmp_path / "m.onnx", nodes, weights, channels=3, metadata=None)
    image = np.full((9, 9, 3), 0.5, np.float32)
    told = {
        None: 10, "0..255": 10 / 255, "-1..1": 5, "mean=0.5,0.5,0.5 std=0.1,0.2,0.4": (1, 2, 4),
    }  # fmt: skip
    for text, step in told.items():
        with Engine(path, provider="cpu", model_range=text) as e:
            assert np.allclose(e.upscale(image), 0.5 + np.array(step), atol=1e-5)
    for text in ("255", "1..0", "mean=1", "mean=1,2 std=1", "mean=0,0 std=0,1", "a..b", "mean=1 std=1 x=2"):
        with pytest.raises(ArgumentError, match="a value range is"):
            ValueRange.parse(text)
    with pytest.raises(ArgumentError, match="needs 1 or 3 numbers, got 2"):
        Engine(path, provider="cpu", model_range="mean=0,0 std=1,1")
    known = save(tmp_path / "k.onnx", nodes, weights, metadata={"srcnn_rt.range": "0..255"})
    for text in (None, "0..255"):  # the same range again is allowed
        with Engine(known, provider="cpu", model_range=text) as e:
            assert np.allclose(e.upscale(image[..., 0]), 0.5 + 10 / 255, atol=1e-6)
    with pytest.raises(ArgumentError, match=r"k: its metadata declare the range 0\.\.255, got -1\.\.1"):
        Engine(known, provider="cpu", model_range="-1..1")
    save(tmp_path / "b.onnx", [node("Relu", ["lr"], ["hr"])], {}, metadata={"srcnn_rt.range": "loud"})
    with pytest.raises(ModelError, match=r"b\.onnx: metadata srcnn_rt\.range: a value range is"):
        Engine(tmp_path / "b.onnx")


def test_what_a_model_calls_black_and_white_by_itself(tmp_path: Path) -> None:
    """The default range is studio swing for luminance, 0 to 1 for colour, and codes for uint8."""
    nodes, weights = [node("Add", ["lr", "ten"], ["hr"])], {"ten": np.array(10, np.float32)}
    image = np.full((9, 9), 0.5, np.float32)
    path = save(tmp_path / "y.onnx", nodes, weights, metadata=None)
    with Engine(path, provider="cpu") as e:
        assert e.spec.range == ValueRange((219 / 255,), (16 / 255,))
        assert not e.spec.range_declared
        assert np.allclose(e.upscale(image), 0.5 + 10 * 255 / 219, atol=1e-5)
    with Engine(path, provider="cpu", model_range="0..255") as e:
        assert np.allclose(e.upscale(image), 0.5 + 10 / 255, atol=1e-6)
    for channels, expected in ((1, ValueRange((219,), (16,))), (3, ValueRange((255,), (0,)))):
        ends = [value(n, ["n", channels, "h", "w"], TensorProto.UINT8) for n in ("lr", "hr")]
        copy = [node("Identity", ["lr"], ["hr"])]
        path = save(tmp_path / "b.onnx", copy, {}, inputs=ends[:1], outputs=ends[1:], metadata=None)
        assert spec.load(path)[1].range == expected
    same = save(tmp_path / "s.onnx", [node("Identity", ["lr"], ["hr"])], {}, metadata=None)
    assert spec.load(same)[1].equivariant
    for model in (same, "srcnn-915-x2", "bicubic-x2"):
        assert Engine(model, provider="cpu").spec.range == ValueRange()
        with pytest.raises(
            ArgumentError, match=r"takes every range of values: it is equivariant; omit 0\.\.1"
        ):
            Engine(model, provider="cpu", model_range="0..1")


def squeeze_and_excite(path: Path) -> Path:
    nodes = [
        node("Conv", ["lr", "w"], ["c"], pads=[1] * 4), node("GlobalAveragePool", ["c"], ["g"], "squeeze"),
        node("Mul", ["c", "g"], ["m"]), node("DepthToSpace", ["m"], ["hr"], blocksize=2),
    ]  # fmt: skip
    return save(path, nodes, {"w": np.full((4, 1, 3, 3), 0.2, np.float32)})


def test_a_model_of_unbounded_reach_runs_whole_only(tmp_path: Path) -> None:
    path = squeeze_and_excite(tmp_path / "se.onnx")
    with pytest.raises(ModelError, match=r"se\.onnx: node 'squeeze' \(GlobalAveragePool\)"):
        Engine(path, provider="cpu")
    image = drawing(70, 90, 1)[..., 0].astype(np.float32)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"lr": image[None, None]})
    with Engine(path, provider="cpu", tile=None) as e:
        assert e.scale == 2
        assert np.abs(e.upscale(image) - expected[0, 0]).max() < 1e-5
    Image.fromarray(quantise(image, np.uint8)).save(tmp_path / "a.png")
    words = ["upscale", str(tmp_path / "a.png"), "--model", str(path)]
    assert CliRunner().invoke(main, words).exit_code == 1
    assert CliRunner().invoke(main, [*words, "--no-tiling"]).exit_code == 0
    with Image.open(tmp_path / "a_x2.png") as result:
        assert result.size == (180, 140)


def test_whole_equals_tiled(tmp_path: Path) -> None:
    image = drawing(70, 90, 3).astype(np.float32)
    for model in ("srcnn-915-x2", blur(tmp_path / "m.onnx", 3)):
        with (
            Engine(model, provider="cpu", tile=None) as whole,
            Engine(model, provider="cpu", tile=16) as tiled,
        ):
            assert np.abs(whole.upscale(image) - tiled.upscale(image)).max() < 1e-5


def test_quantised_convolutions(tmp_path: Path) -> None:
    """QLinearConv on uint8, between Quantize and Dequantize."""
    rng = np.random.default_rng(0)
    weights = {
        "s": np.float32(1 / 255), "z": np.uint8(0), "w": rng.integers(-20, 21, (1, 1, 3, 3)).astype(np.int8),
        "ws": np.float32(0.01), "wz": np.int8(0), "os": np.float32(1 / 128), "oz": np.uint8(128),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["lr", "s", "z"], ["q"]),
        node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "os", "oz"], ["c"], pads=[1] * 4),
        node("DequantizeLinear", ["c", "os", "oz"], ["hr"]),
    ]
    path = save(tmp_path / "q.onnx", nodes, {k: np.asarray(v) for k, v in weights.items()})
    image = drawing(40, 41, 1)[..., 0].astype(np.float32)
    results = [Engine(path, provider="cpu", tile=tile).upscale(image) for tile in (512, 8, 13)]
    assert spec.load(path)[1].margin == 1
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()
    dynamic = node("DynamicQuantizeLinear", ["lr"], ["q", "a", "b"], "by_range")
    save(tmp_path / "d.onnx", [dynamic, node("DequantizeLinear", ["q", "a", "b"], ["hr"])], {})
    with pytest.raises(ModelError, match=r"'by_range' \(DynamicQuantizeLinear\)"):
        Engine(tmp_path / "d.onnx")


@pytest.mark.parametrize("cut", [1, 10, 100, 2000, 30_000])
def test_a_truncated_model_is_refused(tmp_path: Path, cut: int) -> None:
    data, _ = spec.load("srcnn-915-x2")
    (tmp_path / "m.onnx").write_bytes(data[: len(data) - cut])
    with pytest.raises(ModelError, match=r"m\.onnx: "):
        Engine(tmp_path / "m.onnx", provider="cpu")


def test_external_data_is_refused_where_it_points_elsewhere(tmp_path: Path) -> None:
    path = blur(tmp_path / "m.onnx", 1)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/w.bin").write_bytes(bytes(100_000))
    (tmp_path / "link.bin").symlink_to("sub/w.bin")
    os.mkfifo(tmp_path / "pipe.bin")
    elsewhere = ("../secret.bin", "/etc/passwd", "sub/w.bin", "sub\\w.bin", "link.bin", "pipe.bin")
    for location in (*elsewhere, "sub", ".", "", "a\0b"):
        proto = onnx.load(path, load_external_data=False)
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        (tmp_path / "x.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match=r"x\.onnx: weight 'w' is kept in another file"):
            Engine(tmp_path / "x.onnx", provider="cpu")
