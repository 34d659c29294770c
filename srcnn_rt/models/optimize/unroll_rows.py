"""Convolutions of few channels, with a row's samples laid side by side as channels.

A tensor core multiplies eight channels at once, and an image has one. So a convolution that copies, 1 x kw
with a single 1 a filter, puts the kw samples which a kernel's row reads into as many channels, filled up
to a multiple of eight by channels of zeros, and the kernel becomes one of kh x 1 over them: ::

    lr ─ conv 9x9, 1 to 64      lr ─ conv 1x9, 1 to 16 (copies) ─ conv 9x1, 16 to 64

The copies are the image's samples themselves, so the sums are the same ones. No kernel reads more than it
did, so margins and sizes stay too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graph_edit import MAX_NUMBERS, Conv, Edit
from .tensor_core_cost import LANES, MACS_A_BYTE, executed, filled, read_and_written

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MAX_CHANNELS = 4
_WORTH = 0.9  # of the layer's own cost, at most


def unroll_rows(model: ModelProto) -> ModelProto:
    """Rewrite convolutions of one to four channels where tensor cores then compute less.

    Parameters
    ----------
    model : never changed
    """
    edit = Edit(model)
    shared: dict[tuple[object, ...], str] = {}
    for node in list(edit.nodes):
        conv = Conv.of(edit, node)
        if conv is None or conv.group != 1 or conv.weight.shape[1] > _MAX_CHANNELS or not _pays(conv):
            continue
        if conv.weight.size * LANES > MAX_NUMBERS:
            continue
        edit.replace([node], _unrolled(edit, conv, shared))
    return edit.model()


def copying(channels: int, width: int) -> NDArray[np.float64]:
    """Return the kernel (channels · width filled up, channels, 1, width) that lays rows side by side."""
    weight = np.zeros((filled(channels * width), channels, 1, width))
    for c in range(channels):
        for x in range(width):
            weight[c * width + x, c, 0, x] = 1
    return weight


def standing(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (out, in, kh, kw) as (out, in · kw filled up, kh, 1)."""
    out, inner, kh, kw = weight.shape
    made = np.zeros((out, filled(inner * kw), kh, 1))
    made[:, : inner * kw, :, 0] = weight.transpose(0, 1, 3, 2).reshape(out, inner * kw, kh)
    return made


def _pays(conv: Conv) -> bool:
    """Return whether both convolutions cost less than the one; at each position of the output."""
    out, inner, kh, kw = conv.weight.shape
    wide = filled(inner * kw)
    plain = executed(out, inner, (kh, kw)) + MACS_A_BYTE * read_and_written(out, inner)
    rows = conv.stride[0]  # of copies for one of the output
    first = rows * (executed(wide, inner, (1, kw)) + MACS_A_BYTE * read_and_written(wide, inner))
    second = executed(out, wide, (kh, 1)) + MACS_A_BYTE * read_and_written(out, wide)
    return kw > 1 and first + second <= _WORTH * plain


def _unrolled(edit: Edit, conv: Conv, shared: dict[tuple[object, ...], str]) -> list[NodeProto]:
    source, inner = conv.node.input[0], conv.weight.shape[1]
    top, left, bottom, right = conv.pads
    key = (source, conv.kernel[1], conv.stride[1], conv.dilation[1], left, right)
    name = conv.node.name or conv.node.output[0]
    made: list[NodeProto] = []
    if key not in shared:  # layers that read the same rows
        made.append(
            edit.node(
                "Conv",
                [source, edit.weight(f"{name}.copying", copying(inner, conv.kernel[1]))],
                f"{name}.rows",
                kernel_shape=[1, conv.kernel[1]],
                strides=[1, conv.stride[1]],
                dilations=[1, conv.dilation[1]],
                pads=[0, left, 0, right],
            )
        )
        shared[key] = made[0].output[0]
    inputs = [shared[key], edit.weight(f"{name}.standing", standing(conv.weight))]
    if np.any(conv.bias):
        inputs.append(edit.weight(f"{name}.bias", conv.bias))
    made.append(
        edit.node(
            "Conv",
            inputs,
            name,
            conv.node.output[0],
            kernel_shape=[conv.kernel[0], 1],
            strides=[conv.stride[0], 1],
            dilations=[conv.dilation[0], 1],
            pads=[top, 0, bottom, 0],
        )
    )
    return made
