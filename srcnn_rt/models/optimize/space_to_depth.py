"""Two layers with larger kernels and the pointwise layers between them, on blocks of pixels.

SpaceToDepth turns b x b samples of an image into channels. The first layer then reads and makes blocks: each
filter is repeated at all b² places of a block, with its taps spread over the blocks it meets. For pointwise
layers the b² places of a channel become images of the batch, which is another view of the same memory. The
last layer reads and makes blocks, and DepthToSpace turns them into pixels: ::

    lr ─ SpaceToDepth ─ conv 3x3, b² to 64·b² ─ relu ─ view ─ conv 1x1 ─ relu ─ view ─ conv 2x2 ─ DepthToSpace

Many multiplications are by zero, but all lanes of a tensor core are used, where an image uses one of eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graph_edit import MAX_WEIGHT_SIZE, Conv, Edit
from .pointwise import chain_to_last_layer
from .subpixel_phases import copy_of
from .tensor_core_cost import executed
from .widen_narrow import OLDEST, may_crop

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BLOCKS = (2, 4, 8)
_MAX_CHANNELS = 4
_MAX_COST_RATIO = 0.9  # of the rewritten layers to both layers


def block_layers(model: ModelProto) -> ModelProto:
    """Rewrite a layer of few channels, the pointwise ones behind it, and the one that makes the output.

    This applies to models that do not pad: padding an image to whole blocks would need zeros in every
    layer. Kernels must be whole blocks and one sample, so that no layer reads more than before and margins
    stay. The model gets a period.

    Parameters
    ----------
    model : ModelProto
        Not changed.
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
    """A layer, the pointwise nodes behind it, and the next layer with a larger kernel."""

    first: Conv
    between: list[NodeProto]
    last: Conv


def _find(edit: Edit, node: NodeProto) -> _Chain | None:
    first = Conv.of(edit, node)
    if first is None or not first.plain or first.weight.shape[1] > _MAX_CHANNELS or first.kernel == (1, 1):
        return None
    rest = chain_to_last_layer(edit, node.output[0])
    return None if rest is None else _Chain(first, *rest)


def best_block(first: Conv, last: Conv) -> int | None:
    """Return the side of the cheapest block; None if none is allowed and saves enough."""

    def cost(conv: Conv, b: int) -> float:
        out, inner, kh, kw = conv.weight.shape
        taps = ((kh - 1) // b + 1, (kw - 1) // b + 1)
        return executed(out * b * b, inner * b * b, taps) / (b * b)

    def allowed(conv: Conv, b: int) -> bool:
        return all((k - 1) % b == 0 for k in conv.kernel) and conv.weight.size * b**4 <= MAX_WEIGHT_SIZE

    costs = {b: cost(first, b) + cost(last, b) for b in BLOCKS if allowed(first, b) and allowed(last, b)}
    best = min(costs, key=lambda b: costs[b], default=None)
    return (
        best
        if best is not None and costs[best] <= _MAX_COST_RATIO * (cost(first, 1) + cost(last, 1))
        else None
    )


def blocked(weight: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """Return a kernel (out, in, kh, kw) for blocks: (b²·out, b²·in, (kh - 1) / b + 1, …).

    The place in the block is the outer factor of channels, as in SpaceToDepth and DepthToSpace's DCR mode.
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

    def blocks(conv: Conv, source: str, name: str) -> NodeProto:
        output, bias = edit.fresh(f"{name}.blocked"), np.tile(conv.bias, places)
        return conv.make(edit, source=source, output=output, weight=blocked(conv.weight, b), bias=bias)

    new = [start, blocks(first, start.output[0], name)]
    # Activations without weights need no view. Nodes with weights per channel do.
    weighted = [any(edit.array(n) is not None for n in node.input) for node in chain.between]
    viewed = weighted.index(True) if any(weighted) else len(weighted)
    for k, node in enumerate(chain.between):
        if k == viewed:
            new.append(_view(edit, new[-1].output[0], f"{name}.places", len(first.weight)))
        new.append(copy_of(edit, node, new[-1].output[0]))
    if any(weighted):
        new.append(_view(edit, new[-1].output[0], f"{name}.together", places * last.weight.shape[1]))
    end = blocks(last, new[-1].output[0], target)
    shuffle = edit.node("DepthToSpace", end.output, f"{name}.pixels", target, blocksize=b, mode="DCR")
    edit.replace([first.node, *chain.between, last.node], [*new, end, shuffle])


def _view(edit: Edit, source: str, name: str, channels: int) -> NodeProto:
    """Return a node that reshapes a tensor to `channels` channels, and to as many images as that gives."""
    shape = edit.weight(f"{name}.shape", np.array([-1, channels, 0, 0], np.int64))
    return edit.node("Reshape", [source, shape], name)
