"""Luminance, and colour by luminance correction, which must equal conversion through YCbCr."""

from __future__ import annotations

import numpy as np
import pytest

from srcnn_rt.image import color
from tests.helpers import reference


def full_swing(rgb: np.ndarray) -> np.ndarray:
    """Return the luminance of (..., 3) samples in their own unit, from MATLAB's rgb2ycbcr."""
    return (reference.to_ycbcr(rgb)[..., 0] * 255 - 16) / 219


def test_luminance_is_matlabs(rng: np.random.Generator) -> None:
    rgb = rng.random((9, 7, 3))
    assert np.allclose(color.luminance(rgb), reference.to_ycbcr(rgb)[..., 0], atol=1e-12)
    assert color.luminance(np.zeros((1, 3)))[0] == pytest.approx(16 / 255)
    assert color.luminance(np.ones((1, 3)))[0] == pytest.approx(235 / 255)


def test_luma_windows_takes_the_inner_part(rng: np.random.Generator) -> None:
    rgba = rng.random((2, 4, 9, 11)).astype(np.float32)
    out = np.empty((len(rgba), 1, rgba.shape[2] - 2, rgba.shape[3] - 2), np.float32)
    color.luma_windows(rgba, 1, out)
    expected = full_swing(rgba[:, :3, 1:-1, 1:-1].transpose(0, 2, 3, 1).astype(np.float64))
    assert np.allclose(out[:, 0], expected, atol=1e-6)


def test_luminance_keeps_the_unit_of_colour(rng: np.random.Generator) -> None:
    """White and gray keep their values, in reflectances and in metres."""
    assert sum(color.LUMA_WEIGHTS) == pytest.approx(1, abs=1e-15)
    rgb = rng.random((1, 3, 5, 6)).astype(np.float32)
    out, scaled = (np.empty((1, 1, 5, 6), np.float32) for _ in range(2))
    color.luma_windows(rgb, 0, out)
    color.luma_windows(np.float32(1024) * rgb, 0, scaled)
    assert (scaled == 1024 * out).all()
    gray = np.repeat(rgb[:, :1], 3, axis=1)
    color.luma_windows(gray, 0, out)
    assert np.allclose(out[:, 0], gray[:, 0], rtol=2e-7)


def test_fill_keeps_what_is_visible_and_continues_it(rng: np.random.Generator) -> None:
    windows = rng.random((2, 4, 20, 23)).astype(np.float32)
    windows[:, -1] = 1
    assert np.allclose(color.fill(windows, 3), windows[:, :-1, 3:-3, 3:-3], atol=1e-6)
    windows[:, :-1] = np.array([0.9, 0.2, 0.4], np.float32)[:, None, None]
    windows[:, -1, :, 12:] = 0
    windows[:, 1, :, 12:] = 1  # a colour of transparent pixels
    filled = color.fill(windows, 5)
    for k, level in enumerate((0.9, 0.2, 0.4)):
        assert np.allclose(filled[:, k, :, :11], level, atol=1e-6)  # five pixels past the edge
        assert (filled[:, k, :, 12:] == 0).all()


def test_fill_is_a_weighted_mean(rng: np.random.Generator) -> None:
    windows = rng.random((1, 2, 11, 11)).astype(np.float32)
    c, a = windows[0].astype(np.float64)
    top = bottom = 0.0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            weight = (1 - abs(dy) / 3) * (1 - abs(dx) / 3) * a[5 + dy, 6 + dx]
            top, bottom = top + weight * c[5 + dy, 6 + dx], bottom + weight
    expected = a[5, 6] * c[5, 6] + (1 - a[5, 6]) * top / bottom
    assert color.fill(windows, 2)[0, 0, 3, 4] == pytest.approx(expected, abs=1e-6)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not match windows"):
        color.luma_windows(np.zeros((1, 3, 8, 8), np.float32), 1, np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(ValueError, match="does not match windows"):
        color.luma_windows(np.zeros((1, 2, 8, 8), np.float32), 0, np.zeros((1, 1, 8, 8), np.float32))
