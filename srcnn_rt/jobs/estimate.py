"""Estimate what a job needs before it starts, and refuse a job that certainly cannot fit.

The size of a result is a range. Its high end is what the samples take where nothing compresses, plus the
container; the low end follows from how far the source is compressed. A job is refused for what it certainly
needs, so a job that fits is never refused. `Engine.estimate` reports the range, and a job that may not fit is
only warned about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._system import disk
from .._system import memory as system_memory
from .._system.safe_files import WORK
from ..backends.loader import Setup
from ..errors import ImageError, OutputError, SrcnnError
from ..execution import autotune
from ..execution.planner import plan_for
from ..image.info import ImageInfo, Layout
from ..io.codecs.formats import BMP, recognise
from ..io.codecs.integrity import declared
from ..io.in_memory import ArraySink
from ..io.registry import TIFF_SUFFIXES, ZARR_SUFFIXES
from ..io.spool import MIN_BYTES
from ..models.spec import ModelSpec
from . import alpha_check, journal
from .file_job import Pages
from .job import Job
from .report import JobFiles

# The low end of a result's bytes per raw byte, over the source's: enlarged images compress better, by up to
# twice, and the source's codec may be 2.5 times weaker than the result's. A source that is hardly
# compressed, or so well that it is no photograph, predicts nothing.
LOW, PREDICTIVE_RATIOS = 1 / 5, (0.1, 0.95)
LOSSY_LOW = 1 / 100  # at quality 100, in proportion below
# The high end per raw byte: of most codecs, of LZW, which expands noise, and of other formats than PNG.
HIGH, HIGH_LZW, HIGH_CODED = 1.01, 1.5, 1.25
HEADER_BYTES = 2**16  # per page: directories, profiles, EXIF
PADDING = 1 / 50  # bytes per raw byte of the padding in a TIFF's last tiles
# An image with its overviews over the image alone; LZW and no compression store the padding of small ones.
PYRAMID, PYRAMID_PADDED = 4 / 3, 2
MIN_COG = 1.3  # at least, where an image is surely large enough for overviews
# Memory that encoders take beside samples and coded bytes, bytes per pixel of 1, 2, 3 and 4 channels, and the
# share of it that is counted on. Decoders: copies of the samples.
ENCODER_BYTES = {".webp": (26, 26, 30, 28), ".avif": (15, 36, 33, 36), ".jxl": (7.5, 10, 15, 18)}
SURE = 0.5
DECODER_COPIES = {".webp": 2.3, ".bmp": 3.3, ".avif": 2.2, ".jxl": 1.2}
STRIP_COPIES = 3  # of the rows of a striped TIFF that are held at once
LOSSY_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Estimate(JobFiles):
    """What a job needs; sizes in bytes. `dataclasses.asdict` of it is JSON.

    Attributes
    ----------
    source, target, source_size, target_size, pages
        As in `JobFiles`.
    raw_bytes : int
        Samples of the result.
    file_bytes : tuple of (int, int)
        Low and high end of the file's size; equal where it is known, but for some kB of metadata. The low
        end is an expectation: an image of a periodic pattern may take less.
    temporary_bytes : int
        Other files beside the result while it grows, at most.
    kept_bytes : int
        What an interrupted run left. It is continued or overwritten, so it counts as free.
    replaced_bytes : int
        The file that the result replaces. It becomes free only when the result is complete.
    min_bytes, min_temporary_bytes : int
        What the file and the files beside it take at least.
    free_bytes : int, optional
        Free space on the target's disk, None if unknown.
    memory_bytes, min_memory : int
        Expected peak of this process, and what the job needs at least without libraries.
    memory_available, memory_limit : int, optional
        What this process can have without and with swap, None if unknown.
    seconds : float, optional
        Time that the model takes, without files. None if it was not measured.
    tile : int
        Side of a tile in LR pixels.
    done : float
        Share of the pixels that an interrupted run finished, 0 to 1.
    disk : int, optional
        Device number of the target's disk.
    """

    raw_bytes: int
    file_bytes: tuple[int, int]
    temporary_bytes: int
    kept_bytes: int
    replaced_bytes: int
    free_bytes: int | None
    min_bytes: int
    min_temporary_bytes: int
    memory_bytes: int
    min_memory: int
    memory_available: int | None
    memory_limit: int | None
    seconds: float | None
    tile: int
    done: float
    disk: int | None

    @property
    def exact(self) -> bool:
        """Whether the size of the file is known."""
        return self.file_bytes[0] == self.file_bytes[1]

    @property
    def needed_bytes(self) -> int:
        """Disk space that suffices in any case."""
        return max(0, self.file_bytes[1] + self.temporary_bytes - self.kept_bytes)

    @property
    def fits(self) -> bool:
        """Whether the high end fits on the disk and the expected memory is available."""
        fits_disk = self.free_bytes is None or self.needed_bytes <= self.free_bytes
        return fits_disk and (self.memory_available is None or self.memory_bytes <= self.memory_available)


def estimate(
    job: Job, model: ModelSpec, setup: Setup, pool: ThreadPoolExecutor, rates: dict[Any, float]
) -> Estimate:
    """Return what a job needs, without refusing it. Headers are read, and windows of noise timed.

    Parameters
    ----------
    job : Job
    model : ModelSpec
    setup : Setup
        Networks and workers that will run the job.
    pool : ThreadPoolExecutor
    rates : dict
        Keeps measured rates for other images of the same kind.

    Raises
    ------
    SourceMissingError, ImageError, OutputError, ModelError
        If the source cannot be read.
    """
    infos = _declared_infos(job)
    if infos is None:
        with Pages(job) as pages:
            infos = pages.infos
    found = _estimate(job, model, setup, infos)
    key = (setup.networks, setup.tile, str(infos[0].layout), infos[0].dtype.str)
    if key not in rates:
        rates[key] = autotune.rate(setup, pool, infos[0].layout, infos[0].dtype)
    pixels = sum(math.prod(i.shape) for i in infos) * job.scale**2
    return replace(found, seconds=pixels * (1 - found.done) / rates[key])


def check(job: Job, model: ModelSpec, setup: Setup, infos: Sequence[ImageInfo] | None = None) -> None:
    """Refuse a job that certainly cannot fit, before it starts.

    A job is refused if what it needs at least is more than what is free. On the disk that is the exact size
    of a TIFF with ``compress="none"``, of a BMP and of temporary samples. In memory it is the samples of a
    source that is decoded whole, half of what encoders were measured to take, a band of rows of a striped
    TIFF, and the windows of an image that is not tiled. Swap counts as memory.

    Parameters
    ----------
    job : Job
    model : ModelSpec
    setup : Setup
    infos : sequence of ImageInfo, optional
        One per page. If None, only what the header of a coded image declares is checked, so that an image too
        large for the memory is not even decoded.

    Raises
    ------
    OutputError, ImageError
        Names the file, what is needed and what is free.
    """
    known = infos or _declared_infos(job, certain=True)
    if not known or not job.target.parent.is_dir():
        return  # opening the files raises a better error
    refuse(_estimate(job, model, setup, known))


def refuse(found: Estimate) -> None:
    """Raise an error if an estimate shows that the job cannot fit; see `check`.

    Raises
    ------
    OutputError, ImageError
    """
    needed = found.min_bytes + found.min_temporary_bytes - found.kept_bytes
    if found.free_bytes is not None and needed > found.free_bytes:
        at_least = "" if found.exact else "at least "
        raise OutputError(
            f"{found.target}: needs {at_least}{size_text(needed)} of disk space, "
            f"but only {size_text(found.free_bytes)} are free"
        )
    if found.memory_limit is None or found.min_memory <= found.memory_limit:
        return
    (w, h), (hr_w, hr_h) = found.source_size, found.target_size
    minimum, limit = size_text(found.min_memory), size_text(found.memory_limit)
    memory = f"at least {minimum} of memory, but only {limit} are available"
    if Path(found.target).suffix.lower() not in (*TIFF_SUFFIXES, *ZARR_SUFFIXES):
        raise OutputError(
            f"{found.target}: {hr_w} x {hr_h} pixels need {memory}; write a TIFF, which is streamed"
        )
    raise ImageError(
        f"{found.source}: {w} x {h} pixels need {memory}; convert it to a tiled TIFF, which is streamed"
    )


def size_text(count: float) -> str:
    """Return a number of bytes in units of powers of ten."""
    count = max(0, count)
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size * 0.9995:
            digits = max(0, 2 - int(math.log10(max(1, count / size * 1.0001))))
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f} bytes"


def _estimate(job: Job, model: ModelSpec, setup: Setup, infos: Sequence[ImageInfo]) -> Estimate:
    """Put the parts of an estimate together."""
    info, large = infos[0], [i.scaled(job.scale) for i in infos]
    raw = sum(map(_raw_bytes, large))
    low, high, minimum = _plain_bytes(job, infos, large)
    padded = job.target.suffix.lower() in TIFF_SUFFIXES and job.output.compress in ("lzw", "none")
    pyramid = PYRAMID_PADDED if padded else PYRAMID
    temporary = min_temporary = 0
    if not _streams(job):
        temporary = min_temporary = 0 if raw < MIN_BYTES else raw  # allocated when the job starts
    elif job.output.cog:  # a copy of the plain file, whose overviews are in another file until then
        temporary, min_temporary = round(high * pyramid), minimum
        minimum = round(minimum * (MIN_COG if min(large[0].shape) >= 4096 else 1))
    if job.output.cog or _is_zarr(job) or (_streams(job) and len(infos) == 1 and info.metadata.overviews):
        high = round(high * pyramid) + HEADER_BYTES
    memory, own = system_memory.memory(), system_memory.resident()
    expected, min_memory = _memory(job, model, setup, info, low + high)
    resumable = job.resume and job.partial.exists() and (_streams(job) or raw >= MIN_BYTES)
    return Estimate(
        **JobFiles.facts(job, infos),
        raw_bytes=raw,
        file_bytes=(low, high),
        temporary_bytes=temporary,
        kept_bytes=sum(disk.allocated_bytes(Path(f"{job.partial}{name}")) for name in ("", WORK)),
        replaced_bytes=disk.allocated_bytes(job.target) if job.overwrite else 0,
        free_bytes=disk.free_bytes(job.target.parent),
        min_bytes=minimum,
        min_temporary_bytes=min_temporary,
        memory_bytes=own + expected,
        min_memory=min_memory,
        memory_available=None if memory is None else memory.available + own,
        memory_limit=None if memory is None else memory.with_swap + own,
        seconds=None,
        tile=min(setup.tile, max(info.shape)),
        done=journal.finished_share(job.journal, [i.shape for i in infos]) if resumable else 0.0,
        disk=disk.device(job.target.parent),
    )


def _plain_bytes(job: Job, infos: Sequence[ImageInfo], large: Sequence[ImageInfo]) -> tuple[int, int, int]:
    """Return low end, high end and minimum of a result's bytes, without overviews."""
    suffix, raw = job.target.suffix.lower(), sum(map(_raw_bytes, large))
    if suffix == ".bmp":
        (h, w), channels = large[0].shape, large[0].layout.channels
        size = h * (-(-w * channels // 4) * 4) + (1078 if channels == 1 else 54)
        return size, size, size
    masks = sum(math.prod(i.shape) // 8 for i in large if i.masked)
    tiled = _tiled_bytes(job, large) if suffix in TIFF_SUFFIXES else raw
    if suffix in TIFF_SUFFIXES and job.output.compress == "none":
        return tiled, tiled + masks, tiled
    # Of a file with several pages, one page may be compressed unlike the others.
    own = disk.allocated_bytes(job.source) / max(1, sum(map(_raw_bytes, infos))) if job.page is None else 1.0
    low = LOW * own if PREDICTIVE_RATIOS[0] <= own < PREDICTIVE_RATIOS[1] else 0.0
    if suffix in LOSSY_SUFFIXES or job.output.quality is not None:
        low = min(low, LOSSY_LOW * (job.output.quality or 95) / 100)
    if suffix in TIFF_SUFFIXES and job.output.compress == "lzw":
        high = tiled * HIGH_LZW
    else:
        high = raw * (HIGH if _streams(job) or suffix == ".png" else HIGH_CODED) + (tiled - raw) * PADDING
    high += masks + HEADER_BYTES * len(large)
    return round(raw * low), round(high), 0


def _tiled_bytes(job: Job, large: Sequence[ImageInfo]) -> int:
    """Return the bytes of a TIFF's uncompressed tiles, and of their offsets and sizes."""
    side, pointer = _block_side(job), 12 if sum(map(_raw_bytes, large)) > 2e9 else 8
    return sum(
        math.prod(-(-n // side) for n in i.shape)
        * (side * side * i.layout.channels * i.dtype.itemsize + pointer)
        for i in large
    )


def _block_side(job: Job) -> int:
    from ..io.tiff.writer import block_side  # imports rasterio, which other targets do not need

    return block_side(job.scale)


def _memory(job: Job, model: ModelSpec, setup: Setup, info: ImageInfo, file_bytes: int) -> tuple[int, int]:
    """Return the memory that a job takes beyond what the process has: expected, and at least."""
    suffix, whole = job.target.suffix.lower(), not (alpha_check.is_tiff(job.source) or job.source.is_dir())
    raw, hr_pixels = _raw_bytes(info), math.prod(info.shape) * job.scale**2
    held = raw if whole else 0
    strips = windows = min_windows = 0
    with suppress(SrcnnError):  # a model that has no windows for the image is refused elsewhere
        sink = ArraySink(ImageInfo((1, 1), Layout.of(1), np.dtype(np.uint8)))
        if suffix in TIFF_SUFFIXES:
            sink.block = (_block_side(job), _block_side(job))
        plan = plan_for(setup, info, sink)
        if alpha_check.is_tiff(job.source) and alpha_check.is_striped(job.source):
            strips = raw * min(info.shape[0], plan.chunk[0]) // info.shape[0]
        # Smaller windows have been run to time the model, and a GPU has memory of its own.
        if max(plan.tile) > autotune.MAX_SIDE and not setup.devices:
            windows = 4 * model.channels * math.prod(plan.tile) * (1 + job.scale**2) * setup.workers
        if max(info.shape) <= setup.tile:
            min_windows = windows  # the only window; several would be halved
    encoder = int(ENCODER_BYTES.get(suffix, (0,) * 4)[min(info.layout.channels, 4) - 1] * hr_pixels)
    if whole:
        decoder = round(DECODER_COPIES.get(job.source.suffix.lower(), 1.0) * raw)
        decoder += disk.allocated_bytes(job.source)
    writer = 0 if _streams(job) else encoder + file_bytes
    expected = max(decoder if whole else 0, held + STRIP_COPIES * strips + windows, held + writer)
    return expected, held + max(strips, min_windows, round(SURE * encoder))


def _is_zarr(job: Job) -> bool:
    return job.target.suffix.lower() in ZARR_SUFFIXES


def _streams(job: Job) -> bool:
    """Return whether the result is written part by part."""
    return _is_zarr(job) or job.target.suffix.lower() in TIFF_SUFFIXES


def _declared_infos(job: Job, *, certain: bool = False) -> list[ImageInfo] | None:
    """Return what the header of a coded image declares; None for other images and damaged headers."""
    with suppress(OSError, SrcnnError), job.source.open("rb") as file:
        format_ = recognise(file.read(32))
        # A palette of a BMP counts as color here, and may turn out to be gray.
        if format_ is None or job.page not in (None, 1) or (certain and format_ is BMP):
            return None
        said = declared(job.source, format_)
        dtype = np.dtype({1: np.uint8, 2: np.uint16, 4: np.float32}[said.sample_bytes])
        return [ImageInfo((said.height, said.width), Layout.of(said.channels), dtype)]
    return None


def _raw_bytes(info: ImageInfo) -> int:
    return math.prod(info.shape) * info.layout.channels * info.dtype.itemsize
