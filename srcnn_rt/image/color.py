"""Colour: luminance, alpha, and how a luminance model upscales a colour image.

A luminance model changes Y only; chroma is bicubic. With constant chroma a change
of Y adds equally to R, G and B, so no round trip through YCbCr is needed:

    rgb_hr = bicubic(rgb) + Y_net - bicubic(Y)

with luminance in the unit of R, G and B. What a model calls black and white is the affair of its range
(`spec.ValueRange`). A network that is added to bicubic gives the difference itself.

Alpha is bicubic. The colour beside it is bicubic too, premultiplied before and divided
after, so that what is transparent does not bleed into what is not; and what a network
adds is computed where colour goes on under the transparent parts (`fill`). Run on the
premultiplied colour it would sharpen the alpha's own edge: a dark fringe around every
cut-out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import _tiles

# ITU-R BT.601: Y = w · rgb, in the unit of R, G and B; white and gray keep their value.
LUMA_WEIGHTS = (65.481 / 219, 128.553 / 219, 24.966 / 219)
# Studio swing, in which the field's networks learnt luminance: MATLAB's rgb2ycbcr of [0, 1].
STUDIO_BLACK, STUDIO_WHITE = 16 / 255, 235 / 255


def luminance(rgb: NDArray[np.floating]) -> NDArray[np.floating]:
    """MATLAB's luminance of an RGB image, in studio swing.

    Parameters
    ----------
    rgb : (..., 3) floating, R, G, B in [0, 1]

    Returns
    -------
    (...) of the same dtype, in [16/255, 235/255]
    """
    weights = np.asarray(LUMA_WEIGHTS) * (STUDIO_WHITE - STUDIO_BLACK)
    return np.asarray(rgb @ weights.astype(rgb.dtype) + rgb.dtype.type(STUDIO_BLACK))


def luma_windows(rgb: NDArray[np.float32], cut: int, out: NDArray[np.float32]) -> None:
    """Fill (N, 1, h, w) `out` with the luminance of (N, 3, h + 2·cut, w + 2·cut) windows."""
    _check_cut(rgb, out, cut)
    _tiles.luma(rgb, cut, *LUMA_WEIGHTS, 0.0, out)


def fill(windows: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Let colour go on under what is transparent, so that a network sees no edge there.

    Visible colour stays; the transparent share of a pixel takes the mean of the visible
    colour around it, weighted by alpha and by nearness (a triangle of `reach` pixels on
    each axis). Where nothing is visible in reach the colour is 0.

    Parameters
    ----------
    windows : (N, C + 1, h, w), colour not premultiplied, alpha last
    reach : LR pixels on each side that are looked at and lost

    Returns
    -------
    (N, C, h - 2·reach, w - 2·reach)
    """
    alpha = np.clip(windows[:, -1:], 0, 1)
    weighted = np.concatenate([windows[:, :-1] * alpha, alpha], axis=1)
    weights = nearness(radius)
    around = weighted
    for axis in (2, 3):
        size = around.shape[axis] - 2 * radius
        shifted = (np.take(around, range(k, k + size), axis=axis) for k in range(2 * radius + 1))
        around = sum(w * a for w, a in zip(weights, shifted, strict=True))
    seen = around[:, -1:]
    mean = np.divide(around[:, :-1], seen, out=np.zeros_like(around[:, :-1]), where=seen > 0)
    h, w = mean.shape[2:]
    inner = weighted[:, :, radius : radius + h, radius : radius + w]
    return np.ascontiguousarray(inner[:, :-1] + (1 - inner[:, -1:]) * mean, dtype=np.float32)


def nearness(radius: int) -> NDArray[np.float32]:
    """Return the (2·reach + 1) weights of `fill` on one axis: a triangle, 1 in the middle."""
    steps = np.abs(np.arange(-radius, radius + 1, dtype=np.float32))
    return np.asarray(1 - steps / np.float32(radius + 1), np.float32)


def unpremultiply(
    color: NDArray[np.float32], alpha: NDArray[np.float32], detail: NDArray[np.float32], minimum: float
) -> None:
    """Divide (N, C, H, W) colour by (N, 1, H, W) alpha and add `detail`, in place.

    Where alpha is below `least` (it would be stored as 0) colour is set to 0.
    """
    visible = alpha >= minimum
    # By alpha as it is, above 1 beside an edge too: colour overshoots there in the same measure.
    np.divide(color, alpha, out=color, where=np.broadcast_to(visible, color.shape))
    color += detail
    color *= visible


def _check_cut(rgb: NDArray[np.float32], y: NDArray[np.float32], cut: int) -> None:
    h, w = rgb.shape[2:]
    if rgb.shape[1] < 3 or len(y) > len(rgb) or y.shape[1:] != (1, h - 2 * cut, w - 2 * cut):
        raise ValueError(f"luminance {y.shape} does not fit into windows {rgb.shape} with {cut} cut off")
