"""Graphs made ready for bfloat16: rounded as said, and the same function of the picture."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from srcnn_rt import spec
from srcnn_rt.metrics import psnr
from srcnn_rt.models import bundled
from srcnn_rt.precision import feeding
from srcnn_rt.precision.bfloat16 import ACCUMULATOR, Reduced, for_bfloat16
from srcnn_rt.precision.loss import drawn, loss_db
from srcnn_rt.precision.rounding import round_together, to_bfloat16
from srcnn_rt.program import prepare
from srcnn_rt.rewrite import optimise
from srcnn_rt.rewrite.phases import shuffle_enlargement
from tests import models
from tests.conftest import FAST
from tests.models import model, node, normal

Maker = Callable[..., tuple[Path, dict[str, object]]]
run = functools.partial(models.run, optimised=True)  # as sessions do


def run_reduced(reduced: Reduced, x: np.ndarray, constant: np.ndarray | None = None) -> np.ndarray:
    """Run a prepared graph in float32 as a session feeds it, with numbers added to the output's channels."""
    fed = np.float32(reduced.gain) * x + np.float32(reduced.offset)
    if not reduced.channels:
        return run(reduced.model, fed)
    values = np.zeros(x.shape[1]) if constant is None else constant
    # The shape follows from the output's, which a run with what broadcasts tells.
    one = np.zeros((1, reduced.channels, 1, 1), np.float32)
    h, w = (n // reduced.block for n in run(reduced.model, fed, **{ACCUMULATOR: one}).shape[2:])
    sums = np.empty((len(x), reduced.channels, h, w), np.float32)
    sums[...] = reduced.spread(values)[:, None, None]
    return run(reduced.model, fed, **{ACCUMULATOR: sums})


@functools.cache
def file_and_rewritten(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    proto = spec.parse(spec.load(name)[0])
    return proto, optimise(proto)


def window(name: str, blocks: int = 4) -> int:
    """LR samples that give whole blocks of every bundled model."""
    described = prepare(*spec.load(name)).spec
    return 2 * described.margin + blocks * described.period


# Rounding.


def awkward() -> np.ndarray:
    """Numbers of all sizes, ties between two bfloat16, what a picture holds."""
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


def test_eight_bit_codes_are_exact_as_they_are_fed() -> None:
    codes = np.arange(256) / np.float32(255)
    fed = np.float32(255) * codes.astype(np.float32) - np.float32(127.5)
    assert np.array_equal(to_bfloat16(fed), np.arange(256) - 127.5)


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
    assert np.abs(together - weight).max() <= 2**-6 * np.abs(weight).max()
    a, b = (excited(w - weight).sum() for w in (together, alone))
    if np.prod(shape[2:]) == 1:  # nothing to share an error with
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
    before, after = (psnr(255 * picture, 255 * truth) for picture in (result, noisy))
    assert loss_db(rms, before) == pytest.approx(before - after, abs=2e-3)
    assert loss_db(0.0, 38.0) == 0


# The prepared graph computes the same function.


@pytest.mark.parametrize("name", bundled())
def test_only_the_first_weights_are_changed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, proto = file_and_rewritten(name)
    before = proto.SerializeToString(deterministic=True)
    monkeypatch.setattr(feeding, "round_together", lambda weight, _: weight)
    reduced = for_bfloat16(proto)
    assert proto.SerializeToString(deterministic=True) == before
    channels = spec.load(name)[1].channels
    x = np.stack([drawn(window(name), k) for k in range(channels)])[None]
    expected = run(file, x)
    assert (reduced.gain, reduced.offset) == (255, -127.5)
    assert reduced.channels == channels * reduced.block**2 > 0
    # Sums of codes around 0 in place of sums of values in [0, 1]: other roundings.
    assert np.abs(run_reduced(reduced, x) - expected).max() <= 5e-6 * max(1, np.abs(expected).max())
    # What is given with the sums is added to the picture.
    constant = np.linspace(0.25, 0.5, channels)
    moved = run_reduced(reduced, x, constant) - constant[:, None, None]
    assert np.abs(moved - expected).max() <= 5e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", FAST)
def test_rounded_first_weights_hardly_change_a_picture(name: str) -> None:
    file, proto = file_and_rewritten(name)
    x = np.stack([drawn(window(name, 8), k) for k in range(spec.load(name)[1].channels)])[None]
    error = run_reduced(for_bfloat16(proto), x) - run(file, x)
    assert np.sqrt(np.mean(error**2)) <= 8e-4


def padded(rng: np.random.Generator, pads: int) -> onnx.ModelProto:
    """Two layers whose first weights are 255 times what bfloat16 holds."""
    first = (255 * to_bfloat16(normal(rng, 8, 1, 5, 5))).astype(np.float32) / np.float32(256)
    weights = {"a": first, "ab": normal(rng, 8), "d": normal(rng, 1, 8, 3, 3), "db": normal(rng, 1)}
    nodes = [
        node("Conv", ["lr", "a", "ab"], ["x"], pads=[pads] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "d", "db"], ["hr"], pads=[min(pads, 1)] * 4),
    ]  # fmt: skip
    return model(nodes, weights, out=1)


def test_a_layer_that_pads_keeps_zero(rng: np.random.Generator) -> None:
    """What it reads outside is 0, which must be the picture's own 0."""
    proto, x = padded(rng, 2), rng.random((1, 1, 17, 22), np.float32)
    reduced = for_bfloat16(proto)
    assert (reduced.gain, reduced.offset, reduced.channels, reduced.block) == (255, 0, 1, 1)
    assert np.abs(run_reduced(reduced, x) - run(proto, x)).max() <= 1e-5
    unpadded = padded(rng, 0)
    reduced = for_bfloat16(unpadded)
    assert (reduced.gain, reduced.offset) == (255, -127.5)
    assert np.abs(run_reduced(reduced, x) - run(unpadded, x)).max() <= 1e-5


@pytest.mark.parametrize(("black", "white"), [(0, 255), (-1, 1), (0.25, 0.75)])
def test_other_ranges_are_fed_as_codes_too(
    black: float, white: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "round_together", lambda weight, _: weight)
    proto = padded(rng, 0)
    codes = rng.integers(0, 256, (1, 1, 17, 22))
    x = (codes / 255 * (white - black) + black).astype(np.float32)
    reduced = for_bfloat16(proto, black, white)
    fed = np.float32(reduced.gain) * x + np.float32(reduced.offset)
    assert np.array_equal(to_bfloat16(fed), codes - 127.5)
    expected = run(proto, x)
    assert np.abs(run_reduced(reduced, x) - expected).max() <= 1e-5 * np.abs(expected).max()


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
        assert (reduced.gain, reduced.offset) == (1, 0)
        assert np.abs(run_reduced(reduced, x) - run(made, x)).max() <= 1e-6
        assert reduced.channels == 1
        constant = np.array([0.25])
        assert np.abs(run_reduced(reduced, x, constant) - 0.25 - run(made, x)).max() <= 1e-6


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_either_order_of_shuffle_at_the_end(mode: str, rng: np.random.Generator) -> None:
    """What is added goes to the channel it was measured in."""
    weights = {"a": normal(rng, 12, 3, 3, 3), "ab": normal(rng, 12)}
    nodes = [
        node("Conv", ["lr", "a", "ab"], ["x"], pads=[1] * 4),
        node("DepthToSpace", ["x"], ["hr"], blocksize=2, mode=mode),
    ]
    proto = model(nodes, weights, 3, out=3)
    reduced = for_bfloat16(proto)
    assert (reduced.channels, reduced.block) == (12, 2)
    x = rng.random((1, 3, 8, 9), np.float32)
    constant = np.array([0.1, 0.2, 0.4])
    moved = run_reduced(reduced, x, constant) - run_reduced(reduced, x)
    assert np.abs(moved - constant[:, None, None]).max() < 1e-5


def test_sums_that_others_read_are_not_touched(rng: np.random.Generator) -> None:
    """A residual network's last Add reads its first layer, which is no place for the result's constant."""
    weights = {"a": normal(rng, 4, 1, 3, 3), "b": normal(rng, 4, 4, 3, 3)}
    body = [
        node("Conv", ["lr", "a"], ["x"], pads=[1] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "b"], ["z"], pads=[1] * 4),
    ]  # fmt: skip
    graph = model([*body, node("Add", ["x", "z"], ["hr"])], weights, out=1)
    reduced = for_bfloat16(graph)
    assert reduced.channels == 4
    add = next(n for n in reduced.model.graph.node if ACCUMULATOR in n.input)
    assert add.output[0] == "z"
    twice = model([*body[:1], node("Add", ["x", "x"], ["hr"])], {"a": normal(rng, 1, 1, 3, 3)}, out=1)
    assert for_bfloat16(twice).channels == 0


