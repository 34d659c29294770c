"""Two layers with larger kernels and the pointwise layers between them, on blocks of pixels.

SpaceToDepth turns b x b samples of an image into channels. The first layer then reads and makes blocks: each
filter is repeated at all b² places of a block, with its taps spread over the blocks it meets. For pointwise
layers the b² places of a channel become images of the batch, which is another view of the same memory. The
last layer reads and makes blocks, and DepthToSpace turns them into pixels: ::

    lr ─ SpaceToDepth ─ conv 3x3, b² to 64·b² ─ relu ─ view ─ conv 1x1 ─ relu ─ view ─ conv 2x2 ─ DepthToSpace

Many multiplications are by zero, but all lanes of a tensor core are used, where an image uses one of eight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .cpu_cost import cheapest
from .graph_edit import MAX_WEIGHT_SIZE, Conv, Edit
from .node_builder import NodeBuilder
from .pointwise import chain_to_last_layer
from .tensor_core_cost import executed
from .widen_narrow import OLDEST, may_crop, shifted

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
        first = Conv.of(edit, node)
        if (
            first is None
            or not first.plain
            or first.weight.shape[1] > _MAX_CHANNELS
            or first.kernel == (1, 1)
        ):
            continue
        rest = chain_to_last_layer(edit, node.output[0])
        block = None if rest is None else best_block(first, rest[1])
        if rest is not None and block is not None:
            _rewrite(edit, first, *rest, block)
            break
    return edit.model()


def best_block(first: Conv, last: Conv) -> int | None:
    """Return the side of the cheapest block; None if none is allowed and saves enough."""

    def cost(conv: Conv, b: int) -> float:
        out, inner, kh, kw = conv.weight.shape
        taps = ((kh - 1) // b + 1, (kw - 1) // b + 1)
        return executed(out * b * b, inner * b * b, taps) / (b * b)

    def allowed(conv: Conv, b: int) -> bool:
        return all((k - 1) % b == 0 for k in conv.kernel) and conv.weight.size * b**4 <= MAX_WEIGHT_SIZE

    costs = {b: cost(first, b) + cost(last, b) for b in BLOCKS if allowed(first, b) and allowed(last, b)}
    return cheapest(costs, _MAX_COST_RATIO * (cost(first, 1) + cost(last, 1)))


def blocked(weight: NDArray[np.float64], b: int) -> NDArray[np.float64]:
    """Return a kernel (out, in, kh, kw) for blocks: (b²·out, b²·in, (kh - 1) / b + 1, …).

    The place in the block is the outer factor of channels, as in SpaceToDepth and DepthToSpace's DCR mode.
    """
    out, inner, kh, kw = weight.shape
    th, tw = (kh - 1) // b + 1, (kw - 1) // b + 1
    places = shifted(weight, b).reshape(out, b * b, inner, th, b, tw, b)
    return places.transpose(1, 0, 4, 6, 2, 3, 5).reshape(b * b * out, b * b * inner, th, tw)


def _rewrite(edit: Edit, first: Conv, between: list[NodeProto], last: Conv, b: int) -> None:
    steps = NodeBuilder(edit, first.node.name or first.node.output[0])

    def layer(conv: Conv, x: str) -> str:
        return steps.layer(conv, x, weight=blocked(conv.weight, b), bias=np.tile(conv.bias, b * b))

    def view(x: str, channels: int) -> str:
        """Reshape to `channels` channels, and to as many images as that gives."""
        return steps.op("Reshape", x, steps.ints(-1, channels, 0, 0))

    at = layer(first, steps.op("SpaceToDepth", first.node.input[0], blocksize=b))
    # Activations without weights need no view. Nodes with weights per channel do.
    weighted = [any(edit.array(n) is not None for n in node.input) for node in between]
    for k, node in enumerate(between):
        if weighted[k] and not any(weighted[:k]):
            at = view(at, len(first.weight))
        at = steps.copy(node, at)
    if any(weighted):
        at = view(at, b * b * last.weight.shape[1])
    steps.op("DepthToSpace", layer(last, at), output=last.node.output[0], blocksize=b, mode="DCR")
    edit.replace([first.node, *between, last.node], steps.nodes)
