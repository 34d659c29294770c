"""Padding of layers to a multiple of eight channels, by filters of zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..onnx_helpers import is_op
from .graph_edit import MAX_WEIGHT_SIZE, Conv, Edit
from .pointwise import is_pointwise
from .tensor_core_cost import padded_channels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_MAX_GROWTH = 1.5  # factor by which the number of channels may grow
_NEUTRAL = {"Add": 0.0, "Div": 1.0, "Max": 0.0, "Min": 0.0, "Mul": 1.0, "PRelu": 1.0, "Sub": 0.0}


def pad_to_lanes(model: ModelProto) -> ModelProto:
    """Give convolutions filters of zeros, up to a multiple of eight, and their readers zeros for them.

    This applies where all readers of a convolution are convolutions, directly or through pointwise nodes.
    Those map a channel of zeros to finite values, which are then multiplied by zero.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    edit = Edit(model)
    for name in [node.output[0] for node in edit.nodes]:
        conv = Conv.of(edit, edit.maker(name))  # may have been changed as the reader of another one
        if conv is None or conv.group != 1:
            continue
        count = len(conv.weight)
        more = padded_channels(count) - count
        if not more or count + more > _MAX_GROWTH * count or conv.weight.size > MAX_WEIGHT_SIZE / 2:
            continue
        readers = _readers(edit, name, count)
        if readers is not None:
            _pad(edit, conv, more, *readers)
    return edit.model()


def _readers(edit: Edit, source: str, count: int) -> tuple[list[NodeProto], list[Conv]] | None:
    """Return the pointwise nodes and the convolutions behind a convolution; None if there are others."""
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
    """Return whether the constants of a pointwise node are scalars, or one value per channel to be padded."""
    if node.op_type == "Div" and edit.array(node.input[0]) is not None:
        return False  # it would divide by zero
    for name in node.input:
        array = edit.array(name)
        if array is not None and array.size > 1:
            shape = (1,) * (4 - array.ndim) + array.shape
            if node.op_type not in _NEUTRAL or shape != (1, count, 1, 1):
                return False
    return True


def _pad(edit: Edit, conv: Conv, more: int, between: list[NodeProto], convs: list[Conv]) -> None:
    weight = np.concatenate([conv.weight, np.zeros((more, *conv.weight.shape[1:]))])
    bias = np.concatenate([conv.bias, np.zeros(more)])
    edit.replace([conv.node], [conv.make(edit, weight=weight, bias=bias)])
    for node in between:
        for k, name in enumerate(node.input):
            array = edit.array(name)
            if array is not None and array.size > 1:
                pad = [(0, more if axis == array.ndim - 3 else 0) for axis in range(array.ndim)]
                value = np.pad(array, pad, constant_values=_NEUTRAL[node.op_type])
                node.input[k] = edit.weight(f"{name}.filled", value)
    for reader in convs:
        zeros = np.zeros((len(reader.weight), more, *reader.kernel))
        made = reader.make(edit, weight=np.concatenate([reader.weight, zeros], axis=1))
        edit.replace([reader.node], [made])
