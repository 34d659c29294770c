"""Trace of a graph on shapes alone, at one image size.

Every tensor is either `Known` (a constant, or computed from shapes) or a `Flow` (its samples depend on the
image, and each of its axes has a role). The effect of each node on the two spatial axes is kept as links,
which are read backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Self

from ...errors import ModelError
from ..onnx_helpers import dimensions, inputs_without_weights, type_name
from . import ops
from .receptive_field import Interval, Link
from .shape_folding import CONSTANTS, SIZED, Budget, TooLargeError, fold
from .tensors import IMAGE, Call, Flow, Known, Results

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

TYPES = {1: "float32", 2: "uint8", 10: "float16"}  # TensorProto.DataType
# Limits of an input and of tensors, far above those of real models.
MAX_CHANNELS = 1024
MAX_BATCH = 256
MAX_SIDE = 2**15
MAX_SAMPLES = 2**14  # of a tensor, per pixel of the image: 1,024 channels at four times the size
_MAX_AXES = 12
# Raised by operators whose attributes or inputs are malformed.
_MALFORMED = (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError)


Edge = tuple[tuple[str, ...], str, tuple[Link, Link]]
"""One output of a node: the flows it comes from, its name, and its links on y and x."""


@dataclass(frozen=True, slots=True)
class Interface:
    """Input image and output image as the graph declares them.

    Attributes
    ----------
    source, target : str
        Names of the input and the output.
    batch, height, width : int or None
        Declared sizes of the input, None where they are free.
    channels : int
        Channels of the input.
    types : tuple of str
        Element types of the input and the output.
    """

    source: str
    target: str
    batch: int | None
    channels: int
    height: int | None
    width: int | None
    types: tuple[str, str]

    @classmethod
    def of(cls, model: ModelProto) -> Self:
        """Read the declarations of a model.

        Raises
        ------
        ModelError
            If there is not one image (N, C, H, W) in and one out, of a known type.
        """
        graph = model.graph
        inputs = inputs_without_weights(graph)
        if len(inputs) != 1 or len(graph.output) != 1:
            names = (", ".join(repr(v.name) for v in values) for values in (inputs, graph.output))
            raise ModelError(
                "one input and one output are needed, got {} and {}; --input NAME=VALUE fixes an input that "
                "is not an image, --output-name NAME selects an output".format(*(n or "none" for n in names))
            )
        source, target = inputs[0], graph.output[0]
        types = _element_type(source), _element_type(target)
        sizes = dimensions(source)
        if len(sizes) != 4:
            rank = len(sizes) if source.type.tensor_type.HasField("shape") else "none"
            raise ModelError(f"{source.name!r} must have rank 4 (N, C, H, W), got rank {rank}")
        batch, channels, height, width = sizes
        if channels is None:
            raise ModelError(f"{source.name!r} must declare how many channels it has")
        limits = (MAX_BATCH, MAX_CHANNELS, MAX_SIDE, MAX_SIDE)
        if any(size is not None and size > limit for size, limit in zip(sizes, limits, strict=True)):
            raise ModelError(
                f"{source.name!r} may be at most {' x '.join(map(str, limits))}, "
                f"got {' x '.join('?' if d is None else str(d) for d in sizes)}"
            )
        return cls(source.name, target.name, batch, channels, height, width, types)


def _element_type(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    if kind not in TYPES:
        raise ModelError(f"{value.name!r} must be one of {', '.join(TYPES.values())}, got {type_name(kind)}")
    return TYPES[kind]


class Trace:
    """States of all tensors for one input size, and the edges between the flows.

    Parameters
    ----------
    model : ModelProto
        The model.
    interface : Interface
        Its declarations.
    known : dict of str to Known
        Its constants, from `computed`.
    height, width : int
        Size of the input.

    Attributes
    ----------
    states : dict of str to Known or Flow
        State of every tensor.
    output : Flow
        State of the output.
    macs : int
        Multiply-accumulates of one run.

    Raises
    ------
    ModelError
        If a node cannot be traced, naming it.
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
        self._max_samples = MAX_SAMPLES * height * width * batch
        budget = Budget(SIZED)
        for node in model.graph.node:
            if node.output and node.output[0] in known:
                continue
            call = Call(node, self.states)
            try:
                self._step(call, budget)
            except ModelError:
                raise
            except _MALFORMED as error:
                raise call.refusal(f"its attributes or inputs make no sense: {error}") from error
        output = self.states.get(interface.target)
        if not isinstance(output, Flow):
            raise ModelError(f"the output {interface.target!r} does not depend on the image")
        if output.roles not in IMAGE:
            raise ModelError(f"the output must be (N, C, H, W), got axes {output.roles!r}")
        if output.shape[0] != batch:
            raise ModelError(f"returns {output.shape[0]} images for {batch}")
        self.output = output

    def input_interval(self, axis: int, lo: int, hi: int) -> Interval:
        """Return the hull of the input samples that output [lo, hi) of an axis depends on."""
        want = {self._interface.target: (lo, hi)}
        for sources, target, links in reversed(self._edges):
            if target not in want:
                continue
            a, b = links[axis].input_interval(*want[target])
            for name in sources:
                c, d = want.get(name, (a, b))
                want[name] = (min(a, c), max(b, d))
        return want[self._interface.source]

    def rates(self, axis: int) -> dict[str, Fraction]:
        """Return the samples per LR sample of every flow on one axis, as its links give them.

        Raises
        ------
        ModelError
            If the inputs of a node have different ones.
        """
        rates = {self._interface.source: Fraction(1)}
        for sources, target, links in self._edges:
            found = {rates[name] * links[axis].rate for name in sources}
            if len(found) != 1:
                raise ModelError(f"{target!r}: its inputs have different scales")
            rates[target] = found.pop()
        return rates

    def _step(self, call: Call, budget: Budget) -> None:
        if any(isinstance(i, Flow) for i in call.inputs) and call.op not in ("Shape", "Size"):
            self._add_flows(call, ops.apply(call))
        else:
            self.states.update(zip(call.node.output, fold(call, budget), strict=False))

    def _add_flows(self, call: Call, results: Results) -> None:
        sources = tuple(n for n, i in zip(call.node.input, call.inputs, strict=True) if isinstance(i, Flow))
        for name, (flow, y, x, macs) in zip(call.node.output, results, strict=False):
            if min(flow.shape) < 1:
                raise call.refusal(f"nothing is left of its input: shape {flow.shape}")
            if len(flow.shape) > _MAX_AXES or math.prod(flow.shape) > self._max_samples:
                raise call.refusal(
                    f"a tensor may have at most {_MAX_AXES} axes and {MAX_SAMPLES} samples per pixel of the "
                    f"image, got shape {flow.shape}"
                )
            self.states[name] = flow
            self._edges.append((sources, name, (y, x)))
            self.macs += macs


def trace_at(model: ModelProto, side: int) -> Trace:
    """Trace a model on an image of `side` pixels per side, or of its fixed size.

    Raises
    ------
    ModelError
        If a node cannot be traced.
    """
    face = Interface.of(model)
    return Trace(model, face, computed(model, constants(model)), face.height or side, face.width or side)


def constants(model: ModelProto) -> dict[str, Known]:
    """Return the initialisers of a model.

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
    """Return the initialisers and all values that nodes compute from them alone.

    Parameters
    ----------
    model : ModelProto
        The model.
    known : dict of str to Known
        Its initialisers, from `constants`.
    strict : bool
        Refuse values that cannot be computed; else leave them out. Values that are too large are always
        refused.

    Raises
    ------
    ModelError
        If a value cannot be computed or is too large.
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
        except _MALFORMED as error:
            if strict:
                raise call.refusal(f"its attributes or inputs make no sense: {error}") from error
    return {name: state for name, state in found.items() if isinstance(state, Known)}
