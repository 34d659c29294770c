"""Zarr folders as images: plain arrays, and OME-Zarr images with their pyramids.

Read are arrays and OME-Zarr 0.4 (Zarr format 2) and 0.5 (format 3), of which level 0 of the first
multiscale image; written are arrays of format 3 and OME-Zarr 0.5. Every (t, z) is a plane, an image of
its own; channels are a plane's. ::

    image = open_zarr(source)
    writer = create(partial, image, scale)
    for k in range(image.planes):
        job.process(image.plane(k), writer.page(k), ...)
    writer.finish()                       # builds the pyramid; rename `partial` after it

What is not carried over: labels and tables beside the image (a label is a number, not a brightness),
other multiscale images of the same group, collections (plates, bioformats2raw), of which one image is
opened at a time. Attributes of a plain array are copied as they are: a georeference among them is not
rescaled.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import OutputError, SrcnnError
from ...image.info import ImageInfo
from ...tiling.geometry import Span
from ..array_like import SlicedSink
from ..protocols import Record
from . import ngff
from . import store as zarrstore
from .pyramid import build, flush, level_sizes
from .reader import XARRAY, ZarrImage, open_plane, open_zarr, pages, place_of

__all__ = ["ZarrImage", "ZarrWriter", "create", "open_plane", "open_zarr", "pages", "reopen"]

CHUNK = 512  # widest chunk that is written, HR pixels
CHUNK_BYTES = 8 * 2**20  # of one chunk with all its channels


class ZarrWriter:
    """An enlarged image being written, a `Target`; `create` and `reopen` make it.

    Attributes
    ----------
    planes : as of the image it was made for
    info : of every plane, HR
    """

    def __init__(self, path: Path, zarr: Any, plan: _Plan) -> None:
        self.planes, self.info = plan.planes, plan.info
        self._path, self._plan = path, plan
        root = zarr.open(str(path), mode="r+", zarr_format=3)
        self._levels = [root] if plan.image is None else [root[str(k)] for k in range(len(plan.shapes))]
        # What was written since the last `sync`.
        self._places: list[tuple[PlaneSink, Span, Span]] = []

    def page(self, index: int) -> PlaneSink:
        """Return the sink of a plane, from 0. Planes may be written in any order, one at a time."""
        plan = self._plan
        return PlaneSink(
            self._places,
            self._levels[0],
            plan.info,
            plan.scale,
            plan.axes,
            at=place_of(plan.others, index),
            name=str(self._path),
        )

    def rewind(self) -> None:
        """Do nothing: chunks that were written beyond what was restored are written again."""

    def sync(self) -> None:
        """Return when every chunk that was written is on the disk.

        Raises
        ------
        OutputError
        """
        places = self._places[:]
        files = {path for sink, y, x in places for path in sink.files(y, x)}
        with _writing(self._path):
            flush(self._path, files)
        del self._places[: len(places)]

    def finish(self) -> Path:
        """Build the smaller levels from the first, and flush all files to the disk; return the folder.

        Raises
        ------
        OutputError
            If the disk is full or a file cannot be written.
        """
        with _writing(self._path):
            for above, level in zip(self._levels, self._levels[1:], strict=False):
                build(above, level, self._plan.axes, classes=self._plan.classes)
            flush(self._path)
        return self._path

    def abort(self) -> None:
        """Let go. The folder stays: it is the caller's to delete, or to go on with by `reopen`."""


