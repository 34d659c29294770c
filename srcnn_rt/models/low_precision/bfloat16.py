"""A graph prepared for arithmetic in bfloat16, so that it loses almost no PSNR.

bfloat16 keeps eight bits of a value. A network that is added to bicubic (`optimize.remove_bicubic`) rounds
only the detail, and loses less than 0.01 dB. One that carries the image itself would lose ten times as much.
That is measured when a session is created, and refused. Three measures keep the loss small:

- *The image* is fed as two channels: the first eight bits of a sample, and the rest. Their sum has sixteen
  bits, so that elevations in metres and counts lose no more than the codes of 8-bit files.
- *The first layer's weights* are rounded together (`rounding.round_together`), so that filters that sum to
  zero still do, and the mean of the image has no effect on them.
- *An enlargement* inside is folded into the layer behind it, so that the enlarged image is never rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..optimize.graph_edit import Conv, Edit
from ..optimize.subpixel_phases import shuffle_enlargement
from .rounding import round_together

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LIMIT_DB = 0.02  # PSNR that precision fast may lose
_HIGH_BITS = np.uint32(0xFFFF0000)  # bits of a float32 that bfloat16 keeps


@dataclass(frozen=True, slots=True)
class Bfloat16Model:
    """A graph for bfloat16.

    Attributes
    ----------
    model : ModelProto
        It takes (N, 2·C, h, w), as `split_high_low` fills it, if `split_input`; else (N, C, h, w).
    split_input : bool
        Whether each channel of the image is fed as two.
    """

    model: ModelProto
    split_input: bool


def for_bfloat16(model: ModelProto) -> Bfloat16Model:
    """Prepare an optimised model, which is not changed. The function stays the same except for rounding."""
    edit = Edit(shuffle_enlargement(model))
    (source,) = edit.inputs
    readers = list(_readers(edit, source))
    convs = [conv for node in readers if (conv := Conv.of(edit, node)) is not None and conv.group == 1]
    if len(convs) < len(readers):
        return Bfloat16Model(edit.model(), False)
    for conv in convs:
        weight = round_together(conv.weight)
        twice = np.concatenate([weight, weight], axis=1)
        edit.replace([conv.node], [conv.make(edit, weight=twice)])
    made = edit.model()
    channels = made.graph.input[0].type.tensor_type.shape.dim[1]
    channels.dim_value *= 2
    return Bfloat16Model(made, True)


def split_high_low(windows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Fill `out` (N, 2·C, h, w) with the first eight bits of samples (N, C, h, w), and the rest."""
    count = windows.shape[1]
    high = out[:, :count]
    np.bitwise_and(windows.view(np.uint32), _HIGH_BITS, out=high.view(np.uint32))
    np.subtract(windows, high, out=out[:, count:])


def _readers(edit: Edit, source: str) -> Iterator[NodeProto]:
    """Yield the nodes that read the image, directly or through a Slice."""
    for user in list(edit.users(source)):
        if user.op_type == "Slice":
            yield from _readers(edit, user.output[0])
        else:
            yield user
