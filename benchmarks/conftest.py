"""Fixtures of the benchmarks. Every benchmark checks its image before it is timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# The benchmarks also use the synthetic images and models of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture
def megapixels(benchmark) -> Callable[[float], None]:
    """Return a function that records Mpx/s, and p50 and p95 in milliseconds.

    Call it after the benchmark with the HR megapixels of one round.
    """

    def record(size: float) -> None:
        stats = benchmark.stats.stats
        p50, p95 = np.percentile(stats.data, (50, 95)) * 1e3
        benchmark.extra_info["Mpx/s"] = round(size / stats.median, 2)
        benchmark.extra_info["p50, ms"], benchmark.extra_info["p95, ms"] = round(p50, 3), round(p95, 3)

    return record


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
