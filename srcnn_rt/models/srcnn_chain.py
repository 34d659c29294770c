"""Recognise SRCNN, with or without an enlargement before it, which the native backend computes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .onnx_helpers import inputs_without_weights
from .optimize.graph_edit import Conv, Edit
from .optimize.subpixel_phases import enlargement, phase_kernels

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[np.float64]
MAX_SCALE = 4


@dataclass(frozen=True, slots=True)
class SrcnnChain:
    """Three unpadded convolutions with ReLU between them.

    Attributes
    ----------
    first : ndarray, shape (s, s, n1, inputs, k, k)
        Kernels of the enlargement and the first layer together, on LR pixels, for each phase of an HR pixel.
    bias : ndarray, shape (s, s, n1)
        Of the first layer.
    low, sides : ndarray of int, shape (2, s)
        First LR row and column that a phase reads, and how many. The rest of its kernel is zeros.
    second, last : Conv
        The other layers.
    """

    first: Array
    bias: Array
    low: NDArray[np.int64]
    sides: NDArray[np.int64]
    second: Conv
    last: Conv

    @property
    def scale(self) -> int:
        """Scale factor s."""
        return len(self.first)


def find(model: ModelProto) -> SrcnnChain | str:
    """Return the SRCNN that a model is, or why it is none.

    All nodes form ``Conv, ReLU, Conv, ReLU, Conv``, in which Conv has a square kernel, one group, no padding,
    no stride and no dilation. ``Conv, DepthToSpace`` and a ``Slice`` that crops may come before it.
    """
    edit = Edit(model)
    if len(edit.inputs) != 1 or len(edit.outputs) != 1:
        return "it has several inputs or outputs"
    shuffle = next((node for node in edit.nodes if node.op_type == "DepthToSpace"), None)
    head = None if shuffle is None else enlargement(edit, shuffle)
    if shuffle is not None and head is None:
        return "its DepthToSpace is not an enlargement before a convolution"
    source = inputs_without_weights(model.graph)[0].name if head is None else head.source
    node = edit.only_user(source) if head is None else head.first.node
    layers: list[Conv] = []
    count = 0 if head is None else len(head.nodes) - 1
    while node is not None:
        conv, count = Conv.of(edit, node), count + 1
        if conv is None or not conv.plain or conv.kernel[0] != conv.kernel[1]:
            return f"{node.op_type} {node.name!r} is not a plain convolution with a square kernel"
        layers.append(conv)
        relu = edit.only_user(node.output[0])
        if relu is None:
            break
        if relu.op_type != "Relu":
            return f"{relu.op_type} {relu.name!r} is not ReLU"
        node, count = edit.only_user(relu.output[0]), count + 1
    if len(layers) != 3 or count != len(edit.nodes) or node is None or node.output[0] not in edit.outputs:
        return "it is not a chain of three convolutions"
    if source not in edit.inputs:
        return "its enlargement does not read the input"
    if head is None:
        first = layers[0].weight[None, None]
        sides = np.full((2, 1), layers[0].kernel[0])
        return SrcnnChain(first, layers[0].bias[None, None], np.zeros_like(sides), sides, *layers[1:])
    if head.scale > MAX_SCALE:
        return f"its scale is {head.scale}, more than {MAX_SCALE}"
    s = head.scale
    found = {(y, x): phase_kernels(head, [y], [x]) for y, x in product(range(s), repeat=2)}
    low, end = np.full((2, s), 2**30), np.zeros((2, s), np.int64)
    for p, (kernel, _, at) in found.items():
        for axis in (0, 1):
            low[axis, p[axis]] = min(low[axis, p[axis]], at[axis])
            end[axis, p[axis]] = max(end[axis, p[axis]], at[axis] + kernel.shape[4 + axis])
    sides = end - low
    shape = (s, s, *next(iter(found.values()))[0].shape[2:4], sides.max(), sides.max())
    first, bias = np.zeros(shape), np.zeros(shape[:3])
    for (y, x), (kernel, added, at) in found.items():
        top, left = at[0] - low[0][y], at[1] - low[1][x]
        h, w = kernel.shape[4:]
        first[y, x, :, :, top : top + h, left : left + w] = kernel[0, 0]
        bias[y, x] = added[0, 0]
    return SrcnnChain(first, bias, low, sides, *layers[1:])
