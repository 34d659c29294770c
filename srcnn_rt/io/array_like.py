"""Arrays that live elsewhere (Zarr, HDF5, memory maps, dask) as images, window by window.

Anything with ``shape``, ``dtype`` and slicing by integers and ranges will do; nothing is imported for
it. Only what is asked for is sliced, so that an array larger than memory is an image like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ImageError, OutputError
from ..image.info import SAMPLE_TYPES, ImageInfo, Layout, Metadata
from ..tiling.geometry import Span
from .protocols import Closing, Record

# What one write holds, about: enough chunks for a store to compress them side by side, and little
# for the last one, which nothing overlaps.
WRITE_BYTES = 4 * 2**20
# A buffer of whole chunks may hold this much; chunks that need more are written in parts.
BLOCK_BYTES = 32 * 2**20
# Chunks as wide as the image are read once, as strips of some hundred rows, up to rows of this size.
ROW_BYTES = 2**18


class Sliced(Protocol):
    """What a source needs of an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Assigned(Sliced, Protocol):
    """What a sink needs of an array."""

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


class SlicedSource(Closing):
    """An image in an array that is sliced, never read whole.

    Parameters
    ----------
    array : of one of ``SAMPLE_TYPES``, either byte order; results that are computed when asked for
        (dask) are computed window by window
    axes : what each axis of the array is: y, x and at most one c, and the letters in `at`, such as
        ``"yx"``, ``"cyx"``, ``"tzyx"``; ``"yx"`` or ``"yxc"`` if None
    bands : whether channels have no common meaning, so that each is upscaled on its own; else one is
        gray, two gray and alpha, three RGB, four RGB and alpha
    alpha, classes : as in `Layout.of`; classes may be whole numbers of any type
    layout : what the channels mean, in place of `bands`, `alpha` and `classes`
    at : the index on every other axis, such as ``{"t": 3, "z": 0}``
    metadata, nodata, top : of the image's info
    name : what errors call the array

    Raises
    ------
    ArgumentError
        If the array's type, shape or axes are others.
    """

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
        metadata: Metadata | None = None,
        nodata: float | None = None,
        top: float | None = None,
        name: str = "the array",
    ) -> None:
        self._array, self._name = array, name
        self._axes = _Axes(tuple(array.shape), axes, at or {})
        self._dtype = _sample_type(array, classes=classes)
        h, w, channels = self._axes.size
        if min(h, w, channels) < 1:
            raise ArgumentError(f"an image must not be empty, got an array of {tuple(array.shape)}")
        layout = layout or Layout.of(channels, bands=bands, alpha=alpha, classes=classes)
        if layout.channels != channels:
            raise ArgumentError(f"the layout has {layout.channels} channels, the array {channels}")
        self.info = ImageInfo((h, w), layout, self._dtype, metadata or Metadata(), nodata, top=top)
        self.in_memory = _in_memory(array)
        chunk = _chunk(array, ("chunks",))
        self.by_rows = (
            chunk is not None
            and self._axes.of(chunk)[1] >= w
            and w * channels * self._dtype.itemsize <= ROW_BYTES
        )

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        try:
            part = np.asarray(self._array[self._axes.key(y, x)])
        except (MemoryError, ImageError):
            raise
        except Exception as error:  # every store has errors of its own
            raise ImageError(f"{self._name} cannot be read: {_reason(error)}") from error
        return self._axes.image(part.astype(self._dtype, copy=False))

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        return np.ones((y.size, x.size), np.bool_)

    def close(self) -> None:
        """Let go of nothing: the array is the caller's."""


