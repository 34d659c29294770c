"""Graphs for bfloat16: correct rounding, and the same function of the image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from srcnn_rt.evaluation.metrics import psnr
from srcnn_rt.models import spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.low_precision import bfloat16
from srcnn_rt.models.low_precision.bfloat16 import Bfloat16Model, for_bfloat16, split_high_low
from srcnn_rt.models.low_precision.loss import loss_db, synthetic_image
from srcnn_rt.models.low_precision.rounding import round_together, to_bfloat16, to_float16
from srcnn_rt.models.optimize import optimise
from srcnn_rt.models.optimize.subpixel_phases import shuffle_enlargement
from srcnn_rt.models.prepare import build_program, network_program
from tests.conftest import FAST
from tests.helpers import models
from tests.helpers.models import model, node, normal

Maker = Callable[..., tuple[Path, dict[str, object]]]
run = functools.partial(models.run, optimised=True)  # like sessions


def run_reduced(reduced: Bfloat16Model, x: np.ndarray) -> np.ndarray:
    """Run a prepared graph in float32, fed like a session."""
    if not reduced.split_input:
        return run(reduced.model, x)
    fed = np.empty((x.shape[0], 2 * x.shape[1], *x.shape[2:]), np.float32)
    split_high_low(x, fed)
    return run(reduced.model, fed)


@functools.cache
def file_and_rewritten(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    data, described = spec.load(name)
    proto = spec.parse(network_program(data, described).data)
    return proto, optimise(proto)


def window(name: str, blocks: int = 4) -> int:
    """Return a size in LR samples that gives whole blocks."""
    described = build_program(*spec.load(name)).spec
    return 2 * described.margin + blocks * described.period


# Rounding.


def awkward() -> np.ndarray:
    """Return values of all magnitudes, ties between two bfloat16, and image samples."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    ties = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    found = np.concatenate([bits, ties, ties - np.uint32(1), ties + np.uint32(1)]).view(np.float32)
    found = found[np.isfinite(found) & (np.abs(found) < 3e38)]
    return np.concatenate([found, np.arange(256) - 127.5, np.arange(256) / 255]).astype(np.float32)


def test_rounding_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    values = awkward()
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float64).numpy()
    assert np.array_equal(to_bfloat16(values), expected)


def test_rounding_is_to_the_nearest_half_to_even() -> None:
    values = awkward()
    below = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    above = ((values.view(np.uint32) & np.uint32(0xFFFF0000)) + np.uint32(0x10000)).view(np.float32)
    down, up = (np.abs(v.astype(np.float64) - values) for v in (below, above))
    even = (below.view(np.uint32) >> np.uint32(16)) % 2 == 0
    expected = np.where((down < up) | ((down == up) & even), below, above)
    assert np.array_equal(to_bfloat16(values), expected.astype(np.float64))


def test_two_halves_hold_sixteen_bits() -> None:
    values = awkward()
    values = values[np.abs(values) < 1e38]
    count = len(values) // 2
    x = np.stack([values[:count], values[count : 2 * count]])[None, :, None]
    fed = np.full((1, 4, 1, count), np.nan, np.float32)
    split_high_low(x, fed)
    high, low = fed[:, :2], fed[:, 2:]
    assert np.array_equal(high + low, x)
    assert np.array_equal(to_bfloat16(high), high)
    left = np.abs(to_bfloat16(low) + high.astype(np.float64) - x)
    normal_ = np.abs(x) > 1e-30
    assert (left <= 2.0**-16 * np.abs(x))[normal_].all()


