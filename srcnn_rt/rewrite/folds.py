"""Convolutions that take in what stands before and after them, and lose filters that never fire.

Each fold rewrites one place and starts again, so that chains fold too. A tensor keeps its name
where its samples stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .edit import DEFAULT_DOMAINS, Conv, Edit, attribute

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Floats = NDArray[np.float64]
Range = tuple[Floats, Floats]
"""Lowest and highest value of every channel, (C,) each."""

_OLDEST = 7  # before it Add and Mul broadcast by attributes, and BatchNormalization trains unless told
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_EXACT = 2.0**24  # integers up to here are float32, and so are their sums in any order


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
    convolution of the picture; or the first is 1x1 without bias, stride and padding, whose
    output is 0 where its input is. Work is multiply-accumulates an input pixel; of groups a
    dense convolution is made, which seldom is less.

    Parameters
    ----------
    model : never changed
    """
    return _repeat(model, _merge)


def drop_dead_filters(model: ModelProto, low: float = 0.0, high: float = 1.0) -> ModelProto:
    """Remove filters whose Relu never fires for any picture in range.

    Bounds of every channel follow from the range of the input by interval arithmetic; what
    an operator unknown here makes is unbounded. (Bicubic enlargement inside a graph overshoots
    the range, and so do its bounds, which come from its weights.) A filter goes, and what
    convolutions read of it, where the upper bound is not positive. One filter always stays.

    Parameters
    ----------
    model : never changed
    low, high : range of the samples the model is fed, which is the caller's promise. A picture
        beyond it, as float32 files may be, can make a removed filter fire.

    Notes
    -----
    The runtime's sums are rounded, and a bound of 0 in exact arithmetic can come out positive.
    So every bound is widened: a float32 sum of n products, in any order, is the exact sum of
    products that are off by n·2⁻²³ of themselves at most (N. Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1 and 4.2: half of that). Where the products at the bound are
    integers whose sums stay below 2²⁴ it is not, for rounding is monotone and that sum is
    exact. What an accelerator rounds more coarsely (TF32) is noise of a filter that is 0, and
    goes with it.
    """
    edit = Edit(model)
    bounds = _Bounds(edit, channels(model), low, high)
    dead = {}
    for node in edit.nodes:
        if _is(node, "Relu") and (span := bounds.of(node.input[0])) is not None:
            dead[node.output[0]] = span[1] <= 0
    for name, mask in dead.items():
        _drop(edit, name, mask)
    return edit.model()


def channels(model: ModelProto) -> dict[str, int]:
    """Return how many channels each float32 tensor (N, C, H, W) of a model has, where that is known."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.elem_type == TensorProto.FLOAT and len(dims) == 4 and dims[1].dim_value > 0:
            found[value.name] = dims[1].dim_value
    return found


def _repeat(model: ModelProto, step: Callable[[Edit], bool]) -> ModelProto:
    """Rewrite one place after the other until `step` finds none."""
    edit = Edit(model)
    while step(edit):
        pass
    return edit.model()


def _is(node: NodeProto | None, *ops: str) -> bool:
    return node is not None and node.op_type in ops and node.domain in DEFAULT_DOMAINS


def _pairs(edit: Edit, *ops: str) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Yield convolutions that one node alone reads, with that node if it is one of `ops`."""
    for node in edit.nodes:
        user = edit.only_user(node.output[0]) if _is(node, "Conv", "ConvTranspose") else None
        if user is not None and _is(user, *ops):
            yield node, user


# Weights and bias of a convolution, whatever its padding.


def _filters(edit: Edit, node: NodeProto | None) -> tuple[Floats, Floats] | None:
    """Return weight and bias of a Conv or ConvTranspose in float32, over rows and columns."""
    if node is None or not _is(node, "Conv", "ConvTranspose"):
        return None
    arrays = [edit.array(name) for name in node.input[1:] if name]
    if any(a is None or a.dtype != np.float32 for a in arrays):
        return None
    weight, *rest = (np.asarray(a, np.float64) for a in arrays)
    if weight.ndim != 4:
        return None
    out = len(weight) if _is(node, "Conv") else weight.shape[1] * attribute(node, "group", 1)
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
    if _is(node, "Conv"):
        return weight * scale[:, None, None, None]
    group = attribute(node, "group", 1)  # ConvTranspose: (in, out / group, kh, kw)
    grouped = weight.reshape(group, -1, *weight.shape[1:]) * scale.reshape(group, 1, -1, 1, 1)
    return np.asarray(grouped.reshape(weight.shape))


def _by_input(node: NodeProto, weight: Floats, scale: Floats) -> Floats:
    """Return the weight times a number for every input channel."""
    if _is(node, "ConvTranspose"):
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


def _affine(edit: Edit, node: NodeProto, source: str, count: int) -> tuple[Floats, Floats] | None:
    """Return (scale, offset), (C,) each, of a node that makes scale·source + offset of C channels."""
    if not _is(node, *_ARITHMETIC) or edit.opset < _OLDEST:
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
        affine = _affine(edit, last, conv.output[0], len(found[1])) if found is not None else None
        if affine is not None and _then(edit, conv, *affine, last):
            return True
    return False


