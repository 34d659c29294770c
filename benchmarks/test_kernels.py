"""Compare extract and stitch with plain memory copies that move the same bytes.

They run as in the engine: one window at a time, over a whole image, from or to one reused float buffer.
Bytes moved are bytes read and written. uint8 → float32 reads one byte and writes four bytes per sample, so
the copy has two and a half bytes per sample.

The copy is NumPy's (memcpy, row by row) from a rectangle of an image to a reused window, or back, with the
same rows and bytes. The benchmark also reports the share of a contiguous memcpy, which no tiler can reach
because a window is a rectangle, and that of the loops alone: a call costs 5 µs of checks in Python, a
quarter of the time of the smallest windows here. All are timed in turns, so that other load affects all of
them. The ratio of the medians to the copy of a rectangle is asserted.

`enlarge` and `stitch_sum` are compared with what they replace: bicubic by ONNX Runtime on all CPU cores (and
on one, as the kernels run), then a sum and `stitch`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest

from srcnn_rt import _tiles
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.image import bicubic
from srcnn_rt.tiling import kernels
from srcnn_rt.tiling.geometry import Piece, Span, Tile, plan

SIDE = 2048  # of the image
TILE = 512
ROUNDS = 31
MIN_SIDE = 0.70
MIN_ROUTE = 2.0  # speed relative to the route through ONNX Runtime on all cores


def copies(rows: int, row_bytes: int, steps: int, *, gather: bool, contiguous: bool) -> Callable[[], None]:
    """Return a loop of `steps` copies of rows x row_bytes bytes, out of an image or into it."""
    side = round(steps**0.5)
    window = np.ones((rows, row_bytes), np.uint8)
    if contiguous:
        parts = list(np.ones((steps, rows, row_bytes), np.uint8))
    else:
        image = np.ones((rows * side, row_bytes * side), np.uint8)
        parts = [
            image[y * rows : (y + 1) * rows, x * row_bytes : (x + 1) * row_bytes]
            for y in range(side)
            for x in range(side)
        ]

    def run() -> None:
        for part in parts:
            if gather:
                np.copyto(window, part)
            else:
                np.copyto(part, window)

    return run


def medians(*functions: Callable[[], None]) -> list[float]:
    """Time the functions in turn and return the median of each."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, record in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return [median(t) for t in times]


def report(
    benchmark,
    work: Callable[[], None],
    shape: tuple[int, int],
    steps: int,
    gather: bool,
    loops: Callable[[], None] | None = None,
) -> None:
    """Hold `work` against copies of `steps` blocks of `shape` (rows, bytes a row)."""
    plain = copies(*shape, steps, gather=gather, contiguous=False)
    straight = copies(*shape, steps, gather=gather, contiguous=True)
    # In turns, because consecutive runs of the same arrays would find warm caches.
    own, copy, bare, contiguous = medians(work, plain, loops or (lambda: None), straight)
    benchmark.extra_info.update(
        {
            "of copy": round(copy / own, 2),
            "of contiguous memcpy": round(contiguous / own, 2),
            "GB/s": round(2 * shape[0] * shape[1] * steps / own / 1e9, 1),
        }
    )
    if loops:
        benchmark.extra_info["loops of contiguous memcpy"] = round(contiguous / bare, 2)
    benchmark.pedantic(work, rounds=5)
    assert copy / own >= MIN_SIDE


def image_of(rng: np.random.Generator, dtype: type, channels: int, planar: bool) -> np.ndarray:
    shape = (channels, SIDE, SIDE) if planar else (SIDE, SIDE, channels)
    values = rng.random(shape, dtype=np.float32)
    image = values if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)
    return image.transpose(1, 2, 0) if planar else image


LAYOUTS = pytest.mark.parametrize(("channels", "planar"), [(1, True), (3, True), (3, False), (4, False)])
DTYPES = pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])


