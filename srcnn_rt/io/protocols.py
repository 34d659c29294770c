"""What the engine asks of an image to read and of an image to write."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..image.info import ImageInfo
from ..tiling.geometry import Span

# What a journal keeps of one written chunk: numbers and lists of them.
Record = dict[str, Any]


class Source(Protocol):
    """An image to read.

    Attributes
    ----------
    info : its size, layout, type and metadata
    by_rows : whether reading a few rows costs the same at any width (striped files)
    in_memory : whether nothing has to be read or decoded any more
    """

    info: ImageInfo
    by_rows: bool
    in_memory: bool

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        """Return rows `y` and columns `x` as (h, w, C), of ``info.dtype``, any strides."""

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        """Return (h, w), true where there are data; asked for where ``info.masked``."""

    def close(self) -> None:
        """Release the file; safe to call twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sink(Protocol):
    """An image to write, in whole blocks, each once.

    Attributes
    ----------
    block : (h, w) in HR pixels; writes start at its multiples and end there or at the
        image's edge
    max_bytes : how much one write should hold at most, None for no limit
    in_memory : whether `write` has nothing to do
    """

    block: tuple[int, int]
    max_bytes: int | None
    in_memory: bool

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        """Return an (h, w, C) array to fill for that place; its content is undefined.

        It may be the one of two calls ago, so that one must be written by then.
        """

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        """Store a filled buffer, and the mask of it where the image has one.

        When it returns, the end of this process loses nothing of it, and `restore` knows it by
        what is returned.
        """

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Take over what a former run wrote there; return whether it is.

        With `check`, it is read and compared: the machine may have gone down before it was on the disk.
        """


class Target(Protocol):
    """A file that grows, of one image or several.

    It is used as: pages, in order, written or restored; `rewind` between the last restored and the first
    written; `sync` now and then; then `finish`, or `abort`.
    """

    def page(self, index: int) -> Sink:
        """Return the sink of a page, from 0."""

    def rewind(self) -> None:
        """Forget what was written beyond what was restored."""

    def sync(self) -> None:
        """Return when all that was written is on the disk."""

    def finish(self) -> Path:
        """Complete the file; raises if anything could not be stored; return where it is."""

    def abort(self) -> None:
        """Let go of the file without finishing it; never raises. It can be gone on with."""


class Closing:
    """Mixin: ``with`` closes."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StripCache:
    """Reads a striped source one full-width band of rows at a time and serves parts of it.

    Decoding a strip costs the same for any part of it, so each is decoded once. The last band is kept;
    of the next one only the rows that are new are read, so that a file of a single strip is decoded
    from its beginning to its end, and never again from its beginning.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rows = Span(0, 0)
        self._strip: NDArray[Any] | None = None

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        """As `Source.read`; the result is a view of the kept rows."""
        if self._strip is None or self._rows != y:
            self._strip = self._follow(y)
            self._rows = y
        return self._strip[:, x.start : x.stop]

    def _follow(self, y: Span) -> NDArray[Any]:
        width = Span(0, self._source.info.shape[1])
        old, before = self._strip, self._rows
        if old is None or not before.start <= y.start < before.stop <= y.stop:
            self._strip = None  # let go of the old one before the new one is there
            return self._source.read(y, width)
        kept = old[y.start - before.start :].copy()
        self._strip = old = None
        new = self._source.read(Span(before.stop, y.stop), width) if y.stop > before.stop else kept[:0]
        return np.concatenate([kept, new])
