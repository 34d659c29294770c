"""Models with further inputs and outputs, channels-last images, or B, G, R."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from srcnn_rt import ArgumentError, Engine, ModelError
from srcnn_rt.cli import main
from srcnn_rt.evaluation.seam_check import verify
from srcnn_rt.models import spec
from srcnn_rt.models.analysis import InterfaceOptions
from tests.conftest import drawing
from tests.helpers.models import PLAIN, node, normal, run_all, value


def file_of(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> Path:
    tensors = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    made = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, PLAIN)
    onnx.save(proto, path)
    return path


def strength(path: Path, kind: int = TensorProto.FLOAT) -> Path:
    """lr + alpha · conv(lr), with a second output that is the detail alone."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Conv", ["lr", "w"], ["detail"], pads=[1] * 4),
        node("Cast", ["alpha"], ["a"], to=TensorProto.FLOAT),
        node("Mul", ["detail", "a"], ["more"]), node("Add", ["lr", "more"], ["hr"]),
    ]  # fmt: skip
    inputs = [value("lr", ["n", 3, "h", "w"]), value("alpha", [1], kind)]
    outputs = [value(name, ["n", 3, "h", "w"]) for name in ("hr", "detail")]
    return file_of(path, nodes, {"w": normal(rng, 3, 3, 3, 3)}, inputs, outputs)


def planes(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 0, 1)[None]


def test_a_fixed_input_and_one_of_two_outputs(tmp_path: Path) -> None:
    path = strength(tmp_path / "m.onnx")
    image = drawing(41, 37, 3).astype(np.float32)
    proto = onnx.load(path)
    for alpha in (0.0, 0.75):
        hr, detail = run_all(proto, planes(image), alpha=np.array([alpha], np.float32))
        for name, expected in (("hr", hr), ("detail", detail)):
            for tile in (8, 500):
                with Engine(path, provider="cpu", tile=tile, inputs={"alpha": alpha}, output=name) as engine:
                    got = engine.upscale(image)
                assert np.abs(planes(got) - expected).max() <= 1e-6
    assert all(c.passed is not False for c in verify(path, InterfaceOptions.of({"alpha": 0.5}, "hr", "rgb")))


def test_two_settings_are_two_jobs(tmp_path: Path) -> None:
    path = strength(tmp_path / "m.onnx")
    facts = []
    for alpha in (0.5, 0.75):
        with Engine(path, provider="cpu", inputs={"alpha": alpha}, output="hr") as engine:
            facts.append(engine._identity(None))
    assert facts[0] != facts[1]


def test_what_is_not_said_is_asked_for(tmp_path: Path) -> None:
    path = strength(tmp_path / "m.onnx", TensorProto.INT64)
    with pytest.raises(ModelError, match=r"got 'lr', 'alpha' and 'hr', 'detail'; --input NAME=VALUE"):
        spec.load(path)
    with pytest.raises(ArgumentError, match=r"m: the model has no input 'beta', only 'lr', 'alpha'"):
        Engine(path, inputs={"beta": 1})
    with pytest.raises(ArgumentError, match=r"m: the model has no output 'x', only 'hr', 'detail'"):
        Engine(path, output="x")
    with pytest.raises(ArgumentError, match=r"m: input 'alpha' takes int64, got 0\.5"):
        Engine(path, inputs={"alpha": 0.5}, output="hr")
    with pytest.raises(ArgumentError, match="channel_order must be one of rgb, bgr, got 'gbr'"):
        Engine(path, channel_order="gbr")
    Engine(path, provider="cpu", inputs={"alpha": 2}, output="hr").close()


@pytest.mark.parametrize("size", [("h", "w"), (24, 24)])
def test_channels_last(tmp_path: Path, size: tuple[object, object], rng: np.random.Generator) -> None:
    """Models of Keras and tf2onnx transpose, convolve and transpose back; no option is needed."""
    nodes = [
        node("Transpose", ["lr"], ["a"], perm=[0, 3, 1, 2]), node("Conv", ["a", "w"], ["b"], pads=[1] * 4),
        node("DepthToSpace", ["b"], ["c"], blocksize=2), node("Transpose", ["c"], ["hr"], perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    path = file_of(
        tmp_path / "m.onnx", nodes, {"w": normal(rng, 12, 3, 3, 3)},
        [value("lr", ["n", *size, 3])], [value("hr", ["n", "H", "W", 3])],
    )  # fmt: skip
    described = spec.load(path)[1]
    assert (described.channels, described.scale, described.margin) == (3, 2, 1)
    image = drawing(24, 24, 3).astype(np.float32)
    (expected,) = run_all(onnx.load(path), image[None])
    for tile in (8, 500):
        with Engine(path, provider="cpu", tile=tile) as engine:
            assert np.abs(engine.upscale(image) - expected[0]).max() <= 1e-6


def test_blue_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [node("Conv", ["lr", "w"], ["hr"], pads=[1] * 4)]
    ends = [value(name, ["n", 3, "h", "w"]) for name in ("lr", "hr")]
    path = file_of(tmp_path / "m.onnx", nodes, {"w": normal(rng, 3, 3, 3, 3)}, ends[:1], ends[1:])
    image = drawing(30, 25, 3).astype(np.float32)
    (expected,) = run_all(onnx.load(path), planes(image[..., ::-1]))
    with Engine(path, provider="cpu", tile=9, channel_order="bgr") as engine:
        assert np.abs(planes(engine.upscale(image)[..., ::-1]) - expected).max() <= 1e-6
    gray = file_of(
        tmp_path / "g.onnx", nodes, {"w": normal(rng, 1, 1, 3, 3)},
        [value("lr", ["n", 1, "h", "w"])], [value("hr", ["n", 1, "h", "w"])],
    )  # fmt: skip
    with pytest.raises(ArgumentError, match="needs a model of three channels"):
        Engine(gray, channel_order="bgr")


def test_on_the_command_line(tmp_path: Path) -> None:
    path = str(strength(tmp_path / "m.onnx"))
    said = ["--input", "alpha=0.5", "--output-name", "hr"]
    shown = CliRunner().invoke(main, ["inspect", path, "--json", *said])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["channels"] == 3
    for wrong in ("alpha", "alpha=x", "=1"):
        refused = CliRunner().invoke(main, ["inspect", path, "--input", wrong])
        assert refused.exit_code == 2
        assert "--input is NAME=VALUE" in refused.output