class SlicedSink(Closing):
    """An image written into an array that is there already, in whole chunks, each once.

    The edges of what is written are multiples of the array's chunk and of `scale`, so of their least
    common multiple: chunks of 500 at x3 are written three by three. Where that would be more than
    ``BLOCK_BYTES`` (chunks of 1,000 with float32 RGB at x3, or a chunk that is the whole image), chunks
    are written in parts, which is right but slow: the store reads, changes and writes them again. Chunks
    that reach over several places of an axis in `at` are, too.

    Parameters
    ----------
    array : of the image's size and type, either byte order; it needs slice assignment
    info : of the image that is written
    scale : HR pixels an LR pixel
    axes, at, name : as in `SlicedSource`
    block : (h, w) of a chunk in HR pixels, in place of the array's ``shards`` or ``chunks``

    Raises
    ------
    ArgumentError
        If the array's size, type or axes are not those of the image.
    """

    max_bytes: int | None = WRITE_BYTES

    def __init__(
        self,
        array: Assigned,
        info: ImageInfo,
        scale: int,
        axes: str | None = None,
        *,
        block: tuple[int, int] | None = None,
        at: Mapping[str, int] | None = None,
        name: str = "the array",
    ) -> None:
        if axes is None and info.layout.channels == 1 and len(array.shape) == 2:
            axes = "yx"
        self._array, self._name, self._info = array, name, info
        self._axes = _Axes(tuple(array.shape), axes, at or {})
        wanted = (*info.shape, info.layout.channels)
        if self._axes.size != wanted:
            raise ArgumentError(
                f"an array for {_size(wanted)} is needed, got {_size(self._axes.size)} {tuple(array.shape)}"
            )
        if _sample_type(array, classes=info.layout.color == "classes") != info.dtype:
            raise ArgumentError(f"an array of {info.dtype} is needed, got {np.dtype(array.dtype)}")
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise ArgumentError("an array that can be written is needed, got a read-only one")
        if info.masked:
            raise ArgumentError("an array has no place for the image's mask")
        self._dtype = np.dtype(array.dtype)
        self.in_memory = _in_memory(array) and self._dtype.isnative
        chunk = _chunk(array, ("shards", "chunks"))
        if block is None and chunk is not None:
            block = self._axes.of(chunk)
        self.block = _block(block, info, scale)
        # One is filled while the other is written.
        self._buffers: list[NDArray[Any]] = [np.empty(0, info.dtype)] * 2

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        if self.in_memory:
            return self._axes.image(self._array[self._axes.key(y, x)])
        shape = self._axes.shape(y, x)
        size = math.prod(shape)
        free = self._buffers.pop(0)
        if free.size < size:
            free = np.empty(size, self._info.dtype)
        self._buffers.append(free)
        return self._axes.image(free[:size].reshape(shape))  # in the array's own order

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        if self.in_memory:
            return {}  # the buffer is the place itself
        part = self._axes.stored(block)
        try:
            self._array[self._axes.key(y, x)] = part.astype(self._dtype, copy=False)
        except MemoryError:
            raise
        except Exception as error:  # every store has errors of its own
            raise OutputError(f"{self._name} cannot be written: {_reason(error)}") from error
        return {}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Take over nothing: what a store has not flushed yet is not known here."""
        return False

    def close(self) -> None:
        """Flush the array if it can be (HDF5, memory maps); it stays open, it is the caller's."""
        flush = getattr(self._array, "flush", None)
        if callable(flush):
            try:
                flush()
            except Exception as error:
                raise OutputError(f"{self._name} cannot be written: {_reason(error)}") from error


