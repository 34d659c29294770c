"""Yield the finished parts of an image one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..image.info import ImageInfo
from ..io.protocols import Record, Sink
from ..tiling.geometry import Region, Span

Window = tuple[slice, slice]


class _PartSink:
    """Keeps every part until it is taken. Parts are as large as a chunk of a TIFF, which bounds memory."""

    in_memory = False
    block = (1, 1)
    max_bytes: int | None = 4 * 2**20

    def __init__(self, info: ImageInfo) -> None:
        self._info = info
        self.parts: deque[tuple[Window, NDArray[Any]]] = deque()

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        # A new array for each part, because the caller keeps it.
        return np.empty((y.size, x.size, self._info.layout.channels), self._info.dtype)

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        if mask is not None:
            valid = mask.reshape(*mask.shape[:2], -1)
            block = np.ma.MaskedArray(block, np.broadcast_to(~valid, block.shape))
        self.parts.append(((slice(y.start, y.stop), slice(x.start, x.stop)), block))
        return {}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return False


def parts(info: ImageInfo, steps: Callable[[Sink], Iterator[None]]) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Yield what `steps` writes into a sink. While the caller works on one part, the next are computed.

    Parameters
    ----------
    info : ImageInfo
        Of the result.
    steps : callable
        Takes the sink, and writes into it before each step.

    Yields
    ------
    window : (slice, slice)
        Rows and columns of the part in the sink.
    part : ndarray, shape (h, w, C)
        Belongs to the caller.
    """
    sink = _PartSink(info)
    for _ in steps(sink):
        while sink.parts:
            yield sink.parts.popleft()


def region_of(region: tuple[slice, slice] | None, shape: tuple[int, int]) -> Region:
    """Return a region into a sink of its own, by Python's rules for open and negative slices.

    None is the whole image.

    Raises
    ------
    ArgumentError
        If it is no pair of slices, has steps, or holds no pixel of the image.
    """
    if region is None:
        return Region.whole(shape)
    try:
        rows, columns = region
        spans = [Span(*part.indices(n)[:2]) for part, n in zip((rows, columns), shape, strict=True)]
        stepped = any(part.step not in (None, 1) for part in region)
    except (TypeError, ValueError, AttributeError):
        stepped = True
    if stepped:
        raise ArgumentError(f"region must be two slices (rows, columns) without steps, got {region!r}")
    y, x = spans
    if y.size < 1 or x.size < 1:
        raise ArgumentError(
            f"the region {region} holds no pixel of an image of {shape[1]} x {shape[0]} pixels"
        )
    return Region(y, x, (y.start, x.start))
