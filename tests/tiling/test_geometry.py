"""Every pixel is in one core, all windows have one shape, and chunks consist of whole blocks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcnn_rt import ArgumentError
from srcnn_rt.execution import planner
from srcnn_rt.tiling.geometry import MIN_TILE, Region, Rules, Span, ceil_to, cover, mirrored_span, plan
from tests.helpers.reference import mirrored


@given(
    length=st.integers(1, 300),
    tile=st.integers(1, 70),
    period=st.integers(1, 6),
    start=st.integers(0, 40),
    size=st.integers(1, 200),
)
def test_cover_gives_each_pixel_one_owner(length: int, tile: int, period: int, start: int, size: int) -> None:
    tile = min(ceil_to(tile, period), ceil_to(length, period))
    start = start * period % ceil_to(length, period)
    span = Span(min(start, (length - 1) // period * period), length)
    span = Span(span.start, min(span.stop, span.start + size))
    owners = np.zeros(length, int)
    for piece in cover(span, length, tile, period):
        owners[piece.core.start : piece.core.stop] += 1
        assert piece.origin % period == 0
        assert piece.core.size > 0
        assert piece.origin <= piece.core.start
        assert piece.core.stop <= piece.origin + tile
        assert piece.origin >= 0
        assert piece.origin + tile < length + period  # past the end by rounding only
    assert (owners[span.start : span.stop] == 1).all()
    assert owners.sum() == span.size


@given(
    shape=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    tile=st.integers(MIN_TILE, 200),
    margin=st.integers(0, 9),
    period=st.sampled_from([1, 2, 3, 4]),
    block=st.tuples(st.sampled_from([1, 16, 32, 48]), st.sampled_from([1, 16, 32, 48])),
    max_chunk=st.integers(1, 500),
)
def test_plan_covers_the_image_once_in_whole_blocks(
    shape: tuple[int, int], tile: int, margin: int, period: int, block: tuple[int, int], max_chunk: int
) -> None:
    p = plan(shape, tile, margin=margin, rules=(Rules(period),) * 2, block=block, max_chunk=max_chunk)
    owners = np.zeros(shape, int)
    for chunk in p:
        for axis, span in enumerate((chunk.y, chunk.x)):
            assert span.start % block[axis] == 0
            assert span.stop % block[axis] == 0 or span.stop == shape[axis]
        inside = np.zeros(shape, int)
        for t in chunk.tiles:
            inside[t.y.core.start : t.y.core.stop, t.x.core.start : t.x.core.stop] += 1
        assert (inside[chunk.y.start : chunk.y.stop, chunk.x.start : chunk.x.stop] == 1).all()
        owners += inside
        source_spans = chunk.source_spans(p.tile, margin, shape)
        for axis, span in enumerate(source_spans):
            assert 0 <= span.start < span.stop <= shape[axis]
            for t in chunk.tiles:
                piece = (t.y, t.x)[axis]
                first = piece.origin - margin
                index = [mirrored(i, shape[axis]) for i in (first, first + p.tile[axis] + 2 * margin - 1)]
                assert span.start <= min(index)
                assert max(index) < span.stop
    assert (owners == 1).all()
    assert p.window == (p.tile[0] + 2 * margin, p.tile[1] + 2 * margin)


@given(length=st.integers(1, 30), start=st.integers(-90, 60), size=st.integers(1, 120))
def test_mirrored_reach_is_the_hull_of_what_is_read(length: int, start: int, size: int) -> None:
    read = [mirrored(i, length) for i in range(start, start + size)]
    source_spans = mirrored_span(start, start + size, length)
    assert 0 <= source_spans.start <= min(read)
    assert max(read) < source_spans.stop <= length
    if start < length and start + size > 0:  # windows meet the image: then it is tight
        assert (source_spans.start, source_spans.stop) == (min(read), max(read) + 1)


def test_a_tile_of_whole_blocks_wastes_nothing() -> None:
    p = plan((4096, 4096), 512, margin=5, block=(256, 256), max_chunk=2048)
    assert p.chunk == (512, 2048)
    assert all(t.y.core.size == t.x.core.size == 512 for chunk in p for t in chunk.tiles)


def test_windows_are_equal_rather_than_overlapping() -> None:
    assert plan((256, 300), 170, margin=4).tile == (128, 150)
    # Blocks of 128 make chunks of 256, which two windows of 128 cover.
    p = plan((10_000, 10_000), 170, margin=4, block=(128, 128), max_chunk=1000)
    assert (p.tile, p.chunk) == ((128, 128), (256, 768))
    work = sum(len(chunk.tiles) * p.tile[0] * p.tile[1] for chunk in p)
    assert work < 1.03 * 10_000**2


def test_a_wide_image_is_cut_into_chunks_of_bounded_width() -> None:
    p = plan((100, 100_000), 64, margin=5, block=(64, 64), max_chunk=1000)
    assert p.chunk[1] == 960
    assert max(chunk.x.size for chunk in p) == 960


def test_a_tile_too_small_is_refused_with_rule_and_value() -> None:
    with pytest.raises(ArgumentError, match=r"tile must be at least 8 LR pixels, got 7"):
        plan((100, 100), 7, margin=5)


@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    tile=st.integers(MIN_TILE, 120),
    period=st.sampled_from([1, 2, 3, 4, 8]),
    inset=st.integers(0, 20),
    whole=st.booleans(),
    fixed=st.sampled_from([None, 64, 96]),
    block=st.sampled_from([1, 16, 48]),
)
def test_windows_of_models_that_pad_end_at_the_true_edges(
    shape: tuple[int, int], tile: int, period: int, inset: int, whole: bool, fixed: int | None, block: int
) -> None:
    rule = Rules(period, True, inset, fixed or (period if whole else 1), fixed or 1, fixed)
    p = plan(shape, tile, margin=0, rules=(rule, rule), block=(block, block), max_chunk=100)
    owners = np.zeros(shape, int)
    for chunk in p:
        for t in chunk.tiles:
            owners[t.y.core.start : t.y.core.stop, t.x.core.start : t.x.core.stop] += 1
            for axis, piece in enumerate((t.y, t.x)):
                length, window = rule.extended(shape[axis]), p.tile[axis]
                assert piece.origin % period == 0
                assert 0 <= piece.origin <= piece.origin + window <= length
                # A core keeps its distance except where the window ends with the image.
                assert piece.origin == 0 or piece.core.start - piece.origin >= inset
                end = piece.origin + window
                assert end == length or end - piece.core.stop >= inset
                # A model that pads to a multiple pads every window as it pads the image.
                assert (length - window) % period == 0
                assert fixed is None or window == fixed
    assert (owners == 1).all()


def test_a_fixed_window_without_a_core_is_refused() -> None:
    rule = Rules(1, True, inset=40, multiple=64, minimum=64, fixed=64)
    with pytest.raises(ArgumentError, match="windows of 64 LR pixels have no core: the model needs 40 on"):
        plan((200, 200), 64, margin=0, rules=(rule, rule))
    assert plan((50, 64), 64, margin=0, rules=(rule, rule)).tile == (64, 64)


@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    ends=st.tuples(*[st.integers(0, 300)] * 4),
    tile=st.integers(MIN_TILE, 120),
    period=st.sampled_from([1, 2, 3, 4, 6, 8]),
    inset=st.integers(0, 20),
    clipped=st.booleans(),
    fixed=st.sampled_from([None, None, 96]),
    block=st.sampled_from([1, 1, 16, 21]),
    own=st.booleans(),
    grain=st.sampled_from([1, 4, 7]),
    max_chunk=st.integers(1, 400),
)
def test_a_region_is_covered_once_and_nothing_beside_it(
    shape: tuple[int, int],
    ends: tuple[int, int, int, int],
    tile: int,
    period: int,
    inset: int,
    clipped: bool,
    fixed: int | None,
    block: int,
    own: bool,
    grain: int,
    max_chunk: int,
) -> None:
    """Anywhere, into a sink of its own or into its place in one of the whole image."""
    low = [min(a, n - 1) for a, n in zip(ends[:2], shape, strict=True)]
    y, x = (Span(a, max(a + 1, min(b, n))) for a, b, n in zip(low, ends[2:], shape, strict=True))
    region = Region(y, x, (y.start, x.start) if own else (0, 0))
    multiple = period if clipped else 1
    rule = Rules(
        period, clipped, inset if clipped else 0, fixed or multiple, fixed or 1, fixed if clipped else None
    )
    p = plan(
        shape, tile, margin=0 if clipped else 5, rules=(rule, rule), block=(block, block), region=region,
        grain=grain, max_chunk=max_chunk,
    )  # fmt: skip
    owners = np.zeros(shape, int)
    for chunk in p:
        for corner, whole, span in zip(region.corner, (y, x), (chunk.y, chunk.x), strict=True):
            assert span.start == whole.start or (span.start - corner) % block == 0
            assert span.stop == whole.stop or (span.stop - corner) % block == 0
        for t in chunk.tiles:
            owners[t.y.core.start : t.y.core.stop, t.x.core.start : t.x.core.stop] += 1
            for axis, piece in enumerate((t.y, t.x)):
                length, window = rule.extended(shape[axis]), p.tile[axis]
                assert piece.origin % period == 0
                assert 0 <= piece.origin <= piece.core.start
                assert piece.core.stop <= piece.origin + window
                first, last = piece.core.start // period * period, ceil_to(piece.core.stop, period)
                # A margin belongs to a whole period, however little of it is in the core.
                assert piece.origin == 0 or first - piece.origin >= rule.inset
                end = piece.origin + window
                assert end >= length or end - last >= rule.inset
                assert fixed is None or not clipped or window == fixed
    assert (owners[y.start : y.stop, x.start : x.stop] == 1).all()
    assert owners.sum() == y.size * x.size


@pytest.mark.parametrize(("period", "tile"), [(20, 20), (32, 32), (32, 64), (1, 512), (64, 64)])
def test_tiles_are_shared_out_whatever_the_period(period: int, tile: int) -> None:
    """A tile as long as the period cannot be halved; the loop must end."""
    setup = SimpleNamespace(tile=tile, workers=4)
    shared = planner._tile_per_worker(period, (tile + 5, tile + 9), setup)
    assert all(side % period == 0 and 0 < side <= tile for side in shared)


@pytest.mark.parametrize(
    ("shape", "workers", "expected"),
    [
        ((64, 64), 1, (256, 256)),
        ((64, 64), 2, (32, 256)),
        ((64, 64), 4, (32, 32)),
        ((40, 300), 4, (256, 64)),
        ((20, 20), 4, (256, 256)),
        ((600, 600), 4, (256, 256)),
    ],
)
def test_small_images_are_halved_along_the_longer_side(
    shape: tuple[int, int], workers: int, expected: tuple[int, int]
) -> None:
    setup = SimpleNamespace(tile=256, workers=workers)
    assert planner._tile_per_worker(1, shape, setup) == expected
