"""A graph that is being rewritten: a copy with its weights as arrays and an index of its edges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import onnx_helpers as helpers
from ..onnx_helpers import attribute, is_op, subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

# Larger layers are not rewritten: values in a new weight, and products to compute it.
MAX_WEIGHT_SIZE = 2**24
MAX_WORK = 2**32
# Operators that only move samples.
MOVING_OPS = (
    "Concat", "DepthToSpace", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
)  # fmt: skip


class Edit:
    """A working copy of a model.

    Parameters
    ----------
    model : ModelProto
        Not changed.

    Attributes
    ----------
    nodes : list of NodeProto
        In topological order; may be replaced.
    """

    def __init__(self, model: ModelProto) -> None:
        from onnx import TensorProto, numpy_helper

        self._model = deepcopy(model)
        self.nodes: list[NodeProto] = list(self._model.graph.node)
        self._arrays: dict[str, NDArray[Any]] = {
            name: numpy_helper.to_array(t)
            for name, t in helpers.constant_tensors(self._model).items()
            if t.data_location != TensorProto.EXTERNAL
        }
        self._added: dict[str, NDArray[Any]] = {}
        self._names = {n for node in self.nodes for n in (*_reads(node), *node.output, node.name)}
        self._names |= set(self._arrays)
        self._makers: dict[str, NodeProto] = {}
        self._users: dict[str, list[NodeProto]] = {}
        self._index(self.nodes)

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set, 0 if the model does not declare one."""
        return helpers.opset_version(self._model)

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return frozenset(v.name for v in self._model.graph.output)

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the graph's inputs that are not weights."""
        return frozenset(v.name for v in helpers.inputs_without_weights(self._model.graph))

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the value of a constant, or None if `name` is not a constant."""
        return self._arrays.get(name) if name else None

    def maker(self, name: str) -> NodeProto | None:
        """Return the node that computes `name`, or None for inputs and initialisers."""
        return self._makers.get(name)

    def users(self, name: str) -> list[NodeProto]:
        """Return the nodes that read `name`."""
        return self._users.get(name, [])

    def only_user(self, name: str) -> NodeProto | None:
        """Return the only node that reads `name`; None if there are others or `name` is an output."""
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def fresh(self, name: str) -> str:
        """Reserve and return `name`, with a number appended if it is taken."""
        found = helpers.unused_name(name, self._names)
        self._names.add(found)
        return found

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """Add an initialiser under a fresh name, and return the name.

        float64 becomes float32, so that weights computed in float64 are rounded once.
        """
        kind = np.float32 if value.dtype == np.float64 else value.dtype
        with np.errstate(over="ignore"):  # `prepare` discards a rewrite whose weights overflow
            array = np.asarray(value, kind, order="C")  # ascontiguousarray would give a scalar an axis
        found = self.fresh(name)
        self._arrays[found] = self._added[found] = array
        return found

    def node(
        self, op: str, inputs: Iterable[str], name: str, output: str | None = None, **attributes: Any
    ) -> NodeProto:
        """Return a node with a fresh name, and a fresh output unless given; it is not added to `nodes`."""
        from onnx import helper

        name = self.fresh(name)
        return helper.make_node(op, list(inputs), [output or self.fresh(f"{name}.out")], name, **attributes)

    def replace(self, old: Iterable[NodeProto], new: Iterable[NodeProto]) -> None:
        """Replace the nodes `old` by `new`, at the place of the last of `old`."""
        old, new = list(old), list(new)
        gone = {id(n) for n in old}
        at = max(k for k, n in enumerate(self.nodes) if id(n) in gone)
        before = [n for n in self.nodes[:at] if id(n) not in gone]
        self.nodes = [*before, *new, *(n for n in self.nodes[at:] if id(n) not in gone)]
        for node in old:
            for name in node.output:
                if self._makers.get(name) is node:
                    del self._makers[name]
            for name in dict.fromkeys(_reads(node)):
                self._users[name] = [n for n in self.users(name) if id(n) not in gone]
        self._index(new)

    def rename(self, old: str, new: str) -> None:
        """Make the readers of `old` read `new`."""
        users = self._users.pop(old, [])
        for node in users:
            for k, name in enumerate(node.input):
                if name == old:
                    node.input[k] = new
        self._users[new] = list({id(n): n for n in (*self.users(new), *users)}.values())

    def rename_output(self, node: NodeProto, old: str, new: str) -> None:
        """Rename a node's output; its readers are not changed."""
        node.output[list(node.output).index(old)] = new
        del self._makers[old]
        self._makers[new] = node

    def model(self) -> ModelProto:
        """Return the edited model, without unused nodes and weights."""
        from onnx import numpy_helper

        out = deepcopy(self._model)
        graph = out.graph
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(_reads(node))
        dropped = {t.name for t in graph.initializer} - needed
        weights = [t for t in graph.initializer if t.name in needed]
        weights += [numpy_helper.from_array(a, name) for name, a in self._added.items() if name in needed]
        # Old files list weights among the inputs.
        inputs = [v for v in graph.input if v.name not in dropped]
        for field, values in ((graph.node, kept[::-1]), (graph.initializer, weights), (graph.input, inputs)):
            del field[:]
            field.extend(values)
        if self._added:
            out.ir_version = max(out.ir_version, helpers.MIN_IR_WITHOUT_WEIGHT_INPUTS)
        del graph.value_info[:]  # shapes inside the graph are no longer true
        return out

    def _index(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            self._makers.update((name, node) for name in node.output if name)
            for name in dict.fromkeys(_reads(node)):
                self._users.setdefault(name, []).append(node)


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield the tensors that a node reads, in its subgraphs too."""
    yield from node.input
    for body in subgraphs(node):
        for inner in body.node:
            yield from (*_reads(inner), *inner.output)
        yield from (v.name for v in body.output)


def inferred(model: ModelProto) -> GraphProto:
    """Return a model's graph with the types and shapes of its tensors, as far as ONNX infers them."""
    from onnx import shape_inference

    # Some exporters write -1 for a free size, and wrong shapes inside the graph. ONNX computes with both, and
    # aborts the process in a Slice of a negative shape.
    clean = deepcopy(model)
    del clean.graph.value_info[:]
    for value in (*clean.graph.input, *clean.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")
    return shape_inference.infer_shapes(clean, data_prop=True).graph


def _float32_values(model: ModelProto) -> list[ValueInfoProto]:
    from onnx import TensorProto

    graph = inferred(model)
    values = (*graph.input, *graph.value_info, *graph.output)
    return [v for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT]


def float32_names(model: ModelProto) -> set[str]:
    """Return the names of all float32 tensors of a model, constants included."""
    from onnx import TensorProto

    names = {v.name for v in _float32_values(model)}
    return names | {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}


def channels(model: ModelProto) -> dict[str, int]:
    """Return the number of channels of each float32 tensor (N, C, H, W) of a model, where it is known."""
    sizes = {v.name: helpers.dimensions(v) for v in _float32_values(model)}
    return {name: dims[1] for name, dims in sizes.items() if len(dims) == 4 and dims[1] is not None}


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution over (N, C, H, W) in float32 whose weights are constants.

    Attributes
    ----------
    node : NodeProto
        The Conv.
    weight : ndarray of float64, shape (out, in / group, kh, kw)
        Its kernels.
    bias : ndarray of float64, shape (out,)
        Zeros if the node has none.
    stride, dilation : tuple of int
        (y, x).
    pads : tuple of int
        (top, left, bottom, right), zeros if it is unpadded.
    group : int
        Number of groups.
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
        """Return a node's convolution; None if it is not such a node, or pads by ``auto_pad`` SAME_*."""
        if node is None or not is_op(node, "Conv"):
            return None
        has_bias = len(node.input) > 2 and bool(node.input[2])
        weight, bias = edit.array(node.input[1]), edit.array(node.input[2]) if has_bias else None
        if weight is None or weight.ndim != 4 or weight.dtype != np.float32 or (has_bias and bias is None):
            return None
        auto = attribute(node, "auto_pad", b"NOTSET")
        if auto not in (b"NOTSET", b"VALID"):
            return None
        pads = [0, 0, 0, 0] if auto == b"VALID" else attribute(node, "pads", [0, 0, 0, 0])
        return cls(
            node,
            weight.astype(np.float64),
            np.zeros(len(weight)) if bias is None else bias.astype(np.float64),
            tuple(attribute(node, "strides", [1, 1])),
            tuple(attribute(node, "dilations", [1, 1])),
            tuple(pads),
            attribute(node, "group", 1),
        )

    @property
    def plain(self) -> bool:
        """Whether it has no padding, dilation, stride or groups."""
        return not any(self.pads) and self.stride == (1, 1) and self.dilation == (1, 1) and self.group == 1

    @property
    def kernel(self) -> tuple[int, int]:
        """Size of the kernels, (kh, kw)."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def dense(self) -> NDArray[np.float64]:
        """Weight (out, in, kh, kw) of the same convolution with one group."""
        out, width, *kernel = self.weight.shape
        dense = np.zeros((self.group, out // self.group, self.group, width, *kernel))
        each = range(self.group)
        dense[each, :, each] = self.weight.reshape(self.group, -1, width, *kernel)
        return dense.reshape(out, -1, *kernel)

    def make(
        self, edit: Edit, *, source: str | None = None, output: str | None = None, **changes: Any
    ) -> NodeProto:
        """Return a new node like this one, between other tensors or with changed attributes of this class."""
        conv = replace(self, **changes)
        name = self.node.name or self.node.output[0]
        inputs = [source or self.node.input[0], edit.weight(f"{name}.weight", conv.weight)]
        if np.any(conv.bias):
            inputs.append(edit.weight(f"{name}.bias", conv.bias))
        attributes: dict[str, Any] = {"kernel_shape": conv.kernel, "strides": conv.stride, "pads": conv.pads}
        attributes |= {"dilations": conv.dilation, "group": conv.group}
        return edit.node("Conv", inputs, name, output or self.node.output[0], **attributes)
