"""Bounds of every channel of every tensor, by interval arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .fuse_linear import Floats, affine_of
from .graph_edit import DEFAULT_DOMAINS, Conv, Edit, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

Range = tuple[Floats, Floats]
"""Lowest and highest value of every channel, (C,) each."""

_EXACT = 2.0**24  # integers up to here are float32, and so are their sums in any order


class Bounds:
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

    def _leaky(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        slope: Any = attribute(node, "alpha", 0.01)
        if node.op_type == "PRelu":
            slope = self._edit.array(node.input[1])
        if span is None or slope is None or np.shape(slope)[-2:] not in ((), (1,), (1, 1)):
            return None
        slopes = np.asarray(slope, np.float64).reshape(-1)
        if len(slopes) not in (1, len(span[0])) or (np.ndim(slope) == 1 and len(slopes) > 1):
            return None  # a list is along x
        ends = [np.where(v < 0, _times(slopes, v), v) for v in (np.minimum(span[0], 0), span[1])]
        ends.append(np.where(span[0] < 0, 0.0, span[0]))
        return _outward(np.minimum.reduce(ends), np.maximum.reduce(ends))

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
        affine = affine_of(self._edit, node, names[0], len(lo))
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
        weight = conv.dense
        at = (None, slice(None), None, None)
        ends = _times(weight, lo[at]), _times(weight, hi[at])
        return -_largest_of(-np.minimum(*ends), -conv.bias), _largest_of(np.maximum(*ends), conv.bias)

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

    def _space_to_depth(self, node: NodeProto) -> Range | None:
        span = self.of(node.input[0])
        places = attribute(node, "blocksize") ** 2
        return None if span is None else (np.tile(span[0], places), np.tile(span[1], places))

    def _reshape(self, node: NodeProto) -> Range | None:
        """Of a view that takes images for channels, or channels for images."""
        span, shape = self.of(node.input[0]), self._edit.array(node.input[1])
        if span is None or shape is None or len(shape) != 4 or attribute(node, "allowzero", 0):
            return None
        count, made = len(span[0]), int(shape[1])
        if shape[0] != -1 or made < 1 or any(shape[2:]) or max(count, made) % min(count, made):
            return None
        if made > count:
            return np.tile(span[0], made // count), np.tile(span[1], made // count)
        return span[0].reshape(-1, made).min(axis=0), span[1].reshape(-1, made).max(axis=0)

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


_RULES: dict[str, Callable[[Bounds, NodeProto], Range | None]] = {
    "Add": Bounds._arithmetic,
    "AveragePool": Bounds._pool,
    "Clip": Bounds._clip,
    "Concat": Bounds._concat,
    "Conv": Bounds._conv,
    "DepthToSpace": Bounds._depth_to_space,
    "Div": Bounds._arithmetic,
    "Identity": Bounds._same,
    "LeakyRelu": Bounds._leaky,
    "MaxPool": Bounds._same,
    "Mul": Bounds._arithmetic,
    "PRelu": Bounds._leaky,
    "Pad": Bounds._pad,
    "Relu": Bounds._monotone,
    "Reshape": Bounds._reshape,
    "Resize": Bounds._resize,
    "Sigmoid": Bounds._monotone,
    "Slice": Bounds._slice,
    "SpaceToDepth": Bounds._space_to_depth,
    "Sub": Bounds._arithmetic,
    "Tanh": Bounds._monotone,
}


def _times(weight: Floats, value: Floats) -> Floats:
    """Multiply; 0 times infinity is 0, for what is not read does not count."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * value)


def _largest_of(terms: Floats, bias: Floats) -> Floats:
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
