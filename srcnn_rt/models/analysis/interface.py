"""Models of other shapes than one image (N, C, H, W) in and one out, made such by nodes around them.

Further inputs become constants, other outputs are left out, channels-last images are turned, and B, G, R is
put in order. What comes out is analysed and tiled as any model's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from ...errors import ArgumentError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

ChannelOrder = Literal["rgb", "bgr"]
ORDERS = ("rgb", "bgr")
_MAX_LAST = 4  # channels of an image whose last axis they are


@dataclass(frozen=True, slots=True)
class Shaping:
    """What somebody says of a model's inputs and outputs.

    Attributes
    ----------
    inputs : the value of every input that is no image
    output : the only output that is kept
    order : of the channels that the model takes and gives; here they are R, G, B
    """

    inputs: tuple[tuple[str, float], ...] = ()
    output: str | None = None
    order: ChannelOrder = "rgb"

    @classmethod
    def of(cls, inputs: Mapping[str, float] | None, output: str | None, order: str) -> Self:
        """Check what was said.

        Raises
        ------
        ArgumentError
        """
        if order not in ORDERS:
            raise ArgumentError(f"channel_order must be one of {', '.join(ORDERS)}, got {order!r}")
        return cls(tuple(sorted((inputs or {}).items())), output, order)  # type: ignore[arg-type]


def needs_shaping(model: ModelProto, shaping: Shaping) -> bool:
    """Return whether `adapt` would change a model."""
    weights = {t.name for t in model.graph.initializer}
    return shaping != Shaping() or any(
        _is_channels_last(v) for v in model.graph.input if v.name not in weights
    )


def adapt(model: ModelProto, shaping: Shaping) -> ModelProto:
    """Return a model with one image (N, C, H, W) in and one out, as far as that is said or clear.

    Parameters
    ----------
    model : changed, and returned

    Raises
    ------
    ArgumentError
        If there is no such input or output, or an input's shape is not known.
    """
    graph = model.graph
    weights = {t.name for t in graph.initializer}
    free = {v.name: v for v in graph.input if v.name not in weights}
    for name, number in shaping.inputs:
        if name not in free:
            raise ArgumentError(f"the model has no input {name!r}, only {_names(free)}")
        _fix(model, free[name], number)
    output = shaping.output
    if output is not None:
        kept = [v for v in graph.output if v.name == output]
        if not kept:
            known = _names(v.name for v in graph.output)
            raise ArgumentError(f"the model has no output {output!r}, only {known}")
        del graph.output[:]
        graph.output.extend(kept)
    if len(graph.input) - len(weights & {v.name for v in graph.input}) == len(graph.output) == 1:
        source = next(v for v in graph.input if v.name not in weights)
        if _is_channels_last(source):
            _turn(model, source, graph.output[0])
        if shaping.order == "bgr":
            _reorder(model, source, graph.output[0])
    return model


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names) or "none"


def _dims(value: ValueInfoProto) -> list[int | None]:
    return [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]


def _fix(model: ModelProto, value: ValueInfoProto, number: float) -> None:
    """Turn an input into a constant; axes of free size become 1."""
    from onnx import helper, numpy_helper

    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    shape = [n or 1 for n in _dims(value)]
    array = np.full(shape, number).astype(kind)
    if kind.kind in "iu" and array.size and float(array.flat[0]) != float(number):
        raise ArgumentError(f"input {value.name!r} takes {kind}, got {number:g}")
    model.graph.initializer.append(numpy_helper.from_array(array, value.name))
    model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, 4)  # before it, weights had to be inputs


def _is_channels_last(value: ValueInfoProto) -> bool:
    """Return whether an image is (N, H, W, C): the last axis alone is of a few channels."""
    dims = _dims(value)
    if len(dims) != 4 or dims[3] is None or dims[3] > _MAX_LAST:
        return False
    return dims[1] is None or dims[1] > _MAX_LAST


def _turn(model: ModelProto, source: ValueInfoProto, target: ValueInfoProto) -> None:
    """Take and give (N, C, H, W) in place of (N, H, W, C)."""
    from onnx import helper

    n, h, w, c = source.type.tensor_type.shape.dim
    last, first = [0, 2, 3, 1], [0, 3, 1, 2]
    before = helper.make_node("Transpose", [source.name], [_fresh(model, "turned")], perm=last)
    made = _fresh(model, "channels_last")
    after = helper.make_node("Transpose", [made], [target.name], perm=first)
    _between(model, source, target, before, after, made)
    order = [type(d).FromString(d.SerializeToString()) for d in (n, c, h, w)]
    del source.type.tensor_type.shape.dim[:]
    source.type.tensor_type.shape.dim.extend(order)
    if len(target.type.tensor_type.shape.dim) == 4:
        n, h, w, c = target.type.tensor_type.shape.dim
        order = [type(d).FromString(d.SerializeToString()) for d in (n, c, h, w)]
        del target.type.tensor_type.shape.dim[:]
        target.type.tensor_type.shape.dim.extend(order)


def _reorder(model: ModelProto, source: ValueInfoProto, target: ValueInfoProto) -> None:
    """Take and give R, G, B in place of B, G, R."""
    from onnx import helper, numpy_helper

    if _dims(source)[1] != 3:
        raise ArgumentError("channels in another order go with models of three channels")
    index = _fresh(model, "bgr")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), index))
    model.ir_version = max(model.ir_version, 4)
    before = helper.make_node("Gather", [source.name, index], [_fresh(model, "ordered")], axis=1)
    made = _fresh(model, "in_its_order")
    after = helper.make_node("Gather", [made, index], [target.name], axis=1)
    _between(model, source, target, before, after, made)


def _between(
    model: ModelProto,
    source: ValueInfoProto,
    target: ValueInfoProto,
    before: NodeProto,
    after: NodeProto,
    made: str,
) -> None:
    """Put a node behind the input and one before the output, whose maker's tensor is called `made` then."""
    for node in model.graph.node:
        for names, old, new in (
            (node.input, source.name, before.output[0]), (node.input, target.name, made),
            (node.output, target.name, made),
        ):  # fmt: skip
            for k, name in enumerate(names):
                if name == old:
                    names[k] = new
    nodes = [before, *model.graph.node, after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]


def _fresh(model: ModelProto, name: str) -> str:
    graph = model.graph
    taken = {n for node in graph.node for n in (*node.input, *node.output)}
    taken |= {v.name for v in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
    found, k = name, 1
    while found in taken:
        found, k = f"{name}.{k}", k + 1
    return found
