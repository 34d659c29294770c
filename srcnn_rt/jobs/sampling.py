"""Look at windows spread over a source: how far they compress, and whether its alpha looks like one."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SrcnnError
from ..image.bicubic import RADIUS
from ..image.info import ImageInfo
from ..io import page_count
from ..io.tiff.ifd import Directory, Reader
from ..tiling import kernels
from ..tiling.geometry import Span
from .file_job import Job

MAX_WINDOWS = 25  # per page
MAX_PAGES = 8
HR_SIDE = 512  # of windows that are compressed, HR pixels
ALPHA_SIDE = 128  # of windows in which alpha is examined, LR pixels
MAX_SOFT = 0.5  # share of partly transparent pixels among the visible ones that an alpha may have
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


def compressed_ratio(job: Job, infos: Sequence[ImageInfo], compress: str) -> float | None:
    """Return the compressed bytes per raw byte of windows that are enlarged by bicubic interpolation.

    Parameters
    ----------
    job : Job
    infos : sequence of ImageInfo
        One per page.
    compress : str
        Compression of a TIFF, or ``"zarr"``.

    Returns
    -------
    float or None
        None if the source cannot be read in parts at little cost.
    """
    from ..io.tiff.writer import coded_tile

    coded = raw = 0
    with suppress(SrcnnError):  # the job itself will raise it
        for _, info, samples in _windows(job, infos, HR_SIDE // job.scale):
            enlarged = _enlarge(samples, job.scale, copy=info.layout.color == "classes")
            coded += len(_zarr_chunk(enlarged) if compress == "zarr" else coded_tile(enlarged, compress))
            raw += enlarged.nbytes
    return coded / raw if raw else None


def doubts(job: Job, infos: Sequence[ImageInfo] | None = None) -> tuple[str, ...]:
    """Return a warning for each page of a georeferenced TIFF whose alpha does not look like one.

    A common writer declares the fourth of four bands as alpha. In aerial images it is often near-infrared.
    An alpha is fully transparent or fully opaque nearly everywhere, so other values are counted.

    Parameters
    ----------
    job : Job
    infos : sequence of ImageInfo, optional
        One per page; pages are opened to find out if None.
    """
    if not is_tiff(job.source):
        return ()
    visible, opaque = defaultdict[int, int](int), defaultdict[int, int](int)
    bands: dict[int, int] = {}
    with suppress(SrcnnError):  # the job itself will raise it
        for page, info, samples in _windows(job, infos, ALPHA_SIDE, _is_georeferenced_alpha):
            bands[page], alpha = info.layout.channels, samples[:, :, -1]
            visible[page] += int(np.count_nonzero(alpha))
            opaque[page] += int(np.count_nonzero(alpha == kernels.white(info.dtype)))
    found = []
    for page, band in bands.items():
        where = f"{job.source}, page {page}" if len(_page_numbers(job)) > 1 else str(job.source)
        if visible[page] == 0:
            why = "hides all that was looked at"
        elif visible[page] - opaque[page] > MAX_SOFT * visible[page]:
            why = "looks like data"
        else:
            continue
        found.append(f"{where}: band {band} is called alpha but {why}; --bands treats it as a band")
    return tuple(found)


def _is_georeferenced_alpha(info: ImageInfo) -> bool:
    return info.layout.alpha and bool(info.metadata.georeference)


def _windows(
    job: Job,
    infos: Sequence[ImageInfo] | None,
    side: int,
    wanted: Callable[[ImageInfo], bool] = lambda info: True,
) -> Iterator[tuple[int, ImageInfo, NDArray[Any]]]:
    """Yield page, info and samples of windows spread over some pages of a source."""
    head = _first_directory(job.source) if is_tiff(job.source) else None
    numbers = _page_numbers(job)
    for k in range(0, len(numbers), max(1, len(numbers) // MAX_PAGES)):
        if infos is not None and not wanted(infos[k]):
            continue
        with job.open(numbers[k]) as source:
            info = source.info
            if not wanted(info) or (
                head is not None and _decoded_bytes(head, info, side) > _MAX_DECODED_BYTES
            ):
                continue
            for y, x in _places(*info.shape, side):
                yield numbers[k], info, source.read(y, x)


def _page_numbers(job: Job) -> range:
    return range(1, 1 + page_count(job.source)) if job.page is None else range(job.page, job.page + 1)


def _first_directory(path: Path) -> Directory:
    with suppress(OSError, struct.error), path.open("rb") as file:
        return Reader(file).page()
    return Directory(())


def _decoded_bytes(head: Directory, info: ImageInfo, side: int) -> int:
    """Return how many bytes of a TIFF are decoded for one window beyond its own tiles."""
    if head.get(_TILE_WIDTH) is not None:
        return 0
    row = info.shape[1] * info.layout.channels * info.dtype.itemsize
    strip = min(info.shape[0], head.number(_ROWS_PER_STRIP, info.shape[0]))
    return row * (side if head.number(_COMPRESSION, 1) == 1 else side + 2 * strip)


def _places(height: int, width: int, side: int) -> list[tuple[Span, Span]]:
    """Return distinct windows that are evenly spread over an image."""
    rows, columns = (max(0, n - side) for n in (height, width))
    # Multiples of these irrational steps modulo 1 fill a square evenly (the R2 sequence).
    corners = {
        tuple(round(n * ((0.5 + k * step) % 1)) for n, step in ((rows, 0.7549), (columns, 0.5698)))
        for k in range(MAX_WINDOWS)
    }
    return [(Span(y, min(height, y + side)), Span(x, min(width, x + side))) for y, x in sorted(corners)]


def _zarr_chunk(samples: NDArray[Any]) -> bytes:
    """Compress (h, w, C) samples as zarr does by default."""
    import imagecodecs

    return bytes(imagecodecs.zstd_encode(np.ascontiguousarray(samples.transpose(2, 0, 1)).tobytes(), 3))


def _enlarge(samples: NDArray[Any], scale: int, *, copy: bool) -> NDArray[Any]:
    """Return (h, w, C) samples enlarged by bicubic interpolation in their own type, or by copying."""
    if copy:
        return samples.repeat(scale, axis=0).repeat(scale, axis=1)
    values = np.pad(samples, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)), mode="edge").transpose(2, 0, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # samples beyond the range of float32 or float16
        enlarged: NDArray[Any] = kernels.enlarge(np.ascontiguousarray(values[np.newaxis], np.float32), scale)[
            0
        ]
        if samples.dtype.kind != "f":
            limits = np.iinfo(samples.dtype)
            enlarged = np.rint(np.clip(enlarged.astype(np.float64), limits.min, limits.max))
        return np.ascontiguousarray(enlarged.transpose(1, 2, 0).astype(samples.dtype))
