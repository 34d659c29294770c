"""MATLAB's bicubic enlargement by a whole number, as the start of an ONNX graph.

Keys' kernel with a = -0.5 (R. Keys, 1981; MATLAB's imresize). For a whole scale s the
s phases of an LR pixel read at most five LR pixels, so enlarging is one unpadded 5x5
convolution to s² channels and a DepthToSpace.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

RADIUS = 2  # LR pixels that one phase reads on each side
OPSET = 17
IR_VERSION = 8  # what opset 17 came with: old runtimes load it too


def keys(x: Fraction) -> Fraction:
    """Keys' cubic convolution kernel with a = -1/2, in exact rationals."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return Fraction(-1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def taps(scale: int) -> NDArray[np.float64]:
    """Return (scale, 5) weights: row p makes HR pixel ``s·q + p`` from LR ``q-2 … q+2``.

    HR pixel i lies at LR position (i + 1/2) / s - 1/2.
    """
    rows = [
        [keys(Fraction(2 * p + 1, 2 * scale) - Fraction(1, 2) - k) for k in range(-RADIUS, RADIUS + 1)]
        for p in range(scale)
    ]
    return np.array(rows, dtype=np.float64)


def weights(scale: int, channels: int) -> NDArray[np.float32]:
    """Return the (channels·s², 1, 5, 5) kernel of a grouped convolution, channel by channel."""
    t = taps(scale)
    kernel = np.einsum("py,qx->pqyx", t, t).reshape(scale * scale, 1, 2 * RADIUS + 1, 2 * RADIUS + 1)
    return np.tile(kernel, (channels, 1, 1, 1)).astype(np.float32)


def nodes(
    source: str, target: str, scale: int, channels: int, name: str = "bicubic"
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return nodes and initialisers that enlarge `source` (N, C, h+4, w+4) to (N, C, s·h, s·w).

    What is made in between has names that begin with `name`.
    """
    from onnx import helper, numpy_helper

    kernel = numpy_helper.from_array(weights(scale, channels), f"{name}.weight")
    size = 2 * RADIUS + 1
    return [
        helper.make_node(
            "Conv",
            [source, kernel.name],
            [f"{name}.phases"],
            f"{name}.conv",
            kernel_shape=[size, size],
            group=channels,
        ),
        helper.make_node(
            "DepthToSpace", [f"{name}.phases"], [target], f"{name}.shuffle", blocksize=scale, mode="CRD"
        ),
    ], [kernel]


def model(scale: int) -> ModelProto:
    """Return a valid one-channel model that is bicubic enlargement and nothing else."""
    from onnx import helper

    body, initialisers = nodes("lr", "hr", scale, 1)
    graph = helper.make_graph(
        body,
        "bicubic",
        [value("lr", 1, "in")],
        [value("hr", 1, "out")],
        initialisers,
    )
    return make_model(graph)


def value(name: str, channels: int, side: str) -> ValueInfoProto:
    """Return the contract's declaration of an input or output: float32, N, H and W free."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, f"h_{side}", f"w_{side}"])


def make_model(graph: GraphProto) -> ModelProto:
    """Wrap a graph at the opset this package writes, checked."""
    from onnx import checker, helper

    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="srcnn-rt")
    proto.ir_version = IR_VERSION
    checker.check_model(proto, full_check=True)
    return proto


def margin_for(shrink: int, scale: int) -> int:
    """Return the LR margin of a network that takes `shrink` HR pixels off each side."""
    return RADIUS + math.ceil(shrink / scale)
