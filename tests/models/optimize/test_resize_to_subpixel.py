"""Resize and its rewrite as Pad, Conv and DepthToSpace give the same samples and facts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from srcnn_rt.image import bicubic
from srcnn_rt.models.analysis import analyse
from srcnn_rt.models.optimize.resize_to_subpixel import resize_to_subpixel, taps
from tests.helpers.models import tensor, value

SIZES = [(1, 1), (2, 3), (1, 9), (7, 5), (12, 11)]


def resizing(
    scales: tuple[float, ...], *, channels: int = 2, opset: int = 18, kind: int = TensorProto.FLOAT, **more
) -> onnx.ModelProto:
    nodes = [helper.make_node("Resize", ["lr", "", "scales"], ["hr"], "up", **more)]
    return model(nodes, {"scales": np.array(scales, np.float32)}, channels, opset, kind)


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    channels: object = 2,
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [value("lr", ["n", channels, "h", "w"], kind)],
        [value("hr", ["n", channels, "sh", "sw"], kind)],
        [tensor(k, v) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, {"lr": x})[0]


def rewritten(proto: onnx.ModelProto) -> onnx.ModelProto:
    before = proto.SerializeToString(deterministic=True)
    result = resize_to_subpixel(proto)
    assert proto.SerializeToString(deterministic=True) == before
    return result


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


KERNELS = [
    {"mode": "cubic", "cubic_coeff_a": -0.5},
    {"mode": "cubic", "cubic_coeff_a": -0.75},
    {"mode": "cubic"},
    {"mode": "cubic", "cubic_coeff_a": -0.6},
    {"mode": "linear"},
    {"mode": "cubic", "antialias": 1},
    {"mode": "linear", "antialias": 1},
]


@pytest.mark.parametrize("how", ["half_pixel", "pytorch_half_pixel", "asymmetric"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_same_samples_and_same_facts(
    rng: np.random.Generator, scale: int, kernel: dict[str, object], how: str
) -> None:
    proto = resizing((1, 1, scale, scale), coordinate_transformation_mode=how, **kernel)
    result = rewritten(proto)
    assert ops(result) == ["Pad", "Conv", "DepthToSpace"]
    for size in SIZES:
        x = rng.random((2, 2, *size), dtype=np.float32)
        assert np.abs(run(proto, x) - run(result, x)).max() <= 2e-6
    before, after = analyse(proto), analyse(result)
    assert (before.scale, before.kind, before.margin) == (after.scale, after.kind, after.margin)
    for a, b in ((before.y, after.y), (before.x, after.x)):
        assert a == b


@pytest.mark.parametrize("how", ["half_pixel", "pytorch_half_pixel", "asymmetric"])
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_bitwise_where_all_is_dyadic(how: str, seed: int, height: int, width: int) -> None:
    x = np.random.default_rng(seed).integers(-8, 9, (1, 2, height, width)).astype(np.float32) * 16
    proto = resizing((1, 1, 2, 2), mode="linear", coordinate_transformation_mode=how)
    assert np.array_equal(run(proto, x), run(rewritten(proto), x))


def test_other_pads_and_other_phases_are_seen(rng: np.random.Generator) -> None:
    """The comparison above can fail."""
    proto = resizing((1, 1, 3, 3), mode="cubic")
    x = rng.random((1, 2, 7, 5), dtype=np.float32)
    expected = run(proto, x)
    for attribute, wrong in ((b"edge", b"reflect"), (b"CRD", b"DCR")):
        result = rewritten(proto)
        for node in result.graph.node:
            for a in node.attribute:
                if a.s == attribute:
                    a.s = wrong
        assert np.abs(run(result, x) - expected).max() > 1e-2


def test_inside_a_network_with_axes(rng: np.random.Generator) -> None:
    """Channels are known from the Conv before, and Resize may list its axes."""
    weights = {
        "w": rng.integers(-2, 3, (3, 2, 3, 3)).astype(np.float32),
        "v": rng.integers(-2, 3, (2, 3, 3, 3)).astype(np.float32),
        "scales": np.array([2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["lr", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Resize", ["b", "", "scales"], ["c"], mode="linear", axes=[-1, 2]),
        helper.make_node("Conv", ["c", "v"], ["hr"], pads=[1] * 4),
    ]
    proto = model(nodes, weights)
    result = rewritten(proto)
    assert ops(result) == ["Conv", "Relu", "Pad", "Conv", "DepthToSpace", "Conv"]
    for size in SIZES:
        x = rng.integers(-3, 4, (1, 2, *size)).astype(np.float32)
        assert np.array_equal(run(proto, x), run(result, x))
    # The first Conv reads one LR pixel. The last reads one HR pixel more than a period, whose
    # phase reads no further, but the analysis gives all phases of a Conv the whole kernel.
    before, after = analyse(proto), analyse(result)
    assert (before.scale, before.kind, before.margin) == (2, "padded", 2)
    assert (after.scale, after.kind, after.margin) == (2, "padded", 3)


def test_taps_are_bicubics() -> None:
    for scale in range(2, 9):
        rows, before = taps(scale, "cubic", Fraction(-1, 2))
        assert before == bicubic.RADIUS
        assert np.array_equal(rows, bicubic.taps(scale))


@given(st.integers(2, 8), st.sampled_from(["linear", "cubic"]), st.booleans(), st.integers(-16, 0))
@settings(max_examples=30, deadline=None)
def test_taps_sum_to_one(scale: int, mode: str, centred: bool, a: int) -> None:
    rows, before = taps(scale, mode, Fraction(a, 16), centred=centred)
    assert np.abs(rows.sum(axis=1) - 1).max() < 1e-14
    assert 0 <= before <= 2
    assert rows.shape[1] - before <= 3


LEFT = {
    "nearest": resizing((1, 1, 2, 2), mode="nearest"),
    "aligned corners": resizing((1, 1, 2, 2), mode="linear", coordinate_transformation_mode="align_corners"),
    "no whole factor": resizing((1, 1, 1.5, 1.5), mode="linear"),
    "shrinks": resizing((1, 1, 0.5, 0.5), mode="linear"),
    "factor 1": resizing((1, 1, 1, 1), mode="linear"),
    "too large": resizing((1, 1, 9, 9), mode="linear"),
    "two factors": resizing((1, 1, 2, 3), mode="linear"),
    "one axis": resizing((1, 1, 2, 1), mode="linear"),
    "channels": resizing((1, 2, 2, 2), mode="linear"),
    "weights cut at the edge": resizing((1, 1, 2, 2), mode="cubic", exclude_outside=1),
    "half precision": resizing((1, 1, 2, 2), mode="linear", kind=TensorProto.FLOAT16),
    "channels unknown": resizing((1, 1, 2, 2), mode="linear", channels="c"),
    "sizes": model(
        [helper.make_node("Resize", ["lr", "", "", "sizes"], ["hr"], mode="linear")],
        {"sizes": np.array([1, 2, 8, 8])},
    ),
    "old operators": model(
        [helper.make_node("Resize", ["lr", "scales"], ["hr"], mode="linear")],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        opset=10,
    ),
    "scales computed": model(
        [
            helper.make_node("Mul", ["scales", "scales"], ["squared"]),
            helper.make_node("Resize", ["lr", "", "squared"], ["hr"], mode="linear"),
        ],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    assert list(rewritten(LEFT[name]).graph.node) == list(LEFT[name].graph.node)
