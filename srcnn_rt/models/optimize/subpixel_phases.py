"""A network on an enlarged image, computed on the LR image itself, one phase at a time.

SRCNN's first layers work on an image that was enlarged s times by a convolution (bicubic) and DepthToSpace.
The s² phases of an HR pixel (its place within its LR pixel) each read LR samples through a kernel of their
own: the first layer's, multiplied with the enlargement. An enlarged image holds no more information than the
LR one, so that kernel is smaller: 8, 6 or 7, and 6 taps per side for SRCNN's 9 at ×2, ×3, ×4. Pointwise
layers do not depend on the order of the pixels. The next layer with a larger kernel sums over the phases: ::

    lr ─┬─ slice ─ conv 8x8 ─ relu ─ conv 1x1 ─ relu ─ conv (stride) ─┐
        ├─ slice ─ conv 8x8 ─ relu ─ conv 1x1 ─ relu ─ conv (stride) ─┤ sum ─ DepthToSpace ─ hr
        └─ ...  s² branches                                          ─┘

The last convolution computes a block of HR pixels at once, as in `widen_narrow`. This saves multiplications
and the enlarged image, and activations of one phase are s² times smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..onnx_helpers import SLICE_END, attribute
from .cpu_cost import LANES, cheapest, executed
from .graph_edit import MAX_WEIGHT_SIZE, MAX_WORK, Conv, Edit
from .node_builder import NodeBuilder
from .pointwise import chain_to_last_layer
from .widen_narrow import OLDEST, best_block, block_cost, may_crop, shifted

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[np.float64]
_STRIDES = range(1, 5)
_MAX_SCALE = 16
_MAX_COST_RATIO = 0.95  # of the rewritten layers to the layers


def fold_enlargement(model: ModelProto) -> ModelProto:
    """Fold an enlarging convolution into the unpadded layer behind it, phase by phase.

    This applies where it executes less, to models whose next layer with a larger kernel makes the output. The
    margin stays. Rows and columns beyond the last whole block are left out, except with stride 1, the only
    one that is used for models that must keep their size.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    edit = Edit(model)
    for node in list(edit.nodes):
        head = enlargement(edit, node)
        rest = None if head is None else chain_to_last_layer(edit, head.first.node.output[0])
        if head is None or rest is None or any(head.lost(axis, rest[1]) % head.scale for axis in (0, 1)):
            continue
        stride = _best_stride(head, rest[1], _STRIDES if may_crop(model) else _STRIDES[:1])
        if stride is not None:
            _rewrite(edit, head, *rest, stride)
    return edit.model()


@dataclass(frozen=True, slots=True)
class Enlargement:
    """An enlargement and the layer behind it.

    Attributes
    ----------
    source : str
        The LR tensor.
    scale : int
        Scale factor s.
    enlarge : ndarray, shape (c, s, s, in, kh, kw)
        Enlarging kernel by channel and phase.
    enlarge_bias : ndarray, shape (c, s, s)
        Its bias.
    crop : tuple of int
        HR samples cropped before the first layer, (top, left, bottom, right).
    first : Conv
        The layer.
    nodes : list of NodeProto
        All nodes to be replaced.
    """

    source: str
    scale: int
    enlarge: Array
    enlarge_bias: Array
    crop: tuple[int, int, int, int]
    first: Conv
    nodes: list[NodeProto]

    def lost(self, axis: int, last: Conv | None = None) -> int:
        """Return the HR samples that s times the input loses up to the end of `first`, or of `last`."""
        enlarged = self.scale * (self.enlarge.shape[4 + axis] - 1) + self.crop[axis] + self.crop[axis + 2]
        return int(enlarged + sum(conv.kernel[axis] - 1 for conv in (self.first, last) if conv is not None))

    def reads(self, axis: int, phase: int) -> list[tuple[int, int]]:
        """Return the LR offset and the enlarging phase that every tap of the first layer reads."""
        return [divmod(phase + self.crop[axis] + i, self.scale) for i in range(self.first.kernel[axis])]


