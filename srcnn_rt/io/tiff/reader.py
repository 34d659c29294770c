"""TIFF by GDAL: read window by window, so memory does not grow with size."""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # some of GDAL's errors come as they are
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from ...errors import ArgumentError, ImageError
from ...image.info import AS_SAID, SAMPLE_TYPES, ImageInfo, Reading
from ...tiling.geometry import Span
from ..metadata import exif, nodata_tag
from ..metadata.header import decode_text
from ..protocols import Closing
from . import descriptions
from . import ifd as tiff_head
from . import metadata as tiff_meta
from . import photometric as tiff_kinds
from .ifd import Directory, Page
from .orientation import Kept, stored

_quiet_lock = threading.Lock()
MAX_BANDS = 4096
MAX_BLOCK_BYTES = 256 * 2**20


def pages(path: Path) -> int:
    """Return how many pages a TIFF has; overviews and masks are none.

    Raises
    ------
    ImageError
        Also if more images follow the last page, which no directory leads to.
    """
    found = _pages(path)[0]
    head = _directory(path, found[0].offset)
    text, sizes = head.get(270), [head.get(tag) for tag in (256, 257, 277)]
    samples = math.prod(field.numbers()[0] if field and field.numbers() else 1 for field in sizes)
    behind = descriptions.stack_size(decode_text(text.data), samples) if text else 1
    if len(found) < behind and len(found) == 1:
        raise ImageError(
            f"{path}: {behind} images behind one directory, which only what wrote them can read;"
            " have it save a BigTIFF or OME-TIFF, or name page 1"
        )
    return len(found)


class RasterSource(Closing):
    """One page of a TIFF, of samples of ``SAMPLE_TYPES``.

    Turned upright as its orientation says, unless it is georeferenced; palettes, fewer than 8 bits
    and white-is-zero expanded; alpha no longer multiplied into the colour.

    Parameters
    ----------
    page : from 1
    meant : what its samples are taken for; classes are given as the numbers that they are

    Raises
    ------
    ImageError
        If the file is damaged or of another kind.
    ArgumentError
        If it is not what `meant` says.
    """

    in_memory = False

    def __init__(self, path: Path, page: int = 1, meant: Reading = AS_SAID) -> None:
        self._path = path
        found, alone = _pages(path)
        if not 1 <= page <= len(found):
            raise ArgumentError(f"{path}: has {len(found)} pages, so there is no page {page}")
        here = found[page - 1]
        head = _directory(path, here.offset)
        _check_samples(path, head)
        raw = "GTIFF_RAW:" if tiff_kinds.needs_raw(head) else ""
        with reading(path):
            name = f"{raw}{path}" if alone else f"{raw}GTIFF_DIR:off:{here.offset}:{path}"
            self._file = open_quietly(name if raw or not alone else path, driver="GTiff")
        self._mask: Any = None
        try:
            with reading(path):
                _check_block(path, self._file)
                self._kind = tiff_kinds.kind_of(
                    path,
                    self._file,
                    head,
                    meant,
                    placed=tiff_meta.placed(self._file),
                    significant=_significant(path),
                )
                if not alone and here.mask is not None:  # of a page of many, GDAL does not look for it
                    self._mask = open_quietly(f"GTIFF_DIR:off:{here.mask}:{path}", driver="GTiff")
                self._turned = tiff_meta.orientation(self._file, head)
                overviews = here.overviews or bool(self._file.overviews(1))
                metadata = tiff_meta.read(
                    self._file, head, self._kind, meant, self._turned, len(found), overviews
                )
                self.info = self._describe(metadata, head, meant)
        except BaseException:
            self.close()
            raise
        f = self._file
        striped = bool(f.block_shapes[0][1] >= f.width)
        self.by_rows = striped and self._turned < 3
        self._keep = striped and self._turned >= 3
        self._kept: Kept | None = None
        self._kept_mask: Kept | None = None

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        rows, columns = stored(y, x, self.info.shape, self._turned)
        if self._keep:
            f = self._file
            if self._kept is None:
                shape, dtype = (f.height, f.width, f.count), np.dtype(f.dtypes[0])
                self._kept = Kept(self._path, shape, dtype, lambda r: self._decode(r, Span(0, f.width)))
            samples = self._kept.samples[rows.start : rows.stop, columns.start : columns.stop]
        else:
            samples = self._decode(rows, columns)
        return np.asarray(exif.turn(self._kind.expand(samples), self._turned))

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        rows, columns = stored(y, x, self.info.shape, self._turned)
        if self._keep:
            if self._kept_mask is None:
                shape, width = (self._file.height, self._file.width, 1), Span(0, self._file.width)
                self._kept_mask = Kept(
                    self._path, shape, np.dtype(np.uint8), lambda r: self._decode_mask(r, width)
                )
            mask = self._kept_mask.samples[rows.start : rows.stop, columns.start : columns.stop]
        else:
            mask = self._decode_mask(rows, columns)
        return np.asarray(exif.turn(mask != 0, self._turned)[:, :, 0])

    def close(self) -> None:
        self._file.close()
        if self._mask is not None:
            self._mask.close()
        self._kept = self._kept_mask = None

    def _decode(self, rows: Span, columns: Span) -> NDArray[Any]:
        with reading(self._path):
            return np.asarray(self._file.read(window=_window(rows, columns)).transpose(1, 2, 0))

    def _decode_mask(self, rows: Span, columns: Span) -> NDArray[np.uint8]:
        window = _window(rows, columns)
        with reading(self._path):
            if self._mask is None:
                mask = self._file.read_masks(1, window=window)
            else:
                mask = self._mask.read(1, window=window)
        return np.asarray(mask)[:, :, np.newaxis]

    def _describe(self, metadata: Any, head: Directory, meant: Reading) -> ImageInfo:
        f, kind = self._file, self._kind
        shape = (f.width, f.height) if self._turned >= 5 else (f.height, f.width)
        flags = f.mask_flag_enums[0]
        masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        if self._mask is not None:
            if self._mask.shape != f.shape:
                raise ImageError(
                    f"{self._path}: damaged TIFF: a page of {f.width} x {f.height} has a mask of"
                    f" {self._mask.width} x {self._mask.height}"
                )
            masked = True
        value, text = f.nodata, tiff_meta.nodata_text(head)
        if meant.nodata is not None:
            value = None if meant.nodata == "none" else meant.nodata
            text = repr(value)
        found = kind.nodata(value)
        if kind.palette is None:  # of which the value is a colour that is transparent
            nodata_tag.check(self._path, meant.nodata, found, kind.dtype)
        within = nodata_tag.digits_within(text, kind.dtype)
        return ImageInfo(shape, kind.layout, kind.dtype, metadata, found, masked, within, kind.top)