@LAYOUTS
@DTYPES
def test_extract(benchmark, rng, dtype: type, channels: int, planar: bool) -> None:
    image = image_of(rng, dtype, channels, planar)
    p = plan((SIDE, SIDE), TILE, margin=5, max_chunk=SIDE)
    every = [t for chunk in p for t in chunk.tiles]
    out = np.empty((1, channels, *p.window), np.float32)

    def work() -> None:
        for tile in every:
            kernels.extract(image, [tile], 5, out)

    work()
    last = image[-TILE:, -TILE:].transpose(2, 0, 1).astype(np.float32) / kernels.white(image.dtype)
    assert np.allclose(out[0, :, 5:-5, 5:-5], last, atol=1e-7)
    gain = 1 / kernels.white(image.dtype)
    corners = [np.array([[t.y.origin - 5, t.x.origin - 5]], np.intp) for t in every]

    def loops() -> None:
        for corner in corners:
            _tiles.extract(image, SIDE, SIDE, 0, 0, corner, gain, out)

    shape = (channels * p.window[0], p.window[1] * (4 + image.itemsize) // 2)
    report(benchmark, work, shape, len(every), True, loops)


@LAYOUTS
@DTYPES
def test_stitch(benchmark, rng, dtype: type, channels: int, planar: bool) -> None:
    windows = rng.random((1, channels, TILE, TILE), dtype=np.float32)
    steps = range(0, SIDE, TILE)
    every = [Tile(Piece(y, Span(y, y + TILE)), Piece(x, Span(x, x + TILE))) for y in steps for x in steps]
    out = np.zeros_like(image_of(rng, dtype, channels, planar))

    def work() -> None:
        for tile in every:
            kernels.stitch(windows, [tile], 1, out)

    work()
    top = kernels.white(out.dtype)
    expected = windows[0] if dtype is np.float32 else np.rint(windows[0] * np.float32(top)).astype(dtype)
    assert (out[-TILE:, -TILE:] == expected.transpose(1, 2, 0)).all()
    cores = [np.array([[0, 0, t.y.origin, t.x.origin, TILE, TILE]], np.intp) for t in every]

    def loops() -> None:
        for core in cores:
            _tiles.stitch(windows, core, top, out)

    report(benchmark, work, (channels * TILE, TILE * (4 + out.itemsize) // 2), len(every), False, loops)


def report_route(
    benchmark, work: Callable[[], None], routes: tuple[Callable[[], None], Callable[[], None]], size: float
) -> None:
    """Compare `work` with the same by ONNX Runtime on all cores and on one; `size` is in Mpx."""
    own, every, one = medians(work, *routes)
    benchmark.extra_info.update(
        {
            "Mpx/s": round(size / own),
            "times ONNX Runtime": round(every / own, 1),
            "times ONNX Runtime on one thread": round(one / own, 1),
        }
    )
    benchmark.pedantic(work, rounds=5)
    assert every / own >= MIN_ROUTE


def sessions(scale: int) -> tuple[Session, Session]:
    """Return sessions for bicubic on all cores and on one."""
    model = bicubic.model(scale).SerializeToString()
    return Session(model), Session(model, 1)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_enlarge(benchmark, rng, scale: int) -> None:
    side = TILE // scale
    windows = rng.random((3, 1, side + 4, side + 4), dtype=np.float32)
    every, one = sessions(scale)
    out = kernels.enlarge(windows, scale)
    assert np.allclose(out, every.run(windows), atol=5e-7)
    routes = (lambda: every.run(windows), lambda: one.run(windows))
    report_route(
        benchmark, lambda: kernels.enlarge(windows, scale, out), routes, 3 * (side * scale) ** 2 / 1e6
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_stitch_sum(benchmark, rng, scale: int, dtype: type) -> None:
    side = TILE // scale
    hr = side * scale
    windows = rng.random((1, 3, side + 4, side + 4), dtype=np.float32)
    y = rng.random((1, 1, hr, hr), dtype=np.float32)
    steps = range(0, 4 * side, side)
    places = [Tile(Piece(i, Span(i, i + side)), Piece(j, Span(j, j + side))) for i in steps for j in steps]
    out = np.zeros((4 * hr, 4 * hr, 3), dtype)

    def work() -> None:
        for tile in places:
            kernels.stitch_sum(windows, y, [tile], scale, out, margin=2)

    def by(session: Session) -> Callable[[], None]:
        def route() -> None:
            for tile in places:
                rgb = session.run(windows.reshape(3, 1, side + 4, side + 4)).reshape(1, 3, hr, hr)
                rgb += y
                kernels.stitch(rgb, [tile], scale, out)

        return route

    routes = [by(session) for session in sessions(scale)]
    routes[0]()
    expected = out.copy()
    work()
    assert abs(out.astype(np.float32) - expected).max() <= (1e-6 if dtype is np.float32 else 1)
    report_route(benchmark, work, (routes[0], routes[1]), out[..., 0].size / 1e6)
