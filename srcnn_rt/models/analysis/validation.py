"""What is refused of a model before anything is computed from it.

A model file comes from strangers. ONNX Runtime and the analysis trust what a graph declares: a tensor
may name another file to be read in its place, sizes may be those of the whole memory, a function
may call itself. All of that is looked for here, in the parsed message alone, without
opening or allocating anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ModelError

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

MAX_NODES = 50_000  # with the bodies and with functions written out; the largest seen have about 5,000
MAX_DEPTH = 8  # of bodies in bodies
# TensorProto.DataType: (field that holds the numbers when raw_data does not, bits of one in raw_data)
_TYPES = {
    1: ("float_data", 32),
    2: ("int32_data", 8),
    3: ("int32_data", 8),
    4: ("int32_data", 16),
    5: ("int32_data", 16),
    6: ("int32_data", 32),
    7: ("int64_data", 64),
    9: ("int32_data", 8),
    10: ("int32_data", 16),
    11: ("double_data", 64),
    12: ("uint64_data", 32),
    13: ("uint64_data", 64),
    16: ("int32_data", 16),
    17: ("int32_data", 8),
    18: ("int32_data", 8),
    19: ("int32_data", 8),
    20: ("int32_data", 8),
    21: ("int32_data", 4),
    22: ("int32_data", 4),
}
_LARGEST = 2**40  # of a declared size: products of a few stay far from overflow
_FLOATS = (1, 10, 11, 16)
_STANDARD = ("", "ai.onnx")


def check(model: ModelProto, data: bytes) -> None:
    """Refuse a model that asks for more than its own bytes hold, or that breaks ONNX's own rules.

    Parameters
    ----------
    model : as parsed from `data`

    Raises
    ------
    ModelError
        If a tensor is kept in another file, holds no or too many numbers for its shape, or a weight
        is not finite; if there are too many nodes, too deep; if a function calls itself; or with the words
        of ``onnx.checker`` if it is not valid ONNX.
    """
    _check_names(model)
    _check_shapes(model.graph)
    _check_functions(model)
    graphs = [model.graph]
    for info in model.training_info:
        graphs += [info.initialization, info.algorithm]
    nodes = 0
    for graph in graphs:
        for tensor, inside in _tensors(graph):
            _check_tensor(tensor, inside)
        nodes += _count(graph.node, 0)
    for function in model.functions:
        for tensor, inside in _of_nodes(function.node):
            _check_tensor(tensor, inside)
    nodes += _written_out(model)
    if nodes > MAX_NODES:
        raise ModelError(f"a graph may hold at most {MAX_NODES} nodes, got {nodes}")
    _check_valid(data)


def _check_shapes(graph: GraphProto) -> None:
    """Refuse declared sizes below -1, which stands for a free one with some exporters."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if any(n < -1 for n in dims) or any(n > _LARGEST for n in dims):
            raise ModelError(f"{value.name!r} has an impossible shape: {' x '.join(map(str, dims))}")


def _check_names(model: ModelProto) -> None:
    """Refuse names that are not UTF-8: protobuf gives them as bytes, where all else is text."""
    graph = model.graph
    texts = [text for p in model.metadata_props for text in (p.key, p.value)]
    texts += [t.name for t in graph.initializer] + [v.name for v in (*graph.input, *graph.output)]
    texts += [d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim]
    texts += [text for f in model.functions for text in (f.name, f.domain, f.overload)]
    for node in _calls(graph.node):
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
        texts += [a.name for a in node.attribute]
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"not an ONNX model: a name in it is not UTF-8: {text!r:.80}")


def _check_valid(data: bytes) -> None:
    """Let ONNX's own checker see the bytes: names used before they are made, attributes of wrong types ..."""
    from onnx import checker

    try:
        checker.check_model(data)
    except checker.ValidationError as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"not valid ONNX: {first}") from error
    except Exception as error:  # what its C++ throws has other types
        raise ModelError(f"not valid ONNX: {error}") from error


