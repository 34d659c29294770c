"""Bounds hold for every image in range, and are as narrow as interval arithmetic can make them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcnn_rt.models.optimize.graph_edit import Edit, channels
from srcnn_rt.models.optimize.value_bounds import Bounds
from tests.helpers.models import model, node, run_all, value
from tests.helpers.rewriting import floats


def bounds_of(
    proto: onnx.ModelProto, name: str, low: float = 0, high: float = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest values of each channel of a tensor."""
    found = Bounds(Edit(proto), channels(proto), low, high).of(name)
    assert found is not None
    return found


def column(*rows: list[float]) -> np.ndarray:
    """Return filters (out, in, 1, 1)."""
    return np.array(rows, np.float32)[:, :, None, None]


def layer(weight: np.ndarray, bias: np.ndarray, *, pads: int = 0, group: int = 1) -> onnx.ModelProto:
    """Return Conv and Relu."""
    nodes = [
        node("Conv", ["lr", "w", "b"], ["a"], pads=[pads] * 4, group=group), node("Relu", ["a"], ["hr"])
    ]  # fmt: skip
    weights = {"w": weight.astype(np.float32), "b": bias.astype(np.float32)}
    return model(nodes, weights, weight.shape[1] * group, out=len(weight))


def test_filters_and_relu() -> None:
    weight = column([1, 1], [1, 1], [-1, -2], [2, -1], [1, 0])
    proto = layer(weight, np.array([-2, -1, 0, -3, 1]))
    low, high = bounds_of(proto, "a")
    assert np.array_equal(low, [-2, -1, -3, -4, 1])
    assert np.array_equal(high, [0, 1, 0, -1, 2])
    low, high = bounds_of(proto, "hr")
    assert np.array_equal(low, [0, 0, 0, 0, 1])
    assert np.array_equal(high, [0, 1, 0, 0, 2])
    assert np.array_equal(bounds_of(proto, "a", 0, 2)[1], [2, 3, 0, 1, 3])


def test_each_group_reads_its_own_channels() -> None:
    proto = layer(column([1, 2], [-3, 1]), np.zeros(2), group=2)
    low, high = bounds_of(proto, "a")
    assert np.array_equal(low, [0, -3])
    assert np.array_equal(high, [3, 1])


def test_padding_widens_a_range_to_zero() -> None:
    weight = np.concatenate([-np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3))])
    # Inputs of 1 … 2: nine of them sum to at least 9, four at a corner do not.
    for pads, least, most in ((0, [-18, 9], [-9, 18]), (1, [-18, 0], [0, 18])):
        low, high = bounds_of(layer(weight, np.zeros(2), pads=pads), "a", 1, 2)
        assert np.array_equal(low, least)
        assert np.array_equal(high, most)


# Operators, and the highest value of the last channel that they make; None if it is not bounded.
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
    """No value is outside of the bounds, and the upper one is as low as it can be."""
    nodes, weights, top = BEFORE[name]
    count = 4 if name == "Concat" else 2
    end = node("Conv", ["x", "w"], ["hr"])
    proto = model([*nodes, end], weights | {"w": np.ones((1, count, 1, 1), np.float32)}, 2, out=1)
    low, high = bounds_of(proto, "x")
    assert len(low) == len(high) == count
    if top is None:
        assert np.isinf(high).all()
        return
    assert high[-1] == pytest.approx(top, abs=0.01)
    proto.graph.output.append(value("x", ["n", count, "hx", "wx"]))
    x = np.random.default_rng(0).random((1, 2, 8, 8), dtype=np.float32)
    x[..., 0, :] = floats(0, 1, 0, 1, 1, 1, 0, 0)
    made = run_all(proto, x)[1]
    rounding = 1e-5
    assert (made >= low[:, None, None] - rounding).all()
    assert (made <= high[:, None, None] + rounding).all()


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_shuffled_channels_keep_their_own_range(mode: str) -> None:
    """Eight phases become two channels; only the second one's phases exceed 3."""
    exceeding = np.arange(8) >= 4 if mode == "CRD" else np.arange(8) % 2 == 1
    nodes = [node("Conv", ["lr", "w"], ["p"]), node("DepthToSpace", ["p"], ["hr"], blocksize=2, mode=mode)]
    weight = np.where(exceeding, 5, 3)[:, None, None, None].astype(np.float32)
    low, high = bounds_of(model(nodes, {"w": weight}, 1, out=2), "hr")
    assert np.array_equal(low, [0, 0])
    assert np.array_equal(high, [3, 5])


@given(st.integers(0, 2**32), st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_no_value_of_random_layers_is_outside(seed: int, pads: int) -> None:
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
    spans = [bounds_of(proto, name) for name in ("hr", "c0", "c1")]
    proto.graph.output.extend(value(name, ["n", 6, f"h{name}", f"w{name}"]) for name in ("c0", "c1"))
    made = run_all(proto, rng.integers(0, 2, (2, 1, 9, 11)).astype(np.float32))
    for array, (low, high) in zip(made, spans, strict=True):
        assert (array >= low[:, None, None]).all()
        assert (array <= high[:, None, None]).all()
