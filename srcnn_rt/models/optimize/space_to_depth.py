"""A network between two layers that look around, on blocks of pixels instead of pixels.

SpaceToDepth makes of b x b samples of an image as many channels of one. The first layer then reads
and makes blocks: each filter stands at all b² places of a block, its taps spread over the blocks it meets.
Pointwise layers do not mind in which order pixels come: the b² places of a channel are given
to them as if they were images of their own, which is another view of the same memory. The last layer
reads blocks and makes blocks, and DepthToSpace makes pixels of them: ::

    lr ─ SpaceToDepth ─ conv 3x3, b² to 64·b² ─ relu ─ view ─ conv 1x1 ─ relu ─ view ─ conv 2x2 ─ DepthToSpace

Many multiplications are by zero, but all lanes of a tensor core are full where an image fills one
of eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graph_edit import MAX_NUMBERS, Conv, Edit
from .pointwise import is_pointwise, only_pointwise_to_output
from .subpixel_phases import copy_of
from .tensor_core_cost import executed
from .widen_narrow import OLDEST, may_crop

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BLOCKS = (2, 4, 8)
_MAX_CHANNELS = 4
_WORTH = 0.9  # of what both layers execute otherwise, at most


def block_layers(model: ModelProto) -> ModelProto:
    """Rewrite a layer of few channels, the pointwise ones behind it, and the one that makes the output.

    Only in models that do not pad: what others add to images that are no whole blocks would have to be
    zeros in every layer. Kernels must be whole blocks and one sample; so no layer reads more than it did and
    margins stay. The analysis gives the model a period.

    Parameters
    ----------
    model : never changed
    """
    edit = Edit(model)
    if edit.opset < OLDEST or not may_crop(model):
        return edit.model()
    for node in list(edit.nodes):
        chain = _find(edit, node)
        block = None if chain is None else best_block(chain.first, chain.last)
        if chain is not None and block is not None:
            _rewrite(edit, chain, block)
            break
    return edit.model()


@dataclass(frozen=True, slots=True)
class _Chain:
    """A layer that looks around, pointwise nodes behind it, and the next layer that does."""

    first: Conv
    between: list[NodeProto]
    last: Conv


def _find(edit: Edit, node: NodeProto) -> _Chain | None:
    first = Conv.of(edit, node)
    if first is None or not first.plain or first.weight.shape[1] > _MAX_CHANNELS or first.kernel == (1, 1):
        return None
    between, at = [], node.output[0]
    while (user := edit.only_user(at)) is not None and is_pointwise(edit, user, at):
        between.append(user)
        at = user.output[0]
    last = Conv.of(edit, user)
    if last is None or not last.plain or not only_pointwise_to_output(edit, last.node.output[0]):
        return None
    return _Chain(first, between, last)


def best_block(first: Conv, last: Conv) -> int | None:
    """Return the side of the block that executes least; None if none is allowed and worth it."""

    def cost(conv: Conv, b: int) -> float:
        out, inner, kh, kw = conv.weight.shape
        taps = ((kh - 1) // b + 1, (kw - 1) // b + 1)
        return executed(out * b * b, inner * b * b, taps) / (b * b)

    def allowed(conv: Conv, b: int) -> bool:
        return all((k - 1) % b == 0 for k in conv.kernel) and conv.weight.size * b**4 <= MAX_NUMBERS

    costs = {b: cost(first, b) + cost(last, b) for b in BLOCKS if allowed(first, b) and allowed(last, b)}
    best = min(costs, key=lambda b: costs[b], default=None)
    return best if best is not None and costs[best] <= _WORTH * (cost(first, 1) + cost(last, 1)) else None


def blocked(weight: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """Return a kernel (out, in, kh, kw) for blocks: (b²·out, b²·in, (kh - 1) / b + 1, …).

    Channels are places of a block first, as SpaceToDepth makes them and DepthToSpace's DCR reads them.
    """
    out, inner, kh, kw = weight.shape
    th, tw = (kh - 1) // b + 1, (kw - 1) // b + 1
    made = np.zeros((b, b, out, b, b, inner, th, tw))
    for (y, x), (i, j) in ((p, t) for p in np.ndindex(b, b) for t in np.ndindex(kh, kw)):
        (qy, ty), (qx, tx) = divmod(y + i, b), divmod(x + j, b)
        made[y, x, :, ty, tx, :, qy, qx] = weight[:, :, i, j]
    return made.reshape(b * b * out, b * b * inner, th, tw)


def _rewrite(edit: Edit, chain: _Chain, b: int) -> None:
    first, last, places = chain.first, chain.last, b * b
    target = last.node.output[0]
    name = first.node.name or first.node.output[0]
    start = edit.node("SpaceToDepth", first.node.input[:1], f"{name}.blocks", blocksize=b)
    new = [
        start,
        first.make(
            edit,
            source=start.output[0],
            output=edit.fresh(f"{name}.blocked"),
            weight=blocked(first.weight, b),
            bias=np.tile(first.bias, places),
        ),
    ]
    # An activation sees single samples; what has weights sees channels, which a view gives it.
    weighted = [any(edit.array(n) is not None for n in node.input) for node in chain.between]
    viewed = weighted.index(True) if any(weighted) else len(weighted)
    for k, node in enumerate(chain.between):
        if k == viewed:
            new.append(_view(edit, new[-1].output[0], f"{name}.places", len(first.weight)))
        new.append(copy_of(edit, node, new[-1].output[0]))
    if any(weighted):
        new.append(_view(edit, new[-1].output[0], f"{name}.together", places * last.weight.shape[1]))
    end = last.make(
        edit,
        source=new[-1].output[0],
        output=edit.fresh(f"{target}.blocked"),
        weight=blocked(last.weight, b),
        bias=np.tile(last.bias, places),
    )
    shuffle = edit.node("DepthToSpace", end.output, f"{name}.pixels", target, blocksize=b, mode="DCR")
    edit.replace([first.node, *chain.between, last.node], [*new, end, shuffle])


def _view(edit: Edit, source: str, name: str, channels: int) -> NodeProto:
    """Return the node that gives a tensor so many channels, and as many images as that makes."""
    shape = edit.weight(f"{name}.shape", np.array([-1, channels, 0, 0], np.int64))
    return edit.node("Reshape", [source, shape], name)
