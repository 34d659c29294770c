"""Bounds of every channel of every tensor, by interval arithmetic.

They hold for exact arithmetic. The few roundings of a runtime are not counted, so users must leave a margin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..onnx_helpers import STANDARD_DOMAINS, attribute
from .fuse_linear import Floats, affine_of
from .graph_edit import Conv, Edit

if TYPE_CHECKING:
    from onnx import NodeProto

Range = tuple[Floats, Floats]
"""Lowest and highest value of every channel, shape (C,) each."""


class Bounds:
    """Ranges of the tensors of a graph, by interval arithmetic.

    Parameters
    ----------
    edit : Edit
        The graph.
    shapes : dict of str to int
        Its channel counts, from `graph_edit.channels`.
    low, high : float
        Range of the inputs.
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
            span = self._range(node) if node.domain in STANDARD_DOMAINS else None
            if span is not None:
                self._found[node.output[0]] = span

    def _range(self, node: NodeProto) -> Range | None:
        """Return the range of a node's output, None if it is not known."""
        rule = _RULES.get(node.op_type)
        if rule is not None:
            span = self.of(node.input[0])
            return None if span is None else rule(self, node, *span)
        if node.op_type == "Concat":
            return self._concat(node)
        return self._arithmetic(node) if node.op_type in ("Add", "Div", "Mul", "Sub") else None

    def _setting(self, node: NodeProto, name: str, k: int, default: Any) -> Any:
        """Return what old operator sets have as an attribute and newer ones as input k; None if computed."""
        if len(node.input) > k and node.input[k]:
            return self._edit.array(node.input[k])
        return attribute(node, name, default)

    def of(self, name: str) -> Range | None:
        """Return the range of a tensor, infinite if it is not known; None if its channels are not known."""
        if name in self._found:
            return self._found[name]
        count = self._shapes.get(name)
        return None if count is None else (np.full(count, -np.inf), np.full(count, np.inf))

    def _same(self, node: NodeProto, lo: Floats, hi: Floats) -> Range:
        return lo, hi

    def _relu(self, node: NodeProto, lo: Floats, hi: Floats) -> Range:
        return np.maximum(lo, 0), np.maximum(hi, 0)

    def _saturating(self, node: NodeProto, lo: Floats, hi: Floats) -> Range:
        with np.errstate(over="ignore"):  # of exp, where the sigmoid is 0
            lo, hi = (np.tanh(v) if node.op_type == "Tanh" else 1 / (1 + np.exp(-v)) for v in (lo, hi))
        return lo, hi

    def _leaky(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        slope = self._setting(node, "alpha", 1, 0.01)
        if slope is None or np.shape(slope)[-2:] not in ((), (1,), (1, 1)):
            return None
        slopes = np.asarray(slope, np.float64).reshape(-1)
        if len(slopes) not in (1, len(lo)) or (np.ndim(slope) == 1 and len(slopes) > 1):
            return None  # a 1-D slope is along x
        ends = [np.where(v < 0, _times(slopes, v), v) for v in (np.minimum(lo, 0), hi)]
        ends.append(np.where(lo < 0, 0.0, lo))
        return np.minimum.reduce(ends), np.maximum.reduce(ends)

    def _clip(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        low, high = self._setting(node, "min", 1, -np.inf), self._setting(node, "max", 2, np.inf)
        if low is None or high is None:
            return None
        ends = np.float64(np.asarray(low).item()), np.float64(np.asarray(high).item())
        return np.clip(lo, *ends), np.clip(hi, *ends)

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
            return (lo + a, hi + b) if node.op_type == "Add" else (lo - b, hi - a)
        affine = affine_of(self._edit, node, names[0], len(lo))
        if affine is None:
            return None
        scale, offset = affine
        ends = _times(scale, lo) + offset, _times(scale, hi) + offset
        return np.minimum(*ends), np.maximum(*ends)

    def _conv(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        conv = Conv.of(self._edit, node)
        if conv is None:
            return None
        if any(conv.pads):
            lo, hi = np.minimum(lo, 0), np.maximum(hi, 0)
        ends = [_times(conv.dense, v[None, :, None, None]) for v in (lo, hi)]
        least, most = (terms.sum(axis=(1, 2, 3)) for terms in (np.minimum(*ends), np.maximum(*ends)))
        return least + conv.bias, most + conv.bias

    def _pool(self, node: NodeProto, lo: Floats, hi: Floats) -> Range:
        return np.minimum(lo, 0), np.maximum(hi, 0)  # it may count zeros outside

    def _resize(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        extrapolates = attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
        overshoots = attribute(node, "mode", b"nearest") not in (b"nearest", b"linear")
        if extrapolates or overshoots or self._shapes.get(node.output[0]) != len(lo):
            return None
        return lo, hi

    def _concat(self, node: NodeProto) -> Range | None:
        spans = [span for name in node.input if (span := self.of(name)) is not None]
        if len(spans) < len(node.input) or attribute(node, "axis") % 4 != 1:
            return None
        return np.concatenate([s[0] for s in spans]), np.concatenate([s[1] for s in spans])

    def _depth_to_space(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        block = attribute(node, "blocksize") ** 2
        if len(lo) % block:
            return None
        if attribute(node, "mode", b"DCR") == b"CRD":
            return lo.reshape(-1, block).min(axis=1), hi.reshape(-1, block).max(axis=1)
        return lo.reshape(block, -1).min(axis=0), hi.reshape(block, -1).max(axis=0)

    def _space_to_depth(self, node: NodeProto, lo: Floats, hi: Floats) -> Range:
        places = attribute(node, "blocksize") ** 2
        return np.tile(lo, places), np.tile(hi, places)

    def _reshape(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        """Return the range of a view that turns images into channels, or channels into images."""
        shape = self._edit.array(node.input[1])
        if shape is None or len(shape) != 4 or attribute(node, "allowzero", 0):
            return None
        count, made = len(lo), int(shape[1])
        if shape[0] != -1 or made < 1 or any(shape[2:]) or max(count, made) % min(count, made):
            return None
        if made > count:
            return np.tile(lo, made // count), np.tile(hi, made // count)
        return lo.reshape(-1, made).min(axis=0), hi.reshape(-1, made).max(axis=0)

    def _slice(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        axes = self._setting(node, "axes", 3, None)
        keeps = axes is not None and 1 not in (int(a) % 4 for a in axes)
        return (lo, hi) if keeps else None

    def _pad(self, node: NodeProto, lo: Floats, hi: Floats) -> Range | None:
        pads = self._setting(node, "pads", 1, None)
        value = self._setting(node, "value", 2, 0.0)
        if pads is None or value is None or len(pads) != 8 or any(pads[k] for k in (1, 5)):
            return None
        if len(node.input) > 3 and node.input[3]:  # axes in another order
            return None
        if attribute(node, "mode", b"constant") != b"constant":
            return lo, hi
        fill = np.float64(np.asarray(value).item())
        return np.minimum(lo, fill), np.maximum(hi, fill)


_RULES: dict[str, Callable[[Bounds, NodeProto, Floats, Floats], Range | None]] = {
    **dict.fromkeys(("Identity", "MaxPool"), Bounds._same),
    **dict.fromkeys(("LeakyRelu", "PRelu"), Bounds._leaky),
    **dict.fromkeys(("Sigmoid", "Tanh"), Bounds._saturating),
    "AveragePool": Bounds._pool,
    "Clip": Bounds._clip,
    "Conv": Bounds._conv,
    "DepthToSpace": Bounds._depth_to_space,
    "Pad": Bounds._pad,
    "Relu": Bounds._relu,
    "Reshape": Bounds._reshape,
    "Resize": Bounds._resize,
    "Slice": Bounds._slice,
    "SpaceToDepth": Bounds._space_to_depth,
}


def _times(weight: Floats, value: Floats) -> Floats:
    """Multiply, with 0 times infinity as 0, because a weight of 0 reads nothing."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * value)
