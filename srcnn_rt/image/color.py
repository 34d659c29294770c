"""Colour: luminance, alpha, and the use of luminance models for colour images.

A luminance model only changes Y; chroma is bicubic. With constant chroma a change of Y adds equally to R, G
and B, so no conversion to YCbCr is needed:

    rgb_hr = bicubic(rgb) + Y_net - bicubic(Y)

with luminance in the unit of R, G and B. The value range of a model is applied elsewhere
(`models.spec.ValueRange`). Some networks compute the difference to bicubic directly.

Alpha is bicubic. Colour with alpha is bicubic, premultiplied before and divided after, so that transparent
pixels do not bleed into visible ones. The network's difference to bicubic is computed for colour that `fill`
extends under transparent pixels: on premultiplied colour the network would sharpen the edge of the alpha,
which leaves dark fringes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import _tiles

# ITU-R BT.601: Y = w · rgb, in the unit of R, G and B, so that gray keeps its value.
LUMA_WEIGHTS = (65.481 / 219, 128.553 / 219, 24.966 / 219)
# Studio swing, as MATLAB's rgb2ycbcr for [0, 1]; SRCNN and its successors were trained on it.
STUDIO_BLACK, STUDIO_WHITE = 16 / 255, 235 / 255


def luminance(rgb: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the luminance of an RGB image in studio swing, as MATLAB's rgb2ycbcr.

    Parameters
    ----------
    rgb : ndarray of floating, shape (..., 3)
        R, G and B in [0, 1].

    Returns
    -------
    ndarray, shape (...)
        In [16/255, 235/255], of the same dtype.
    """
    weights = np.asarray(LUMA_WEIGHTS) * (STUDIO_WHITE - STUDIO_BLACK)
    return np.asarray(rgb @ weights.astype(rgb.dtype) + rgb.dtype.type(STUDIO_BLACK))


def luma_windows(rgb: NDArray[np.float32], cut: int, out: NDArray[np.float32]) -> None:
    """Fill `out`, (N, 1, h, w), with the luminance of windows, (N, 3, h + 2·cut, w + 2·cut).

    Raises
    ------
    ValueError
        If the shapes do not match.
    """
    h, w = rgb.shape[2:]
    if rgb.shape[1] < 3 or len(out) > len(rgb) or out.shape[1:] != (1, h - 2 * cut, w - 2 * cut):
        raise ValueError(f"luminance {out.shape} does not match windows {rgb.shape} cropped by {cut}")
    _tiles.luma(rgb, cut, *LUMA_WEIGHTS, 0.0, out)


def fill(windows: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    """Extend colour under transparent pixels, so that a network sees no edge there.

    A pixel becomes the mix, by its alpha, of its own colour and the mean colour of its neighbourhood. The
    mean is weighted by alpha and by a triangular kernel. It is 0 where the whole neighbourhood is
    transparent.

    Parameters
    ----------
    windows : ndarray of float32, shape (N, C + 1, h, w)
        Colour, not premultiplied, and alpha as the last channel.
    radius : int
        LR pixels of the neighbourhood on each side; the result is smaller by as many.

    Returns
    -------
    ndarray of float32, shape (N, C, h - 2·radius, w - 2·radius)
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
    """Return the 2·radius + 1 weights of `fill` on one axis: a triangle with 1 in the middle."""
    steps = np.abs(np.arange(-radius, radius + 1, dtype=np.float32))
    return np.asarray(1 - steps / np.float32(radius + 1), np.float32)


def unpremultiply(
    color: NDArray[np.float32], alpha: NDArray[np.float32], detail: NDArray[np.float32], minimum: float
) -> None:
    """Divide colour by alpha and add `detail`, in place.

    Parameters
    ----------
    color : ndarray of float32, shape (N, C, H, W)
        Premultiplied; changed in place.
    alpha : ndarray of float32, shape (N, 1, H, W)
    detail : ndarray of float32, shape (N, C or 1, H, W)
    minimum : float
        Colour is 0 where alpha is less.
    """
    visible = alpha >= minimum
    # Not by clipped alpha: beside an edge alpha overshoots 1, and colour overshoots in the same proportion.
    np.divide(color, alpha, out=color, where=np.broadcast_to(visible, color.shape))
    color += detail
    color *= visible
