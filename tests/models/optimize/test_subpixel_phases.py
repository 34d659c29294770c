"""Networks on an enlarged image, by phases: bit for bit the same as the file; mutants are caught."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from srcnn_rt.models import analysis, spec
from srcnn_rt.models.optimize import cpu_cost, subpixel_phases
from srcnn_rt.models.optimize.graph_edit import Conv
from srcnn_rt.models.optimize.node_builder import NodeBuilder
from srcnn_rt.models.optimize.subpixel_phases import fold_enlargement, shuffle_enlargement
from srcnn_rt.models.optimize.widen_narrow import shifted, widen_narrow
from srcnn_rt.models.prepare import network_program
from tests.helpers import models
from tests.helpers.models import Weights, enlarging_kernel, model, node
from tests.helpers.rewriting import agree, assert_left, blocks, integers, ops, rewritten, shapes, sparse

Maker = Callable[..., tuple[Path, dict[str, object]]]
run = functools.partial(models.run, optimised=True)  # like sessions


def like_bicubic(kernel: np.ndarray, scale: int) -> np.ndarray:
    """Return an enlarging kernel with only the taps that bicubic reads: four of five, or one."""
    kernel = kernel.reshape(-1, scale, scale, *kernel.shape[1:]).copy()
    for p in range(scale):
        if 2 * p + 1 == scale:
            reads = [2]
        else:
            first = math.floor((p + 0.5) / scale - 0.5) + 1
            reads = list(range(first, first + 4))
        unread = [k for k in range(5) if k not in reads]
        kernel[:, p, :, :, unread] = 0
        kernel[:, :, p, :, :, unread] = 0
    return kernel.reshape(-1, *kernel.shape[3:])


Between = Callable[[np.random.Generator, int], tuple[list[onnx.NodeProto], Weights, int]]


def conv_1x1(rng: np.random.Generator, width: int) -> tuple[list[onnx.NodeProto], Weights, int]:
    """Return ReLU, 1x1 to half the channels, ReLU, from tensor x to tensor y."""
    half = max(1, width // 2)
    nodes = [
        node("Relu", ["x"], ["xr"], "relu1"),
        node("Conv", ["xr", "b", "bb"], ["xc"], "conv2"),
        node("Relu", ["xc"], ["y"], "relu2"),
    ]
    return nodes, {"b": sparse(rng, half, width, 1, 1), "bb": integers(2, half) - 1}, half


def srcnn(
    scale: int,
    sizes: tuple[int, int] = (9, 5),
    channels: int = 1,
    width: int = 64,
    *,
    mode: str = "CRD",
    full: bool = False,
    up_bias: bool = False,
    between: Between = conv_1x1,
    after: tuple[list[onnx.NodeProto], Weights] | None = None,
    seed: int = 0,
    **more: object,
) -> onnx.ModelProto:
    """Return an unpadded model like this package's: enlargement, crop, layer, pointwise layers, layer."""
    rng = np.random.default_rng([seed, scale, *sizes, channels, width])
    kernel = np.tile(enlarging_kernel(rng, scale), (channels, 1, 1, 1))
    if not full:
        kernel = like_bicubic(kernel, scale)
    if mode == "DCR":  # the channels of one phase are adjacent
        kernel = kernel.reshape(channels, scale * scale, 1, 5, 5).swapaxes(0, 1).reshape(-1, 1, 5, 5)
    shrink = sum(k // 2 for k in sizes)
    cut = -shrink % scale
    middle, weights, inner = between(rng, width)
    weights |= {
        "k": kernel, "a": sparse(rng, width, channels, sizes[0], sizes[0]), "ab": integers(1, width) - 1,
        "d": sparse(rng, channels, inner, sizes[1], sizes[1], taps=12), "db": integers(3, channels) + 1,
    }  # fmt: skip
    group = channels
    if mode == "DCR":  # groups do not match phases, so the kernel is dense
        dense = np.zeros((len(kernel), channels, 5, 5), np.float32)
        for k in range(len(kernel)):
            dense[k, k % channels] = kernel[k, 0]
        weights["k"], group = dense, 1
    reads = ["lr", "k"]
    if up_bias:
        weights["kb"] = integers(4, len(kernel)) + 1
        reads.append("kb")
    nodes = [
        node("Conv", reads, ["p"], "up", group=group),
        node("DepthToSpace", ["p"], ["u"], "shuffle", blocksize=scale, mode=mode),
    ]
    last = "u"
    if cut:
        weights |= {"s": np.array([cut] * 2), "e": np.array([-cut] * 2), "axes": np.array([2, 3])}
        nodes.append(node("Slice", ["u", "s", "e", "axes"], ["v"], "crop"))
        last = "v"
    nodes += [node("Conv", [last, "a", "ab"], ["x"], "conv1"), *middle]
    tail, extra = after or ([], {})
    nodes += [node("Conv", ["y", "d", "db"], ["z" if tail else "hr"], "conv3"), *tail]
    return model(nodes, weights | extra, channels, **more)


def window(scale: int, stride: int, blocks: int, sizes: tuple[int, int] = (9, 5), spare: int = 0) -> int:
    """Return sizes in LR samples with whole blocks, and some with a remainder."""
    shrink = sum(k // 2 for k in sizes)
    return blocks * stride + 4 + 2 * math.ceil(shrink / scale) + spare


@pytest.fixture
def at_any_cost(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that forces the rewrite wherever it applies, with one stride."""

    def force(stride: int) -> None:
        monkeypatch.setattr(subpixel_phases, "_MAX_COST_RATIO", math.inf)
        monkeypatch.setattr(subpixel_phases, "LANES", 10**6)
        monkeypatch.setattr(subpixel_phases, "_STRIDES", (stride,))

    return force


# A network on an enlarged image, by phases.


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_phases_where_they_execute_less(scale: int, channels: int) -> None:
    proto = srcnn(scale, channels=channels)
    result = rewritten(fold_enlargement, proto)
    # A branch per phase: the first layer, the one between, the last; one shuffle at the end.
    (block,) = blocks(result)
    stride = block // scale
    assert ops(result).count("Conv") == 3 * scale**2
    assert ops(result).count("Relu") == 2 * scale**2
    assert ops(result).count("Add") == scale**2 - 1
    assert {s for shape, s in shapes(result) if shape[0] == channels * block**2} == {stride}
    assert cpu_cost.work(result).executed < cpu_cost.work(proto).executed
    a, b = analysis.analyse(proto), analysis.analyse(result)
    assert (b.kind, b.scale, b.margin, b.period) == (a.kind, a.scale, a.margin, stride)
    for seed, spare in enumerate(range(stride)):
        n, m = window(scale, stride, 3, spare=spare), window(scale, stride, 2)
        assert agree(proto, result, integers(seed, 2, channels, n, m), block)


@pytest.mark.parametrize(("scale", "taps"), [(2, {8}), (3, {6, 7}), (4, {6})])
def test_sizes_of_the_phases_kernels(scale: int, taps: set[int]) -> None:
    """An enlarged image holds no more information, so nine taps become fewer."""
    made = fold_enlargement(spec.parse(network_program(*spec.load(f"srcnn-915-x{scale}")).data))
    sizes = [shape[2:] for shape, _ in shapes(made) if shape[1] == 1]
    assert len(sizes) == scale**2
    assert {k for size in sizes for k in size} == taps


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("channels", [1, 3])
def test_phases_at_every_stride(
    at_any_cost: Callable[[int], None], scale: int, stride: int, mode: str, channels: int
) -> None:
    at_any_cost(stride)
    for sizes in ((9, 5), (5, 3)):
        proto = srcnn(scale, sizes, channels, 6, mode=mode, full=True, up_bias=True)
        result = rewritten(fold_enlargement, proto)
        assert blocks(result) == [scale * stride]
        x = integers(stride, 1, channels, window(scale, stride, 2, sizes, 1), window(scale, stride, 3, sizes))
        assert agree(proto, result, x, scale * stride)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(data=st.data(), scale=st.integers(2, 4), stride=st.integers(1, 3), inner=st.integers(1, 2))
def test_phases_of_any_shape(
    at_any_cost: Callable[[int], None], data: st.DataObject, scale: int, stride: int, inner: int
) -> None:
    """Kernels are not square and crops differ at each edge, as long as the result has whole blocks."""
    at_any_cost(stride)
    up, first, last = (
        data.draw(st.tuples(st.integers(1, n), st.integers(1, n)), name) for n, name in
        ((4, "enlarging"), (6, "first"), (5, "last"))
    )  # fmt: skip
    cut = data.draw(st.tuples(*[st.integers(0, 4)] * 4), "cut")
    assume(last != (1, 1))  # that would be a pointwise layer
    lost = [scale * (up[k] - 1) + cut[k] + cut[k + 2] + first[k] + last[k] - 2 for k in (0, 1)]
    assume(not any(n % scale for n in lost))
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    weights = {
        "k": rng.integers(-1, 2, (2 * scale**2, inner, *up)), "kb": rng.integers(-2, 3, 2 * scale**2),
        "a": rng.integers(-1, 2, (3, 2, *first)), "ab": rng.integers(-2, 3, 3),
        "d": rng.integers(-1, 2, (2, 3, *last)), "db": rng.integers(-2, 3, 2),
    }  # fmt: skip
    weights = {k: v.astype(np.float32) for k, v in weights.items()}
    ends = [-n if n else 2**31 - 1 for n in cut[2:]]
    weights |= {"s": np.array(cut[:2]), "e": np.array(ends), "axes": np.array([2, -1])}
    mode = data.draw(st.sampled_from(["CRD", "DCR"]), "mode")
    nodes = [
        node("Conv", ["lr", "k", "kb"], ["p"]),
        node("DepthToSpace", ["p"], ["u"], blocksize=scale, mode=mode),
        node("Slice", ["u", "s", "e", "axes"], ["v"]), node("Conv", ["v", "a", "ab"], ["x"]),
        node("Relu", ["x"], ["y"]), node("Conv", ["y", "d", "db"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, weights, inner)
    if len({n // scale for n in lost}) > 1:  # the engine refuses different margins
        size = [lost[k] // scale + 2 * stride for k in (0, 1)]
    else:
        size = [lost[k] // scale + 2 * stride + data.draw(st.integers(0, 2)) for k in (0, 1)]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # the analysis refuses asymmetric crops
        patch.setattr(subpixel_phases, "may_crop", lambda proto: True)
        result = rewritten(fold_enlargement, proto)
    assert blocks(result) == [scale * stride]
    assert agree(proto, result, integers(1, 1, inner, *size), scale * stride)


def chain(*steps: tuple[str, dict[str, object], Weights]) -> Between:
    """Return the nodes of pointwise operators in a chain from x to y."""

    def make(rng: np.random.Generator, width: int) -> tuple[list[onnx.NodeProto], Weights, int]:
        nodes, weights, last = [], {}, "x"
        for k, (op, attributes, constants) in enumerate(steps):
            target = "y" if k + 1 == len(steps) else f"x{k}"
            own = {f"{op}{k}.{name}": v for name, v in constants.items()}
            nodes.append(node(op, [last, *own], [target], f"{op}{k}", **attributes))
            weights |= own
            last = target
        return nodes, weights, width

    return make


def grouped(rng: np.random.Generator, width: int) -> tuple[list[onnx.NodeProto], Weights, int]:
    nodes = [node("Conv", ["x", "g", "gb"], ["x1"], group=2), node("Relu", ["x1"], ["y"])]
    return nodes, {"g": sparse(rng, width, width // 2, 1, 1, taps=3), "gb": integers(5, width) - 1}, width


SLOPES = np.arange(-1, 5, dtype=np.float32).reshape(6, 1, 1)
ONE = np.array(1, np.float32)
CHAINS: dict[str, Between] = {
    "PRelu": chain(("PRelu", {}, {"slope": SLOPES})),
    "LeakyRelu": chain(("LeakyRelu", {"alpha": 2.0}, {})),
    "Clip": chain(("Clip", {}, {"low": -3 * ONE, "high": 40 * ONE})),
    "Mul, Add": chain(("Mul", {}, {"m": SLOPES}), ("Add", {}, {"a": SLOPES[None]}), ("Abs", {}, {})),
    "Neg, Max, Sub": chain(("Neg", {}, {}), ("Max", {}, {"m": ONE}), ("Sub", {}, {"s": ONE[None]})),
    "1x1 of two groups": grouped,
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("scale", [2, 3])
def test_what_may_stand_between(at_any_cost: Callable[[int], None], name: str, scale: int) -> None:
    at_any_cost(2)
    proto = srcnn(scale, width=6, between=CHAINS[name])
    result = rewritten(fold_enlargement, proto)
    assert blocks(result) == [2 * scale]
    assert agree(proto, result, integers(0, 1, 1, window(scale, 2, 3, spare=1), 21), 2 * scale)


def test_what_may_follow(at_any_cost: Callable[[int], None]) -> None:
    at_any_cost(2)
    tail = [
        node("Mul", ["z", "two"], ["z1"]), node("Conv", ["z1", "mix"], ["z2"]),
        node("Clip", ["z2", "low", "high"], ["hr"]),
    ]  # fmt: skip
    mix = np.array([[1, -1, 0], [0, 1, 1], [2, 0, 1]], np.float32).reshape(3, 3, 1, 1)
    constants = {"two": 2 * ONE, "mix": mix, "low": -9 * ONE, "high": 99 * ONE}
    for channels in (1, 3):
        weights = constants | {"mix": mix[:channels, :channels]}
        proto = srcnn(2, channels=channels, width=6, after=(tail, weights))
        result = rewritten(fold_enlargement, proto)
        assert blocks(result) == [4]
        assert agree(proto, result, integers(0, 1, channels, 19, 22), 4)


def with_attributes(proto: onnx.ModelProto, name: str, **more: object) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    (target,) = (n for n in made.graph.node if n.name == name)
    target.attribute.extend(helper.make_attribute(k, v) for k, v in more.items())
    return made


def with_weight(proto: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    (target,) = (t for t in made.graph.initializer if t.name == name)
    target.CopyFrom(numpy_helper.from_array(array, name))
    return made


def test_phases_left_alone(at_any_cost: Callable[[int], None]) -> None:
    at_any_cost(1)
    plain = srcnn(2, width=6)
    assert blocks(fold_enlargement(plain)) == [2]  # each of the following is left for another reason
    for name in ("up", "conv1", "conv3"):
        assert_left(fold_enlargement, with_attributes(plain, name, pads=[1] * 4))
        assert_left(fold_enlargement, with_attributes(plain, name, dilations=[2, 2]))
        assert_left(fold_enlargement, with_attributes(plain, name, auto_pad="SAME_UPPER"))
        assert_left(fold_enlargement, with_attributes(plain, name, strides=[1, 2]))
    colours = srcnn(2, channels=2, width=6)
    assert blocks(fold_enlargement(colours)) == [2]
    halves = with_weight(colours, "a", np.ones((6, 1, 9, 9), np.float32))
    assert_left(fold_enlargement, with_attributes(halves, "conv1", group=2))
    for name in ("p", "u", "x", "y"):
        assert_left(fold_enlargement, srcnn(2, width=6, outputs=("hr", name)))
    # Crops of all but a fixed number, of rows that leave half an LR pixel, and of channels.
    cropped = srcnn(2, (9, 3), width=6)
    assert blocks(fold_enlargement(cropped)) == [2]
    assert_left(fold_enlargement, with_weight(cropped, "e", np.array([30, 30])))
    assert_left(fold_enlargement, with_weight(cropped, "s", np.array([2, 2])))
    assert_left(fold_enlargement, with_weight(cropped, "axes", np.array([1, 2])))
    # A constant that differs in every column.
    columns = chain(("Add", {}, {"a": np.zeros((1, 1, 1, 24), np.float32)}))
    assert_left(fold_enlargement, srcnn(2, width=6, between=columns, size=(20, 20)))


def test_two_users_are_left_alone(at_any_cost: Callable[[int], None]) -> None:
    at_any_cost(1)
    weights = {"k": integers(0, 4, 1, 3, 3), "a": integers(1, 2, 1, 3, 3), "d": integers(2, 2, 2, 3, 3)}
    nodes = [
        node("Conv", ["lr", "k"], ["p"]), node("DepthToSpace", ["p"], ["u"], blocksize=2),
        node("Conv", ["u", "a"], ["x"]), node("Conv", ["x", "d"], ["hr"]),
    ]  # fmt: skip
    assert blocks(fold_enlargement(model(nodes, weights))) == [2]
    assert len(fold_enlargement(model(nodes, weights)).graph.node) > 4
    for name in ("p", "u", "x", "hr"):
        reader, target = node("Relu", [name], ["more"]), node("Add", [name, "more"], ["end"])
        others = [n for n in nodes if name in n.input]
        made = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        for n in made:
            for k, source in enumerate(n.input):
                n.input[k] = "end" if source == name and others else source
        at = next(k for k, n in enumerate(made) if name in n.output) + 1
        made[at:at] = [reader, target]
        output = "end" if name == "hr" else "hr"
        assert_left(fold_enlargement, model(made, weights, outputs=(output,)))


def test_a_shuffle_that_knows_one_order_only_is_left(at_any_cost: Callable[[int], None]) -> None:
    """Before opset 11 DepthToSpace had no mode."""
    at_any_cost(1)
    proto = srcnn(2, mode="DCR", width=6)
    assert blocks(fold_enlargement(proto)) == [2]
    for opset in (9, 10):
        old = srcnn(2, mode="DCR", width=6, opset=opset)
        del old.graph.node[1].attribute[1]
        assert_left(fold_enlargement, old)
        assert_left(shuffle_enlargement, old)


def test_a_second_layer_that_looks_around_is_left(integer_model: Maker, at_any_cost) -> None:
    at_any_cost(1)
    for scale in (2, 3, 4):
        for sizes in ((9, 3, 5), (9, 5, 5)):
            assert_left(fold_enlargement, onnx.load(integer_model(scale, sizes)[0]))
        kept = onnx.load(integer_model(scale, (9, 1, 5))[0])
        assert len(fold_enlargement(kept).graph.node) > len(kept.graph.node)


def test_an_output_of_many_channels_has_no_block() -> None:
    """With five channels of 5 x 5 phases even one LR pixel is too wide a block."""
    assert_left(fold_enlargement, srcnn(5, (9, 3), 5))


def test_a_model_that_must_keep_its_size_is_rewritten_with_whole_lr_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models padded before the enlargement, or of fixed size, must not lose a cropped block."""
    monkeypatch.setattr(subpixel_phases, "_MAX_COST_RATIO", math.inf)
    free = srcnn(2)
    assert blocks(fold_enlargement(free)) == [4]
    fixed = srcnn(2, size=(23, 23))
    padded = onnx.ModelProto.FromString(free.SerializeToString())
    padded.graph.node[0].input[0] = "extended"
    padded.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 5, 5] * 2), "pads"))
    padded.graph.node.insert(0, node("Pad", ["lr", "pads"], ["extended"], mode="edge"))
    for proto, shape in ((fixed, (23, 23)), (padded, (17, 14)), (padded, (1, 2))):
        result = rewritten(fold_enlargement, proto)
        assert blocks(result) == [2]
        assert agree(proto, result, integers(0, 1, 1, *shape))
    assert_left(widen_narrow, fixed)


