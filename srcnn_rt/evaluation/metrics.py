"""PSNR, SSIM and MS-SSIM as super-resolution papers report them.

SSIM follows Wang et al. (2004, ``ssim.m``): 11 x 11 Gaussian windows of σ 1.5 that lie inside the
image, K1 = 0.01, K2 = 0.03. MS-SSIM follows Wang et al. (2003, ``msssim.m``): five scales, each
downsampled from the one before by a 2 x 2 mean.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

PEAK = 255.0
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # one per scale, finest first
MIN_SSIM_SIDE = _WINDOW
MIN_MS_SSIM_SIDE = _WINDOW * 2 ** (len(_EXPONENTS) - 1)

Codes = NDArray[np.float64]  # (H, W) or (H, W, C), code values 0 to 255


def codes(image: NDArray[np.floating]) -> Codes:
    """Return an image in [0, 1] clipped and rounded to 8-bit code values, as float64."""
    return np.rint(np.clip(image.astype(np.float64), 0, 1) * PEAK)


def psnr(a: Codes, b: Codes) -> float:
    """Return the peak signal-to-noise ratio in dB over all samples; infinite for equal images."""
    _check(a, b, 1)
    mse = float(np.mean((a - b) ** 2))
    return 10 * math.log10(PEAK**2 / mse) if mse else math.inf


def ssim(a: Codes, b: Codes) -> float:
    """Return the structural similarity, averaged over pixels and channels."""
    _check(a, b, MIN_SSIM_SIDE)
    return float(np.mean([_ssim_parts(x, y)[0] for x, y in _planes(a, b)]))


def ms_ssim(a: Codes, b: Codes) -> float | None:
    """Return the multi-scale structural similarity; None if a side has fewer than 176 pixels."""
    _check(a, b, 1)
    if min(a.shape[:2]) < MIN_MS_SSIM_SIDE:
        return None
    return float(np.mean([_ms_ssim_plane(x, y) for x, y in _planes(a, b)]))


def _ms_ssim_plane(a: Codes, b: Codes) -> float:
    value = 1.0
    for exponent in _EXPONENTS[:-1]:
        # A negative mean has no real power; 0 is the lowest similarity.
        value *= max(_ssim_parts(a, b)[1], 0.0) ** exponent
        # imfilter's 2 x 2 window extends down and right from its sample.
        half = [cv2.blur(x, (2, 2), anchor=(0, 0), borderType=cv2.BORDER_REFLECT) for x in (a, b)]
        a, b = (np.asarray(x[::2, ::2], dtype=np.float64) for x in half)
    return float(value * max(_ssim_parts(a, b)[0], 0.0) ** _EXPONENTS[-1])


def _ssim_parts(a: Codes, b: Codes) -> tuple[float, float]:
    """Return the mean SSIM of one plane, and the mean of its contrast-structure part."""
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    var_a, var_b = _local_mean(a * a) - mean_a**2, _local_mean(b * b) - mean_b**2
    cov = _local_mean(a * b) - mean_a * mean_b
    structure = (2 * cov + _C2) / (var_a + var_b + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return float(np.mean(luminance * structure)), float(np.mean(structure))


def _local_mean(image: Codes) -> Codes:
    """Return the Gaussian-weighted mean of every window that lies inside the image."""
    taps = np.exp(-((np.arange(_WINDOW) - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    cut = _WINDOW // 2
    filtered = cv2.sepFilter2D(image, cv2.CV_64F, taps, taps)
    return np.asarray(filtered[cut : image.shape[0] - cut, cut : image.shape[1] - cut], dtype=np.float64)


def _planes(a: Codes, b: Codes) -> list[tuple[Codes, Codes]]:
    channels = (np.ascontiguousarray(np.moveaxis(np.atleast_3d(image), 2, 0)) for image in (a, b))
    return list(zip(*channels, strict=True))


def _check(a: Codes, b: Codes, minimum: int) -> None:
    if a.shape != b.shape or a.ndim not in (2, 3) or min(a.shape[:2]) < minimum:
        raise ValueError(
            f"images must be of one shape, at least {minimum} pixels a side, got {a.shape} and {b.shape}"
        )
