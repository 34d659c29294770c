"""Folds into convolutions are bit for bit the same with weights that keep float32 exact."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from srcnn_rt.models.optimize.fuse_linear import (
    drop_identities,
    fold_batch_norm,
    fold_scale_offset,
)
from tests.helpers import models
from tests.helpers.models import Weights, node, run, tensor, value
from tests.helpers.rewriting import assert_left, assert_same, floats, ops, rewritten, whole


def model(
    nodes: list[onnx.NodeProto], weights: Weights, channels: int = 2, **more: object
) -> onnx.ModelProto:
    return models.model(nodes, weights, channels, **more)


# BatchNormalization. The root of variance 3 plus epsilon 1 is 2, so nothing is rounded.

NORM = {
    "gamma": floats(2, -4, 6),
    "beta": floats(1, 0, -3),
    "mean": floats(1, -2, 5),
    "variance": floats(3, 15, 0),
}
PARAMETERS = ["gamma", "beta", "mean", "variance"]


def norm(source: str, target: str, **more: object) -> onnx.NodeProto:
    return node("BatchNormalization", [source, *PARAMETERS], [target], f"norm {target}", epsilon=1.0, **more)


CONVS = {
    "plain": (node("Conv", ["lr", "w", "b"], ["c"], "conv"), (3, 2, 3, 3)),
    "no bias": (node("Conv", ["lr", "w"], ["c"], "conv"), (3, 2, 3, 5)),
    "padded": (node("Conv", ["lr", "w", "b"], ["c"], pads=[1, 0, 2, 1]), (3, 2, 3, 3)),
    "padded by rule": (node("Conv", ["lr", "w", "b"], ["c"], auto_pad="SAME_UPPER"), (3, 2, 4, 4)),
    "strided": (node("Conv", ["lr", "w", "b"], ["c"], strides=[2, 3], dilations=[2, 1]), (3, 2, 3, 3)),
    "transposed": (node("ConvTranspose", ["lr", "w", "b"], ["c"], strides=[2, 2]), (2, 3, 4, 4)),
    "transposed no bias": (node("ConvTranspose", ["lr", "w"], ["c"], pads=[1] * 4), (2, 3, 3, 3)),
}


@pytest.mark.parametrize("name", CONVS)
def test_batch_norm(name: str) -> None:
    conv, shape = CONVS[name]
    proto = model([conv, norm("c", "hr")], {"w": whole(0, *shape), "b": whole(1, 3), **NORM})
    result = rewritten(fold_batch_norm, proto)
    assert ops(result) == [conv.op_type]
    assert_same(proto, result)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_batch_norm_after_groups(op: str) -> None:
    weights = {k: np.concatenate([v, v[::-1]]) for k, v in NORM.items()}
    shape = (6, 2, 3, 3) if op == "Conv" else (4, 3, 3, 3)
    proto = model(
        [node(op, ["lr", "w"], ["c"], group=2), norm("c", "hr")], {"w": whole(0, *shape), **weights}, 4
    )
    result = rewritten(fold_batch_norm, proto)
    assert ops(result) == [op]
    assert_same(proto, result)


def test_batch_norm_through_a_network() -> None:
    nodes = [
        node("Conv", ["lr", "w"], ["a"], pads=[1] * 4), norm("a", "b"), node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "v"], ["d"], pads=[1] * 4), norm("d", "e"), node("Add", ["e", "b"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, {"w": whole(0, 3, 2, 3, 3), "v": whole(1, 3, 3, 3, 3), **NORM})
    result = rewritten(fold_batch_norm, proto)
    assert ops(result) == ["Conv", "Relu", "Conv", "Add"]
    assert_same(proto, result)


def test_batch_norm_of_trained_weights_is_within_rounding(rng: np.random.Generator) -> None:
    weights = {
        "w": rng.normal(size=(8, 2, 3, 3)), "b": rng.normal(size=8), "gamma": rng.uniform(0.5, 2, 8),
        "beta": rng.normal(size=8), "mean": rng.normal(size=8), "variance": rng.uniform(0.1, 3, 8),
    }  # fmt: skip
    nodes = [
        node("Conv", ["lr", "w", "b"], ["c"]),
        node("BatchNormalization", ["c", *PARAMETERS], ["hr"]),
    ]
    proto = model(nodes, {k: v.astype(np.float32) for k, v in weights.items()})
    x = rng.random((1, 2, 20, 20), dtype=np.float32)
    assert np.abs(run(proto, x) - run(rewritten(fold_batch_norm, proto), x)).max() < 1e-5


def test_batch_norm_left_alone() -> None:
    weights = {"w": whole(0, 3, 2, 3, 3), **NORM}
    conv = node("Conv", ["lr", "w"], ["c"])
    output = model([conv, norm("c", "hr")], weights, outputs=("hr", "c"))
    twice = model([conv, norm("c", "d"), node("Add", ["c", "d"], ["hr"])], weights)
    between = model([conv, node("Relu", ["c"], ["r"]), norm("r", "hr")], weights)
    computed = model(
        [node("Mul", ["w", "w"], ["v"]), node("Conv", ["lr", "v"], ["c"]), norm("c", "hr")], weights
    )
    impossible = model([conv, norm("c", "hr")], weights | {"variance": floats(3, -2, 0)})
    doubles = model([conv, norm("c", "hr")], weights)
    for t in (*doubles.graph.initializer, doubles.graph.input[0].type.tensor_type):
        if isinstance(t, onnx.TensorProto):
            t.CopyFrom(tensor(t.name, onnx.numpy_helper.to_array(t).astype(np.float64)))
        else:
            t.elem_type = TensorProto.DOUBLE
    train = norm("c", "hr", training_mode=1)
    train.output.extend(["running_mean", "running_variance"])
    training = model([conv, train], weights)
    for proto in (output, twice, between, computed, impossible, doubles, training):
        assert_left(fold_batch_norm, proto, sound=proto is not doubles)


# Scale and offset.

AFTER = [
    ("Mul", lambda c, k: [c, k]), ("Mul", lambda c, k: [k, c]), ("Add", lambda c, k: [c, k]),
    ("Add", lambda c, k: [k, c]), ("Sub", lambda c, k: [c, k]), ("Sub", lambda c, k: [k, c]),
    ("Div", lambda c, k: [c, k]),
]  # fmt: skip
CONSTANTS = [
    np.float32(4), floats(-2), floats(2, -4, 8).reshape(3, 1, 1), floats(2, -4, 8).reshape(1, 3, 1, 1),
    floats(2).reshape(1, 1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("constant", CONSTANTS, ids=lambda c: str(np.shape(c)))
@pytest.mark.parametrize("k", range(len(AFTER)), ids=lambda k: f"{AFTER[k][0]}{k}")
@pytest.mark.parametrize("name", ["no bias", "padded", "padded by rule", "transposed"])
def test_after(name: str, k: int, constant: np.ndarray) -> None:
    op, order = AFTER[k]
    conv, shape = CONVS[name]
    proto = model(
        [conv, node(op, order("c", "k"), ["hr"])],
        {"w": whole(0, *shape), "b": whole(1, 3), "k": constant},
    )
    result = rewritten(fold_scale_offset, proto)
    assert ops(result) == [conv.op_type]
    assert_same(proto, result)


@pytest.mark.parametrize("constant", CONSTANTS, ids=lambda c: str(np.shape(c)))
@pytest.mark.parametrize("k", range(len(AFTER)), ids=lambda k: f"{AFTER[k][0]}{k}")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("group", [1, 3])
def test_before(group: int, padded: bool, k: int, constant: np.ndarray) -> None:
    """Two convolutions read it, and an offset does not fold before padding."""
    op, order = AFTER[k]
    pads = [1, 2, 1, 0] if padded else [0] * 4
    nodes = [
        node(op, order("lr", "k"), ["s"]), node("Conv", ["s", "w", "b"], ["c"], pads=pads, group=group),
        node("Conv", ["s", "v"], ["d"], pads=pads), node("Add", ["c", "d"], ["hr"]),
    ]  # fmt: skip
    weights = {"w": whole(0, 6, 3 // group, 3, 3), "b": whole(1, 6), "v": whole(2, 6, 3, 3, 3)}
    proto = model(nodes, weights | {"k": constant}, 3)
    if padded and op in ("Add", "Sub"):
        assert_left(fold_scale_offset, proto)
        return
    result = rewritten(fold_scale_offset, proto)
    assert ops(result) == ["Conv", "Conv", "Add"]
    assert_same(proto, result)


def test_a_factor_before_a_transposed_convolution() -> None:
    nodes = [
        node("Div", ["lr", "k"], ["s"]),
        node("ConvTranspose", ["s", "w"], ["hr"], strides=[2, 2], group=3),
    ]
    weights = {"w": whole(0, 3, 2, 4, 4), "k": floats(2, -4, 0.5).reshape(3, 1, 1)}
    proto = model(nodes, weights, 3)
    result = rewritten(fold_scale_offset, proto)
    assert ops(result) == ["ConvTranspose"]
    assert_same(proto, result)


def test_an_offset_moved_past_padding_would_be_seen() -> None:
    """An Add before a padded Conv stays, because the folded one differs at the border."""
    nodes = [node("Add", ["lr", "k"], ["s"]), node("Conv", ["s", "w"], ["hr"], pads=[1] * 4)]
    weights = {"k": floats(3), "w": np.ones((1, 2, 3, 3), np.float32)}
    padded = model(nodes, weights)
    unpadded = model([nodes[0], node("Conv", ["s", "w"], ["hr"])], weights)
    wrong = rewritten(fold_scale_offset, unpadded)
    wrong.graph.node[0].attribute.append(helper.make_attribute("pads", [1] * 4))
    x = whole(0, 1, 2, 9, 9)
    a, b = run(padded, x), run(wrong, x)
    assert np.array_equal(a[..., 1:-1, 1:-1], b[..., 1:-1, 1:-1])
    assert not np.array_equal(a, b)


def test_a_chain_folds_from_both_sides() -> None:
    nodes = [
        node("Sub", ["lr", "mean"], ["a"]), node("Div", ["a", "two"], ["b"]),
        node("Conv", ["b", "w", "o"], ["c"]),
        node("Mul", ["c", "two"], ["d"]), node("Add", ["d", "mean"], ["hr"]),
    ]  # fmt: skip
    weights = {
        "mean": whole(3, 1, 3, 1, 1), "two": np.float32(2), "w": whole(0, 3, 3, 3, 3), "o": whole(1, 3)
    }  # fmt: skip
    proto = model(nodes, weights, 3)
    result = rewritten(fold_scale_offset, proto)
    assert ops(result) == ["Conv"]
    assert_same(proto, result)


def test_scale_and_offset_left_alone() -> None:
    weights = {
        "w": whole(0, 3, 2, 3, 3), "one": whole(1, 1, 2, 3, 3), "v": whole(2, 3, 3, 3, 3),
        "k": floats(2, 4, 8).reshape(3, 1, 1), "two": floats(2), "row": floats(1, 2, 3), "zero": floats(0),
        "nan": floats(np.nan),
    }  # fmt: skip
    conv = node("Conv", ["lr", "w"], ["c"])

    def used(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("hr",)) -> onnx.ModelProto:
        names = {name for n in nodes for name in n.input}
        return model(list(nodes), {k: v for k, v in weights.items() if k in names}, outputs=outputs)

    for proto in (
        # after
        used(conv, node("Mul", ["c", "two"], ["hr"]), outputs=("hr", "c")),
        used(conv, node("Mul", ["c", "two"], ["d"]), node("Add", ["c", "d"], ["hr"])),
        used(conv, node("Mul", ["c", "c"], ["hr"])),
        used(conv, node("Div", ["two", "c"], ["hr"])),
        used(conv, node("Div", ["c", "zero"], ["hr"])),
        used(conv, node("Mul", ["c", "nan"], ["hr"])),
        used(node("Conv", ["lr", "one"], ["c"]), node("Mul", ["c", "k"], ["hr"])),  # 1 channel made 3
        # before
        used(node("Mul", ["lr", "two"], ["s"]), node("Relu", ["s"], ["hr"])),
        used(node("Mul", ["lr", "two"], ["s"]), node("Conv", ["s", "w"], ["hr"]), outputs=("hr", "s")),
        used(
            node("Mul", ["lr", "two"], ["s"]), node("Conv", ["s", "w"], ["c"]), node("Relu", ["s"], ["r"]),
            node("Conv", ["r", "w"], ["d"]), node("Add", ["c", "d"], ["hr"]),
        ),
        used(
            node("Add", ["lr", "two"], ["s"]), node("Conv", ["s", "w"], ["c"]),
            node("Conv", ["s", "w"], ["d"], auto_pad="SAME_UPPER"), node("Concat", ["d", "d"], ["e"], axis=1),
            node("Relu", ["c"], ["r"]), node("Relu", ["e"], ["hr"]), outputs=("hr", "r"),
        ),
    ):  # fmt: skip
        assert_left(fold_scale_offset, proto)
    row = model(
        [node("Mul", ["lr", "row"], ["s"]), node("Conv", ["s", "v"], ["hr"])],
        {"row": weights["row"], "v": weights["v"]}, 3,
    )  # fmt: skip
    row.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 3  # else the row does not fit
    assert_left(fold_scale_offset, row)
    wider = model(
        [node("Mul", ["lr", "k"], ["s"]), node("Conv", ["s", "v"], ["hr"])],
        {"k": weights["k"], "v": weights["v"]}, 1,
    )  # fmt: skip
    assert_left(fold_scale_offset, wider)


# Identity.


def test_identities_go() -> None:
    nodes = [
        node("Identity", ["lr"], ["a"]), node("Identity", ["w"], ["v"]), node("Conv", ["a", "v"], ["b"]),
        node("Identity", ["b"], ["c"]), node("Relu", ["c"], ["d"]), node("Identity", ["d"], ["e"]),
        node("Abs", ["d"], ["f"]), node("Add", ["e", "f"], ["g"]), node("Identity", ["g"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, {"w": whole(0, 3, 2, 3, 3)})
    result = rewritten(drop_identities, proto)
    assert ops(result) == ["Conv", "Relu", "Abs", "Add", "Identity"]
    assert_same(proto, result)


def test_identities_left_alone() -> None:
    body = helper.make_graph([node("Neg", ["a"], ["y"])], "body", [], [value("y", ["n", 2, "h", "w"])])
    for proto in (
        model([node("Identity", ["lr"], ["hr"])], {}),
        model([node("Relu", ["lr"], ["a"]), node("Identity", ["a"], ["hr"])], {}, outputs=("hr", "a")),
        model(
            [
                node("Identity", ["lr"], ["a"]),
                node("If", ["yes"], ["hr"], then_branch=body, else_branch=body),
            ],
            {"yes": np.array(True)},
        ),
    ):
        assert_left(drop_identities, proto)
