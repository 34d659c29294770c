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

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .rewrite.edit import Conv, Edit, attribute
from .rewrite.phases import shuffle_enlargement

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LIMIT_DB = 0.02  # what fast may lose at most
ACCUMULATOR = "accumulator"
_ALIKE = 0.95  # correlation of neighbouring samples, as image coding takes it
_CODES = 255.0


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
    gain, offset = _round_first(edit, black, white)
    _unshare(edit)
    channels, block, places_first = _accumulate(edit)
    made = edit.model()
    if channels:
        from onnx import TensorProto, helper

        dims: list[str | int | None] = ["n", channels, "block_rows", "block_columns"]
        made.graph.input.append(helper.make_tensor_value_info(ACCUMULATOR, TensorProto.FLOAT, dims))
    return Reduced(made, gain, offset, channels, block, places_first)


def loss_db(rms: float, psnr: float) -> float:
    """Return the PSNR lost by a picture of `psnr` dB when noise of `rms` (of full scale) is added."""
    return 10 * math.log10(1 + rms * rms / 10 ** (-psnr / 10))


def to_bfloat16(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Round to the nearest bfloat16, half to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded.astype(np.float64)


def round_together(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round (out, in, kh, kw) to bfloat16 with the least change to what a picture excites.

    Minimises eᵀ R e of the errors e of a filter, greedily in the order of taps, for the correlation
    R of samples that are `_ALIKE` to their neighbours; channels are taken as independent.
    """
    out, inner, kh, kw = weight.shape
    rows, cols = (_ALIKE ** np.abs(np.subtract.outer(np.arange(k), np.arange(k))) for k in (kh, kw))
    alike = np.kron(rows, cols) + 1e-4 * np.eye(kh * kw)
    # Row i of the upper Cholesky factor of the inverse says how an error at tap i is best
    # shared among the taps after it.
    share = np.linalg.cholesky(np.linalg.inv(alike)).T
    left = weight.reshape(out * inner, kh * kw).copy()
    made = np.zeros_like(left)
    for k in range(kh * kw):
        made[:, k] = to_bfloat16(left[:, k])
        error = (left[:, k] - made[:, k]) / share[k, k]
        left[:, k:] -= error[:, None] * share[k, k:]
    return made.reshape(weight.shape)


def _round_first(edit: Edit, black: float, white: float) -> tuple[float, float]:
    """Give the layers that read the picture rounded weights and another range of input."""
    (source,) = edit.inputs
    readers: list[NodeProto] = []
    for user in edit.users(source):
        readers += edit.users(user.output[0]) if user.op_type == "Slice" else [user]
    convs = [conv for node in readers if (conv := Conv.of(edit, node)) is not None]
    if len(convs) < len(readers):
        return 1.0, 0.0
    # Zeros that a layer pads with are zeros of the picture's own range.
    gain = _CODES / (white - black)
    offset = 0.0 if any(any(conv.pads) for conv in convs) else -_CODES / 2 - black * gain
    for conv in convs:
        bias = conv.bias - offset / gain * conv.weight.sum(axis=(1, 2, 3))
        node = conv.make(edit, weight=round_together(conv.weight / gain), bias=bias)
        edit.replace([conv.node], [node])
    return gain, offset


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
    (target,) = edit.outputs
    block, name, places_first = 1, target, False
    shuffle = edit.maker(name)
    if shuffle is not None and shuffle.op_type == "DepthToSpace":
        block, name = attribute(shuffle, "blocksize"), shuffle.input[0]
        places_first = attribute(shuffle, "mode", b"DCR") == b"DCR"
    node = edit.maker(name)
    while node is not None and node.op_type == "Add":  # of a sum over phases, one that nothing else reads
        own = (n for n in node.input if edit.only_user(n) is node and list(node.input).count(n) == 1)
        name = next(own, "")
        node = edit.maker(name)
    conv = Conv.of(edit, node)
    if conv is None:
        return 0, 1, False
    output = conv.node.output[0]
    inner = conv.make(edit, output=edit.fresh(f"{output}.sums"))
    add = edit.node("Add", [inner.output[0], ACCUMULATOR], "accumulate", output)
    edit.replace([conv.node], [inner, add])
    return len(conv.weight), block, places_first