@pytest.mark.parametrize("rounding", [to_bfloat16, to_float16])
def test_sums_stay(rounding: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> None:
    """A filter that sums to zero hardly responds to an offset a thousand times larger than itself."""
    weight = rng.normal(size=(32, 1, 9, 9))
    weight -= weight.mean(axis=(2, 3), keepdims=True)
    alone, kept = (
        np.abs(w.sum(axis=(2, 3))).max() for w in (rounding(weight), round_together(weight, rounding))
    )
    assert kept < alone / 100


def excited(error: np.ndarray) -> np.ndarray:
    """eᵀ R e of every filter, for samples that are 0.95 to their neighbours."""
    kh, kw = error.shape[2:]
    rows, columns = (0.95 ** np.abs(np.subtract.outer(np.arange(k), np.arange(k))) for k in (kh, kw))
    return np.einsum("oiyx,yv,xu,oivu->oi", error, rows, columns, error)


@pytest.mark.parametrize("shape", [(64, 1, 8, 8), (16, 3, 9, 9), (5, 2, 1, 3), (3, 1, 1, 1)])
def test_weights_rounded_together_change_less(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    weight = rng.normal(size=shape) / 255
    before = weight.copy()
    together, alone = round_together(weight), to_bfloat16(weight)
    assert np.array_equal(weight, before)
    assert np.array_equal(to_bfloat16(together), together)
    assert np.abs(together - weight).max() <= 2**-5 * np.abs(weight).max()
    a, b = (excited(w - weight).sum() for w in (together, alone))
    if np.prod(shape[2:]) == 1:  # there are no taps to share an error with
        assert np.array_equal(together, alone)
    else:
        assert a < (b if 1 in shape[2:] else b / 2)


@pytest.mark.parametrize("name", [n for n in bundled() if "-915-" in n])
def test_first_layers_of_trained_models_change_less(name: str) -> None:
    proto = file_and_rewritten(name)[1]
    found = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    firsts = [found[n.input[1]] for n in proto.graph.node if n.op_type == "Conv"]
    firsts = [w / 255 for w in firsts if w.shape[1] == 1]
    together, alone = (sum(excited(f(w) - w).sum() for w in firsts) for f in (round_together, to_bfloat16))
    assert together < alone / 10


def test_weights_that_are_bfloat16_stay(rng: np.random.Generator) -> None:
    weight = to_bfloat16(rng.normal(size=(4, 2, 5, 5)))
    assert np.array_equal(round_together(weight), weight)


@pytest.mark.parametrize("rms", [0.0, 3e-4, 2e-3])
def test_loss_is_that_of_psnr(rms: float, rng: np.random.Generator) -> None:
    truth = rng.random((1500, 1500))
    result = truth + rng.normal(0, 0.012, truth.shape)
    noisy = result + rng.normal(0, rms, truth.shape)
    before, after = (psnr(255 * image, 255 * truth) for image in (result, noisy))
    assert loss_db(rms, before) == pytest.approx(before - after, abs=2e-3)
    assert loss_db(0.0, 38.0) == 0


# The prepared graph computes the same function.


@pytest.mark.parametrize("name", bundled())
def test_only_the_first_weights_are_changed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, proto = file_and_rewritten(name)
    before = proto.SerializeToString(deterministic=True)
    monkeypatch.setattr(bfloat16, "round_together", lambda weight: weight)
    reduced = for_bfloat16(proto)
    assert proto.SerializeToString(deterministic=True) == before
    assert reduced.split_input
    x = np.stack([synthetic_image(window(name), k) for k in range(spec.load(name)[1].channels)])[None]
    expected = run(file, x)
    assert np.abs(run_reduced(reduced, x) - expected).max() <= 5e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", FAST)
def test_rounded_first_weights_hardly_change_a_image(name: str) -> None:
    file, proto = file_and_rewritten(name)
    x = np.stack([synthetic_image(window(name, 8), k) for k in range(spec.load(name)[1].channels)])[None]
    error = run_reduced(for_bfloat16(proto), x) - run(file, x)
    assert np.sqrt(np.mean(error**2)) <= 8e-4
    # Nor does the mean of the image matter, which is a thousand codes away.
    away = run_reduced(for_bfloat16(proto), x + np.float32(4)) - run(file, x + np.float32(4))
    assert np.sqrt(np.mean(away**2)) <= 8e-4


def padded(rng: np.random.Generator, pads: int) -> onnx.ModelProto:
    """Return two layers whose first weights are exact in bfloat16."""
    first = to_bfloat16(normal(rng, 8, 1, 5, 5)).astype(np.float32)
    weights = {"a": first, "ab": normal(rng, 8), "d": normal(rng, 1, 8, 3, 3), "db": normal(rng, 1)}
    nodes = [
        node("Conv", ["lr", "a", "ab"], ["x"], pads=[pads] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "d", "db"], ["hr"], pads=[min(pads, 1)] * 4),
    ]  # fmt: skip
    return model(nodes, weights, out=1)


@pytest.mark.parametrize("pads", [0, 2])
def test_other_networks_are_fed_in_halves_too(pads: int, rng: np.random.Generator) -> None:
    proto, x = padded(rng, pads), rng.random((1, 1, 17, 22), np.float32)
    reduced = for_bfloat16(proto)
    assert reduced.split_input
    assert np.abs(run_reduced(reduced, x) - run(proto, x)).max() <= 1e-5


def test_another_first_operator_is_fed_as_it_is(rng: np.random.Generator) -> None:
    proto = padded(rng, 2)
    proto.graph.node[0].input[0] = "half"
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "number"))
    proto.graph.node.insert(0, node("Mul", ["lr", "number"], ["half"]))
    skip = padded(rng, 2)  # one of two readers is no convolution
    skip.graph.node[-1].output[0] = "residual"
    skip.graph.node.append(node("Add", ["lr", "residual"], ["hr"]))
    x = rng.random((1, 1, 17, 22), np.float32)
    for made in (proto, skip):
        reduced = for_bfloat16(made)
        assert not reduced.split_input
        assert np.abs(run_reduced(reduced, x) - run(made, x)).max() <= 1e-6


