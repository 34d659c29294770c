"""NumPy arrays as sources and sinks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..image.info import ImageInfo
from .array_like import SlicedSink, SlicedSource


class ArraySource(SlicedSource):
    """An array as a source; only bytes in foreign order are copied.

    Parameters
    ----------
    array : ndarray, shape (H, W, C)
        Of the type `info.dtype`, in either byte order.
    info : ImageInfo
        Its description.
    """

    def __init__(self, array: NDArray[Any], info: ImageInfo) -> None:
        super().__init__(array, layout=info.layout, classes=info.layout.color == "classes")
        self.info = info


class ArraySink(SlicedSink):
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

    max_bytes: int | None = None

    def __init__(self, info: ImageInfo) -> None:
        self.array = np.empty((*info.shape, info.layout.channels), info.dtype)
        # The caller has the mask of its image.
        super().__init__(self.array, replace(info, masked=False), 1, "yxc")


def array_source(
    image: NDArray[Any],
    *,
    bands: bool = False,
    alpha: bool | None = None,
    classes: bool = False,
    nodata: float | None = None,
) -> SlicedSource:
    """Return an array as a source; the arguments are those of `Engine.upscale`.

    Raises
    ------
    ArgumentError
        If it has another shape, or another dtype than `SAMPLE_TYPES`.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ArgumentError(f"an image must be (H, W) or (H, W, C) and not empty, got {image.shape}")
    return SlicedSource(image, bands=bands, alpha=alpha, classes=classes, nodata=nodata)