def _check_tensor(tensor: TensorProto, inside: str) -> None:
    name = tensor.name or inside
    if tensor.data_location == 1 or tensor.external_data:  # TensorProto.EXTERNAL
        raise ModelError(f"weight {name!r} is kept in another file; save the model as one file")
    if tensor.HasField("segment"):
        raise ModelError(f"weight {name!r} is kept in segments; save it in one piece")
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        raise ModelError(f"weight {name!r} is of type {_type_name(tensor.data_type)}, not of numbers")
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
    """Return whether all numbers are finite; a single one may be infinite, as a bound of Clip is."""
    from onnx import numpy_helper

    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # a float16 written as 70000, say
        raise ModelError(f"weight {tensor.name!r} cannot be read: {error}") from error
    values: Any = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return bool(np.isfinite(values).all()) or (size == 1 and not bool(np.isnan(values).any()))


def _tensors(graph: GraphProto, depth: int = 0) -> Iterator[tuple[TensorProto, str]]:
    """Yield every tensor of a graph and what it is in, in bodies too."""
    if depth > MAX_DEPTH:
        raise ModelError(f"bodies may be nested at most {MAX_DEPTH} deep")
    for tensor in graph.initializer:
        yield tensor, "a weight"
    if graph.sparse_initializer:
        raise ModelError(
            f"weight {graph.sparse_initializer[0].values.name!r} is sparse; save the model with dense weights"
        )
    yield from _of_nodes(graph.node, depth)


def _of_nodes(nodes: Any, depth: int = 0) -> Iterator[tuple[TensorProto, str]]:
    for node in nodes:
        for attribute in node.attribute:
            inside = f"of node {node.name or (node.output[0] if node.output else node.op_type)}"
            if attribute.HasField("t"):
                yield attribute.t, inside
            for tensor in attribute.tensors:
                yield tensor, inside
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise ModelError(f"a weight {inside!r} is sparse; save the model with dense weights")
            for body in _bodies(attribute):
                yield from _tensors(body, depth + 1)


def _bodies(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _count(nodes: Any, depth: int) -> int:
    """Return how many nodes there are, in bodies too."""
    found = len(nodes)
    for node in nodes:
        for attribute in node.attribute:
            for body in _bodies(attribute):
                found += _count(body.node, depth + 1)
    return found


def _calls(nodes: Any) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in _bodies(attribute):
                yield from _calls(body.node)


def _key(domain: str, name: str, overload: str) -> tuple[str, str, str]:
    return ("" if domain in _STANDARD else domain, name, overload)


def _check_functions(model: ModelProto) -> None:
    """Refuse functions that stand for ONNX's own operators, and bodies nested too deep in them."""
    for function in model.functions:
        if function.domain in _STANDARD:
            raise ModelError(f"a function may not take the place of ONNX's own {function.name!r}")
        for _ in _of_nodes(function.node):  # raises where bodies are too deep
            pass


def _written_out(model: ModelProto) -> int:
    """Return how many nodes the graph's calls of functions come to, each written out where it is called.

    Raises
    ------
    ModelError
        If a function calls itself, directly or through others.
    """
    functions: dict[tuple[str, str, str], FunctionProto] = {
        _key(f.domain, f.name, f.overload): f for f in model.functions
    }
    if not functions:
        return 0
    sizes: dict[tuple[str, str, str], int] = {}
    calls = {
        key: [c for n in _calls(f.node) if (c := _key(n.domain, n.op_type, n.overload)) in functions]
        for key, f in functions.items()
    }
    # Without recursion of our own: a chain of thousands of functions is no reason to fail.
    for start in functions:
        stack, open_ = [(start, iter(calls[start]))], {start}
        while stack:
            key, rest = stack[-1]
            if key in sizes:
                open_.discard(key)
                stack.pop()
                continue
            for called in rest:
                if called in open_:
                    raise ModelError(f"function {called[1]!r} calls itself")
                if called not in sizes:
                    open_.add(called)
                    stack.append((called, iter(calls[called])))
                    break
            else:
                own = sum(1 for _ in _calls(functions[key].node))
                sizes[key] = own + sum(sizes[c] for c in calls[key])
                open_.discard(key)
                stack.pop()
    total = 0
    for node in _calls(model.graph.node):
        total += sizes.get(_key(node.domain, node.op_type, node.overload), 0)
    return total


def _type_name(kind: int) -> str:
    from onnx import TensorProto

    try:
        return str(TensorProto.DataType.Name(kind))
    except ValueError:
        return str(kind)


def _dims(tensor: TensorProto) -> str:
    return "x".join(map(str, tensor.dims)) or "()"
