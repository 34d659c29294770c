"""Graphs made ready for bfloat16, and OpenVINO, which runs them."""

from __future__ import annotations

import builtins
import functools
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from srcnn_rt import Engine, ModelError, ProviderError, precision, session_openvino, spec
from srcnn_rt.metrics import psnr
from srcnn_rt.models import bundled
from srcnn_rt.precision import ACCUMULATOR, Reduced, for_bfloat16, loss_db, round_together, to_bfloat16
from srcnn_rt.program import Program, prepare
from srcnn_rt.rewrite import optimise
from srcnn_rt.rewrite.phases import shuffle_enlargement
from srcnn_rt.session import Session
from srcnn_rt.session_openvino import OpenVinoSession, drawn, missing
from tests.conftest import TEST_MODEL, drawing
from tests.models import save, value
from tests.reference import quantise

Maker = Callable[..., tuple[Path, dict[str, object]]]
node = helper.make_node
WITHOUT, WITHOUT_BF16 = missing(bfloat16=False), missing(bfloat16=True)
needs_openvino = pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
needs_bfloat16 = pytest.mark.skipif(WITHOUT_BF16 is not None, reason=str(WITHOUT_BF16))
FAST = [name for name in bundled() if "deblur" not in name]  # which amplifies noise, and is refused


def kernel(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], channels: int = 1) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "test", [value("lr", ["n", channels, "h", "w"])], [value("hr", ["n", channels, "sh", "sw"])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: onnx.ModelProto, x: np.ndarray, **more: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"lr": x, **more})[0]


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
    monkeypatch.setattr(precision, "round_together", lambda weight: weight)
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
    first = (255 * to_bfloat16(kernel(rng, 8, 1, 5, 5))).astype(np.float32) / np.float32(256)
    weights = {"a": first, "ab": kernel(rng, 8), "d": kernel(rng, 1, 8, 3, 3), "db": kernel(rng, 1)}
    nodes = [
        node("Conv", ["lr", "a", "ab"], ["x"], pads=[pads] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "d", "db"], ["hr"], pads=[min(pads, 1)] * 4),
    ]  # fmt: skip
    return model(nodes, weights)


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
    monkeypatch.setattr(precision, "round_together", lambda weight: weight)
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
    weights = {"a": kernel(rng, 12, 3, 3, 3), "ab": kernel(rng, 12)}
    nodes = [
        node("Conv", ["lr", "a", "ab"], ["x"], pads=[1] * 4),
        node("DepthToSpace", ["x"], ["hr"], blocksize=2, mode=mode),
    ]
    proto = model(nodes, weights, 3)
    reduced = for_bfloat16(proto)
    assert (reduced.channels, reduced.block) == (12, 2)
    x = rng.random((1, 3, 8, 9), np.float32)
    constant = np.array([0.1, 0.2, 0.4])
    moved = run_reduced(reduced, x, constant) - run_reduced(reduced, x)
    assert np.abs(moved - constant[:, None, None]).max() < 1e-5


def test_sums_that_others_read_are_not_touched(rng: np.random.Generator) -> None:
    """A residual network's last Add reads its first layer, which is no place for the result's constant."""
    weights = {"a": kernel(rng, 4, 1, 3, 3), "b": kernel(rng, 4, 4, 3, 3)}
    body = [
        node("Conv", ["lr", "a"], ["x"], pads=[1] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "b"], ["z"], pads=[1] * 4),
    ]  # fmt: skip
    graph = model([*body, node("Add", ["x", "z"], ["hr"])], weights, 1)
    reduced = for_bfloat16(graph)
    assert reduced.channels == 4
    add = next(n for n in reduced.model.graph.node if ACCUMULATOR in n.input)
    assert add.output[0] == "z"
    twice = model([*body[:1], node("Add", ["x", "x"], ["hr"])], {"a": kernel(rng, 1, 1, 3, 3)}, 1)
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
    proto = model(nodes, {k: v.astype(np.float32) for k, v in weights.items()})
    result = shuffle_enlargement(proto)
    assert list(result.graph.node) != list(proto.graph.node)
    for shape in ((11, 12), (12, 10)):
        x = rng.integers(0, 4, (1, 1, *shape)).astype(np.float32)
        assert np.array_equal(run(proto, x), run(result, x))


