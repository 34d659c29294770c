"""Helpers to read ONNX models, graphs and nodes. None of them changes its argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

STANDARD_DOMAINS = ("", "ai.onnx")  # both name ONNX's own operator set
SLICE_END = 2**31 - 1  # an end of a Slice from here on means "to the end of the axis"
MIN_IR_WITHOUT_WEIGHT_INPUTS = 4  # before IR version 4 initialisers had to be listed among the inputs


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute's value, or `default` if the node does not have it."""
    return attributes(node).get(name, default)


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the values of all attributes by name; of two with one name the first."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in reversed(node.attribute)}


def is_op(node: NodeProto | None, *ops: str) -> bool:
    """Return whether a node is one of the given operators of ONNX's own operator set."""
    return node is not None and node.op_type in ops and node.domain in STANDARD_DOMAINS


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that an If, Loop or Scan node holds as attributes."""
    for a in node.attribute:
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def constant_tensors(model: ModelProto) -> dict[str, TensorProto]:
    """Return the initialisers and the values of Constant nodes by tensor name."""
    found = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def inputs_without_weights(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs of a graph that are not initialisers."""
    weights = {t.name for t in graph.initializer}
    return [v for v in graph.input if v.name not in weights]


def dimensions(value: ValueInfoProto) -> list[int | None]:
    """Return the dimensions of an input or output, None where they are free."""
    return [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]


def type_name(kind: int) -> str:
    """Return the name of an element type, or its number if ONNX does not know it."""
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else kind)


def opset_version(model: ModelProto) -> int:
    """Return the version of ONNX's own operator set, 0 if the model does not declare one."""
    return max((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=0)


def unused_name(name: str, taken: Iterable[str]) -> str:
    """Return `name`, with a number appended if it is among `taken`."""
    found, k = name, 1
    while found in taken:
        found, k = f"{name}.{k}", k + 1
    return found
