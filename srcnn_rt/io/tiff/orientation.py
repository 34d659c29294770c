"""Images that are stored rotated or mirrored: windows of the upright image in the stored one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError
from ...tiling.geometry import Span

IN_MEMORY = 256 * 2**20  # bytes that are kept in memory; larger images go to a temporary file
_BAND_BYTES = 32 * 2**20  # decoded at a time


def stored_window(y: Span, x: Span, shape: tuple[int, int], orientation: int) -> tuple[Span, Span]:
    """Return the stored rows and columns of a window of the upright image.

    Parameters
    ----------
    y, x : Span
        Rows and columns of the upright image.
    shape : tuple of (int, int)
        Height and width of the upright image.
    orientation : int
        TIFF's Orientation, 1 to 8.
    """
    h, w = shape
    if orientation in (3, 4, 7, 8):
        y = Span(h - y.stop, h - y.start)
    if orientation in (2, 3, 6, 7):
        x = Span(w - x.stop, w - x.start)
    return (x, y) if orientation >= 5 else (y, x)


def decode_page(
    path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], read: Callable[[Span], NDArray[Any]]
) -> NDArray[Any]:
    """Return all samples of a page, decoded once from the first row to the last.

    A striped image that is upside down or on its side would otherwise be decoded backward or across its
    strips, and each strip again for every window.

    Parameters
    ----------
    path : Path
        For error messages.
    shape : tuple of (int, int, int)
        Stored height, width and channels.
    dtype : numpy.dtype
        Type of the samples.
    read : callable
        Returns some stored rows as (h, w, C).
    """
    row = shape[1] * shape[2] * dtype.itemsize
    samples = _allocate(path, shape, dtype, row * shape[0])
    step = max(1, _BAND_BYTES // row)
    for top in range(0, shape[0], step):
        rows = Span(top, min(shape[0], top + step))
        samples[rows.start : rows.stop] = read(rows)
    return samples


def _allocate(path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="srcnn-rt-") as file:
            # Allocate now: if the disk is full, this raises an error instead of a fatal signal later.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", shape=shape)  # keeps the file alive
    except OSError as error:
        raise ImageError(
            f"{path}: a rotated image needs {size} bytes in {tempfile.gettempdir()}: {error.strerror}"
        ) from error
