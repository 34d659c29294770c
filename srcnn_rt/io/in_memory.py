"""NumPy arrays as sources and sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system import arguments
from ..errors import ArgumentError, OutOfMemoryError
from ..image.info import ImageInfo
from ..options import ArrayLayout
from . import alpha_doubt
from .array_axes import meaning_of
from .array_like import SlicedSink, SlicedSource, native_sample_type
from .metadata import nodata_tag

Progress = Callable[[int, int], None]


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
    array: Any,
    layout: ArrayLayout | None = None,
    *,
    axes: str | None = None,
    image: int | None = None,
    look: bool = False,
    bands: bool = False,
    alpha: bool | None = None,
    classes: bool = False,
    nodata: float | None = None,
) -> SlicedSource:
    """Return an image of an array as a source, which is read window by window if it is not in memory.

    Warns if a channel is taken for alpha that does not look like one.

    Parameters
    ----------
    array : array_like
        With ``shape``, ``dtype`` and slicing, or what `numpy.asarray` takes. Masked samples of a masked array
        are invalid.
    axes : str, optional
        As `axes_of` returns them, which is the default.
    image : int, optional
        Which image, if there is an axis of images. None is for arrays of a single one.
    look : bool
        Look for a wrong alpha also in an array that is not in memory.
    layout, bands, alpha, classes, nodata
        As in `ArrayOptions`.

    Raises
    ------
    ArgumentError
        If its shape or type is not supported, or an option does not fit it.
    """
    array = as_sliced(array)
    if axes is None:
        axes, meaning = meaning_of(array, {"layout": layout, "bands": bands})
        bands = meaning["bands"]
    _check_not_empty(array)
    mask = None
    if isinstance(array, np.ma.MaskedArray):
        array, mask = np.ma.getdata(array), np.ma.getmaskarray(array)
    if image is None and image_count(array, axes) > 1:
        raise ArgumentError(f"the array holds {image_count(array, axes)} images; give one of them")
    at = {"n": image or 0} if "n" in axes else None
    source = SlicedSource(array, axes, bands=bands, alpha=alpha, classes=classes, at=at, mask=mask)
    arguments.real_numbers(nodata=nodata, optional=True)
    if nodata is not None:
        found = nodata_tag.held(nodata, source.info.dtype)
        nodata_tag.check("the array", nodata, found, source.info.dtype)
        source.info = replace(source.info, nodata=found)
    if alpha is None and source.info.layout.alpha and (look or source.in_memory):
        alpha_doubt.warn_of(source)
    return source


def as_sliced(array: Any) -> Any:
    """Return what can be sliced unchanged, and anything else as an array of NumPy.

    Raises
    ------
    ArgumentError
        If it is the name or the content of a file.
    """
    if isinstance(array, str | Path | bytes):
        shown = "bytes" if isinstance(array, bytes) else repr(array)
        raise ArgumentError(f"an array is needed, got {shown}; upscale_file takes files")
    sliced = all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__"))
    return array if sliced else np.asarray(array)


def _check_not_empty(array: Any) -> None:
    if 0 in array.shape:
        raise ArgumentError(f"an image must be (H, W) or (H, W, C) and not empty, got {array.shape}")


class Images:
    """The images of an array, and an array of the same kind and axes for their results.

    Parameters
    ----------
    array : ndarray
    axes : str
        As `axes_of` returns them.
    scale : int
    **options
        As in `ArrayOptions`, without the layout.

    Attributes
    ----------
    result : ndarray
        Filled by the sinks. A masked array for a masked array, whose mask is enlarged.
    """

    def __init__(self, array: NDArray[Any], axes: str, scale: int, **options: Any) -> None:
        self._array, self._axes, self._scale, self._options = array, axes, scale, options
        _check_not_empty(array)
        self.count = image_count(array, axes)
        shape = [n * scale if a in "yx" else n for a, n in zip(axes, array.shape, strict=True)]
        arguments.flags(classes=options.get("classes", False))
        dtype = native_sample_type(array.dtype, classes=bool(options.get("classes")))
        try:
            self.result: NDArray[Any] = np.empty(shape, dtype)
        except (MemoryError, ValueError) as error:  # the latter beyond any address
            raise OutOfMemoryError(f"the result does not fit into memory: {error}") from error
        if isinstance(array, np.ma.MaskedArray):
            mask = np.zeros(shape, np.bool_)
            self.result = np.ma.MaskedArray(self.result, mask, fill_value=array.fill_value)

    def __iter__(self) -> Iterator[tuple[SlicedSource, SlicedSink]]:
        """Yield the source and the sink of each image."""
        for k in range(self.count):
            source = array_source(self._array, axes=self._axes, image=k, **self._options)
            info = source.info.scaled(self._scale)
            at = {"n": k} if "n" in self._axes else None
            yield source, SlicedSink(self.result, info, 1, self._axes, at=at)


def image_count(array: Any, axes: str) -> int:
    """Return how many images an array with these axes holds."""
    return int(array.shape[axes.index("n")]) if "n" in axes else 1


def shared(progress: Progress | None, image: int, count: int) -> Progress | None:
    """Return what reports the progress of one of several images of one size as that of all."""
    if progress is None or count == 1:
        return progress
    return lambda done, total: progress(image * total + done, count * total)
