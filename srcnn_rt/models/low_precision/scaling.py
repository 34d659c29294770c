"""Exact division of a network's values by a power of two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..onnx_helpers import attribute, is_op, subgraphs
from ..optimize.graph_edit import MOVING_OPS, Edit

if TYPE_CHECKING:
    from onnx import NodeProto

# f(x / c) = f(x) / c for all c > 0.
_HOMOGENEOUS = (
    *MOVING_OPS, "Abs", "AveragePool", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Neg", "PRelu", "Relu",
)  # fmt: skip
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_ADDING = ("Add", "Max", "Min", "Sub", "Sum")
_SHAPE_OPS = ("Constant", "Shape", "Size")


def divide(edit: Edit, power: int) -> bool:
    """Divide all added constants by 2 to the power of `power`. The caller divides the input.

    Returns
    -------
    bool
        Whether every node then returns its old values divided by that; if not, nothing is changed.
    """
    changes: list[tuple[NodeProto, int]] = []
    moved = set(edit.inputs)
    for node in edit.nodes:
        if any(subgraphs(node)):  # tensors that it reads are not followed
            return False
        reads = [name for name in node.input if name in moved]
        if not reads or node.op_type in _SHAPE_OPS:
            continue
        places = _added(edit, node, moved)
        if places is None:
            return False
        changes += [(node, k) for k in places]
        moved.update(node.output)
    for node, k in changes:
        value = edit.array(node.input[k])
        if value is not None:
            node.input[k] = edit.weight(f"{node.input[k]}.divided", value * np.float32(2.0**-power))
    return True


def _added(edit: Edit, node: NodeProto, moved: set[str]) -> list[int] | None:
    """Return the inputs of a node that are constants to be divided; None if dividing them is not enough."""
    constants = [k for k, name in enumerate(node.input) if name and edit.array(name) is not None]
    floats = [k for k in constants if (a := edit.array(node.input[k])) is not None and a.dtype == np.float32]
    others = [k for k, name in enumerate(node.input) if name and name not in moved and k not in constants]
    if others and node.op_type not in ("Reshape", "Slice"):
        return None
    if is_op(node, "Concat", *_ADDING):
        return floats
    if is_op(node, *_HOMOGENEOUS):
        return [] if moved.intersection(node.input) == {node.input[0]} else None
    if is_op(node, *_LAYERS):  # computed weights would be divided too
        return [k for k in floats if k == 2] if len(constants) == sum(map(bool, node.input)) - 1 else None
    if is_op(node, "Mul", "MatMul"):
        return [] if len(floats) == 1 else None
    if is_op(node, "Div"):
        return [] if floats == [1] else None
    if is_op(node, "Clip"):  # old operator sets have the limits as attributes
        return floats if not node.attribute else None
    if is_op(node, "Pad"):
        return floats if attribute(node, "value", 0.0) == 0 else None
    if is_op(node, "Resize"):
        return [] if attribute(node, "extrapolation_value", 0.0) == 0 else None
    return None
