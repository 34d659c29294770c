"""extract and stitch against NumPy, for every type, layout and stride."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from srcnn_rt import ArgumentError, tiles
from srcnn_rt.geometry import Piece, Span, Tile, plan
from tests.reference import mirrored

DTYPES = [np.uint8, np.uint16, np.float32]


def random_picture(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if dtype is np.float32:
        return rng.normal(0.5, 1, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def views(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The same (H, W, C) picture in other memory layouts."""
    h, w, c = picture.shape
    planar = np.ascontiguousarray(picture.transpose(2, 0, 1)).transpose(1, 2, 0)
    wide = np.zeros((2 * h, 3 * w, c + 2), picture.dtype)
    wide[::2, ::3, 1:-1] = picture
    bgr = np.ascontiguousarray(picture[..., ::-1])[..., ::-1]
    reversed_ = np.ascontiguousarray(picture[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    turned = np.ascontiguousarray(picture.swapaxes(0, 1)).swapaxes(0, 1)
    return {
        "interleaved": picture,
        "planar": planar,
        "bgr": bgr,
        "strided": wide[::2, ::3, 1:-1],
        "reversed": reversed_,
        "turned": turned,
    }


def mirror_index(start: int, stop: int, length: int) -> list[int]:
    return [mirrored(i, length) for i in range(start, stop)]


def one_tile(y: int, x: int, h: int, w: int) -> Tile:
    return Tile(Piece(y, Span(y, y + h)), Piece(x, Span(x, x + w)))


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)),
    tile=st.integers(8, 30),
    margin=st.integers(0, 12),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_extract_is_a_symmetric_pad_and_a_slice(
    shape: tuple[int, int, int], tile: int, margin: int, dtype: type, seed: int
) -> None:
    picture = random_picture(np.random.default_rng(seed), shape, dtype)
    p = plan(shape[:2], tile, margin=margin, max_chunk=shape[1])
    gain = np.float32(1 / tiles.white(picture.dtype))
    for name, view in views(picture).items():
        for chunk in p:
            out = np.full((len(chunk.tiles) + 1, shape[2], *p.window), np.nan, np.float32)
            tiles.extract(view, chunk.tiles, margin, out)
            for n, t in enumerate(chunk.tiles):
                rows = mirror_index(t.y.origin - margin, t.y.origin + p.tile[0] + margin, shape[0])
                cols = mirror_index(t.x.origin - margin, t.x.origin + p.tile[1] + margin, shape[1])
                expected = picture[np.ix_(rows, cols)].transpose(2, 0, 1).astype(np.float32) * gain
                assert (out[n] == expected).all(), name
            assert np.isnan(out[-1]).all()  # what no tile asked for is left alone


@pytest.mark.parametrize("dtype", DTYPES)
def test_extract_from_a_part_equals_extract_from_the_whole(dtype: type, rng: np.random.Generator) -> None:
    picture = random_picture(rng, (90, 120, 3), dtype)
    p = plan((90, 120), 32, margin=5, max_chunk=64)
    for chunk in p:
        a = np.empty((len(chunk.tiles), 3, *p.window), np.float32)
        b = np.empty_like(a)
        y, x = chunk.reach(p.tile, 5, (90, 120))
        tiles.extract(picture, chunk.tiles, 5, a)
        part = picture[y.start : y.stop, x.start : x.stop]
        tiles.extract(part, chunk.tiles, 5, b, shape=(90, 120), origin=(y.start, x.start))
        assert (a == b).all()


@settings(deadline=None)
@given(
    values=hnp.arrays(
        np.float32, (6, 11), elements=st.floats(-2, 3, width=32) | st.sampled_from([float("nan")])
    ),
    dtype=st.sampled_from([np.uint8, np.uint16]),
)
def test_stitch_clips_and_rounds_half_to_even(values: np.ndarray, dtype: type) -> None:
    out = np.zeros((6, 11, 1), dtype)
    tiles.stitch(values[None, None], [one_tile(0, 0, 6, 11)], 1, out)
    top = np.float32(np.iinfo(dtype).max)
    expected = np.rint(np.clip(np.nan_to_num(values) * top, 0, top)).astype(dtype)
    assert (out[..., 0] == expected).all()


