"""Enlargement by interpolation, written as a convolution and a pixel shuffle.

`image.bicubic` writes the same nodes into this package's own models. Here they replace the Resize of others.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..onnx_helpers import attribute, is_op
from .graph_edit import Edit, channels
from .node_builder import NodeBuilder

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_OLDEST = 11  # operator set from which Resize defines sample positions and the cubic kernel
_MAX_SCALE = 8
_RADIUS = 2  # LR pixels that a cubic phase reads on each side
_HALF = Fraction(1, 2)


def resize_to_subpixel(model: ModelProto) -> ModelProto:
    """Rewrite cubic and linear Resize by an integer as Pad, a grouped Conv and DepthToSpace.

    Outside the image Resize reads its outermost samples, which Pad repeats. The scales must be constant,
    2 to 8 and the same on y and x, the samples float32, and the number of channels known. `antialias` has
    no effect on enlargement.

    Parameters
    ----------
    model : ModelProto
        Not changed.

    Notes
    -----
    The taps are computed as exact fractions. ONNX Runtime computes positions in float32. Where they are not
    exact, as at thirds of a pixel, its weights have an error of about 2⁻²⁴ of the distance from the image's
    corner.

    Scale, kind, and the margin of the enlargement itself stay. A convolution that reads the enlarged image
    can get a margin that is up to one LR pixel larger: in the analysis all phases of a Conv read its whole
    kernel, whereas the phases of Resize are known one by one.
    """
    edit = Edit(model)
    if edit.opset < _OLDEST:
        return edit.model()
    shapes = channels(model)
    for node in list(edit.nodes):
        scale = _factor(edit, node) if is_op(node, "Resize") else None
        kernel = _kernel(node, scale) if scale is not None and node.input[0] in shapes else None
        if scale is not None and kernel is not None:
            _rewrite(edit, node, scale, shapes[node.input[0]], *kernel)
    return edit.model()


def taps(
    scale: int, mode: str, a: Fraction = Fraction(-3, 4), *, centred: bool = True
) -> tuple[NDArray[np.float64], int]:
    """Return the weights of an interpolation by an integer, one row per phase.

    Parameters
    ----------
    scale : int
        Scale factor.
    mode : {"linear", "cubic"}
        The kernel.
    a : Fraction
        Parameter of Keys' cubic kernel: -1/2 in MATLAB, -3/4 in OpenCV and torch.
    centred : bool
        HR pixel i is at LR position (i + 1/2) / scale - 1/2, else at i / scale.

    Returns
    -------
    rows : ndarray, shape (scale, size)
        Row p gives HR pixel ``scale·q + p`` from LR pixels ``q - before …``. Outer columns that are zero in
        all rows are left out.
    before : int
        LR pixels before its own that a phase reads.
    """
    shift = _HALF if centred else Fraction(0)
    places = range(-_RADIUS, _RADIUS + 1)
    rows = [[_weight((p + shift) / scale - shift - k, mode, a) for k in places] for p in range(scale)]
    used = [k for k in range(len(places)) if any(row[k] for row in rows)]
    first, last = used[0], used[-1]
    return np.array([row[first : last + 1] for row in rows], dtype=np.float64), _RADIUS - first


def _weight(x: Fraction, mode: str, a: Fraction) -> Fraction:
    """Return the linear kernel, or the cubic one (R. Keys, 1981), at distance x."""
    x = abs(x)
    if mode == "linear":
        return max(1 - x, Fraction(0))
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else Fraction(0)


def _factor(edit: Edit, node: NodeProto) -> int | None:
    """Return the scale factor if it is a constant integer, the same on y and x, and 1 on other axes."""
    scales = edit.array(node.input[2]) if len(node.input) > 2 else None
    if scales is None or (len(node.input) > 3 and node.input[3]):
        return None
    axes = [a % 4 for a in attribute(node, "axes", [0, 1, 2, 3])]
    if scales.shape != (len(axes),):
        return None
    factors = dict.fromkeys(range(4), 1.0) | dict(zip(axes, scales.tolist(), strict=True))
    scale = int(factors[2]) if factors[2] in range(2, _MAX_SCALE + 1) else None
    return scale if scale is not None and list(factors.values()) == [1, 1, scale, scale] else None


def _kernel(node: NodeProto, scale: int) -> tuple[NDArray[np.float64], int] | None:
    """Return the `taps` of a node's attributes, or None if they ask for another interpolation."""
    mode = attribute(node, "mode", b"nearest").decode()
    how = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
    known = mode in ("linear", "cubic") and how in ("half_pixel", "pytorch_half_pixel", "asymmetric")
    if not known or attribute(node, "exclude_outside", 0):
        return None
    a = attribute(node, "cubic_coeff_a", -0.75)
    if not math.isfinite(a):
        return None
    # pytorch_half_pixel differs only for outputs of one sample, and these have at least `scale`.
    return taps(scale, mode, Fraction(a), centred=how != "asymmetric")


def _rewrite(
    edit: Edit, node: NodeProto, scale: int, count: int, rows: NDArray[np.float64], before: int
) -> None:
    """Replace a Resize of `count` channels."""
    steps = NodeBuilder(edit, node.name or node.output[0])
    size = rows.shape[1]
    after = size - 1 - before
    kernel = np.einsum("py,qx->pqyx", rows, rows).reshape(scale * scale, 1, size, size)
    x = steps.op("Pad", node.input[0], steps.ints(0, 0, before, before, 0, 0, after, after), mode="edge")
    x = steps.conv(x, np.tile(kernel, (count, 1, 1, 1)), group=count)
    steps.op("DepthToSpace", x, output=node.output[0], blocksize=scale, mode="CRD")
    edit.replace([node], steps.nodes)
