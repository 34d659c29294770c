"""Convolutions that take in what stands before and after them.

Each fold rewrites one place and starts again, so that chains fold too. A tensor keeps its name
where its samples stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graph_edit import MAX_NUMBERS, MAX_WORK, Conv, Edit, attribute, channels, is_op

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Floats = NDArray[np.float64]

_OLDEST = 7  # before it Add and Mul broadcast by attributes, and BatchNormalization trains unless told
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def fold_batch_norm(model: ModelProto) -> ModelProto:
    """Fold inference-mode BatchNormalization into the Conv or ConvTranspose before it.

    Its parameters must be constants and it must be the convolution's only user.

    Parameters
    ----------
    model : never changed
    """
    return _repeat(model, _batch_norm)


def fold_scale_offset(model: ModelProto) -> ModelProto:
    """Fold Mul, Add, Sub and Div by a constant into a Conv or ConvTranspose next to them.

    The constant is a single number or one a channel. After a convolution whose only user it is,
    anything folds. Before convolutions, all its users, a factor always folds, an offset only if
    none pads: what a padded Conv reads outside is 0, not the offset.

    Parameters
    ----------
    model : never changed
    """
    shapes = channels(model)
    return _repeat(model, lambda edit: _after(edit) or _before(edit, shapes))


def drop_identities(model: ModelProto) -> ModelProto:
    """Take away Identity, and Dropout as it is in inference.

    One between the graph's input, or another of its outputs, and its output stays.

    Parameters
    ----------
    model : never changed
    """
    return _repeat(model, _identity)


def merge_linear(model: ModelProto) -> ModelProto:
    """Make one Conv of two with nothing between them, where that is exact and less work.

    The second must not pad, for what it would read outside the first's output is no
    convolution of the image; or the first is 1x1 without bias, stride and padding, whose
    output is 0 where its input is. Work is multiply-accumulates an input pixel; of groups a
    dense convolution is made, which seldom is less.

    Parameters
    ----------
    model : never changed
    """
    return _repeat(model, _merge)


def _repeat(model: ModelProto, step: Callable[[Edit], bool]) -> ModelProto:
    """Rewrite one place after the other until `step` finds none."""
    edit = Edit(model)
    while step(edit):
        pass
    return edit.model()


def _pairs(edit: Edit, *ops: str) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Yield convolutions that one node alone reads, with that node if it is one of `ops`."""
    for node in edit.nodes:
        user = edit.only_user(node.output[0]) if is_op(node, "Conv", "ConvTranspose") else None
        if user is not None and is_op(user, *ops):
            yield node, user


# Weights and bias of a convolution, whatever its padding.


def _filters(edit: Edit, node: NodeProto | None) -> tuple[Floats, Floats] | None:
    """Return weight and bias of a Conv or ConvTranspose in float32, over rows and columns."""
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
    """Return the same convolution of other weights, between other tensors."""
    from onnx import NodeProto

    new = NodeProto()
    new.CopyFrom(node)
    name = node.name or node.output[0]
    new.name = edit.fresh(name)
    del new.input[:]
    new.input.extend([source, edit.weight(f"{name}.weight", weight)])
    if np.any(bias):
        new.input.append(edit.weight(f"{name}.bias", bias))
    new.output[0] = output
    return new


def _by_output(node: NodeProto, weight: Floats, scale: Floats) -> Floats:
    """Return the weight times a number for every output channel."""
    if is_op(node, "Conv"):
        return weight * scale[:, None, None, None]
    group = attribute(node, "group", 1)  # ConvTranspose: (in, out / group, kh, kw)
    grouped = weight.reshape(group, -1, *weight.shape[1:]) * scale.reshape(group, 1, -1, 1, 1)
    return np.asarray(grouped.reshape(weight.shape))


def _by_input(node: NodeProto, weight: Floats, scale: Floats) -> Floats:
    """Return the weight times a number for every input channel."""
    if is_op(node, "ConvTranspose"):
        return weight * scale[:, None, None, None]
    group = attribute(node, "group", 1)  # Conv: (out, in / group, kh, kw)
    grouped = weight.reshape(group, -1, *weight.shape[1:]) * scale.reshape(group, 1, -1, 1, 1)
    return np.asarray(grouped.reshape(weight.shape))


def _then(edit: Edit, conv: NodeProto, scale: Floats, offset: Floats, last: NodeProto) -> bool:
    """Let `conv` do what `last`, its only user, does: scale·x + offset."""
    found = _filters(edit, conv)
    if found is None:
        return False
    weight, bias = found
    new = _refilled(
        edit,
        conv,
        _by_output(conv, weight, scale),
        bias * scale + offset,
        conv.input[0],
        last.output[0],
    )
    edit.replace([conv, last], [new])
    return True


# The folds, one place each.


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
        if _then(edit, conv, scale, beta - mean * scale, last):
            return True
    return False


def affine_of(edit: Edit, node: NodeProto, source: str, count: int) -> tuple[Floats, Floats] | None:
    """Return (scale, offset), (C,) each, of a node that makes scale·source + offset of C channels."""
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
        if affine is not None and _then(edit, conv, *affine, last):
            return True
    return False


def _before(edit: Edit, shapes: dict[str, int]) -> bool:
    for node in edit.nodes:
        if not is_op(node, *_ARITHMETIC) or node.output[0] in edit.outputs:
            continue
        for source in node.input:
            affine = affine_of(edit, node, source, shapes.get(source, 0)) if source in shapes else None
            if affine is not None and _first(edit, node, source, *affine):
                return True
    return False


def _first(edit: Edit, node: NodeProto, source: str, scale: Floats, offset: Floats) -> bool:
    """Let the users of `node`, if all are convolutions, do what it does: scale·source + offset."""
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
            # A constant image of these channels through the filters.
            bias = bias + _by_input(user, weight, offset).sum(axis=(1, 2, 3))
        made.append((user, _by_input(user, weight, scale), bias))
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
        if bodies:  # of an If or a Loop, which cannot be renamed here
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
        if maximum > MAX_NUMBERS or second.dense_size * first.dense_size // len(first.weight) > MAX_WORK:
            continue
        sparing = first.kernel == (1, 1) and first.stride == (1, 1) and not any((*first.pads, *first.bias))
        if any(second.pads) and not sparing:
            continue
        size, stride = _extent(first, second)[1], math.prod(first.stride) * math.prod(second.stride)
        made = len(second.weight) * first.weight.shape[1] * first.group * math.prod(size) / stride
        if made < first.weight.size / math.prod(first.stride) + second.weight.size / stride:
            new = _composed(first, second).make(edit, output=second.node.output[0])
            edit.replace([first.node, second.node], [new])
            return True
    return False


def _extent(first: Conv, second: Conv) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Return how the taps of `second` of `first` lie on y and x, and the kernel's size.

    Tap b of the second reads the output of the first b·d₂ on, which begins b·d₂·s₁ on in the
    input, and there tap a lies a·d₁ on. An axis has (common step, that of a, that of b in it).
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
    """Return the convolution that is `second` of `first`, which must have no padding between them."""
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
