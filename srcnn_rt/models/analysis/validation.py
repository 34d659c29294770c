"""Validation of a model before anything is computed from it.

A model file may come from a stranger. ONNX Runtime and the analysis trust the declarations of a graph: a
tensor may name another file to be read, sizes may exceed the memory, a function may call itself. All of that
is checked here in the parsed message alone, without opening or allocating anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ModelError
from ..onnx_helpers import STANDARD_DOMAINS, subgraphs, type_name

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

MAX_NODES = 50_000  # with subgraphs and inlined functions; real models have up to about 5,000
MAX_DEPTH = 8  # of nested subgraphs
# TensorProto.DataType: (field that holds the values if raw_data does not, bits of a value in raw_data)
_TYPES = {
    1: ("float_data", 32), 6: ("int32_data", 32), 7: ("int64_data", 64), 11: ("double_data", 64),
    12: ("uint64_data", 32), 13: ("uint64_data", 64),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), ("int32_data", 8)),
    **dict.fromkeys((4, 5, 10, 16), ("int32_data", 16)),
    **dict.fromkeys((21, 22), ("int32_data", 4)),
}  # fmt: skip
_MAX_DIMENSION = 2**40  # products of a few declared sizes stay far from overflow
_FLOATS = (1, 10, 11, 16)


def validate(model: ModelProto, data: bytes) -> None:
    """Refuse a model that asks for more than its own bytes hold, or that breaks ONNX's rules.

    Parameters
    ----------
    model : ModelProto
        The model, parsed from `data`.
    data : bytes
        Its file.

    Raises
    ------
    ModelError
        If a tensor is kept in another file, or holds too few or too many values for its shape; if a weight
        is not finite; if there are too many nodes or too deeply nested subgraphs; if a function calls
        itself; or with the message of ``onnx.checker`` if it is not valid ONNX.
    """
    _check_names(model)
    _check_shapes(model.graph)
    for function in model.functions:
        if function.domain in STANDARD_DOMAINS:
            raise ModelError(f"a function may not take the place of ONNX's own {function.name!r}")
        for tensor, inside in _node_tensors(function.node):
            _check_tensor(tensor, inside)
    graphs = [model.graph]
    for info in model.training_info:
        graphs += [info.initialization, info.algorithm]
    for graph in graphs:
        for tensor, inside in _tensors(graph):
            _check_tensor(tensor, inside)
    nodes = sum(1 for graph in graphs for _ in _nested(graph.node)) + _inlined_nodes(model)
    if nodes > MAX_NODES:
        raise ModelError(f"a graph may hold at most {MAX_NODES} nodes, got {nodes}")
    _check_valid(data)


def _check_shapes(graph: GraphProto) -> None:
    """Refuse impossible sizes. Some exporters write -1 for a free one."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if any(not -1 <= n <= _MAX_DIMENSION for n in dims):
            raise ModelError(f"{value.name!r} has an impossible shape: {' x '.join(map(str, dims))}")


def _check_names(model: ModelProto) -> None:
    """Refuse names that are not UTF-8: protobuf returns them as bytes, where all others are str."""
    graph = model.graph
    texts = [text for p in model.metadata_props for text in (p.key, p.value)]
    texts += [t.name for t in graph.initializer] + [v.name for v in (*graph.input, *graph.output)]
    texts += [d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim]
    texts += [text for f in model.functions for text in (f.name, f.domain, f.overload)]
    for node in _nested(graph.node):
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
        texts += [a.name for a in node.attribute]
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"not an ONNX model: a name in it is not UTF-8: {text!r:.80}")


def _check_valid(data: bytes) -> None:
    """Run ONNX's own checker, which finds names used before they are made, attributes of wrong types, etc."""
    from onnx import checker

    try:
        checker.check_model(data)
    except Exception as error:  # its C++ exceptions have types of their own
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"not valid ONNX: {first}") from error