def _before(edit: Edit, shapes: dict[str, int]) -> bool:
    for node in edit.nodes:
        if not _is(node, *_ARITHMETIC) or node.output[0] in edit.outputs:
            continue
        for source in node.input:
            affine = _affine(edit, node, source, shapes.get(source, 0)) if source in shapes else None
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
            # A constant picture of these channels through the filters.
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
        if not _is(node, "Identity", "Dropout") or any(
            edit.users(name) or name in edit.outputs for name in node.output[1:]
        ):
            continue
        if _is(node, "Dropout"):
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
            maker.output[list(maker.output).index(source)] = name
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


def _dense(conv: Conv) -> Floats:
    """Return the weight (out, in, kh, kw) of the same convolution in one group."""
    out, width, *kernel = conv.weight.shape
    dense = np.zeros((out, width * conv.group, *kernel))
    for g in range(conv.group):
        rows = slice(g * out // conv.group, (g + 1) * out // conv.group)
        dense[rows, g * width : (g + 1) * width] = conv.weight[rows]
    return dense


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
    inner, outer = _dense(first), _dense(second)
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


def _drop(edit: Edit, name: str, dead: NDArray[np.bool_]) -> None:
    """Remove the dead ones of the filters whose Relu makes `name`, where only Convs read it."""
    relu = edit.maker(name)
    if relu is None or name in edit.outputs or edit.only_user(relu.input[0]) is not relu:
        return
    source = Conv.of(edit, edit.maker(relu.input[0]))
    users = [Conv.of(edit, user) for user in edit.users(name)]
    readers = [user for user in users if user is not None and user.group == 1]
    if source is None or source.group != 1 or not users or len(readers) < len(users):
        return
    live = np.flatnonzero(~dead)
    if live.size == dead.size:
        return
    if not live.size:
        live = np.array([0])  # a tensor of no channels is more trouble than one filter
    edit.replace([source.node], [source.make(edit, weight=source.weight[live], bias=source.bias[live])])
    for reader in readers:
        edit.replace([reader.node], [reader.make(edit, weight=reader.weight[:, live])])


# Bounds of every channel.


class _Bounds:
    """Ranges of the tensors of a graph, by interval arithmetic.

    Parameters
    ----------
    edit, shapes : the graph and its channel counts
    low, high : range of the inputs
    """

    def __init__(self, edit: Edit, shapes: dict[str, int], low: float, high: float) -> None:
        self._edit = edit
        self._shapes = shapes
        self._found: dict[str, Range] = {
            name: (np.full(shapes[name], float(low)), np.full(shapes[name], float(high)))
            for name in edit.inputs
            if name in shapes
        }
        for node in edit.nodes:
            rule = _RULES.get(node.op_type) if node.domain in DEFAULT_DOMAINS else None
            span = rule(self, node) if rule is not None else None
            if span is not None:
                self._found[node.output[0]] = span

    def of(self, name: str) -> Range | None:
        """Return the range of `name`, infinite where nothing is known; None if it has no channels."""
        if name in self._found:
            return self._found[name]
        count = self._shapes.get(name)
        return None if count is None else (np.full(count, -np.inf), np.full(count, np.inf))

    def _same(self, node: NodeProto) -> Range | None:
        return self.of(node.input[0])

    def _monotone(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        if span is None:
            return None
        if node.op_type == "Relu":
            return np.maximum(span[0], 0), np.maximum(span[1], 0)
        with np.errstate(over="ignore"):  # of exp, where the sigmoid is 0
            lo, hi = (np.tanh(v) if node.op_type == "Tanh" else 1 / (1 + np.exp(-v)) for v in span)
        return lo - 1e-6, hi + 1e-6  # runtimes approximate both to about 1e-7

    def _clip(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        ends: list[Any] = []
        for k, name in enumerate(("min", "max"), 1):
            end = attribute(node, name)
            if len(node.input) > k and node.input[k]:
                end = self._edit.array(node.input[k])
                if end is None:
                    return None
            ends.append([-np.inf, np.inf][k - 1] if end is None else np.float64(np.asarray(end).item()))
        return None if span is None else (np.clip(span[0], *ends), np.clip(span[1], *ends))

    def _arithmetic(self, node: NodeProto) -> Range | None:
        names = [name for name in node.input if self._edit.array(name) is None]
        spans = [span for name in names if (span := self.of(name)) is not None]
        if not spans or len(spans) < len(names):
            return None
        lo, hi = spans[0]
        if len(spans) == 2:
            a, b = spans[1]
            if node.op_type not in ("Add", "Sub") or len(a) != len(lo):
                return None
            return _outward(lo + a, hi + b) if node.op_type == "Add" else _outward(lo - b, hi - a)
        affine = _affine(self._edit, node, names[0], len(lo))
        if affine is None:
            return None
        scale, offset = affine
        ends = _times(scale, lo) + offset, _times(scale, hi) + offset
        return _outward(np.minimum(*ends), np.maximum(*ends))

    def _conv(self, node: NodeProto) -> Range | None:
        conv = Conv.of(self._edit, node)
        span = self.of(node.input[0])
        if conv is None or span is None:
            return None
        lo, hi = span
        if any(conv.pads):
            lo, hi = np.minimum(lo, 0), np.maximum(hi, 0)
        weight = _dense(conv)
        at = (None, slice(None), None, None)
        ends = _times(weight, lo[at]), _times(weight, hi[at])
        return -_most(-np.minimum(*ends), -conv.bias), _most(np.maximum(*ends), conv.bias)

    def _pool(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        if span is None:
            return None
        lo, hi = np.minimum(span[0], 0), np.maximum(span[1], 0)  # what it may count outside
        rounding = math.prod(attribute(node, "kernel_shape")) * 2.0**-23 * np.maximum(-lo, hi)
        return lo - rounding, hi + rounding

    def _resize(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        mode = attribute(node, "mode", b"nearest")
        extrapolates = attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
        if span is None or extrapolates or self._shapes.get(node.output[0]) != len(span[0]):
            return None
        if mode == b"nearest":
            return span
        rounding = 1e-6 * np.maximum(np.abs(span[0]), np.abs(span[1]))
        return (span[0] - rounding, span[1] + rounding) if mode == b"linear" else None

    def _concat(self, node: NodeProto) -> Range | None:
        spans = [self.of(name) for name in node.input]
        known = [s for s in spans if s is not None]
        if len(known) < len(spans) or attribute(node, "axis") % 4 != 1:
            return None
        return np.concatenate([s[0] for s in known]), np.concatenate([s[1] for s in known])

    def _depth_to_space(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        block = attribute(node, "blocksize") ** 2
        if span is None or len(span[0]) % block:
            return None
        lo, hi = span
        if attribute(node, "mode", b"DCR") == b"CRD":
            return lo.reshape(-1, block).min(axis=1), hi.reshape(-1, block).max(axis=1)
        return lo.reshape(block, -1).min(axis=0), hi.reshape(block, -1).max(axis=0)

    def _slice(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        axes = attribute(node, "axes")
        if len(node.input) > 3 and node.input[3]:
            axes = self._edit.array(node.input[3])
        keeps = axes is not None and 1 not in (int(a) % 4 for a in axes)
        return span if keeps else None

    def _pad(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        pads = attribute(node, "pads")
        value: Any = attribute(node, "value", 0.0)
        if len(node.input) > 1:
            pads = self._edit.array(node.input[1])
            value = self._edit.array(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
        if span is None or pads is None or value is None or len(pads) != 8 or any(pads[k] for k in (1, 5)):
            return None
        if len(node.input) > 3 and node.input[3]:  # axes in an order of their own
            return None
        if attribute(node, "mode", b"constant") != b"constant":
            return span
        fill = np.float64(np.asarray(value).item())
        return np.minimum(span[0], fill), np.maximum(span[1], fill)


_RULES: dict[str, Callable[[_Bounds, NodeProto], Range | None]] = {
    "Add": _Bounds._arithmetic,
    "AveragePool": _Bounds._pool,
    "Clip": _Bounds._clip,
    "Concat": _Bounds._concat,
    "Conv": _Bounds._conv,
    "DepthToSpace": _Bounds._depth_to_space,
    "Div": _Bounds._arithmetic,
    "Identity": _Bounds._same,
    "MaxPool": _Bounds._same,
    "Mul": _Bounds._arithmetic,
    "Pad": _Bounds._pad,
    "Relu": _Bounds._monotone,
    "Resize": _Bounds._resize,
    "Sigmoid": _Bounds._monotone,
    "Slice": _Bounds._slice,
    "Sub": _Bounds._arithmetic,
    "Tanh": _Bounds._monotone,
}


def _times(weight: Floats, value: Floats) -> Floats:
    """Multiply; 0 times infinity is 0, for what is not read does not count."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * value)


def _most(terms: Floats, bias: Floats) -> Floats:
    """Return the most that float32 makes of each filter's sum, its terms (out, in, kh, kw) at most these."""
    everything = np.column_stack([terms.reshape(len(terms), -1), bias])
    total, size = everything.sum(axis=1), np.abs(everything).sum(axis=1)
    exact = np.all(everything == np.round(everything), axis=1) & (size < _EXACT)
    rounding = everything.shape[1] * 2.0**-23 * size
    return np.asarray(np.where(exact, total, total + rounding))


def _outward(lo: Floats, hi: Floats) -> Range:
    """Round to float32 away from the inside: one operation's rounding is monotone."""
    with np.errstate(over="ignore"):
        below, above = lo.astype(np.float32), hi.astype(np.float32)
        below = np.where(below == lo, below, np.nextafter(below, np.float32(-np.inf)))
        above = np.where(above == hi, above, np.nextafter(above, np.float32(np.inf)))
    return below.astype(np.float64), above.astype(np.float64)