# The enlargement folded into the layer behind it.


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(9, 1, 5), (9, 3, 5), (9, 5, 5), (5, 1, 3), (3, 1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_layer_for_all_phases(
    integer_model: Maker, scale: int, sizes: tuple[int, ...], channels: int, rng: np.random.Generator
) -> None:
    """The result has the same rows and columns, also if the first layer leaves a part of an LR pixel."""
    proto = onnx.load(integer_model(scale, sizes, channels)[0])
    before = proto.SerializeToString(deterministic=True)
    result = shuffle_enlargement(proto)
    assert proto.SerializeToString(deterministic=True) == before
    ops = [n.op_type for n in result.graph.node]
    assert ops.index("Conv") < ops.index("Relu") < ops.index("DepthToSpace")
    assert ops.count("Conv") == 3
    cut = next((n for n in proto.graph.node if n.op_type == "Slice"), None)
    spare = (sizes[0] - 1) % scale  # a crop is the same on both sides
    if cut is None:
        assert ("Slice" in ops[ops.index("DepthToSpace") :]) == bool(spare)
    for shape in ((19, 22), (20, 23)):
        x = rng.integers(0, 4, (2, channels, *shape)).astype(np.float32)
        assert np.array_equal(run(proto, x), run(result, x))


@pytest.mark.parametrize("behind", ["nothing", "PRelu", "two readers", "output"])
@pytest.mark.parametrize("scale", [2, 3])
def test_what_may_stand_behind_all_phases(behind: str, scale: int, rng: np.random.Generator) -> None:
    weights = {
        "k": rng.integers(-1, 2, (2 * scale**2, 1, 4, 3)), "kb": rng.integers(-2, 3, 2 * scale**2),
        "a": rng.integers(-1, 2, (1, 2, 6, 4)), "d": rng.integers(-1, 2, (1, 1, 3, 2)),
        "slope": np.array([[[2]]]),
    }  # fmt: skip
    nodes = [
        node("Conv", ["lr", "k", "kb"], ["p"]), node("DepthToSpace", ["p"], ["u"], blocksize=scale),
        node("Conv", ["u", "a"], ["hr" if behind == "output" else "x"]),
    ]  # fmt: skip
    match behind:
        case "nothing":
            nodes.append(node("Conv", ["x", "d"], ["hr"]))
        case "PRelu":
            nodes += [node("PRelu", ["x", "slope"], ["y"]), node("Conv", ["y", "d"], ["hr"])]
        case "two readers":
            nodes += [node("Relu", ["x"], ["y"]), node("Sub", ["x", "y"], ["hr"])]
    proto = model(nodes, {k: v.astype(np.float32) for k, v in weights.items()}, out=1)
    result = shuffle_enlargement(proto)
    assert list(result.graph.node) != list(proto.graph.node)
    for shape in ((11, 12), (12, 10)):
        x = rng.integers(0, 4, (1, 1, *shape)).astype(np.float32)
        assert np.array_equal(run(proto, x), run(result, x))
