"""MATLAB's bicubic interpolation by an integer scale factor, as weights and as ONNX nodes.

The kernel is that of Keys (1981) with a = -0.5, as in MATLAB's imresize. For an integer scale factor s the s
phases of an LR pixel depend on at most five LR pixels, so enlargement is one 5x5 convolution to s² channels
without padding, and a DepthToSpace.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

RADIUS = 2  # LR pixels that one phase reads on each side
OPSET = 17
IR_VERSION = 8  # the version of opset 17, which old runtimes support


def keys(x: NDArray[Any]) -> NDArray[Any]:
    """Return Keys' cubic convolution kernel with a = -1/2 at `x`, floats or fractions (R. Keys, 1981)."""
    x = np.abs(x)
    near = (3 * x - 5) * x * x / 2 + 1
    far = ((5 - x) * x / 2 - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0 * x))


def taps(scale: int) -> NDArray[np.float64]:
    """Return (scale, 5) weights: row p gives HR pixel ``s·q + p`` from LR pixels ``q-2 … q+2``.

    The centre of HR pixel i is at LR position (i + 1/2) / s - 1/2.
    """
    rows = [
        [Fraction(2 * p + 1, 2 * scale) - Fraction(1, 2) - k for k in range(-RADIUS, RADIUS + 1)]
        for p in range(scale)
    ]
    return keys(np.array(rows)).astype(np.float64)


def weights(scale: int, channels: int) -> NDArray[np.float32]:
    """Return the (channels·s², 1, 5, 5) weights of a convolution with one group per channel."""
    t = taps(scale)
    kernel = np.einsum("py,qx->pqyx", t, t).reshape(scale * scale, 1, 2 * RADIUS + 1, 2 * RADIUS + 1)
    return np.tile(kernel, (channels, 1, 1, 1)).astype(np.float32)


def nodes(
    source: str, target: str, scale: int, channels: int, name: str = "bicubic"
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return ONNX nodes and initialisers for bicubic enlargement.

    Parameters
    ----------
    source : str
        Name of the input, (N, C, h+4, w+4).
    target : str
        Name of the output, (N, C, s·h, s·w).
    scale : int
        Scale factor s.
    channels : int
        C.
    name : str
        Prefix of the names of all other values and nodes.

    Returns
    -------
    (list of NodeProto, list of TensorProto)
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
    """Return a one-channel model without padding that is bicubic enlargement."""
    from onnx import helper

    body, initialisers = nodes("lr", "hr", scale, 1)
    inputs, outputs = [value("lr", 1, "in")], [value("hr", 1, "out")]
    return make_model(helper.make_graph(body, "bicubic", inputs, outputs, initialisers))


def value(name: str, channels: int, side: str) -> ValueInfoProto:
    """Return the declaration of a model's float32 input or output, with variable N, H and W."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, f"h_{side}", f"w_{side}"])


def make_model(graph: GraphProto) -> ModelProto:
    """Return a checked model of a graph, at opset `OPSET`."""
    from onnx import checker, helper

    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="srcnn-rt")
    proto.ir_version = IR_VERSION
    checker.check_model(proto, full_check=True)
    return proto


def margin_for(shrink: int, scale: int) -> int:
    """Return the LR margin of bicubic followed by a network that crops `shrink` HR pixels on each side."""
    return RADIUS + math.ceil(shrink / scale)
