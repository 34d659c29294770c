"""Latency and throughput of Engine on arrays and files: HR Mpx/s, p50 and p95 in ``extra_info``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from _drawing import photo_like

from srcnn_rt import Engine
from srcnn_rt.errors import ProviderError

SECONDS = 2.0  # approximate time of all rounds
MIN_ROUNDS, MAX_ROUNDS = 9, 200
REDUCED_RMS = 1.5  # code values that precision "fast" may differ by

CHANNELS = pytest.mark.parametrize("channels", [1, 3], ids=["gray", "rgb"])
SIDES = pytest.mark.parametrize("side", [64, 256, 1024])


def fast_engine(model: str, tile: Any) -> Engine:
    """Return an engine of precision "fast", or skip the benchmark with the reason."""
    try:
        return Engine(model, tile=tile, precision="fast")
    except ProviderError as error:
        pytest.skip(str(error))


def run(benchmark, work: Callable[[], object]) -> None:
    """Time `work`, which is warmed up; faster work gets more rounds."""
    start = time.perf_counter()
    work()
    rounds = int(SECONDS / (time.perf_counter() - start))
    benchmark.pedantic(work, rounds=min(MAX_ROUNDS, max(MIN_ROUNDS, rounds)))


def assert_same(engine: Engine, other: Engine, image: np.ndarray) -> None:
    """Compare an image with that of an engine with other tiles."""
    assert np.abs(engine.upscale(image).astype(int) - other.upscale(image)).max() <= 1


def assert_close(fast: Engine, image: np.ndarray) -> None:
    """Compare an image in reduced precision with the exact one."""
    with Engine(fast.spec.name, provider="cpu", tile="auto") as exact:
        delta = fast.upscale(image).astype(float) - exact.upscale(image)
    assert np.sqrt(np.mean(delta**2)) <= REDUCED_RMS


@CHANNELS
@SIDES
@pytest.mark.parametrize("model", ["srcnn-915-x2", "srcnn-915-x3", "srcnn-915-x4", "srcnn-955-x2"])
def test_latency_by_size(benchmark, megapixels, rng, model: str, side: int, channels: int) -> None:
    image = photo_like(rng, side, side, channels)
    with (
        Engine(model, provider="cpu", tile="auto") as engine,
        Engine(model, provider="cpu", tile=48) as small,
    ):
        assert_same(engine, small, image)
        run(benchmark, lambda: engine.upscale(image))
        megapixels((side * engine.scale) ** 2 / 1e6)


@CHANNELS
@SIDES
@pytest.mark.parametrize("model", ["srcnn-915-x2", "srcnn-955-x2"])
def test_latency_by_size_fast(benchmark, megapixels, rng, model: str, side: int, channels: int) -> None:
    image = photo_like(rng, side, side, channels)
    with fast_engine(model, "auto") as engine:
        assert_close(engine, image)
        run(benchmark, lambda: engine.upscale(image))
        megapixels((side * engine.scale) ** 2 / 1e6)


@pytest.mark.parametrize("tile", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("model", ["srcnn-915-x2", "srcnn-955-x2"])
def test_throughput_by_tile(benchmark, megapixels, rng, model: str, tile: int) -> None:
    image = photo_like(rng, 1024, 1024, 1)
    with (
        Engine(model, provider="cpu", tile=tile) as engine,
        Engine(model, provider="cpu", tile="auto") as other,
    ):
        assert_same(engine, other, image)
        run(benchmark, lambda: engine.upscale(image))
    megapixels(4 * 1024 * 1024 / 1e6)


@pytest.mark.parametrize("tile", [32, 64, 128, 256, 512])
def test_throughput_by_tile_fast(benchmark, megapixels, rng, tile: int) -> None:
    image = photo_like(rng, 1024, 1024, 1)
    with fast_engine("srcnn-915-x2", tile) as engine:
        assert_close(engine, image)
        run(benchmark, lambda: engine.upscale(image))
    megapixels(4 * 1024 * 1024 / 1e6)


@CHANNELS
@pytest.mark.parametrize("compress", ["deflate", "zstd"])
def test_tiff_to_tiff(benchmark, megapixels, rng, tmp_path, compress: str, channels: int) -> None:
    image = photo_like(rng, 2048, 2048, channels)
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(
        source, image.squeeze(), tile=(256, 256), photometric="rgb" if channels == 3 else "minisblack"
    )
    with Engine("srcnn-915-x2", provider="cpu", tile="auto") as engine:

        def work() -> None:
            engine.upscale_file(source, target, overwrite=True, compress=compress)

        work()
        got = tifffile.imread(target).reshape(4096, 4096, channels)
        assert (got[:512, :512] == engine.upscale(image[:300, :300])[:512, :512]).mean() > 0.9999
        run(benchmark, work)
    megapixels(4 * 2048 * 2048 / 1e6)
