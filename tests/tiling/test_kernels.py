"""extract, stitch, enlarge and stitch_sum against NumPy, for every type, layout and stride."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from srcnn_rt import ArgumentError
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.image import bicubic
from srcnn_rt.tiling import kernels
from srcnn_rt.tiling.geometry import Piece, Plan, Span, Tile, plan
from tests.helpers import reference
from tests.helpers.reference import mirrored

DTYPES = [np.uint8, np.uint16, np.float32]


def random_image(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if dtype is np.float32:
        return rng.normal(0.5, 1, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def views(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return an (H, W, C) image in several memory layouts."""
    h, w, c = image.shape
    planar = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    wide = np.zeros((2 * h, 3 * w, c + 2), image.dtype)
    wide[::2, ::3, 1:-1] = image
    bgr = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    reversed_ = np.ascontiguousarray(image[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    turned = np.ascontiguousarray(image.swapaxes(0, 1)).swapaxes(0, 1)
    return {
        "interleaved": image,
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
    image = random_image(np.random.default_rng(seed), shape, dtype)
    p = plan(shape[:2], tile, margin=margin, max_chunk=shape[1])
    gain = np.float32(1 / kernels.white(image.dtype))
    for name, view in views(image).items():
        for chunk in p:
            out = np.full((len(chunk.tiles) + 1, shape[2], *p.window), np.nan, np.float32)
            kernels.extract(view, chunk.tiles, margin, out)
            for n, t in enumerate(chunk.tiles):
                rows = mirror_index(t.y.origin - margin, t.y.origin + p.tile[0] + margin, shape[0])
                cols = mirror_index(t.x.origin - margin, t.x.origin + p.tile[1] + margin, shape[1])
                expected = image[np.ix_(rows, cols)].transpose(2, 0, 1).astype(np.float32) * gain
                assert (out[n] == expected).all(), name
            assert np.isnan(out[-1]).all()  # windows without a tile stay unchanged


@pytest.mark.parametrize("dtype", DTYPES)
def test_extract_from_a_part_equals_extract_from_the_whole(dtype: type, rng: np.random.Generator) -> None:
    image = random_image(rng, (90, 120, 3), dtype)
    p = plan((90, 120), 32, margin=5, max_chunk=64)
    for chunk in p:
        a = np.empty((len(chunk.tiles), 3, *p.window), np.float32)
        b = np.empty_like(a)
        y, x = chunk.source_spans(p.tile, 5, (90, 120))
        kernels.extract(image, chunk.tiles, 5, a)
        part = image[y.start : y.stop, x.start : x.stop]
        kernels.extract(part, chunk.tiles, 5, b, shape=(90, 120), origin=(y.start, x.start))
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
    kernels.stitch(values[None, None], [one_tile(0, 0, 6, 11)], 1, out)
    top = np.float32(np.iinfo(dtype).max)
    expected = np.rint(np.clip(np.nan_to_num(values) * top, 0, top)).astype(dtype)
    assert (out[..., 0] == expected).all()


def test_half_way_values_go_to_the_even_neighbour() -> None:
    halves = (np.arange(254, dtype=np.float64) + 0.5) / 255
    values = halves.astype(np.float32)
    exact = values * np.float32(255) == np.arange(254) + np.float32(0.5)
    out = np.zeros((1, 254, 1), np.uint8)
    kernels.stitch(values[None, None, None], [one_tile(0, 0, 1, 254)], 1, out)
    assert exact.sum() > 100
    assert (out[0, exact, 0] % 2 == 0).all()


def test_every_integer_comes_back_as_itself() -> None:
    for dtype in (np.uint8, np.uint16):
        every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(1, -1, 1)
        windows = np.empty((1, 1, *every.shape[:2]), np.float32)
        tile = [one_tile(0, 0, 1, every.shape[1])]
        kernels.extract(every, tile, 0, windows)
        back = np.zeros_like(every)
        kernels.stitch(windows, tile, 1, back)
        assert (back == every).all()


def test_float_is_neither_clipped_nor_rounded() -> None:
    values = np.array([[[[-3.5, 0.1, 7e5, np.nan, np.inf]]]], np.float32)
    out = np.zeros((1, 5, 1), np.float32)
    kernels.stitch(values, [one_tile(0, 0, 1, 5)], 1, out)
    assert np.array_equal(out[..., 0], values[0, 0], equal_nan=True)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 4)),
    tile=st.integers(8, 30),
    scale=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
)
def test_stitch_puts_every_core_in_its_place(
    shape: tuple[int, int, int], tile: int, scale: int, dtype: type
) -> None:
    h, w, c = shape
    image = random_image(np.random.default_rng(1), (h * scale, w * scale, c), dtype)
    p = plan((h, w), tile, margin=0, max_chunk=w)
    reference = image.astype(np.float64) / kernels.white(image.dtype)
    for out in views(np.zeros_like(image)).values():
        for chunk in p:
            size = [n * scale for n in p.tile]
            windows = np.full((len(chunk.tiles), c, *size), 9, np.float32)
            for n, t in enumerate(chunk.tiles):
                rows = mirror_index(t.y.origin * scale, (t.y.origin + p.tile[0]) * scale, h * scale)
                cols = mirror_index(t.x.origin * scale, (t.x.origin + p.tile[1]) * scale, w * scale)
                windows[n] = reference[np.ix_(rows, cols)].transpose(2, 0, 1)
            kernels.stitch(windows, chunk.tiles, scale, out)
        assert (out == image).all()


