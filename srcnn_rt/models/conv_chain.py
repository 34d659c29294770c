"""Recognise a network that is one chain of unpadded 3x3 convolutions, which the native backend computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .onnx_helpers import attribute, inputs_without_weights
from .optimize.graph_edit import Conv, Edit

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

KERNEL = (3, 3)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution and its activation.

    Attributes
    ----------
    weight : ndarray, shape (outputs, inputs, 3, 3), float32
    bias : ndarray, shape (outputs,), float32
    slope : ndarray, shape (outputs,), float32, or None
        Slopes of PReLU for negative values, 0 for ReLU; None without an activation.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    slope: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of convolutions.

    Attributes
    ----------
    layers : tuple of Layer
    scale : int
        Block size of the depth-to-space after the last layer; 1 if there is none.
    """

    layers: tuple[Layer, ...]
    scale: int


def find(model: ModelProto) -> Chain | str:
    """Return the chain that a model is, or why it is none.

    All nodes form ``Conv, (ReLU | PReLU | LeakyReLU), Conv, ..., DepthToSpace``. Convolutions have 3x3
    kernels, one group, no padding, no stride and no dilation; all tensors are float32.
    """
    from onnx import TensorProto

    inputs, outputs = inputs_without_weights(model.graph), model.graph.output
    if len(inputs) != 1 or len(outputs) != 1:
        return "it has several inputs or outputs"
    if inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return "its input is not float32"
    edit = Edit(model)
    layers: list[Layer] = []
    last, scale = inputs[0].name, 1
    for node in edit.nodes:
        if not node.input or node.input[0] != last or len(node.output) != 1 or scale > 1:
            return f"{node.op_type} {node.name!r} is not part of a chain"
        if node.op_type == "Conv":
            conv = Conv.of(edit, node)
            if conv is None or not conv.plain or conv.kernel != KERNEL:
                return f"Conv {node.name!r} is padded, strided, grouped or not 3x3"
            layers.append(Layer(conv.weight.astype(np.float32), conv.bias.astype(np.float32), None))
        elif node.op_type == "DepthToSpace":
            if attribute(node, "mode", b"DCR") != b"CRD":
                return "its DepthToSpace is not in the order of PyTorch's pixel shuffle"
            scale = int(attribute(node, "blocksize"))
        else:
            slope = _slope(edit, node)
            if slope is None or not layers or layers[-1].slope is not None:
                return f"{node.op_type} {node.name!r} is not an activation that it knows"
            count = len(layers[-1].weight)
            if slope.size not in (1, count):
                return f"{node.op_type} {node.name!r} has slopes per pixel"
            full = np.broadcast_to(slope.reshape(-1), (count,)).astype(np.float32)
            layers[-1] = Layer(layers[-1].weight, layers[-1].bias, full)
        last = node.output[0]
    if not layers or last != outputs[0].name:
        return "its nodes do not form a chain"
    return Chain(tuple(layers), scale)


def _slope(edit: Edit, node: NodeProto) -> NDArray[np.float32] | None:
    """Return the slopes for negative values of an activation, None if it is another node."""
    if node.op_type == "Relu":
        return np.zeros(1, np.float32)
    if node.op_type == "LeakyRelu":
        return np.array([attribute(node, "alpha", 0.01)], np.float32)
    slope = edit.array(node.input[1]) if node.op_type == "PRelu" else None
    # (C, 1, 1), or one slope for all channels
    return slope.reshape(-1) if slope is not None and slope.shape[1:] == (1, 1) else None
