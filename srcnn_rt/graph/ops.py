"""What each ONNX operator does to shapes and to the two spatial axes.

`apply` knows the operators whose reach is bounded; whatever it does not know, and whatever
mixes a whole row or column, is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from . import windows
from .reach import SAME, Link, Sampled, Step
from .tensors import FAR, STANDARD, Call, Flow, Known, Results

_UNTILED = "so the model cannot be tiled; --whole (whole=True) runs it on whole pictures"

# fmt: off
_ELEMENTWISE = frozenset((
    "Abs", "Acos", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub",
    "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
))
# Their further inputs are vectors over channels, or single numbers.
_PER_CHANNEL = frozenset(("BatchNormalization", "DequantizeLinear", "QuantizeLinear"))
_CONTRIB = "com.microsoft"  # ONNX Runtime's own; its operators of these names are elementwise too
_MOST_FACTOR = 64  # of a Resize
# fmt: on


def apply(call: Call) -> Results:
    """Return what a node makes of its flows: shape and roles, links on y and x, and its work.

    Raises
    ------
    ModelError
        If the operator's reach is unknown or unbounded, naming node and op.
    """
    if call.op in _ELEMENTWISE and call.node.domain in (*STANDARD, _CONTRIB):
        return _elementwise(call)
    known = _OPERATORS.get(call.op)
    if known is None or call.node.domain not in STANDARD:
        raise call.refusal(f"{call.op} has unknown or unbounded reach, {_UNTILED}")
    return known(call)


def _same(flow: Flow) -> Results:
    return [(flow, SAME, SAME, 0)]


def _elementwise(call: Call) -> Results:
    flows = [i for i in call.inputs if isinstance(i, Flow)]
    first = max(flows, key=lambda f: math.prod(f.shape))
    rank = len(first.shape)
    for other in flows:
        if other.spatial != first.spatial:
            raise call.refusal(f"its inputs have different sizes, {first.spatial} and {other.spatial}")
        if other.roles.lstrip("nc") != first.roles.lstrip("nc"):
            raise call.refusal(f"its inputs have different axes, {first.roles} and {other.roles}")
    shape = list(first.shape)
    if call.op not in _PER_CHANNEL:
        for state in call.inputs:
            if isinstance(state, Known):
                size = (1,) * (rank - state.value.ndim) + state.value.shape
                if len(size) > rank:
                    raise call.refusal(
                        f"a constant of shape {state.value.shape} has more axes than the picture"
                    )
                for axis, role in enumerate(first.roles):
                    if role in "yx" and size[axis] != 1:
                        raise call.refusal(f"a constant of shape {state.value.shape} varies over the picture")
                    shape[axis] = max(shape[axis], size[axis])
                if state.sized:
                    raise call.refusal("adds what depends on the picture's size")
    elif call.op == "BatchNormalization":
        for k in range(1, 5):
            if call.value(k).shape != first.shape[1:2]:
                raise call.refusal(f"parameters of shape {call.value(k).shape} for {first.shape[1]} channels")
    return _same(Flow(tuple(shape), first.roles))


def _depth_to_space(call: Call) -> Results:
    n, c, h, w = call.picture.shape
    b = call.attribute("blocksize")
    if b < 1 or c % (b * b):
        raise call.refusal(f"{c} channels are no blocks of {b} x {b}")
    return [(Flow((n, c // (b * b), h * b, w * b), "ncyx"), Step(up=b), Step(up=b), 0)]


def _space_to_depth(call: Call) -> Results:
    n, c, h, w = call.picture.shape
    b = call.attribute("blocksize")
    if b < 1 or h % b or w % b:
        raise call.refusal(f"sizes must be multiples of {b}, got {h} x {w}")
    link = Step(kernel=b, stride=b)
    return [(Flow((n, c * b * b, h // b, w // b), "ncyx"), link, link, 0)]


def _resize(call: Call) -> Results:
    flow = call.flow
    mode = call.attribute("mode", b"nearest").decode()
    old = call.op == "Upsample"
    how = "asymmetric" if old else call.attribute("coordinate_transformation_mode", b"half_pixel").decode()
    if how not in ("half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric"):
        raise call.refusal(f"{how} ties every sample to the picture's size")
    if call.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise call.refusal("keep_aspect_ratio_policy ties the scale to the picture's size")
    rank = len(flow.shape)
    axes = [call.axis(a, rank) for a in call.attribute("axes", list(range(rank)))]
    factors = [Fraction(1)] * rank
    shape = list(flow.shape)
    scales = call.known(1 if old else 2)
    if old and call.attribute("scales") is not None:
        scales = Known(np.array(call.attribute("scales"), np.float32))
    if scales is not None and scales.value.size:
        if scales.value.size > rank:
            raise call.refusal(f"{scales.value.size} scales for {rank} axes")
        for axis, factor in zip(axes, scales.value.tolist(), strict=True):
            factors[axis] = Fraction(factor).limit_denominator(1000)
            shape[axis] = math.floor(flow.shape[axis] * factors[axis])
    else:
        for axis, size in zip(axes, call.numbers(3), strict=True):
            factors[axis] = Fraction(int(size), flow.shape[axis])
            shape[axis] = int(size)
    links: list[Link] = [SAME, SAME]
    for axis, role in enumerate(flow.roles):
        if factors[axis] == 1:
            continue
        if role not in "yx":
            raise call.refusal("resizes channels")
        if not 0 < factors[axis] <= _MOST_FACTOR:
            raise call.refusal(f"a factor must be over 0 and at most {_MOST_FACTOR}, got {factors[axis]}")
        links["yx".index(role)] = _sampling(call, mode, how, factors[axis])
    return [(Flow(tuple(shape), flow.roles), links[0], links[1], 0)]


def _sampling(call: Call, mode: str, how: str, factor: Fraction) -> Link:
    """Return the link of one resized axis; `factor` is output over input."""
    ratio = 1 / factor
    half = Fraction(1, 2)
    if how == "asymmetric":

        def position(i: int) -> Fraction:
            return i * ratio
    else:

        def position(i: int) -> Fraction:
            return (i + half) * ratio - half

    if mode == "nearest":
        rounding: dict[bytes, Callable[[Fraction], int]] = {
            b"round_prefer_floor": lambda x: math.ceil(x - half),
            b"round_prefer_ceil": lambda x: math.floor(x + half),
            b"floor": math.floor,
            b"ceil": math.ceil,
        }
        name = b"floor" if call.op == "Upsample" else call.attribute("nearest_mode", b"round_prefer_floor")
        return Sampled(position, ratio, nearest=rounding[name])
    if mode not in ("linear", "cubic"):
        raise call.refusal(f"resizes by {mode}, whose reach is not known")
    taps = 1 if mode == "linear" else 2
    if call.attribute("antialias", 0) and factor < 1:
        # The kernel is widened by the ratio: |distance| < taps · ratio.
        support = taps * ratio
        return Sampled(
            position,
            ratio,
            (-math.ceil(support) + 1, math.ceil(support)),
            (-math.ceil(support) + 1, math.ceil(support) - 1),
        )
    return Sampled(position, ratio, (1 - taps, taps))


def _pad(call: Call) -> Results:
    flow = call.flow
    rank = len(flow.shape)
    if call.attribute("mode", b"constant") == b"wrap":
        raise call.refusal("wraps around the picture")
    pads = call.attribute("pads")
    if pads is None:
        pads = call.numbers(1)
    axes = call.known(3)
    places = [call.axis(a, rank) for a in call.numbers(3)] if axes is not None else list(range(rank))
    shape, links = list(flow.shape), [SAME, SAME]
    for k, axis in enumerate(places):
        before, after = pads[k], pads[k + len(places)]
        shape[axis] += before + after
        if flow.roles[axis] in "yx":
            if call.attribute("mode", b"constant") == b"reflect" and max(before, after) >= flow.shape[axis]:
                raise call.refusal(f"reflects {max(before, after)} samples of {flow.shape[axis]}")
            links["yx".index(flow.roles[axis])] = Step(start=-before)
    return [(Flow(tuple(shape), flow.roles), links[0], links[1], 0)]


def _slice(call: Call) -> Results:
    flow = call.flow
    rank = len(flow.shape)
    starts, ends = call.attribute("starts"), call.attribute("ends")
    axes, steps = call.attribute("axes"), None
    if starts is None:
        starts, ends = (call.numbers(k) for k in (1, 2))
        axes, steps = (None if call.known(k) is None else call.numbers(k) for k in (3, 4))
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    shape, links = list(flow.shape), [SAME, SAME]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = call.axis(axis, rank)
        first, stop, stride = slice(start, None if end >= FAR else end, step).indices(flow.shape[axis])
        shape[axis] = len(range(first, stop, stride))
        if flow.roles[axis] in "yx":
            if stride < 0:
                raise call.refusal("turns the picture over")
            links["yx".index(flow.roles[axis])] = Step(stride=stride, start=first)
    return [(Flow(tuple(shape), flow.roles), links[0], links[1], 0)]


def _concat(call: Call) -> Results:
    flows = [i for i in call.inputs if isinstance(i, Flow)]
    if len(flows) != len(call.inputs):
        raise call.refusal("joins the picture with a constant")
    first = flows[0]
    axis = call.axis(call.attribute("axis"), len(first.shape))
    if first.roles[axis] in "yx":
        raise call.refusal("joins along rows or columns")
    if any(f.spatial != first.spatial or f.roles != first.roles for f in flows):
        raise call.refusal(f"its inputs have different sizes, {', '.join(str(f.spatial) for f in flows)}")
    shape = list(first.shape)
    shape[axis] = sum(f.shape[axis] for f in flows)
    return _same(Flow(tuple(shape), first.roles))


def _split(call: Call) -> Results:
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
        shape = (*flow.shape[:axis], int(size), *flow.shape[axis + 1 :])
        links = [SAME, SAME]
        if flow.roles[axis] in "yx":
            links["yx".index(flow.roles[axis])] = Step(start=start)
        results.append((Flow(shape, flow.roles), links[0], links[1], 0))
        start += int(size)
    return results


def _transpose(call: Call) -> Results:
    flow = call.flow
    perm = call.attribute("perm", list(range(len(flow.shape)))[::-1])
    return _same(Flow(tuple(flow.shape[p] for p in perm), "".join(flow.roles[p] for p in perm)))


def _reshape(call: Call) -> Results:
    flow = call.flow
    target = [int(n) for n in call.numbers(1)]
    if not call.attribute("allowzero", 0):
        target = [flow.shape[k] if n == 0 else n for k, n in enumerate(target)]
    if -1 in target:
        rest = math.prod(n for n in target if n != -1)
        target[target.index(-1)] = math.prod(flow.shape) // max(rest, 1)
    if math.prod(target) != math.prod(flow.shape):
        raise call.refusal(f"{flow.shape} does not reshape to {tuple(target)}: sizes are baked in")
    return _regroup(call, flow, target)


def _regroup(call: Call, flow: Flow, target: list[int]) -> Results:
    """Match axes before and after by their products and carry the roles over.

    A spatial axis may be split into (itself, sub-pixels), as pixel unshuffle does, or take
    sub-pixels in behind it, as pixel shuffle does. Nothing else may touch it.
    """
    roles = ""
    links: list[Link] = [SAME, SAME]
    i = j = 0
    while i < len(flow.shape) or j < len(target):
        i0, j0 = i, j
        before = after = 1
        if i < len(flow.shape):
            before, i = before * flow.shape[i], i + 1
        if j < len(target):
            after, j = after * target[j], j + 1
        while before != after:
            if before < after:
                before, i = before * flow.shape[i], i + 1
            else:
                after, j = after * target[j], j + 1
        old, new = flow.roles[i0:i], target[j0:j]
        spatial = [r for r in old if r in "yx"]
        if not spatial:
            roles += old if len(old) == len(new) else "c" * len(new)
            continue
        # Axes of size 1 around it are no part of the matter.
        solid = [(r, n) for r, n in zip(old, flow.shape[i0:i], strict=True) if r in "yx" or n > 1]
        axis = "yx".index(spatial[0])
        if len(spatial) > 1 or solid[0][0] != spatial[0]:
            raise call.refusal(f"mixes rows, columns or channels, so its reach is unbounded, {_UNTILED}")
        inside = math.prod(n for _, n in solid[1:])
        wide = [k for k, n in enumerate(new) if n > 1] or [0]
        split = math.prod(new) // new[wide[0]]
        if inside > 1 and split > 1:
            raise call.refusal("splits and joins a spatial axis at once")
        if inside > 1:
            links[axis] = Step(up=inside)
        elif split > 1:
            links[axis] = Step(kernel=split, stride=split)
        roles += "".join(spatial[0] if k == wide[0] else "c" for k in range(len(new)))
    return [(Flow(tuple(target), roles), links[0], links[1], 0)]


def _squeeze(call: Call) -> Results:
    flow = call.flow
    axes = call.attribute("axes")
    axes = call.numbers(1) if axes is None else axes
    drop = {call.axis(a, len(flow.shape)) for a in axes}
    if any(flow.roles[a] in "yx" for a in drop):
        raise call.refusal("drops a spatial axis")
    kept = [k for k in range(len(flow.shape)) if k not in drop]
    return _same(Flow(tuple(flow.shape[k] for k in kept), "".join(flow.roles[k] for k in kept)))


def _unsqueeze(call: Call) -> Results:
    flow = call.flow
    axes = call.attribute("axes")
    axes = call.numbers(1) if axes is None else axes
    rank = len(flow.shape) + len(axes)
    shape, roles = list(flow.shape), list(flow.roles)
    for a in sorted(call.axis(a, rank) for a in axes):
        shape.insert(a, 1)
        roles.insert(a, "c")
    return _same(Flow(tuple(shape), "".join(roles)))


def _over_channels(call: Call, axes: Sequence[int]) -> None:
    """Refuse an operator that looks along rows or columns."""
    flow = call.flow
    if any(flow.roles[call.axis(a, len(flow.shape))] in "yx" for a in axes):
        raise call.refusal(f"{call.op} over rows or columns has unbounded reach, {_UNTILED}")


def _reduce(call: Call) -> Results:
    flow = call.flow
    axes = call.attribute("axes")
    if axes is None and call.known(1) is not None:
        axes = call.numbers(1)
    axes = list(axes or range(len(flow.shape)))
    _over_channels(call, axes)
    places = {call.axis(a, len(flow.shape)) for a in axes}
    if call.attribute("keepdims", 1):
        return _same(Flow(tuple(1 if k in places else n for k, n in enumerate(flow.shape)), flow.roles))
    kept = [k for k in range(len(flow.shape)) if k not in places]
    return _same(Flow(tuple(flow.shape[k] for k in kept), "".join(flow.roles[k] for k in kept)))


def _softmax(call: Call) -> Results:
    _over_channels(call, [call.attribute("axis", -1)])
    return _same(call.flow)


def _layer_norm(call: Call) -> Results:
    rank = len(call.flow.shape)
    _over_channels(call, range(call.axis(call.attribute("axis", -1), rank), rank))
    return _same(call.flow)


def _matmul(call: Call) -> Results:
    flow = call.flow
    weight = call.value(1)
    if weight.ndim != 2 or flow.roles[-1] != "c":
        raise call.refusal(f"multiplies along rows or columns, so its reach is unbounded, {_UNTILED}")
    shape = (*flow.shape[:-1], weight.shape[1])
    return [(Flow(shape, flow.roles), SAME, SAME, math.prod(flow.shape) * weight.shape[1])]


def _gather(call: Call) -> Results:
    flow = call.flow
    axis = call.axis(call.attribute("axis", 0), len(flow.shape))
    _over_channels(call, [axis])
    index = call.value(1)
    shape = (*flow.shape[:axis], *index.shape, *flow.shape[axis + 1 :])
    return _same(Flow(shape, flow.roles[:axis] + "c" * index.ndim + flow.roles[axis + 1 :]))


def _expand(call: Call) -> Results:
    flow = call.flow
    target = [int(n) for n in call.numbers(1)]
    if len(target) > len(flow.shape):
        raise call.refusal("adds axes")
    target = [1] * (len(flow.shape) - len(target)) + target
    shape = tuple(max(n, t) for n, t in zip(flow.shape, target, strict=True))
    out = Flow(shape, flow.roles)
    if out.spatial != flow.spatial:
        raise call.refusal("repeats rows or columns")
    return _same(out)


_OPERATORS: dict[str, Callable[[Call], Results]] = {
    "AveragePool": windows.pool,
    "Concat": _concat,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "LpPool": windows.pool,
    "MatMul": _matmul,
    "MaxPool": windows.pool,
    "Pad": _pad,
    "QLinearConv": lambda call: windows.conv(call, 3),
    "ReduceL2": _reduce,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _softmax,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
