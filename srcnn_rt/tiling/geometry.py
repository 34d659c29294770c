"""Windows and cores: integers only, solved on one axis, then the product.

All coordinates are LR pixels of the image unless a name says ``hr``. On one axis::

    image       0 ─────────────────────────────────────────────── length
    chunks        ├───────── chunk ─────────┤├───────── chunk ──────┤
    cores         ├─ core ─┤├─ core ─┤├core─┤├─ core ─┤├─ core ─┤├──┤
    window    ├m├──── tile ────┤m┤                       shifted inward:
                                                    ├m├──── tile ────┤m┤

A *window* is ``tile`` pixels and the margin ``m`` on both sides; its shape is the same
everywhere in an image, because runtimes re-plan for every new shape. A *core* is the
part of the window that its output is used for: every pixel belongs to exactly one core.
The last window of an axis is shifted inward, so its core is shorter than the tile.

A *chunk* is what is written at once. Its HR edges fall on the output file's block
edges, so that every block is complete when it is written, once; cores never cross a
chunk's edge, but windows may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ArgumentError

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
    """What is written at once: a rectangle of the image and the tiles that make it."""

    y: Span
    x: Span
    tiles: tuple[Tile, ...]

    def source_spans(self, tile: tuple[int, int], margin: int, shape: tuple[int, int]) -> tuple[Span, Span]:
        """Return the part of the image that the windows read, on both axes."""
        ys = [t.y.origin for t in self.tiles]
        xs = [t.x.origin for t in self.tiles]
        return (
            mirrored_span(min(ys) - margin, max(ys) + tile[0] + margin, shape[0]),
            mirrored_span(min(xs) - margin, max(xs) + tile[1] + margin, shape[1]),
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """What a model asks of its windows on one axis, in LR pixels.

    Attributes
    ----------
    period : step that window origins must keep
    clipped : whether windows end at the image's true edges, because the model pads
    inset : how far inside a clipped window a core must stay
    multiple, minimum : clipped windows are multiples of the one and at least the other
    fixed : the only tile size, or None
    """

    period: int = 1
    clipped: bool = False
    inset: int = 0
    multiple: int = 1
    minimum: int = 1
    fixed: int | None = None

    def extended(self, length: int) -> int:
        """Return the length to which an image's axis is mirrored so that windows fit into it."""
        if not self.clipped:
            return length
        if self.fixed is not None:
            return self.fixed + ceil_to(max(0, length - self.fixed), self.period)
        return ceil_to(max(length, self.minimum), self.multiple)

    def tile(self, core: int, length: int) -> int:
        """Return the tile that gives cores of at least `core` on an extended axis.

        Raises
        ------
        ArgumentError
            If the fixed size is too small for any core.
        """
        if not self.clipped:
            return self.fixed or ceil_to(core, self.period)
        around = self.inset + ceil_to(self.inset, self.period)
        want = self.fixed or ceil_to(core, self.period) + around
        if want >= length:
            return length
        if self.fixed is None:
            # As many pixels as the image modulo the period, or a model that pads to a
            # multiple would pad its windows otherwise than the image.
            want = length - (length - want) // self.period * self.period
        if want < around + self.period:
            raise ArgumentError(
                f"windows of {want} LR pixels leave no core: the model reaches {self.inset} to each side"
            )
        return want


@dataclass(frozen=True, slots=True)
class Plan:
    """How one image is cut.

    Attributes
    ----------
    shape : (H, W) of the image
    tile : (h, w) of every window without the margin around it
    margin : LR pixels around each tile
    rules : what the model asks of its windows, per axis
    chunk : (h, w) of a whole chunk
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    margin: int
    rules: tuple[Rules, Rules]
    chunk: tuple[int, int]

    @property
    def window(self) -> tuple[int, int]:
        """(h, w) of every window, margins included."""
        return self.tile[0] + 2 * self.margin, self.tile[1] + 2 * self.margin

    def halved(self) -> Plan | None:
        """Return the same chunks by windows of about half the side; None where there are none smaller."""
        sides = []
        for side, rule, length in zip(self.tile, self.rules, self.shape, strict=True):
            core = side - 2 * rule.inset if rule.clipped else side
            try:
                made = rule.tile(max(MIN_TILE, core // 2), rule.extended(length))
            except ArgumentError:  # no core would be left
                made = side
            sides.append(min(made, side))
        tile = (sides[0], sides[1])
        return None if tile == self.tile else replace(self, tile=tile)

    def allows(self, tile: tuple[int, int], chunk: tuple[int, int], block: tuple[int, int]) -> bool:
        """Return whether the image could have been cut so for blocks of that size, LR pixels."""
        for side, part, step, rule, length in zip(tile, chunk, block, self.rules, self.shape, strict=True):
            step = np.lcm(step, rule.period).item()
            extended = rule.extended(length)
            # Equal parts and whole chunks: a little more than the image, never twice.
            if part % step or part > 2 * ceil_to(length, step):
                return False
            if not rule.clipped and rule.fixed is None:
                legal = side % rule.period == 0 and side <= ceil_to(length, rule.period)
            elif not rule.clipped:
                legal = side == rule.fixed
            elif rule.fixed:
                legal = side == rule.tile(1, extended)
            else:
                inner = side >= rule.inset + ceil_to(rule.inset, rule.period) + rule.period
                legal = side == extended or (inner and (extended - side) % rule.period == 0)
            if not legal:
                return False
        return True

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks row by row, left to right."""
        yield from self.within(Span(0, self.shape[0]), Span(0, self.shape[1]))

    def within(self, y: Span, x: Span) -> Iterator[Chunk]:
        """Yield the chunks that have a part in a region."""
        for rows in self._split(y, 0):
            pieces = self._cover(rows, 0)
            for columns in self._split(x, 1):
                across = self._cover(columns, 1)
                yield Chunk(rows, columns, tuple(Tile(r, c) for r in pieces for c in across))

    def _split(self, span: Span, axis: int) -> list[Span]:
        """Return the chunks of an axis that have a part in `span`."""
        step, length = self.chunk[axis], self.shape[axis]
        first = span.start // step * step
        return [Span(at, min(at + step, length)) for at in range(first, span.stop, step)]

    def _cover(self, span: Span, axis: int) -> list[Piece]:
        rule = self.rules[axis]
        return cover(span, rule.extended(self.shape[axis]), self.tile[axis], rule.period, rule.inset)


