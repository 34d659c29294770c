"""Weights that keep float32 exact, and comparisons, for tests of graph rewrites.

Weights are small integers, so sums are exact in float32 in any order. A rewritten graph may leave out rows
and columns beyond its last whole block, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.helpers.models import run, run_all

Pass = Callable[[onnx.ModelProto], onnx.ModelProto]
SIZES = [(19, 21), (24, 19), (23, 20)]


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def whole(seed: int, *shape: int, low: int = -2, high: int = 2) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(low, high + 1, shape).astype(np.float32)


def integers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, 4, shape).astype(np.float32)


def sparse(rng: np.random.Generator, *shape: int, taps: int = 6) -> np.ndarray:
    """Return weights with a few of -1, 0, 1 per filter, always with a corner of the kernel among them."""
    made = np.zeros(shape, np.float32)
    for k, row in enumerate(made.reshape(shape[0], -1)):
        places = rng.integers(0, row.size, taps)
        places[0] = (0, row.size - 1)[k % 2]
        row[places] = rng.choice([-1, 1], taps)
    return made


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


def blocks(proto: onnx.ModelProto) -> list[int]:
    """Return the block sizes of all DepthToSpace nodes, in order."""
    return [attribute(n, "blocksize") for n in proto.graph.node if n.op_type == "DepthToSpace"]


def attribute(n: onnx.NodeProto, name: str) -> object:
    return next(helper.get_attribute_value(a) for a in n.attribute if a.name == name)


def weight_of(proto: onnx.ModelProto, k: int) -> np.ndarray:
    """Return the weight of the k-th Conv."""
    name = [n for n in proto.graph.node if n.op_type == "Conv"][k].input[1]
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name))


def shapes(proto: onnx.ModelProto) -> list[tuple[tuple[int, ...], int]]:
    """Return (weight shape, stride) of every Conv."""
    dims = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    found = []
    for n in proto.graph.node:
        if n.op_type == "Conv":
            strides = [a for a in n.attribute if a.name == "strides"]
            found.append((dims[n.input[1]], strides[0].ints[0] if strides else 1))
    return found


def rewritten(rewrite: Pass, proto: onnx.ModelProto, *, sound: bool = True) -> onnx.ModelProto:
    """Rewrite a model; assert that the original is unchanged and the result is a valid graph."""
    before = proto.SerializeToString(deterministic=True)
    result = rewrite(proto)
    assert proto.SerializeToString(deterministic=True) == before
    if sound:
        onnx.checker.check_model(result, full_check=True)
    names = [n.name for n in result.graph.node if n.name]
    assert len(names) == len(set(names))
    assert {t.name for t in result.graph.initializer} <= {i for n in result.graph.node for i in n.input}
    return result


def assert_left(rewrite: Pass, proto: onnx.ModelProto, *, sound: bool = True) -> None:
    """Assert that a rewrite leaves a model unchanged; sound=False is for models that are not valid ONNX."""
    assert list(rewritten(rewrite, proto, sound=sound).graph.node) == list(proto.graph.node)


def assert_same(proto: onnx.ModelProto, result: onnx.ModelProto, low: int = -4, high: int = 4) -> None:
    """Assert that both models give the same bits for images of integers."""
    channels = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    for k, size in enumerate(SIZES):
        x = whole(k, 2, channels, *size, low=low, high=high)
        for a, b in zip(run_all(proto, x), run_all(result, x), strict=True):
            assert np.array_equal(a, b)


def agree(proto: onnx.ModelProto, result: onnx.ModelProto, x: np.ndarray, block: int = 1) -> bool:
    """Return whether the result equals the original's, cropped to whole blocks, bit for bit."""
    a, b = run(proto, x), run(result, x)
    assert np.abs(a).max(initial=0) < 2**24
    h, w = (n // block * block for n in a.shape[2:])
    return b.shape == (*a.shape[:2], h, w) and np.array_equal(a[:, :, :h, :w], b)
