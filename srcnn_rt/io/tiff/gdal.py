"""Opens TIFFs in rasterio and converts the errors of GDAL and the system."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from ..._system.forking import PerProcess
from ...errors import ImageError, OutputError, SrcnnError
from ...image.info import Georeference, Reading
from .ifd import Directory

_filters_lock = PerProcess(threading.Lock(), lambda inherited: threading.Lock())


@dataclass(frozen=True)
class OpenPage:
    """A page that is open for reading.

    Attributes
    ----------
    path : Path
        The file.
    file : rasterio.DatasetReader
        The page in rasterio.
    ifd : Directory
        Its directory.
    reading : Reading
        How to interpret its samples where its metadata should be overridden.
    pages : int
        Number of pages in the file.
    overviews : bool
        Whether overviews of the page follow it in the file.
    significant_bits : int, optional
        Significant bits per sample by the image description.
    """

    path: Path
    file: Any
    ifd: Directory
    reading: Reading
    pages: int
    overviews: bool
    significant_bits: int | None

    @cached_property
    def georeference(self) -> Georeference:
        """Georeference of the page, false if it has none."""
        file = self.file
        return Georeference(
            crs=file.crs,
            transform=None if file.transform == Affine.identity() else file.transform,
            gcps=file.gcps if file.gcps[0] else None,
            rpcs=file.rpcs,
        )

    @property
    def planar(self) -> bool:
        """Whether each of several channels is stored separately."""
        interleaving = self.file.interleaving
        return interleaving is not None and interleaving.name == "band" and bool(self.file.count > 1)


def open_quietly(path: Path | str, **options: Any) -> Any:
    """Open a TIFF in rasterio without the warning that it is not georeferenced.

    rasterio cannot be told not to warn. Warning filters belong to the whole process, so they are changed
    under a lock and restored at once.
    """
    with _filters_lock.get(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="GTiff", **options)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise errors of GDAL and the system as `ImageError` with the name of the file."""
    try:
        yield
    except Exception as error:
        if not (_is_foreign(error) or isinstance(error, UnicodeDecodeError)):
            raise
        text = _reason(error)
        from_system = isinstance(error, OSError) and not _is_gdal(error)
        rule = "cannot be read" if from_system or "missing codec" in text else "damaged TIFF"
        raise ImageError(f"{path}: {rule}: {text}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of GDAL and the system as `OutputError` with the name of the file."""
    try:
        yield
    except Exception as error:
        if not _is_foreign(error):
            raise
        raise OutputError(f"{path}: cannot be written: {_reason(error)}") from error


def _is_foreign(error: Exception) -> bool:
    return not isinstance(error, SrcnnError) and (isinstance(error, OSError) or _is_gdal(error))


def _is_gdal(error: Exception) -> bool:
    # rasterio passes some of GDAL's errors on as they are, and those have no public base class.
    return type(error).__module__.partition(".")[0] == "rasterio"


def _reason(error: Exception) -> str:
    """Return the system's message, or GDAL's, which rasterio keeps as the cause."""
    cause = error.__cause__
    return str(getattr(error, "strerror", None) or getattr(cause, "errmsg", None) or cause or error)
