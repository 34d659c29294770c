"""From file names to sources and sinks; nothing half-written under a final name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError, PictureError, SourceMissingError, SrcnnError
from ..picture import PictureInfo
from .base import Sink, Source

TIFF_SUFFIXES = (".tif", ".tiff")
TIFF_COMPRESSIONS = ("deflate", "zstd", "lzw", "none")
CODED_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PICTURE_SUFFIXES = (*TIFF_SUFFIXES, *CODED_SUFFIXES)
_runs = itertools.count()
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_picture_name(path: Path) -> bool:
    """Return whether a file's name says that it is a picture of a known format."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def open_source(path: Path) -> Source:
    """Open a picture by its content, whatever its name says.

    Raises
    ------
    SourceMissingError, PictureError
        Naming the file and what is wrong with it.
    """
    if not path.exists():
        raise SourceMissingError(f"{path}: no such file")
    if path.is_dir():
        raise PictureError(f"{path}: a folder, not a picture")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise PictureError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise PictureError(f"{path}: an empty file")
    # Imported when a picture needs them: each costs about 0.1 s.
    if head[:4] in _TIFF_SIGNATURES:
        from .raster import RasterSource

        return RasterSource(path)
    from .coded import read_coded, recognise

    format_ = recognise(head)
    if format_ is None:
        raise PictureError(f"{path}: not a picture of a known format ({', '.join(PICTURE_SUFFIXES)})")
    return read_coded(path, format_)


def check_output(path: Path, source: Path | None, *, overwrite: bool) -> None:
    """Refuse, before any work, a target that must not or cannot be written.

    Raises
    ------
    OutputError
        If `path` is `source`, exists (without `overwrite`), is a folder, has an unknown
        suffix, or its folder is missing or not writable.
    """
    if not is_picture_name(path):
        raise OutputError(f"{path}: the suffix must be one of {', '.join(PICTURE_SUFFIXES)}")
    if path.is_dir():
        raise OutputError(f"{path}: a folder is in the way")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise OutputError(f"{path}: the output must not be the input")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; overwriting must be asked for")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path.parent}: the folder is not writable")


def create_sink(path: Path, final: Path, info: PictureInfo, scale: int, compress: str = "deflate") -> Sink:
    """Start writing a picture to `path` in the format that the name `final` asks for.

    `compress` is one of ``TIFF_COMPRESSIONS``; other formats have their own.
    """
    suffix = final.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        from .raster import RasterSink

        return RasterSink(path, info, scale, compress)
    from .coded import FORMATS, CodedSink, check_coded

    check_coded(final, FORMATS[suffix], info)
    return CodedSink(path, FORMATS[suffix], info)


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield ``NAME.PID-N.partial``; it becomes `path` when the block ends well, else it goes.

    The file is flushed to the disk before it is renamed, so that a crash leaves either
    the old picture or the whole new one. Every run has its own partial file, so two runs
    of the same picture cannot mix.

    Raises
    ------
    OutputError
        If the disk is full or the folder not writable.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{next(_runs)}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield partial
        handle = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        partial.replace(path)
    except SrcnnError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
