"""Layers of channels that are no multiple of eight, filled up by filters of zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .graph_edit import MAX_NUMBERS, Conv, Edit, is_op
from .pointwise import is_pointwise
from .tensor_core_cost import filled

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MAX = 1.5  # times as many channels, at most
_NEUTRAL = {"Add": 0.0, "Div": 1.0, "Max": 0.0, "Min": 0.0, "Mul": 1.0, "PRelu": 1.0, "Sub": 0.0}


def fill_channels(model: ModelProto) -> ModelProto:
    """Give convolutions filters of zeros, up to a multiple of eight, and their readers zeros for them.

    Where all that reads a convolution are others, directly or through nodes that look at one sample: what
    those make of a channel of zeros is finite, and is multiplied by zero.

    Parameters
    ----------
    model : never changed
    """
    edit = Edit(model)
    for name in [node.output[0] for node in edit.nodes]:
        conv = Conv.of(edit, edit.maker(name))  # perhaps a reader that was filled up
        if conv is None or conv.group != 1:
            continue
        count = len(conv.weight)
        more = filled(count) - count
        if not more or filled(count) > _MAX * count or conv.weight.size > MAX_NUMBERS / 2:
            continue
        reached = _readers(edit, name, count)
        if reached is not None:
            _fill(edit, conv, more, *reached)
    return edit.model()


def _readers(edit: Edit, source: str, count: int) -> tuple[list[NodeProto], list[Conv]] | None:
    """Return the pointwise nodes behind a convolution and the convolutions behind them, if that is all."""
    between: list[NodeProto] = []
    convs: list[Conv] = []
    waiting = [source]
    while waiting:
        name = waiting.pop()
        users = edit.users(name)
        if name in edit.outputs or not users:
            return None
        for user in users:
            conv = Conv.of(edit, user)
            if conv is not None and conv.group == 1 and list(user.input).count(name) == 1:
                convs.append(conv)
            elif is_op(user, "Conv") or not is_pointwise(edit, user, name) or not _extends(edit, user, count):
                return None
            else:
                between.append(user)
                waiting.append(user.output[0])
    return between, convs


def _extends(edit: Edit, node: NodeProto, count: int) -> bool:
    """Return whether the constants of a pointwise node are one number, or one a channel with more to come."""
    if node.op_type == "Div" and edit.array(node.input[0]) is not None:
        return False  # by zero
    for name in node.input:
        array = edit.array(name)
        if array is not None and array.size > 1:
            shape = (1,) * (4 - array.ndim) + array.shape
            if node.op_type not in _NEUTRAL or shape != (1, count, 1, 1):
                return False
    return True


def _fill(edit: Edit, conv: Conv, more: int, between: list[NodeProto], convs: list[Conv]) -> None:
    wide = conv.make(
        edit,
        weight=np.concatenate([conv.weight, np.zeros((more, *conv.weight.shape[1:]))]),
        bias=np.concatenate([conv.bias, np.zeros(more)]),
    )
    edit.replace([conv.node], [wide])
    for node in between:
        for k, name in enumerate(node.input):
            array = edit.array(name)
            if array is not None and array.size > 1:
                axis = array.ndim - 3
                pad = [(0, more if k == axis else 0) for k in range(array.ndim)]
                value = np.pad(array, pad, constant_values=_NEUTRAL[node.op_type])
                node.input[k] = edit.weight(f"{name}.filled", value)
    for reader in convs:
        zeros = np.zeros((len(reader.weight), more, *reader.kernel))
        made = reader.make(edit, weight=np.concatenate([reader.weight, zeros], axis=1))
        edit.replace([reader.node], [made])
