"""Convolutions to few channels, computed for several output pixels at once.

A convolution to one channel uses one of sixteen lanes of a vector unit. It equals a convolution of stride b
to b² times as many channels, whose kernels are the same one shifted within a window of k + b - 1, followed by
DepthToSpace(b). That has more multiplications, most of them by zero, but uses all lanes. The block b is
chosen by the executed multiply-accumulates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ..analysis import analyse
from .cpu_cost import cheapest, executed, work
from .graph_edit import MAX_WEIGHT_SIZE, Conv, Edit
from .node_builder import NodeBuilder
from .pointwise import only_pointwise_to_output

if TYPE_CHECKING:
    from onnx import ModelProto

BLOCKS = range(2, 9)
OLDEST = 11  # operator set from which DepthToSpace has a mode; Slice has inputs from 10 on
_MAX_COST_RATIO = 0.8  # of the rewritten layer to the layer
_MIN_SHARE = 0.05  # of the model's cost that a layer must have for the rewrite to outweigh the shuffle


def widen_narrow(model: ModelProto) -> ModelProto:
    """Rewrite convolutions to few channels as strided wide ones and DepthToSpace.

    In models that pad, the output is the same for every size of image. In others only the layer that makes
    the output is rewritten, and rows and columns beyond the last whole block are left out, so that the model
    gets a period. Unpadded models of fixed size are not changed, because their output size must stay.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    edit = Edit(model)
    try:
        before, padded = work(model), analyse(model).kind == "padded"
    except ModelError:  # cannot be traced, so its cost is not known
        return model
    if edit.opset < OLDEST or not (padded or may_crop(model)):
        return model
    for node in list(edit.nodes):
        conv = Conv.of(edit, node)
        if conv is None or conv.group != 1 or conv.stride != (1, 1) or conv.dilation != (1, 1):
            continue
        b = best_block(len(conv.weight), conv.weight.shape[1], conv.kernel)
        cost = before.layers.get(node.output[0], 0.0)  # none if it does not read the image
        if conv.weight.size * (b * b) ** 2 > MAX_WEIGHT_SIZE:  # kernels grow by b - 1, at most b times
            continue
        if b == 1 or cost <= 0 or cost < _MIN_SHARE * before.executed:
            continue
        # In an unpadded model blocks beyond the end would read samples that it does not have, except in the
        # layer that makes the output.
        if padded or (not any(conv.pads) and only_pointwise_to_output(edit, node.output[0])):
            _widen(edit, conv, b, whole=padded)
    return edit.model()


def may_crop(model: ModelProto) -> bool:
    """Return whether a model may leave out rows and columns beyond its last whole block.

    It may if it neither pads nor has a fixed size, because its windows then hold whole blocks.
    """
    try:
        facts = analyse(model)
    except ModelError:
        return False
    return facts.kind == "valid" and facts.y.fixed is None and facts.x.fixed is None


def best_block(out: int, inner: int, kernel: tuple[int, int]) -> int:
    """Return the side of the cheapest block, 1 if no block saves enough."""
    plain = executed(out, inner, kernel)
    costs = {b: block_cost(out, inner, kernel, b) for b in BLOCKS}
    return cheapest(costs, _MAX_COST_RATIO * plain) or 1


def block_cost(out: int, inner: int, kernel: tuple[int, int], b: int) -> float:
    """Return the executed multiply-accumulates per output pixel with blocks of b x b."""
    return executed(out * b * b, inner, (kernel[0] + b - 1, kernel[1] + b - 1), (b, b))


def _widen(edit: Edit, conv: Conv, b: int, *, whole: bool) -> None:
    target = conv.node.output[0]
    steps = NodeBuilder(edit, conv.node.name or target)
    top, left, bottom, right = conv.pads
    pads = (top, left, bottom + b - 1, right + b - 1) if whole else conv.pads
    weight, bias = shifted(conv.weight, b), np.repeat(conv.bias, b * b)
    wide = steps.layer(conv, conv.node.input[0], weight=weight, bias=bias, stride=(b, b), pads=pads)
    blocks = steps.op("DepthToSpace", wide, output=None if whole else target, blocksize=b, mode="CRD")
    if whole:  # cropped to the size of the convolution's output
        grow = [conv.pads[k] + conv.pads[k + 2] - conv.kernel[k] + 1 for k in (0, 1)]
        size = steps.op("Slice", steps.op("Shape", conv.node.input[0]), steps.ints(2), steps.ints(4))
        end = steps.op("Add", size, steps.ints(*grow))
        steps.op("Slice", blocks, steps.ints(0, 0), end, steps.ints(2, 3), output=target)
    edit.replace([conv.node], steps.nodes)


def shifted(weight: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """Return (out·b², in, kh + b - 1, kw + b - 1): every kernel at all b² places of its block."""
    out, inner, kh, kw = weight.shape
    wide = np.zeros((out, b, b, inner, kh + b - 1, kw + b - 1))
    for y in range(b):
        for x in range(b):
            wide[:, y, x, :, y : y + kh, x : x + kw] = weight
    return wide.reshape(out * b * b, inner, kh + b - 1, kw + b - 1)