def ceil_to(n: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `n`."""
    return -(-n // step) * step


def split(length: int, step: int) -> list[Span]:
    """Cut ``[0, length)`` at every multiple of `step`."""
    return [Span(start, min(start + step, length)) for start in range(0, length, step)]


def cover(span: Span, length: int, tile: int, period: int = 1, inset: int = 0) -> list[Piece]:
    """Cover `span` with windows of one constant length; each pixel has one owner.

    Origins are multiples of `period`, and so are the ends of cores inside the image: how far a model
    reaches is known of whole periods. A window may pass the end of `span`, and is shifted
    inward where it would pass the end of the image (but for the rounding to `period`).

    Parameters
    ----------
    span : part of the axis to cover; it starts at a multiple of `period`
    length : of the whole axis
    tile : length of a window without the margins around it
    inset : how far inside its window a core must stay, but for the image's true ends:
        the margin of a model that pads, whose windows have none around them
    """
    last = max(0, ceil_to(length - tile, period))
    pieces = []
    at = span.start
    while at < span.stop:
        origin = min(max(0, (at - inset) // period * period), last)
        source_spans = length if origin == last else (origin + tile - inset) // period * period
        stop = min(source_spans, span.stop)
        pieces.append(Piece(origin, Span(at, stop)))
        at = stop
    return pieces


def mirrored_span(start: int, stop: int, length: int) -> Span:
    """Return the part of the image that positions ``start … stop-1`` come from.

    The axis is mirrored endlessly at both ends, symmetrically: the edge sample repeats, as
    in ``numpy.pad(mode="symmetric")`` and MATLAB's imresize. Any distance is legal, also
    past an image of one pixel.
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
    rules: tuple[Rules, Rules] = (Rules(), Rules()),
    block: tuple[int, int] = (1, 1),
    max_chunk: int = 1,
) -> Plan:
    """Decide window, core and chunk sizes for an image.

    Parameters
    ----------
    shape : (H, W), at least 1 each
    tile : largest core of a window; rounded up to the period
    margin : LR pixels around each tile
    rules : what the model asks of its windows, per axis
    block : (h, w) the chunk's edges must be multiples of
    max_chunk : widest chunk in pixels; at least one tile is taken all the same

    Raises
    ------
    ArgumentError
        If `tile` is smaller than ``MIN_TILE``, or the model leaves no core.
    """
    if tile < MIN_TILE:
        raise ArgumentError(f"tile must be at least {MIN_TILE} LR pixels, got {tile}")
    chunks, sides = [], []
    for length, step, rule in zip(shape, block, rules, strict=True):
        # As many windows as the tile asks for, but of equal size: the last would else be
        # mostly overlap. First over the image, then over a chunk, whose edges are fixed.
        step = np.lcm(step, rule.period).item()
        chunk = ceil_to(_share(length, tile), step)
        chunks.append(chunk)
        sides.append(rule.tile(_share(min(chunk, length), tile), rule.extended(length)))
    # Rounded down, so as not to hold more than asked; but no narrow rest where all may be taken.
    maximum = max_chunk if max_chunk < shape[1] else ceil_to(shape[1], chunks[1])
    width = max(chunks[1], maximum // chunks[1] * chunks[1])
    return Plan(shape, (sides[0], sides[1]), margin, rules, (chunks[0], width))


def _share(length: int, tile: int) -> int:
    """Return the size of equal parts of `length`, as few as fit into `tile` each."""
    count = -(-length // tile)
    return -(-length // count)