def _check_tensor(tensor: TensorProto, inside: str) -> None:
    name = tensor.name or inside
    if tensor.data_location == 1 or tensor.external_data:  # TensorProto.EXTERNAL
        raise ModelError(f"weight {name!r} is kept in another file; save the model as one file")
    if tensor.HasField("segment"):
        raise ModelError(f"weight {name!r} is kept in segments; save it in one piece")
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        raise ModelError(f"weight {name!r} is of type {type_name(tensor.data_type)}, not of numbers")
    field, bits = kind
    if any(n < 0 for n in tensor.dims):
        raise ModelError(f"weight {name!r} has a negative dimension: {_dims(tensor)}")
    size = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        have, need, unit = len(tensor.raw_data), -(-size * bits // 8), "bytes"
    else:
        have, need, unit = len(getattr(tensor, field)), -(-size // 2) if bits == 4 else size, "numbers"
    if have != need:
        raise ModelError(
            f"weight {name!r} of shape {_dims(tensor)} needs {need} {unit}, its file holds {have}"
        )
    if tensor.data_type in _FLOATS and not _finite(tensor, size):
        raise ModelError(f"weight {name!r}: weights must be finite, got NaN or infinity")


def _finite(tensor: TensorProto, size: int) -> bool:
    """Return whether all values are finite. A single value may be infinite, as a bound of Clip is."""
    from onnx import numpy_helper

    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # a float16 written as 70000, say
        raise ModelError(f"weight {tensor.name!r} cannot be read: {error}") from error
    values: Any = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return bool(np.isfinite(values).all()) or (size == 1 and not bool(np.isnan(values).any()))


def _tensors(graph: GraphProto, depth: int = 0) -> Iterator[tuple[TensorProto, str]]:
    """Yield every tensor of a graph and a name for the place it is in, subgraphs included."""
    if depth > MAX_DEPTH:
        raise ModelError(f"subgraphs may be nested at most {MAX_DEPTH} deep")
    for tensor in graph.initializer:
        yield tensor, "a weight"
    if graph.sparse_initializer:
        raise ModelError(
            f"weight {graph.sparse_initializer[0].values.name!r} is sparse; save the model with dense weights"
        )
    yield from _node_tensors(graph.node, depth)


def _node_tensors(nodes: Iterable[NodeProto], depth: int = 0) -> Iterator[tuple[TensorProto, str]]:
    for node in nodes:
        inside = f"of node {node.name or (node.output[0] if node.output else node.op_type)}"
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t, inside
            for tensor in attribute.tensors:
                yield tensor, inside
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise ModelError(f"a weight {inside!r} is sparse; save the model with dense weights")
        for body in subgraphs(node):
            yield from _tensors(body, depth + 1)


def _nested(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for body in subgraphs(node):
            yield from _nested(body.node)


def _key(domain: str, name: str, overload: str) -> tuple[str, str, str]:
    return ("" if domain in STANDARD_DOMAINS else domain, name, overload)


def _inlined_nodes(model: ModelProto) -> int:
    """Return the number of nodes that the graph's function calls have when every call is inlined.

    Raises
    ------
    ModelError
        If a function calls itself, directly or through others.
    """
    functions: dict[tuple[str, str, str], FunctionProto] = {
        _key(f.domain, f.name, f.overload): f for f in model.functions
    }
    sizes: dict[tuple[str, str, str], int] = {}
    calls = {
        key: [c for n in _nested(f.node) if (c := _key(n.domain, n.op_type, n.overload)) in functions]
        for key, f in functions.items()
    }
    try:
        for key in TopologicalSorter(calls).static_order():
            sizes[key] = sum(1 for _ in _nested(functions[key].node)) + sum(sizes[c] for c in calls[key])
    except CycleError as error:
        (_, name, _), *_ = error.args[1]
        raise ModelError(f"function {name!r} calls itself") from error
    return sum(sizes.get(_key(n.domain, n.op_type, n.overload), 0) for n in _nested(model.graph.node))


def _dims(tensor: TensorProto) -> str:
    return "x".join(map(str, tensor.dims)) or "()"
