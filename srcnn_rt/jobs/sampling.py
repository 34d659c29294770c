"""What parts of a TIFF say of the whole: windows all over it, enlarged by bicubic and compressed."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
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

# Windows of so many HR pixels a side, about; the least of them whatever it takes.
SAMPLES, MIN_SAMPLED_PIXELS, SAMPLE_HR = 25, 5, 512
_SAMPLED_BYTES = 64 * 2**20  # what may be decoded for one of them
_PAGES = 8  # that are looked at
# Of an alpha: windows of so many LR pixels, and the largest part of what it shows that it may show in part.
ALPHA_SIDE, SOFT = 128, 0.5
_COMPRESSION, _ROWS_PER_STRIP, _TILE_WIDTH = 259, 278, 322


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as a TIFF."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return False


def _head(path: Path) -> Directory:
    """Return the first directory of a TIFF."""
    with suppress(OSError, struct.error), path.open("rb") as file:
        return Reader(file).page()
    return Directory(())


def _number(head: Directory, tag: int, default: int) -> int:
    field = head.get(tag)
    found = field.numbers() if field is not None else ()
    return found[0] if found else default


def striped(path: Path) -> bool:
    """Return whether a TIFF's first page is stored in rows of the whole width."""
    return _head(path).get(_TILE_WIDTH) is None


def ratio(job: Job, infos: Sequence[ImageInfo], compress: str, seconds: float | None) -> float | None:
    """Compress windows of an image's pages, enlarged by bicubic; return the bytes of a raw byte.

    None where windows of a TIFF cannot be had for little: compressed strips of many rows.

    Parameters
    ----------
    compress : of a TIFF, or ``"zarr"``
    seconds : stop then, but not before some windows of every page; None for all of them
    """
    from ..io.tiff.writer import coded_tile

    head = _head(job.source) if is_tiff(job.source) else None
    coded = raw = 0
    start = time.perf_counter()
    side = SAMPLE_HR // job.scale
    try:
        pages = [job.page] if job.page is not None else list(range(1, 1 + len(infos)))
        some = list(zip(pages, infos, strict=True))[:: max(1, len(infos) // _PAGES)]
        for page, info in some:
            (h, w) = info.shape
            if head is not None and _costs(head, info, side) > _SAMPLED_BYTES:
                return None
            with job.open(page) as source:
                for k, (y, x) in enumerate(_places(h, w, side)):
                    late = seconds is not None and time.perf_counter() - start > seconds
                    if late and k >= MIN_SAMPLED_PIXELS:
                        break
                    made = _enlarged(source.read(y, x), job.scale, classes=info.layout.color == "classes")
                    coded += len(_zarr_chunk(made) if compress == "zarr" else coded_tile(made, compress))
                    raw += made.nbytes
    except SrcnnError:
        return None  # the job itself will say what is wrong
    return coded / raw if raw else None


def doubts(job: Job, infos: Sequence[ImageInfo] | None = None) -> tuple[str, ...]:
    """Tell, a line each, what is called alpha in a georeferenced TIFF and does not look it.

    A common writer calls the fourth of four bands alpha, and in aerial images that is near-infrared. An
    alpha is nothing or all at nearly every place; of what is neither, windows all over the image are asked.

    Parameters
    ----------
    infos : of the job's pages; read if None
    """
    if not is_tiff(job.source):
        return ()
    found = []
    try:
        pages = range(1, 1 + page_count(job.source)) if job.page is None else range(job.page, job.page + 1)
        head = _head(job.source)
        for k, page in enumerate(pages[:_PAGES]):
            if infos is not None and not _has_placed_alpha(infos[k]):
                continue
            with job.open(page) as source:
                info = source.info
                if not _has_placed_alpha(info) or _costs(head, info, ALPHA_SIDE) > _SAMPLED_BYTES:
                    continue
                windows = [source.read(y, x)[:, :, -1] for y, x in _places(*info.shape, ALPHA_SIDE)]
            if words := _doubt(windows, kernels.white(info.dtype)):
                where = f", page {page}" if len(pages) > 1 else ""
                line = f"{job.source}{where}: band {info.layout.channels} is called alpha but {words}"
                found.append(f"{line}; --bands treats it as a band")
    except SrcnnError:
        return ()  # the job itself will say what is wrong
    return tuple(found)


def _has_placed_alpha(info: ImageInfo) -> bool:
    placed = any(info.metadata.raster.get(key) for key in ("crs", "transform", "gcps", "rpcs"))
    return placed and info.layout.alpha


def _doubt(windows: Sequence[NDArray[Any]], white: float) -> str | None:
    """Return why samples of an alpha, of which `white` hides nothing, are hardly one."""
    seen = sum(int(np.count_nonzero(w)) for w in windows)
    whole = sum(int(np.count_nonzero(w == white)) for w in windows)
    if seen == 0:
        return "hides all that was looked at"
    return "looks like data" if seen - whole > SOFT * seen else None


def _costs(head: Directory, info: ImageInfo, side: int) -> int:
    """Return the bytes that are decoded for one window."""
    if head.get(_TILE_WIDTH) is not None:
        return 0
    row = info.shape[1] * info.layout.channels * info.dtype.itemsize
    strip = min(info.shape[0], _number(head, _ROWS_PER_STRIP, info.shape[0]))
    return row * (side if _number(head, _COMPRESSION, 1) == 1 else side + 2 * strip)


def _places(height: int, width: int, side: int) -> list[tuple[Span, Span]]:
    """Return windows all over an image, the first few of them too."""
    rows, columns = (max(0, n - side) for n in (height, width))
    found = dict[tuple[int, int], None]()
    for k in range(SAMPLES):
        # The golden ratio and its like in two dimensions: evenly spread however many are taken.
        y, x = (round(n * ((0.5 + k * step) % 1)) for n, step in ((rows, 0.7549), (columns, 0.5698)))
        found[y, x] = None
    return [(Span(y, min(height, y + side)), Span(x, min(width, x + side))) for y, x in found]


def _zarr_chunk(samples: NDArray[Any]) -> bytes:
    """Return what zarr's own choice of codec makes of (h, w, C)."""
    import imagecodecs

    return bytes(imagecodecs.zstd_encode(np.ascontiguousarray(samples.transpose(2, 0, 1)).tobytes(), 3))


def _enlarged(samples: NDArray[Any], scale: int, *, classes: bool) -> NDArray[Any]:
    """Return (h, w, C) enlarged by bicubic, of the same type; of classes by copying."""
    if classes:
        return samples.repeat(scale, axis=0).repeat(scale, axis=1)
    values = np.pad(samples, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)), mode="edge").transpose(2, 0, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 or float16 do not hold
        windows = np.ascontiguousarray(values[np.newaxis], np.float32)
        made: NDArray[Any] = kernels.enlarge(windows, scale)[0]
        if samples.dtype.kind != "f":
            limits = np.iinfo(samples.dtype)
            made = np.rint(np.clip(made.astype(np.float64), limits.min, limits.max))
        return np.ascontiguousarray(made.transpose(1, 2, 0).astype(samples.dtype))
