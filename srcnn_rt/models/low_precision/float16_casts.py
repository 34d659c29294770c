"""Selection of the nodes of a graph that compute in float16, and the graph with Casts around them."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np

from ..onnx_helpers import is_op
from ..optimize.graph_edit import MOVING_OPS, Edit, float32_names

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Operators that are converted if their inputs are float16, because a Cast would cost more than they do.
_FOLLOWERS = (
    *MOVING_OPS, "Abs", "Add", "AveragePool", "Clip", "Div", "Elu", "LeakyRelu", "Max", "MaxPool", "Min",
    "Mul", "Neg", "PRelu", "Pad", "Relu", "Selu", "Sigmoid", "Sub", "Tanh",
)  # fmt: skip
_LIMITS = ("Clip", "Max", "Min")  # a constant beyond float16 becomes infinity, which is no limit either
_OLDEST = 7  # operator set before which arithmetic and PRelu broadcast by attributes


class Float16Partition:
    """The part of a float32 graph that can compute in float16.

    It holds layers whose weights are constants within float16's range. A node that only moves or maps samples
    is included if all its inputs are in float16, or if it moves samples that only included nodes read. So an
    image that is added to a network's result is added in float32.

    Parameters
    ----------
    model : ModelProto
        Not changed.

    Attributes
    ----------
    nodes : list of NodeProto
        The nodes of this part.
    tensors : list of str
        Names of the tensors in it that are not constants.
    """

    def __init__(self, model: ModelProto) -> None:
        self._edit = Edit(model)
        self._floats = float32_names(model)
        self.nodes: list[NodeProto] = []
        self.tensors: list[str] = []
        if self._edit.opset >= _OLDEST:
            self._choose()

    def _choose(self) -> None:
        edit = self._edit
        chosen: set[int] = set()
        made: set[str] = set()
        for node in edit.nodes:
            data = [n for n in self._data(node) if edit.array(n) is None]
            layer = is_op(node, *_LAYERS) and len(data) == 1
            follows = is_op(node, *_FOLLOWERS) and bool(data) and made.issuperset(data)
            if (layer or follows) and self._fits(node):
                chosen.add(id(node))
                made.update(node.output)
        for node in reversed(edit.nodes):  # one Cast before an image is split, not one per part
            if is_op(node, *MOVING_OPS) and not edit.outputs.intersection(node.output) and self._fits(node):
                users = [user for name in node.output for user in edit.users(name)]
                if users and chosen.issuperset(map(id, users)):
                    chosen.add(id(node))
        self.nodes = [node for node in edit.nodes if id(node) in chosen]
        names = [n for node in self.nodes for n in (*self._data(node), *node.output)]
        self.tensors = [n for n in dict.fromkeys(names) if edit.array(n) is None]

    def convert(self) -> ModelProto:
        """Return the graph with the nodes of this part in float16."""
        from onnx import TensorProto

        edit, chosen = self._edit, {id(n) for n in self.nodes}
        halves: dict[str, str] = {}  # float16 twins of tensors
        made: list[NodeProto] = []
        for node in edit.nodes:
            if id(node) not in chosen:
                made.append(node)
                continue
            twin = deepcopy(node)
            for name in dict.fromkeys(self._data(node)):
                if name not in halves:
                    array = edit.array(name)
                    if array is None:
                        made.append(edit.node("Cast", [name], f"{name}.to_half", to=TensorProto.FLOAT16))
                        halves[name] = made[-1].output[0]
                    else:
                        with np.errstate(over="ignore", under="ignore"):
                            halves[name] = edit.weight(f"{name}.half", array.astype(np.float16))
            for k, name in enumerate(twin.input):
                twin.input[k] = halves.get(name, name)
            made.append(twin)
            for k, name in enumerate(node.output):
                twin.output[k] = halves[name] = edit.fresh(f"{name}.half")
                if name in edit.outputs or any(id(user) not in chosen for user in edit.users(name)):
                    cast = edit.node("Cast", [halves[name]], f"{name}.from_half", name, to=TensorProto.FLOAT)
                    made.append(cast)
        edit.nodes = made
        return edit.model()

    def _data(self, node: NodeProto) -> list[str]:
        """Return the float32 tensors that a node reads."""
        return [name for name in node.input if name in self._floats]

    def _fits(self, node: NodeProto) -> bool:
        """Return whether float16 holds a node's constants and all its outputs are float32."""
        if not all(name in self._floats for name in node.output):
            return False
        arrays = [a for name in self._data(node) if (a := self._edit.array(name)) is not None]
        maximum = np.finfo(np.float16).max
        return is_op(node, *_LIMITS) or all(np.abs(a).max(initial=0) <= maximum for a in arrays)
