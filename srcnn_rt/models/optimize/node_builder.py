"""Builder of nodes one after the other: images (N, C, H, W) through the steps of an image path.

It adds only nodes that have had the same form since operator set 13 (Squeeze and Unsqueeze with axes as
inputs, no ReduceMean, whose axes moved in 18), so that they are valid in the operator set of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...image import bicubic
from ..onnx_helpers import SLICE_END
from .graph_edit import Conv, Edit

if TYPE_CHECKING:
    from onnx import NodeProto

OLDEST, NEWEST = 13, 25  # operator sets in which the nodes mean the same
_VELTKAMP = 2.0**13 + 1  # leaves 24 - 13 bits
_BEFORE_START = -(2**31)  # end of a Slice that runs backward to the first sample


class NodeBuilder:
    """Nodes in the order in which they are added. Methods take and return names of tensors.

    Parameters
    ----------
    edit : Edit
        Holds the weights and reserves names.
    prefix : str
        Prefix of the nodes' names.
    split : bool
        Build convolutions that stay exact on a GPU that rounds their factors to eleven bits (TF32).

    Attributes
    ----------
    edit : Edit
        As given.
    nodes : list of NodeProto
        The added nodes.
    """

    def __init__(self, edit: Edit, prefix: str, *, split: bool = False) -> None:
        self.edit, self._prefix, self._split = edit, prefix, split
        self.nodes: list[NodeProto] = []
        self._ints: dict[tuple[int, ...], str] = {}

    def op(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node of any operator."""
        node = self.edit.node(op, inputs, f"{self._prefix}.{op.lower()}", output, **attributes)
        self.nodes.append(node)
        return str(node.output[0])

    def layer(self, conv: Conv, x: str, **changes: Any) -> str:
        """Add a convolution like another one, with the given changes of `Conv.make`."""
        changes.setdefault("output", self.edit.fresh(f"{self._prefix}.out"))
        self.nodes.append(conv.make(self.edit, source=x, **changes))
        return str(self.nodes[-1].output[0])

    def copy(self, node: NodeProto, x: str) -> str:
        """Add a copy of a pointwise node that reads `x`; weights are shared."""
        copy = deepcopy(node)
        for k, name in enumerate(copy.input):
            if name and self.edit.array(name) is None:
                copy.input[k] = x
        copy.name = self.edit.fresh(node.name or node.op_type)
        copy.output[0] = self.edit.fresh(f"{copy.name}.out")
        self.nodes.append(copy)
        return str(copy.output[0])

    def ints(self, *values: int) -> str:
        """Return an int64 constant; equal ones are shared."""
        if values not in self._ints:
            self._ints[values] = self.edit.weight(f"{self._prefix}.ints", np.array(values, np.int64))
        return self._ints[values]

    def number(self, value: ArrayLike) -> str:
        """Return a float32 constant: a scalar, or one value per channel."""
        array = np.asarray(value, np.float64)
        return self.edit.weight(f"{self._prefix}.number", array.reshape(-1, 1, 1) if array.ndim else array)

    def cast(self, x: str, kind: str, *, output: str | None = None) -> str:
        """Convert to a NumPy type."""
        from onnx import helper

        return self.op("Cast", x, output=output, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def times(self, x: str, gain: ArrayLike) -> str:
        """Multiply by a scalar, or one value per channel; 1 adds no node."""
        gain = _scalar_if_equal(gain)
        return x if (gain == 1).all() else self.op("Mul", x, self.number(gain))

    def plus(self, x: str, offset: ArrayLike) -> str:
        """Add a scalar, or one value per channel; 0 adds no node."""
        offset = _scalar_if_equal(offset)
        return x if not offset.any() else self.op("Add", x, self.number(offset))

    def mix(self, x: str, weight: NDArray[np.float64], bias: NDArray[np.float64] | None = None) -> str:
        """Compute linear combinations of channels by a matrix (out, in), each with its own offset."""
        return self.conv(x, weight[:, :, None, None], bias)

    def conv(
        self, x: str, weight: NDArray[Any], bias: NDArray[np.float64] | None = None, group: int = 1
    ) -> str:
        """Convolve with kernels (out, in / group, kh, kw), without padding."""
        if not self._split:
            return self._conv(x, weight, bias, group)
        # Products of the short high parts are exact. The product of both low parts is of the order of
        # float32's own rounding, and is left out.
        large = self.op("Mul", x, self.number(_VELTKAMP))  # Veltkamp's splitting (Dekker 1971)
        high = self.op("Sub", large, self.op("Sub", large, x))
        low = self.op("Sub", x, high)
        weight = np.asarray(weight, np.float32)
        coarse = round_to_tf32(weight)
        sums = self.op(
            "Add", self._conv(low, coarse, None, group), self._conv(high, weight - coarse, None, group)
        )
        return self.op("Add", self._conv(high, coarse, bias, group), sums)

    def _conv(self, x: str, weight: NDArray[Any], bias: NDArray[np.float64] | None, group: int) -> str:
        weights = [self.edit.weight(f"{self._prefix}.weight", np.asarray(weight, np.float32))]
        if bias is not None and bias.any():
            weights.append(self.edit.weight(f"{self._prefix}.bias", bias))
        return self.op("Conv", x, *weights, kernel_shape=list(weight.shape[2:]), group=group)

    def enlarge(self, x: str, scale: int, channels: int) -> str:
        """Enlarge by bicubic, which shortens every side by two LR pixels."""
        if scale == 1:  # only the centre tap is not zero
            return self.crop(x, bicubic.RADIUS)
        phases = self.conv(x, bicubic.weights(scale, channels), group=channels)
        return self.op("DepthToSpace", phases, blocksize=scale, mode="CRD")

    def channels(self, x: str, start: int, stop: int) -> str:
        """Keep channels ``start … stop - 1``."""
        return self._slice(x, start, stop, 1)

    def _slice(self, x: str, start: int, stop: int, axis: int) -> str:
        return self.op("Slice", x, self.ints(start), self.ints(stop), self.ints(axis))

    def crop(self, x: str, width: int) -> str:
        """Crop `width` samples from each side."""
        return self.cut(x, (width, width), (width, width))

    def cut(self, x: str, before: Sequence[int], after: Sequence[int], *, output: str | None = None) -> str:
        """Crop samples before and after the y and the x axis; none adds no node."""
        if not any((*before, *after)):
            return x
        ends = [-n if n else SLICE_END for n in after]
        return self.op("Slice", x, self.ints(*before), self.ints(*ends), self.ints(2, 3), output=output)

    def clip(self, x: str, top: float) -> str:
        """Clip to [0, `top`]."""
        return self.op("Clip", x, self.number(0), self.number(top))

    def concat(self, *parts: str) -> str:
        """Concatenate channels."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=1)

    def length(self, x: str, axis: int) -> str:
        """Return the size of an axis as an int64 tensor [n]."""
        return self._slice(self.op("Shape", x), axis, axis + 1, 0)

    def first(self, x: str, axis: int, count: str) -> str:
        """Keep the first `count` samples of an axis, an int64 tensor [n]."""
        return self.op("Slice", x, self.ints(0), count, self.ints(axis))

    def mirror(self, x: str, axis: int, before: int, after: int) -> str:
        """Mirror an axis at its ends, repeating the edge sample, as often as the widths need."""
        strips = [self._strip(x, axis, before, front=True)] if before else []
        strips.append(x)
        strips += [self._strip(x, axis, after, front=False)] if after else []
        return x if len(strips) == 1 else self.op("Concat", *strips, axis=axis)

    def _strip(self, x: str, axis: int, width: int, *, front: bool) -> str:
        """Return the `width` samples that come before or after a mirrored axis.

        ``reversed, original`` is one period of the mirrored axis. For a long axis it is cropped first. For a
        short axis it is doubled until it is as wide as an image of one sample may need.
        """
        at = self.ints(axis)
        part = self._slice(x, *((0, width) if front else (-width, SLICE_END + 1)), axis)
        back = self.op("Slice", part, self.ints(-1), self.ints(_BEFORE_START), at, self.ints(-1))
        strip, wide = self.op("Concat", *((part, back) if front else (back, part)), axis=axis), 2
        start, stop = (-width, SLICE_END + 1) if front else (0, width)
        while True:
            strip = self._slice(strip, start, stop, axis)
            if wide >= width:
                return strip
            strip, wide = self.op("Concat", strip, strip, axis=axis), 2 * wide


def round_to_tf32(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round float32 values to eleven bits, which TF32 holds."""
    large = values * np.float32(_VELTKAMP)
    return np.asarray(large - (large - values), np.float32)


def _scalar_if_equal(values: ArrayLike) -> NDArray[np.float64]:
    """Return float64 values, as a scalar if they are all equal."""
    array = np.asarray(values, np.float64)
    return array.reshape(-1)[0] if array.ndim and (array == array.flat[0]).all() else array
