"""What is checked of a model that cannot be traced, before it is run whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...errors import ModelError
from .trace import MAX_SAMPLES, Interface, computed, constants

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

_TRIAL = 64  # pixels a side
_MAX_STEPS = 1_000_000  # nodes whose shapes are inferred, again for every Slice: some seconds


def check_sizes(model: ModelProto, interface: Interface) -> None:
    """Refuse a graph that would fill the memory for a small image, or end the process.

    Constants are added up as for any model; the shapes of the rest are those that ONNX infers for a
    image of `_TRIAL` pixels a side. What it cannot infer is not known here either.

    Raises
    ------
    ModelError
        Naming the tensor or the node.
    """
    from onnx import ModelProto

    computed(model, constants(model), strict=False)
    trial = ModelProto()
    trial.CopyFrom(model)
    del trial.graph.value_info[:]
    dims = (interface.batch or 1, interface.channels, interface.height or _TRIAL, interface.width or _TRIAL)
    for value in trial.graph.input:
        if value.name == interface.source:
            for dim, size in zip(value.type.tensor_type.shape.dim, dims, strict=True):
                dim.dim_value = size
    # ONNX's inference, and ONNX Runtime with it, aborts the process in a Slice of a negative shape:
    # so what stands before each one is looked at first.
    nodes = list(model.graph.node)
    stops = [*(k for k, node in enumerate(nodes) if node.op_type == "Slice"), len(nodes)]
    if sum(stops) > _MAX_STEPS:
        raise ModelError(f"too large to be run whole: {len(nodes)} nodes, {len(stops) - 1} of them Slice")
    maximum = MAX_SAMPLES * math.prod(dims[k] for k in (0, 2, 3))
    for stop in stops:
        del trial.graph.node[:]
        trial.graph.node.extend(nodes[:stop])
        _check_shapes(_inferred(trial), maximum)


def _inferred(model: ModelProto) -> GraphProto:
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # what its C++ throws shares no base class
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