def open_quietly(path: Path | str, **options: Any) -> Any:
    """Open without the warning that a plain image has no georeference.

    Filters are the process's own, so they are changed under a lock and put back.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, **options)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn GDAL's errors into `ImageError`, naming the file."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, UnicodeDecodeError) as error:
        words = reason(error)
        rule = "cannot be read" if "missing codec" in words else "damaged TIFF"
        raise ImageError(f"{path}: {rule}: {words}") from error


def _check_samples(path: Path, head: Directory) -> None:
    """Refuse what GDAL would take minutes over, or read without any bits."""
    # A damaged directory may say them twice.
    bands, bits = ([n for f in head.fields if f.tag == tag for n in f.numbers()] for tag in (277, 258))
    if max(bands, default=1) > MAX_BANDS:
        raise ImageError(f"{path}: at most {MAX_BANDS} samples a pixel are read, got {max(bands)}")
    if 0 in bits:
        raise ImageError(f"{path}: damaged TIFF: 0 bits a sample")


def _check_block(path: Path, file: Any) -> None:
    """Refuse tiles and strips so large that one alone would take the memory.

    A single strip is no such thing where GDAL decodes it row by row.
    """
    if file.dtypes[0] not in SAMPLE_TYPES:
        return  # `kinds` refuses it with the reason, and NumPy need not know the type
    (h, w), planar = file.block_shapes[0], file.interleaving is not None and file.interleaving.name == "band"
    size = h * w * np.dtype(file.dtypes[0]).itemsize * (1 if planar else file.count)
    if size > MAX_BLOCK_BYTES:
        raise ImageError(
            f"{path}: tiles and strips are decoded whole, and {w} x {h} pixels of {size / 1e6:.0f} MB are "
            f"more than the {MAX_BLOCK_BYTES / 1e6:.0f} MB allowed; have it rewritten with smaller ones"
        )


def reason(error: BaseException) -> str:
    """Return GDAL's own words, which rasterio keeps as the cause."""
    cause = error.__cause__
    return str(getattr(cause, "errmsg", None) or cause or error)


def _window(rows: Span, columns: Span) -> Window:
    return Window(columns.start, rows.start, columns.size, rows.size)


def _pages(path: Path) -> tuple[list[Page], bool]:
    """Return a file's pages, and whether there is one only, which GDAL opens by the file's name."""
    try:
        stat = path.stat()
        return _pages_of(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=8)  # every page of a stack is opened on its own
def _pages_of(path: Path, *identity: int) -> tuple[list[Page], bool]:
    with path.open("rb") as file:
        reader = tiff_head.Reader(file)
        found = reader.pages()
        return found, len(found) == 1 and found[0].offset == reader.first


def _significant(path: Path) -> int | None:
    """Return how many bits of a sample the description of a file's first page says to be significant."""
    try:
        stat = path.stat()
        return _significant_of(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=8)
def _significant_of(path: Path, *identity: int) -> int | None:
    with path.open("rb") as file:
        field = tiff_head.Reader(file).page().get(270)
    return descriptions.significant_bits(decode_text(field.data)) if field else None


def _directory(path: Path, offset: int) -> Directory:
    with path.open("rb") as file:
        return tiff_head.Reader(file).directory(offset)[0]
