"""Array-like objects (Zarr, HDF5, memory maps, dask) as sources and sinks, window by window.

They need ``shape``, ``dtype`` and slicing, and may be larger than memory. Their libraries are not imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ImageError, OutputError
from ..image.info import SAMPLE_TYPES, ImageInfo, Layout
from ..tiling.geometry import Span
from .foreign_errors import foreign_errors
from .protocols import Closing, Record, TwoBuffers

# The aimed size of a write: several chunks, which a store compresses in parallel. A larger last write would
# overlap with no computing.
WRITE_BYTES = 4 * 2**20
# Largest buffer of whole chunks; larger chunks are written in parts.
BLOCK_BYTES = 32 * 2**20
# Chunks as wide as the image are read as whole rows, if a row is not larger than this.
ROW_BYTES = 2**18


class Sliced(Protocol):
    """The part of an array's interface that reading needs."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Assigned(Sliced, Protocol):
    """The part of an array's interface that writing needs."""

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


class SlicedSource(Closing):
    """An array-like object as a source. It is sliced window by window, never read whole.

    Parameters
    ----------
    array : Sliced
        Of a type in `SAMPLE_TYPES`, in either byte order. Lazy arrays (dask) are computed per window.
    axes : str, optional
        One letter per axis: y, x, at most one c, and those in `at`, such as ``"cyx"`` or ``"tzyx"``.
        None means ``"yx"`` or ``"yxc"``.
    bands, alpha, classes
        As in `Layout.of`. Classes may be integers of any type.
    layout : Layout, optional
        Meaning of the channels, in place of `bands`, `alpha` and `classes`.
    at : mapping of str to int, optional
        Index on every other axis, such as ``{"t": 3, "z": 0}``.
    nodata, top
        As in `ImageInfo`.
    mask : ndarray of bool, optional
        Of the same shape: True where a sample is masked, which NumPy calls invalid.
    name : str
        Name of the array in error messages.

    Raises
    ------
    ArgumentError
        If the type, shape or axes of the array are not supported.
    """

    on_device = False

    def __init__(
        self,
        array: Sliced,
        axes: str | None = None,
        *,
        bands: bool = False,
        alpha: bool | None = None,
        classes: bool = False,
        layout: Layout | None = None,
        at: Mapping[str, int] | None = None,
        nodata: float | None = None,
        top: float | None = None,
        mask: NDArray[np.bool_] | None = None,
        name: str = "the array",
    ) -> None:
        self._array, self._mask, self._name = array, mask, name
        self._axes = _Axes(tuple(array.shape), axes, at or {})
        self._dtype = native_sample_type(array.dtype, classes=classes)
        h, w, channels = self._axes.size
        if min(h, w, channels) < 1:
            raise ArgumentError(f"an image must not be empty, got an array of {tuple(array.shape)}")
        layout = layout or Layout.of(channels, bands=bands, alpha=alpha, classes=classes)
        if layout.channels != channels:
            raise ArgumentError(f"the layout has {layout.channels} channels, the array {channels}")
        masked = mask is not None
        self.info = ImageInfo((h, w), layout, self._dtype, nodata=nodata, masked=masked, top=top)
        self.in_memory = _in_memory(array)
        chunk = _chunk(array, ("chunks",))
        self.by_rows = (
            chunk is not None
            and self._axes.of(chunk)[1] >= w
            and w * channels * self._dtype.itemsize <= ROW_BYTES
        )

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        with foreign_errors(ImageError, f"{self._name} cannot be read"):
            part = np.asarray(self._array[self._axes.key(y, x)])
        return self._axes.image(part.astype(self._dtype, copy=False))

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        """Return which samples of a window are valid, (h, w, C)."""
        if self._mask is None:
            return np.ones((y.size, x.size, 1), np.bool_)
        return ~self._axes.image(self._mask[self._axes.key(y, x)])


