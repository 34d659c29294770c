"""A graph made ready for arithmetic in bfloat16, so that it loses next to nothing.

bfloat16 keeps eight bits of a number. Of a network that is added to bicubic (`rewrite.residual`) only the
detail is rounded, and so loses less than 0.01 dB; one that carries the image itself would lose ten times as
much, which is measured when a session is made, and refused. Three things are done about the rest:

- *The image* is fed as two channels, what eight bits hold of a sample and what they leave. Their sum has
  sixteen bits, so that metres and counts are no worse off than the codes of 8-bit files.
- *The first layer's weights* are rounded together (`rounding.round_together`): filters that sum to zero still
  do, and do not see how far from zero an image lies.
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

LIMIT_DB = 0.02  # what fast may lose at most
_HIGH = np.uint32(0xFFFF0000)  # the bits of a float32 that bfloat16 has


@dataclass(frozen=True, slots=True)
class Reduced:
    """A graph for reduced precision.

    Attributes
    ----------
    model : takes (N, 2·C, h, w), as `halve` fills it, where `halved`; else (N, C, h, w)
    halved : whether the image is fed as two channels for each of its own
    """

    model: ModelProto
    halved: bool


def for_bfloat16(model: ModelProto) -> Reduced:
    """Prepare a rewritten model, which is not changed; the function stays the same but for rounding."""
    edit = Edit(shuffle_enlargement(model))
    (source,) = edit.inputs
    readers = [(node, Conv.of(edit, node)) for node in _readers(edit, source)]
    if any(conv is None or conv.group != 1 for _, conv in readers):
        return Reduced(edit.model(), False)
    for node, conv in readers:
        assert conv is not None
        weight = round_together(conv.weight)
        twice = np.concatenate([weight, weight], axis=1)
        edit.replace([node], [conv.make(edit, weight=twice)])
    made = edit.model()
    channels = made.graph.input[0].type.tensor_type.shape.dim[1]
    channels.dim_value *= 2
    return Reduced(made, True)


def halve(windows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Fill (N, 2·C, h, w) with the first eight bits of (N, C, h, w) samples, and what they leave."""
    count = windows.shape[1]
    high = out[:, :count]
    np.bitwise_and(windows.view(np.uint32), _HIGH, out=high.view(np.uint32))
    np.subtract(windows, high, out=out[:, count:])


def _readers(edit: Edit, source: str) -> Iterator[NodeProto]:
    """Yield the nodes that read the image, whole or cut."""
    for user in list(edit.users(source)):
        if user.op_type == "Slice":
            yield from _readers(edit, user.output[0])
        else:
            yield user
