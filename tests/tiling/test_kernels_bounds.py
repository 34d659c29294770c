"""The kernels access no memory outside their arrays.

A comparison of results cannot show reads past the end of an array. Every array here is therefore allocated
separately at its exact size, and `make sanitize` runs these tests with a build that reports out-of-bounds
accesses.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from srcnn_rt.image import color
from srcnn_rt.tiling import kernels
from srcnn_rt.tiling.geometry import Plan, plan
from tests.helpers.reference import mirrored

DTYPES = [np.uint8, np.uint16, np.float32]
LAYOUTS = ["interleaved", "planar", "bgr", "upside down", "turned"]


def laid_out(image: np.ndarray, layout: str) -> np.ndarray:
    """Return a copy of (h, w, C) samples in another memory layout."""
    match layout:
        case "planar":
            return np.array(image.transpose(2, 0, 1), order="C").transpose(1, 2, 0)
        case "bgr":
            return np.array(image[..., ::-1], order="C")[..., ::-1]
        case "upside down":
            return np.array(image[::-1, ::-1], order="C")[::-1, ::-1]
        case "turned":
            return np.array(image.swapaxes(0, 1), order="C").swapaxes(0, 1)
        case _:
            return np.array(image, order="C")


def samples(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if dtype is np.float32:
        return rng.random(shape, np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def index(start: int, size: int, length: int) -> list[int]:
    return [mirrored(i, length) for i in range(start, start + size)]


plans = st.builds(
    lambda shape, tile, margin, block, chunk: plan(shape, tile, margin=margin, block=block, max_chunk=chunk),
    st.tuples(st.integers(1, 50), st.integers(1, 70)),
    st.integers(8, 40),
    st.integers(0, 20),
    st.tuples(st.sampled_from([1, 16, 32]), st.sampled_from([1, 16, 32])),
    st.integers(1, 80),
)
# Colour needs two LR pixels around a tile for bicubic.
color_plans = plans.filter(lambda p: p.margin >= 2)


@settings(deadline=None, max_examples=150)
@given(p=plans, channels=st.integers(1, 5), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS))
def test_extract_reads_the_part_that_a_chunk_reaches(
    p: Plan, channels: int, dtype: type, layout: str
) -> None:
    image = samples(np.random.default_rng(0), (*p.shape, channels), dtype)
    gain = np.float32(1 / kernels.white(image.dtype))
    for chunk in p:
        y, x = chunk.source_spans(p.tile, p.margin, p.shape)
        part = laid_out(image[y.start : y.stop, x.start : x.stop], layout)
        out = np.full((len(chunk.tiles), channels, *p.window), np.nan, np.float32)
        kernels.extract(part, chunk.tiles, p.margin, out, shape=p.shape, origin=(y.start, x.start))
        for got, t in zip(out, chunk.tiles, strict=True):
            rows = index(t.y.origin - p.margin, p.window[0], p.shape[0])
            cols = index(t.x.origin - p.margin, p.window[1], p.shape[1])
            assert (got == image[np.ix_(rows, cols)].transpose(2, 0, 1).astype(np.float32) * gain).all()


@settings(deadline=None, max_examples=150)
@given(
    p=plans,
    channels=st.integers(1, 5),
    scale=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
)
def test_stitch_fills_a_chunk(p: Plan, channels: int, scale: int, dtype: type, layout: str) -> None:
    for chunk in p:
        out = laid_out(np.zeros((chunk.y.size * scale, chunk.x.size * scale, channels), dtype), layout)
        windows = np.ones((len(chunk.tiles), channels, *(n * scale for n in p.tile)), np.float32)
        kernels.stitch(windows, chunk.tiles, scale, out, origin=(chunk.y.start, chunk.x.start))
        assert (out == kernels.white(out.dtype)).all()


@settings(deadline=None, max_examples=80)
@given(
    p=color_plans,
    channels=st.integers(1, 5),
    scale=st.sampled_from([1, 2, 3, 4, 5, 8]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    own=st.booleans(),
)
def test_stitch_sum_fills_a_chunk(
    p: Plan, channels: int, scale: int, dtype: type, layout: str, own: bool
) -> None:
    for chunk in p:
        out = laid_out(np.zeros((chunk.y.size * scale, chunk.x.size * scale, channels), dtype), layout)
        windows = np.full((len(chunk.tiles), channels, *p.window), 0.5, np.float32)
        count = channels if own else 1
        detail = np.full((len(chunk.tiles), count, *(n * scale for n in p.tile)), 0.5, np.float32)
        origin = (chunk.y.start, chunk.x.start)
        kernels.stitch_sum(windows, detail, chunk.tiles, scale, out, margin=p.margin, origin=origin)
        assert np.abs(out - kernels.white(out.dtype)).max() <= 1e-4 * kernels.white(out.dtype)


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(5, 30), st.integers(5, 30)),
    scale=st.integers(1, 16),
)
def test_enlarge_fills_its_output(shape: tuple[int, int, int, int], scale: int) -> None:
    n, c, h, w = shape
    out = np.full((n, c, (h - 4) * scale, (w - 4) * scale), np.nan, np.float32)
    kernels.enlarge(np.ones(shape, np.float32), scale, out)
    assert np.abs(out - 1).max() < 1e-5


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(3, 4), st.integers(1, 20), st.integers(1, 40)),
    cut=st.integers(0, 4),
)
def test_luminance_of_windows(size: tuple[int, int, int, int], cut: int) -> None:
    n, _, h, w = size
    rgb = np.random.default_rng(0).random((n, 3, h + 2 * cut, w + 2 * cut), np.float32)
    y = np.full((n, 1, h, w), np.nan, np.float32)
    color.luma_windows(rgb, cut, y)
    assert np.isfinite(y).all()
