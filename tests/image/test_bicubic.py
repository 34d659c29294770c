"""Bicubic interpolation inside the models equals MATLAB's imresize."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcnn_rt import Engine
from srcnn_rt.image import bicubic
from tests.helpers import reference


@pytest.mark.parametrize("scale", range(1, 9))
def test_taps_are_keys_kernel_at_the_phases(scale: int) -> None:
    t = bicubic.taps(scale)
    for p in range(scale):
        x = (p + 0.5) / scale - 0.5
        assert np.allclose(t[p], [reference.keys_cubic(x - k) for k in range(-2, 3)], atol=1e-15)
    assert np.allclose(t.sum(axis=1), 1, atol=1e-15)
    assert np.array_equal(t, t[::-1, ::-1])


def test_scale_two_by_hand() -> None:
    # Keys at ±1/4, ±3/4, 5/4, 7/4 in 1/128: 111, 29, -9, -3.
    assert (bicubic.taps(2) * 128 == [[-3, 29, 111, -9, 0], [0, -9, 111, 29, -3]]).all()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    scale=st.integers(2, 8),
    tile=st.integers(8, 20),
)
def test_engine_bicubic_is_the_oracles(shape: tuple[int, int], scale: int, tile: int) -> None:
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    with Engine(f"bicubic-x{scale}", provider="cpu", tile=tile) as e:
        assert e.margin == 2
        assert np.abs(e.upscale(image) - reference.bicubic(image, scale)).max() < 2e-6


def test_colour_by_bicubic_is_bicubic_of_each_colour() -> None:
    """A network that is bicubic changes no colour: its luminance correction is 0."""
    rgb = np.random.default_rng(0).random((20, 25, 3)).astype(np.float32)
    with Engine("bicubic-x3", provider="cpu", tile=8) as e:
        expected = np.stack([reference.bicubic(rgb[..., k], 3) for k in range(3)], axis=-1)
        assert np.abs(e.upscale(rgb) - expected).max() < 5e-6


def test_a_ramp_stays_a_ramp() -> None:
    """Interpolation is exact for straight lines away from the edge, and half-pixel centred."""
    ramp = np.tile(np.arange(20, dtype=np.float32), (20, 1))
    with Engine("bicubic-x4", provider="cpu") as e:
        out = e.upscale(ramp)
    expected = (np.arange(80) + 0.5) / 4 - 0.5
    assert np.allclose(out[40, 12:-12], expected[12:-12], atol=1e-5)
