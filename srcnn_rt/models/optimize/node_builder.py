"""Nodes written one after the other: images (N, C, H, W) through the operators a path is made of.

Only what has had one form since operator set 13 is written (Squeeze and Unsqueeze read their axes, no
ReduceMean, whose axes moved in 18), so that the nodes stand in whatever set the model around them has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...image import bicubic
from .graph_edit import Edit

if TYPE_CHECKING:
    from onnx import NodeProto

OLDEST, NEWEST = 13, 25  # operator sets in which the nodes mean the same
_VELTKAMP = 2.0**13 + 1  # leaves 24 - 13 bits
_BEYOND = -(2**31)  # an end before the first sample, for slices that run backward


class Steps:
    """Nodes in the order in which they are written; methods take and return names of tensors.

    Attributes
    ----------
    edit : takes weights and gives out names
    nodes : what was written

    Parameters
    ----------
    prefix : of the nodes' names
    split : write convolutions that stay exact where a GPU rounds what they multiply to eleven bits (TF32)
    """

    def __init__(self, edit: Edit, prefix: str, *, split: bool = False) -> None:
        self.edit, self._prefix, self._split = edit, prefix, split
        self.nodes: list[NodeProto] = []
        self._whole: dict[tuple[int, ...], str] = {}

    def op(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Write any node."""
        node = self.edit.node(op, inputs, f"{self._prefix}.{op.lower()}", output, **attributes)
        self.nodes.append(node)
        return str(node.output[0])

    def ints(self, *values: int) -> str:
        """Return a constant of whole numbers, each kept once."""
        if values not in self._whole:
            self._whole[values] = self.edit.weight(f"{self._prefix}.ints", np.array(values, np.int64))
        return self._whole[values]

    def number(self, value: ArrayLike) -> str:
        """Return a float32 constant: one number, or one a channel."""
        array = np.asarray(value, np.float64)
        return self.edit.weight(f"{self._prefix}.number", array.reshape(-1, 1, 1) if array.ndim else array)

    def cast(self, x: str, kind: str, *, output: str | None = None) -> str:
        """Convert to a NumPy type."""
        from onnx import helper

        return self.op("Cast", x, output=output, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def times(self, x: str, gain: ArrayLike) -> str:
        """Multiply by one number, or one a channel; by 1 writes nothing."""
        gain = _one(gain)
        return x if (gain == 1).all() else self.op("Mul", x, self.number(gain))

    def plus(self, x: str, offset: ArrayLike) -> str:
        """Add one number, or one a channel; 0 writes nothing."""
        offset = _one(offset)
        return x if not offset.any() else self.op("Add", x, self.number(offset))

    def mix(self, x: str, weight: NDArray[np.float64], bias: NDArray[np.float64] | None = None) -> str:
        """Make (out, in) linear combinations of channels, each with its own offset."""
        return self.conv(x, weight[:, :, None, None], bias)

    def conv(
        self, x: str, weight: NDArray[Any], bias: NDArray[np.float64] | None = None, group: int = 1
    ) -> str:
        """Convolve without padding, (out, in / group, kh, kw)."""
        if not self._split:
            return self._conv(x, weight, bias, group)
        # Halves of numbers are short: their products are exact, and what is left out is of the order of
        # float32's own rounding.
        high, low = self._halves(x)
        weight = np.asarray(weight, np.float32)
        coarse = short(weight)
        sums = self.op(
            "Add", self._conv(low, coarse, None, group), self._conv(high, weight - coarse, None, group)
        )
        return self.op("Add", self._conv(high, coarse, bias, group), sums)

    def _conv(self, x: str, weight: NDArray[Any], bias: NDArray[np.float64] | None, group: int) -> str:
        weights = [self.edit.weight(f"{self._prefix}.weight", np.asarray(weight, np.float32))]
        if bias is not None and bias.any():
            weights.append(self.edit.weight(f"{self._prefix}.bias", bias))
        return self.op("Conv", x, *weights, kernel_shape=list(weight.shape[2:]), group=group)

    def _halves(self, x: str) -> tuple[str, str]:
        """Return eleven bits of every number, and the rest (Dekker 1971, Veltkamp's splitting)."""
        large = self.op("Mul", x, self.number(_VELTKAMP))
        high = self.op("Sub", large, self.op("Sub", large, x))
        return high, self.op("Sub", x, high)

    def enlarge(self, x: str, scale: int, channels: int) -> str:
        """Enlarge by bicubic: two LR pixels are lost on each side."""
        if scale == 1:  # the middle tap alone
            return self.crop(x, bicubic.RADIUS)
        if self._split:
            phases = self.conv(x, bicubic.weights(scale, channels), group=channels)
            return self.op("DepthToSpace", phases, blocksize=scale, mode="CRD")
        from onnx import numpy_helper

        name = self.edit.fresh(f"{self._prefix}.bicubic")
        out = self.edit.fresh(f"{name}.out")
        nodes, weights = bicubic.nodes(x, out, scale, channels, name)
        names = {t.name: self.edit.weight(t.name, numpy_helper.to_array(t)) for t in weights}
        for node in nodes:
            for k, read in enumerate(node.input):
                node.input[k] = names.get(read, read)
        self.nodes += nodes
        return out

    def channels(self, x: str, start: int, stop: int) -> str:
        """Take channels ``start … stop-1``."""
        return self.op("Slice", x, self.ints(start), self.ints(stop), self.ints(1))

    def crop(self, x: str, cut: int) -> str:
        """Cut samples off each side."""
        if cut == 0:
            return x
        return self.op("Slice", x, self.ints(cut, cut), self.ints(-cut, -cut), self.ints(2, 3))

    def clip(self, x: str, top: float) -> str:
        """Clip to [0, `top`]."""
        return self.op("Clip", x, self.number(0), self.number(top))

    def concat(self, *parts: str) -> str:
        """Put channels behind each other."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=1)

    def length(self, x: str, axis: int) -> str:
        """Return the size of an axis as one whole number [n]."""
        return self.op("Slice", self.op("Shape", x), self.ints(axis), self.ints(axis + 1), self.ints(0))

    def first(self, x: str, axis: int, count: str) -> str:
        """Keep the first `count` samples of an axis, a number as `length` gives it."""
        return self.op("Slice", x, self.ints(0), count, self.ints(axis))

    def mirror(self, x: str, axis: int, before: int, after: int) -> str:
        """Mirror an axis at its ends, the edge sample repeating, endlessly, also of one sample."""
        strips = [self._strip(x, axis, before, front=True)] if before else []
        strips.append(x)
        strips += [self._strip(x, axis, after, front=False)] if after else []
        return x if len(strips) == 1 else self.op("Concat", *strips, axis=axis)

    def _strip(self, x: str, axis: int, width: int, *, front: bool) -> str:
        """Return `width` samples that come before or after an axis.

        ``reversed, as it is`` is one period of the mirrored axis. Of a long one it is cut short, and what
        is read of it is right; of a short one it is doubled until it is as wide as may be needed.
        """
        start, stop = (0, width) if front else (-width, 2**31)
        at = self.ints(axis)
        part = self.op("Slice", x, self.ints(start), self.ints(stop), at)
        back = self.op("Slice", part, self.ints(-1), self.ints(_BEYOND), at, self.ints(-1))
        strip, wide = self.op("Concat", *((part, back) if front else (back, part)), axis=axis), 2
        start, stop = (-width, 2**31) if front else (0, width)
        while True:
            strip = self.op("Slice", strip, self.ints(start), self.ints(stop), at)
            if wide >= width:  # from an image of one sample
                return strip
            strip, wide = self.op("Concat", strip, strip, axis=axis), 2 * wide


def short(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the nearest numbers of eleven bits."""
    large = weight * np.float32(_VELTKAMP)
    return np.asarray(large - (large - weight), np.float32)


def _one(values: ArrayLike) -> NDArray[np.float64]:
    """Return float64, without an axis where all channels have the same value."""
    array = np.asarray(values, np.float64)
    return array.reshape(-1)[0] if array.ndim and (array == array.flat[0]).all() else array
