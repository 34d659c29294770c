"""Yield the finished parts of an image one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..image.info import ImageInfo
from ..io.protocols import Record, Sink
from ..tiling.geometry import Span

Window = tuple[slice, slice]
AHEAD = 2  # finished parts that wait for the caller
_POLL = 0.1  # seconds


class _AbandonedError(Exception):
    """The caller closed the iterator."""


class _QueueSink:
    """Put every part into a queue. Parts are as large as a chunk of a TIFF, which bounds memory."""

    in_memory = False
    block = (256, 256)
    max_bytes: int | None = 4 * 2**20

    def __init__(self, info: ImageInfo) -> None:
        self._info = info
        self.parts: Queue[tuple[Window, NDArray[Any]] | None] = Queue(AHEAD)
        self.abandoned = False

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        # A new array for each part, because the caller keeps it.
        return np.empty((y.size, x.size, self._info.layout.channels), self._info.dtype)

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        self.put(((slice(y.start, y.stop), slice(x.start, x.stop)), block))
        return {}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return False

    def put(self, part: tuple[Window, NDArray[Any]] | None) -> None:
        self.parts.put(part)
        if self.abandoned:
            raise _AbandonedError


def parts(
    info: ImageInfo, run: Callable[[Sink], None], region: tuple[Span, Span], scale: int
) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Yield what `run` writes into a sink while it runs in a thread of its own.

    Parameters
    ----------
    info : ImageInfo
        Of the result.
    run : callable
        Takes the sink. Its exceptions are raised here. Closing the iterator early stops it.
    region : (Span, Span)
        Rows and columns in LR pixels. Parts are cropped to it and placed relative to its corner.
    scale : int

    Yields
    ------
    window : (slice, slice)
        Rows and columns of the part.
    part : ndarray, shape (h, w, C)
        Belongs to the caller.
    """
    sink = _QueueSink(info)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(sink)
        except _AbandonedError:
            return
        except BaseException as error:  # raised in the caller's thread
            errors.append(error)
        with suppress(_AbandonedError):
            sink.put(None)

    thread = threading.Thread(target=work, name="srcnn-stream", daemon=True)
    thread.start()
    try:
        while (part := sink.parts.get()) is not None:
            yield _cut(*part, [span.scaled(scale) for span in region])
        if errors:
            raise errors[0]
    finally:
        sink.abandoned = True
        while thread.is_alive():
            with suppress(Empty):  # it may wait for room in the queue
                sink.parts.get_nowait()
            thread.join(_POLL)


def _cut(
    window: Window, part: NDArray[Any], region: Sequence[Span]
) -> tuple[tuple[slice, slice], NDArray[Any]]:
    places, inner = [], []
    for place, span in zip(window, region, strict=True):
        start, stop = max(place.start, span.start), min(place.stop, span.stop)
        places.append(slice(start - span.start, stop - span.start))
        inner.append(slice(start - place.start, stop - place.start))
    return (places[0], places[1]), part[inner[0], inner[1]]


def spans_of(region: tuple[slice, slice] | None, shape: tuple[int, int]) -> tuple[Span, Span]:
    """Return the rows and columns of a region, by Python's rules for open and negative slices.

    Raises
    ------
    ArgumentError
        If the region has steps, or holds no pixel of the image.
    """
    if region is None:
        return Span(0, shape[0]), Span(0, shape[1])
    if len(region) != 2 or any(part.step not in (None, 1) for part in region):
        raise ArgumentError(f"region must be two slices (rows, columns) without steps, got {region}")
    y, x = (Span(*part.indices(length)[:2]) for part, length in zip(region, shape, strict=True))
    if y.size < 1 or x.size < 1:
        raise ArgumentError(
            f"the region {region} holds no pixel of an image of {shape[1]} x {shape[0]} pixels"
        )
    return y, x
