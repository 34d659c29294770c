"""Images that are arrays already."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..image.info import SAMPLE_TYPES, ImageInfo, Layout
from ..tiling.geometry import Span
from .protocols import Closing, Record


class ArraySource(Closing):
    """An (H, W, C) array as a source; nothing is copied, but where its bytes are in the other order."""

    by_rows = False
    in_memory = True

    def __init__(self, array: NDArray[Any], info: ImageInfo) -> None:
        self.info = info
        self._array = array

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        return self._array[y.start : y.stop, x.start : x.stop].astype(self.info.dtype, copy=False)

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        return np.ones((y.size, x.size), np.bool_)

    def close(self) -> None:
        pass


class ArraySink(Closing):
    """A new (H, W, C) array, filled in place.

    Attributes
    ----------
    array : the image
    """

    block = (1, 1)
    max_bytes: int | None = None
    in_memory = True

    def __init__(self, info: ImageInfo) -> None:
        self.array = np.empty((*info.shape, info.layout.channels), info.dtype)

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        return self.array[y.start : y.stop, x.start : x.stop]

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        return {}  # the buffer is the place itself

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return False

    def close(self) -> None:
        pass


def array_source(
    image: NDArray[Any],
    *,
    bands: bool = False,
    alpha: bool | None = None,
    classes: bool = False,
    nodata: float | None = None,
) -> ArraySource:
    """Take an array for an image, as `Engine.upscale` describes it.

    Raises
    ------
    ArgumentError
        If the shape or dtype is another one.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ArgumentError(f"an image must be (H, W) or (H, W, C) and not empty, got {image.shape}")
    if classes:
        if image.dtype.kind not in "iu":
            raise ArgumentError(f"classes are whole numbers, got {image.dtype}")
    elif image.dtype.name not in SAMPLE_TYPES:
        raise ArgumentError(f"an image's samples must be {', '.join(SAMPLE_TYPES)}, got {image.dtype}")
    pixels = image if image.ndim == 3 else image[:, :, np.newaxis]
    layout = Layout.of(pixels.shape[2], bands=bands, alpha=alpha, classes=classes)
    shape = (pixels.shape[0], pixels.shape[1])
    return ArraySource(pixels, ImageInfo(shape, layout, np.dtype(pixels.dtype.name), nodata=nodata))
