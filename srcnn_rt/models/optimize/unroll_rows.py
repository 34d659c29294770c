"""Convolutions of few channels, with the samples of a row unrolled into channels.

A tensor core multiplies eight channels at once, and an image has one. So a convolution that copies, 1 x kw
with a single 1 per filter, puts the kw samples that a row of a kernel reads into as many channels. They are
padded to a multiple of eight by channels of zeros, and the kernel becomes one of kh x 1 over them: ::

    lr ─ conv 9x9, 1 to 64      lr ─ conv 1x9, 1 to 16 (copies) ─ conv 9x1, 16 to 64

The copies are the image's own samples, so the sums are the same. No kernel reads more than before, so margins
and sizes stay too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graph_edit import MAX_WEIGHT_SIZE, Conv, Edit
from .node_builder import NodeBuilder
from .tensor_core_cost import LANES, MACS_PER_BYTE, bytes_moved, executed, padded_channels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MAX_CHANNELS = 4
_MAX_COST_RATIO = 0.9  # of the rewritten layer to the layer


def unroll_rows(model: ModelProto) -> ModelProto:
    """Rewrite convolutions of one to four channels if that costs less on tensor cores.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    edit = Edit(model)
    for node in list(edit.nodes):
        conv = Conv.of(edit, node)
        if conv is None or conv.group != 1 or conv.weight.shape[1] > _MAX_CHANNELS or not _pays(conv):
            continue
        if conv.weight.size * LANES > MAX_WEIGHT_SIZE:
            continue
        edit.replace([node], _unrolled(edit, conv))
    return edit.model()


def copy_kernel(channels: int, width: int) -> NDArray[np.float64]:
    """Return the kernel that copies the samples of a row: (padded channels·width, channels, 1, width)."""
    weight = np.zeros((padded_channels(channels * width), channels, 1, width))
    for c in range(channels):
        for x in range(width):
            weight[c * width + x, c, 0, x] = 1
    return weight


def vertical_kernel(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a kernel (out, in, kh, kw) over unrolled rows: (out, padded in·kw, kh, 1)."""
    out, inner, kh, kw = weight.shape
    made = np.zeros((out, padded_channels(inner * kw), kh, 1))
    made[:, : inner * kw, :, 0] = weight.transpose(0, 1, 3, 2).reshape(out, inner * kw, kh)
    return made


def _pays(conv: Conv) -> bool:
    """Return whether both convolutions cost less than the original one, per output position."""
    out, inner, kh, kw = conv.weight.shape
    wide = padded_channels(inner * kw)
    plain = executed(out, inner, (kh, kw)) + MACS_PER_BYTE * bytes_moved(out, inner)
    rows = conv.stride[0]  # of copies per row of the output
    first = rows * (executed(wide, inner, (1, kw)) + MACS_PER_BYTE * bytes_moved(wide, inner))
    second = executed(out, wide, (kh, 1)) + MACS_PER_BYTE * bytes_moved(out, wide)
    return kw > 1 and first + second <= _MAX_COST_RATIO * plain


def _unrolled(edit: Edit, conv: Conv) -> list[NodeProto]:
    top, left, bottom, right = conv.pads
    (rows, columns), (dy, dx) = conv.stride, conv.dilation
    along_x = {"stride": (1, columns), "dilation": (1, dx), "pads": (0, left, 0, right)}
    along_y = {"stride": (rows, 1), "dilation": (dy, 1), "pads": (top, 0, bottom, 0)}
    steps = NodeBuilder(edit, conv.node.name or conv.node.output[0])
    copies = copy_kernel(conv.weight.shape[1], conv.kernel[1])
    rows_of = steps.layer(conv, conv.node.input[0], weight=copies, bias=np.zeros(1), **along_x)
    weight = vertical_kernel(conv.weight)
    steps.layer(conv, rows_of, output=conv.node.output[0], weight=weight, **along_y)
    return steps.nodes
