"""Adaptation of models that do not have one image (N, C, H, W) in and one out, by nodes around them.

Further inputs become constants, other outputs are dropped, channels-last images are transposed, and B, G, R
is reordered. The result is analysed and tiled like any model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError
from ...options import ChannelOrder
from ..onnx_helpers import MIN_IR_WITHOUT_WEIGHT_INPUTS, dimensions, inputs_without_weights, unused_name

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

ORDERS: tuple[str, ...] = get_args(ChannelOrder)
_MAX_LAST = 4  # channels of an image in channels-last order


@dataclass(frozen=True, slots=True)
class InterfaceOptions:
    """Options of the user on a model's inputs and outputs.

    Attributes
    ----------
    inputs : tuple of (str, float)
        Name and value of every input that is not an image.
    output : str or None
        The only output to keep.
    order : {"rgb", "bgr"}
        Order of the channels that the model takes and returns. Images here are R, G, B.
    """

    inputs: tuple[tuple[str, float], ...] = ()
    output: str | None = None
    order: ChannelOrder = "rgb"

    @classmethod
    def of(cls, inputs: Mapping[str, float] | None, output: str | None, order: ChannelOrder) -> Self:
        """Check options given by a caller.

        Raises
        ------
        ArgumentError
            If the order is neither of `ORDERS`.
        """
        if order not in ORDERS:
            raise ArgumentError(f"channel_order must be one of {', '.join(ORDERS)}, got {order!r}")
        return cls(tuple(sorted((inputs or {}).items())), output, order)


def needs_adapting(model: ModelProto, options: InterfaceOptions) -> bool:
    """Return whether `adapt` would change a model."""
    return options != InterfaceOptions() or any(
        _is_channels_last(v) for v in inputs_without_weights(model.graph)
    )


def adapt(model: ModelProto, options: InterfaceOptions) -> ModelProto:
    """Give a model one image (N, C, H, W) in and one out, as far as that is unambiguous.

    Parameters
    ----------
    model : ModelProto
        Changed in place, and returned.
    options : InterfaceOptions
        Options of the user.

    Raises
    ------
    ArgumentError
        If there is no such input or output, or an input does not take its value.
    """
    graph = model.graph
    free = {v.name: v for v in inputs_without_weights(graph)}
    for name, number in options.inputs:
        if name not in free:
            raise ArgumentError(f"the model has no input {name!r}, only {_names(free)}")
        _fix(model, free[name], number)
    output = options.output
    if output is not None:
        kept = [v for v in graph.output if v.name == output]
        if not kept:
            known = _names(v.name for v in graph.output)
            raise ArgumentError(f"the model has no output {output!r}, only {known}")
        del graph.output[:]
        graph.output.extend(kept)
    images = inputs_without_weights(graph)
    if len(images) == len(graph.output) == 1:
        if _is_channels_last(images[0]):
            _transpose(model, images[0], graph.output[0])
        if options.order == "bgr":
            _reorder(model, images[0], graph.output[0])
    return model


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names) or "none"


def _fix(model: ModelProto, value: ValueInfoProto, number: float) -> None:
    """Turn an input into a constant. Axes of free size become 1."""
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    array = np.full([n or 1 for n in dimensions(value)], number).astype(kind)
    if kind.kind in "iu" and array.size and float(array.flat[0]) != float(number):
        raise ArgumentError(f"input {value.name!r} takes {kind}, got {number:g}")
    _add_weight(model, value.name, array)
    model.graph.input.remove(value)


def _add_weight(model: ModelProto, name: str, array: NDArray[Any]) -> None:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.ir_version = max(model.ir_version, MIN_IR_WITHOUT_WEIGHT_INPUTS)


def _is_channels_last(value: ValueInfoProto) -> bool:
    """Return whether an image is (N, H, W, C): only its last axis has a few channels."""
    sizes = dimensions(value)
    if len(sizes) != 4 or sizes[3] is None or sizes[3] > _MAX_LAST:
        return False
    return sizes[1] is None or sizes[1] > _MAX_LAST


def _transpose(model: ModelProto, source: ValueInfoProto, target: ValueInfoProto) -> None:
    """Take and return (N, C, H, W) in place of (N, H, W, C)."""
    _wrap(model, "Transpose", source.name, target.name, [], {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]})
    for value in (source, target):
        shape = value.type.tensor_type.shape
        if len(shape.dim) == 4:
            n, h, w, c = (deepcopy(d) for d in shape.dim)
            del shape.dim[:]
            shape.dim.extend([n, c, h, w])


def _reorder(model: ModelProto, source: ValueInfoProto, target: ValueInfoProto) -> None:
    """Take and return R, G, B in place of B, G, R."""
    if dimensions(source)[1] != 3:
        raise ArgumentError("channel_order bgr needs a model of three channels")
    index = _fresh(model, "bgr")
    _add_weight(model, index, np.array([2, 1, 0]))
    _wrap(model, "Gather", source.name, target.name, [index], {"axis": 1}, {"axis": 1})


def _wrap(
    model: ModelProto, op: str, source: str, target: str, weights: list[str], *attributes: dict[str, Any]
) -> None:
    """Insert two nodes of an operator, one behind the input and one before the output."""
    from onnx import helper

    inside, made = _fresh(model, "inside"), _fresh(model, "made")
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = {source: inside, target: made}.get(name, name)
        for k, name in enumerate(node.output):
            node.output[k] = made if name == target else name
    before, after = attributes
    model.graph.node.insert(0, helper.make_node(op, [source, *weights], [inside], **before))
    model.graph.node.append(helper.make_node(op, [made, *weights], [target], **after))
    del model.graph.value_info[:]


def _fresh(model: ModelProto, name: str) -> str:
    graph = model.graph
    taken = {n for node in graph.node for n in (*node.input, *node.output)}
    taken |= {v.name for v in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
    return unused_name(name, taken)
