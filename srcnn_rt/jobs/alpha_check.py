"""Warn about an alpha that looks like data, from windows spread over a georeferenced TIFF."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import SrcnnError
from ..image.info import ImageInfo
from ..io.alpha_doubt import SIDE, why_no_alpha
from ..io.tiff.ifd import Directory, Reader
from .job import Job

MAX_PAGES = 8
_MAX_DECODED_BYTES = 64 * 2**20  # per window
_COMPRESSION, _ROWS_PER_STRIP, _TILE_WIDTH = 259, 278, 322


def is_tiff(path: Path) -> bool:
    """Return whether a file begins like a TIFF."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return False


def is_striped(path: Path) -> bool:
    """Return whether a TIFF's first page is stored in strips, not in tiles."""
    return _first_directory(path).get(_TILE_WIDTH) is None


def doubts(job: Job, infos: Sequence[ImageInfo] | None = None) -> tuple[str, ...]:
    """Return a warning for each page of a georeferenced TIFF whose alpha does not look like one.

    A common writer declares the fourth of four bands as alpha. In aerial images it is often near-infrared.

    Parameters
    ----------
    job : Job
    infos : sequence of ImageInfo, optional
        One per page; pages are opened to find out if None.
    """
    found: list[str] = []
    if not is_tiff(job.source):
        return ()
    with suppress(SrcnnError):  # the job itself will raise it
        head, numbers = _first_directory(job.source), job.page_numbers()
        for k in range(0, len(numbers), max(1, len(numbers) // MAX_PAGES)):
            if infos is not None and not _is_georeferenced_alpha(infos[k]):
                continue
            with job.open(numbers[k]) as source:
                readable = _decoded_bytes(head, source.info) <= _MAX_DECODED_BYTES
                why = why_no_alpha(source) if readable and _is_georeferenced_alpha(source.info) else None
            if why is not None:
                where = f"{job.source}, page {numbers[k]}" if len(numbers) > 1 else str(job.source)
                band = source.info.layout.channels
                found.append(f"{where}: band {band} is called alpha but {why}; --bands treats it as a band")
    return tuple(found)


def _is_georeferenced_alpha(info: ImageInfo) -> bool:
    return info.layout.alpha and bool(info.metadata.georeference)


def _first_directory(path: Path) -> Directory:
    with suppress(OSError, struct.error), path.open("rb") as file:
        return Reader(file).page()
    return Directory(())


def _decoded_bytes(head: Directory, info: ImageInfo) -> int:
    """Return how many bytes of a TIFF are decoded for one window beyond its own tiles."""
    if head.get(_TILE_WIDTH) is not None:
        return 0
    row = info.shape[1] * info.layout.channels * info.dtype.itemsize
    strip = min(info.shape[0], head.number(_ROWS_PER_STRIP, info.shape[0]))
    return row * (SIDE if head.number(_COMPRESSION, 1) == 1 else SIDE + 2 * strip)
