"""Operators that only move samples: they reorder, group, crop and repeat the axes of a tensor.

A reshape may split rows or columns into themselves and sub-pixels, as pixel unshuffle and windowed attention
do, and may merge sub-pixels back into them. It may also merge several axes into one, such as the tokens of a
transformer. The factors of such an axis are kept, and a later reshape takes them apart again. No sample
moves past another, so the receptive field stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..onnx_helpers import SLICE_END
from .receptive_field import IDENTITY, Link, Strided
from .tensors import UNTILED, Axis, Call, Factor, Flow, Result, Results, axis_size, has_space, unmoved


def transpose(call: Call) -> Results:
    """Trace Transpose."""
    axes = call.flow.axes
    perm = call.attribute("perm", list(range(len(axes)))[::-1])
    if sorted(perm) != list(range(len(axes))):
        raise call.refusal(f"perm {list(perm)} is not a permutation of {len(axes)} axes")
    return unmoved(Flow.of([axes[p] for p in perm]))


def reshape(call: Call) -> Results:
    """Trace Reshape."""
    shape = call.flow.shape
    target = [int(n) for n in call.numbers(1)]
    if not call.attribute("allowzero", 0):
        target = [shape[k] if n == 0 else n for k, n in enumerate(target)]
    if -1 in target:
        rest = math.prod(n for n in target if n != -1)
        target[target.index(-1)] = math.prod(shape) // max(rest, 1)
    if math.prod(target) != math.prod(shape):
        raise call.refusal(f"{shape} does not reshape to {tuple(target)}: sizes are baked in")
    return _regroup(call, call.flow, target)


def flatten(call: Call) -> Results:
    """Trace Flatten."""
    shape = call.flow.shape
    axis = call.attribute("axis", 1)
    at = axis if axis == len(shape) else call.axis(axis, len(shape))
    return _regroup(call, call.flow, [math.prod(shape[:at]), math.prod(shape[at:])])


def _regroup(call: Call, flow: Flow, target: list[int]) -> Results:
    """Match the axes before and after a reshape by their products and carry their factors over."""
    axes: list[Axis] = []
    links: list[Link] = [IDENTITY, IDENTITY]
    old = flow.axes
    i = j = 0
    while i < len(old) or j < len(target):
        i0, j0 = i, j
        before = after = 1
        if i < len(old):
            before, i = before * flow.shape[i], i + 1
        if j < len(target):
            after, j = after * target[j], j + 1
        while before != after:
            if before < after:
                before, i = before * flow.shape[i], i + 1
            else:
                after, j = after * target[j], j + 1
        if i - i0 == j - j0 == 1:
            axes.append(old[i0])
        else:
            axes += _distribute(call, [f for axis in old[i0:i] for f in axis], target[j0:j], links)
    return [(Flow.of(axes), links[0], links[1], 0)]


def _distribute(call: Call, factors: list[Factor], target: list[int], links: list[Link]) -> list[Axis]:
    """Distribute factors, outermost first, over axes of these sizes; set the links of split y and x."""
    left = [f for f in factors if f[0] in "yx" or f[1] > 1]
    axes: list[list[Factor]] = []
    for size in target:
        axis: list[Factor] = []
        have = 1
        while have < size or (left and left[0][1] == size == 1 and not axis):
            role, count = left.pop(0)
            part = math.gcd(count, size // have) if size % have == 0 else 0
            if part != count:
                if part == 0 or have * part != size:
                    raise call.refusal(f"splits rows, columns or channels unevenly, {UNTILED}")
                # The outer part keeps the role. The inner part becomes sub-pixels.
                left.insert(0, ("c", count // part))
                if role in "yx":
                    _set_link(call, links, role, Strided(kernel=count // part, stride=count // part))
            axis.append((role, part))
            have *= part
        axes.append(axis)
    if left and not axes:
        raise call.refusal("drops a spatial axis")
    if left:  # of size 1
        axes[-1] += left
    return [_joined(call, axis, links) for axis in axes]


def _joined(call: Call, factors: list[Factor], links: list[Link]) -> Axis:
    """Return one axis of these factors: merge adjacent channels, and sub-pixels into their row or column."""
    axis: list[Factor] = []
    for role, count in factors:
        if role == "c" and axis and axis[-1][0] == "c":
            axis[-1] = ("c", axis[-1][1] * count)
        else:
            axis.append((role, count))
    if len(axis) == 2 and axis[0][0] in "yx" and axis[1][0] == "c":
        (role, count), (_, inside) = axis
        _set_link(call, links, role, Strided(up=inside))
        axis = [(role, count * inside)]
    return tuple(axis) or (("c", 1),)


def _set_link(call: Call, links: list[Link], role: str, link: Link) -> None:
    axis = "yx".index(role)
    if links[axis] is not IDENTITY:
        raise call.refusal("splits and joins a spatial axis at once")
    links[axis] = link


def squeeze(call: Call) -> Results:
    """Trace Squeeze."""
    flow = call.flow
    rank = len(flow.shape)
    axes = call.attribute_or_input("axes", 1)
    if axes is None:
        axes = [k for k in range(rank) if flow.shape[k] == 1]
    drop = {call.axis(a, rank) for a in axes}
    if any(flow.is_spatial(a) for a in drop):
        raise call.refusal("drops a spatial axis")
    return unmoved(Flow.of([a for k, a in enumerate(flow.axes) if k not in drop]))


def unsqueeze(call: Call) -> Results:
    """Trace Unsqueeze."""
    axes = call.attribute_or_input("axes", 1) or []
    result = call.flow.axes
    rank = len(result) + len(axes)
    for a in sorted(call.axis(a, rank) for a in axes):
        result.insert(a, (("c", 1),))
    return unmoved(Flow.of(result))


def concat(call: Call) -> Results:
    """Trace Concat along channels."""
    flows = [i for i in call.inputs if isinstance(i, Flow)]
    if len(flows) != len(call.inputs):
        raise call.refusal("joins the image with a constant")
    first = flows[0]
    axis = call.axis(call.attribute("axis"), len(first.shape))
    if first.is_spatial(axis):
        raise call.refusal("joins along rows or columns")
    _check_batch(call, first, axis)
    if any(f.spatial != first.spatial or _spatial_axes(f) != _spatial_axes(first) for f in flows):
        raise call.refusal(f"its inputs have different sizes, {', '.join(str(f.spatial) for f in flows)}")
    return unmoved(_resized(first, axis, sum(f.shape[axis] for f in flows)))


def _spatial_axes(flow: Flow) -> list[Axis | str]:
    """Return the axes that must agree between joined tensors: those that hold rows or columns."""
    return [a if has_space(a) else "" for a in flow.axes]


def _resized(flow: Flow, axis: int, size: int) -> Flow:
    """Return a flow with another size of one axis, whose factors become one."""
    axes = flow.axes
    axes[axis] = ((flow.roles[axis].replace("m", "c"), size),)
    return Flow.of(axes)


def split(call: Call) -> Results:
    """Trace Split."""
    flow = call.flow
    axis = call.axis(call.attribute("axis", 0), len(flow.shape))
    count = len(call.node.output)
    sizes = call.attribute_or_input("split", 1)
    if sizes is None:
        part = -(-flow.shape[axis] // count)
        sizes = [part] * (count - 1) + [flow.shape[axis] - part * (count - 1)]
    results, start = [], 0
    for size in sizes:
        results.append(_cropped(call, flow, axis, start, 1, int(size)))
        start += int(size)
    return results


def slices(call: Call) -> Results:
    """Trace Slice."""
    flow = call.flow
    starts, ends, axes = (call.attribute_or_input(k, i) for i, k in enumerate(("starts", "ends", "axes"), 1))
    steps = None if call.known(4) is None else call.numbers(4)
    if starts is None or ends is None:
        raise call.refusal("starts or ends are missing")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    links: list[Link] = [IDENTITY, IDENTITY]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = call.axis(axis, len(flow.shape))
        first, stop, stride = slice(start, None if end >= SLICE_END else end, step).indices(flow.shape[axis])
        count = len(range(first, stop, stride))
        if (first, stride, count) == (0, 1, flow.shape[axis]):
            continue
        flow, y, x, _ = _cropped(call, flow, axis, first, stride, count)
        links = [a if b is IDENTITY else b for a, b in zip(links, (y, x), strict=True)]
    return [(flow, links[0], links[1], 0)]


def _cropped(call: Call, flow: Flow, axis: int, first: int, stride: int, count: int) -> Result:
    """Return the result of keeping `count` samples of an axis, `stride` apart, from `first` on."""
    links: list[Link] = [IDENTITY, IDENTITY]
    _check_batch(call, flow, axis)
    if flow.is_spatial(axis):
        if flow.roles[axis] == "m":
            raise call.refusal(f"cuts an axis that holds rows and columns, {UNTILED}")
        if stride < 0:
            raise call.refusal("flips the image")
        links["yx".index(flow.roles[axis])] = Strided(stride=stride, start=first)
    return _resized(flow, axis, count), links[0], links[1], 0


def gather(call: Call) -> Results:
    """Trace Gather along channels."""
    flow = call.flow
    axis = call.axis(call.attribute("axis", 0), len(flow.shape))
    check_channels(call, [axis])
    index = call.value(1)
    axes = flow.axes
    axes[axis : axis + 1] = [(("c", n),) for n in index.shape]
    return unmoved(Flow.of(axes))


def expand(call: Call) -> Results:
    """Trace Expand of axes that hold neither rows nor columns."""
    flow = call.flow
    target = [int(n) for n in call.numbers(1)]
    axes = [(("c", 1),)] * (len(target) - len(flow.shape)) + flow.axes
    target = [1] * (len(axes) - len(target)) + target
    for k, (axis, size) in enumerate(zip(axes, target, strict=True)):
        have = axis_size(axis)
        if size not in (1, have):
            if have != 1 or has_space(axis):
                raise call.refusal("repeats rows or columns")
            axes[k] = ((axis[0][0], size),)
    return unmoved(Flow.of(axes))


def tile(call: Call) -> Results:
    """Trace Tile of axes that hold neither rows nor columns."""
    flow = call.flow
    repeats = [int(n) for n in call.numbers(1)]
    if len(repeats) != len(flow.shape):
        raise call.refusal(f"{len(repeats)} repeats for {len(flow.shape)} axes")
    for k, count in enumerate(repeats):
        if count != 1:
            if flow.is_spatial(k):
                raise call.refusal("repeats rows or columns")
            flow = _resized(flow, k, flow.shape[k] * count)
    return unmoved(flow)


def scatter_nd(call: Call) -> Results:
    """Trace ScatterND that replaces whole channels, as a network does that convolves some of them."""
    data, updates = (call.inputs[k] for k in (0, 2))
    index = call.known(1)
    if index is None or index.by_size:
        raise call.refusal("the indices that it writes to must be constant")
    if not isinstance(data, Flow) or not isinstance(updates, Flow):
        raise call.refusal("mixes the image with a constant")
    depth, outer = index.value.shape[-1], index.value.ndim - 1
    for state, behind in ((data, depth), (updates, outer)):
        if any(state.is_spatial(k) for k in range(min(behind, len(state.shape)))):
            raise call.refusal(f"writes to single rows, columns or pixels, {UNTILED}")
    if updates.axes[outer:] != data.axes[depth:]:
        raise call.refusal(f"its inputs have different sizes, {data.spatial} and {updates.spatial}")
    if updates.shape[:outer] != index.value.shape[:-1]:
        raise call.refusal(f"{index.value.shape} indices for samples of shape {updates.shape}")
    limits = data.shape[:depth]
    if (index.value >= limits).any() or (index.value < [-n for n in limits]).any():
        raise call.refusal(f"writes outside of {limits}")
    return unmoved(data)


def check_channels(call: Call, axes: Sequence[int]) -> None:
    """Refuse an operator that mixes rows, columns or images of a batch along any of these axes."""
    flow = call.flow
    places = [call.axis(a, len(flow.shape)) for a in axes]
    if any(flow.is_spatial(a) for a in places):
        raise call.refusal(f"the receptive field of {call.op} over rows or columns is unbounded, {UNTILED}")
    for axis in places:
        _check_batch(call, flow, axis)


def _check_batch(call: Call, flow: Flow, axis: int) -> None:
    if any(role == "n" for role, _ in flow.factors(axis)):
        raise call.refusal("mixes the images of a batch")
