"""A synthetic image for benchmarks that do not need photographs."""

from __future__ import annotations

import numpy as np


def photo_like(rng: np.random.Generator, h: int, w: int, channels: int) -> np.ndarray:
    """Return (h, w, channels) smooth noise at several scales, uint8."""
    out = np.zeros((h, w, channels))
    for step in (64, 16, 4, 1):
        coarse = rng.random((h // step + 1, w // step + 1, channels))
        out += step * np.repeat(np.repeat(coarse, step, 0), step, 1)[:h, :w]
    return (out / out.max() * 255).astype(np.uint8)
