"""From file names to sources and targets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError, ImageError, OutputError, SourceMissingError
from ..image.info import AS_SAID, ImageInfo, Reading
from .metadata import nodata_tag
from .protocols import Source, Target

if TYPE_CHECKING:
    from .array_like import SlicedSource
    from .in_memory import ArraySource

TIFF_SUFFIXES = (".tif", ".tiff")
TIFF_COMPRESSIONS = ("deflate", "zstd", "lzw", "none")
MAX_TIFF_SIDE = 2**31 - 1  # of GDAL, which reads nearly all of them
CODED_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")
ZARR_SUFFIXES = (".zarr",)  # folders
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, *CODED_SUFFIXES, *ZARR_SUFFIXES)
_COLOR_MAP = 320  # of a TIFF
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_image_name(path: Path) -> bool:
    """Return whether a file's name says that it is an image of a known format."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_image(path: Path) -> bool:
    """Return whether there is a file, or for Zarr a folder, of an image's name."""
    return is_image_name(path) and (is_zarr(path) if path.is_dir() else path.is_file())


@dataclass(frozen=True, slots=True)
class Output:
    """How results are written.

    Attributes
    ----------
    compress : of a TIFF: one of ``TIFF_COMPRESSIONS``
    cog : whether a TIFF is made a Cloud-Optimised GeoTIFF
    quality : 1 to 100 of formats that lose something; None for each format's own default
    threads : that compress
    """

    compress: str = "deflate"
    cog: bool = False
    quality: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.compress not in TIFF_COMPRESSIONS:
            raise ArgumentError(
                f"compress must be one of {', '.join(TIFF_COMPRESSIONS)}, got {self.compress!r}"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ArgumentError(f"quality must be from 1 to 100, got {self.quality}")


def page_count(path: Path) -> int:
    """Return how many images a file holds.

    Raises
    ------
    SourceMissingError, ImageError
    """
    if path.is_dir() and is_zarr(path):
        from .zarr.writer import pages as planes

        return planes(path)
    if _head(path)[:4] not in _TIFF_SIGNATURES:
        return 1
    from .tiff.reader import pages

    return pages(path)


def is_zarr(path: Path) -> bool:
    """Return whether a folder holds a Zarr array or group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_source(
    path: Path,
    page: int = 1,
    max_pixels: int | None = None,
    reading: Reading = AS_SAID,
) -> Source:
    """Open an image by its content, whatever its name says.

    Parameters
    ----------
    page : of a TIFF or Zarr, from 1
    max_pixels : refuse larger images; None for the default of formats that are read in one piece,
        and no limit for others
    reading : what its samples are taken for, where that is not what the file says

    Raises
    ------
    SourceMissingError, ImageError
        Naming the file and what is wrong with it.
    ArgumentError
        If it is not what `reading` says.
    """
    # Imported when an image needs them: each costs about 0.1 s.
    if path.is_dir() and is_zarr(path):
        from .zarr.writer import open_zarr

        image = open_zarr(path)
        if not 1 <= page <= image.planes:
            raise ArgumentError(f"{path}: has {image.planes} pages, so there is no page {page}")
        return _bounded(path, _taken(path, image.plane(page - 1), reading), max_pixels)
    head = _head(path)
    if head[:4] in _TIFF_SIGNATURES:
        from .tiff.reader import RasterSource

        return _bounded(path, RasterSource(path, page, reading), max_pixels)
    if page != 1:
        raise ArgumentError(f"{path}: has 1 page, so there is no page {page}")
    from .codecs.whole_file import MAX_PIXELS, read_coded, recognise

    format_ = recognise(head)
    if format_ is None:
        raise ImageError(f"{path}: not an image of a known format ({', '.join(IMAGE_SUFFIXES)})")
    if reading.classes:
        raise ArgumentError(f"{path}: classes are read from TIFF and Zarr, got a {format_.name}")
    source = read_coded(path, format_, MAX_PIXELS if max_pixels is None else max_pixels)
    return _taken(path, source, reading)


def _taken(path: Path, source: ArraySource | SlicedSource, reading: Reading) -> Source:
    """Take the samples of a format that says little about them for what the caller says."""
    info = source.info
    if reading.classes and info.dtype.kind not in "iu":
        raise ArgumentError(f"{path}: classes are whole numbers, got {info.dtype}")
    info = replace(info, layout=reading.meaning(info.layout))
    if reading.nodata is not None:
        value = reading.nodata
        found = None if value == "none" else nodata_tag.held(value, info.dtype)
        nodata_tag.check(path, value, found, info.dtype)
        info = replace(info, nodata=found, nodata_within=0.0)
    source.info = info
    return source


def _bounded(path: Path, source: Source, max_pixels: int | None) -> Source:
    h, w = source.info.shape
    if max_pixels is not None and h * w > max_pixels:
        source.close()
        raise ImageError(f"{path}: {w} x {h} pixels are more than the {max_pixels} of --max-pixels")
    return source


def _head(path: Path) -> bytes:
    if not path.exists():
        raise SourceMissingError(f"{path}: no such file")
    if path.is_dir():
        raise ImageError(f"{path}: a folder, not an image")
    if not path.is_file():
        raise ImageError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise ImageError(f"{path}: an empty file")
    return head


def check_output(path: Path, source: Path | None, *, overwrite: bool) -> None:
    """Refuse, before any work, a target that must not or cannot be written.

    Raises
    ------
    OutputError
        If `path` is `source`, exists (without `overwrite`), is a folder, has an unknown
        suffix, or its folder is missing or not writable.
    """
    if not is_image_name(path):
        raise OutputError(f"{path}: the suffix must be one of {', '.join(IMAGE_SUFFIXES)}")
    if path.is_dir() and not (path.suffix.lower() in ZARR_SUFFIXES and is_zarr(path)):
        raise OutputError(f"{path}: a folder is in the way")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise OutputError(f"{path}: the output must not be the input")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; overwriting must be asked for")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path.parent}: the folder is not writable")


def create_target(
    path: Path,
    final: Path,
    infos: Sequence[ImageInfo],
    scale: int,
    output: Output,
    *,
    source: Path | None = None,
    resume: bool = False,
) -> Target:
    """Start writing a file at `path`, in the format that the name `final` asks for.

    Parameters
    ----------
    infos : of every page of the result, with the source's metadata
    source : where it comes from: what a Zarr image says of itself goes into a Zarr image whole
    resume : go on with what is at `path`
    """
    if final.suffix.lower() in ZARR_SUFFIXES:
        from .zarr.writer import create, open_zarr, reopen

        made = reopen if resume and path.exists() else create
        classes = infos[0].layout.color == "classes"
        if source is not None and source.is_dir():
            return made(path, open_zarr(source), scale, classes=classes)
        if len(infos) > 1:
            raise OutputError(
                f"{final}: pages of a TIFF are no planes of one image; name one, or write a TIFF"
            )
        h, w = infos[0].shape
        return made(path, replace(infos[0], shape=(h // scale, w // scale)), scale, classes=classes)
    if final.suffix.lower() in TIFF_SUFFIXES:
        from .tiff.writer import TiffTarget

        return TiffTarget(
            path, infos, scale, output.compress, as_cog=output.cog, threads=output.threads, resume=resume
        )
    from .codecs.whole_file import FORMATS, encode
    from .spool import SpoolTarget

    format_ = FORMATS[final.suffix.lower()]
    return SpoolTarget(
        path,
        infos[0],
        lambda array: encode(array, format_, infos[0], scale, output.quality, final),
        resume=resume,
    )


def check_holds(final: Path, infos: Sequence[ImageInfo], output: Output) -> None:
    """Refuse, before any work, a result that the format of `final` cannot hold.

    Raises
    ------
    OutputError
        Naming the file and the limit.
    """
    if final.suffix.lower() in TIFF_SUFFIXES:
        if output.quality is not None:
            raise OutputError(f"{final}: a TIFF is written without loss; quality is of no use to it")
        if output.cog and len(infos) > 1:
            raise OutputError(
                f"{final}: a Cloud-Optimised GeoTIFF holds one page, got {len(infos)}; name one"
            )
        for h, w in (info.shape for info in infos):
            if max(h, w) > MAX_TIFF_SIDE:
                raise OutputError(f"{final}: TIFF sides are at most {MAX_TIFF_SIDE} pixels, got {w} x {h}")
        return
    if final.suffix.lower() in ZARR_SUFFIXES:
        if any(i.layout.color == "classes" and _has_colormap(i) for i in infos):
            raise OutputError(f"{final}: Zarr has no place for the colours of classes; write a TIFF instead")
        if output.quality is not None or output.cog:
            raise OutputError(f"{final}: Zarr is written without loss; quality and cog are of no use to it")
        return
    if output.cog:
        raise OutputError(f"{final}: only a TIFF can be a Cloud-Optimised GeoTIFF")
    if len(infos) > 1:
        raise OutputError(f"{final}: holds one image, got {len(infos)} pages; name one, or write a TIFF")
    from .codecs.whole_file import FORMATS, check_coded

    check_coded(final, FORMATS[final.suffix.lower()], infos[0], output.quality)


def _has_colormap(info: ImageInfo) -> bool:
    return any(field.tag == _COLOR_MAP for field in info.metadata.raster.get("fields", ()))


def make_folder(path: Path) -> None:
    """Make a folder for results, and those above it.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made: {error.strerror}") from error