def enlargement(edit: Edit, shuffle: NodeProto) -> Enlargement | None:
    if shuffle.op_type != "DepthToSpace" or edit.opset < OLDEST:
        return None
    enlarge = Conv.of(edit, edit.maker(shuffle.input[0]))
    if enlarge is None or edit.only_user(enlarge.node.output[0]) is None:
        return None
    if any(enlarge.pads) or enlarge.stride != (1, 1) or enlarge.dilation != (1, 1):
        return None
    s = attribute(shuffle, "blocksize")
    nodes = [enlarge.node, shuffle]
    at, crop = shuffle.output[0], (0, 0, 0, 0)
    user = edit.only_user(at)
    if user is not None and user.op_type == "Slice":
        found = crop_of(edit, user)
        if found is None:
            return None
        crop, at = found, user.output[0]
        nodes.append(user)
    first = Conv.of(edit, edit.only_user(at))
    if first is None or not first.plain or s > _MAX_SCALE:
        return None
    # The two kernels are multiplied for every phase and every stride that is tried.
    size = enlarge.weight.size * enlarge.group
    if size > MAX_WEIGHT_SIZE or len(_STRIDES) * first.weight.size * size > MAX_WORK:
        return None
    kernel, bias = _by_phase(enlarge, s, attribute(shuffle, "mode", b"DCR"))
    return Enlargement(enlarge.node.input[0], s, kernel, bias, crop, first, [*nodes, first.node])


def crop_of(edit: Edit, node: NodeProto) -> tuple[int, int, int, int] | None:
    """Return (top, left, bottom, right) of a Slice that only crops constant borders."""
    arrays = [edit.array(n) for n in node.input[1:]]
    if len(arrays) < 2 or any(a is None for a in arrays):
        return None
    starts, ends, *rest = (a.tolist() for a in arrays if a is not None)
    axes = [a % 4 for a in rest[0]] if rest else list(range(len(starts)))
    if len(rest) > 1 and any(step != 1 for step in rest[1]):
        return None
    crop = [0, 0, 0, 0]
    for start, end, axis in zip(starts, ends, axes, strict=True):
        if start < 0 or (0 <= end < SLICE_END):
            return None
        if axis < 2:
            if start or end < 0:
                return None
            continue
        crop[axis - 2], crop[axis] = start, -end if end < 0 else 0
    return crop[0], crop[1], crop[2], crop[3]


def _by_phase(conv: Conv, s: int, mode: bytes) -> tuple[Array, Array]:
    """Return the enlarging kernel as (c, s, s, in, kh, kw), and its bias as (c, s, s)."""
    channels = len(conv.weight) // (s * s)
    order = np.arange(len(conv.weight))
    if mode != b"CRD":
        order = order.reshape(s * s, channels).T.reshape(-1)
    kernel = conv.dense[order].reshape(channels, s, s, -1, *conv.kernel)
    return kernel, conv.bias[order].reshape(channels, s, s)


def _best_stride(head: Enlargement, last: Conv, strides: range) -> int | None:
    """Return the LR stride of the last layer that executes least; None if it does not save enough."""
    s, first = head.scale, head.first
    inner = head.enlarge.shape[3]
    b = best_block(len(last.weight), last.weight.shape[1], last.kernel)
    plain = block_cost(len(last.weight), last.weight.shape[1], last.kernel, b)
    plain += executed(len(first.weight), first.weight.shape[1], first.kernel)
    plain += executed(s * s * first.weight.shape[1], inner, head.enlarge.shape[4:], (s, s))
    sizes = [phase_kernels(head, [y], [x])[0].shape[4:] for y, x in product(range(s), repeat=2)]
    every = sum(executed(len(first.weight), inner, size, (s, s)) for size in sizes)
    costs = {}
    for stride in strides:
        block = s * stride
        out = len(last.weight) * block * block
        if out > 4 * LANES:  # most of so large a window would be zeros
            break
        taps = [[len(range(p, k + block - 1, s)) for p in range(s)] for k in last.kernel]
        each = (executed(out, last.weight.shape[1], size, (block, block)) for size in product(*taps))
        costs[stride] = every + sum(each)
    return cheapest(costs, _MAX_COST_RATIO * plain)


