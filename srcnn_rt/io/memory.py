"""Pictures that are arrays already."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import Span
from ..picture import PictureInfo
from .base import Closing, Record


class ArraySource(Closing):
    """An (H, W, C) array as a source; nothing is copied."""

    by_rows = False
    in_memory = True

    def __init__(self, array: NDArray[Any], info: PictureInfo) -> None:
        self.info = info
        self._array = array

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        return self._array[y.start : y.stop, x.start : x.stop]

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        return np.ones((y.size, x.size), np.bool_)

    def close(self) -> None:
        pass


class ArraySink(Closing):
    """A new (H, W, C) array, filled in place.

    Attributes
    ----------
    array : the picture
    """

    block = (1, 1)
    max_bytes: int | None = None
    in_memory = True

    def __init__(self, info: PictureInfo) -> None:
        self.array = np.empty((*info.shape, info.layout.channels), info.dtype)

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        return self.array[y.start : y.stop, x.start : x.stop]

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        return {}  # the buffer is the place itself

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return False

    def close(self) -> None:
        pass
