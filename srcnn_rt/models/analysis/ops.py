"""Effect of each ONNX operator on shapes and on the two spatial axes.

`apply` knows the operators whose receptive field is bounded. It refuses all others, and those that mix whole
rows or columns, naming the node and its operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..onnx_helpers import STANDARD_DOMAINS
from . import layout_ops, product_ops, resampling_ops, window_ops
from .layout_ops import check_channels
from .receptive_field import IDENTITY, Strided
from .tensors import UNTILED, Axis, Call, Flow, Known, Results, axis_size, has_space, unmoved

# fmt: off
_ELEMENTWISE = frozenset((
    "Abs", "Acos", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub",
    "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
))
# Operators that never mix the images of a batch.
BATCHWISE = _ELEMENTWISE | {
    "AveragePool", "Constant", "Conv", "ConvTranspose", "DepthToSpace", "MaxPool", "Shape", "SpaceToDepth",
    "Upsample",
}
# Operators whose further inputs are vectors over channels, or scalars.
_PER_CHANNEL = frozenset(("BatchNormalization", "DequantizeLinear", "QuantizeLinear"))
_CONTRIB = "com.microsoft"  # ONNX Runtime's own domain; its operators of these names are elementwise too
# fmt: on


def apply(call: Call) -> Results:
    """Return the outputs of a node: states, links on y and x, and multiply-accumulates.

    Raises
    ------
    ModelError
        If the operator's receptive field is unknown or unbounded, naming the node and its operator.
    """
    if call.op in _ELEMENTWISE and call.node.domain in (*STANDARD_DOMAINS, _CONTRIB):
        return _elementwise(call)
    known = _OPERATORS.get(call.op)
    if known is None or call.node.domain not in STANDARD_DOMAINS:
        raise call.refusal(f"the receptive field of {call.op} is unknown or unbounded, {UNTILED}")
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
        return unmoved(Flow.of(axes))
    if len(flows) == len(call.inputs) and len(axes) == len(first.shape) and axes == first.axes:
        return unmoved(first)
    for state in call.inputs:
        if not isinstance(state, Known):
            continue
        if state.by_size:
            raise call.refusal("adds a value that depends on the image's size")
        size = (1,) * (rank - state.value.ndim) + state.value.shape
        if len(size) > rank:
            raise call.refusal(f"a constant of shape {state.value.shape} has more axes than the image")
        for k, axis in enumerate(axes):
            if size[k] == 1:
                continue
            if has_space(axis):
                raise call.refusal(f"a constant of shape {state.value.shape} varies over the image")
            axes[k] = _broadcast(call, [axis, ((axis[0][0], size[k]),)])
    return unmoved(Flow.of(axes))


def _check_parameters(call: Call, flow: Flow) -> None:
    """Refuse parameters that vary along rows or columns, or that are for another number of channels."""
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


def _broadcast(call: Call, found: list[Axis]) -> Axis:
    """Return one axis of a result from the same axis of all inputs that have it."""
    largest = max(found, key=axis_size)
    spatial = [axis for axis in found if has_space(axis)]
    if spatial and any(axis != spatial[0] for axis in found):
        raise call.refusal("its inputs have rows and columns on different axes")
    sizes = [axis_size(axis) for axis in found]
    if any(size not in (1, max(sizes)) for size in sizes):
        raise call.refusal(f"its inputs have different sizes, {', '.join(map(str, sizes))}")
    return largest


def _depth_to_space(call: Call) -> Results:
    flow = call.image
    n, c, h, w = flow.shape
    b = call.attribute("blocksize")
    if b < 1 or c % (b * b):
        raise call.refusal(f"{c} channels do not divide into blocks of {b} x {b}")
    link = Strided(up=b)
    return [(replace(flow, shape=(n, c // (b * b), h * b, w * b)), link, link, 0)]


def _space_to_depth(call: Call) -> Results:
    flow = call.image
    n, c, h, w = flow.shape
    b = call.attribute("blocksize")
    if b < 1 or h % b or w % b:
        raise call.refusal(f"sizes must be multiples of {b}, got {h} x {w}")
    link = Strided(kernel=b, stride=b)
    return [(replace(flow, shape=(n, c * b * b, h // b, w // b)), link, link, 0)]


def _pad(call: Call) -> Results:
    flow = call.flow
    rank = len(flow.shape)
    mode = call.attribute("mode", b"constant")
    if mode == b"wrap":
        raise call.refusal("wraps around the image")
    pads = call.attribute_or_input("pads", 1) or []
    places = [call.axis(a, rank) for a in call.numbers(3)] if call.known(3) is not None else range(rank)
    shape, links = list(flow.shape), [IDENTITY, IDENTITY]
    for k, axis in enumerate(places):
        before, after = pads[k], pads[k + len(places)]
        if flow.roles[axis] == "m" and (before or after):
            raise call.refusal(f"pads an axis that holds several, {UNTILED}")
        shape[axis] += before + after
        if flow.roles[axis] in "yx":
            if mode == b"reflect" and max(before, after) >= flow.shape[axis]:
                raise call.refusal(f"reflects {max(before, after)} samples of {flow.shape[axis]}")
            links["yx".index(flow.roles[axis])] = Strided(start=-before)
    return [(replace(flow, shape=tuple(shape)), links[0], links[1], 0)]


def _reduce(call: Call) -> Results:
    axes = call.attribute_or_input("axes", 1)
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return unmoved(call.flow)
    return _reduced(call, axes or range(len(call.flow.shape)), bool(call.attribute("keepdims", 1)))


def _reduced(call: Call, axes: Iterable[int], keep: bool) -> Results:
    flow = call.flow
    places = {call.axis(a, len(flow.shape)) for a in axes}
    check_channels(call, sorted(places))
    left = [((axis[0][0], 1),) if k in places else axis for k, axis in enumerate(flow.axes)]
    return unmoved(Flow.of([axis for k, axis in enumerate(left) if keep or k not in places]))


def _normalised(axes: Callable[[Call, int], Iterable[int]]) -> Callable[[Call], Results]:
    """Return the rule of an operator that normalises along some axes of a tensor of a rank."""

    def rule(call: Call) -> Results:
        check_channels(call, list(axes(call, len(call.flow.shape))))
        if call.op == "InstanceNormalization":
            _check_parameters(call, call.flow)
        return unmoved(call.flow)

    return rule


_OPERATORS: dict[str, Callable[[Call], Results]] = {
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), window_ops.pool),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool"),
        lambda call: _reduced(call, range(2, len(call.flow.shape)), True),
    ),
    **dict.fromkeys(
        ("LogSoftmax", "LpNormalization", "Softmax"),
        _normalised(lambda call, rank: [call.attribute("axis", -1)]),
    ),
    **dict.fromkeys([f"Reduce{k}" for k in ("L1", "L2", "Max", "Mean", "Min", "Sum", "SumSquare")], _reduce),
    **dict.fromkeys(("Resize", "Upsample"), resampling_ops.resize),
    "Concat": layout_ops.concat,
    "Conv": window_ops.conv,
    "ConvTranspose": window_ops.conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Einsum": product_ops.einsum,
    "Expand": layout_ops.expand,
    "Flatten": layout_ops.flatten,
    "Gather": layout_ops.gather,
    "Gemm": product_ops.gemm,
    "GridSample": resampling_ops.grid_sample,
    "GroupNormalization": _normalised(lambda call, rank: range(1, rank)),
    "InstanceNormalization": _normalised(lambda call, rank: range(2, rank)),
    "LayerNormalization": _normalised(
        lambda call, rank: range(call.axis(call.attribute("axis", -1), rank), rank)
    ),
    "MatMul": product_ops.matmul,
    "Pad": _pad,
    "QLinearConv": lambda call: window_ops.conv(call, 3),
    "Reshape": layout_ops.reshape,
    "ScatterND": layout_ops.scatter_nd,
    "Slice": layout_ops.slices,
    "SpaceToDepth": _space_to_depth,
    "Split": layout_ops.split,
    "Squeeze": layout_ops.squeeze,
    "Tile": layout_ops.tile,
    "Transpose": layout_ops.transpose,
    "Unsqueeze": layout_ops.unsqueeze,
}
