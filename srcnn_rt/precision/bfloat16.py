"""A graph made ready for arithmetic in bfloat16, so that it loses next to nothing.

bfloat16 keeps eight bits of a number. A network that carries a picture in [0, 1] through it loses 0.06
to 0.1 dB on Set5, nearly all of it in three places, and each has a remedy that costs no time:

- *the picture*: fed as 255·v - 127.5, every 8-bit code is exact in bfloat16, and others lose half
  as much as they would in [0, 1];
- *the first layer's weights*: rounded one by one they change a filter's response to what pictures
  mostly hold, slow gradients. They are rounded one after the other instead, each taking over
  the errors made so far, weighted by how alike neighbouring samples are (the rounding of optimal
  brain surgeon, as in GPTQ, arXiv 2210.17323, on the correlation of an enlarged picture);
- *the output*: the last layer's sums are added to a float32 input of the graph, which makes
  OpenVINO keep them in float32. It holds a constant: what the result is off on average, measured
  once (`calibrate` in `session_openvino`).

Biases are given to one layer each: OpenVINO does not fuse a shared one and would round twice. An
enlargement inside is folded into the layer behind it, so that the enlarged picture is never rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..rewrite.edit import Edit
from ..rewrite.phases import shuffle_enlargement
from .feeding import feed_codes
from .rounding import to_bfloat16
from .sums import last_sums

if TYPE_CHECKING:
    from onnx import ModelProto

LIMIT_DB = 0.02  # what fast may lose at most
ACCUMULATOR = "accumulator"
_CODES = 255.0  # fed from white to black: 8-bit codes are whole numbers, and a half


@dataclass(frozen=True, slots=True)
class Reduced:
    """A graph for reduced precision.

    Attributes
    ----------
    model : with a second input ``accumulator`` (N, `channels`, H / `block`, W / `block`) where `channels` > 0
    gain, offset : the picture is fed as ``gain · v + offset``
    places_first : whether the accumulator's channels go by their places in a block, not by the output's
        channels (DepthToSpace's DCR)
    """

    model: ModelProto
    gain: float
    offset: float
    channels: int
    block: int
    places_first: bool

    def spread(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return numbers of the output's channels as numbers of the accumulator's."""
        places = self.channels // len(values)
        return np.tile(values, places) if self.places_first else np.repeat(values, places)


def for_bfloat16(model: ModelProto, black: float = 0.0, white: float = 1.0) -> Reduced:
    """Prepare a rewritten model; the function stays the same but for rounding.

    Parameters
    ----------
    model : never changed
    black, white : what its input calls so
    """
    edit = Edit(shuffle_enlargement(model))
    gain, offset = feed_codes(edit, black, white, _CODES, to_bfloat16)
    _unshare(edit)
    channels, block, places_first = _accumulate(edit)
    made = edit.model()
    if channels:
        from onnx import TensorProto, helper

        dims: list[str | int | None] = ["n", channels, "block_rows", "block_columns"]
        made.graph.input.append(helper.make_tensor_value_info(ACCUMULATOR, TensorProto.FLOAT, dims))
    return Reduced(made, gain, offset, channels, block, places_first)


def _unshare(edit: Edit) -> None:
    """Give every convolution a bias of its own."""
    seen: set[str] = set()
    for node in edit.nodes:
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2]:
            value = edit.array(node.input[2])
            if node.input[2] in seen and value is not None:
                node.input[2] = edit.weight(node.input[2], value)
            seen.add(node.input[2])


def _accumulate(edit: Edit) -> tuple[int, int, bool]:
    """Add the last layer's sums to a float32 input.

    Returns its channels (0: not done), its block, and whether channels go by places first.
    """
    found = last_sums(edit)
    if found is None:
        return 0, 1, False
    conv = found.conv
    output = conv.node.output[0]
    inner = conv.make(edit, output=edit.fresh(f"{output}.sums"))
    add = edit.node("Add", [inner.output[0], ACCUMULATOR], "accumulate", output)
    edit.replace([conv.node], [inner, add])
    return len(conv.weight), found.block, found.places_first
