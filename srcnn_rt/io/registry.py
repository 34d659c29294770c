"""The table of file formats, and the functions that open, check and create files by it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .._system import arguments
from ..errors import ArgumentError, ImageError, OutputError, SourceMissingError
from ..image.info import AS_SAID, ImageInfo, Reading
from ..options import OutputOptions
from .metadata import nodata_tag
from .protocols import Source, Target

if TYPE_CHECKING:
    from .array_like import SlicedSource

TIFF_SUFFIXES = (".tif", ".tiff")
ZARR_SUFFIXES = (".zarr",)  # folders
# The keys of codecs.formats.FORMATS, which is imported with the first such file: start-up time counts.
CODED_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")
MAX_TIFF_SIDE = 2**31 - 1  # pixels; the limit of GDAL, which most TIFF readers use
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")

_Kind = Literal["tiff", "coded", "zarr"]
_KINDS: dict[str, _Kind] = {
    **dict.fromkeys(TIFF_SUFFIXES, "tiff"),
    **dict.fromkeys(CODED_SUFFIXES, "coded"),
    **dict.fromkeys(ZARR_SUFFIXES, "zarr"),
}
IMAGE_SUFFIXES = tuple(_KINDS)

# The functions import a format's modules when they need them, because rasterio and zarr take 0.1 s each.


def is_image_name(path: Path) -> bool:
    """Return whether a file's name has the suffix of a supported format."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_image(path: Path) -> bool:
    """Return whether `path` is a file, or for Zarr a folder, with the suffix of a supported format."""
    return is_image_name(path) and (_is_zarr(path) if path.is_dir() else path.is_file())


def suffix_of(path: Path) -> str:
    """Return the usual suffix of an image's format, by its content; of TIFF for Zarr and what is unknown.

    Raises
    ------
    SourceMissingError, ImageError
    """
    if _kind_of_file(path) != "coded":
        return TIFF_SUFFIXES[0]
    from .codecs.formats import recognise

    format_ = recognise(_head(path))
    return TIFF_SUFFIXES[0] if format_ is None else format_.suffixes[0]


def page_count(path: Path) -> int:
    """Return the number of images in a file.

    Raises
    ------
    SourceMissingError, ImageError
    """
    kind = _kind_of_file(path)
    if kind == "coded":
        return 1
    if kind == "tiff":
        from .tiff.reader import pages

        return pages(path)
    from .zarr.reader import open_zarr

    return open_zarr(path).planes


def open_source(
    path: Path, page: int = 1, max_pixels: int | None = None, reading: Reading = AS_SAID
) -> Source:
    """Open an image; its content decides on the format, not its name.

    Parameters
    ----------
    path : Path
        A file, or the folder of a Zarr image.
    page : int
        Page of a TIFF or Zarr, from 1.
    max_pixels : int, optional
        Refuse larger images. None means 2^30 for formats that are decoded whole, and no limit for others.
    reading : Reading
        How to interpret the samples.

    Raises
    ------
    SourceMissingError, ImageError
        Naming the file and what is wrong with it.
    ArgumentError
        If the file has no such page, or cannot be read as `reading` says.
    """
    arguments.integers(page=page)
    arguments.integers(max_pixels=max_pixels, optional=True)
    kind = _kind_of_file(path)
    if kind == "coded":
        return _open_coded(path, page, max_pixels, reading)
    source: Source
    if kind == "tiff":
        from .tiff.reader import RasterSource

        source = RasterSource(path, page, reading)
    else:
        from .zarr.reader import open_zarr

        image = open_zarr(path)
        _check_page(path, page, image.planes)
        source = _interpreted(path, image.plane(page - 1), reading)
    h, w = source.info.shape
    if max_pixels is not None and h * w > max_pixels:
        source.close()
        raise ImageError(f"{path}: {w} x {h} pixels are more than the {max_pixels} of --max-pixels")
    return source


def check_output(path: Path, source: Path | None, *, overwrite: bool) -> None:
    """Refuse, before any work, a target that cannot or must not be written.

    Raises
    ------
    OutputError
        If `path` is `source`, exists (without `overwrite`), is a folder, has an unknown
        suffix, or its folder is missing or not writable.
    """
    if not is_image_name(path):
        raise OutputError(f"{path}: the suffix must be one of {', '.join(IMAGE_SUFFIXES)}")
    if path.is_dir() and not (path.suffix.lower() in ZARR_SUFFIXES and _is_zarr(path)):
        raise OutputError(f"{path}: a folder is in the way")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise OutputError(f"{path}: the output must not be the input")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: already exists; use --overwrite to replace it")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path.parent}: the folder is not writable")


