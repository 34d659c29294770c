"""Folding of linear operators into the convolutions before and after them.

Each fold rewrites one place and starts again, so that chains fold too. A tensor whose samples stay the same
keeps its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..onnx_helpers import attribute, is_op
from .graph_edit import MAX_WEIGHT_SIZE, MAX_WORK, Conv, Edit, channels

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
    return _repeat(model, _batch_norm)


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
    return _repeat(model, lambda edit: _after(edit) or _before(edit, shapes))


def drop_identities(model: ModelProto) -> ModelProto:
    """Remove Identity, and Dropout in inference mode.

    A node that connects the graph's input, or another output, with an output stays.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    return _repeat(model, _identity)


def merge_linear(model: ModelProto) -> ModelProto:
    """Merge two adjacent Convs into one where that is exact and less work.

    The second must not pad, because the padding of the first's output is not a convolution of the image; or
    the first must be 1x1 without bias, stride and padding, so that its output is 0 where its input is. Work
    is counted in multiply-accumulates per input pixel. Grouped convolutions become dense ones, which seldom
    saves work.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    """
    return _repeat(model, _merge)


def _repeat(model: ModelProto, step: Callable[[Edit], bool]) -> ModelProto:
    """Rewrite one place at a time until `step` finds none."""
    edit = Edit(model)
    while step(edit):
        pass
    return edit.model()


def _pairs(edit: Edit, *ops: str) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Yield convolutions with a single reader that is one of `ops`, and that reader."""
    for node in edit.nodes:
        user = edit.only_user(node.output[0]) if is_op(node, "Conv", "ConvTranspose") else None
        if user is not None and is_op(user, *ops):
            yield node, user


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
    if (
        is_op(node, "Conv") is outputs
    ):  # Conv: (out, in / group, kh, kw), ConvTranspose: (in, out / group, kh, kw)
        return weight * scale[:, None, None, None]
    group = attribute(node, "group", 1)
    grouped = weight.reshape(group, -1, *weight.shape[1:]) * scale.reshape(group, 1, -1, 1, 1)
    return np.asarray(grouped.reshape(weight.shape))


def _fold_after(edit: Edit, conv: NodeProto, scale: Floats, offset: Floats, last: NodeProto) -> bool:
    """Fold `last`, the only reader of `conv`, which computes scale·x + offset, into it."""
    found = _filters(edit, conv)
    if found is None:
        return False
    weight, bias = _scaled(conv, found[0], scale, outputs=True), found[1] * scale + offset
    edit.replace([conv, last], [_refilled(edit, conv, weight, bias, conv.input[0], last.output[0])])
    return True


def _batch_norm(edit: Edit) -> bool:
    for conv, last in _pairs(edit, "BatchNormalization"):
        if last.input[0] != conv.output[0]:
            continue
        parameters = [edit.array(name) for name in last.input[1:]]
        trains = attribute(last, "training_mode", 0) or not attribute(last, "spatial", 1)
        if edit.opset < _OLDEST or trains or any(last.output[1:]) or any(p is None for p in parameters):
            continue
        gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
        spread = variance + attribute(last, "epsilon", 1e-5)
        if not np.all(spread > 0):
            continue
        scale = gamma / np.sqrt(spread)
        if _fold_after(edit, conv, scale, beta - mean * scale, last):
            return True
    return False


def affine_of(edit: Edit, node: NodeProto, source: str, count: int) -> tuple[Floats, Floats] | None:
    """Return (scale, offset), shape (C,) each, of a node that computes scale·source + offset."""
    if not is_op(node, *_ARITHMETIC) or edit.opset < _OLDEST:
        return None
    if list(node.input).count(source) != 1:
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


def _after(edit: Edit) -> bool:
    for conv, last in _pairs(edit, *_ARITHMETIC):
        found = _filters(edit, conv)
        affine = affine_of(edit, last, conv.output[0], len(found[1])) if found is not None else None
        if affine is not None and _fold_after(edit, conv, *affine, last):
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


def _identity(edit: Edit) -> bool:
    for node in edit.nodes:
        if not is_op(node, "Identity", "Dropout") or any(
            edit.users(name) or name in edit.outputs for name in node.output[1:]
        ):
            continue
        if is_op(node, "Dropout"):
            trains = edit.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.array(False)
            if edit.opset < _OLDEST or trains is None or trains.any():
                continue
        source, name = node.input[0], node.output[0]
        maker = edit.maker(source)
        bodies = [u for n in (source, name) for u in edit.users(n) if n not in u.input]
        if bodies:  # `Edit` does not rename tensors in the subgraphs of an If or a Loop
            continue
        if name not in edit.outputs:
            edit.rename(name, source)
        elif maker is not None and source not in edit.outputs:
            edit.rename(source, name)
            edit.rename_output(maker, source, name)
        else:
            continue
        edit.replace([node], [])
        return True
    return False


def _merge(edit: Edit) -> bool:
    for node, user in _pairs(edit, "Conv"):
        first, second = Conv.of(edit, node), Conv.of(edit, user)
        if first is None or second is None:
            continue
        maximum = max(first.dense_size, second.dense_size)
        if maximum > MAX_WEIGHT_SIZE or second.dense_size * first.dense_size // len(first.weight) > MAX_WORK:
            continue
        keeps_zeros = (
            first.kernel == (1, 1) and first.stride == (1, 1) and not any((*first.pads, *first.bias))
        )
        if any(second.pads) and not keeps_zeros:
            continue
        size, stride = _extent(first, second)[1], math.prod(first.stride) * math.prod(second.stride)
        made = len(second.weight) * first.weight.shape[1] * first.group * math.prod(size) / stride
        if made < first.weight.size / math.prod(first.stride) + second.weight.size / stride:
            new = _composed(first, second).make(edit, output=second.node.output[0])
            edit.replace([first.node, second.node], [new])
            return True
    return False


def _extent(first: Conv, second: Conv) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Return the positions of the taps of `second` after `first` on y and x, and the size of the kernel.

    Tap b of the second reads the output of the first at b·d₂, which starts at b·d₂·s₁ in the input, where
    tap a is at a·d₁. Each axis has (common step, the steps of a and b in units of it).
    """
    steps, size = [], []
    for k in (0, 1):
        own = first.dilation[k] if first.kernel[k] > 1 else 0
        next_ = second.dilation[k] * first.stride[k] if second.kernel[k] > 1 else 0
        step = math.gcd(own, next_) or 1
        steps.append((step, own // step, next_ // step))
        size.append((own * (first.kernel[k] - 1) + next_ * (second.kernel[k] - 1)) // step + 1)
    return steps, size


def _composed(first: Conv, second: Conv) -> Conv:
    """Return the convolution equal to `first` and then `second`, with no padding between them."""
    ((dy, ay, by), (dx, ax, bx)), size = _extent(first, second)
    inner, outer = first.dense, second.dense
    weight = np.zeros((len(outer), inner.shape[1], *size))
    for y, x in np.ndindex(*second.kernel):
        rows = slice(by * y, by * y + ay * (first.kernel[0] - 1) + 1, ay or 1)
        columns = slice(bx * x, bx * x + ax * (first.kernel[1] - 1) + 1, ax or 1)
        weight[:, :, rows, columns] += np.tensordot(outer[:, :, y, x], inner, 1)
    top, left, bottom, right = (a + b for a, b in zip(first.pads, second.pads, strict=True))
    return replace(
        first,
        weight=weight,
        bias=second.bias + outer.sum(axis=(2, 3)) @ first.bias,
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        dilation=(dy, dx),
        pads=(top, left, bottom, right),
        group=1,
    )
