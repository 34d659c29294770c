"""Images that are stored turned: from places of the upright image to rows and columns of the file."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ...tiling.geometry import Span

# Up to this many bytes are kept in memory, more in a temporary file.
IN_MEMORY = 256 * 2**20
# Decoded at a time.
_BAND_BYTES = 32 * 2**20


def stored(y: Span, x: Span, shape: tuple[int, int], turned: int) -> tuple[Span, Span]:
    """Return the file's rows and columns of a place of the upright image.

    Parameters
    ----------
    shape : (H, W), upright
    turned : TIFF's orientation, 1 to 8
    """
    h, w = shape
    if turned in (3, 4, 7, 8):
        y = Span(h - y.stop, h - y.start)
    if turned in (2, 3, 6, 7):
        x = Span(w - x.stop, w - x.start)
    return (x, y) if turned >= 5 else (y, x)


class Kept:
    """All samples of a page, decoded once from the first row to the last.

    An image that stands on its head or lies on its side would otherwise be decoded backward or across
    its strips, each of them again for every part that is read.

    Parameters
    ----------
    path : for messages
    shape, dtype : of the samples, rows first
    read : returns (h, w, C) of some of the file's rows
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        read: Callable[[Span], NDArray[Any]],
    ) -> None:
        row = shape[1] * shape[2] * dtype.itemsize
        self.samples = self._room(path, shape, dtype, row * shape[0])
        step = max(1, _BAND_BYTES // row)
        for top in range(0, shape[0], step):
            rows = Span(top, min(shape[0], top + step))
            self.samples[rows.start : rows.stop] = read(rows)

    @staticmethod
    def _room(path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], size: int) -> NDArray[Any]:
        if size <= IN_MEMORY:
            return np.empty(shape, dtype)
        try:
            with tempfile.TemporaryFile(prefix="srcnn-rt-") as file:
                # All of it now: a full disk must be an error here, not a signal later.
                os.posix_fallocate(file.fileno(), 0, size)
                room = mmap.mmap(file.fileno(), size)  # holds the file for as long as it lives
        except OSError as error:
            raise ImageError(
                f"{path}: a turned image needs {size} bytes in {tempfile.gettempdir()}: {error.strerror}"
            ) from error
        return np.frombuffer(room, dtype).reshape(shape)
