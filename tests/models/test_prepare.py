"""The optimised graph gives the same as the file's own graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from srcnn_rt import Engine, ModelError
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.evaluation.seam_check import whole
from srcnn_rt.image import bicubic
from srcnn_rt.models import analysis, optimize, spec
from srcnn_rt.models import prepare as program
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.optimize.remove_bicubic import without_bicubic
from srcnn_rt.models.prepare import build_program
from srcnn_rt.models.spec import ValueRange
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.models import save, value

node = helper.make_node


def kernel(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)


def as_exported(data: bytes, image: np.ndarray) -> np.ndarray:
    """Run the file's own graph on the whole image in its range of values."""
    described = spec.load(data)[1]
    gain, offset = (np.array(v, np.float32) for v in (described.range.gain, described.range.offset))
    return (whole(Session(data, 1), described, image * gain + offset) - offset) / gain


@pytest.mark.parametrize("name", bundled())
def test_a_program_is_the_model_with_another_period(name: str) -> None:
    data, described = spec.load(name)
    ready = build_program(data, described)
    assert ready.rewritten
    assert ready.data != data
    facts = analysis.analyse(onnx.load_model_from_string(ready.data))
    new = ready.spec
    assert (new.margin, new.period) == (facts.margin, facts.period)
    assert (new.margin, new.facts.kind, new.scale) == (described.margin, "valid", described.scale)
    assert new.adds_bicubic == described.equivariant
    assert not described.adds_bicubic
    # All other facts are those of the file.
    for field in ("name", "architecture", "channels", "range", "parameters", "size", "training", "check"):
        assert getattr(new, field) == getattr(described, field)
    assert (new.facts.parameters, new.facts.macs) == (described.facts.parameters, described.facts.macs)
    assert build_program(data, described) == ready


def test_periods_are_those_of_the_blocks() -> None:
    periods = {name: build_program(*spec.load(name)).spec.period for name in bundled()}
    for name, scale in (("srcnn-915-x2", 2), ("srcnn-915-x3", 3), ("srcnn-915-x4", 4), ("srcnn-955-x3", 3)):
        proto = onnx.load_model_from_string(build_program(*spec.load(name)).data)
        (*_, shuffle) = (n for n in proto.graph.node if n.op_type == "DepthToSpace")
        block = next(a.i for a in shuffle.attribute if a.name == "blocksize")
        assert periods[name] == block // np.gcd(block, scale)