def test_half_way_values_go_to_the_even_neighbour() -> None:
    halves = (np.arange(254, dtype=np.float64) + 0.5) / 255
    values = halves.astype(np.float32)
    exact = values * np.float32(255) == np.arange(254) + np.float32(0.5)
    out = np.zeros((1, 254, 1), np.uint8)
    tiles.stitch(values[None, None, None], [one_tile(0, 0, 1, 254)], 1, out)
    assert exact.sum() > 100
    assert (out[0, exact, 0] % 2 == 0).all()


def test_every_integer_comes_back_as_itself() -> None:
    for dtype in (np.uint8, np.uint16):
        every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(1, -1, 1)
        windows = np.empty((1, 1, *every.shape[:2]), np.float32)
        tile = [one_tile(0, 0, 1, every.shape[1])]
        tiles.extract(every, tile, 0, windows)
        back = np.zeros_like(every)
        tiles.stitch(windows, tile, 1, back)
        assert (back == every).all()


def test_float_is_neither_clipped_nor_rounded() -> None:
    values = np.array([[[[-3.5, 0.1, 7e5, np.nan, np.inf]]]], np.float32)
    out = np.zeros((1, 5, 1), np.float32)
    tiles.stitch(values, [one_tile(0, 0, 1, 5)], 1, out)
    assert np.array_equal(out[..., 0], values[0, 0], equal_nan=True)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 4)),
    tile=st.integers(8, 30),
    scale=st.integers(1, 4),
    cut=st.integers(0, 3),
    dtype=st.sampled_from(DTYPES),
)
def test_stitch_puts_every_core_in_its_place(
    shape: tuple[int, int, int], tile: int, scale: int, cut: int, dtype: type
) -> None:
    h, w, c = shape
    picture = random_picture(np.random.default_rng(1), (h * scale, w * scale, c), dtype)
    p = plan((h, w), tile, margin=0, max_chunk=w)
    reference = picture.astype(np.float64) / tiles.white(picture.dtype)
    for out in views(np.zeros_like(picture)).values():
        for chunk in p:
            size = [n * scale + 2 * cut for n in p.tile]
            windows = np.full((len(chunk.tiles), c, *size), 9, np.float32)
            for n, t in enumerate(chunk.tiles):
                rows = mirror_index(t.y.origin * scale, (t.y.origin + p.tile[0]) * scale, h * scale)
                cols = mirror_index(t.x.origin * scale, (t.x.origin + p.tile[1]) * scale, w * scale)
                inner = reference[np.ix_(rows, cols)].transpose(2, 0, 1)
                windows[n, :, cut : size[0] - cut, cut : size[1] - cut] = inner
            tiles.stitch(windows, chunk.tiles, scale, out, cut=cut)
        assert (out == picture).all()


def test_wrong_arguments_are_refused_before_the_loops() -> None:
    picture = np.zeros((20, 20, 1), np.uint8)
    out = np.zeros((1, 1, 18, 18), np.float32)
    tile = [one_tile(0, 0, 8, 8)]
    with pytest.raises(ArgumentError, match="uint8, uint16 or float32, got int32"):
        tiles.extract(picture.astype(np.int32), tile, 5, out)
    with pytest.raises(ArgumentError, match=r"\(H, W, C\)"):
        tiles.extract(picture[..., 0], tile, 5, out)
    with pytest.raises(ArgumentError, match="do not fit"):
        tiles.extract(picture, tile * 2, 5, out)
    with pytest.raises(ArgumentError, match="C-contiguous"):
        tiles.extract(picture, tile, 5, out.astype(np.float64))
    with pytest.raises(ArgumentError, match=r"windows reach 0\.\.12, the part at hand holds 0\.\.9"):
        tiles.extract(picture[:10], tile, 5, out, shape=(20, 20))
    with pytest.raises(ArgumentError, match="a core lies outside its window"):
        tiles.stitch(np.zeros((1, 1, 8, 8), np.float32), tile, 2, np.zeros((40, 40, 1), np.uint8))
    with pytest.raises(ArgumentError, match="a core lies outside the output"):
        tiles.stitch(np.zeros((1, 1, 16, 16), np.float32), tile, 2, np.zeros((15, 40, 1), np.uint8))
    with pytest.raises(ArgumentError, match="do not hold 2 tiles"):
        tiles.stitch(np.zeros((1, 1, 16, 16), np.float32), tile * 2, 2, np.zeros((16, 16, 1), np.uint8))
