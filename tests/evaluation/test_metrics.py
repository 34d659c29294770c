"""PSNR, SSIM and MS-SSIM against other implementations and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from srcnn_rt.evaluation import metrics
from tests.conftest import drawing


def pair(h: int, w: int, channels: int = 1, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    a = drawing(h, w, channels)
    b = np.clip(a + np.random.default_rng(1).normal(0, noise, a.shape), 0, 1)
    a, b = metrics.codes(a), metrics.codes(b)
    return (a[..., 0], b[..., 0]) if channels == 1 else (a, b)


def direct(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """SSIM and its contrast-structure part by the formulas, a window at a time."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    full, part = [], []
    for x, y in zip(
        sliding_window_view(a, (11, 11)).reshape(-1, 11, 11),
        sliding_window_view(b, (11, 11)).reshape(-1, 11, 11),
        strict=True,
    ):
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        cs = (2 * cov + c2) / (vx + vy + c2)
        part.append(cs)
        full.append(cs * (2 * mx * my + c1) / (mx**2 + my**2 + c1))
    return float(np.mean(full)), float(np.mean(part))


def test_psnr_by_hand() -> None:
    a = np.zeros((4, 5))
    assert metrics.psnr(a, a) == math.inf
    assert metrics.psnr(a, a + 255) == pytest.approx(0)
    assert metrics.psnr(a, a + 1) == pytest.approx(20 * math.log10(255))
    assert metrics.psnr(*pair(20, 20, 3)) == pytest.approx(
        10 * math.log10(255**2 / np.mean((pair(20, 20, 3)[0] - pair(20, 20, 3)[1]) ** 2))
    )


def test_codes_round_and_clip() -> None:
    assert metrics.codes(np.array([[-0.2, 0.5, 0.999, 1.7]])).tolist() == [[0, 128, 255, 255]]


def test_ssim_is_its_definition() -> None:
    a, b = pair(23, 19)
    assert metrics.ssim(a, b) == pytest.approx(direct(a, b)[0], abs=1e-10)
    assert metrics.ssim(a, a) == pytest.approx(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_scikit_images(channels: int) -> None:
    measure = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    a, b = pair(50, 60, channels)
    theirs = measure.structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2 if channels == 3 else None,
    )
    assert metrics.ssim(a, b) == pytest.approx(theirs, abs=1e-9)


def test_ms_ssim_is_its_definition() -> None:
    """Five scales by the formulas; a 2 x 2 mean and every second sample, the edge repeating."""
    a, b = pair(179, 176)
    expected = metrics.ms_ssim(a, b)
    value = 1.0
    for k, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        full, part = direct(a, b)
        value *= (full if k == 4 else part) ** exponent
        halves = []
        for x in (a, b):
            p = np.pad(x, ((0, 1), (0, 1)), mode="edge")
            halves.append(((p[:-1, :-1] + p[1:, :-1] + p[:-1, 1:] + p[1:, 1:]) / 4)[::2, ::2])
        a, b = halves
    assert expected == pytest.approx(value, abs=1e-9)


def test_small_images_have_no_ms_ssim_and_wrong_ones_no_measure() -> None:
    a, b = pair(175, 400)
    assert metrics.ms_ssim(a, b) is None
    with pytest.raises(ValueError, match="of one shape, at least 11 pixels"):
        metrics.ssim(a[:10], b[:10])
    with pytest.raises(ValueError, match="of one shape"):
        metrics.psnr(a, b[:-1])
