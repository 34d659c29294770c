"""A graph that is being rewritten: a copy with its weights as arrays and its edges at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

DEFAULT_DOMAINS = ("", "ai.onnx")
_MANY = 64
# Layers beyond these are left alone: numbers in a weight that is made, and products to make it.
MAX_NUMBERS = 2**24
MAX_WORK = 2**32


class Edit:
    """A working copy of a model; `model` returns the result and leaves the original as it was.

    Parameters
    ----------
    model : never changed

    Attributes
    ----------
    nodes : in topological order; may be replaced
    """

    def __init__(self, model: ModelProto) -> None:
        from onnx import ModelProto, TensorProto, numpy_helper

        self._model = ModelProto()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self._arrays: dict[str, NDArray[Any]] = {
            t.name: numpy_helper.to_array(t)
            for t in graph.initializer
            if t.data_location != TensorProto.EXTERNAL
        }
        for node in self.nodes:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self._arrays[node.output[0]] = numpy_helper.to_array(attribute.t)
        self._added: dict[str, NDArray[Any]] = {}
        self._names = {n for node in self.nodes for n in (*_reads(node), *node.output, node.name)}
        self._names |= set(self._arrays)
        self._index()

    @property
    def opset(self) -> int:
        """Version of the default operator set, 0 if the model does not say."""
        return max(
            (o.version for o in self._model.opset_import if o.domain in DEFAULT_DOMAINS),
            default=0,
        )

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return frozenset(v.name for v in self._model.graph.output)

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the graph's inputs that are no weights."""
        weights = {t.name for t in self._model.graph.initializer}
        return frozenset(v.name for v in self._model.graph.input) - weights

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a constant's value, or None if `name` is computed from the image or absent."""
        return self._arrays.get(name) if name else None

    def maker(self, name: str) -> NodeProto | None:
        """Return the node that computes `name`, or None for inputs and initialisers."""
        return self._makers.get(name)

    def users(self, name: str) -> list[NodeProto]:
        """Return the nodes that read `name`, in order."""
        return self._users.get(name, [])

    def only_user(self, name: str) -> NodeProto | None:
        """Return the one node that reads `name`; None if others do, or it is an output."""
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def fresh(self, name: str) -> str:
        """Return `name`, or `name` with a number where it is taken, and take it."""
        found, k = name, 1
        while found in self._names:
            found, k = f"{name}.{k}", k + 1
        self._names.add(found)
        return found

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """Add an initialiser under a fresh name, and return the name.

        float64 becomes float32: sums are made in float64 and rounded once.
        """
        kind = np.float32 if value.dtype == np.float64 else value.dtype
        with np.errstate(over="ignore"):  # `program` leaves a model alone whose weights overflow
            array = np.asarray(value, kind, order="C")  # ascontiguousarray would give a scalar an axis
        found = self.fresh(name)
        self._arrays[found] = self._added[found] = array
        return found

    def node(
        self, op: str, inputs: Iterable[str], name: str, output: str | None = None, **attributes: Any
    ) -> NodeProto:
        """Make a node under a fresh name, not yet among `nodes`; its output is fresh unless given."""
        from onnx import helper

        name = self.fresh(name)
        return helper.make_node(op, list(inputs), [output or self.fresh(f"{name}.out")], name, **attributes)

    def replace(self, old: Iterable[NodeProto], new: Iterable[NodeProto]) -> None:
        """Put `new` where the last of `old` stood and take `old` away."""
        old, new = list(old), list(new)
        gone = {id(n) for n in old}
        at = max(k for k, n in enumerate(self.nodes) if id(n) in gone)
        before = [n for n in self.nodes[:at] if id(n) not in gone]
        self.nodes = [*before, *new, *(n for n in self.nodes[at:] if id(n) not in gone)]
        self._note(old, new)

    def rename(self, old: str, new: str) -> None:
        """Let the readers of `old` read `new`."""
        users = self._users.pop(old, [])
        for node in users:
            for k, name in enumerate(node.input):
                if name == old:
                    node.input[k] = new
        self._users[new] = self._in_order([*self._users.get(new, []), *users])

    def rename_output(self, node: NodeProto, old: str, new: str) -> None:
        """Let a node call its output `new`; its readers are left alone."""
        node.output[list(node.output).index(old)] = new
        self._index()

    def model(self) -> ModelProto:
        """Return the model as edited, without what nothing reads any more."""
        from onnx import ModelProto, numpy_helper

        out = ModelProto()
        out.CopyFrom(self._model)
        graph = out.graph
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(_reads(node))
        del graph.node[:]
        graph.node.extend(reversed(kept))
        initialisers = [t for t in graph.initializer if t.name in needed]
        dropped = {t.name for t in graph.initializer} - {t.name for t in initialisers}
        del graph.initializer[:]
        graph.initializer.extend(initialisers)
        graph.initializer.extend(
            numpy_helper.from_array(a, name) for name, a in self._added.items() if name in needed
        )
        if self._added:  # before version 4 weights must be among the inputs
            out.ir_version = max(out.ir_version, 4)
        # Old files list weights among the inputs; shapes inside the graph are no longer true.
        inputs = [v for v in graph.input if v.name not in dropped]
        del graph.input[:]
        graph.input.extend(inputs)
        del graph.value_info[:]
        return out

    def _index(self) -> None:
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(_reads(node)):
                if name:
                    self._users.setdefault(name, []).append(node)

    def _note(self, old: list[NodeProto], new: list[NodeProto]) -> None:
        """Bring the index up to date: made anew after each of a thousand folds it would take a minute."""
        gone = {id(n) for n in old}
        for node in old:
            for name in node.output:
                if self._makers.get(name) is node:
                    del self._makers[name]
            for name in dict.fromkeys(_reads(node)):
                self._users[name] = [n for n in self._users.get(name, []) if id(n) not in gone]
        for node in new:
            self._makers.update((name, node) for name in node.output if name)
            for name in dict.fromkeys(_reads(node)):
                if name:
                    self._users[name] = self._in_order([*self._users.get(name, []), node])

    def _in_order(self, users: list[NodeProto]) -> list[NodeProto]:
        """Return nodes, each once, in the order in which they stand."""
        if len(users) < 2:
            return users
        if len(users) > _MANY:  # of a weight that layers share, whose order says nothing
            return list({id(n): n for n in users}.values())
        wanted = {id(n) for n in users}
        return [n for n in self.nodes if id(n) in wanted]


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield what a node reads, in the bodies of an If, Loop or Scan too."""
    yield from node.input
    for a in node.attribute:
        for body in (*a.graphs, *((a.g,) if a.HasField("g") else ())):
            for inner in body.node:
                yield from (*_reads(inner), *inner.output)
            yield from (v.name for v in body.output)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute's value, or `default` where the node does not have it."""
    from onnx import helper

    for a in node.attribute:
        if a.name == name:
            return helper.get_attribute_value(a)
    return default


