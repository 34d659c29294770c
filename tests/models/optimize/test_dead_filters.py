"""Dead filters are removed: the image stays the same bit for bit, and no live filter is dropped."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from srcnn_rt.models.optimize.dead_filters import drop_dead_filters
from tests.helpers.models import model, node, run, value
from tests.helpers.rewriting import assert_left, assert_same, floats, ops, rewritten, weight_of, whole


def dying(
    weight: np.ndarray, bias: np.ndarray, *, pads: int = 0, group: int = 1, middle: str = "Relu"
) -> onnx.ModelProto:
    """Return Conv, Relu and two Convs that read it."""
    count = len(weight)
    nodes = [
        node("Conv", ["lr", "w", "b"], ["a"], "first", pads=[pads] * 4), node(middle, ["a"], ["r"]),
        node("Conv", ["r", "v", "o"], ["c"], pads=[1] * 4, group=group),
        node("Conv", ["r", "u"], ["d"], pads=[1] * 4), node("Add", ["c", "d"], ["hr"]),
    ]  # fmt: skip
    weights = {
        "w": weight, "b": bias, "v": whole(0, 2 * group, count // group, 3, 3), "o": whole(1, 2 * group),
        "u": whole(2, 2 * group, count, 3, 3),
    }  # fmt: skip
    return model(nodes, {k: v.astype(np.float32) for k, v in weights.items()}, weight.shape[1])


def column(*rows: list[float]) -> np.ndarray:
    """Return filters (out, in, 1, 1)."""
    return np.array(rows)[:, :, None, None]


def test_dead_filters_go() -> None:
    weight = column([1, 1], [1, 1], [-1, -2], [2, -1], [1, 0])
    bias = np.array([-2, -1, 0, -3, 1])  # upper bounds 0, 1, 0, -1, 2
    proto = dying(weight, bias)
    result = rewritten(drop_dead_filters, proto)
    assert [weight_of(result, k).shape[:2] for k in (0, 1, 2)] == [(2, 2), (2, 2), (2, 2)]
    assert np.array_equal(weight_of(result, 0), weight[[1, 4]])
    assert_same(proto, result, 0, 1)


def test_beyond_the_promised_range_a_removed_filter_would_have_fired() -> None:
    proto = dying(column([1, 1], [1, 0]), np.array([-2, 1]))
    result = rewritten(drop_dead_filters, proto)
    x = np.full((1, 2, 5, 5), 2, np.float32)
    assert not np.array_equal(run(proto, x), run(result, x))
    wider = rewritten(lambda p: drop_dead_filters(p, 0, 2), proto)
    assert wider.graph.node == proto.graph.node


@pytest.mark.parametrize(
    ("weight", "bias", "dropped"),
    [
        ([1, 1], -2, True),  # exact: x + y - 2 cannot round above 0
        ([1, 1], np.nextafter(np.float32(-2), np.float32(0)), False),  # above 0
        ([1, 1], np.nextafter(np.float32(-2), np.float32(-3)), False),  # below 0, less than rounding
        ([1, 1], -2.001, True),
        ([0.5, 0.25], -0.75, False),  # 0, but no integers
        ([-0.3, -0.1], 0, True),  # no term is positive
        ([-0.3, 0.1], -0.2, True),
        ([-0.3, 0.1], -0.05, False),
    ],
)  # fmt: skip
def test_the_bound(weight: list[float], bias: float, dropped: bool) -> None:
    proto = dying(column(weight, [1, 0]), np.array([bias, 1]))
    assert len(weight_of(rewritten(drop_dead_filters, proto), 0)) == (1 if dropped else 2)


def test_padding_widens_a_range_to_zero() -> None:
    weight = np.full((1, 1, 3, 3), 1.0)
    weight = np.concatenate([-weight, weight])
    for pads, kept in ((0, 1), (1, 2)):  # inputs of 1 … 2: nine of them exceed 8, four at a corner do not
        proto = dying(weight, np.array([8, 0]), pads=pads)
        result = rewritten(lambda p: drop_dead_filters(p, 1, 2), proto)
        assert len(weight_of(result, 0)) == kept
        assert_same(proto, result, 1, 2)


def test_one_filter_stays() -> None:
    proto = dying(column([-1, 0], [0, -1], [-1, -1]), np.zeros(3))
    result = rewritten(drop_dead_filters, proto)
    assert [weight_of(result, k).shape[:2] for k in (0, 1, 2)] == [(1, 2), (2, 1), (2, 1)]
    assert_same(proto, result, 0, 1)


def test_dead_filters_behind_dead_filters() -> None:
    """The second layer's bound follows from the first's; both lose filters, from both sides."""
    nodes = [
        node("Conv", ["lr", "w", "b"], ["a"]), node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "v", "o"], ["c"]), node("Relu", ["c"], ["s"]), node("Conv", ["s", "u"], ["hr"]),
    ]  # fmt: skip
    weights = {
        "w": column([1, 1], [1, -1], [1, 0]), "b": np.array([-2, 0, 0]),
        "v": column([9, 1, 0], [0, 1, 1]), "o": np.array([-1, 0]), "u": column([1, 2]),
    }  # fmt: skip
    proto = model(nodes, {k: v.astype(np.float32) for k, v in weights.items()}, 2)
    result = rewritten(drop_dead_filters, proto)
    assert [weight_of(result, k).shape[:2] for k in (0, 1, 2)] == [(2, 2), (1, 2), (1, 1)]
    assert_same(proto, result, 0, 1)


def test_dead_filters_left_alone() -> None:
    weight, bias = column([1, 1], [1, 0]), np.array([-2, 1])
    output = dying(weight, bias)
    output.graph.output.append(value("r", ["n", 2, "h0", "w0"]))
    raw = dying(weight, bias)
    raw.graph.output.append(value("a", ["n", 2, "h0", "w0"]))
    other = dying(weight, bias)
    other.graph.node[3].CopyFrom(node("Concat", ["r"], ["d"], axis=1))
    other.graph.node[2].attribute[0].CopyFrom(helper.make_attribute("pads", [1] * 4))
    unbounded = dying(weight, bias)
    unbounded.graph.node.insert(0, node("Exp", ["lr"], ["x"]))
    unbounded.graph.node[1].input[0] = "x"
    for proto in (
        output, raw, other, unbounded, dying(weight, bias, group=2), dying(weight, bias, middle="Tanh")
    ):  # fmt: skip
        assert_left(drop_dead_filters, proto, sound=proto is not other)


# Operators before filters x - t, which are dead exactly if no sample before them exceeds t.
BEFORE = {
    "Sigmoid": ([node("Sigmoid", ["lr"], ["x"])], {}, 0.74),
    "Sigmoid of anything": ([node("Exp", ["lr"], ["e"]), node("Sigmoid", ["e"], ["x"])], {}, 1.0),
    "Tanh": ([node("Tanh", ["lr"], ["x"])], {}, 0.77),
    "Clip": ([node("Clip", ["lr", "", "half"], ["x"])], {"half": np.float32(0.5)}, 0.5),
    "Clip of anything": (
        [node("Exp", ["lr"], ["e"]), node("Clip", ["e", "", "half"], ["x"])],
        {"half": np.float32(0.5)},
        0.5,
    ),
    "Add": ([node("Add", ["lr", "half"], ["x"])], {"half": np.float32(0.5)}, 1.5),
    "Sub from": ([node("Sub", ["half", "lr"], ["x"])], {"half": np.float32(0.5)}, 0.5),
    "Mul by less than 0": ([node("Mul", ["lr", "k"], ["x"])], {"k": floats(-2)}, 0),
    "Add two": ([node("Add", ["lr", "lr"], ["x"])], {}, 2),
    "Sub two": ([node("Sub", ["lr", "lr"], ["x"])], {}, 1),
    "MaxPool": ([node("MaxPool", ["lr"], ["x"], kernel_shape=[3, 3], pads=[1] * 4)], {}, 1),
    "AveragePool": ([node("AveragePool", ["lr"], ["x"], kernel_shape=[3, 3])], {}, 1),
    "Concat": ([node("Add", ["lr", "k"], ["y"]), node("Concat", ["lr", "y"], ["x"], axis=1)],
               {"k": floats(2)}, 3),
    "Softplus": ([node("Softplus", ["lr"], ["x"])], {}, None),
    "Slice": ([node("Slice", ["lr", "i", "j", "axes"], ["x"])],
              {"i": np.array([1, 1]), "j": np.array([-1, -1]), "axes": np.array([2, -1])}, 1),
    "Pad": ([node("Pad", ["lr", "pads", "three"], ["x"])],
            {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "three": np.float32(3)}, 3),
    "Pad edge": ([node("Pad", ["lr", "pads"], ["x"], mode="edge")],
                 {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, 1),
    "Pad reflect": ([node("Pad", ["lr", "pads"], ["x"], mode="reflect")],
                    {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, 1),
    "Resize nearest": ([node("Resize", ["lr", "", "s"], ["x"])], {"s": floats(1, 1, 2, 2)}, 1),
    "Resize linear": ([node("Resize", ["lr", "", "s"], ["x"], mode="linear")], {"s": floats(1, 1, 2, 2)}, 1),
    "Resize cubic": ([node("Resize", ["lr", "", "s"], ["x"], mode="cubic")], {"s": floats(1, 1, 2, 2)}, None),
    "Identity": ([node("Identity", ["lr"], ["x"])], {}, 1),
    "LeakyRelu": ([node("Sub", ["lr", "one"], ["l"]), node("LeakyRelu", ["l"], ["x"], alpha=-2.0)],
                  {"one": np.float32(1)}, 2),
    "PRelu": ([node("Sub", ["lr", "one"], ["l"]), node("PRelu", ["l", "slope"], ["x"])],
              {"one": np.float32(1), "slope": floats(-2, -3).reshape(2, 1, 1)}, 3),
    "PRelu of every sample": ([node("PRelu", ["lr", "slope"], ["x"])],
                              {"slope": np.ones((2, 8, 8), np.float32)}, None),
    "SpaceToDepth": ([node("SpaceToDepth", ["lr"], ["l"], blocksize=2),
                      node("DepthToSpace", ["l"], ["x"], blocksize=2)], {}, 1),
    "Reshape": ([node("Reshape", ["lr", "one"], ["l"]), node("Reshape", ["l", "two"], ["x"])],
                {"one": np.array([-1, 1, 0, 0]), "two": np.array([-1, 2, 0, 0])}, 1),
    "Div by the image": ([node("Div", ["lr", "lr"], ["x"])], {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_ranges_go_through(name: str) -> None:
    """A threshold a little above the range is dead, one a little below is not."""
    nodes, weights, top = BEFORE[name]
    for threshold, dead in ((1e9, False),) if top is None else ((top + 0.01, True), (top - 0.01, False)):
        channels = 4 if name == "Concat" else 2
        weight = np.zeros((2, channels, 1, 1))
        weight[0, channels - 1], weight[1, 0] = 1, 1
        more = {"w": weight, "b": np.array([-threshold, 2]), "v": whole(0, 1, 2, 1, 1)}
        proto = model(
            [
                *nodes,
                node("Conv", ["x", "w", "b"], ["a"]),
                node("Relu", ["a"], ["r"]),
                node("Conv", ["r", "v"], ["hr"]),
            ],
            weights | {k: v.astype(np.float32) for k, v in more.items()},
            2,
        )
        result = rewritten(drop_dead_filters, proto)
        assert len(weight_of(result, 0)) == (1 if dead else 2)
        x = np.random.default_rng(0).random((1, 2, 8, 8), dtype=np.float32)
        x[..., 0, :] = floats(0, 1, 0, 1, 1, 1, 0, 0)
        if top is not None:
            assert np.array_equal(run(proto, x), run(result, x))


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_shuffled_channels_keep_their_own_range(mode: str) -> None:
    """Eight phases become two channels; only the second one's phases exceed 3."""
    high = np.arange(8) >= 4 if mode == "CRD" else np.arange(8) % 2 == 1
    nodes = [
        node("Conv", ["lr", "w"], ["p"]), node("DepthToSpace", ["p"], ["x"], blocksize=2, mode=mode),
        node("Conv", ["x", "t", "b"], ["a"]), node("Relu", ["a"], ["r"]), node("Conv", ["r", "v"], ["hr"]),
    ]  # fmt: skip
    weights = {
        "w": np.where(high, 5, 3)[:, None, None, None], "t": column([1, 0], [0, 1]), "b": np.array([-3, -3]),
        "v": column([1, 1]),
    }  # fmt: skip
    proto = model(nodes, {k: v.astype(np.float32) for k, v in weights.items()}, 1)
    result = rewritten(drop_dead_filters, proto)
    assert np.array_equal(weight_of(result, 1)[:, :, 0, 0], [[0, 1]])
    assert_same(proto, result, 0, 1)


@given(st.integers(0, 2**32), st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_what_goes_never_fires(seed: int, pads: int) -> None:
    """In random integer layers with low biases many filters are dead, and the image stays the same."""
    rng = np.random.default_rng(seed)
    nodes, weights, last, width = [], {}, "lr", 1
    for k, count in enumerate((6, 6, 1)):
        weights[f"w{k}"] = rng.integers(-1, 2, (count, width, 2, 2)).astype(np.float32)
        weights[f"b{k}"] = rng.integers(-2 * (k + 1), 2, count).astype(np.float32)
        out = "hr" if k == 2 else f"c{k}"
        nodes.append(node("Conv", [last, f"w{k}", f"b{k}"], [out], pads=[pads] * 4))
        if k < 2:
            nodes.append(node("Relu", [out], [f"r{k}"]))
        last, width = f"r{k}", count
    proto = model(nodes, weights, 1)
    result = rewritten(drop_dead_filters, proto)
    assert Counter(ops(result)) == {"Conv": 3, "Relu": 2}
    assert_same(proto, result, 0, 1)
