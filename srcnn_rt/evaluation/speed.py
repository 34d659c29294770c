"""Speed of upscaling methods, beside their scores, and which of them no other beats in both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE_HR = 1536  # side of the image that is timed, HR pixels
ROUNDS = 5

Timed = Callable[[NDArray[np.float32]], NDArray[Any]]


def measure(
    methods: Mapping[str, tuple[Timed, int]], scale: int, *, side: int = SIDE_HR, rounds: int = ROUNDS
) -> dict[str, float]:
    """Return the speed of methods in HR megapixels per second.

    Methods take turns, so that a machine that slows down does so for all. The median counts.

    Parameters
    ----------
    methods : mapping of str to (callable, int)
        Upscaling function and the number of channels that it is given, 1 or 3, by name.
    scale : int
        Scale factor.
    side : int
        Side of the image, in HR pixels.
    rounds : int
        Runs of each method that are timed, after one that is not.
    """
    rng = np.random.default_rng(0)
    lr = rng.random((side // scale, side // scale, 3), dtype=np.float32)
    images = {1: np.ascontiguousarray(lr[..., 0]), 3: lr}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name, (upscale, channels) in methods.items():
            start = time.perf_counter()
            out = upscale(images[channels])
            spent = time.perf_counter() - start
            if turn:
                seconds[name].append(spent / (out.shape[0] * out.shape[1] / 1e6))
    return {name: 1 / statistics.median(spent) for name, spent in seconds.items()}


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points that no other equals or exceeds in both coordinates, fastest first.

    Parameters
    ----------
    points : mapping of str to (float, float)
        Speed and quality; of equal points the first is on the front.
    """
    front: list[str] = []
    best = float("-inf")
    for name in sorted(points, key=lambda n: (-points[n][0], -points[n][1])):
        if points[name][1] > best:
            best = points[name][1]
            front.append(name)
    return front