def test_an_end_that_is_no_layer_has_no_sums(rng: np.random.Generator) -> None:
    proto = padded(rng, 2)
    proto.graph.node[-1].output[0] = "z"
    proto.graph.node.append(node("Relu", ["z"], ["hr"]))
    reduced = for_bfloat16(proto)
    assert reduced.channels == 0
    assert [v.name for v in reduced.model.graph.input] == ["lr"]
    x = rng.random((1, 1, 17, 22), np.float32)
    assert np.abs(run_reduced(reduced, x) - run(proto, x)).max() <= 1e-5


def test_every_layer_has_a_bias_of_its_own() -> None:
    for name in ("srcnn-915-x2", "srcnn-915-x3"):
        proto = file_and_rewritten(name)[1]

        def biases(proto: onnx.ModelProto) -> list[str]:
            return [n.input[2] for n in proto.graph.node if n.op_type == "Conv" and len(n.input) > 2]

        assert len(set(biases(proto))) < len(biases(proto))
        made = biases(for_bfloat16(proto).model)
        assert len(set(made)) == len(made) == len(biases(proto))


# The enlargement and the layer behind it as one.


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(9, 1, 5), (9, 3, 5), (9, 5, 5), (5, 1, 3), (3, 1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_layer_for_all_phases(
    integer_model: Maker, scale: int, sizes: tuple[int, ...], channels: int, rng: np.random.Generator
) -> None:
    """The same rows and columns, also where the first layer leaves a part of an LR pixel."""
    proto = onnx.load(integer_model(scale, sizes, channels)[0])
    before = proto.SerializeToString(deterministic=True)
    result = shuffle_enlargement(proto)
    assert proto.SerializeToString(deterministic=True) == before
    ops = [n.op_type for n in result.graph.node]
    assert ops.index("Conv") < ops.index("Relu") < ops.index("DepthToSpace")
    assert ops.count("Conv") == 3
    cut = next((n for n in proto.graph.node if n.op_type == "Slice"), None)
    spare = (sizes[0] - 1) % scale  # a cut is the same on both sides
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
