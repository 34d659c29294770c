"""A graph traced on shapes alone, at one image size.

Every tensor is either `Known` (a constant, or computed from shapes) or a `Flow`: a tensor
whose samples depend on the image, with a role for each of its axes. What the nodes do
to the two spatial axes is kept as links, to be read backward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Self

from ...errors import ModelError
from . import ops
from .receptive_field import Interval, Link
from .shape_folding import CONSTANTS, SIZED, Budget, TooLargeError, fold
from .tensors import IMAGE, Call, Flow, Known

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

TYPES = {1: "float32", 2: "uint8", 10: "float16"}  # TensorProto.DataType
# What a model may declare of its input, and its tensors may hold: far more than any does.
MAX_CHANNELS = 1024
MAX_BATCH = 256
MAX_SIDE = 2**15
MAX_SAMPLES = 2**14  # of a tensor, a pixel of the image: 1,024 channels at four times the size
_MAX_AXES = 12
_NONSENSE = (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Edge:
    """One output of a node, the flows it comes from, and its links on y and x."""

    sources: tuple[str, ...]
    target: str
    links: tuple[Link, Link]


@dataclass(frozen=True, slots=True)
class Interface:
    """The image in and the image out, as the graph declares them."""

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
            If there is not one image (N, C, H, W) in and one out, of a known type.
        """
        graph = model.graph
        weights = {t.name for t in graph.initializer}
        inputs = [v for v in graph.input if v.name not in weights]
        if len(inputs) != 1 or len(graph.output) != 1:
            names = (", ".join(repr(v.name) for v in values) for values in (inputs, graph.output))
            raise ModelError(
                "one input and one output are needed, got {} and {}; --input NAME=VALUE fixes one that is no "
                "image, --output-name NAME keeps one".format(*(n or "none" for n in names))
            )
        kind, dims = _declared(inputs[0])
        kind_out, _ = _declared(graph.output[0])
        if dims is None or len(dims) != 4:
            rank = "none" if dims is None else len(dims)
            raise ModelError(f"{inputs[0].name!r} must have rank 4 (N, C, H, W), got rank {rank}")
        if dims[1] is None:
            raise ModelError(f"{inputs[0].name!r} must say how many channels it has")
        for size, maximum in zip(dims, (MAX_BATCH, MAX_CHANNELS, MAX_SIDE, MAX_SIDE), strict=True):
            if size is not None and size > maximum:
                raise ModelError(
                    f"{inputs[0].name!r} may be at most {MAX_BATCH} x {MAX_CHANNELS} x {MAX_SIDE} x "
                    f"{MAX_SIDE}, got {' x '.join('?' if d is None else str(d) for d in dims)}"
                )
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
        batch = interface.batch or 1
        roles = IMAGE[0] if batch > 1 else IMAGE[1]
        self.states[interface.source] = Flow((batch, interface.channels, height, width), roles)
        self._largest_of = MAX_SAMPLES * height * width * (interface.batch or 1)
        budget = Budget(SIZED)
        for node in model.graph.node:
            if node.output and node.output[0] in known:  # computed before
                continue
            call = Call(node, self.states)
            try:
                self._step(call, budget)
            except ModelError:
                raise
            except _NONSENSE as error:
                raise call.refusal(f"its attributes or inputs make no sense: {error}") from error
        output = self.states.get(interface.target)
        if not isinstance(output, Flow):
            raise ModelError(f"the output {interface.target!r} does not depend on the image")
        if output.roles not in IMAGE:
            raise ModelError(f"the output must be (N, C, H, W), got axes {output.roles!r}")
        if output.shape[0] != batch:
            raise ModelError(f"gives {output.shape[0]} images for {batch}")
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

    def _step(self, call: Call, budget: Budget) -> None:
        if any(isinstance(i, Flow) for i in call.inputs) and call.op not in ("Shape", "Size"):
            self._flow(call, ops.apply(call))
            return
        for name, state in zip(call.node.output, fold(call, budget), strict=False):
            self.states[name] = state

    def _flow(self, call: Call, results: Sequence[tuple[Flow, Link, Link, int]]) -> None:
        sources = tuple(n for n, i in zip(call.node.input, call.inputs, strict=True) if isinstance(i, Flow))
        for name, (flow, y, x, macs) in zip(call.node.output, results, strict=False):
            if min(flow.shape) < 1:
                raise call.refusal(f"nothing is left of its input: shape {flow.shape}")
            if len(flow.shape) > _MAX_AXES or math.prod(flow.shape) > self._largest_of:
                raise call.refusal(
                    f"a tensor may have at most {_MAX_AXES} axes and {MAX_SAMPLES} samples a pixel of the "
                    f"image, got shape {flow.shape}"
                )
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


def computed(model: ModelProto, known: dict[str, Known], *, strict: bool = True) -> dict[str, Known]:
    """Return the initialisers `known` and all that nodes compute from them alone, once for every size.

    Parameters
    ----------
    strict : refuse what cannot be computed, else leave it out; what is too large is always refused

    Raises
    ------
    ModelError
    """
    found: dict[str, Known | Flow] = dict(known)
    budget = Budget(CONSTANTS)
    for node in model.graph.node:
        if any(name and name not in found for name in node.input):
            continue
        call = Call(node, found)
        try:
            found.update(zip(node.output, fold(call, budget), strict=False))
        except TooLargeError:
            raise
        except ModelError:
            if strict:
                raise
        except _NONSENSE as error:
            if strict:
                raise call.refusal(f"its attributes or inputs make no sense: {error}") from error
    return {name: state for name, state in found.items() if isinstance(state, Known)}


def _declared(value: ValueInfoProto) -> tuple[str, list[int | None] | None]:
    """Return the type and the dimensions (None where free) of an input or output."""
    kind = value.type.tensor_type
    if kind.elem_type not in TYPES:
        from onnx import TensorProto

        names = ", ".join(TYPES.values())
        known = kind.elem_type in TensorProto.DataType.values()
        got = TensorProto.DataType.Name(kind.elem_type) if known else kind.elem_type
        raise ModelError(f"{value.name!r} must be one of {names}, got {got}")
    if not kind.HasField("shape"):
        return TYPES[kind.elem_type], None
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
    return TYPES[kind.elem_type], dims