def is_op(node: NodeProto | None, *ops: str) -> bool:
    """Return whether a node is one of the default operator set's `ops`."""
    return node is not None and node.op_type in ops and node.domain in DEFAULT_DOMAINS


def inferred(model: ModelProto) -> GraphProto:
    """Return a model's graph with the types and shapes of what is inside it, as far as ONNX finds them."""
    from onnx import ModelProto, shape_inference

    # Some exporters write -1 where a size is free, and shapes inside that are not true: ONNX computes
    # with both, and ends the process in a Slice of a negative shape.
    clean = ModelProto()
    clean.CopyFrom(model)
    del clean.graph.value_info[:]
    for value in (*clean.graph.input, *clean.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")
    return shape_inference.infer_shapes(clean, data_prop=True).graph


def float32_names(model: ModelProto) -> set[str]:
    """Return the names of all float32 tensors of a model, constants among them."""
    from onnx import TensorProto

    graph = inferred(model)
    values = (*graph.input, *graph.value_info, *graph.output)
    names = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def channels(model: ModelProto) -> dict[str, int]:
    """Return how many channels each float32 tensor (N, C, H, W) of a model has, where that is known."""
    from onnx import TensorProto

    graph = inferred(model)
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.elem_type == TensorProto.FLOAT and len(dims) == 4 and dims[1].dim_value > 0:
            found[value.name] = dims[1].dim_value
    return found


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution over (N, C, H, W) in float32 whose weights are constants.

    Attributes
    ----------
    weight : (out, in / group, kh, kw) float64
    bias : (out,) float64, zeros where the node has none
    stride, dilation : (y, x)
    pads : (top, left, bottom, right), zeros for an unpadded one
    """

    node: NodeProto
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    group: int

    @classmethod
    def of(cls, edit: Edit, node: NodeProto | None) -> Conv | None:
        """Read a node; None if it is no such convolution, or pads by rule instead of by number."""
        if node is None or node.op_type != "Conv" or node.domain not in DEFAULT_DOMAINS:
            return None
        weight = edit.array(node.input[1])
        bias = edit.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if weight is None or weight.ndim != 4 or weight.dtype != np.float32:
            return None
        if len(node.input) > 2 and node.input[2] and bias is None:
            return None
        pads = attribute(node, "pads", [0, 0, 0, 0])
        if attribute(node, "auto_pad", b"NOTSET") == b"VALID":
            pads = [0, 0, 0, 0]
        elif attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            return None
        y, x = attribute(node, "strides", [1, 1])
        dy, dx = attribute(node, "dilations", [1, 1])
        return cls(
            node,
            weight.astype(np.float64),
            np.zeros(len(weight)) if bias is None else bias.astype(np.float64),
            (y, x),
            (dy, dx),
            tuple(pads),
            attribute(node, "group", 1),
        )

    @property
    def plain(self) -> bool:
        """Whether it is unpadded, dense, and of one group and stride 1."""
        return not any(self.pads) and self.stride == (1, 1) and self.dilation == (1, 1) and self.group == 1

    @property
    def kernel(self) -> tuple[int, int]:
        """(kh, kw)."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def dense_size(self) -> int:
        """Numbers in `dense`, which are many more than in `weight` where there are many groups."""
        return self.weight.size * self.group

    @property
    def dense(self) -> NDArray[np.float64]:
        """The weight (out, in, kh, kw) of the same convolution in one group."""
        out, width, *kernel = self.weight.shape
        dense = np.zeros((out, width * self.group, *kernel))
        for g in range(self.group):
            rows = slice(g * out // self.group, (g + 1) * out // self.group)
            dense[rows, g * width : (g + 1) * width] = self.weight[rows]
        return dense

    def make(
        self,
        edit: Edit,
        *,
        source: str | None = None,
        output: str | None = None,
        weight: NDArray[np.float64] | None = None,
        bias: NDArray[np.float64] | None = None,
        stride: tuple[int, int] | None = None,
        pads: tuple[int, int, int, int] | None = None,
    ) -> NodeProto:
        """Return a new node like this one, with what is given in place of its own."""
        weight = self.weight if weight is None else weight
        bias = self.bias if bias is None else bias
        name = self.node.name or self.node.output[0]
        inputs = [source or self.node.input[0], edit.weight(f"{name}.weight", weight)]
        if np.any(bias):
            inputs.append(edit.weight(f"{name}.bias", bias))
        return edit.node(
            "Conv",
            inputs,
            name,
            output or self.node.output[0],
            kernel_shape=list(weight.shape[2:]),
            strides=list(self.stride if stride is None else stride),
            dilations=list(self.dilation),
            pads=list(self.pads if pads is None else pads),
            group=self.group,
        )
