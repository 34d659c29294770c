"""Reads TIFF pages window by window, so that memory use does not grow with the image."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from ...errors import ArgumentError, ImageError
from ...image.info import AS_SAID, SAMPLE_TYPES, ImageInfo, Metadata, Reading
from ...tiling.geometry import Span
from ..metadata import exif, nodata_tag
from ..metadata.header import decode_text
from ..protocols import Closing
from . import descriptions
from . import metadata as page_metadata
from .gdal import OpenPage, open_quietly, reading
from .ifd import Directory, Page, Reader
from .orientation import decode_page, stored_window
from .photometric import interpret, needs_raw

MAX_BANDS = 4096
MAX_BLOCK_BYTES = 256 * 2**20
_WIDTH, _HEIGHT, _BITS, _DESCRIPTION, _BANDS = 256, 257, 258, 270, 277


def pages(path: Path) -> int:
    """Return the number of pages of a TIFF, not counting overviews and masks.

    Raises
    ------
    ImageError
        If the file cannot be read, or holds images that no directory points to.
    """
    outline = _outline(path)
    if len(outline.pages) == 1 and outline.stack_size > 1:
        raise ImageError(
            f"{path}: {outline.stack_size} images behind one directory, which only the program that wrote "
            "them can read; save them as BigTIFF or OME-TIFF, or use --page 1"
        )
    return len(outline.pages)


class RasterSource(Closing):
    """One page of a TIFF as a `Source`, upright unless it is georeferenced.

    Palettes, samples of fewer than 8 bits and white-is-zero are decoded, and premultiplied alpha is divided
    out of the colors.

    Parameters
    ----------
    path : Path
        The file.
    page : int
        Page number from 1.
    overrides : Reading
        How to interpret the samples; classes keep their stored numbers.

    Raises
    ------
    ImageError
        If the file is damaged or its samples are not supported.
    ArgumentError
        If the page does not exist or `overrides` does not suit its samples.
    """

    in_memory = on_device = False

    def __init__(self, path: Path, page: int = 1, overrides: Reading = AS_SAID) -> None:
        self._path = path
        outline = _outline(path)
        if not 1 <= page <= len(outline.pages):
            raise ArgumentError(f"{path}: has {len(outline.pages)} pages, so there is no page {page}")
        here = outline.pages[page - 1]
        with reading(path), path.open("rb") as file:
            ifd = Reader(file).directory(here.offset)
        _check_samples(path, ifd)
        raw = "GTIFF_RAW:" if needs_raw(ifd) else ""
        name = f"{raw}{path}" if outline.by_name else f"{raw}GTIFF_DIR:off:{here.offset}:{path}"
        with reading(path):
            self._file = open_quietly(name if raw or not outline.by_name else path)
        self._mask: Any = None
        try:
            with reading(path):
                count, bits = len(outline.pages), outline.significant_bits
                opened = OpenPage(path, self._file, ifd, overrides, count, here.overviews, bits)
                _check_block(opened)
                self._interpretation = interpret(opened)
                if here.mask is not None and not outline.by_name:  # GDAL looks for masks only by name
                    self._mask = open_quietly(f"GTIFF_DIR:off:{here.mask}:{path}")
                self._orientation = page_metadata.applied_orientation(opened)
                metadata = page_metadata.read(opened, self._interpretation, self._orientation)
                self.info = self._describe(opened, metadata)
        except BaseException:
            self.close()
            raise
        striped = bool(self._file.block_shapes[0][1] >= self._file.width)
        self.by_rows = striped and self._orientation < 3
        self._decode_once = striped and self._orientation >= 3
        self._decoded: dict[bool, NDArray[Any]] = {}  # the mask by True, the samples by False

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        samples = self._interpretation.decode(self._stored(y, x, mask=False))
        return np.asarray(exif.turn(samples, self._orientation))

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        mask = self._stored(y, x, mask=True) != 0
        return np.asarray(exif.turn(mask, self._orientation)[:, :, 0])

    def close(self) -> None:
        self._file.close()
        if self._mask is not None:
            self._mask.close()
        self._decoded = {}

    def _stored(self, y: Span, x: Span, *, mask: bool) -> NDArray[Any]:
        """Return stored samples, or the mask, of a window of the upright image."""
        rows, columns = stored_window(y, x, self.info.shape, self._orientation)
        decode, file = self._decode_mask if mask else self._decode, self._file
        if not self._decode_once:
            return decode(rows, columns)
        if mask not in self._decoded:
            shape = (file.height, file.width, 1 if mask else file.count)
            dtype = np.dtype(np.uint8 if mask else file.dtypes[0])
            whole = Span(0, file.width)
            self._decoded[mask] = decode_page(self._path, shape, dtype, lambda rows: decode(rows, whole))
        return self._decoded[mask][rows.start : rows.stop, columns.start : columns.stop]

    def _decode(self, rows: Span, columns: Span) -> NDArray[Any]:
        with reading(self._path):
            return np.asarray(self._file.read(window=_window(rows, columns)).transpose(1, 2, 0))

    def _decode_mask(self, rows: Span, columns: Span) -> NDArray[np.uint8]:
        read = self._file.read_masks if self._mask is None else self._mask.read
        with reading(self._path):
            return np.asarray(read(1, window=_window(rows, columns)))[:, :, np.newaxis]

    def _describe(self, page: OpenPage, metadata: Metadata) -> ImageInfo:
        file, overrides, found = page.file, page.reading, self._interpretation
        shape = (file.width, file.height) if self._orientation >= 5 else (file.height, file.width)
        flags = file.mask_flag_enums[0]
        masked = self._mask is not None or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags)
        if self._mask is not None and self._mask.shape != file.shape:
            raise ImageError(
                f"{self._path}: damaged TIFF: a page of {file.width} x {file.height} has a mask of"
                f" {self._mask.width} x {self._mask.height}"
            )
        value, text = file.nodata, page_metadata.nodata_text(page.ifd)
        if overrides.nodata is not None:
            value = None if overrides.nodata == "none" else overrides.nodata
            text = repr(value)
        nodata = found.nodata(value)
        if found.palette is None:  # in a palette the nodata value becomes transparent
            nodata_tag.check(self._path, overrides.nodata, nodata, found.dtype)
        within = nodata_tag.digits_within(text, found.dtype)
        return ImageInfo(shape, found.layout, found.dtype, metadata, nodata, masked, within, found.top)


def _check_samples(path: Path, ifd: Directory) -> None:
    """Refuse pages that GDAL would need minutes for, or would read although their samples have no bits."""
    # A damaged directory may have these fields twice.
    bands, bits = ([n for f in ifd.fields if f.tag == tag for n in f.numbers()] for tag in (_BANDS, _BITS))
    if max(bands, default=1) > MAX_BANDS:
        raise ImageError(f"{path}: pixels may have at most {MAX_BANDS} samples, got {max(bands)}")
    if 0 in bits:
        raise ImageError(f"{path}: damaged TIFF: 0 bits per sample")


def _check_block(page: OpenPage) -> None:
    """Refuse tiles and strips that do not fit in memory.

    A single large strip passes if GDAL decodes it row by row: then its block is one row.
    """
    file = page.file
    if file.dtypes[0] not in SAMPLE_TYPES:
        return  # `interpret` refuses it; NumPy may not know the type
    h, w = file.block_shapes[0]
    size = h * w * np.dtype(file.dtypes[0]).itemsize * (1 if page.planar else file.count)
    if size > MAX_BLOCK_BYTES:
        raise ImageError(
            f"{page.path}: tiles and strips are decoded whole and may have at most "
            f"{MAX_BLOCK_BYTES / 1e6:.0f} MB, got {size / 1e6:.0f} MB for {w} x {h} pixels; "
            "rewrite the file with smaller ones"
        )


def _window(rows: Span, columns: Span) -> Window:
    return Window(columns.start, rows.start, columns.size, rows.size)


class _Outline(NamedTuple):
    """What is read of a file once for all its pages; `by_name`: GDAL can open the only page by file name."""

    pages: list[Page]
    by_name: bool
    stack_size: int
    significant_bits: int | None


def _outline(path: Path) -> _Outline:
    with reading(path):
        stat = path.stat()
        return _outline_of(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=8)  # every page of a stack is opened on its own
def _outline_of(path: Path, *identity: int) -> _Outline:
    with path.open("rb") as file:
        reader = Reader(file)
        pages = reader.pages()
        first = reader.directory(pages[0].offset)
    text = decode_text(first.data(_DESCRIPTION))
    samples = math.prod(first.number(tag, 1) for tag in (_WIDTH, _HEIGHT, _BANDS))
    return _Outline(
        pages,
        len(pages) == 1 and pages[0].offset == reader.first,
        descriptions.stack_size(text, samples),
        descriptions.significant_bits(text),
    )
