"""A float16 graph in float32, with the same rounding, to measure its loss on a CPU.

ONNX Runtime's CPU provider has no float16 layers. It casts their inputs and outputs, and then removes
adjacent Casts to float16 and back, even without optimisations. So a float16 graph would be measured with
rounded weights and nothing else rounded. Casts in the file between float32 operators stay, and one rounding
after a float32 sum is what tensor cores do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from srcnn_rt.models.onnx_helpers import attribute
from srcnn_rt.models.optimize.graph_edit import MOVING_OPS, Edit, inferred

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Their results need no rounding, because their inputs are rounded already.
_UNROUNDED = (*MOVING_OPS, "MaxPool", "Relu")


def simulated(model: ModelProto) -> ModelProto:
    """Return a float32 graph that rounds each result to float16 that is float16 in `model`.

    Parameters
    ----------
    model : ModelProto
        Not changed.
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
        rounded = [name for name in node.output if name in halves and node.op_type not in _UNROUNDED]
        made.append(node)
        for k, name in enumerate(node.output):
            if name not in rounded:
                continue
            node.output[k] = at = edit.fresh(f"{name}.sums")
            if node.op_type != "Cast":
                made.append(edit.node("Cast", [at], f"{name}.round", to=TensorProto.FLOAT16))
                at = made[-1].output[0]
            made.append(edit.node("Cast", [at], f"{name}.back", name, to=TensorProto.FLOAT))
    edit.nodes = made
    return edit.model()
