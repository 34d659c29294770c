"""What an ONNX graph says of itself: scale, margin, period, channels.

Nothing is probed and nothing is typed in by a user. On one axis every supported node is
a `Step`: it enlarges by `up`, then each of its outputs reads `kernel` samples, `stride`
apart, beginning `start` samples in. From the steps follow, in exact numbers,

- forward, how many HR samples a window of n LR samples gives, hence scale and margin;
- backward, which LR samples an HR interval needs: it must lie inside the window.

Only *valid* graphs (nothing pads) are analysed; anything else is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

ELEMENTWISE = frozenset(
    (
        "Abs",
        "Add",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Div",
        "Elu",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Relu",
        "Selu",
        "Sigmoid",
        "Sqrt",
        "Sub",
        "Tanh",
    )
)
_PROBE = 4096  # LR samples, far more than any margin, to read size formulas off


@dataclass(frozen=True, slots=True)
class Step:
    """What a node does to one spatial axis. ``end`` samples are left off at the far side."""

    up: int = 1
    kernel: int = 1
    stride: int = 1
    start: int = 0
    end: int = 0

    def rate(self, rate: Fraction) -> Fraction:
        """Return samples per LR pixel after the node."""
        return rate * self.up / self.stride

    def size(self, n: int) -> int:
        """Return how many samples come out of n."""
        return (n * self.up - self.start - self.end - self.kernel) // self.stride + 1

    def need(self, lo: int, hi: int) -> tuple[int, int]:
        """Return the input interval that output [lo, hi) reads."""
        first = lo * self.stride + self.start
        last = (hi - 1) * self.stride + self.start + self.kernel - 1
        return first // self.up, last // self.up + 1


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What the analysis found.

    Attributes
    ----------
    scale : HR pixels an LR pixel
    margin : LR pixels a core needs on every side
    period : LR step that window origins and sizes must keep
    channels : in and out, 1 or 3
    batch : windows a run takes, or None for any number
    parameters : numbers in the weights
    """

    scale: int
    margin: int
    period: int
    channels: int
    batch: int | None
    parameters: int