def phase_kernels(
    head: Enlargement, ys: Sequence[int], xs: Sequence[int]
) -> tuple[Array, Array, tuple[int, int]]:
    """Return the first layer of some phases on LR samples.

    These are the kernels (y, x, out, in, kh, kw), the biases (y, x, out), and the first LR offset that they
    read on y and x.
    """
    first, big = head.first.weight, head.enlarge
    reads = [[head.reads(axis, p) for p in phases] for axis, phases in enumerate((ys, xs))]
    low = [min(q for taps in axis for q, _ in taps) for axis in reads]
    kh, kw = big.shape[4:]
    size = [
        max(q for taps in axis for q, _ in taps) - q0 + k
        for axis, q0, k in zip(reads, low, (kh, kw), strict=True)
    ]
    kernels = np.zeros((len(ys), len(xs), len(first), big.shape[3], *size))
    biases = np.tile(head.first.bias, (len(ys), len(xs), 1))
    for y, x in np.ndindex(len(ys), len(xs)):
        for (i, (qy, py)), (j, (qx, px)) in product(enumerate(reads[0][y]), enumerate(reads[1][x])):
            at_y, at_x = qy - low[0], qx - low[1]
            kernels[y, x, :, :, at_y : at_y + kh, at_x : at_x + kw] += np.tensordot(
                first[:, :, i, j], big[:, py, px], axes=1
            )
            biases[y, x] += first[:, :, i, j] @ head.enlarge_bias[:, py, px]
    # Bicubic has only four taps in most phases, so some borders are zeros.
    used = np.any(kernels, axis=(0, 1, 2, 3))
    rows, cols = (np.flatnonzero(used.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return kernels[..., :1, :1], biases, (low[0], low[1])
    kernels = kernels[..., rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return kernels, biases, (low[0] + int(rows[0]), low[1] + int(cols[0]))


def _rewrite(edit: Edit, head: Enlargement, between: list[NodeProto], last: Conv, stride: int) -> None:
    steps = NodeBuilder(edit, "phases")
    s, block = head.scale, head.scale * stride
    wide = shifted(last.weight, block)
    total = ""
    for y, x in product(range(s), repeat=2):
        kernel, bias, before = phase_kernels(head, [y], [x])
        far = wide[:, :, y::s, x::s]
        # N blocks come from stride·N + lost/s samples and read (N - 1)·stride + taps + size - 1.
        after = [
            head.lost(axis, last) // s
            + stride
            - before[axis]
            - far.shape[2 + axis]
            - kernel.shape[4 + axis]
            + 1
            for axis in (0, 1)
        ]
        at = steps.layer(
            head.first, steps.cut(head.source, before, after), weight=kernel[0, 0], bias=bias[0, 0]
        )
        for node in between:
            at = steps.copy(node, at)
        # The bias is added once, not once per phase.
        bias = np.zeros(1) if total else np.repeat(last.bias, block * block)
        at = steps.layer(last, at, weight=far, bias=bias, stride=(stride, stride))
        total = steps.op("Add", total, at) if total else at
    target = last.node.output[0]
    steps.op("DepthToSpace", total, output=target, blocksize=block, mode="CRD")
    edit.replace([*head.nodes, *between, last.node], steps.nodes)


def shuffle_enlargement(model: ModelProto) -> ModelProto:
    """Fold an enlarging convolution into the unpadded layer behind it, in one convolution.

    That layer then returns all phases as channels, and DepthToSpace follows it and its activation. More
    memory is moved, but the enlarged image is never stored. In low precision that keeps it from being rounded
    (`models.low_precision`).

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    edit = Edit(model)
    for node in list(edit.nodes):
        head = enlargement(edit, node)
        if head is not None:
            _shuffle(edit, head)
    return edit.model()


def _shuffle(edit: Edit, head: Enlargement) -> None:
    s, first = head.scale, head.first
    kernels, biases, low = phase_kernels(head, range(s), range(s))
    lost = [head.lost(axis) for axis in (0, 1)]
    # All whole LR pixels are computed. Of the last one, `extra` HR rows and columns are cropped.
    extra = [n % s for n in lost]
    after = [lost[axis] // s - low[axis] - kernels.shape[4 + axis] + 1 for axis in (0, 1)]
    # The cropped rows and columns may read zeros beyond the image.
    steps = NodeBuilder(edit, "phases")
    at = steps.layer(
        first,
        steps.cut(head.source, low, [max(n, 0) for n in after]),
        weight=kernels.reshape(-1, *kernels.shape[3:]),
        bias=biases.reshape(-1),
        pads=(0, 0, max(-after[0], 0), max(-after[1], 0)),
    )
    target, nodes = first.node.output[0], list(head.nodes)
    user = edit.only_user(target)
    if user is not None and user.op_type == "Relu":  # moved before the shuffle, so that a runtime can fuse it
        at = steps.copy(user, at)
        target, nodes = user.output[0], [*nodes, user]
    at = steps.op("DepthToSpace", at, output=None if any(extra) else target, blocksize=s, mode="DCR")
    steps.cut(at, (0, 0), extra, output=target)
    edit.replace(nodes, steps.nodes)
