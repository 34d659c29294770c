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

from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..onnx_helpers import SLICE_END, attribute
from .cpu_cost import LANES, executed
from .graph_edit import MAX_WEIGHT_SIZE, MAX_WORK, Conv, Edit
from .pointwise import chain_to_last_layer
from .widen_narrow import OLDEST, best_block, block_cost, may_crop

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
        head = _find(edit, node) if node.op_type == "DepthToSpace" and edit.opset >= OLDEST else None
        if head is not None:
            stride = _best_stride(head, _STRIDES if may_crop(model) else _STRIDES[:1])
            if stride is not None:
                _rewrite(edit, head, stride)
    return edit.model()


@dataclass(frozen=True, slots=True)
class _Enlarging:
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

    def lost(self, axis: int) -> int:
        """Return the HR samples that s times the input loses up to the end of these nodes."""
        enlarged = self.scale * (self.enlarge.shape[4 + axis] - 1) + self.crop[axis] + self.crop[axis + 2]
        return int(enlarged + self.first.kernel[axis] - 1)

    def reads(self, axis: int, phase: int) -> list[tuple[int, int]]:
        """Return the LR offset and the enlarging phase that every tap of the first layer reads."""
        return [divmod(phase + self.crop[axis] + i, self.scale) for i in range(self.first.kernel[axis])]


@dataclass(frozen=True, slots=True)
class _Head(_Enlarging):
    """An enlargement, the layer behind it, and the nodes up to the next layer with a larger kernel.

    Attributes
    ----------
    between : list of NodeProto
        Pointwise nodes.
    last : Conv
        The next layer.
    """

    between: list[NodeProto]
    last: Conv

    def lost(self, axis: int) -> int:
        """Return the HR samples that s times the input loses up to the end of these nodes."""
        return _Enlarging.lost(self, axis) + self.last.kernel[axis] - 1


@dataclass(frozen=True, slots=True)
class _Phase:
    """One phase on one axis.

    Attributes
    ----------
    reads : list of tuple
        LR offset and enlarging phase of every tap of the first layer.
    low : int
        Smallest LR offset.
    places : list of tuple
        (HR row of the block, tap of the last layer, its LR offset) of all that read this phase.
    start, taps : int
        Range of the LR offsets of `places`.
    """

    reads: list[tuple[int, int]]
    low: int
    places: list[tuple[int, int, int]]
    start: int
    taps: int


def _enlarging(edit: Edit, shuffle: NodeProto) -> _Enlarging | None:
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
    if (
        enlarge.dense_size > MAX_WEIGHT_SIZE
        or len(_STRIDES) * first.weight.size * enlarge.dense_size > MAX_WORK
    ):
        return None
    kernel, bias = _by_phase(enlarge, s, attribute(shuffle, "mode", b"DCR"))
    return _Enlarging(enlarge.node.input[0], s, kernel, bias, crop, first, [*nodes, first.node])


def _find(edit: Edit, shuffle: NodeProto) -> _Head | None:
    found = _enlarging(edit, shuffle)
    if found is None:
        return None
    rest = chain_to_last_layer(edit, found.first.node.output[0])
    if rest is None:
        return None
    between, last = rest
    nodes = [*found.nodes, *between, last.node]
    head = _Head(
        found.source,
        found.scale,
        found.enlarge,
        found.enlarge_bias,
        found.crop,
        found.first,
        nodes,
        between,
        last,
    )
    return None if any(head.lost(axis) % head.scale for axis in (0, 1)) else head


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
    dense = conv.dense
    out, inner = dense.shape[:2]
    channels = out // (s * s)
    if mode == b"CRD":
        return dense.reshape(channels, s, s, inner, *conv.kernel), conv.bias.reshape(channels, s, s)
    dense = dense.reshape(s, s, channels, inner, *conv.kernel)
    return dense.transpose(2, 0, 1, 3, 4, 5), conv.bias.reshape(s, s, channels).transpose(2, 0, 1)


