"""Latency and throughput of Engine on arrays and files, HR Mpx/s in ``extra_info``."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from srcnn_rt import Engine


def photo_like(rng: np.random.Generator, h: int, w: int, channels: int) -> np.ndarray:
    """Smooth noise at several sizes, uint8."""
    out = np.zeros((h, w, channels))
    for step in (64, 16, 4, 1):
        coarse = rng.random((h // step + 1, w // step + 1, channels))
        out += step * np.repeat(np.repeat(coarse, step, 0), step, 1)[:h, :w]
    return (out / out.max() * 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3], ids=["gray", "rgb"])
@pytest.mark.parametrize("side", [64, 256, 1024])
@pytest.mark.parametrize("scale", [2, 3])
def test_latency_by_size(benchmark, megapixels, rng, side: int, channels: int, scale: int) -> None:
    picture = photo_like(rng, side, side, channels)
    with Engine(f"srcnn-915-x{scale}", "cpu", "auto") as engine, Engine(engine.spec.name, "cpu", 48) as small:
        difference = np.abs(engine.upscale(picture).astype(int) - small.upscale(picture))
        assert difference.max() <= 1
        benchmark.pedantic(engine.upscale, (picture,), rounds=7, warmup_rounds=1)
    megapixels(side * side * scale * scale / 1e6)


@pytest.mark.parametrize("arch", ["915", "955"])
def test_the_default_and_the_best_model(benchmark, megapixels, rng, arch: str) -> None:
    picture = photo_like(rng, 1024, 1024, 1)
    with Engine(f"srcnn-{arch}-x2", "cpu", "auto") as engine:
        corner = engine.upscale(picture[:200, :200])
        assert np.abs(engine.upscale(picture)[:300, :300].astype(int) - corner[:300, :300]).max() <= 1
        benchmark.pedantic(engine.upscale, (picture,), rounds=5, warmup_rounds=1)
    megapixels(4 * 1024 * 1024 / 1e6)


@pytest.mark.parametrize("tile", [32, 64, 128, 256, 512])
def test_throughput_by_tile(benchmark, megapixels, rng, tile: int) -> None:
    picture = photo_like(rng, 1024, 1024, 1)
    with Engine("srcnn-915-x2", "cpu", tile) as engine, Engine("srcnn-915-x2", "cpu", "auto") as other:
        difference = np.abs(engine.upscale(picture).astype(int) - other.upscale(picture))
        assert difference.max() <= 1
        benchmark.pedantic(engine.upscale, (picture,), rounds=7, warmup_rounds=1)
    megapixels(4 * 1024 * 1024 / 1e6)


@pytest.mark.parametrize("channels", [1, 3], ids=["gray", "rgb"])
def test_tiff_to_tiff(benchmark, megapixels, rng, tmp_path, channels: int) -> None:
    picture = photo_like(rng, 2048, 2048, channels)
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(
        source, picture.squeeze(), tile=(256, 256), photometric="rgb" if channels == 3 else "minisblack"
    )
    with Engine("srcnn-915-x2", "cpu", "auto") as engine:
        engine.upscale_file(source, target)
        got = tifffile.imread(target).reshape(4096, 4096, channels)
        assert (got[:512, :512] == engine.upscale(picture[:300, :300])[:512, :512]).mean() > 0.9999
        benchmark.pedantic(
            engine.upscale_file, (source, target), {"overwrite": True}, rounds=5, warmup_rounds=1
        )
    megapixels(4 * 2048 * 2048 / 1e6)
