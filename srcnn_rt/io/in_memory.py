"""NumPy arrays as sources and sinks."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..image.info import SAMPLE_TYPES, ImageInfo, Layout
from ..tiling.geometry import Span
from .protocols import Closing, Record


class ArraySource(Closing):
    """An array as a source; only bytes in foreign order are copied.

    Parameters
    ----------
    array : ndarray, shape (H, W, C)
        Of the type `info.dtype`, in either byte order.
    info : ImageInfo
        Its description.
    """

    by_rows = on_device = False
    in_memory = True

    def __init__(self, array: NDArray[Any], info: ImageInfo) -> None:
        self.info = info
        self._array = array

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        return self._array[y.start : y.stop, x.start : x.stop].astype(self.info.dtype, copy=False)

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        return np.ones((y.size, x.size), np.bool_)


class ArraySink(Closing):
    """A new array that is filled in place.

    Parameters
    ----------
    info : ImageInfo
        Size, layout and sample type of the image.

    Attributes
    ----------
    array : ndarray, shape (H, W, C)
        The image.
    """

    block = (1, 1)
    max_bytes: int | None = None
    in_memory = True

    def __init__(self, info: ImageInfo) -> None:
        self.array = np.empty((*info.shape, info.layout.channels), info.dtype)

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        return self.array[y.start : y.stop, x.start : x.stop]

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        return {}  # the buffer is a view of the array

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return False


def array_source(
    image: NDArray[Any],
    *,
    bands: bool = False,
    alpha: bool | None = None,
    classes: bool = False,
    nodata: float | None = None,
) -> ArraySource:
    """Return an array as a source; the arguments are those of `Engine.upscale`.

    Raises
    ------
    ArgumentError
        If it has another shape, or another dtype than `SAMPLE_TYPES`.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ArgumentError(f"an image must be (H, W) or (H, W, C) and not empty, got {image.shape}")
    dtype = native_sample_type(image.dtype, classes=classes)
    pixels = image if image.ndim == 3 else image[:, :, np.newaxis]
    layout = Layout.of(pixels.shape[2], bands=bands, alpha=alpha, classes=classes)
    shape = (pixels.shape[0], pixels.shape[1])
    return ArraySource(pixels, ImageInfo(shape, layout, dtype, nodata=nodata))


def native_sample_type(dtype: Any, *, classes: bool) -> np.dtype[Any]:
    """Return the sample type of an array in native byte order.

    Parameters
    ----------
    dtype : dtype or object
        The array's ``dtype`` attribute.
    classes : bool
        Whether the samples are category numbers, which may be integers of any type.

    Raises
    ------
    ArgumentError
        If it is not supported.
    """
    found: np.dtype[Any] | None = None
    with suppress(TypeError):  # other libraries have types that NumPy does not know
        found = np.dtype(dtype)
    if found is not None and classes:
        if found.kind not in "iu":
            raise ArgumentError(f"classes are whole numbers, got {found}")
    elif found is None or found.name not in SAMPLE_TYPES:
        raise ArgumentError(f"samples must be {', '.join(SAMPLE_TYPES)}, got {dtype}")
    return np.dtype(found.name)
