"""Operators that only move samples: they rename, order, group and cut the axes of a tensor.

A reshape may split rows or columns into (themselves, sub-pixels), as pixel unshuffle does and as windows of
attention do, and may put sub-pixels back behind them. It may also write several axes as one, as tokens of
transformers are: which factors such an axis holds is kept, and a later reshape takes them apart again.
Nothing is moved past anything by that, so the reach is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .receptive_field import SAME, Link, Step
from .tensors import FAR, UNTILED, Call, Factor, Flow, Results


def same(flow: Flow) -> Results:
    """Return the result of an operator whose samples stay where they are."""
    return [(flow, SAME, SAME, 0)]


def transpose(call: Call) -> Results:
    axes = call.flow.axes
    perm = call.attribute("perm", list(range(len(axes)))[::-1])
    if sorted(perm) != list(range(len(axes))):
        raise call.refusal(f"perm {list(perm)} is no order of {len(axes)} axes")
    return same(Flow.of([axes[p] for p in perm]))


def reshape(call: Call) -> Results:
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
    shape = call.flow.shape
    axis = call.attribute("axis", 1)
    at = axis if axis == len(shape) else call.axis(axis, len(shape))
    return _regroup(call, call.flow, [math.prod(shape[:at]), math.prod(shape[at:])])


def _regroup(call: Call, flow: Flow, target: list[int]) -> Results:
    """Match axes before and after by their products and carry what they hold over."""
    axes: list[tuple[Factor, ...]] = []
    links: list[Link] = [SAME, SAME]
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
            axes += _share_out(call, [f for axis in old[i0:i] for f in axis], target[j0:j], links)
    return [(Flow.of(axes), links[0], links[1], 0)]


def _share_out(
    call: Call, factors: list[Factor], target: list[int], links: list[Link]
) -> list[tuple[Factor, ...]]:
    """Give factors, outermost first, to axes of these sizes; note in `links` what splits or joins y and x."""
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
                    raise call.refusal(f"cuts rows, columns or channels across, {UNTILED}")
                # The outer part keeps the role; what it is split into are sub-pixels.
                left.insert(0, ("c", count // part))
                if role in "yx":
                    _note(call, links, role, Step(kernel=count // part, stride=count // part))
            axis.append((role, part))
            have *= part
        axes.append(axis)
    if left and not axes:
        raise call.refusal("drops a spatial axis")
    if left:  # of size 1
        axes[-1] += left
    return [_joined(call, axis, links) for axis in axes]


def _joined(call: Call, factors: list[Factor], links: list[Link]) -> tuple[Factor, ...]:
    """Return what one axis holds: channels side by side are one; sub-pixels go into their row or column."""
    axis: list[Factor] = []
    for role, count in factors:
        if role == "c" and axis and axis[-1][0] == "c":
            axis[-1] = ("c", axis[-1][1] * count)
        else:
            axis.append((role, count))
    if len(axis) == 2 and axis[0][0] in "yx" and axis[1][0] == "c":
        (role, count), (_, inside) = axis
        _note(call, links, role, Step(up=inside))
        axis = [(role, count * inside)]
    return tuple(axis) or (("c", 1),)


def _note(call: Call, links: list[Link], role: str, link: Link) -> None:
    axis = "yx".index(role)
    if links[axis] is not SAME:
        raise call.refusal("splits and joins a spatial axis at once")
    links[axis] = link


def squeeze(call: Call) -> Results:
    flow = call.flow
    rank = len(flow.shape)
    axes = call.attribute("axes")
    if axes is None:
        given = call.known(1) is not None
        axes = call.numbers(1) if given else [k for k in range(rank) if flow.shape[k] == 1]
    drop = {call.axis(a, rank) for a in axes}
    if any(flow.is_spatial(a) for a in drop):
        raise call.refusal("drops a spatial axis")
    return same(Flow.of([a for k, a in enumerate(flow.axes) if k not in drop]))


def unsqueeze(call: Call) -> Results:
    axes = call.attribute("axes")
    axes = call.numbers(1) if axes is None else axes
    result = call.flow.axes
    rank = len(result) + len(axes)
    for a in sorted(call.axis(a, rank) for a in axes):
        result.insert(a, (("c", 1),))
    return same(Flow.of(result))


def concat(call: Call) -> Results:
    flows = [i for i in call.inputs if isinstance(i, Flow)]
    if len(flows) != len(call.inputs):
        raise call.refusal("joins the image with a constant")
    first = flows[0]
    axis = call.axis(call.attribute("axis"), len(first.shape))
    if first.is_spatial(axis):
        raise call.refusal("joins along rows or columns")
    _check_batch(call, first, axis)
    if any(f.spatial != first.spatial or _kinds(f) != _kinds(first) for f in flows):
        raise call.refusal(f"its inputs have different sizes, {', '.join(str(f.spatial) for f in flows)}")
    axes = first.axes
    axes[axis] = ((first.roles[axis].replace("m", "c"), sum(f.shape[axis] for f in flows)),)
    return same(Flow.of(axes))


def _kinds(flow: Flow) -> list[tuple[Factor, ...] | str]:
    """Return what must agree of tensors that are joined: where rows and columns are."""
    return [a if flow.is_spatial(k) else "" for k, a in enumerate(flow.axes)]


def split(call: Call) -> Results:
    flow = call.flow
    axis = call.axis(call.attribute("axis", 0), len(flow.shape))
    count = len(call.node.output)
    sizes = call.attribute("split")
    if sizes is None and len(call.inputs) > 1 and call.inputs[1] is not None:
        sizes = call.numbers(1)
    if sizes is None:
        part = -(-flow.shape[axis] // count)
        sizes = [part] * (count - 1) + [flow.shape[axis] - part * (count - 1)]
    results, start = [], 0
    for size in sizes:
        cut, links = _cut(call, flow, axis, start, 1, int(size))
        results.append((cut, links[0], links[1], 0))
        start += int(size)
    return results


def slices(call: Call) -> Results:
    flow = call.flow
    starts, ends = call.attribute("starts"), call.attribute("ends")
    axes, steps = call.attribute("axes"), None
    if starts is None:
        starts, ends = (call.numbers(k) for k in (1, 2))
        axes, steps = (None if call.known(k) is None else call.numbers(k) for k in (3, 4))
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    links: list[Link] = [SAME, SAME]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = call.axis(axis, len(flow.shape))
        first, stop, stride = slice(start, None if end >= FAR else end, step).indices(flow.shape[axis])
        count = len(range(first, stop, stride))
        if (first, stride, count) == (0, 1, flow.shape[axis]):
            continue
        flow, (y, x) = _cut(call, flow, axis, first, stride, count)
        links = [a if b is SAME else b for a, b in zip(links, (y, x), strict=True)]
    return [(flow, links[0], links[1], 0)]


def _cut(
    call: Call, flow: Flow, axis: int, first: int, stride: int, count: int
) -> tuple[Flow, tuple[Link, Link]]:
    """Return the flow with `count` numbers of an axis, `stride` apart from `first` on, and the links."""
    links: list[Link] = [SAME, SAME]
    axes = flow.axes
    role = flow.roles[axis]
    _check_batch(call, flow, axis)
    if flow.is_spatial(axis):
        if role == "m":
            raise call.refusal(f"cuts an axis that holds rows and columns, {UNTILED}")
        if stride < 0:
            raise call.refusal("turns the image over")
        links["yx".index(role)] = Step(stride=stride, start=first)
    axes[axis] = ((role.replace("m", "c"), count),)
    return Flow.of(axes), (links[0], links[1])


def gather(call: Call) -> Results:
    flow = call.flow
    axis = call.axis(call.attribute("axis", 0), len(flow.shape))
    check_channels(call, [axis])
    index = call.value(1)
    axes = flow.axes
    axes[axis : axis + 1] = [(("c", n),) for n in index.shape]
    return same(Flow.of(axes))


def expand(call: Call) -> Results:
    flow = call.flow
    target = [int(n) for n in call.numbers(1)]
    axes = [(("c", 1),)] * (len(target) - len(flow.shape)) + flow.axes
    target = [1] * (len(axes) - len(target)) + target
    for k, (axis, size) in enumerate(zip(axes, target, strict=True)):
        have = math.prod(n for _, n in axis)
        if size not in (1, have):
            if have != 1 or any(role in "yx" for role, _ in axis):
                raise call.refusal("repeats rows or columns")
            axes[k] = ((axis[0][0], size),)
    return same(Flow.of(axes))


def tile(call: Call) -> Results:
    flow = call.flow
    repeats = [int(n) for n in call.numbers(1)]
    if len(repeats) != len(flow.shape):
        raise call.refusal(f"{len(repeats)} repeats for {len(flow.shape)} axes")
    axes = flow.axes
    for k, count in enumerate(repeats):
        if count == 1:
            continue
        if flow.is_spatial(k):
            raise call.refusal("repeats rows or columns")
        axes[k] = ((flow.roles[k].replace("m", "c"), flow.shape[k] * count),)
    return same(Flow.of(axes))


def scatter_nd(call: Call) -> Results:
    """Write other samples over whole planes of channels, as a network does that convolves a part of them."""
    data, updates = (call.inputs[k] for k in (0, 2))
    index = call.known(1)
    if index is None or index.by_size:
        raise call.refusal("the places that it writes to must be constant")
    depth = index.value.shape[-1]
    flow = data if isinstance(data, Flow) else updates
    assert isinstance(flow, Flow)  # or it would have been computed
    for state, behind in ((data, depth), (updates, index.value.ndim - 1)):
        if not isinstance(state, Flow):
            raise call.refusal("mixes the image with a constant")
        if any(state.is_spatial(k) for k in range(min(behind, len(state.shape)))):
            raise call.refusal(f"writes to single rows, columns or pixels, {UNTILED}")
    assert isinstance(data, Flow)
    assert isinstance(updates, Flow)
    if updates.axes[index.value.ndim - 1 :] != data.axes[depth:]:
        raise call.refusal(f"its inputs have different sizes, {data.spatial} and {updates.spatial}")
    if updates.shape[: index.value.ndim - 1] != index.value.shape[:-1]:
        raise call.refusal(f"{index.value.shape} places for samples of shape {updates.shape}")
    limits = data.shape[:depth]
    if (index.value >= limits).any() or (index.value < [-n for n in limits]).any():
        raise call.refusal(f"writes outside of {limits}")
    return same(data)


def check_channels(call: Call, axes: Sequence[int]) -> None:
    """Refuse an operator that looks along rows or columns, or from one image of a batch to another."""
    flow = call.flow
    places = [call.axis(a, len(flow.shape)) for a in axes]
    if any(flow.is_spatial(a) for a in places):
        raise call.refusal(f"{call.op} over rows or columns has unbounded reach, {UNTILED}")
    for axis in places:
        _check_batch(call, flow, axis)


def _check_batch(call: Call, flow: Flow, axis: int) -> None:
    if any(role == "n" for role, _ in flow.factors(axis)):
        raise call.refusal("mixes the images of a batch")
