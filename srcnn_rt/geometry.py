"""Windows and cores: integers only, solved on one axis, then the product.

All coordinates are LR pixels of the picture unless a name says ``hr``. On one axis::

    picture       0 ─────────────────────────────────────────────── length
    chunks        ├───────── chunk ─────────┤├───────── chunk ──────┤
    cores         ├─ core ─┤├─ core ─┤├core─┤├─ core ─┤├─ core ─┤├──┤
    window    ├m├──── tile ────┤m┤                       shifted inward:
                                                    ├m├──── tile ────┤m┤

A *window* is ``tile`` pixels and the margin ``m`` on both sides; its shape is the same
everywhere in a picture, because runtimes re-plan for every new shape. A *core* is the
part of the window that its output is used for: every pixel belongs to exactly one core.
The last window of an axis is shifted inward, so its core is shorter than the tile.

A *chunk* is what is written at once. Its HR edges fall on the output file's block
edges, so that every block is complete when it is written, once; cores never cross a
chunk's edge, but windows may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .errors import ArgumentError

MIN_TILE = 8  # below this the margins are most of the work


@dataclass(frozen=True, slots=True)
class Span:
    """The half-open interval ``[start, stop)``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Piece:
    """One window on one axis: it starts (margin aside) at `origin` and owns `core`."""

    origin: int
    core: Span


@dataclass(frozen=True, slots=True)
class Tile:
    """One window in two dimensions: the product of two pieces."""

    y: Piece
    x: Piece


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is written at once: a rectangle of the picture and the tiles that make it."""

    y: Span
    x: Span
    tiles: tuple[Tile, ...]

    def reach(self, tile: tuple[int, int], margin: int, shape: tuple[int, int]) -> tuple[Span, Span]:
        """Return the part of the picture that the windows read, on both axes."""
        ys = [t.y.origin for t in self.tiles]
        xs = [t.x.origin for t in self.tiles]
        return (
            mirrored_reach(min(ys) - margin, max(ys) + tile[0] + margin, shape[0]),
            mirrored_reach(min(xs) - margin, max(xs) + tile[1] + margin, shape[1]),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How one picture is cut.

    Attributes
    ----------
    shape : (H, W) of the picture
    tile : (h, w) of every window without its margin; a multiple of `period`
    margin, period : of the model
    chunk : (h, w) of a whole chunk
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    margin: int
    period: int
    chunk: tuple[int, int]

    @property
    def window(self) -> tuple[int, int]:
        """(h, w) of every window, margins included."""
        return self.tile[0] + 2 * self.margin, self.tile[1] + 2 * self.margin

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks row by row, left to right."""
        for y in split(self.shape[0], self.chunk[0]):
            rows = cover(y, self.shape[0], self.tile[0], self.period)
            for x in split(self.shape[1], self.chunk[1]):
                cols = cover(x, self.shape[1], self.tile[1], self.period)
                yield Chunk(y, x, tuple(Tile(r, c) for r in rows for c in cols))


def ceil_to(n: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `n`."""
    return -(-n // step) * step


def split(length: int, step: int) -> list[Span]:
    """Cut ``[0, length)`` at every multiple of `step`."""
    return [Span(start, min(start + step, length)) for start in range(0, length, step)]


def cover(span: Span, length: int, tile: int, period: int = 1) -> list[Piece]:
    """Cover `span` with windows of one constant length; each pixel has one owner.

    Origins are multiples of `period`. A window may pass the end of `span`, and is shifted
    inward where it would pass the end of the picture (but for the rounding to `period`).

    Parameters
    ----------
    span : part of the axis to cover; it starts at a multiple of `period`
    length : of the whole axis
    tile : length of a window without margin, a multiple of `period`
    """
    last = max(0, ceil_to(length - tile, period))
    pieces = []
    for start in range(span.start, span.stop, tile):
        stop = min(start + tile, span.stop)
        pieces.append(Piece(min(start, last), Span(start, stop)))
    return pieces


def mirrored_reach(start: int, stop: int, length: int) -> Span:
    """Return the part of the picture that positions ``start … stop-1`` come from.

    The axis is mirrored endlessly at both ends, symmetrically: the edge sample repeats, as
    in ``numpy.pad(mode="symmetric")`` and MATLAB's imresize. Any distance is legal, also
    past a picture of one pixel.
    """
    low, high = max(start, 0), min(stop, length)
    if start < 0:  # 0 … -start-1 come back from beyond the near edge
        low, high = 0, max(high, min(-start, length))
    if stop > length:
        low, high = min(low, max(2 * length - stop, 0)), length
    return Span(low, high)


def plan(
    shape: tuple[int, int],
    tile: int,
    *,
    margin: int,
    period: int = 1,
    block: tuple[int, int] = (1, 1),
    max_chunk: int = 1,
) -> Plan:
    """Decide window, core and chunk sizes for a picture.

    Parameters
    ----------
    shape : (H, W), at least 1 each
    tile : largest window size without margin; rounded up to `period`
    margin : LR pixels a core needs around it
    period : step that window origins must keep
    block : (h, w) the chunk's edges must be multiples of
    max_chunk : widest chunk in pixels; at least one tile is taken all the same

    Raises
    ------
    ArgumentError
        If `tile` is smaller than ``MIN_TILE``.
    """
    if tile < MIN_TILE:
        raise ArgumentError(f"tile must be at least {MIN_TILE} LR pixels, got {tile}")
    steps = [np.lcm(b, period).item() for b in block]
    chunks, sides = [], []
    for length, step in zip(shape, steps, strict=True):
        # As many windows as the tile asks for, but of equal size: the last would else be
        # mostly overlap. First over the picture, then over a chunk, whose edges are fixed.
        chunk = ceil_to(_share(length, tile), step)
        chunks.append(chunk)
        sides.append(ceil_to(_share(min(chunk, length), tile), period))
    width = max(chunks[1], max_chunk // chunks[1] * chunks[1])
    return Plan(shape, (sides[0], sides[1]), margin, period, (chunks[0], width))


def _share(length: int, tile: int) -> int:
    """Return the size of equal parts of `length`, as few as fit into `tile` each."""
    count = -(-length // tile)
    return -(-length // count)