def analyse(model: ModelProto) -> GraphFacts:
    """Derive scale, margin and period of a valid super-resolution graph.

    Parameters
    ----------
    model : with one float32 input (N, C, H, W) and one such output, H and W free

    Raises
    ------
    ModelError
        If the graph is of another form or holds a node whose reach is not known;
        the message names the node and its op.
    """
    graph = model.graph
    constants = _constants(model)
    inputs = [v for v in graph.input if v.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelError(f"one input and one output are needed, got {len(inputs)} and {len(graph.output)}")
    batch, channels = _check_value(inputs[0])
    _, channels_out = _check_value(graph.output[0])
    if channels is not None and channels_out is not None and channels != channels_out:
        raise ModelError(f"as many channels out as in are needed, got {channels} in and {channels_out} out")
    channels = channels or channels_out
    if channels not in (1, 3):
        raise ModelError(f"one or three channels are needed, got {channels}")

    source, target = inputs[0].name, graph.output[0].name
    axes = [_Axis(graph.node, constants, source, target, axis) for axis in (0, 1)]
    y, x = (axis.solve() for axis in axes)
    if y != x:
        raise ModelError(f"scale and margin must agree on both axes, got {y} and {x}")
    scale, margin, period = y
    parameters = sum(int(np.prod(t.dims)) for t in graph.initializer if len(t.dims) > 0)
    return GraphFacts(scale, margin, period, channels, batch, parameters)


class _Axis:
    """The graph on one spatial axis: a list of (inputs, output, step)."""

    def __init__(
        self, graph: Any, constants: dict[str, NDArray[Any]], source: str, target: str, axis: int
    ) -> None:
        self.source, self.target = source, target
        self.edges: list[tuple[list[str], str, Step]] = []
        self.rates = {source: Fraction(1)}
        for node in graph:
            if node.op_type == "Constant":
                continue
            flowing = [name for name in node.input if name in self.rates]
            unknown = [n for n in node.input if n and n not in self.rates and n not in constants]
            if unknown or not flowing:
                raise ModelError(f"{_name(node)}: input {(unknown or list(node.input))[0]!r} has no source")
            if node.op_type in ELEMENTWISE:
                _check_constants_are_flat(node, constants)
            elif len(flowing) > 1 and node.op_type != "Concat":
                raise ModelError(f"{_name(node)}: computed weights have unknown reach")
            step = _step(node, constants, axis)
            rates = {step.rate(self.rates[name]) for name in flowing}
            if len(rates) != 1:
                raise ModelError(f"{_name(node)}: its inputs have different scales")
            self.rates[node.output[0]] = rates.pop()
            self.edges.append((flowing, node.output[0], step))
        if target not in self.rates:
            raise ModelError(f"the output {target!r} does not depend on the picture")

    def sizes(self, n: int) -> int:
        """Return the output size for n input samples, or 0 if n is too small."""
        size = {self.source: n}
        for inputs, output, step in self.edges:
            got = {step.size(size[i]) for i in inputs}
            if len(got) != 1:
                raise ModelError(f"{output!r}: its inputs have different sizes")
            size[output] = max(0, got.pop())
        return size[self.target]

    def need(self, lo: int, hi: int) -> tuple[int, int]:
        """Return the hull of input samples that output [lo, hi) depends on."""
        want = {self.target: (lo, hi)}
        for inputs, output, step in reversed(self.edges):
            if output not in want:
                continue
            a, b = step.need(*want[output])
            for name in inputs:
                c, d = want.get(name, (a, b))
                want[name] = (min(a, c), max(b, d))
        return want[self.source]

    def solve(self) -> tuple[int, int, int]:
        """Return scale, margin and period."""
        rate = self.rates[self.target]
        if rate.denominator != 1:
            raise ModelError(f"the scale must be a whole number, got {rate}")
        scale = int(rate)
        period = math.lcm(*(r.denominator for r in self.rates.values()))
        base = _PROBE // period * period
        margins = []
        for n in range(base, base + period):
            out = self.sizes(n)
            if out > 0 and out % (scale * period) == 0 and self.sizes(n + period) == out + scale * period:
                margins.append((n - out // scale, n, out))
        if not margins:
            raise ModelError("the output size is no whole multiple of the input's for any window size")
        total, n, out = min(margins)
        if total < 0 or total % 2:
            raise ModelError(f"the margin must be the same on both sides, got {total} LR pixels in all")
        lo, hi = self.need(0, out)
        if lo < 0 or hi > n:
            raise ModelError(f"outputs read LR samples {lo}..{hi} of a window of {n}")
        return scale, total // 2, period


def _step(node: NodeProto, constants: dict[str, NDArray[Any]], axis: int) -> Step:
    op = node.op_type
    if op in ELEMENTWISE:
        return Step()
    if op == "Concat":
        if _attribute(node, "axis", 1) not in (1, -3):
            raise ModelError(f"{_name(node)}: concatenates along another axis than channels")
        return Step()
    if op == "Conv":
        if any(_attribute(node, "pads", [0])) or _attribute(node, "auto_pad", b"NOTSET") not in (
            b"NOTSET",
            b"VALID",
        ):
            raise ModelError(f"{_name(node)}: pads; only unpadded (valid) convolutions can be tiled")
        size = _constant(node, constants, 1).shape[2 + axis]
        stride = _attribute(node, "strides", [1, 1])[axis]
        dilation = _attribute(node, "dilations", [1, 1])[axis]
        return Step(kernel=(size - 1) * dilation + 1, stride=stride)
    if op == "DepthToSpace":
        return Step(up=_attribute(node, "blocksize", 1))
    if op == "SpaceToDepth":
        block = _attribute(node, "blocksize", 1)
        return Step(kernel=block, stride=block)
    if op == "Slice":
        return _slice(node, constants, axis)
    raise ModelError(f"{_name(node)}: {op} has unknown or unbounded reach, so the model cannot be tiled")


def _slice(node: NodeProto, constants: dict[str, NDArray[Any]], axis: int) -> Step:
    starts, ends = (_constant(node, constants, k).tolist() for k in (1, 2))
    axes = _constant(node, constants, 3).tolist() if len(node.input) > 3 else list(range(len(starts)))
    steps = _constant(node, constants, 4).tolist() if len(node.input) > 4 else [1] * len(starts)
    for start, end, ax, step in zip(starts, ends, axes, steps, strict=True):
        if ax % 4 != 2 + axis:
            continue
        far = end if end < 0 else 0 if end >= np.iinfo(np.int32).max else None
        if step != 1 or start < 0 or far is None:
            raise ModelError(
                f"{_name(node)}: only [a:-b] with step 1 can be tiled, got [{start}:{end}:{step}]"
            )
        return Step(start=start, end=-far)
    return Step()


def _constants(model: ModelProto) -> dict[str, NDArray[Any]]:
    from onnx import TensorProto, numpy_helper

    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(f"weight {tensor.name!r} is kept in another file; save the model as one file")
        found[tensor.name] = numpy_helper.to_array(tensor)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _constant(node: NodeProto, constants: dict[str, NDArray[Any]], k: int) -> NDArray[Any]:
    if k >= len(node.input) or node.input[k] not in constants:
        raise ModelError(f"{_name(node)}: input {k} must be a constant")
    return constants[node.input[k]]


def _check_constants_are_flat(node: NodeProto, constants: dict[str, NDArray[Any]]) -> None:
    """An operand with its own H and W would be baked in: another value at every tile."""
    for name in node.input:
        shape = constants[name].shape if name in constants else ()
        if node.op_type != "BatchNormalization" and any(n != 1 for n in shape[-2:]):
            raise ModelError(f"{_name(node)}: constant {name!r} of shape {shape} varies over the picture")


def _check_value(value: ValueInfoProto) -> tuple[int | None, int | None]:
    """Return (batch, channels) of a float32 (N, C, H, W) value with free H and W."""
    from onnx import TensorProto

    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT:
        raise ModelError(f"{value.name!r} must be float32, got {TensorProto.DataType.Name(kind.elem_type)}")
    if len(dims) != 4:
        raise ModelError(f"{value.name!r} must have rank 4 (N, C, H, W), got rank {len(dims)}")
    if dims[2] is not None or dims[3] is not None:
        raise ModelError(f"{value.name!r} must leave H and W free, got {dims[2]} x {dims[3]}")
    return dims[0], dims[1]


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _name(node: NodeProto) -> str:
    return f"node {node.name or node.output[0]!r} ({node.op_type})"
