"""Finished parts of an image, one after the other, for pipelines that want them as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..image.info import ImageInfo
from ..io import Record, Sink
from ..tiling.geometry import Span

Window = tuple[slice, slice]
AHEAD = 2  # parts that wait for whoever takes them
_POLL = 0.1  # seconds


class _AbandonedError(Exception):
    """Nobody takes the parts any more."""


class _QueueSink:
    """Gives every part away. As large as one chunk of a TIFF, so that memory does not grow."""

    in_memory = False
    block = (256, 256)
    max_bytes: int | None = 4 * 2**20

    def __init__(self, info: ImageInfo) -> None:
        self._info = info
        self.parts: Queue[tuple[Window, NDArray[Any]] | None] = Queue(AHEAD)
        self.abandoned = threading.Event()

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        # A new one for each part: it is the taker's to keep.
        return np.empty((y.size, x.size, self._info.layout.channels), self._info.dtype)

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        self.put(((slice(y.start, y.stop), slice(x.start, x.stop)), block))
        return {}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return False

    def put(self, part: tuple[Window, NDArray[Any]] | None) -> None:
        while not self.abandoned.is_set():
            with suppress(Full):
                self.parts.put(part, timeout=_POLL)
                return
        raise _AbandonedError


def parts(
    info: ImageInfo, run: Callable[[Sink], None], region: tuple[Span, Span], scale: int
) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Yield what `run` writes into the sink it is given, while it runs in a thread of its own.

    Parameters
    ----------
    info : of the result
    run : its exceptions are raised here; if the iterator is closed before its end, `run` is stopped
    region : (y, x), LR, to which parts are cut, and whose corner is their origin

    Yields
    ------
    (rows, columns) as slices, and the (h, w, C) part at that place, the caller's to keep
    """
    sink = _QueueSink(info)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run(sink)
        except _AbandonedError:
            return
        except BaseException as error:  # raised where the parts are taken
            errors.append(error)
        with suppress(_AbandonedError):
            sink.put(None)

    thread = threading.Thread(target=work, name="srcnn-stream", daemon=True)
    thread.start()
    try:
        while (part := sink.parts.get()) is not None:
            yield _cut(*part, [Span(s.start * scale, s.stop * scale) for s in region])
        if errors:
            raise errors[0]
    finally:
        sink.abandoned.set()
        with suppress(Empty):
            while True:
                sink.parts.get_nowait()
        thread.join()


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
    """Return a region as spans, with Python's rules for what is left out or beyond the end."""
    if region is None:
        return Span(0, shape[0]), Span(0, shape[1])
    if len(region) != 2 or any(part.step not in (None, 1) for part in region):
        raise ArgumentError(f"a region is (rows, columns) as slices without steps, got {region}")
    y, x = (Span(*part.indices(length)[:2]) for part, length in zip(region, shape, strict=True))
    if y.size < 1 or x.size < 1:
        raise ArgumentError(f"the region {region} holds no pixel of an image of {shape[1]} x {shape[0]}")
    return y, x