class SlicedSink(Closing):
    """An existing array-like object as a sink. Every chunk is written once, as a whole.

    Windows are aligned to the least common multiple of the chunk and `scale`: at scale 3, chunks of 500 are
    written in groups of 3 × 3. If a group needs more than `BLOCK_BYTES` (such as chunks of 1,000 in float32
    RGB at scale 3), its chunks are written in parts. This is slow, because the store reads and rewrites them.
    The same happens to chunks that contain several indices of an axis in `at`.

    Parameters
    ----------
    array : Assigned
        Of the image's size and type, in either byte order. A masked array of NumPy also takes the mask of
        the image.
    info : ImageInfo
        Description of the result.
    scale : int
        Scale factor.
    axes, at, name
        As in `SlicedSource`.

    Raises
    ------
    ArgumentError
        If the array's size, type or axes do not match the image.
    """

    max_bytes: int | None = WRITE_BYTES

    def __init__(
        self,
        array: Assigned,
        info: ImageInfo,
        scale: int,
        axes: str | None = None,
        *,
        at: Mapping[str, int] | None = None,
        name: str = "the array",
    ) -> None:
        self._array, self._name = array, name
        self._axes = _Axes(tuple(array.shape), axes, at or {})
        wanted = (*info.shape, info.layout.channels)
        if self._axes.size != wanted:
            raise ArgumentError(
                f"an array for {_size(wanted)} is needed, got {_size(self._axes.size)} {tuple(array.shape)}"
            )
        if native_sample_type(array.dtype, classes=info.layout.color == "classes") != info.dtype:
            raise ArgumentError(f"an array of {info.dtype} is needed, got {np.dtype(array.dtype)}")
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise ArgumentError("a writable array is needed, got a read-only one")
        self._mask: NDArray[np.bool_] | None = None
        if isinstance(array, np.ma.MaskedArray):
            array.mask = np.ma.getmaskarray(array)
            self._mask, self._array = array.mask, np.ma.getdata(array)
        elif info.masked:
            raise ArgumentError("an array cannot hold the image's mask, unless it is a masked array of NumPy")
        self._dtype = np.dtype(array.dtype)
        self.in_memory = _in_memory(array) and self._dtype.isnative
        chunk = _chunk(array, ("shards", "chunks"))
        self.block = (1, 1) if chunk is None else _block(self._axes.of(chunk), info, scale)
        self._buffers = TwoBuffers(info.dtype)

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        if self.in_memory:
            return self._axes.image(self._array[self._axes.key(y, x)])
        # Contiguous in the order of the array's axes.
        return self._axes.image(self._buffers.next(self._axes.shape(y, x)))

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        if self._mask is not None and mask is not None:
            valid = mask if mask.ndim == 3 else mask[:, :, np.newaxis]
            np.logical_not(valid, out=self._axes.image(self._mask[self._axes.key(y, x)]))
        if self.in_memory:
            return {}  # the buffer is a view of the array
        part = self._axes.stored(block)
        with foreign_errors(OutputError, f"{self._name} cannot be written"):
            self._array[self._axes.key(y, x)] = part.astype(self._dtype, copy=False)
        return {}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Return False: the store may not have flushed what was written."""
        return False

    def close(self) -> None:
        """Flush the array if it supports this (HDF5, memory maps); the caller closes it."""
        flush = getattr(self._array, "flush", None)
        if callable(flush):
            with foreign_errors(OutputError, f"{self._name} cannot be written"):
                flush()


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


class _Axes:
    """Positions of y, x and c among the axes of an array, and transposing to (h, w, C) and back."""

    def __init__(self, shape: tuple[int, ...], axes: str | None, at: Mapping[str, int]) -> None:
        if axes is None:
            axes = {2: "yx", 3: "yxc"}.get(len(shape))
            if axes is None:
                raise ArgumentError(f"an array with {len(shape)} axes needs axes such as 'tzyx', got {shape}")
        others = set(axes) - set("yxc")
        if len(set(axes)) < len(axes) or not {"y", "x"} <= set(axes) or others != set(at):
            also = f" and {', '.join(sorted(at))}" if at else ""
            raise ArgumentError(f"axes must be y, x, optionally c{also}, each once, got {axes!r}")
        if len(axes) != len(shape):
            raise ArgumentError(f"axes {axes!r} name {len(axes)} axes, the array has {len(shape)}: {shape}")
        for letter in others:
            if not 0 <= at[letter] < shape[axes.index(letter)]:
                count = shape[axes.index(letter)]
                raise ArgumentError(f"{letter} must be from 0 to {count - 1}, got {at[letter]}")
        self._axes, self._at = axes, dict(at)
        sizes = dict(zip(axes, shape, strict=True))
        self.size = (sizes["y"], sizes["x"], sizes.get("c", 1))  # (H, W, C)
        kept = [a for a in axes if a not in at]
        self._to = [kept.index(a) for a in "yxc" if a in kept]
        self._back = ["yxc".index(a) for a in kept]

    def of(self, sizes: tuple[int, ...]) -> tuple[int, int]:
        """Return the (h, w) of a tuple with one size per axis."""
        return sizes[self._axes.index("y")], sizes[self._axes.index("x")]

    def key(self, y: Span, x: Span) -> tuple[slice | int, ...]:
        """Return the index of a window with all its channels."""
        place: dict[str, slice | int] = {
            **self._at,
            "y": slice(y.start, y.stop),
            "x": slice(x.start, x.stop),
            "c": slice(0, self.size[2]),
        }
        return tuple(place[a] for a in self._axes)

    def shape(self, y: Span, x: Span) -> tuple[int, ...]:
        """Return the shape of what `key` indexes."""
        sizes = (y.size, x.size, self.size[2])
        return tuple(sizes[k] for k in self._back)

    def image(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return a view of what `key` indexes as (h, w, C)."""
        part = part.transpose(self._to)
        return part if part.ndim == 3 else part[:, :, np.newaxis]

    def stored(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an (h, w, C) array with the axes of what `key` indexes."""
        return (image if len(self._back) == 3 else image[:, :, 0]).transpose(self._back)


def _in_memory(array: Sliced) -> bool:
    return isinstance(array, np.ndarray) and not isinstance(array, np.memmap)


def _chunk(array: Sliced, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the first attribute that has one size per axis; dask has lists of sizes instead."""
    for name in names:
        sizes = getattr(array, name, None)
        if isinstance(sizes, tuple) and len(sizes) == len(array.shape):
            try:
                found = tuple(int(n) for n in sizes)
            except TypeError:
                continue
            if min(found) >= 1:
                return found
    return None


def _block(chunk: tuple[int, int], info: ImageInfo, scale: int) -> tuple[int, int]:
    """Return the smallest block of whole chunks and whole LR pixels, (1, 1) if that is too large."""
    # A block is never larger than the image, but chunks may be.
    h, w = (min(math.lcm(c, scale), n) for c, n in zip(chunk, info.shape, strict=True))
    bytes_ = h * w * info.layout.channels * info.dtype.itemsize
    return (h, w) if bytes_ <= BLOCK_BYTES else (1, 1)


def _size(size: tuple[int, int, int]) -> str:
    h, w, channels = size
    return f"{w} x {h} x {channels}"
