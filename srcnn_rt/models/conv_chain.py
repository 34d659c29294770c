"""Recognise a network that is one chain of 3x3 convolutions, which the native backend computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .onnx_helpers import attribute, inputs_without_weights
from .optimize.graph_edit import Conv, Edit

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

KERNEL = (3, 3)
_UNPADDED, _PADDED = (0, 0, 0, 0), (1, 1, 1, 1)
# Ways of Resize to find the nearest pixel that repeat every pixel the same number of times.
_REPEATING = {
    (b"asymmetric", b"floor"),
    (b"half_pixel", b"round_prefer_floor"),
    (b"half_pixel", b"round_prefer_ceil"),
}


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
    padded : bool
        Whether every layer pads its input with a row and a column of zeros on each side.
    added : bool
        Whether the input, enlarged by repeating its pixels, is added to the result. Only padded ones are.
    """

    layers: tuple[Layer, ...]
    scale: int
    padded: bool = False
    added: bool = False


def find(model: ModelProto) -> Chain | str:
    """Return the chain that a model is, or why it is none.

    All nodes form ``Conv, (ReLU | PReLU | LeakyReLU), Conv, ..., DepthToSpace``, and maybe ``Add`` of the
    input, or of its enlargement by a ``Resize`` to the nearest pixel. Convolutions have 3x3 kernels, one
    group, no stride and no dilation, and all or none of them pad; all tensors are float32.
    """
    from onnx import TensorProto

    inputs, outputs = inputs_without_weights(model.graph), model.graph.output
    if len(inputs) != 1 or len(outputs) != 1:
        return "it has several inputs or outputs"
    if inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return "its input is not float32"
    edit = Edit(model)
    sum_ = _sum(edit, inputs[0].name, outputs[0].name)
    layers: list[Layer] = []
    pads: set[tuple[int, ...]] = set()
    last, scale = inputs[0].name, 1
    for node in edit.nodes:
        if sum_ is not None and any(node is own for own in sum_.nodes):
            continue
        if not node.input or node.input[0] != last or len(node.output) != 1 or scale > 1:
            return f"{node.op_type} {node.name!r} is not part of a chain"
        if node.op_type == "Conv":
            conv = Conv.of(edit, node)
            if conv is None or not replace(conv, pads=_UNPADDED).plain or conv.kernel != KERNEL:
                return f"Conv {node.name!r} is strided, grouped or not 3x3"
            pads.add(conv.pads)
            if pads not in ({_UNPADDED}, {_PADDED}):
                return f"Conv {node.name!r} is not padded as all layers, by one pixel or not at all"
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
                return f"{node.op_type} {node.name!r} has {slope.size} slopes for {count} channels"
            full = np.broadcast_to(slope.reshape(-1), (count,)).astype(np.float32)
            layers[-1] = Layer(layers[-1].weight, layers[-1].bias, full)
        last = node.output[0]
    if not layers or last != (outputs[0].name if sum_ is None else sum_.network):
        return "its nodes do not form a chain"
    padded = pads == {_PADDED}
    if sum_ is not None and (
        not padded or sum_.scale != scale or len(layers[-1].weight) != scale**2 * layers[0].weight.shape[1]
    ):
        return "what is added to its result is not its input at the same size"
    return Chain(tuple(layers), scale, padded, sum_ is not None)


@dataclass(frozen=True, slots=True)
class _Sum:
    """The nodes that add the enlarged input to the result of a network, and by how much it is enlarged."""

    nodes: list[NodeProto]
    network: str
    scale: int


def _sum(edit: Edit, source: str, result: str) -> _Sum | None:
    add = edit.maker(result)
    if add is None or add.op_type != "Add":
        return None
    for network, other in (tuple(add.input), tuple(reversed(add.input))):
        if other == source:
            return _Sum([add], network, 1)
        resize = edit.maker(other)
        if resize is not None and resize.input[0] == source and (scale := _repeats(edit, resize)):
            return _Sum([add, resize], network, scale)
    return None


def _repeats(edit: Edit, node: NodeProto) -> int:
    """Return how often a Resize repeats each pixel on both axes, 0 if it does anything else."""
    scales = edit.array(node.input[2]) if node.op_type == "Resize" and len(node.input) > 2 else None
    if scales is None or scales.shape != (4,) or attribute(node, "mode", b"nearest") != b"nearest":
        return 0
    way = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    rounding = attribute(node, "nearest_mode", b"round_prefer_floor")
    batch, channels, y, x = scales.tolist()
    whole = batch == channels == 1 and y == x == int(x)
    return int(x) if whole and (way, rounding) in _REPEATING else 0


def _slope(edit: Edit, node: NodeProto) -> NDArray[np.float32] | None:
    """Return the slopes for negative values of an activation, None if it is another node."""
    if node.op_type == "Relu":
        return np.zeros(1, np.float32)
    if node.op_type == "LeakyRelu":
        return np.array([attribute(node, "alpha", 0.01)], np.float32)
    slope = edit.array(node.input[1]) if node.op_type == "PRelu" else None
    # (C, 1, 1) or (1, C, 1, 1), or one slope for all channels
    if slope is None or (slope.size > 1 and slope.shape[-3:] != (slope.size, 1, 1)):
        return None
    return slope.reshape(-1)
