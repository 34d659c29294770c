"""The picture in another range, in which the codes of a file are exact in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..rewrite.edit import Conv, Edit
from .rounding import Rounding, round_together

if TYPE_CHECKING:
    from onnx import NodeProto

_MOVES = ("Slice", "SpaceToDepth")


def feed_codes(
    edit: Edit, black: float, white: float, most: float, rounding: Rounding
) -> tuple[float, float]:
    """Give the layers that read the picture rounded weights and another range of input.

    Parameters
    ----------
    edit : changed
    black, white : what the picture calls so
    most : white less black, as it is fed from here on
    rounding : of the new weights, which are `rounding.round_together`

    Returns
    -------
    gain, offset : the picture v is fed as ``gain · v + offset``; 1 and 0 where something else than
        convolutions reads it, and nothing is changed then
    """
    (source,) = edit.inputs
    found = [(node, Conv.of(edit, node)) for node in _readers(edit, source)]
    convs = [conv for _, conv in found if conv is not None]
    if len(convs) < len(found):
        return 1.0, 0.0
    moving = [conv for conv in convs if _moves(edit, conv.node)]
    convs = [conv for conv in convs if not _moves(edit, conv.node)]
    # Zeros that a layer pads with are zeros of the picture's own range.
    gain = most / (white - black)
    offset = 0.0 if any(any(c.pads) for c in (*convs, *moving)) else -most / 2 - black * gain
    for conv in convs:
        bias = conv.bias - offset / gain * conv.weight.sum(axis=(1, 2, 3))
        node = conv.make(edit, weight=round_together(conv.weight / gain, rounding), bias=bias)
        edit.replace([conv.node], [node])
    return gain, offset


def is_copying(conv: Conv) -> bool:
    """Return whether every channel is a sample of the picture as it is, or 0 (`rewrite.unroll`)."""
    taps = conv.weight.reshape(len(conv.weight), -1)
    return not np.any(conv.bias) and bool(np.all((taps == 0) | (taps == 1)) and taps.sum(axis=1).max() <= 1)


def _moves(edit: Edit, node: NodeProto) -> bool:
    """Return whether a node gives others the picture's samples as they are."""
    if node.output[0] in edit.outputs:
        return False
    conv = Conv.of(edit, node)
    return node.op_type in _MOVES or (conv is not None and is_copying(conv))


def _readers(edit: Edit, source: str) -> Iterator[NodeProto]:
    """Yield the nodes that read the picture, and those that read what only moves its samples."""
    for user in edit.users(source):
        moves = _moves(edit, user)
        if not moves or user.op_type == "Conv":
            yield user
        if moves:
            yield from _readers(edit, user.output[0])