class _Axes:
    """Where y, x and c are in an array: slices, and arrays turned to (h, w, C) and back."""

    def __init__(self, shape: tuple[int, ...], axes: str | None, at: Mapping[str, int]) -> None:
        if axes is None:
            axes = {2: "yx", 3: "yxc"}.get(len(shape))
            if axes is None:
                raise ArgumentError(f"an array of {len(shape)} axes needs axes that name them, got {shape}")
        others = set(axes) - set("yxc")
        if len(set(axes)) < len(axes) or not {"y", "x"} <= set(axes) or others != set(at):
            also = f" and {', '.join(sorted(at))}" if at else ""
            raise ArgumentError(f"axes must be y, x, at most c{also}, once each, got {axes!r}")
        if len(axes) != len(shape):
            raise ArgumentError(f"axes {axes!r} name {len(axes)} axes, the array has {len(shape)}: {shape}")
        for letter in others:
            if not 0 <= at[letter] < shape[axes.index(letter)]:
                many = shape[axes.index(letter)]
                raise ArgumentError(f"{letter} must be from 0 to {many - 1}, got {at[letter]}")
        self._axes, self._at = axes, dict(at)
        sizes = dict(zip(axes, shape, strict=True))
        self.size = (sizes["y"], sizes["x"], sizes.get("c", 1))  # (H, W, C)
        kept = [a for a in axes if a not in at]
        self._to = [kept.index(a) for a in "yxc" if a in kept]
        self._back = ["yxc".index(a) for a in kept]

    def of(self, sizes: tuple[int, ...]) -> tuple[int, int]:
        """Return the (h, w) in sizes given for every axis."""
        return sizes[self._axes.index("y")], sizes[self._axes.index("x")]

    def key(self, y: Span, x: Span) -> tuple[slice | int, ...]:
        """Return the slices of a window with all its channels."""
        place: dict[str, slice | int] = {
            **self._at,
            "y": slice(y.start, y.stop),
            "x": slice(x.start, x.stop),
            "c": slice(0, self.size[2]),
        }
        return tuple(place[a] for a in self._axes)

    def shape(self, y: Span, x: Span) -> tuple[int, ...]:
        """Return the shape of what `key` slices."""
        sizes = (y.size, x.size, self.size[2])
        return tuple(sizes[k] for k in self._back)

    def image(self, part: NDArray[Any]) -> NDArray[Any]:
        """Turn what `key` slices to (h, w, C); a view."""
        part = part.transpose(self._to)
        return part if part.ndim == 3 else part[:, :, np.newaxis]

    def stored(self, image: NDArray[Any]) -> NDArray[Any]:
        """Turn (h, w, C) to what `key` slices; a view."""
        return (image if len(self._back) == 3 else image[:, :, 0]).transpose(self._back)


def _sample_type(array: Sliced, *, classes: bool) -> np.dtype[Any]:
    """Return an array's type in native byte order."""
    dtype: np.dtype[Any] | None
    try:
        dtype = np.dtype(array.dtype)
    except TypeError:
        dtype = None
    if classes and dtype is not None:
        if dtype.kind not in "iu":
            raise ArgumentError(f"classes are whole numbers, got {dtype}")
    elif dtype is None or dtype.name not in SAMPLE_TYPES:
        found = array.dtype if dtype is None else dtype
        raise ArgumentError(f"samples must be {', '.join(SAMPLE_TYPES)}, got {found}")
    return np.dtype(dtype.name)


def _in_memory(array: Sliced) -> bool:
    return isinstance(array, np.ndarray) and not isinstance(array, np.memmap)


def _chunk(array: Sliced, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the first of the attributes that is one size an axis; dask's lists of sizes are not."""
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


def _block(chunk: tuple[int, int] | None, info: ImageInfo, scale: int) -> tuple[int, int]:
    """Return the smallest block of whole chunks and whole LR pixels, or (1, 1) where it is too large."""
    if chunk is None:
        return 1, 1
    if min(chunk) < 1:
        raise ArgumentError(f"block must be at least 1 HR pixel a side, got {chunk}")
    # A chunk that reaches past the image ends with it, as the last block does.
    h, w = (min(math.lcm(c, scale), n) for c, n in zip(chunk, info.shape, strict=True))
    bytes_ = h * w * info.layout.channels * info.dtype.itemsize
    return (h, w) if bytes_ <= BLOCK_BYTES else (1, 1)


def _size(size: tuple[int, int, int]) -> str:
    h, w, channels = size
    return f"{w} x {h} x {channels}"


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
