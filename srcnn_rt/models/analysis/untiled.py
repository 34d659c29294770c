"""Checks of a model that cannot be traced, before it runs on whole images."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING

from ...errors import ModelError
from .trace import MAX_SAMPLES, Interface, computed, constants

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

_TRIAL = 64  # pixels per side
_MAX_STEPS = 1_000_000  # nodes whose shapes are inferred, again for every Slice: some seconds


def check_sizes(model: ModelProto, interface: Interface) -> None:
    """Refuse a graph that would exhaust the memory for a small image, or abort the process.

    Constants are added up as for any model. The shapes of all other tensors are those that ONNX infers for
    an image of `_TRIAL` pixels per side. Shapes that ONNX cannot infer are not checked.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    interface : Interface
        Its declarations.

    Raises
    ------
    ModelError
        Naming the tensor or the node.
    """
    computed(model, constants(model), strict=False)
    trial = deepcopy(model)
    del trial.graph.value_info[:]
    sizes = (interface.batch or 1, interface.channels, interface.height or _TRIAL, interface.width or _TRIAL)
    for value in trial.graph.input:
        if value.name == interface.source:
            for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
                dim.dim_value = size
    # ONNX's shape inference, which ONNX Runtime uses too, aborts the process in a Slice of a negative shape.
    # So the nodes before each Slice are checked first.
    nodes = list(model.graph.node)
    stops = [*(k for k, node in enumerate(nodes) if node.op_type == "Slice"), len(nodes)]
    if sum(stops) > _MAX_STEPS:
        raise ModelError(
            f"too large to run on whole images: {len(nodes)} nodes, {len(stops) - 1} of them Slice"
        )
    maximum = MAX_SAMPLES * sizes[0] * sizes[2] * sizes[3]
    for stop in stops:
        del trial.graph.node[:]
        trial.graph.node.extend(nodes[:stop])
        _check_shapes(_inferred(trial), maximum)


def _inferred(model: ModelProto) -> GraphProto:
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # its C++ exceptions share no base class
        raise ModelError(f"its shapes do not fit together: {error}") from error


def _check_shapes(graph: GraphProto, maximum: int) -> None:
    for value in (*graph.value_info, *graph.output):
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if any(n < 0 for n in shape):
            raise ModelError(f"{value.name!r} has shape {tuple(shape)}: nothing is left of its input")
        if math.prod(shape) > maximum:
            raise ModelError(
                f"{value.name!r} has shape {tuple(shape)} for a small image, over {maximum} samples"
            )
