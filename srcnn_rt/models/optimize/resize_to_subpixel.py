"""Enlargement by interpolation as a convolution and a pixel shuffle.

What `bicubic` writes into this package's own models, for the Resize of others.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graph_edit import DEFAULT_DOMAINS, Edit, attribute, channels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_OLDEST = 11  # before it Resize said neither where samples lie nor which cubic it means
_MAX = 8
_RADIUS = 2  # LR pixels that a cubic phase reads on each side
_HALF = Fraction(1, 2)


def resize_to_subpixel(model: ModelProto) -> ModelProto:
    """Write cubic and linear Resize by a whole number as Pad, a grouped Conv and DepthToSpace.

    Outside the image Resize reads its outermost samples, and so does what Pad repeats.
    Taken are a constant `scales` of 2 to 8, the same on y and x, in float32, where the number
    of channels is known. `antialias` changes nothing where an image grows.

    Parameters
    ----------
    model : never changed

    Notes
    -----
    The taps are computed in exact rationals. ONNX Runtime's own are not: it takes positions in
    float32, so where a third of a pixel is no float32 its weights wander with the distance from
    the image's corner, about 2⁻²⁴ of it.

    Scale, kind, and the margin of the enlargement itself stay. What reads single HR pixels of
    it, as a convolution after it does, has a margin up to one LR pixel larger: to the analysis
    all phases of a Conv read its whole kernel, where Resize is known phase by phase.
    """
    edit = Edit(model)
    if edit.opset < _OLDEST:
        return edit.model()
    shapes = channels(model)
    for node in list(edit.nodes):
        if node.op_type == "Resize" and node.domain in DEFAULT_DOMAINS:
            scale, count = _factor(edit, node), shapes.get(node.input[0])
            kernel = _kernel(node, scale) if scale is not None and count is not None else None
            if scale is not None and count is not None and kernel is not None:
                edit.replace([node], _nodes(edit, node, scale, count, *kernel))
    return edit.model()


def taps(
    scale: int, mode: str, a: Fraction = Fraction(-3, 4), *, centred: bool = True
) -> tuple[NDArray[np.float64], int]:
    """Return (scale, size) weights, and how many LR pixels before its own a phase reads.

    Row p makes HR pixel ``scale·q + p`` from LR ``q - before …``, and no outermost column is
    zero in all rows.

    Parameters
    ----------
    scale : HR pixels an LR pixel
    mode : "linear" or "cubic"
    a : of Keys' kernel: -1/2 is MATLAB's, -3/4 OpenCV's and torch's
    centred : HR pixel i lies at LR (i + 1/2) / scale - 1/2; else at i / scale
    """
    shift = _HALF if centred else Fraction(0)
    places = range(-_RADIUS, _RADIUS + 1)
    rows = [[_weight((p + shift) / scale - shift - k, mode, a) for k in places] for p in range(scale)]
    used = [k for k in range(len(places)) if any(row[k] for row in rows)]
    first, last = used[0], used[-1]
    return np.array([row[first : last + 1] for row in rows], dtype=np.float64), _RADIUS - first


def _weight(x: Fraction, mode: str, a: Fraction) -> Fraction:
    """Return a kernel at distance x: the hat, or Keys' (R. Keys, 1981)."""
    x = abs(x)
    if mode == "linear":
        return max(1 - x, Fraction(0))
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else Fraction(0)


def _factor(edit: Edit, node: NodeProto) -> int | None:
    """Return the factor on y and x, if it is one whole number, constant, and nothing else is resized."""
    scales = edit.array(node.input[2]) if len(node.input) > 2 else None
    if scales is None or (len(node.input) > 3 and node.input[3]):
        return None
    axes = [a % 4 for a in attribute(node, "axes", [0, 1, 2, 3])]
    if scales.shape != (len(axes),):
        return None
    factors = dict.fromkeys(range(4), 1.0) | dict(zip(axes, scales.tolist(), strict=True))
    scale = int(factors[2]) if factors[2] in range(2, _MAX + 1) else None
    return scale if scale is not None and list(factors.values()) == [1, 1, scale, scale] else None


def _kernel(node: NodeProto, scale: int) -> tuple[NDArray[np.float64], int] | None:
    """Return what `taps` does for the node's attributes, or None if they ask for something else."""
    mode = attribute(node, "mode", b"nearest").decode()
    how = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
    known = mode in ("linear", "cubic") and how in ("half_pixel", "pytorch_half_pixel", "asymmetric")
    if not known or attribute(node, "exclude_outside", 0):
        return None
    a = attribute(node, "cubic_coeff_a", -0.75)
    if not math.isfinite(a):
        return None
    # pytorch_half_pixel differs for outputs of one sample only, and these have `scale`.
    return taps(scale, mode, Fraction(a), centred=how != "asymmetric")


def _nodes(
    edit: Edit, node: NodeProto, scale: int, count: int, rows: NDArray[np.float64], before: int
) -> list[NodeProto]:
    """Return what stands for a Resize of `count` channels."""
    name = node.name or node.output[0]
    size = rows.shape[1]
    after = size - 1 - before
    pads = np.array([0, 0, before, before, 0, 0, after, after], np.int64)
    kernel = np.einsum("py,qx->pqyx", rows, rows).reshape(scale * scale, 1, size, size)
    pad = edit.node("Pad", [node.input[0], edit.weight(f"{name}.pads", pads)], f"{name}.pad", mode="edge")
    conv = edit.node(
        "Conv",
        [pad.output[0], edit.weight(f"{name}.weight", np.tile(kernel, (count, 1, 1, 1)))],
        f"{name}.conv",
        kernel_shape=[size, size],
        group=count,
    )
    shuffle = edit.node(
        "DepthToSpace", [conv.output[0]], f"{name}.shuffle", node.output[0], blocksize=scale, mode="CRD"
    )
    return [pad, conv, shuffle]
