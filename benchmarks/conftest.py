"""Speed is only worth something if the picture is right: every benchmark checks it first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def megapixels(benchmark) -> Callable[[float], None]:
    """Return a recorder of Mpx/s: call it after the benchmark with the HR megapixels of one round."""

    def record(size: float) -> None:
        benchmark.extra_info["Mpx/s"] = round(size / benchmark.stats.stats.median, 2)

    return record


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
