"""Blocks of narrow convolutions and networks by phases: bit for bit what the file computes.

Weights are small integers, so sums stay exact in float32 in any order; a rewritten graph may
leave out rows and columns beyond its last whole block, and nothing else. The mutants at the
end must be caught.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from srcnn_rt import Engine, graph, spec
from srcnn_rt.models import bundled
from srcnn_rt.rewrite import cost, narrow, optimise, phases
from srcnn_rt.rewrite.edit import Conv
from srcnn_rt.rewrite.narrow import best_block, block_cost, shifted, widen_narrow
from srcnn_rt.rewrite.phases import fold_enlargement, shuffle_enlargement
from tests.models import enlarging_kernel, value

Maker = Callable[..., tuple[Path, dict[str, object]]]
Weights = dict[str, np.ndarray]
node = helper.make_node
SIZES = [(9, 1, 5), (9, 3, 5), (9, 5, 5), (5, 1, 3)]


def model(
    nodes: list[onnx.NodeProto],
    weights: Weights,
    channels: int = 1,
    *,
    out: int | None = None,
    opset: int = 17,
    outputs: tuple[str, ...] = ("hr",),
    size: tuple[object, object] = ("h", "w"),
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "test",
        [value("lr", ["n", channels, *size])],
        [value(name, ["n", out if out else f"c_{name}", f"h_{name}", f"w_{name}"]) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": x})[0]


def ops(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in proto.graph.node)


def blocks(proto: onnx.ModelProto) -> list[int]:
    """Block sizes of all DepthToSpace, in order."""
    return [attribute(n, "blocksize") for n in proto.graph.node if n.op_type == "DepthToSpace"]


def attribute(n: onnx.NodeProto, name: str) -> object:
    return next(helper.get_attribute_value(a) for a in n.attribute if a.name == name)


def shapes(proto: onnx.ModelProto) -> list[tuple[tuple[int, ...], int]]:
    """(weight shape, stride) of every Conv."""
    dims = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    found = []
    for n in proto.graph.node:
        if n.op_type == "Conv":
            strides = [a for a in n.attribute if a.name == "strides"]
            found.append((dims[n.input[1]], strides[0].ints[0] if strides else 1))
    return found


def rewritten(
    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto], proto: onnx.ModelProto
) -> onnx.ModelProto:
    """Rewrite, and see to it that the original stays and the result is a sound graph."""
    before = proto.SerializeToString(deterministic=True)
    result = rewrite(proto)
    assert proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result, full_check=True)
    names = [n.name for n in result.graph.node if n.name]
    assert len(names) == len(set(names))
    assert {t.name for t in result.graph.initializer} <= {i for n in result.graph.node for i in n.input}
    return result


def assert_left(rewrite: Callable[[onnx.ModelProto], onnx.ModelProto], proto: onnx.ModelProto) -> None:
    assert list(rewritten(rewrite, proto).graph.node) == list(proto.graph.node)


def integers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, 4, shape).astype(np.float32)


def agree(proto: onnx.ModelProto, result: onnx.ModelProto, x: np.ndarray, block: int = 1) -> bool:
    """Whether the result is the original's, cut to whole blocks, bit for bit."""
    a, b = run(proto, x), run(result, x)
    assert np.abs(a).max(initial=0) < 2**24
    h, w = (n // block * block for n in a.shape[2:])
    return b.shape == (*a.shape[:2], h, w) and np.array_equal(a[:, :, :h, :w], b)


def sparse(rng: np.random.Generator, *shape: int, taps: int = 6) -> np.ndarray:
    """Weights -1, 0, 1 with few of them a filter, a corner of the kernel always among them."""
    made = np.zeros(shape, np.float32)
    for k, row in enumerate(made.reshape(shape[0], -1)):
        places = rng.integers(0, row.size, taps)
        places[0] = (0, row.size - 1)[k % 2]
        row[places] = rng.choice([-1, 1], taps)
    return made


def like_bicubic(kernel: np.ndarray, scale: int) -> np.ndarray:
    """An enlarging kernel without the taps that bicubic does not read: four of five, or one."""
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
    """ReLU, 1x1 to half as many, ReLU: from tensor x to tensor y."""
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
    """An unpadded model as this package's: enlarge, cut, a layer, pointwise ones, a layer."""
    rng = np.random.default_rng([seed, scale, *sizes, channels, width])
    kernel = np.tile(enlarging_kernel(rng, scale), (channels, 1, 1, 1))
    if not full:
        kernel = like_bicubic(kernel, scale)
    if mode == "DCR":  # channels of one phase stand together
        kernel = kernel.reshape(channels, scale * scale, 1, 5, 5).swapaxes(0, 1).reshape(-1, 1, 5, 5)
    shrink = sum(k // 2 for k in sizes)
    cut = -shrink % scale
    middle, weights, inner = between(rng, width)
    weights |= {
        "k": kernel, "a": sparse(rng, width, channels, sizes[0], sizes[0]), "ab": integers(1, width) - 1,
        "d": sparse(rng, channels, inner, sizes[1], sizes[1], taps=12), "db": integers(3, channels) + 1,
    }  # fmt: skip
    group = channels
    if mode == "DCR":  # a group is not a phase's channels: dense, for the same function
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
    """LR samples that give so many whole blocks, and some that give none."""
    shrink = sum(k // 2 for k in sizes)
    return blocks * stride + 4 + 2 * math.ceil(shrink / scale) + spare


@pytest.fixture
def at_any_cost(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what makes the phases' rewrite apply wherever it can, with one stride."""

    def force(stride: int) -> None:
        monkeypatch.setattr(phases, "_WORTH", math.inf)
        monkeypatch.setattr(phases, "LANES", 10**6)
        monkeypatch.setattr(phases, "_STRIDES", (stride,))

    return force


# A network on an enlarged picture, by phases.


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_phases_where_they_execute_less(scale: int, channels: int) -> None:
    proto = srcnn(scale, channels=channels)
    result = rewritten(fold_enlargement, proto)
    # A branch for each phase: the first layer, the one between, the last; one shuffle at the end.
    (block,) = blocks(result)
    stride = block // scale
    assert ops(result)["Conv"] == 3 * scale**2
    assert ops(result)["Relu"] == 2 * scale**2
    assert ops(result)["Add"] == scale**2 - 1
    assert {s for shape, s in shapes(result) if shape[0] == channels * block**2} == {stride}
    assert cost.work(result).executed < cost.work(proto).executed
    a, b = graph.analyse(proto), graph.analyse(result)
    assert (b.kind, b.scale, b.margin, b.period) == (a.kind, a.scale, a.margin, stride)
    for seed, spare in enumerate(range(stride)):
        n, m = window(scale, stride, 3, spare=spare), window(scale, stride, 2)
        assert agree(proto, result, integers(seed, 2, channels, n, m), block)


@pytest.mark.parametrize(("scale", "taps"), [(2, {8}), (3, {6, 7}), (4, {6})])
def test_sizes_of_the_phases_kernels(scale: int, taps: set[int]) -> None:
    """An enlarged picture holds no more samples, so nine taps become fewer."""
    made = fold_enlargement(spec.parse(spec.load(f"srcnn-915-x{scale}")[0]))
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
    """Kernels that are no squares, and other cuts at each edge, as long as blocks come out."""
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
    if len({n // scale for n in lost}) > 1:  # margins that differ are no model of this package's
        size = [lost[k] // scale + 2 * stride for k in (0, 1)]
    else:
        size = [lost[k] // scale + 2 * stride + data.draw(st.integers(0, 2)) for k in (0, 1)]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # asymmetric cuts have no margin, which the engine would refuse
        patch.setattr(phases, "may_crop", lambda proto: True)
        result = rewritten(fold_enlargement, proto)
    assert blocks(result) == [scale * stride]
    assert agree(proto, result, integers(1, 1, inner, *size), scale * stride)


def chain(*steps: tuple[str, dict[str, object], Weights]) -> Between:
    """Return the nodes of pointwise operators one after the other, from x to y."""

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
    assert blocks(fold_enlargement(plain)) == [2]  # each of these is left for its own reason
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
    # Cut off: all but a fixed number, rows that leave half an LR pixel, channels.
    cropped = srcnn(2, (9, 3), width=6)
    assert blocks(fold_enlargement(cropped)) == [2]
    assert_left(fold_enlargement, with_weight(cropped, "e", np.array([30, 30])))
    assert_left(fold_enlargement, with_weight(cropped, "s", np.array([2, 2])))
    assert_left(fold_enlargement, with_weight(cropped, "axes", np.array([1, 2])))
    # A constant that is another in every column.
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
    """Five channels of 5 x 5 phases: even one LR pixel is too wide a block."""
    assert_left(fold_enlargement, srcnn(5, (9, 3), 5))


def test_a_model_that_must_keep_its_size_is_rewritten_with_whole_lr_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Padded before the enlargement, or of fixed size: a cropped block could not be made up for."""
    monkeypatch.setattr(phases, "_WORTH", math.inf)
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


# Narrow convolutions, in blocks.


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_models_like_srcnn_in_blocks(
    integer_model: Maker, scale: int, sizes: tuple[int, ...], channels: int
) -> None:
    path, _ = integer_model(scale, sizes, channels)
    proto = onnx.load(path)
    for rewrite in (widen_narrow, optimise):
        result = rewritten(rewrite, proto)
        assert len(result.graph.node) > len(proto.graph.node)
        *_, block = blocks(result)
        a, b = graph.analyse(proto), graph.analyse(result)
        assert (b.kind, b.scale, b.margin) == (a.kind, a.scale, a.margin)
        assert b.period == block // math.gcd(block, scale)
        for extra in (0, 1):
            size = [2 * a.margin + k * b.period + extra for k in (1, 2)]
            assert agree(proto, result, integers(extra, 1, channels, *size), block)


def test_blocks_of_wide_layers() -> None:
    """64 and 32 filters with few taps: sums stay exact, and costs are those of SRCNN."""
    rng = np.random.default_rng(0)
    weights = {"a": sparse(rng, 64, 1, 9, 9), "b": sparse(rng, 32, 64, 5, 5), "d": sparse(rng, 1, 32, 5, 5)}
    weights["db"] = np.array([3], np.float32)
    nodes = [
        node("Conv", ["lr", "a"], ["x"]), node("Relu", ["x"], ["xr"]), node("Conv", ["xr", "b"], ["y"]),
        node("Relu", ["y"], ["yr"]), node("Conv", ["yr", "d", "db"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, weights)
    result = rewritten(widen_narrow, proto)
    assert blocks(result) == [4]
    assert shapes(result)[-1] == ((16, 32, 8, 8), 4)
    assert agree(proto, result, integers(0, 2, 1, 16 + 12, 16 + 9), 4)


def test_shifted_kernels_stand_at_every_place_of_the_block() -> None:
    weight = integers(0, 2, 3, 3, 4).astype(np.float64)
    wide = shifted(weight, 3).reshape(2, 3, 3, 3, 5, 6)
    for y in range(3):
        for x in range(3):
            expected = np.pad(weight, [(0, 0), (0, 0), (y, 2 - y), (x, 2 - x)])
            assert np.array_equal(wide[:, y, x], expected)


def test_blocks_left_alone() -> None:
    weights = {"a": integers(0, 16, 4, 5, 5), "d": integers(1, 1, 16, 5, 5)}

    def two(first: dict[str, object] | None = None, **last: object) -> onnx.ModelProto:
        nodes = [
            node("Conv", ["lr", "a"], ["x"], "a", **(first or {})),
            node("Conv", ["x", "d"], ["hr"], "d", **last),
        ]
        return model(nodes, weights, 4)

    assert blocks(widen_narrow(two())) == [4]
    assert_left(widen_narrow, two(strides=[2, 2]))
    assert_left(widen_narrow, two(dilations=[2, 2]))
    assert_left(widen_narrow, two(auto_pad="SAME_UPPER"))
    groups = {"a": integers(0, 16, 4, 5, 5), "d": integers(1, 2, 8, 5, 5)}
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Conv", ["x", "d"], ["hr"], group=2)]
    assert_left(widen_narrow, model(nodes, groups, 4))
    # As wide as the lanes, one tap a side, the last of many layers' work, a kernel that is computed.
    wide = weights | {"d": integers(1, 16, 16, 5, 5)}
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Conv", ["x", "d"], ["hr"])]
    assert_left(widen_narrow, model(nodes, wide, 4))
    assert_left(widen_narrow, model(nodes, weights | {"a": integers(0, 4096, 4, 3, 3)[:, :, :, :]} | {
        "d": integers(1, 1, 4096, 1, 1)}, 4))  # fmt: skip
    heavy = {"a": integers(0, 64, 4, 9, 9), "b": integers(0, 64, 64, 9, 9), "d": integers(0, 1, 64, 2, 2)}
    three = [
        node("Conv", ["lr", "a"], ["x"]),
        node("Conv", ["x", "b"], ["y"]),
        node("Conv", ["y", "d"], ["hr"]),
    ]
    assert best_block(1, 64, (2, 2)) > 1
    assert_left(widen_narrow, model(three, heavy, 4))
    computed = [node("Mul", ["d", "d"], ["dd"]), nodes[0], node("Conv", ["x", "dd"], ["hr"])]
    assert_left(widen_narrow, model(computed, weights, 4))
    # Not the output itself, or one of two; a DepthToSpace or a Slice that is too old; a fixed size.
    behind = [
        *nodes[:1],
        node("Conv", ["x", "d"], ["y"]),
        node("AveragePool", ["y"], ["hr"], kernel_shape=[3, 3]),
    ]
    assert_left(widen_narrow, model(behind, weights, 4))
    assert_left(widen_narrow, model(nodes, weights, 4, outputs=("hr", "x")))
    for opset in (9, 10):
        assert_left(widen_narrow, model(nodes, weights, 4, opset=opset))
    assert_left(widen_narrow, model(nodes, weights, 4, size=(31, 31)))
    # Reads nothing of the picture.
    weights |= {"c": integers(5, 1, 4, 9, 9)}
    constant = [
        node("Conv", ["c", "a"], ["x"]),
        node("Conv", ["x", "d"], ["y"]),
        node("Mul", ["y", "lr"], ["hr"]),
    ]
    assert_left(widen_narrow, model(constant, weights, 1))


# Models that pad: no size may change.


@functools.cache
def padded(out: int, scale: int, kind: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A third party's: 5x5, ReLU, (shuffle,) 3x3 to few channels, all padded; and it rewritten."""
    rng = np.random.default_rng([out, scale])
    inner = 16
    weights = {
        "a": sparse(rng, inner * scale**2, out, 5, 5), "ab": integers(1, inner * scale**2) - 1,
        "d": sparse(rng, out, inner, 3, 3), "db": integers(2, out) + 1,
    }  # fmt: skip
    pads = {"plain": [1, 1, 1, 1], "uneven": [0, 2, 2, 0], "by layers": [0, 0, 0, 0]}[kind]
    nodes = [node("Conv", ["lr", "a", "ab"], ["x"], pads=[2] * 4), node("Relu", ["x"], ["y"])]
    last = "y"
    if scale > 1:
        nodes.append(node("DepthToSpace", ["y"], ["u"], blocksize=scale, mode="CRD"))
        last = "u"
    if kind == "by layers":  # the layer pads nothing, the model does
        weights["pads"] = np.array([0, 0, 1, 1] * 2)
        nodes.append(node("Pad", [last, "pads"], ["v"]))
        last = "v"
    nodes += [node("Conv", [last, "d", "db"], ["z"], "last", pads=pads), node("Add", ["z", "z"], ["hr"])]
    proto = model(nodes, weights, out, out=out)
    return proto, rewritten(widen_narrow, proto)


KINDS = ["plain", "uneven", "by layers"]


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    out=st.sampled_from([1, 3]),
    scale=st.integers(1, 3),
    kind=st.sampled_from(KINDS),
)
def test_padded_models_keep_every_size(shape: tuple[int, int], out: int, scale: int, kind: str) -> None:
    proto, result = padded(out, scale, kind)
    assert len(blocks(result)) == len(blocks(proto)) + 1
    assert agree(proto, result, integers(0, 1, out, *shape))


@pytest.mark.parametrize("out", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_models_tile_as_they_did(out: int, scale: int, kind: str) -> None:
    proto, result = padded(out, scale, kind)
    a, b = graph.analyse(proto), graph.analyse(result)
    assert (b.kind, b.scale, b.channels) == (a.kind, a.scale, a.channels) == ("padded", scale, out)
    assert (b.y.minimum, b.y.multiple) == (1, 1)
    picture = integers(3, 37, 30, out)
    expected = run(proto, np.ascontiguousarray(picture.transpose(2, 0, 1)[None]))[0].transpose(1, 2, 0)
    for tile in (8, 13, 512):
        with Engine(proto.SerializeToString(), "cpu", tile) as e:
            assert np.array_equal(e.upscale(picture), expected)


# Costs.


def test_the_best_block_for_srcnns_last_layer_is_four() -> None:
    costs = {b: math.ceil(b * b / 16) * 16 * 32 * (4 + b) ** 2 / b**2 for b in range(1, 9)}
    for b in range(2, 9):
        assert block_cost(1, 32, (5, 5), b) == costs[b]
    assert min(costs, key=lambda b: costs[b]) == 4
    assert best_block(1, 32, (5, 5)) == 4
    assert best_block(16, 32, (5, 5)) == 1  # all lanes are full
    assert best_block(1, 32, (1, 1)) == 1  # sixteen positions would be read for sixteen results


def test_executed_work_counts_lanes() -> None:
    assert cost.executed(1, 32, (5, 5)) == 16 * 32 * 25
    assert cost.executed(17, 3, (3, 1), (2, 2)) == 32 * 9 / 4
    weights = {"a": integers(0, 20, 1, 3, 3), "d": integers(1, 2, 10, 3, 3)}
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[1] * 4),
        node("Conv", ["x", "d"], ["y"], pads=[1] * 4, group=2),
    ]
    work = cost.work(model([*nodes, node("Relu", ["y"], ["hr"])], weights))
    assert work.useful == 20 * 9 + 2 * 10 * 9
    assert work.layers == {"x": 32 * 9, "y": 2 * 16 * 10 * 9}
    assert work.executed == sum(work.layers.values())


@pytest.mark.parametrize("name", bundled())
def test_costs_of_the_bundled_models(name: str) -> None:
    """Weight shapes and rates say what is executed, before and after."""
    proto = spec.parse(spec.load(name)[0])
    scale = spec.load(name)[1].scale
    result = rewritten(optimise, proto)
    before, after = cost.work(proto), cost.work(result)
    assert before.useful == pytest.approx(
        graph.analyse(proto).macs, rel=2e-3
    )  # other margins, of other sizes
    assert after.useful == pytest.approx(graph.analyse(result).macs, rel=2e-3)

    def lanes(shape: tuple[int, ...]) -> int:
        return math.ceil(shape[0] / 16) * 16 * math.prod(shape[1:])

    dims = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    convs = [n for n in proto.graph.node if n.op_type == "Conv"]
    (up, *layers) = (
        [dims[n.input[1]] for n in convs] if scale > 1 else [None, *(dims[n.input[1]] for n in convs)]
    )
    channels = layers[-1][0]
    plain = sum(map(lanes, layers))
    if up is not None:  # a group for every channel
        plain += channels * lanes((scale**2, *up[1:])) / scale**2
    assert before.executed == pytest.approx(plain, rel=2e-3)
    *_, block = blocks(result)
    if "-915-" in name:
        made = sum(
            lanes(shape) / (block**2 if shape[0] == channels * block**2 else scale**2)
            for shape, _ in shapes(result)
        )
        assert len(shapes(result)) == 3 * scale**2
        assert after.executed < plain / 2
    else:  # only the last layer, in blocks
        made = plain - lanes(layers[-1]) + lanes(shapes(result)[-1][0]) / block**2
        assert after.executed < plain
    assert after.executed == pytest.approx(made, rel=2e-3)


@pytest.mark.parametrize("name", bundled())
def test_bundled_models_within_rounding(name: str, rng: np.random.Generator) -> None:
    data, described = spec.load(name)
    proto = spec.parse(data)
    result = optimise(proto)
    facts = graph.analyse(result)
    assert (facts.margin, facts.kind) == (described.margin, described.facts.kind)
    n = 2 * described.margin + 8 * facts.period
    x = rng.random((1, described.channels, n, n + facts.period), np.float32)
    a, b = run(proto, x), run(result, x)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 3e-6 * max(1, np.abs(a).max())  # noise can make more than white


# The mutants: what is wrong by one must be seen.


def spoiled(fold: bool) -> bool:
    """Whether the comparison sees it."""
    if fold:
        proto = srcnn(2, full=False, width=64)
        result = fold_enlargement(proto)
        assert blocks(result) == [4]
        return not agree(proto, result, integers(0, 1, 1, 18, 18), 4)
    proto, _ = padded(1, 2, "plain")
    return not agree(proto, widen_narrow(proto), integers(0, 1, 1, 17, 18))


def test_the_machinery_of_the_mutants_is_innocent() -> None:
    assert not spoiled(True)
    assert not spoiled(False)


@pytest.mark.parametrize("place", range(16))
def test_a_kernel_at_the_wrong_place_is_caught(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    def wrong(weight: np.ndarray, b: int) -> np.ndarray:
        wide = shifted(weight, b)
        wide[place % len(wide)] = np.roll(wide[place % len(wide)], 1, axis=-1 - place % 2)
        return wide

    monkeypatch.setattr(narrow, "shifted", wrong)
    assert spoiled(False)


@pytest.mark.parametrize("grow", [-1, 1])
def test_a_wrong_cut_is_caught(monkeypatch: pytest.MonkeyPatch, grow: int) -> None:
    real = narrow._cut_to_size

    def wrong(edit, conv, source, target):
        made = real(edit, conv, source, target)
        for name in made[2].input[1:]:
            edit.array(name)[...] += grow
        return made

    monkeypatch.setattr(narrow, "_cut_to_size", wrong)
    assert spoiled(False)


@pytest.mark.parametrize("branch", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_off_by_one_is_caught(monkeypatch: pytest.MonkeyPatch, branch: int, axis: int) -> None:
    real, calls = phases._slice, []

    def wrong(edit, source, spans, target=None):
        calls.append(spans)
        if len(calls) == branch + 1:
            spans = [(a + (k == axis), b - (k == axis)) for k, (a, b) in enumerate(spans)]
            if spans[axis][1] < 0:  # nothing is left out behind it: the other way
                spans[axis] = (spans[axis][0] - 2, spans[axis][1] + 2)
        return real(edit, source, spans, target)

    monkeypatch.setattr(phases, "_slice", wrong)
    assert spoiled(True)
    assert len(calls) == 4


@pytest.mark.parametrize("branch", range(4))
@pytest.mark.parametrize("axis", [2, 3])
def test_a_phase_one_tap_off_is_caught(monkeypatch: pytest.MonkeyPatch, branch: int, axis: int) -> None:
    """The kernel that is built for one phase, not those by which costs are weighed."""
    real, calls = phases._kernel, []

    def wrong(head, y, x):
        kernel, bias, low = real(head, y, x)
        calls.append(low)
        return (np.roll(kernel, 1, axis) if len(calls) % 4 == branch else kernel), bias, low

    monkeypatch.setattr(phases, "_kernel", wrong)
    assert spoiled(True)


@pytest.mark.parametrize("branch", range(4))
def test_a_block_one_tap_off_is_caught(monkeypatch: pytest.MonkeyPatch, branch: int) -> None:
    real, calls = phases._gather, []

    def wrong(head, y, x, block):
        calls.append(block)
        made = real(head, y, x, block)
        return np.roll(made, 1, axis=-1) if len(calls) == branch + 1 else made

    monkeypatch.setattr(phases, "_gather", wrong)
    assert spoiled(True)


def test_a_bias_given_once_a_phase_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Conv.make

    def wrong(self, edit, **more):
        if len(more["bias"]) < len(more["weight"]):  # no bias, in all branches but the first
            more["bias"] = np.ones(len(more["weight"]))
        return real(self, edit, **more)

    monkeypatch.setattr(Conv, "make", wrong)
    assert spoiled(True)
