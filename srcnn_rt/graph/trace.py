"""A graph traced on shapes alone, at one picture size.

Every tensor is either `Known` (a constant, or computed from shapes) or a `Flow`: a tensor
whose samples depend on the picture, with a role for each of its axes. What the nodes do
to the two spatial axes is kept as links, to be read backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Self

from ..errors import ModelError
from . import ops
from .fold import fold
from .reach import Interval, Link
from .tensors import Call, Flow, Known

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

TYPES = {1: "float32", 2: "uint8", 10: "float16"}  # TensorProto.DataType


@dataclass(frozen=True, slots=True)
class Edge:
    """One output of a node, the flows it comes from, and its links on y and x."""

    sources: tuple[str, ...]
    target: str
    links: tuple[Link, Link]


@dataclass(frozen=True, slots=True)
class Interface:
    """The picture in and the picture out, as the graph declares them."""

    source: str
    target: str
    batch: int | None
    channels: int
    height: int | None
    width: int | None
    types: tuple[str, str]

    @classmethod
    def of(cls, model: ModelProto) -> Self:
        """Read the declarations.

        Raises
        ------
        ModelError
            If there is not one picture (N, C, H, W) in and one out, of a known type.
        """
        graph = model.graph
        weights = {t.name for t in graph.initializer}
        inputs = [v for v in graph.input if v.name not in weights]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ModelError(
                f"one input and one output are needed, got {len(inputs)} and {len(graph.output)}"
            )
        kind, dims = _declared(inputs[0])
        kind_out, _ = _declared(graph.output[0])
        if dims is None or len(dims) != 4:
            rank = "none" if dims is None else len(dims)
            raise ModelError(f"{inputs[0].name!r} must have rank 4 (N, C, H, W), got rank {rank}")
        if dims[1] is None:
            raise ModelError(f"{inputs[0].name!r} must say how many channels it has")
        return cls(inputs[0].name, graph.output[0].name, dims[0], dims[1], dims[2], dims[3], (kind, kind_out))


class Trace:
    """The states of all tensors for one input size, and the edges between the flows.

    Parameters
    ----------
    model, interface
    constants : the initialisers, from `constants`
    height, width : of the input

    Attributes
    ----------
    output : the output's flow
    macs : multiply-accumulates of one run

    Raises
    ------
    ModelError
        If a node cannot be traced, by name.
    """

    def __init__(
        self, model: ModelProto, interface: Interface, known: dict[str, Known], height: int, width: int
    ) -> None:
        self._interface = interface
        self._edges: list[Edge] = []
        self.macs = 0
        self.states: dict[str, Known | Flow] = dict(known)
        self.states[interface.source] = Flow(
            (interface.batch or 1, interface.channels, height, width), "ncyx"
        )
        for node in model.graph.node:
            call = Call(node, self.states)
            if any(isinstance(i, Flow) for i in call.inputs) and call.op not in ("Shape", "Size"):
                self._flow(call, ops.apply(call))
            else:
                for name, state in zip(node.output, fold(call), strict=False):
                    self.states[name] = state
        output = self.states.get(interface.target)
        if not isinstance(output, Flow):
            raise ModelError(f"the output {interface.target!r} does not depend on the picture")
        if output.roles != "ncyx":
            raise ModelError(f"the output must be (N, C, H, W), got axes {output.roles!r}")
        self.output = output

    def need(self, axis: int, lo: int, hi: int) -> Interval:
        """Return the hull of input samples that output [lo, hi) of an axis depends on."""
        want = {self._interface.target: (lo, hi)}
        for edge in reversed(self._edges):
            if edge.target not in want:
                continue
            a, b = edge.links[axis].need(*want[edge.target])
            for name in edge.sources:
                c, d = want.get(name, (a, b))
                want[name] = (min(a, c), max(b, d))
        return want[self._interface.source]

    def rates(self, axis: int) -> dict[str, Fraction]:
        """Return samples an LR sample of every flow, on one axis, as the links have it."""
        rates = {self._interface.source: Fraction(1)}
        for edge in self._edges:
            found = {rates[name] * edge.links[axis].rate for name in edge.sources}
            if len(found) != 1:
                raise ModelError(f"{edge.target!r}: its inputs have different scales")
            rates[edge.target] = found.pop()
        return rates

    def _flow(self, call: Call, results: Sequence[tuple[Flow, Link, Link, int]]) -> None:
        sources = tuple(n for n, i in zip(call.node.input, call.inputs, strict=True) if isinstance(i, Flow))
        for name, (flow, y, x, macs) in zip(call.node.output, results, strict=False):
            if min(flow.shape) < 1:
                raise call.refusal(f"nothing is left of its input: shape {flow.shape}")
            self.states[name] = flow
            self._edges.append(Edge(sources, name, (y, x)))
            self.macs += macs


def constants(model: ModelProto) -> dict[str, Known]:
    """Return the initialisers.

    Raises
    ------
    ModelError
        If one is kept in another file.
    """
    from onnx import TensorProto, numpy_helper

    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(f"weight {tensor.name!r} is kept in another file; save the model as one file")
        found[tensor.name] = Known(numpy_helper.to_array(tensor))
    return found


def _declared(value: ValueInfoProto) -> tuple[str, list[int | None] | None]:
    """Return the type and the dimensions (None where free) of an input or output."""
    kind = value.type.tensor_type
    if kind.elem_type not in TYPES:
        from onnx import TensorProto

        names = ", ".join(TYPES.values())
        got = TensorProto.DataType.Name(kind.elem_type)
        raise ModelError(f"{value.name!r} must be one of {names}, got {got}")
    if not kind.HasField("shape"):
        return TYPES[kind.elem_type], None
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
    return TYPES[kind.elem_type], dims