# Mutants: an error by one must be noticed.


def spoiled() -> bool:
    """Return whether the comparison notices a difference."""
    proto = srcnn(2, full=False, width=64)
    result = fold_enlargement(proto)
    assert blocks(result) == [4]
    return not agree(proto, result, integers(0, 1, 1, 18, 18), 4)


def test_the_machinery_of_the_mutants_is_innocent() -> None:
    assert not spoiled()


@pytest.mark.parametrize("branch", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_off_by_one_is_caught(monkeypatch: pytest.MonkeyPatch, branch: int, axis: int) -> None:
    real, calls = NodeBuilder.cut, []

    def wrong(self, x, before, after, **more):
        calls.append(before)
        if len(calls) == branch + 1:
            before, after = list(before), list(after)
            shift = 1 if after[axis] > 0 else -1  # the other way if nothing is left out behind it
            before[axis] += shift
            after[axis] -= shift
        return real(self, x, before, after, **more)

    monkeypatch.setattr(NodeBuilder, "cut", wrong)
    assert spoiled()
    assert len(calls) == 4


@pytest.mark.parametrize("branch", range(4))
@pytest.mark.parametrize("axis", [4, 5])
def test_a_phase_one_tap_off_is_caught(monkeypatch: pytest.MonkeyPatch, branch: int, axis: int) -> None:
    """The mutant changes the kernel built for one phase, not those built to estimate costs."""
    real, calls = subpixel_phases.phase_kernels, []

    def wrong(head, ys, xs):
        kernel, bias, low = real(head, ys, xs)
        calls.append(low)
        return (np.roll(kernel, 1, axis) if len(calls) % 4 == branch else kernel), bias, low

    monkeypatch.setattr(subpixel_phases, "phase_kernels", wrong)
    assert spoiled()


@pytest.mark.parametrize("branch", range(4))
def test_a_block_one_tap_off_is_caught(monkeypatch: pytest.MonkeyPatch, branch: int) -> None:
    y, x = divmod(branch, 2)

    def wrong(weight, block):
        made = shifted(weight, block)
        made[:, :, y::2, x::2] = np.roll(made[:, :, y::2, x::2], 1, axis=-1)
        return made

    monkeypatch.setattr(subpixel_phases, "shifted", wrong)
    assert spoiled()


def test_a_bias_given_once_a_phase_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Conv.make

    def wrong(self, edit, **more):
        if len(more["bias"]) < len(more["weight"]):  # no bias, in all branches but the first
            more["bias"] = np.ones(len(more["weight"]))
        return real(self, edit, **more)

    monkeypatch.setattr(Conv, "make", wrong)
    assert spoiled()


# The enlargement folded into the layer behind it, for all phases.


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