@pytest.mark.parametrize("name", [TEST_MODEL, f"{TEST_MODEL}-paper"])
def test_candidates_for_a_card_are_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a network that is added to bicubic every candidate is that network."""
    data, described = spec.load(name)
    found = program.candidates(data, described)
    assert {"file", "phases", "phases+unrolled", "blocks"} < set(found)
    base = without_bicubic(spec.parse(data), 2) if described.equivariant else spec.parse(data)
    assert list(found) == list(optimize.variants(base))
    made = program.network_program(data, described).data
    assert made == (base.SerializeToString() if described.equivariant else data)
    exact = Session(base.SerializeToString(), 1)
    assert found["phases"] == build_program(data, described)
    for ready in found.values():
        assert ready.spec.margin == described.margin
        assert ready.spec.adds_bicubic == described.equivariant
        n = 2 * ready.spec.margin + 4 * ready.spec.period
        x = np.random.default_rng(0).random((1, 1, n, n), np.float32)
        assert np.abs(Session(ready.data, 1).run(x) - exact.run(x)).max() <= 1e-5
    monkeypatch.setattr(program, "MAX_NODES", 3)
    assert program.candidates(data, described) == {"file": program.Program(data, described, False)}


def test_a_value_range_stays() -> None:
    data, described = spec.load(f"{TEST_MODEL}-paper")
    from dataclasses import replace

    ranged = replace(described, range=ValueRange.parse("0..255"))
    assert build_program(data, ranged).spec.range == ranged.range


def test_nothing_to_gain_leaves_the_file_as_it_is() -> None:
    for scale in (2, 3, 4):
        data, described = spec.load(f"bicubic-x{scale}")
        ready = build_program(data, described)
        assert not ready.rewritten
        assert ready.data is data
        assert ready.spec is described


def test_shapes_inside_a_file_are_nothing_to_gain() -> None:
    """Exporters write the shapes of all tensors, and a rewrite drops them."""
    proto = onnx.shape_inference.infer_shapes(bicubic.model(2))
    assert proto.graph.value_info
    data = proto.SerializeToString()
    ready = build_program(data, spec.describe(data, "m"))
    assert not ready.rewritten
    assert ready.data is data


def test_a_rewrite_that_changes_the_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "optimise", lambda model: bicubic.model(3))
    with pytest.raises(ModelError, match="a rewrite changed the model's kind, scale or channels"):
        build_program(*spec.load(TEST_MODEL))
    with pytest.raises(ModelError, match="a rewrite changed"):
        Engine(TEST_MODEL, provider="cpu")


@pytest.mark.parametrize("name", bundled())
def test_the_engine_gives_what_the_file_gives(name: str) -> None:
    data, described = spec.load(name)
    channels = described.channels
    with Engine(name, provider="cpu", tile=16) as e:
        assert e.spec.period == build_program(data, described).spec.period
        for shape in ((31, 42), (1, 1), (7, 19)):
            image = drawing(*shape, channels).astype(np.float32)
            # The file's windows need no whole blocks, but mirror the image too.
            expected = as_exported(data, image)
            got = e.upscale(image)
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def resizing(path: Path, mode: str, scale: int) -> Path:
    """Return SRCNN as third parties write it: Resize, 9x9, ReLU, 1x1, ReLU, 5x5 to one channel, padded."""
    rng = np.random.default_rng(scale)
    weights = {
        "scales": np.array([1, 1, scale, scale], np.float32), "a": kernel(rng, 16, 1, 9, 9),
        "b": kernel(rng, 8, 16, 1, 1), "d": kernel(rng, 1, 8, 5, 5), "db": np.array([0.1], np.float32),
    }  # fmt: skip
    nodes = [
        node("Resize", ["lr", "", "scales"], ["u"], mode=mode, cubic_coeff_a=-0.5),
        node("Conv", ["u", "a"], ["x"], pads=[4] * 4), node("Relu", ["x"], ["xr"]),
        node("Conv", ["xr", "b"], ["y"]), node("Relu", ["y"], ["yr"]),
        node("Conv", ["yr", "d", "db"], ["hr"], pads=[2] * 4),
    ]  # fmt: skip
    if mode == "linear":
        del nodes[0].attribute[0]
    return save(path, nodes, weights)


@pytest.mark.parametrize("mode", ["cubic", "linear"])
@pytest.mark.parametrize("scale", [2, 3])
def test_a_third_partys_resize(tmp_path: Path, mode: str, scale: int) -> None:
    path = resizing(tmp_path / "m.onnx", mode, scale)
    data, described = spec.load(path)
    ready = build_program(data, described)
    ops = [n.op_type for n in onnx.load_model_from_string(ready.data).graph.node]
    assert "Resize" not in ops
    assert ops.count("DepthToSpace") == 2  # the enlargement, and the last layer's blocks
    assert (ready.spec.facts.kind, ready.spec.scale) == ("padded", scale)
    session = Session(data, 1)
    for shape in ((45, 38), (5, 30), (1, 1)):
        image = drawing(*shape, 1)[..., 0].astype(np.float32)
        expected = session.run(image[None, None])[0, 0]
        for tile in (8, 13, 512):
            with Engine(path, provider="cpu", tile=tile) as e:
                assert np.abs(e.upscale(image) - expected).max() <= 1e-5


@pytest.mark.parametrize("size", [32, 33])
def test_a_model_of_fixed_size_keeps_it(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    weights = {"a": kernel(rng, 16, 1, 5, 5), "d": kernel(rng, 1, 16, 5, 5)}
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Relu", ["x"], ["y"]), node("Conv", ["y", "d"], ["hr"])]
    paths = [
        save(
            tmp_path / f"{kind}.onnx",
            nodes,
            weights,
            inputs=[value("lr", [1, 1, *dims])],
            outputs=[value("hr", [1, 1, *(n and n - 8 for n in dims)])],
        )
        for kind, dims in (("fixed", (size, size)), ("free", (None, None)))
    ]
    image = drawing(70, 51, 1)[..., 0].astype(np.float32)
    with (
        Engine(paths[0], provider="cpu", tile=16) as fixed,
        Engine(paths[1], provider="cpu", tile=16) as free,
    ):
        assert fixed.spec.facts.y.fixed == size
        assert free.spec.period > 1
        assert np.abs(fixed.upscale(image) - free.upscale(image)).max() <= 1e-6


def test_a_model_that_is_not_analysed_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receptive field is unbounded, so no rewrite can be checked against it."""
    rng = np.random.default_rng(0)
    weights = {"a": kernel(rng, 16, 1, 5, 5), "d": kernel(rng, 1, 16, 5, 5)}
    nodes = [
        node("GlobalAveragePool", ["lr"], ["mean"]), node("Sub", ["lr", "mean"], ["c"]),
        node("Conv", ["c", "a"], ["x"], pads=[2] * 4), node("Conv", ["x", "d"], ["hr"], pads=[2] * 4),
    ]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, weights)
    monkeypatch.setattr(program, "build_program", lambda *_: pytest.fail("prepared"))
    image = drawing(30, 21, 1)[..., 0].astype(np.float32)
    expected = Session(path.read_bytes(), 1).run(image[None, None])[0, 0]
    with Engine(path, provider="cpu", tile=None) as e:
        assert np.abs(e.upscale(image) - expected).max() <= 1e-6
