"""The interfaces of images that are read (`Source`) and written (`Sink`, `Target`)."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..image.info import ImageInfo
from ..tiling.geometry import Span

Record = dict[str, Any]
"""What a journal stores about a written chunk: numbers and lists of numbers."""


class Source(AbstractContextManager["Source"], Protocol):
    """An image to read.

    Attributes
    ----------
    info : ImageInfo
        Size, layout, sample type and metadata.
    by_rows : bool
        Whether a part of some rows costs as much to read as the whole rows (striped files).
    in_memory : bool
        Whether the samples are in memory already, so that reading them costs nothing.
    on_device : bool
        Whether the image lies in the memory of a GPU. Only networks on that GPU can read it.
    """

    info: ImageInfo
    by_rows: bool
    in_memory: bool
    on_device: bool

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        """Return a window as (h, w, C) samples of ``info.dtype``, with any strides.

        Parameters
        ----------
        y, x : Span
            Rows and columns.

        Raises
        ------
        ImageError
            If it cannot be read.
        """

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        """Return a window of the validity mask, (h, w), or (h, w, C) if each sample has its own.

        Called only if ``info.masked``.
        """

    def close(self) -> None:
        """Close the file; may be called twice."""


class Sink(Protocol):
    """An image to write. Every block is written once, as a whole.

    Attributes
    ----------
    block : tuple of (int, int)
        Height and width of a block in HR pixels. Written windows begin and end at its multiples, or end at
        the edge of the image.
    max_bytes : int, optional
        How much one write should hold at most; no limit if None.
    in_memory : bool
        Whether the buffers are the image itself, so that `write` has nothing to do.
    """

    block: tuple[int, int]
    max_bytes: int | None
    in_memory: bool

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        """Return an uninitialised (h, w, C) array to fill with the samples of a window.

        The array of two calls ago may be reused, so it must have been written.
        """

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        """Store a filled buffer, so that it survives the end of this process.

        Parameters
        ----------
        y, x : Span
            Rows and columns in HR pixels.
        block : ndarray, shape (h, w, C)
            From `buffer`.
        mask : ndarray of bool, shape (h, w), optional
            Validity mask of an image that has one.

        Returns
        -------
        Record
            By which `restore` recognises what was written.

        Raises
        ------
        OutputError
            If it cannot be stored.
        """

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Keep what an interrupted run wrote to a window, and return whether that is possible.

        With `check`, it is read back and compared, because the system may have stopped before all of it
        reached the disk.
        """


class Target(Protocol):
    """A file that is being written, with one image or several pages.

    Its pages are restored and then written in order. `rewind` is called between the last restored and the
    first written window, `sync` now and then, and at the end `finish` or `abort`.

    Attributes
    ----------
    append_only : bool
        Whether chunks can only be restored in the order in which they were written, without gaps.
    """

    append_only: bool

    def page(self, index: int) -> Sink:
        """Return the sink of a page; `index` begins at 0."""

    def rewind(self) -> None:
        """Discard what an interrupted run wrote after the last restored window."""

    def sync(self) -> None:
        """Return when everything that was written has reached the disk."""

    def finish(self) -> Path:
        """Complete the file and return its path.

        Raises
        ------
        OutputError
            If anything could not be stored.
        """

    def abort(self) -> None:
        """Close the file unfinished, so that it can be resumed; never raises."""


class Closing:
    """Mixin of a context manager that calls `close`."""

    def close(self) -> None:
        """Release what the object holds; nothing by default."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class TwoBuffers:
    """Memory of a sink, which fills one buffer while the other is written.

    Allocating a buffer per chunk would fragment the heap, and memory would grow with the number of chunks.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._buffers: list[NDArray[Any]] = [np.empty(0, dtype)] * 2

    def next(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an uninitialised array in the memory of two calls ago, if that is large enough."""
        size, free = math.prod(shape), self._buffers.pop(0)
        if free.size < size:
            free = np.empty(size, free.dtype)
        self._buffers.append(free)
        return free[:size].reshape(shape)


class StripCache:
    """Reads rows of a striped source once, and returns windows of them.

    A strip takes as long to decode as any part of it. The last rows are kept, and only the rows below them
    are read, because a file with a single strip can be decoded cheaply only from its beginning to its end.

    Parameters
    ----------
    source : Source
        Its windows must be asked for row by row, from top to bottom.
    columns : Span, optional
        Columns that the windows lie in; all by default.
    """

    def __init__(self, source: Source, columns: Span | None = None) -> None:
        self._source = source
        self._columns = columns or Span(0, source.info.shape[1])
        self._rows = Span(0, 0)
        self._strip: NDArray[Any] | None = None

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        """Return a window, as `Source.read` does; it is a view of the kept rows."""
        if self._strip is None or self._rows != y:
            self._strip = self._follow(y)
            self._rows = y
        first = self._columns.start
        return self._strip[:, x.start - first : x.stop - first]

    def _follow(self, y: Span) -> NDArray[Any]:
        width = self._columns
        old, before = self._strip, self._rows
        if old is None or not before.start <= y.start < before.stop <= y.stop:
            self._strip = None  # release the old rows before the new ones take memory
            return self._source.read(y, width)
        kept = old[y.start - before.start :].copy()
        self._strip = old = None
        new = self._source.read(Span(before.stop, y.stop), width) if y.stop > before.stop else kept[:0]
        return np.concatenate([kept, new])
