"""Convolutions to few channels, computed several output pixels at once.

A convolution to one channel uses one of sixteen lanes of a vector unit. The same function is a
convolution of stride b to b² times as many channels, whose kernels are the same one shifted
within a window of k + b - 1, followed by DepthToSpace(b): more multiplications, most of them by
zero, but all lanes full. The block b is chosen by what is executed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ..analysis import analyse
from .cpu_cost import executed, work
from .graph_edit import MAX_NUMBERS, Conv, Edit
from .pointwise import only_pointwise_to_output

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BLOCKS = range(2, 9)
OLDEST = 11  # before it DepthToSpace knew one order only, and Slice took no inputs before 10
_WORTH = 0.8  # of the layer's own cost, at most
_SHARE = 0.05  # of the whole model's, at least, or the shuffle costs more than is won


def widen_narrow(model: ModelProto) -> ModelProto:
    """Rewrite convolutions to few channels as strided wide ones and DepthToSpace.

    In models that pad, the output is the same for every size of image. In others only the layer
    that makes the output is rewritten, and rows and columns beyond the last whole block are left
    out; the analysis gives the model a period. Models of fixed size must keep what they give.
    """
    edit = Edit(model)
    try:
        before, padded = work(model), analyse(model).kind == "padded"
    except ModelError:  # cannot be traced, so it cannot be weighed either
        return model
    if edit.opset < OLDEST or not (padded or may_crop(model)):
        return model
    for node in list(edit.nodes):
        conv = Conv.of(edit, node)
        if conv is None or conv.group != 1 or conv.stride != (1, 1) or conv.dilation != (1, 1):
            continue
        makes_output = not any(conv.pads) and only_pointwise_to_output(edit, node.output[0])
        if not padded and not makes_output:
            continue  # blocks past the end would read what an unpadded model does not have
        b = best_block(len(conv.weight), conv.weight.shape[1], conv.kernel)
        cost = before.layers.get(node.output[0], 0.0)  # none where nothing of the image is read
        if conv.weight.size * (b * b) ** 2 > MAX_NUMBERS:  # with kernels b - 1 larger a side, at most b times
            continue
        if b > 1 and cost > 0 and cost >= _SHARE * before.executed:
            _widen(edit, conv, b, whole=padded)
    return edit.model()


def may_crop(model: ModelProto) -> bool:
    """Return whether a model may leave out rows and columns beyond its last whole block.

    One that neither pads nor is of a fixed size gets windows that hold whole blocks.
    """
    try:
        facts = analyse(model)
    except ModelError:
        return False
    return facts.kind == "valid" and facts.y.fixed is None and facts.x.fixed is None


def best_block(out: int, inner: int, kernel: tuple[int, int]) -> int:
    """Return the side of the block that costs least, 1 where none is worth it."""
    plain = executed(out, inner, kernel)
    cost, b = min((block_cost(out, inner, kernel, b), b) for b in BLOCKS)
    return b if cost <= _WORTH * plain else 1


def block_cost(out: int, inner: int, kernel: tuple[int, int], b: int) -> float:
    """Return the executed multiply-accumulates an output pixel with blocks of b x b."""
    return executed(out * b * b, inner, (kernel[0] + b - 1, kernel[1] + b - 1), (b, b))


def _widen(edit: Edit, conv: Conv, b: int, *, whole: bool) -> None:
    target = conv.node.output[0]
    name = conv.node.name or target
    weight, bias = shifted(conv.weight, b), np.repeat(conv.bias, b * b)
    top, left, bottom, right = conv.pads
    pads = (top, left, bottom + b - 1, right + b - 1) if whole else conv.pads
    wide = conv.make(
        edit, output=edit.fresh(f"{name}.wide"), weight=weight, bias=bias, stride=(b, b), pads=pads
    )
    new: list[NodeProto] = [wide]
    blocks = edit.fresh(f"{name}.blocks") if whole else target
    new.append(edit.node("DepthToSpace", wide.output, f"{name}.shuffle", blocks, blocksize=b, mode="CRD"))
    if whole:
        new += _cut_to_size(edit, conv, blocks, target)
    edit.replace([conv.node], new)


def shifted(weight: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """Return (out·b², in, kh+b-1, kw+b-1): every kernel at all b² places of its block."""
    out, inner, kh, kw = weight.shape
    wide = np.zeros((out, b, b, inner, kh + b - 1, kw + b - 1))
    for y in range(b):
        for x in range(b):
            wide[:, y, x, :, y : y + kh, x : x + kw] = weight
    return wide.reshape(out * b * b, inner, kh + b - 1, kw + b - 1)


def _cut_to_size(edit: Edit, conv: Conv, source: str, target: str) -> list[NodeProto]:
    """Return nodes that leave of whole blocks the size the convolution would have given."""
    name = conv.node.name or target
    grow = [conv.pads[k] + conv.pads[k + 2] - conv.kernel[k] + 1 for k in (0, 1)]
    shape = edit.node("Shape", [conv.node.input[0]], f"{name}.shape")
    starts, ends, axes, two, four = (
        edit.weight(f"{name}.{key}", np.array(values, np.int64))
        for key, values in (
            ("starts", [0, 0]),
            ("grow", grow),
            ("axes", [2, 3]),
            ("from", [2]),
            ("to", [4]),
        )
    )
    size = edit.node("Slice", [shape.output[0], two, four], f"{name}.size")
    end = edit.node("Add", [size.output[0], ends], f"{name}.end")
    return [
        shape,
        size,
        end,
        edit.node("Slice", [source, starts, end.output[0], axes], f"{name}.cut", target),
    ]
