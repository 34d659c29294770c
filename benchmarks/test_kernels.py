"""extract and stitch against a plain memory copy that moves the same bytes, in one run.

Bytes moved are bytes read and bytes written. uint8 → float32 reads one byte and writes
four a sample, so the copy it is held against copies two and a half. The two are timed
in turn, so that a noisy machine is noisy for both; the medians' ratio is asserted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from srcnn_rt import color, tiles
from srcnn_rt.geometry import Piece, Span, Tile, plan

SIDE = 1024  # of the picture: larger than the caches together with its windows
ROUNDS = 41
LEAST = 0.70


def copy_of(total: int) -> Callable[[], None]:
    """Return a copy that reads and writes `total` bytes in all."""
    a = np.ones(total // 2, np.uint8)
    b = np.ones_like(a)
    return lambda: np.copyto(b, a)


def ratio(work: Callable[[], None], copy: Callable[[], None]) -> tuple[float, float]:
    """Time both in turn; return copy time / work time and the median time of the work."""
    times: tuple[list[float], list[float]] = ([], [])
    work(), copy()
    for _ in range(ROUNDS):
        for function, record in ((work, times[0]), (copy, times[1])):
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return median(times[1]) / median(times[0]), median(times[0])


def picture_of(rng: np.random.Generator, dtype: type, channels: int, planar: bool) -> np.ndarray:
    shape = (channels, SIDE, SIDE) if planar else (SIDE, SIDE, channels)
    values = rng.random(shape, dtype=np.float32)
    picture = values if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)
    return picture.transpose(1, 2, 0) if planar else picture


LAYOUTS = pytest.mark.parametrize(("channels", "planar"), [(1, True), (3, True), (3, False), (4, False)])
DTYPES = pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])


@LAYOUTS
@DTYPES
def test_extract(benchmark, rng, dtype: type, channels: int, planar: bool) -> None:
    picture = picture_of(rng, dtype, channels, planar)
    p = plan((SIDE, SIDE), 256, margin=5, max_chunk=SIDE)
    chunk = next(iter(p))
    out = np.empty((len(chunk.tiles), channels, *p.window), np.float32)

    def work() -> None:
        tiles.extract(picture, chunk.tiles, 5, out)

    work()
    expected = picture[:256, :256].transpose(2, 0, 1).astype(np.float32) / tiles.white(picture.dtype)
    assert np.allclose(out[0, :, 5:-5, 5:-5], expected, atol=1e-7)
    moved = out.size * (4 + picture.itemsize)
    share, seconds = ratio(work, copy_of(moved))
    benchmark.extra_info.update({"of memcpy": round(share, 2), "GB/s": round(moved / seconds / 1e9, 1)})
    benchmark.pedantic(work, rounds=5)
    assert share >= LEAST


@LAYOUTS
@DTYPES
def test_stitch(benchmark, rng, dtype: type, channels: int, planar: bool) -> None:
    side, count = 512, SIDE // 512
    windows = rng.random((count * count, channels, side, side), dtype=np.float32)
    batch = [
        Tile(Piece(y, Span(y, y + side)), Piece(x, Span(x, x + side)))
        for y in range(0, SIDE, side)
        for x in range(0, SIDE, side)
    ]
    out = np.zeros_like(picture_of(rng, dtype, channels, planar))

    def work() -> None:
        tiles.stitch(windows, batch, 1, out)

    work()
    top = tiles.white(out.dtype)
    expected = windows[0] if dtype is np.float32 else np.rint(windows[0] * np.float32(top)).astype(dtype)
    assert (out[:side, :side] == expected.transpose(1, 2, 0)).all()
    moved = windows.size * (4 + out.itemsize)
    share, seconds = ratio(work, copy_of(moved))
    benchmark.extra_info.update({"of memcpy": round(share, 2), "GB/s": round(moved / seconds / 1e9, 1)})
    benchmark.pedantic(work, rounds=5)
    assert share >= LEAST


def test_recolor(benchmark, rng) -> None:
    rgb = rng.random((1, 3, SIDE, SIDE), dtype=np.float32)
    y = color.luminance(rgb.transpose(0, 2, 3, 1))[:, None].copy()
    before = rgb.copy()

    def work() -> None:
        color.recolor(rgb, 0, y)

    work()
    assert np.allclose(rgb, before, atol=1e-5)
    moved = rgb.nbytes * 2 + y.nbytes
    share, seconds = ratio(work, copy_of(moved))
    benchmark.extra_info.update({"of memcpy": round(share, 2), "GB/s": round(moved / seconds / 1e9, 1)})
    benchmark.pedantic(work, rounds=5)
    assert share >= LEAST