class PlaneSink(SlicedSink):
    """One plane of a folder that grows.

    Each chunk is one file, which appears whole or not at all (zarr writes it under another name and
    renames it), and is written once. So the end of the process loses none that is written.
    """

    def __init__(self, places: list[tuple[PlaneSink, Span, Span]], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = places

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        super().write(y, x, block, mask)
        self._places.append((self, y, x))
        return {"crc": _crc(self._axes.stored(block))}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """As `Sink.restore`; with `check` the samples are read and compared."""
        if not check:
            return True
        try:
            found = np.asarray(self._array[self._axes.key(y, x)])
        except MemoryError:
            raise
        except Exception:  # half a file, for which every codec has an error of its own
            return False
        return bool(_crc(found) == record["crc"])

    def files(self, y: Span, x: Span) -> Iterator[Path]:
        """Yield the files of the chunks in a place, of which those of nothing but the fill value are not."""
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
    """What is written for an image: shapes, chunks and metadata of every level."""

    def __init__(self, like: ZarrImage | ImageInfo, scale: int, classes: bool) -> None:
        self.scale, self.classes = scale, classes
        self.attributes: Mapping[str, Any] = {}
        self.names: list[str | None] | None = None
        self.fill: Any = None
        if isinstance(like, ImageInfo):
            lr = like
            self.image: ngff.Image | None = ngff.plain(lr.layout, lr.dtype, lr.top)
            self.axes = self.image.letters
            sizes: tuple[int, ...] = (*([] if self.axes == "yx" else [lr.layout.channels]), *lr.shape)
            if lr.nodata is not None and math.isnan(lr.nodata):
                self.fill = math.nan
        else:
            lr, self.image, self.axes, sizes = like.info, like.image, like.axes, like.shape
            self.fill = like.fill_value
            self.attributes, self.names = _kept(like.attributes, like.image), like.names
        self.info = lr.scaled(scale)
        if self.image is not None:
            self.names = [str(axis["name"]) for axis in self.image.axes]
        self.others = {a: n for a, n in zip(self.axes, sizes, strict=True) if a not in "yxc"}
        self.planes = math.prod(self.others.values())
        planes_of = [self.info.shape] if self.image is None else level_sizes(self.info.shape)
        self.shapes = [_with(self.axes, sizes, size) for size in planes_of]
        side = _chunk_side(scale, lr.layout.channels * lr.dtype.itemsize)
        # A chunk is of one plane, and of one channel, but where channels lie beside each other.
        minimum = [
            n if a == "c" and self.axes.endswith("c") else 1 for a, n in zip(self.axes, sizes, strict=True)
        ]
        self.chunks = [_with(self.axes, minimum, (min(side, h), min(side, w))) for h, w in planes_of]

    def make(self, zarr: Any, store: Any) -> None:
        """Write the metadata of the group and of every array into an empty store."""
        attributes = dict(self.attributes)
        if self.image is not None:
            attributes["ome"] = ngff.describe(self.image, self.scale, len(self.shapes))
            zarr.create_group(store, zarr_format=3, attributes=attributes)
        for k, (shape, chunks) in enumerate(zip(self.shapes, self.chunks, strict=True)):
            zarr.create_array(
                store,
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
    path : of a new or empty folder, by any name
    like : the LR image. An OME-Zarr image gives one of 0.5, a plain array a plain array, and another
        image's info an OME-Zarr image without units.
    scale : HR pixels an LR pixel
    classes : whether samples are numbers of classes, which smaller levels must not blend

    Raises
    ------
    OutputError
        If the folder is not empty, or cannot be written, or the image has a mask beside its samples.
    RuntimeMissingError
        If the package zarr is not installed.
    """
    path, zarr, plan = Path(path), zarrstore.package(), _Plan(like, scale, classes)
    if plan.info.masked:
        raise OutputError(f"{path}: Zarr has no place for the image's mask")
    with _writing(path):
        path.mkdir(exist_ok=True)
        if any(path.iterdir()):
            raise OutputError(f"{path}: exists already and is not empty")
        plan.make(zarr, zarr.storage.LocalStore(path))
        return ZarrWriter(path, zarr, plan)


def reopen(path: str | Path, like: ZarrImage | ImageInfo, scale: int, *, classes: bool = False) -> ZarrWriter:
    """Go on with what `create` began in the same way, after a crash; `finish` completes it.

    Which chunks are complete the caller knows (`PlaneSink.restore`); writing one again does no harm. What a
    killed process left of a chunk that it was writing is deleted.

    Raises
    ------
    OutputError
        If the folder is not what `create` makes of the same arguments.
    """
    path, zarr, plan = Path(path), zarrstore.package(), _Plan(like, scale, classes)
    expected: dict[str, Any] = {}
    plan.make(zarr, zarr.storage.MemoryStore(expected))
    for name, data in expected.items():
        try:
            same = _canonical((path / name).read_bytes()) == _canonical(data.to_bytes())
        except (OSError, ValueError):
            same = False
        if not same:
            raise OutputError(f"{path}: cannot be gone on with: {name} is missing or another run's")
    with _writing(path):
        for leftover in path.rglob("*.partial"):
            leftover.unlink(missing_ok=True)
        return ZarrWriter(path, zarr, plan)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (SrcnnError, MemoryError):
        raise
    except Exception as error:  # zarr raises whatever its parts do
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written: {reason}") from error


def _crc(samples: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(samples).data)


def _canonical(document: bytes) -> str:
    return json.dumps(json.loads(document), sort_keys=True)


def _kept(attributes: Mapping[str, Any], image: ngff.Image | None) -> dict[str, Any]:
    """Return the attributes that are still true of the enlarged image and not written anew."""
    derived = {XARRAY} if image is None else {"ome", "multiscales", "omero", "labels", "image-label"}
    return {key: value for key, value in attributes.items() if key not in derived}


def _with(axes: str, sizes: Any, plane: tuple[int, int]) -> tuple[int, ...]:
    """Return `sizes` with those of y and x replaced."""
    new = {"y": plane[0], "x": plane[1]}
    return tuple(new.get(a, n) for a, n in zip(axes, sizes, strict=True))


def _chunk_side(scale: int, sample_bytes: int) -> int:
    """Return the side of a chunk in HR pixels: a power of two in LR pixels, as TIFF's blocks are."""
    side = CHUNK
    while side > 8 and (side * scale > CHUNK or (side * scale) ** 2 * sample_bytes > CHUNK_BYTES):
        side //= 2
    return side * scale
