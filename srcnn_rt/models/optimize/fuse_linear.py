"""Folding of linear operators into the convolutions before and after them.

Each fold rewrites one place and starts again, so that chains fold too. A tensor whose samples stay the same
keeps its name.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..onnx_helpers import attribute, is_op
from .graph_edit import Conv, Edit, channels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Floats = NDArray[np.float64]

_OLDEST = 7  # operator set before which Add and Mul broadcast by attributes, and BatchNormalization trains
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def fold_batch_norm(model: ModelProto) -> ModelProto:
    """Fold inference-mode BatchNormalization into the Conv or ConvTranspose before it.

    Its parameters must be constants, and it must be the only reader of the convolution.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    return _repeat(model, lambda edit: _after(edit, "BatchNormalization"))


def fold_scale_offset(model: ModelProto) -> ModelProto:
    """Fold Mul, Add, Sub and Div by a constant into a Conv or ConvTranspose next to them.

    The constant must be a scalar or one value per channel. After a convolution of which it is the only
    reader, the operator always folds. If all its readers are convolutions, a factor always folds, and an
    offset folds if none of them pads, because a padded Conv reads 0 outside, not the offset.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    shapes = channels(model)
    return _repeat(model, lambda edit: _after(edit, *_ARITHMETIC) or _before(edit, shapes))


def drop_identities(model: ModelProto) -> ModelProto:
    """Remove Identity, unless it makes an output of the graph.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    edit = Edit(model)
    for node in list(edit.nodes):
        if not is_op(node, "Identity") or node.output[0] in edit.outputs:
            continue
        # `Edit` does not rename tensors in the subgraphs of an If or a Loop.
        if all(node.output[0] in user.input for user in edit.users(node.output[0])):
            edit.rename(node.output[0], node.input[0])
            edit.replace([node], [])
    return edit.model()


def _repeat(model: ModelProto, step: Callable[[Edit], bool]) -> ModelProto:
    """Rewrite one place at a time until `step` finds none."""
    edit = Edit(model)
    while step(edit):
        pass
    return edit.model()


def _filters(edit: Edit, node: NodeProto | None) -> tuple[Floats, Floats] | None:
    """Return weight and bias of a 2-D Conv or ConvTranspose in float32, whatever its padding."""
    if node is None or not is_op(node, "Conv", "ConvTranspose"):
        return None
    arrays = [edit.array(name) for name in node.input[1:] if name]
    if any(a is None or a.dtype != np.float32 for a in arrays):
        return None
    weight, *rest = (np.asarray(a, np.float64) for a in arrays)
    if weight.ndim != 4:
        return None
    out = len(weight) if is_op(node, "Conv") else weight.shape[1] * attribute(node, "group", 1)
    return weight, rest[0] if rest else np.zeros(out)


def _refilled(
    edit: Edit, node: NodeProto, weight: Floats, bias: Floats, source: str, output: str
) -> NodeProto:
    """Return the same convolution with other weights, between other tensors."""
    new = deepcopy(node)
    name = node.name or node.output[0]
    new.name = edit.fresh(name)
    del new.input[:]
    new.input.extend([source, edit.weight(f"{name}.weight", weight)])
    if np.any(bias):
        new.input.append(edit.weight(f"{name}.bias", bias))
    new.output[0] = output
    return new


def _scaled(node: NodeProto, weight: Floats, scale: Floats, *, outputs: bool) -> Floats:
    """Return a weight multiplied by one value per output channel, or per input channel."""
    # Conv: (out, in / group, kh, kw), ConvTranspose: (in, out / group, kh, kw)
    if is_op(node, "Conv") is outputs:
        return weight * scale[:, None, None, None]
    group = attribute(node, "group", 1)
    grouped = weight.reshape(group, -1, *weight.shape[1:]) * scale.reshape(group, 1, -1, 1, 1)
    return np.asarray(grouped.reshape(weight.shape))


def _batch_norm(edit: Edit, node: NodeProto) -> tuple[Floats, Floats] | None:
    """Return (scale, offset) of a BatchNormalization in inference mode with constant parameters."""
    parameters = [edit.array(name) for name in node.input[1:]]
    trains = attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1)
    if trains or any(node.output[1:]) or any(p is None for p in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    spread = variance + attribute(node, "epsilon", 1e-5)
    if not np.all(spread > 0):
        return None
    scale = gamma / np.sqrt(spread)
    return scale, beta - mean * scale


def affine_of(edit: Edit, node: NodeProto, source: str, count: int) -> tuple[Floats, Floats] | None:
    """Return (scale, offset), shape (C,) each, of a node that computes scale·source + offset."""
    if list(node.input).count(source) != 1 or edit.opset < _OLDEST:
        return None
    if is_op(node, "BatchNormalization"):
        return _batch_norm(edit, node) if node.input[0] == source else None
    if not is_op(node, *_ARITHMETIC):
        return None
    first = node.input[0] == source
    value = edit.array(node.input[1 if first else 0])
    if value is None or value.dtype != np.float32 or value.ndim > 4 or not np.all(np.isfinite(value)):
        return None
    shape = (1,) * (4 - value.ndim) + value.shape
    if shape not in ((1, 1, 1, 1), (1, count, 1, 1)):
        return None
    number = np.broadcast_to(value.reshape(-1).astype(np.float64), (count,))
    one, zero = np.ones(count), np.zeros(count)
    match node.op_type:
        case "Add":
            return one, number
        case "Sub":
            return (one, -number) if first else (-one, number)
        case "Mul":
            return number, zero
    return (1 / number, zero) if first and np.all(number) else None


def _after(edit: Edit, *ops: str) -> bool:
    for conv in edit.nodes:
        last = edit.only_user(conv.output[0]) if is_op(conv, "Conv", "ConvTranspose") else None
        found = _filters(edit, conv) if is_op(last, *ops) else None
        if last is None or found is None:
            continue
        weight, bias = found
        affine = affine_of(edit, last, conv.output[0], len(bias))
        if affine is not None:
            scale, offset = affine
            weight, bias = _scaled(conv, weight, scale, outputs=True), bias * scale + offset
            edit.replace([conv, last], [_refilled(edit, conv, weight, bias, conv.input[0], last.output[0])])
            return True
    return False


def _before(edit: Edit, shapes: dict[str, int]) -> bool:
    for node in edit.nodes:
        if not is_op(node, *_ARITHMETIC) or node.output[0] in edit.outputs:
            continue
        for source in node.input:
            affine = affine_of(edit, node, source, shapes.get(source, 0)) if source in shapes else None
            if affine is not None and _fold_before(edit, node, source, *affine):
                return True
    return False


def _fold_before(edit: Edit, node: NodeProto, source: str, scale: Floats, offset: Floats) -> bool:
    """Fold `node`, which computes scale·source + offset, into its readers if all are convolutions."""
    made = []
    for user in edit.users(node.output[0]):
        found = _filters(edit, user)
        if found is None:
            return False
        weight, bias = found
        if np.any(offset):
            conv = Conv.of(edit, user)
            if conv is None or any(conv.pads):
                return False
            # The response of the filters to a constant image.
            bias = bias + _scaled(user, weight, offset, outputs=False).sum(axis=(1, 2, 3))
        made.append((user, _scaled(user, weight, scale, outputs=False), bias))
    if not made:
        return False
    for user, weight, bias in made:
        edit.replace([user], [_refilled(edit, user, weight, bias, source, user.output[0])])
    edit.replace([node], [])
    return True