def test_wrong_arguments_are_refused_before_the_loops() -> None:
    image = np.zeros((20, 20, 1), np.uint8)
    out = np.zeros((1, 1, 18, 18), np.float32)
    tile = [one_tile(0, 0, 8, 8)]
    with pytest.raises(ArgumentError, match="uint8, uint16 or float32, got int32"):
        kernels.extract(image.astype(np.int32), tile, 5, out)
    with pytest.raises(ArgumentError, match=r"\(H, W, C\)"):
        kernels.extract(image[..., 0], tile, 5, out)
    with pytest.raises(ArgumentError, match="do not fit"):
        kernels.extract(image, tile * 2, 5, out)
    with pytest.raises(ArgumentError, match="C-contiguous"):
        kernels.extract(image, tile, 5, out.astype(np.float64))
    with pytest.raises(ArgumentError, match=r"windows read 0\.\.12, but the part is 0\.\.9"):
        kernels.extract(image[:10], tile, 5, out, shape=(20, 20))
    with pytest.raises(ArgumentError, match="a core is outside its window"):
        kernels.stitch(np.zeros((1, 1, 8, 8), np.float32), tile, 2, np.zeros((40, 40, 1), np.uint8))
    with pytest.raises(ArgumentError, match="a core is outside the output"):
        kernels.stitch(np.zeros((1, 1, 16, 16), np.float32), tile, 2, np.zeros((15, 40, 1), np.uint8))
    with pytest.raises(ArgumentError, match="do not hold 2 tiles"):
        kernels.stitch(np.zeros((1, 1, 16, 16), np.float32), tile * 2, 2, np.zeros((16, 16, 1), np.uint8))


def bicubic_inside(plane: np.ndarray, scale: int) -> np.ndarray:
    """Return the reference enlargement in float64, without the border of two pixels."""
    return reference.bicubic(plane, scale)[2 * scale : -2 * scale, 2 * scale : -2 * scale]


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(5, 45), st.integers(5, 45)),
    scale=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16]),
    seed=st.integers(0, 99),
)
def test_enlarge_is_bicubic(shape: tuple[int, int, int, int], scale: int, seed: int) -> None:
    windows = np.random.default_rng(seed).random(shape, np.float32)
    n, c, h, w = shape
    out = np.full((n, c, (h - 4) * scale, (w - 4) * scale), np.nan, np.float32)
    assert kernels.enlarge(windows, scale, out) is out
    for got, plane in zip(out.reshape(-1, *out.shape[2:]), windows.reshape(-1, h, w), strict=True):
        # Two sums of four products, weights of 1.3 in all on either axis: 8 roundings of 2^-24.
        assert abs(got - bicubic_inside(plane, scale)).max() < 8 * 2**-24 * 1.3**2
    assert (kernels.enlarge(windows, scale) == out).all()


