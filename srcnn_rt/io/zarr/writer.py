"""Writes Zarr arrays and OME-Zarr images with their pyramids.

Readable are arrays, and level 0 of the first multiscale image of OME-Zarr 0.4 (Zarr format 2) and 0.5
(format 3). Written are arrays of format 3 and OME-Zarr 0.5. Each (t, z) index is a plane, which is processed
as an image; channels belong to a plane. ::

    image = open_zarr(source)
    writer = create(partial, image, scale)
    for k in range(image.planes):
        process(image.plane(k), writer.page(k), ...)
    writer.finish()                       # builds the pyramid

Not carried over are labels and tables (a label is a category, not a brightness) and other multiscale images
of the group. Collections (plates, bioformats2raw) are refused; their images can be opened one at a time.
Attributes of a plain array are copied unchanged: a georeference in them is not scaled.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import OutputError
from ...image.info import ImageInfo
from ...tiling.geometry import Span
from ..array_like import SlicedSink
from ..foreign_errors import foreign_errors
from ..protocols import Record
from . import ngff, store
from .pyramid import build, flush, level_sizes
from .reader import XARRAY, ZarrImage, place_of

CHUNK = 512  # largest side of a chunk in HR pixels
CHUNK_BYTES = 8 * 2**20  # of a chunk with all its channels


class ZarrWriter:
    """An enlarged image that is being written, as a `Target`; returned by `create` and `reopen`.

    Attributes
    ----------
    info : ImageInfo
        Description of each enlarged plane.
    """

    append_only = False

    def __init__(self, path: Path, zarr: Any, plan: _Plan) -> None:
        self.info, self._path, self._plan = plan.info, path, plan
        root = zarr.open(str(path), mode="r+", zarr_format=3)
        self._levels = [root] if plan.image is None else [root[str(k)] for k in range(len(plan.shapes))]
        self._unsynced: list[Path] = []

    def page(self, index: int) -> PlaneSink:
        """Return the sink of a plane, counted from 0. Planes may be written in any order, one at a time."""
        return PlaneSink(self, index)

    def rewind(self) -> None:
        """Do nothing: chunks that were not restored are written again."""

    def sync(self) -> None:
        """Flush every chunk that was written or restored to the disk.

        Raises
        ------
        OutputError
            If a file cannot be flushed.
        """
        written = self._unsynced[:]
        with foreign_errors(OutputError, f"{self._path}: cannot be written"):
            flush(self._path, set(written))
        del self._unsynced[: len(written)]

    def finish(self) -> Path:
        """Build the smaller levels and flush all files to the disk; return the folder.

        Raises
        ------
        OutputError
            If the disk is full or a file cannot be written.
        """
        with foreign_errors(OutputError, f"{self._path}: cannot be written"):
            for above, level in zip(self._levels, self._levels[1:], strict=False):
                build(above, level, self._plan.axes, classes=self._plan.classes)
            flush(self._path)
        return self._path

    def abort(self) -> None:
        """Do nothing: the caller deletes the folder, or resumes by `reopen`."""


class PlaneSink(SlicedSink):
    """One plane of a `ZarrWriter`.

    Each chunk is a file that is written once and atomically: zarr writes it under another name and renames
    it. So no written chunk is lost if the process ends.
    """

    def __init__(self, writer: ZarrWriter, index: int) -> None:
        plan, at = writer._plan, place_of(writer._plan.others, index)
        super().__init__(writer._levels[0], plan.info, plan.scale, plan.axes, at=at, name=str(writer._path))
        self._unsynced = writer._unsynced

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        super().write(y, x, block, mask)
        self._unsynced += list(self.files(y, x))
        return {"crc": _crc(self._axes.stored(block))}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Restore a chunk as in `Sink.restore`; with `check` its samples are read and compared."""
        if not check:
            return True
        try:
            found = np.asarray(self._array[self._axes.key(y, x)])
        except MemoryError:
            raise
        except Exception:  # a truncated file; each codec raises its own error
            return False
        if _crc(found) != record["crc"]:
            return False
        self._unsynced += list(self.files(y, x))  # the next `sync` must cover it too
        return True

    def files(self, y: Span, x: Span) -> Iterator[Path]:
        """Yield the files of the chunks in a window. Chunks of only the fill value have none."""
        array: Any = self._array
        folder = Path(array.store.root) / array.path
        ranges = []
        for part, size in zip(self._axes.key(y, x), array.chunks, strict=True):
            span = part if isinstance(part, slice) else slice(part, part + 1)
            ranges.append(range(span.start // size, -(-span.stop // size)))
        for chunk in itertools.product(*ranges):
            path = folder / array.metadata.encode_chunk_key(chunk)
            if path.exists():
                yield path


class _Plan:
    """Shapes, chunks and metadata of all levels of the result."""

    def __init__(self, like: ZarrImage | ImageInfo, scale: int, classes: bool) -> None:
        self.scale, self.classes = scale, classes
        self.attributes: Mapping[str, Any] = {}
        self.names: list[str | None] | None = None
        self.fill: Any = None
        self.others: dict[str, int] = {}
        if isinstance(like, ImageInfo):
            lr = like
            self.image: ngff.Image | None = ngff.plain(lr.layout, lr.dtype, lr.top)
            self.axes = self.image.letters
            sizes: tuple[int, ...] = lr.shape if self.axes == "yx" else (lr.layout.channels, *lr.shape)
            if lr.nodata is not None and math.isnan(lr.nodata):
                self.fill = math.nan
        else:
            lr, self.image, self.axes, sizes = like.info, like.image, like.axes, like.shape
            self.fill, self.others = like.fill_value, like.others
            self.attributes, self.names = _copied(like.attributes, like.image), like.names
        self.info = lr.scaled(scale)
        if self.image is not None:
            self.names = [str(axis["name"]) for axis in self.image.axes]
        levels = [self.info.shape] if self.image is None else level_sizes(self.info.shape)
        self.shapes = [_with(self.axes, sizes, size) for size in levels]
        side = _chunk_side(scale, lr.layout.channels * lr.dtype.itemsize)
        # A chunk holds one plane, and one channel unless channels are interleaved.
        minimum = [
            n if a == "c" and self.axes.endswith("c") else 1 for a, n in zip(self.axes, sizes, strict=True)
        ]
        self.chunks = [_with(self.axes, minimum, (min(side, h), min(side, w))) for h, w in levels]

    def write_metadata(self, zarr: Any, target: Any) -> None:
        """Write the metadata of the group and all arrays into an empty store."""
        attributes = dict(self.attributes)
        if self.image is not None:
            attributes["ome"] = ngff.describe(self.image, self.scale, len(self.shapes))
            zarr.create_group(target, zarr_format=3, attributes=attributes)
        for k, (shape, chunks) in enumerate(zip(self.shapes, self.chunks, strict=True)):
            zarr.create_array(
                target,
                name=None if self.image is None else str(k),
                shape=shape,
                chunks=chunks,
                dtype=self.info.dtype,
                fill_value=self.fill if self.fill is not None else 0,
                dimension_names=self.names,
                attributes=attributes if self.image is None else None,
                zarr_format=3,
            )


def create(path: str | Path, like: ZarrImage | ImageInfo, scale: int, *, classes: bool = False) -> ZarrWriter:
    """Start writing an enlarged image.

    Parameters
    ----------
    path : str or Path
        A new or empty folder.
    like : ZarrImage or ImageInfo
        The LR image. The result of an OME-Zarr image is OME-Zarr 0.5, that of a plain array is a plain array,
        and that of any other image is an OME-Zarr image without units.
    scale : int
        Scale factor.
    classes : bool
        Whether samples are category numbers, which are not averaged in smaller levels.

    Raises
    ------
    OutputError
        If the folder is not empty or cannot be written, or if the image has a separate mask.
    RuntimeMissingError
        If the package zarr is not installed.
    """
    path, zarr, plan = Path(path), store.package(), _Plan(like, scale, classes)
    if plan.info.masked:
        raise OutputError(f"{path}: Zarr cannot store the mask of the image; write a TIFF instead")
    with foreign_errors(OutputError, f"{path}: cannot be written"):
        path.mkdir(exist_ok=True)
        if any(path.iterdir()):
            raise OutputError(f"{path}: already exists and is not empty")
        plan.write_metadata(zarr, zarr.storage.LocalStore(path))
        return ZarrWriter(path, zarr, plan)


def reopen(path: str | Path, like: ZarrImage | ImageInfo, scale: int, *, classes: bool = False) -> ZarrWriter:
    """Resume an interrupted run that `create` began with the same arguments.

    The caller restores finished chunks by `PlaneSink.restore`; it is safe to write them again. Temporary
    files of the interrupted run are deleted.

    Raises
    ------
    OutputError
        If the metadata in the folder differ from those that `create` writes.
    """
    path, zarr, plan = Path(path), store.package(), _Plan(like, scale, classes)
    expected: dict[str, Any] = {}
    plan.write_metadata(zarr, zarr.storage.MemoryStore(expected))
    for name, data in expected.items():
        try:
            same = _canonical((path / name).read_bytes()) == _canonical(data.to_bytes())
        except (OSError, ValueError):
            same = False
        if not same:
            raise OutputError(f"{path}: cannot be resumed: {name} is missing or differs from this job's")
    with foreign_errors(OutputError, f"{path}: cannot be written"):
        for leftover in path.rglob("*.partial"):
            leftover.unlink(missing_ok=True)
        return ZarrWriter(path, zarr, plan)


def _crc(samples: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(samples).data)


def _canonical(document: bytes) -> str:
    return json.dumps(json.loads(document), sort_keys=True)


def _copied(attributes: Mapping[str, Any], image: ngff.Image | None) -> dict[str, Any]:
    """Return the attributes that remain valid and are not generated."""
    derived = {XARRAY} if image is None else {"ome", "multiscales", "omero", "labels", "image-label"}
    return {key: value for key, value in attributes.items() if key not in derived}


def _with(axes: str, sizes: Any, plane: tuple[int, int]) -> tuple[int, ...]:
    """Return `sizes` with the sizes of y and x replaced."""
    new = {"y": plane[0], "x": plane[1]}
    return tuple(new.get(a, n) for a, n in zip(axes, sizes, strict=True))


def _chunk_side(scale: int, sample_bytes: int) -> int:
    """Return the side of a chunk in HR pixels: a power of two in LR pixels, as for tiles of TIFFs."""
    side = CHUNK
    while side > 8 and (side * scale > CHUNK or (side * scale) ** 2 * sample_bytes > CHUNK_BYTES):
        side //= 2
    return side * scale
