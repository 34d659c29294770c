"""Geometry of windows, cores and chunks, computed per axis in integers.

All coordinates are LR pixels of the image unless a name says ``hr``. On one axis::

    image       0 ─────────────────────────────────────────────── length
    chunks        ├───────── chunk ─────────┤├───────── chunk ──────┤
    cores         ├─ core ─┤├─ core ─┤├core─┤├─ core ─┤├─ core ─┤├──┤
    window    ├m├──── tile ────┤m┤                       shifted inward:
                                                    ├m├──── tile ────┤m┤

A *window* is a tile with the margin ``m`` on both sides. All windows of an image have the same shape, because
runtimes prepare a model anew for each shape. A *core* is the part of a window whose output is used: every
pixel belongs to exactly one core. The last window of an axis is shifted inward, so its core is shorter than
the tile.

A *chunk* is written at once. Its HR edges are edges of blocks of the output file, so that every block is
written once and complete. Cores never cross the edge of a chunk, but windows may.

A *region* is the part of an image that is upscaled. Chunks are cut to it, and the size of its windows is
chosen so that they compute little beside it::

    image       0 ─────────────────────────────────────────────── length
    region                ├──────────────────────────┤
    chunks                ├─────── chunk ──────┤├────┤
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ArgumentError

MIN_TILE = 8  # with smaller tiles most of the work is margins
WHOLE = 2**40  # a tile that every image fits into


@dataclass(frozen=True, slots=True)
class Span:
    """The half-open interval ``[start, stop)``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.stop - self.start

    def moved(self, by: int) -> Span:
        """Return the same positions counted from another."""
        return Span(self.start + by, self.stop + by)

    def scaled(self, scale: int) -> Span:
        """Return the same part of an axis that is `scale` times longer."""
        return Span(self.start * scale, self.stop * scale)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image, and the place of its result.

    Attributes
    ----------
    y, x : Span
        Rows and columns in LR pixels, at least one of each.
    corner : (int, int)
        The LR pixel at which the sink begins.
    """

    y: Span
    x: Span
    corner: tuple[int, int] = (0, 0)

    @classmethod
    def whole(cls, shape: tuple[int, int]) -> Region:
        """Return all of an image, into a sink of its own."""
        return cls(Span(0, shape[0]), Span(0, shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.y.size, self.x.size

    def scaled_shape(self, scale: int) -> tuple[int, int]:
        """Return the height and width of its result."""
        return self.y.size * scale, self.x.size * scale


@dataclass(frozen=True, slots=True)
class Piece:
    """One window on one axis: `origin` is the start of its tile, `core` the pixels it owns."""

    origin: int
    core: Span


@dataclass(frozen=True, slots=True)
class Tile:
    """One window in two dimensions: the product of two pieces."""

    y: Piece
    x: Piece


@dataclass(frozen=True, slots=True)
class Chunk:
    """A rectangle of the image that is written at once, and its tiles."""

    y: Span
    x: Span
    tiles: tuple[Tile, ...]

    def source_spans(self, tile: tuple[int, int], margin: int, shape: tuple[int, int]) -> tuple[Span, Span]:
        """Return the rows and columns that the windows read.

        Parameters
        ----------
        tile : (int, int)
            Height and width of the tiles.
        margin : int
            LR pixels around each tile.
        shape : (int, int)
            Height and width of the image.
        """
        ys = [t.y.origin for t in self.tiles]
        xs = [t.x.origin for t in self.tiles]
        return (
            mirrored_span(min(ys) - margin, max(ys) + tile[0] + margin, shape[0]),
            mirrored_span(min(xs) - margin, max(xs) + tile[1] + margin, shape[1]),
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """Constraints of a model on the windows of one axis, in LR pixels.

    Attributes
    ----------
    period : int
        Origins of windows are multiples of it.
    clipped : bool
        Whether windows end at the edges of the image, because the model pads.
    inset : int
        Least distance of a core from the inner edges of a clipped window.
    multiple, minimum : int
        Clipped windows are multiples of `multiple`, and at least `minimum`.
    fixed : int or None
        The only size of a tile.
    """

    period: int = 1
    clipped: bool = False
    inset: int = 0
    multiple: int = 1
    minimum: int = 1
    fixed: int | None = None

    def extended(self, length: int) -> int:
        """Return the length to which an axis is padded by mirroring, so that windows fit."""
        if not self.clipped:
            return length
        if self.fixed is not None:
            return self.fixed + ceil_to(max(0, length - self.fixed), self.period)
        return ceil_to(max(length, self.minimum), self.multiple)

    def tile(self, core: int, length: int) -> int:
        """Return the tile size that gives cores of at least `core` pixels.

        Parameters
        ----------
        core : int
        length : int
            Of the extended axis; see `extended`.

        Raises
        ------
        ArgumentError
            If the tile would have no core.
        """
        if not self.clipped:
            return self.fixed or ceil_to(core, self.period)
        around = self.inset + ceil_to(self.inset, self.period)
        want = self.fixed or ceil_to(core, self.period) + around
        if want >= length:
            return length
        if self.fixed is None:
            # Equal to the length modulo the period, so that a model that pads to a multiple pads windows
            # as it pads the image.
            want = length - (length - want) // self.period * self.period
        if want < around + self.period:
            raise ArgumentError(
                f"windows of {want} LR pixels have no core: the model needs {self.inset} on each side"
            )
        return want


@dataclass(frozen=True, slots=True)
class Plan:
    """The division of one image into chunks and tiles. Iteration yields the chunks, row by row.

    Attributes
    ----------
    shape : (int, int)
        Height and width of the image.
    tile : (int, int)
        Height and width of every window without margins.
    margin : int
        LR pixels around each tile.
    rules : (Rules, Rules)
        Constraints of the model per axis.
    chunk : (int, int)
        Height and width of a chunk inside the region.
    region : Region
        What is upscaled.
    grid : (int, int)
        Row and column from which chunks are counted.
    extra : int
        Outer LR pixels of the margin that have no part in the result but for rounding.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    margin: int
    rules: tuple[Rules, Rules]
    chunk: tuple[int, int]
    region: Region
    grid: tuple[int, int] = (0, 0)
    extra: int = 0

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of every window, with margins."""
        return self.tile[0] + 2 * self.margin, self.tile[1] + 2 * self.margin

    def halved(self) -> Plan | None:
        """Return a plan of the same chunks with tiles of about half the side, or None if none are smaller."""
        sides = []
        for side, rule, length in zip(self.tile, self.rules, self.shape, strict=True):
            core = side - 2 * rule.inset if rule.clipped else side
            try:
                half = rule.tile(max(MIN_TILE, core // 2), rule.extended(length))
            except ArgumentError:  # no core would be left
                half = side
            sides.append(min(half, side))
        tile = (sides[0], sides[1])
        return None if tile == self.tile else replace(self, tile=tile)

    def allows(self, tile: tuple[int, int], chunk: tuple[int, int], block: tuple[int, int]) -> bool:
        """Return whether `plan` could return these tile and chunk sizes for some `tile` and `max_chunk`.

        Parameters
        ----------
        tile, chunk, block : (int, int)
            Height and width in LR pixels.
        """
        for side, part, step, rule, length in zip(tile, chunk, block, self.rules, self.shape, strict=True):
            step = np.lcm(step, rule.period).item()
            # Rounding up to equal parts and blocks never doubles the length.
            if part % step or part > 2 * ceil_to(length, step):
                return False
            around = rule.inset + ceil_to(rule.inset, rule.period) if rule.clipped else 0
            core = (side - around) // rule.period * rule.period
            if side != rule.tile(min(length, max(1, core)), rule.extended(length)):
                return False
        return True

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks of the region, row by row."""
        for rows in cut(self.region.y, self.grid[0], self.chunk[0]):
            yield from self._row(rows)

    def first_row(self) -> Iterator[Chunk]:
        """Yield the chunks of the first row; those of the others read the same columns."""
        yield from self._row(cut(self.region.y, self.grid[0], self.chunk[0])[0])

    def _row(self, rows: Span) -> Iterator[Chunk]:
        pieces = self._cover(rows, 0)
        for columns in cut(self.region.x, self.grid[1], self.chunk[1]):
            across = self._cover(columns, 1)
            yield Chunk(rows, columns, tuple(Tile(r, c) for r in pieces for c in across))

    def _cover(self, span: Span, axis: int) -> list[Piece]:
        rule = self.rules[axis]
        return cover(span, rule.extended(self.shape[axis]), self.tile[axis], rule.period, rule.inset)