@pytest.mark.parametrize(("scale", "top"), [(2, 255), (4, 7)])
def test_enlarge_is_exact_where_float32_is(scale: int, top: int, rng: np.random.Generator) -> None:
    # Weights are multiples of 1/128 and 1/1024; their products with small integers fit 24 bits.
    windows = rng.integers(0, top, (1, 2, 30, 37), endpoint=True).astype(np.float32)
    out = kernels.enlarge(windows, scale)
    for got, plane in zip(out[0], windows[0], strict=True):
        assert (got == bicubic_inside(plane, scale)).all()


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
def test_enlarge_gives_the_same_bits_in_every_window(scale: int, rng: np.random.Generator) -> None:
    whole = rng.normal(0.5, 1, (1, 1, 40, 70)).astype(np.float32)
    expected = kernels.enlarge(whole, scale)
    for y, x, h, w in [(0, 0, 5, 5), (3, 1, 9, 38), (7, 13, 24, 23), (20, 5, 20, 65), (1, 64, 39, 6)]:
        part = kernels.enlarge(whole[..., y : y + h, x : x + w].copy(), scale)
        rows = slice(y * scale, (y + h - 4) * scale)
        assert (part == expected[..., rows, x * scale : (x + w - 4) * scale]).all()


@pytest.mark.parametrize("scale", [2, 3, 4, 7])
def test_enlarge_of_a_mirrored_image_is_mirrored(scale: int, rng: np.random.Generator) -> None:
    windows = rng.random((1, 1, 21, 34), np.float32)
    expected = kernels.enlarge(windows, scale)
    for flip in ((2,), (3,), (2, 3)):
        flipped = kernels.enlarge(np.ascontiguousarray(np.flip(windows, flip)), scale)
        assert (np.flip(flipped, flip) == expected).all()


def cut_luminance(luminance: np.ndarray, todo: tuple[Tile, ...], p: Plan, scale: int) -> np.ndarray:
    """Return the output of a network for tiles, taken from an (H, W) luminance, and one unused window."""
    h, w = (n * scale for n in p.tile)
    out = np.full((len(todo) + 1, 1, h, w), np.nan, np.float32)
    for n, t in enumerate(todo):
        rows = mirror_index(t.y.origin * scale, t.y.origin * scale + h, luminance.shape[0])
        cols = mirror_index(t.x.origin * scale, t.x.origin * scale + w, luminance.shape[1])
        out[n, 0] = luminance[np.ix_(rows, cols)]
    return out


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_stitch_sum_agrees_with_onnx_runtimes_bicubic(scale: int, rng: np.random.Generator) -> None:
    windows = rng.random((1, 3, 84, 104), np.float32)
    luminance = rng.random((1, 1, 80 * scale, 100 * scale), np.float32)
    todo = [one_tile(0, 0, 80, 100)]
    session = Session(bicubic.model(scale).SerializeToString(), 1)
    rgb = session.run(windows.reshape(3, 1, 84, 104)).reshape(1, 3, 80 * scale, 100 * scale)
    rgb += luminance
    for dtype, same in ((np.uint8, 0.9999), (np.uint16, 0.98), (np.float32, 0)):
        expected = np.zeros((80 * scale, 100 * scale, 3), dtype)
        kernels.stitch(rgb, todo, scale, expected)
        out = np.zeros_like(expected)
        kernels.stitch_sum(windows, luminance, todo, scale, out, margin=2)
        assert abs(out.astype(np.float64) - expected).max() <= (1e-6 if dtype is np.float32 else 1)
        assert (out == expected).mean() >= same