# OpenVINO.


@pytest.fixture(scope="module")
def results() -> Callable[..., np.ndarray]:
    """Return what engines make of the drawing, each made once."""

    @functools.cache
    def make(name: str, dtype: str, **options: object) -> np.ndarray:
        picture = drawing(90, 110, 3)
        if dtype == "float32" and spec.load(name)[1].channels == 1:
            picture = picture[..., 0]
        picture = picture.astype(np.float32) if dtype == "float32" else quantise(picture, np.uint8)
        with Engine(name, **options) as e:
            return e.upscale(picture)

    return make


def codes_apart(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """Return the largest difference of two pictures and the share of equal samples."""
    difference = np.abs(a.astype(int) - b.astype(int))
    return int(difference.max()), float((difference == 0).mean())


@needs_openvino
@pytest.mark.parametrize("name", ["srcnn-915-x2", "srcnn-915-x3", "srcnn-955-x2", "srcnn-955-rgb-x3"])
def test_exact_is_exact_in_openvino_too(name: str, results: Callable[..., np.ndarray]) -> None:
    expected = results(name, "float32", provider="cpu")
    with Engine(name, "openvino", 64) as e:
        assert (e.provider, e.precision) == ("openvino", "exact")
    assert np.abs(results(name, "float32", provider="openvino", tile=64) - expected).max() <= 1e-5
    most, same = codes_apart(
        results(name, "uint8", provider="cpu"), results(name, "uint8", provider="openvino", tile=64)
    )
    assert most <= 1
    assert same >= 0.9999


@needs_bfloat16
@pytest.mark.parametrize("name", FAST)
def test_fast_is_close(name: str, results: Callable[..., np.ndarray]) -> None:
    exact = results(name, "float32", provider="cpu")
    error = results(name, "float32", precision="fast", tile=64) - exact
    assert np.sqrt(np.mean(error**2)) <= 1.2e-3
    most, same = codes_apart(
        results(name, "uint8", provider="cpu"), results(name, "uint8", precision="fast", tile=64)
    )
    assert most <= 3
    assert same >= 0.7


@needs_bfloat16
@pytest.mark.parametrize("name", ["srcnn-915-x2", "srcnn-915-x3", "srcnn-915-x4", "srcnn-955-x2"])
def test_fast_does_not_depend_on_the_tile(name: str, results: Callable[..., np.ndarray]) -> None:
    """Bit for bit where it was measured (AVX-512 BF16): kernels add in one order, whatever the window."""
    whole = results(name, "float32", precision="fast", tile=128)
    for tile in (9, 32, 64):
        assert np.array_equal(results(name, "float32", precision="fast", tile=tile), whole)
    assert np.array_equal(
        results(name, "uint8", precision="fast", tile=37), results(name, "uint8", precision="fast", tile=128)
    )


@needs_bfloat16
def test_fast_takes_openvino_where_nothing_else_is_asked_for() -> None:
    for provider in ("auto", "openvino"):
        with Engine(TEST_MODEL, provider, precision="fast") as e:
            assert (e.provider, e.precision) == ("openvino", "fast")


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_fast_is_openvinos(provider: str) -> None:
    with pytest.raises(ProviderError, match=f"offered by provider openvino, not by {provider}"):
        Engine(TEST_MODEL, provider, precision="fast")


@needs_bfloat16
def test_a_model_that_loses_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two large numbers whose difference is the picture: bfloat16 keeps nothing of it."""
    weights = {
        "a": np.full((2, 1, 1, 1), 40, np.float32),
        "d": np.array([1, -0.975], np.float32)[None, :, None, None],
    }
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Relu", ["x"], ["y"]), node("Conv", ["y", "d"], ["hr"])]
    path = save(tmp_path / "m.onnx", nodes, weights)
    with pytest.raises(
        ProviderError, match=r"m would lose about \d+\.\d\d dB in bfloat16, 0\.02 are allowed"
    ):
        Engine(path, precision="fast")
    Engine(path, "openvino").close()
    Engine(TEST_MODEL, precision="fast").close()
    monkeypatch.setattr(session_openvino, "LIMIT_DB", 0)
    with pytest.raises(
        ProviderError, match=f"precision fast cannot be used: {TEST_MODEL} would lose about 0"
    ):
        Engine(TEST_MODEL, precision="fast")


@needs_bfloat16
def test_a_model_of_another_range_is_judged_in_it(rng: np.random.Generator) -> None:
    """The same network for values in 0..255: it loses as little."""
    proto = spec.parse(spec.load(TEST_MODEL)[0])
    for t in proto.graph.initializer:
        if t.name.endswith(".bias"):
            t.CopyFrom(numpy_helper.from_array(255 * numpy_helper.to_array(t), t.name))
    picture = drawing(60, 50, 1)[..., 0].astype(np.float32)
    options = {"tile": 32, "value_range": "0..255"}
    data = proto.SerializeToString()
    with Engine(data, "cpu", **options) as exact, Engine(TEST_MODEL, "cpu", 32) as plain:
        expected = exact.upscale(picture)
        assert np.abs(expected - plain.upscale(picture)).max() <= 1e-5
    with Engine(data, precision="fast", **options) as fast:
        assert np.sqrt(np.mean((fast.upscale(picture) - expected) ** 2)) <= 1.5e-3


@needs_bfloat16
def test_a_model_of_fixed_size_and_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"a": kernel(rng, 16, 1, 5, 5), "d": kernel(rng, 1, 16, 5, 5) / 8}
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[2] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "d"], ["hr"], pads=[2] * 4),
    ]  # fmt: skip
    kinds = {"inputs": [value("lr", [2, 1, 40, 56])], "outputs": [value("hr", [2, 1, 40, 56])]}
    path = save(tmp_path / "m.onnx", nodes, weights, **kinds)
    picture = drawing(77, 61, 1)[..., 0].astype(np.float32)
    with Engine(path, "cpu", 16) as exact, Engine(path, precision="fast", tile=16) as fast:
        assert np.abs(fast.upscale(picture) - exact.upscale(picture)).max() <= 2e-2


@needs_openvino
def test_models_of_other_types_are_refused(tmp_path: Path) -> None:
    kinds = {
        "inputs": [value("lr", ["n", 1, "h", "w"], TensorProto.FLOAT16)],
        "outputs": [value("hr", ["n", 1, "h", "w"], TensorProto.FLOAT16)],
    }
    path = save(tmp_path / "m.onnx", [node("Relu", ["lr"], ["hr"])], {}, **kinds)
    with pytest.raises(ProviderError, match="provider openvino takes float32 models, got float16"):
        Engine(path, "openvino")


@needs_openvino
def test_failures_of_openvino_are_one_line() -> None:
    data, described = spec.load(TEST_MODEL)
    with pytest.raises(ModelError, match="OpenVINO cannot load the model") as caught:
        OpenVinoSession(Program(b"nothing", described, False))
    assert "\n" not in str(caught.value)
    session = OpenVinoSession(Program(data, described, False), 1)
    with pytest.raises(ModelError, match=r"OpenVINO cannot run the model on \(1, 1, 4, 4\)"):
        session.bind((1, 1, 4, 4), (1, 1, 8, 8))


@pytest.mark.parametrize("asked", [{"provider": "openvino"}, {"precision": "fast"}])
def test_a_missing_package_gives_the_line_to_type(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.split(".")[0] == "openvino":
            raise ImportError("No module named 'openvino'")
        return real(name, *rest, **more)

    monkeypatch.setattr(session_openvino, "_kept", [])
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    what = " ".join(next(iter(asked.items())))
    with pytest.raises(ProviderError, match=rf'{what} cannot be used: .*pip install "srcnn-rt\[openvino\]"'):
        Engine(TEST_MODEL, **asked)
    assert Engine(TEST_MODEL).provider in ("cpu", "cuda")


@needs_openvino
def test_a_processor_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    core = types.SimpleNamespace(get_property=lambda device, name: ["FP32", "INT8", "BIN"])
    monkeypatch.setattr(session_openvino, "_core", lambda: core)
    assert missing(bfloat16=False) is None
    with pytest.raises(
        ProviderError, match="precision fast cannot be used: this processor does not compute in"
    ):
        Engine(TEST_MODEL, precision="fast")


@needs_bfloat16
def test_several_threads_at_once() -> None:
    pictures = [drawing(40 + 7 * k, 90, 3, k).astype(np.float32) for k in range(6)]
    with Engine(TEST_MODEL, precision="fast", tile=32) as e:
        expected = [e.upscale(p) for p in pictures]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(2):
                for a, b in zip(pool.map(e.upscale, pictures), expected, strict=True):
                    assert np.array_equal(a, b)


@needs_bfloat16
@pytest.mark.parametrize("name", [TEST_MODEL, "srcnn-955-rgb-x3"])
def test_what_the_result_is_off_on_average_is_taken_away(name: str) -> None:
    """Of every channel, in the pictures by which it was measured."""
    ready = prepare(*spec.load(name))
    described = ready.spec
    session, exact = OpenVinoSession(ready, 1, fast=True), Session(ready.data, "cpu", 1)
    core = -(-session_openvino._CALIBRATION // described.period) * described.period
    n, s = core + 2 * described.margin, described.scale
    bound = session.bind((1, described.channels, n, n), (1, described.channels, s * core, s * core))
    errors = []
    for seed in range(2):
        bound.input[...] = drawn(n, seed)
        expected = exact.run(bound.input)
        bound.run()
        errors.append(bound.output - expected)
    assert np.abs(np.mean(errors, axis=(0, 1, 3, 4))).max() <= 1e-5
    assert np.sqrt(np.mean(np.square(errors))) <= 1.2e-3


@needs_bfloat16
def test_a_run_leaves_its_input_as_it_was() -> None:
    """A batch that is not full leaves windows in the buffer, and they must not grow."""
    data, described = spec.load(TEST_MODEL)
    session = OpenVinoSession(prepare(data, described), 1, fast=True)
    n = 2 * described.margin
    bound = session.bind((2, 1, n + 8, n + 8), (2, 1, 16, 16))
    bound.input[...] = drawn(n + 8, 0)
    before = bound.input.copy()
    bound.run()
    first = bound.output.copy()
    for _ in range(3):
        bound.run()
    assert np.array_equal(bound.input, before)
    assert np.array_equal(bound.output, first)


@needs_bfloat16
def test_many_batches_that_are_not_full() -> None:
    picture = drawing(300, 24, 1)[..., 0].astype(np.float32)
    with Engine(TEST_MODEL, precision="fast", tile=8) as fast, Engine(TEST_MODEL, "cpu") as exact:
        for _ in range(12):
            got = fast.upscale(picture)
        assert np.abs(got - exact.upscale(picture)).max() <= 1e-2


def test_pictures_for_the_calibration() -> None:
    a, b = drawn(96, 0), drawn(96, 1)
    assert np.array_equal(a, drawn(96, 0))
    assert not np.array_equal(a, b)
    for picture in (a, b):
        codes = picture * np.float32(255)
        assert picture.dtype == np.float32
        assert (picture.min(), picture.max()) >= (0, 0)
        assert picture.max() <= 1
        assert np.abs(codes - np.rint(codes)).max() < 1e-4
        assert np.corrcoef(picture[:, 1:].ravel(), picture[:, :-1].ravel())[0, 1] > 0.8