def ceil_to(n: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `n`."""
    return -(-n // step) * step


def outward(span: Span, step: int) -> Span:
    """Return the smallest part of an axis that holds `span` and begins and ends at multiples of `step`."""
    return Span(span.start // step * step, ceil_to(span.stop, step))


def cut(span: Span, origin: int, step: int) -> list[Span]:
    """Cut a part of an axis at the multiples of `step` from `origin`."""
    first = origin + (span.start - origin) // step * step
    return [Span(max(at, span.start), min(at + step, span.stop)) for at in range(first, span.stop, step)]


def cover(span: Span, length: int, tile: int, period: int = 1, inset: int = 0) -> list[Piece]:
    """Cover a part of an axis with windows of one length, so that every pixel is in one core.

    Origins of windows and inner edges of cores are multiples of `period`, because receptive fields are known
    per period. A window may extend past the end of `span`. One that would extend past the end of the axis is
    shifted inward, except for rounding to `period`.

    Parameters
    ----------
    span : Span
        Where it does not start at a multiple of `period`, the first window covers the whole period.
    length : int
        Of the whole axis.
    tile : int
        Length of a window without margins.
    period : int
    inset : int
        Least distance of a core from the edges of its window, except at the ends of the axis. Not zero for
        models that pad, whose windows have no margins.
    """
    last = max(0, ceil_to(length - tile, period))
    pieces = []
    at = span.start
    while at < span.stop:
        origin = min(max(0, (at // period * period - inset) // period * period), last)
        end = length if origin == last else (origin + tile - inset) // period * period
        stop = min(end, span.stop)
        pieces.append(Piece(origin, Span(at, stop)))
        at = stop
    return pieces


def mirrored_span(start: int, stop: int, length: int) -> Span:
    """Return the part of an axis that is read for positions ``[start, stop)`` of the padded axis.

    Padding mirrors the axis at both ends any number of times and repeats the edge sample, as in
    ``numpy.pad(mode="symmetric")`` and MATLAB's imresize.
    """
    low, high = max(start, 0), min(stop, length)
    if start < 0:  # positions 0 … -start-1 are mirrored
        low, high = 0, max(high, min(-start, length))
    if stop > length:
        low, high = min(low, max(2 * length - stop, 0)), length
    return Span(low, high)


def plan(
    shape: tuple[int, int],
    tile: int | tuple[int, int],
    *,
    margin: int,
    rules: tuple[Rules, Rules] = (Rules(), Rules()),
    block: tuple[int, int] = (1, 1),
    max_chunk: int = 1,
    extra: int = 0,
    region: Region | None = None,
    grain: int = 1,
) -> Plan:
    """Choose the sizes of tiles and chunks for an image, or a region of it.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image, at least 1.
    tile : int or (int, int)
        Largest core of a window, or its height and width; it is rounded up to the period. For a region it may
        be a quarter larger.
    margin : int
        LR pixels around each tile.
    rules : (Rules, Rules)
        Constraints of the model per axis.
    block : (int, int)
        Height and width in LR pixels; edges of chunks are multiples of them, from the corner of the sink.
    max_chunk : int
        Largest width of a chunk, which has at least one tile in any case.
    extra : int
        See `Plan`.
    region : Region, optional
        What is upscaled; the whole image by default.
    grain : int
        Windows for regions are rounded up to multiples of it, so that regions of many sizes need windows of
        few.

    Raises
    ------
    ArgumentError
        If `tile` is smaller than `MIN_TILE`, or the tiles would have no core.
    """
    tiles = (tile, tile) if isinstance(tile, int) else tile
    if min(tiles) < MIN_TILE:
        raise ArgumentError(f"tile must be at least {MIN_TILE} LR pixels, got {min(tiles)}")
    if region is not None and max(tiles) >= WHOLE:  # whatever is upscaled depends on the whole image
        return replace(
            plan(shape, tile, margin=margin, rules=rules, extra=extra), region=region, grid=region.corner
        )
    if region is not None:
        return _region_plan(shape, tiles, margin, rules, block, max_chunk, extra, region, grain)
    chunks, sides = [], []
    for length, most, step, rule in zip(shape, tiles, block, rules, strict=True):
        # Tiles of equal size, or the last would be mostly overlap: first over the image, then over a
        # chunk, whose edges are fixed.
        chunk = ceil_to(_share(length, most), np.lcm(step, rule.period).item())
        chunks.append(chunk)
        sides.append(rule.tile(_share(min(chunk, length), most), rule.extended(length)))
    size = chunks[0], _chunk_width(shape[1], chunks[1], max_chunk)
    return Plan(shape, (sides[0], sides[1]), margin, rules, size, Region.whole(shape), extra=extra)


def _region_plan(
    shape: tuple[int, int],
    tiles: tuple[int, int],
    margin: int,
    rules: tuple[Rules, Rules],
    block: tuple[int, int],
    max_chunk: int,
    extra: int,
    region: Region,
    grain: int,
) -> Plan:
    """Choose the sizes for a region; see `plan`."""
    spans = region.y, region.x
    # Where the sink has no blocks, chunks begin on the period, so that windows do not overlap.
    grid = [
        corner if step > 1 else corner // rule.period * rule.period
        for corner, step, rule in zip(region.corner, block, rules, strict=True)
    ]
    chunks = [
        ceil_to(
            _share(outward(span, rule.period).size, _most(tile, max(grain, rule.period))),
            np.lcm(step, rule.period).item(),
        )
        for span, tile, step, rule in zip(spans, tiles, block, rules, strict=True)
    ]
    chunk = chunks[0], _chunk_width(region.x.size, chunks[1], max_chunk)
    sides = [
        _fitting(cut(span, first, size), length, tile, margin, rule, max(grain, rule.period))
        for span, first, size, length, tile, rule in zip(spans, grid, chunk, shape, tiles, rules, strict=True)
    ]
    return Plan(shape, (sides[0], sides[1]), margin, rules, chunk, region, (grid[0], grid[1]), extra)


def _chunk_width(length: int, chunk: int, maximum: int) -> int:
    """Return a multiple of `chunk` within the limit, unless the limit exceeds the axis."""
    maximum = maximum if maximum < length else ceil_to(length, chunk)
    return max(chunk, maximum // chunk * chunk)


def _fitting(spans: list[Span], length: int, tile: int, margin: int, rule: Rules, grain: int) -> int:
    """Return the size of tiles that covers parts of an axis with the fewest samples in windows."""
    extended = rule.extended(length)
    counts = dict.fromkeys((spans[0], spans[-1]), 1)
    if len(spans) > 2:
        counts[spans[1]] = len(spans) - 2  # those between are all as long
    lengths = [outward(span, rule.period).size for span in counts]

    def samples(side: int) -> int:
        windows = sum(
            count * len(cover(span, extended, side, rule.period, rule.inset))
            for span, count in counts.items()
        )
        return windows * (side + 2 * margin)

    fewest = _parts(max(lengths), _most(tile, grain))
    cores = {ceil_to(-(-n // count), grain) for n in lengths for count in range(fewest, 2 * fewest + 2)}
    return min((rule.tile(core, extended) for core in sorted(cores, reverse=True)), key=samples)


def _most(tile: int, grain: int) -> int:
    """Return the largest tile for a region: it may be larger where smaller ones would fit worse."""
    return tile + max(tile // 4, 2 * grain)


def _parts(length: int, most: int) -> int:
    """Return into how many parts of at most `most` a length is cut."""
    return -(-length // most)


def _share(length: int, tile: int) -> int:
    """Return the size of the fewest equal parts of `length` that are at most `tile` each."""
    return -(-length // _parts(length, tile))