def _best_stride(head: _Head, strides: range) -> int | None:
    """Return the LR stride of the last layer that executes least; None if it does not save enough."""
    s, first, last = head.scale, head.first, head.last
    inner = head.enlarge.shape[3]
    b = best_block(len(last.weight), last.weight.shape[1], last.kernel)
    plain = block_cost(len(last.weight), last.weight.shape[1], last.kernel, b)
    plain += executed(len(first.weight), first.weight.shape[1], first.kernel)
    plain += executed(s * s * first.weight.shape[1], inner, head.enlarge.shape[4:], (s, s))
    costs = {}
    for stride in strides:
        block = s * stride
        out = len(last.weight) * block * block
        if out > 4 * LANES:  # most of so large a window would be zeros
            break
        cost = 0.0
        for y, x in product(_phases(head, 0, stride), _phases(head, 1, stride)):
            cost += executed(len(first.weight), inner, _kernel(head, y, x)[0].shape[2:], (s, s))
            cost += executed(out, last.weight.shape[1], (y.taps, x.taps), (block, block))
        costs[stride] = cost
    best = min(costs, key=lambda k: costs[k], default=None)
    return best if best is not None and costs[best] <= _MAX_COST_RATIO * plain else None


def _phases(head: _Head, axis: int, stride: int) -> list[_Phase]:
    """Return the phases on an axis that the last layer reads."""
    s, block = head.scale, head.scale * stride
    found = []
    for p in range(s):
        reads = head.reads(axis, p)
        places = [
            (j, t, (j + t - p) // s)
            for j in range(block)
            for t in range(head.last.kernel[axis])
            if (j + t - p) % s == 0
        ]
        if places:
            offsets = [q for _, _, q in places]
            taps = max(offsets) - min(offsets) + 1
            found.append(_Phase(reads, min(q for q, _ in reads), places, min(offsets), taps))
    return found


def _kernel(head: _Enlarging, y: _Phase, x: _Phase) -> tuple[Array, Array, tuple[int, int]]:
    """Return the first layer of one phase on LR samples: kernel, bias, and first LR offset on y and x."""
    first, big = head.first.weight, head.enlarge
    kh, kw = big.shape[4:]
    height, width = (max(q for q, _ in p.reads) - p.low + k for p, k in ((y, kh), (x, kw)))
    kernel = np.zeros((len(first), big.shape[3], height, width))
    bias = head.first.bias.copy()
    for i, (qy, py) in enumerate(y.reads):
        for j, (qx, px) in enumerate(x.reads):
            at_y, at_x = qy - y.low, qx - x.low
            kernel[:, :, at_y : at_y + kh, at_x : at_x + kw] += np.tensordot(
                first[:, :, i, j], big[:, py, px], axes=1
            )
            bias += first[:, :, i, j] @ head.enlarge_bias[:, py, px]
    # Bicubic has only four taps in most phases, so some borders are zeros.
    rows = np.flatnonzero(np.any(kernel, axis=(0, 1, 3)))
    cols = np.flatnonzero(np.any(kernel, axis=(0, 1, 2)))
    if not rows.size:
        return kernel[:, :, :1, :1], bias, (y.low, x.low)
    kernel = kernel[:, :, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return kernel, bias, (y.low + int(rows[0]), x.low + int(cols[0]))


def _gather(head: _Head, y: _Phase, x: _Phase, block: int) -> Array:
    """Return the kernel of the last layer from one phase to a block: (out·block², in, taps, taps)."""
    weight = head.last.weight
    out = np.zeros((len(weight), block, block, weight.shape[1], y.taps, x.taps))
    for jy, ty, qy in y.places:
        for jx, tx, qx in x.places:
            out[:, jy, jx, :, qy - y.start, qx - x.start] = weight[:, :, ty, tx]
    return out.reshape(len(weight) * block * block, weight.shape[1], y.taps, x.taps)


def _rewrite(edit: Edit, head: _Head, stride: int) -> None:
    block = head.scale * stride
    new: list[NodeProto] = []
    total = ""
    for y, x in product(_phases(head, 0, stride), _phases(head, 1, stride)):
        kernel, bias, low = _kernel(head, y, x)
        spans = [
            _span(head, axis, stride, p, low[axis], kernel.shape[2 + axis]) for axis, p in enumerate((y, x))
        ]
        nodes, at = _slice(edit, head.source, spans)
        new += nodes
        new.append(head.first.make(edit, source=at, output=edit.fresh("phase"), weight=kernel, bias=bias))
        for node in head.between:
            new.append(copy_of(edit, node, new[-1].output[0]))
        new.append(
            head.last.make(
                edit,
                source=new[-1].output[0],
                output=edit.fresh("blocks"),
                weight=_gather(head, y, x, block),
                # The bias is added once, not once per phase.
                bias=np.zeros(1) if total else np.repeat(head.last.bias, block * block),
                stride=(stride, stride),
            )
        )
        if total:
            new.append(edit.node("Add", [total, new[-1].output[0]], "phases.sum"))
        total = new[-1].output[0]
    target = head.last.node.output[0]
    new.append(edit.node("DepthToSpace", [total], "phases.shuffle", target, blocksize=block, mode="CRD"))
    edit.replace(head.nodes, new)


def _span(head: _Head, axis: int, stride: int, p: _Phase, low: int, size: int) -> tuple[int, int]:
    """Return the LR samples that a phase leaves out before and after."""
    before = low + p.start
    # N blocks come from stride·N + lost/s samples and read (N - 1)·stride + taps + size - 1.
    after = head.lost(axis) // head.scale + stride - before - p.taps - size + 1
    return before, after


def _slice(
    edit: Edit, source: str, spans: list[tuple[int, int]], target: str | None = None
) -> tuple[list[NodeProto], str]:
    """Return the Slice that leaves samples out before and after, on y and x, if any, and its output."""
    if not any(n for span in spans for n in span):
        return [], source
    starts, ends = [a for a, _ in spans], [-b if b else SLICE_END for _, b in spans]
    names = [
        edit.weight(f"phase.{key}", np.array(values, np.int64))
        for key, values in (("starts", starts), ("ends", ends), ("axes", [2, 3]))
    ]
    node = edit.node("Slice", [source, *names], "phase.slice", target)
    return [node], node.output[0]


def copy_of(edit: Edit, node: NodeProto, source: str) -> NodeProto:
    """Return a copy of a pointwise node that reads `source`; weights are shared."""
    copy = deepcopy(node)
    for k, name in enumerate(copy.input):
        if name and edit.array(name) is None:
            copy.input[k] = source
    copy.name = edit.fresh(node.name or node.op_type)
    copy.output[0] = edit.fresh(f"{copy.name}.out")
    return copy


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
        if node.op_type == "DepthToSpace" and edit.opset >= OLDEST:
            head = _enlarging(edit, node)
            if head is not None:
                _shuffle(edit, head)
    return edit.model()


def _shuffle(edit: Edit, head: _Enlarging) -> None:
    s, first = head.scale, head.first
    phases = [[_Phase(head.reads(axis, p), 0, [], 0, 0) for p in range(s)] for axis in (0, 1)]
    parts = [[_kernel(head, y, x) for x in phases[1]] for y in phases[0]]
    every = [part for row in parts for part in row]
    low = [min(part[2][axis] for part in every) for axis in (0, 1)]
    high = [max(part[2][axis] + part[0].shape[2 + axis] for part in every) for axis in (0, 1)]
    out, inner = every[0][0].shape[:2]
    weight = np.zeros((s, s, out, inner, high[0] - low[0], high[1] - low[1]))
    bias = np.zeros((s, s, out))
    for y, row in enumerate(parts):
        for x, (kernel, sums, (at_y, at_x)) in enumerate(row):
            h, w = kernel.shape[2:]
            weight[y, x, :, :, at_y - low[0] : at_y - low[0] + h, at_x - low[1] : at_x - low[1] + w] = kernel
            bias[y, x] = sums
    lost = [head.lost(axis) for axis in (0, 1)]
    # All whole LR pixels are computed. Of the last one, `extra` HR rows and columns are cropped.
    extra = [n % s for n in lost]
    after = [lost[axis] // s - high[axis] + 1 for axis in (0, 1)]
    # The cropped rows and columns may read zeros beyond the image.
    new, at = _slice(edit, head.source, [(low[axis], max(after[axis], 0)) for axis in (0, 1)])
    new.append(
        first.make(
            edit,
            source=at,
            output=edit.fresh("phases"),
            weight=weight.reshape(s * s * out, inner, *weight.shape[4:]),
            bias=bias.reshape(-1),
            pads=(0, 0, max(-after[0], 0), max(-after[1], 0)),
        )
    )
    target, nodes = first.node.output[0], list(head.nodes)
    user = edit.only_user(target)
    if user is not None and user.op_type == "Relu":  # moved before the shuffle, so that a runtime can fuse it
        new.append(copy_of(edit, user, new[-1].output[0]))
        target, nodes = user.output[0], [*nodes, user]
    shuffled = edit.fresh("shuffled") if any(extra) else target
    new.append(
        edit.node("DepthToSpace", new[-1].output[:1], "phases.shuffle", shuffled, blocksize=s, mode="DCR")
    )
    if any(extra):
        nodes_cut, _ = _slice(edit, shuffled, [(0, n) for n in extra], target)
        new += nodes_cut
    edit.replace(nodes, new)