@pytest.mark.parametrize("margin", [2, 3, 5])
@pytest.mark.parametrize("scale", [2, 3])
def test_cores_of_one_pixel(scale: int, margin: int, rng: np.random.Generator) -> None:
    windows = rng.random((1, 3, 8 + 2 * margin, 9 + 2 * margin), np.float32)
    luminance = rng.random((1, 1, 8 * scale, 9 * scale), np.float32)
    whole = np.zeros((8 * scale, 9 * scale, 3), np.float32)
    kernels.stitch_sum(windows, luminance, [one_tile(0, 0, 8, 9)], scale, whole, margin=margin)
    for y in range(8):
        for x in range(9):
            tile = Tile(Piece(0, Span(y, y + 1)), Piece(0, Span(x, x + 1)))
            out = np.full_like(whole, np.nan)
            kernels.stitch_sum(windows, luminance, [tile], scale, out, margin=margin)
            here = np.s_[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale]
            assert (out[here] == whole[here]).all()
            assert np.isfinite(out).sum() == 3 * scale * scale  # nothing else is written


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("margin", [2, 4])
def test_stitch_sum_reads_two_pixels_around_a_core_and_no_more(
    scale: int, margin: int, rng: np.random.Generator
) -> None:
    windows = rng.random((1, 3, 9 + 2 * margin, 9 + 2 * margin), np.float32)
    luminance = rng.random((1, 1, 9 * scale, 9 * scale), np.float32)
    tile = [Tile(Piece(0, Span(3, 6)), Piece(0, Span(4, 5)))]

    def run(colors: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = np.zeros((9 * scale, 9 * scale, 3), np.float32)
        kernels.stitch_sum(colors, y, tile, scale, out, margin=margin)
        return out

    before = run(windows, luminance)
    for row in range(windows.shape[2]):
        for col in range(windows.shape[3]):
            changed = windows.copy()
            changed[0, 1, row, col] += 5
            inside = 3 - 2 <= row - margin < 6 + 2 and 4 - 2 <= col - margin < 5 + 2
            assert (run(changed, luminance) != before).any() == inside
    beside = luminance.copy()
    beside[:, :, : 3 * scale] = beside[:, :, 6 * scale :] = np.nan
    beside[..., : 4 * scale] = beside[..., 5 * scale :] = np.nan
    assert (run(windows, beside) == before).all()


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("own", [True, False])
def test_stitch_sum_is_enlarge_sum_and_stitch_bit_for_bit(
    scale: int, channels: int, own: bool, rng: np.random.Generator
) -> None:
    windows = rng.random((3, channels, 29, 42), np.float32)
    detail = rng.normal(0, 0.3, (3, channels if own else 1, 23 * scale, 36 * scale)).astype(np.float32)
    todo = [one_tile(0, 0, 23, 36), one_tile(0, 36, 23, 36)]  # fewer than there are windows
    summed = kernels.enlarge(windows, scale)
    cut = (windows.shape[2] - 4 - 23) // 2 * scale
    inner = np.ascontiguousarray(summed[:, :, cut : cut + 23 * scale, cut : cut + 36 * scale] + detail)
    for dtype in DTYPES:
        expected = np.zeros((23 * scale, 72 * scale, channels), dtype)
        kernels.stitch(inner, todo, scale, expected)
        for name, out in views(np.zeros_like(expected)).items():
            kernels.stitch_sum(windows, detail, todo, scale, out, margin=3)
            assert np.array_equal(out, expected), (name, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [2, 3])
def test_stitch_sum_of_one_channel_among_others(scale: int, dtype: type, rng: np.random.Generator) -> None:
    windows = rng.random((1, 5, 13, 14), np.float32)
    detail = rng.normal(0, 0.3, (1, 3, 9 * scale, 10 * scale)).astype(np.float32)
    tile = [one_tile(0, 0, 9, 10)]
    for first, count in ((0, 3), (1, 3), (2, 3), (4, 1)):
        part = np.ascontiguousarray(detail[:, :count])
        expected = np.zeros((9 * scale, 10 * scale, count), dtype)
        chosen = np.ascontiguousarray(windows[:, first : first + count])
        kernels.stitch_sum(chosen, part, tile, scale, expected, margin=2)
        whole = np.zeros((9 * scale, 10 * scale, 5), dtype)
        out = whole[:, :, first : first + count]
        kernels.stitch_sum(windows, part, tile, scale, out, margin=2, first=first)
        assert np.array_equal(out, expected)
        assert np.count_nonzero(np.delete(whole, range(first, first + count), axis=2)) == 0


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.integers(1, 4),
    tile=st.integers(8, 30),
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    margin=st.integers(2, 6),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_stitch_sum_is_bicubic_and_the_detail_whatever_the_tile(
    shape: tuple[int, int], channels: int, tile: int, scale: int, margin: int, dtype: type, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = random_image(rng, (*shape, channels), dtype)
    detail = rng.normal(0, 0.2, (shape[0] * scale, shape[1] * scale)).astype(np.float32)
    top = kernels.white(image.dtype)
    exact = np.stack([reference.bicubic(image[..., c] / top, scale) for c in range(channels)], axis=-1)
    exact += detail[..., None]
    results = []
    for side in (tile, 64):
        out = np.zeros(exact.shape, dtype)
        p = plan(shape, side, margin=margin, max_chunk=2 * side)
        for chunk in p:
            windows = np.full((len(chunk.tiles) + 1, channels, *p.window), np.nan, np.float32)
            kernels.extract(image, chunk.tiles, margin, windows)
            hr = cut_luminance(detail, chunk.tiles, p, scale)
            y, x = (slice(n.start * scale, n.stop * scale) for n in (chunk.y, chunk.x))
            origin = (chunk.y.start, chunk.x.start)
            kernels.stitch_sum(windows, hr, chunk.tiles, scale, out[y, x], margin=margin, origin=origin)
        results.append(out)
    assert np.array_equal(*results)
    if dtype is np.float32:
        assert np.abs(results[0] - exact).max() <= 2e-6 * max(1, np.abs(image).max())
    else:
        assert np.abs(results[0] - np.clip(exact, 0, 1) * top).max() <= 0.5 + 1e-6 * top


def test_wrong_arguments_of_a_sum_are_refused_before_the_loops() -> None:
    windows = np.zeros((1, 3, 12, 12), np.float32)
    detail = np.zeros((1, 1, 16, 16), np.float32)
    tile = [one_tile(0, 0, 8, 8)]
    out = np.zeros((16, 16, 3), np.uint8)
    kernels.stitch_sum(windows, detail, tile, 2, out, margin=2)
    kernels.stitch_sum(windows, detail, [], 2, out, margin=2)
    for margin in (3, 4):
        with pytest.raises(ArgumentError, match=f"with a margin of {margin} go with detail"):
            kernels.stitch_sum(windows, detail, tile, 2, out, margin=margin)
    with pytest.raises(ArgumentError, match="margin must be at least 2 LR pixels for bicubic, got 1"):
        kernels.stitch_sum(windows[:, :, 1:-1, 1:-1].copy(), detail, tile, 2, out, margin=1)
    with pytest.raises(
        ArgumentError, match=r"go with detail \(N, C, 24, 24\) at x3, not with \(1, 1, 16, 16\)"
    ):
        kernels.stitch_sum(windows, detail, tile, 3, out, margin=2)
    with pytest.raises(ArgumentError, match=r"from channel 0 .* do not make 1 tiles of 4 channels"):
        kernels.stitch_sum(windows, detail, tile, 2, np.zeros((16, 16, 4), np.uint8), margin=2)
    for first in (-1, 1, 3):
        with pytest.raises(
            ArgumentError, match=rf"from channel {first} .* do not make 1 tiles of 3 channels"
        ):
            kernels.stitch_sum(windows, detail, tile, 2, out, margin=2, first=first)
    with pytest.raises(ArgumentError, match="do not make 1 tiles of 3 channels"):
        kernels.stitch_sum(windows, np.repeat(detail, 2, axis=1), tile, 2, out, margin=2)
    for several in (np.repeat(windows, 2, axis=0), windows):
        with pytest.raises(ArgumentError, match="do not make 2 tiles"):
            kernels.stitch_sum(several, detail, tile * 2, 2, out, margin=2)
    for bad in (windows.astype(np.float64), windows.swapaxes(2, 3)):
        with pytest.raises(ArgumentError, match="C-contiguous"):
            kernels.stitch_sum(bad, detail, tile, 2, out, margin=2)
    for bad in (detail.astype(np.float64), np.zeros((1, 1, 16, 32), np.float32)[..., ::2]):
        with pytest.raises(ArgumentError, match="C-contiguous"):
            kernels.stitch_sum(windows, bad, tile, 2, out, margin=2)
    with pytest.raises(ArgumentError, match="got int32"):
        kernels.stitch_sum(windows, detail, tile, 2, out.astype(np.int32), margin=2)
    with pytest.raises(ArgumentError, match="a core is outside its window"):
        kernels.stitch_sum(windows, detail, [one_tile(0, 0, 8, 9)], 2, out, margin=2)
    with pytest.raises(ArgumentError, match="a core is outside the output"):
        kernels.stitch_sum(windows, detail, tile, 2, out[:-1], margin=2)
