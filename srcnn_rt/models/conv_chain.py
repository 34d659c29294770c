"""Recognise a network that is one chain of unpadded convolutions, which the native backend computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .onnx_helpers import attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_KERNEL = 15


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution and its activation.

    Attributes
    ----------
    weight : ndarray, shape (outputs, inputs, k, k), float32
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

    All nodes form ``Conv, (ReLU | PReLU | LeakyReLU), Conv, ..., DepthToSpace``. Convolutions have odd square
    kernels, one group, no padding, no stride and no dilation; all tensors are float32.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        return "it has several inputs or outputs"
    if inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return "its input is not float32"

    def constants(node: NodeProto) -> list[NDArray[np.float32]] | None:
        names = [name for name in node.input[1:] if name]
        if not all(n in weights and weights[n].data_type == TensorProto.FLOAT for n in names):
            return None
        return [numpy_helper.to_array(weights[n]) for n in names]

    layers: list[Layer] = []
    last, scale = inputs[0].name, 1
    for node in graph.node:
        if not node.input or node.input[0] != last or len(node.output) != 1 or scale > 1:
            return f"{node.op_type} {node.name!r} is not part of a chain"
        values = constants(node)
        if node.op_type == "Conv":
            if values is None or not _is_plain(node, values[0]):
                return f"Conv {node.name!r} is padded, strided, grouped or not square and odd"
            weight, bias = (*values, np.zeros(len(values[0]), np.float32))[:2]
            layers.append(Layer(weight, bias, None))
        elif node.op_type == "DepthToSpace":
            if attribute(node, "mode", b"DCR") != b"CRD":
                return "its DepthToSpace is not in the order of PyTorch's pixel shuffle"
            scale = int(attribute(node, "blocksize"))
        else:
            slope = _slope(node, values)
            if slope is None or not layers or layers[-1].slope is not None:
                return f"{node.op_type} {node.name!r} is not an activation that it knows"
            count = len(layers[-1].weight)
            if slope.size not in (1, count):
                return f"{node.op_type} {node.name!r} has slopes per pixel"
            full = np.broadcast_to(slope.reshape(-1), (count,)).astype(np.float32)
            layers[-1] = Layer(layers[-1].weight, layers[-1].bias, full)
        last = node.output[0]
    if not layers or last != graph.output[0].name:
        return "its nodes do not form a chain"
    return Chain(tuple(layers), scale)


def _is_plain(conv: NodeProto, weight: NDArray[np.float32]) -> bool:
    ones = [*attribute(conv, "strides", [1]), *attribute(conv, "dilations", [1]), attribute(conv, "group", 1)]
    k = weight.shape[-1]
    return (
        weight.ndim == 4
        and weight.shape[2] == k
        and k % 2 == 1
        and k <= MAX_KERNEL
        and set(ones) == {1}
        and not any(attribute(conv, "pads", []))
        and attribute(conv, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    )


def _slope(node: NodeProto, values: list[NDArray[np.float32]] | None) -> NDArray[np.float32] | None:
    """Return the slopes for negative values of an activation, None if it is another node."""
    if node.op_type == "Relu":
        return np.zeros(1, np.float32)
    if node.op_type == "LeakyRelu":
        return np.array([attribute(node, "alpha", 0.01)], np.float32)
    if node.op_type == "PRelu" and values:
        # (C, 1, 1), or one slope for all channels
        slope = values[0]
        return slope.reshape(-1) if slope.ndim == 3 and slope.shape[1:] == (1, 1) else None
    return None