def check_holds(final: Path, infos: Sequence[ImageInfo], output: OutputOptions) -> None:
    """Refuse, before any work, a result that its format cannot hold.

    Parameters
    ----------
    final : Path
        Name of the result.
    infos : sequence of ImageInfo
        Every page of the result.
    output : OutputOptions
        How it is to be written.

    Raises
    ------
    OutputError
        Naming the file and the limit.
    """
    kind = _KINDS[final.suffix.lower()]
    if output.cog and kind != "tiff":
        raise OutputError(f"{final}: only a TIFF can be a Cloud-Optimised GeoTIFF")
    if kind == "coded":
        from .codecs.whole_file import FORMATS, check_coded

        if len(infos) > 1:
            raise OutputError(
                f"{final}: holds one image, got {len(infos)} pages; choose one with --page, or write a TIFF"
            )
        check_coded(final, FORMATS[final.suffix.lower()], infos[0], output.quality)
        return
    if output.quality is not None:
        name = "TIFF" if kind == "tiff" else "Zarr"
        raise OutputError(f"{final}: {name} is written losslessly and takes no quality")
    if kind == "zarr":
        if any(i.layout.color == "classes" and i.metadata.colormap for i in infos):
            raise OutputError(f"{final}: Zarr cannot hold the colors of classes; write a TIFF instead")
        return
    if output.cog and len(infos) > 1:
        raise OutputError(
            f"{final}: a Cloud-Optimised GeoTIFF holds one page, got {len(infos)}; choose one with --page"
        )
    for h, w in (info.shape for info in infos):
        if max(h, w) > MAX_TIFF_SIDE:
            raise OutputError(f"{final}: TIFF sides are at most {MAX_TIFF_SIDE} pixels, got {w} x {h}")


def create_target(
    path: Path,
    final: Path,
    infos: Sequence[ImageInfo],
    scale: int,
    output: OutputOptions,
    *,
    source: Path | None = None,
    resume: bool = False,
) -> Target:
    """Start writing a file at `path`, in the format of the name `final`.

    Parameters
    ----------
    path : Path
        Where the file grows.
    final : Path
        Name of the result.
    infos : sequence of ImageInfo
        Every page of the result, with the metadata of the source.
    scale : int
        Scale factor.
    output : OutputOptions
        How it is written.
    source : Path, optional
        The source; the attributes of a Zarr image are copied to a Zarr result.
    resume : bool
        Continue the file at `path`.
    """
    kind, info = _KINDS[final.suffix.lower()], infos[0]
    if kind == "tiff":
        from .tiff.writer import TiffTarget

        compress, threads = output.compress, output.threads
        return TiffTarget(path, infos, scale, compress, as_cog=output.cog, threads=threads, resume=resume)
    if kind == "coded":
        from .codecs.whole_file import FORMATS, encode
        from .spool import SpoolTarget

        format_ = FORMATS[final.suffix.lower()]
        coding = partial(encode, format_=format_, info=info, scale=scale, quality=output.quality, path=final)
        return SpoolTarget(path, info, coding, resume=resume)
    from .zarr.reader import open_zarr
    from .zarr.writer import create, reopen

    make = reopen if resume and path.exists() else create
    classes = info.layout.color == "classes"
    if source is not None and source.is_dir():
        return make(path, open_zarr(source), scale, classes=classes)
    if len(infos) > 1:
        raise OutputError(
            f"{final}: the pages of a TIFF are not planes of one image; choose one with --page, or write"
            " a TIFF"
        )
    h, w = info.shape
    return make(path, replace(info, shape=(h // scale, w // scale)), scale, classes=classes)


def make_folder(path: Path) -> None:
    """Create a folder for results, and its parents.

    Raises
    ------
    OutputError
        If it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made: {error.strerror}") from error


def _is_zarr(folder: Path) -> bool:
    """Return whether a folder holds a Zarr array or group."""
    return any((folder / name).is_file() for name in _ZARR_FILES)


def _open_coded(path: Path, page: int, max_pixels: int | None, reading: Reading) -> Source:
    from .codecs.integrity import MAX_PIXELS
    from .codecs.whole_file import read_coded, recognise

    _check_page(path, page, 1)
    format_ = recognise(_head(path))
    if format_ is None:
        raise ImageError(f"{path}: not an image of a known format ({', '.join(IMAGE_SUFFIXES)})")
    if reading.classes:
        raise ArgumentError(f"{path}: classes are read from TIFF and Zarr, got a {format_.name}")
    source = read_coded(path, format_, MAX_PIXELS if max_pixels is None else max_pixels)
    return _interpreted(path, source, reading)


def _kind_of_file(path: Path) -> _Kind:
    if path.is_dir() and _is_zarr(path):
        return "zarr"
    return "tiff" if _head(path)[:4] in _TIFF_SIGNATURES else "coded"


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, in which every format has its signature."""
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


def _check_page(path: Path, page: int, count: int) -> None:
    if not 1 <= page <= count:
        raise ArgumentError(f"{path}: has {count} page{'s' if count > 1 else ''}, so there is no page {page}")


def _interpreted(path: Path, source: SlicedSource, reading: Reading) -> Source:
    """Apply `reading` to a source of a format without nodata values."""
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
