"""A float16 graph as a CPU can run it, rounding as it says.

ONNX Runtime's CPU provider has no layers in float16. It casts what goes in and what comes out, and then
leaves out Casts to float16 and back that stand beside each other, even with all optimisations off. So a graph
of float16 would be measured with weights of float16 and nothing else rounded. Casts that stand in the file
between operators in float32 stay, and rounding once after a float32 sum is what tensor cores do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..optimize.graph_edit import Edit, attribute, inferred

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Their results are samples that are rounded already.
_MOVES = (
    "Concat", "DepthToSpace", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip


def simulated(model: ModelProto) -> ModelProto:
    """Return the graph in float32, with each result rounded to float16 that is float16 in `model`.

    Parameters
    ----------
    model : never changed
    """
    from onnx import TensorProto

    graph = inferred(model)
    halves = {
        v.name
        for v in (*graph.value_info, *graph.output)
        if v.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    edit = Edit(model)
    wide: dict[str, str] = {}
    made: list[NodeProto] = []
    for node in edit.nodes:
        for k, name in enumerate(node.input):
            array = edit.array(name)
            if array is not None and array.dtype == np.float16:
                if name not in wide:
                    wide[name] = edit.weight(f"{name}.wide", array.astype(np.float32))
                node.input[k] = wide[name]
        if node.op_type == "Cast" and node.input[0] in halves and attribute(node, "to") == TensorProto.FLOAT:
            made.append(edit.node("Identity", node.input, f"{node.name}.same", node.output[0]))
            continue
        rounded = [name for name in node.output if name in halves and node.op_type not in _MOVES]
        casting = node.op_type == "Cast"
        made.append(node)
        for k, name in enumerate(node.output):
            if name not in rounded:
                continue
            node.output[k] = at = edit.fresh(f"{name}.sums")
            if not casting:
                made.append(edit.node("Cast", [at], f"{name}.round", to=TensorProto.FLOAT16))
                at = made[-1].output[0]
            made.append(edit.node("Cast", [at], f"{name}.back", name, to=TensorProto.FLOAT))
    edit.nodes = made
    return edit.model()
