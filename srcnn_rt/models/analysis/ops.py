"""What each ONNX operator does to shapes and to the two spatial axes.

`apply` knows the operators whose reach is bounded; whatever it does not know, and whatever
mixes a whole row or column, is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from . import layout_ops, product_ops, resampling_ops, window_ops
from .layout_ops import check_channels, same
from .receptive_field import SAME, Step
from .tensors import STANDARD, UNTILED, Call, Factor, Flow, Known, Results

# fmt: off
_ELEMENTWISE = frozenset((
    "Abs", "Acos", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub",
    "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
))
# What never takes anything from one image of a batch to another.
BATCHWISE = _ELEMENTWISE | {
    "AveragePool", "Constant", "Conv", "ConvTranspose", "DepthToSpace", "MaxPool", "Shape", "SpaceToDepth",
    "Upsample",
}
# Their further inputs are vectors over channels, or single numbers.
_PER_CHANNEL = frozenset(("BatchNormalization", "DequantizeLinear", "QuantizeLinear"))
_CONTRIB = "com.microsoft"  # ONNX Runtime's own; its operators of these names are elementwise too
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
        raise call.refusal(f"{call.op} has unknown or unbounded reach, {UNTILED}")
    return known(call)


def _elementwise(call: Call) -> Results:
    flows = [i for i in call.inputs if isinstance(i, Flow)]
    first = max(flows, key=lambda f: math.prod(f.shape))
    for other in flows:
        if other.spatial != first.spatial:
            raise call.refusal(f"its inputs have different sizes, {first.spatial} and {other.spatial}")
    rank = max(len(f.shape) for f in flows)
    axes = first.axes
    if any(f != first for f in flows):
        found = [f.axes for f in flows]
        axes = [_broadcast(call, [a[k] for a in found if -k <= len(a)]) for k in range(-rank, 0)]
    if call.op in _PER_CHANNEL:
        _check_parameters(call, first)
        return same(Flow.of(axes))
    if len(flows) == len(call.inputs) and len(axes) == len(first.shape) and axes == first.axes:
        return same(first)
    for state in call.inputs:
        if not isinstance(state, Known):
            continue
        if state.by_size:
            raise call.refusal("adds what depends on the image's size")
        size = (1,) * (rank - state.value.ndim) + state.value.shape
        if len(size) > rank:
            raise call.refusal(f"a constant of shape {state.value.shape} has more axes than the image")
        for k, axis in enumerate(axes):
            if size[k] == 1:
                continue
            if any(role in "yx" for role, _ in axis):
                raise call.refusal(f"a constant of shape {state.value.shape} varies over the image")
            axes[k] = _broadcast(call, [axis, ((axis[0][0], size[k]),)])
    return same(Flow.of(axes))


def _check_parameters(call: Call, flow: Flow) -> None:
    """Refuse parameters of each number of an axis that holds rows or columns, or for other channels."""
    normal = call.op == "BatchNormalization"
    for k in range(1, 5) if normal else range(1, len(call.inputs)):
        shape = call.value(k).shape if call.inputs[k] is not None else ()
        if normal and shape != flow.shape[1:2]:
            raise call.refusal(f"parameters of shape {shape} for {flow.shape[1]} channels")
        if math.prod(shape) > 1 and flow.is_spatial(_parameter_axis(call, len(flow.shape))):
            raise call.refusal(f"parameters of shape {shape} vary over the image")


def _parameter_axis(call: Call, rank: int) -> int:
    quantises = call.op in ("DequantizeLinear", "QuantizeLinear")
    return call.axis(call.attribute("axis", 1) if quantises else 1, rank)


def _broadcast(call: Call, found: list[tuple[Factor, ...]]) -> tuple[Factor, ...]:
    """Return what one axis of a result holds, of the same axis of all inputs that have it."""
    widest = max(found, key=lambda axis: math.prod(n for _, n in axis))
    size = math.prod(n for _, n in widest)
    spatial = [axis for axis in found if any(role in "yx" for role, _ in axis)]
    if spatial and any(axis != spatial[0] for axis in found):
        raise call.refusal("its inputs have different axes: rows and columns do not lie on the same ones")
    if any(math.prod(n for _, n in axis) not in (1, size) for axis in found):
        sizes = ", ".join(str(math.prod(n for _, n in axis)) for axis in found)
        raise call.refusal(f"its inputs have different sizes, {sizes}")
    return widest


def _depth_to_space(call: Call) -> Results:
    flow = call.image
    n, c, h, w = flow.shape
    b = call.attribute("blocksize")
    if b < 1 or c % (b * b):
        raise call.refusal(f"{c} channels are no blocks of {b} x {b}")
    out = replace(flow, shape=(n, c // (b * b), h * b, w * b))
    return [(out, Step(up=b), Step(up=b), 0)]


def _space_to_depth(call: Call) -> Results:
    flow = call.image
    n, c, h, w = flow.shape
    b = call.attribute("blocksize")
    if b < 1 or h % b or w % b:
        raise call.refusal(f"sizes must be multiples of {b}, got {h} x {w}")
    link = Step(kernel=b, stride=b)
    return [(replace(flow, shape=(n, c * b * b, h // b, w // b)), link, link, 0)]


def _pad(call: Call) -> Results:
    flow = call.flow
    rank = len(flow.shape)
    if call.attribute("mode", b"constant") == b"wrap":
        raise call.refusal("wraps around the image")
    pads = call.attribute("pads")
    if pads is None:
        pads = call.numbers(1)
    axes = call.known(3)
    places = [call.axis(a, rank) for a in call.numbers(3)] if axes is not None else list(range(rank))
    shape, links = list(flow.shape), [SAME, SAME]
    for k, axis in enumerate(places):
        before, after = pads[k], pads[k + len(places)]
        if flow.roles[axis] == "m" and (before or after):
            raise call.refusal(f"pads an axis that holds several, {UNTILED}")
        shape[axis] += before + after
        if flow.roles[axis] in "yx":
            if call.attribute("mode", b"constant") == b"reflect" and max(before, after) >= flow.shape[axis]:
                raise call.refusal(f"reflects {max(before, after)} samples of {flow.shape[axis]}")
            links["yx".index(flow.roles[axis])] = Step(start=-before)
    return [(replace(flow, shape=tuple(shape)), links[0], links[1], 0)]


def _reduce(call: Call) -> Results:
    axes = call.attribute("axes")
    if axes is None and call.known(1) is not None:
        axes = call.numbers(1)
    rank = len(call.flow.shape)
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return same(call.flow)
    return _reduced(call, list(axes or range(rank)), bool(call.attribute("keepdims", 1)))


def _reduced(call: Call, axes: list[int], keep: bool) -> Results:
    check_channels(call, axes)
    flow = call.flow
    places = {call.axis(a, len(flow.shape)) for a in axes}
    left = [((axis[0][0], 1),) if k in places else axis for k, axis in enumerate(flow.axes)]
    return same(Flow.of([axis for k, axis in enumerate(left) if keep or k not in places]))


def _global_pool(call: Call) -> Results:
    return _reduced(call, list(range(2, len(call.flow.shape))), True)


def _softmax(call: Call) -> Results:
    check_channels(call, [call.attribute("axis", -1)])
    return same(call.flow)


def _layer_norm(call: Call) -> Results:
    rank = len(call.flow.shape)
    check_channels(call, range(call.axis(call.attribute("axis", -1), rank), rank))
    return same(call.flow)


def _instance_norm(call: Call) -> Results:
    check_channels(call, range(2, len(call.flow.shape)))
    _check_parameters(call, call.flow)
    return same(call.flow)


def _group_norm(call: Call) -> Results:
    check_channels(call, range(1, len(call.flow.shape)))
    return same(call.flow)


_OPERATORS: dict[str, Callable[[Call], Results]] = {
    "AveragePool": window_ops.pool,
    "Concat": layout_ops.concat,
    "Conv": window_ops.conv,
    "ConvTranspose": window_ops.conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Einsum": product_ops.einsum,
    "Expand": layout_ops.expand,
    "Flatten": layout_ops.flatten,
    "Gather": layout_ops.gather,
    "Gemm": product_ops.gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "GridSample": resampling_ops.grid_sample,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "LpNormalization": _softmax,
    "LpPool": window_ops.pool,
    "MatMul": product_ops.matmul,
    "MaxPool": window_ops.pool,
    "Pad": _pad,
    "QLinearConv": lambda call: window_ops.conv(call, 3),
    "ReduceL1": _reduce,
    "ReduceL2": _reduce,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceSum": _reduce,
    "ReduceSumSquare": _reduce,
    "Reshape": layout_ops.reshape,
    "Resize": resampling_ops.resize,
    "ScatterND": layout_ops.scatter_nd,
    "Slice": layout_ops.slices,
    "Softmax": _softmax,
    "SpaceToDepth": _space_to_depth,
    "Split": layout_ops.split,
    "Squeeze": layout_ops.squeeze,
    "Tile": layout_ops.tile,
    "Transpose": layout_ops.transpose,
    "Unsqueeze": layout_ops.unsqueeze,
    "Upsample": resampling_ops.resize,
}
