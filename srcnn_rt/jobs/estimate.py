"""What a job will take, before it starts: bytes on the disk, memory, time; and a refusal if it cannot fit.

Two kinds of numbers are kept apart. What is *expected* is printed, and may be wrong by what stands beside the
constants below. What is *needed at least* refuses, so it must not be more than what the job really takes:
sizes that are exact, samples that are held, and half of what parts of the image itself compress to.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._system import memory as resources
from .._system.safe_files import WORK
from ..backends.loader import Setup
from ..backends.onnxruntime import available_threads
from ..errors import SrcnnError
from ..execution import autotune
from ..execution.executor import plan_for
from ..image.info import ImageInfo, Layout
from ..io import ArraySink, Sink
from ..io.codecs.formats import BMP, PNG, WEBP, Format, recognise
from ..io.codecs.integrity import declared
from ..io.metadata.header import Declared
from ..io.registry import TIFF_SUFFIXES, ZARR_SUFFIXES
from ..io.spool import CHUNK_BYTES, MIN_BYTES
from ..models.spec import ModelSpec
from . import journal, sampling
from .estimate_text import Estimate, refuse
from .file_job import Job, Pages

# How far the numbers below are off: python benchmarks/preflight.py DIR

# The network's result over bicubic's, both as TIFF: 1.00 to 1.41 (8 bits), 1.00 to 1.75 (others, ZSTD).
OVER_BICUBIC = {1: 1.12, 2: 1.05, 4: 1.05, 8: 1.05}
# So this much of bicubic's size is surely not undercut by it, nor by models that smooth.
SURELY = 0.5
# PNG to PNG, bytes of the result over the source's, both of a raw byte: 0.83 to 1.28 times this.
RATIO_OF_SCALE = {2: 0.87, 3: 0.77, 4: 0.68}
RATIO_DEEP = 1.05  # 16 bits, all scales
# A raw byte of the result where the source says nothing: 0.4 to 0.75; of float64, bicubic's: 0.34 to 0.41.
USUAL_RATIO = {1: 0.53, 2: 0.85, 4: 0.73, 8: 0.4}
# Other formats over PNG (16-bit LZW expands).
OVER_PNG = {".png": 1.0, ".webp": 0.66, ".bmp": 1.0, ".avif": 0.93, ".jxl": 0.62}
JPEG_OVER_PNG = {1: 0.54, 3: 0.25}  # by channels, of quality 95
ZARR_OVER_PNG = 1.35  # ZSTD without a predictor
TIFF_OVER_PNG = {"deflate": 0.97, "zstd": 0.97, "lzw": 1.05, "none": 1.0}
JPEG_TO_LOSSLESS = 3.7  # bytes of a JPEG's image as PNG over the JPEG's: 1.5 to 6
# A JPEG of quality 50, 70 … over one of 95.
JPEG_QUALITY = 95
_QUALITY = ((1, 50, 70, 80, 90, 95, 100), (0.05, 0.31, 0.41, 0.5, 0.71, 1.0, 2.0))
# A Cloud-Optimised GeoTIFF over the plain file it is made of, which is there until it is complete, as is a
# file of the overviews.
COG, MIN_COG_BYTES, COG_OVERVIEWS = 1.4, 1.3, 0.5
# Processor ns a raw byte, with zlib at `_PACE_NS`.
DECODE_NS = {
    "tiff": 2.5,
    ".png": 3.0, ".jpg": 1.3, ".jpeg": 1.3, ".webp": 3.5, ".bmp": 1.0, ".avif": 18.5, ".jxl": 15.0,
}  # fmt: skip
ENCODE_NS = {
    "deflate": 7.5, "zstd": 2.7, "lzw": 11.0, "none": 0.7, ".zarr": 4.0,
    ".png": 10.5, ".jpg": 2.5, ".jpeg": 2.5, ".webp": 110.0, ".bmp": 1.5, ".avif": 110.0, ".jxl": 75.0,
}  # fmt: skip
COG_NS = 22.0
_PACE_NS = 14.8
# Coders' memory in raw bytes, beside the coded file: once to read, twice to write it. Half of what is beyond
# the samples themselves is counted on.
READ_COPIES = {".png": 1.0, ".jpg": 1.0, ".jpeg": 1.0, ".webp": 2.3, ".bmp": 3.3, ".avif": 2.2, ".jxl": 1.2}
WRITE_COPIES: dict[str, dict[int, float]] = {  # by channels, of 8 bits
    ".webp": {1: 26.0, 2: 13.0, 3: 10.0, 4: 7.0},
    ".avif": {1: 15.0, 2: 18.0, 3: 11.0, 4: 9.0},
    ".jxl": {1: 7.5, 2: 5.0, 3: 5.0, 4: 4.5},
}
SOURCE_PARTS = 3  # of a striped TIFF, at once
SAMPLE_SECONDS = 0.15  # that looking at the image may take


def estimate(
    job: Job,
    model: ModelSpec,
    setup: Setup,
    pool: ThreadPoolExecutor,
    rates: dict[Any, float] | None = None,
) -> Estimate:
    """Tell what a job will take. Headers are read, some windows compressed, and others timed.

    Parameters
    ----------
    setup, pool : that will run it
    rates : keeps what was timed for other images

    Raises
    ------
    SourceMissingError, ImageError, OutputError, ModelError
        If the source cannot be read; not if it does not fit, for which there is `check`.
    """
    infos = _said(job) or _opened(job)
    info, work = infos[0], _Work(job, model, setup, infos)
    # Before what is timed touches the memory that is asked for.
    size = work.size(sample=_Limit(SAMPLE_SECONDS))
    key = (setup.networks, setup.tile, str(info.layout), info.dtype.str)
    rates = {} if rates is None else rates
    if key not in rates:
        rates[key] = autotune.rate(setup, pool, info.layout, info.dtype)
    return work.estimate(size, rates[key])


def check(job: Job, model: ModelSpec, setup: Setup, infos: Sequence[ImageInfo] | None = None) -> None:
    """Refuse a job that cannot fit, before it starts.

    **The rule.** A job is refused if what it needs *at least* is more than what is free, so one that
    fits is never refused. At least needed are, of the disk: the file's bytes with ``compress="none"`` and of
    a BMP, and all samples where they are spooled, both exact. Of a compressed TIFF, half of what windows all
    over the image, enlarged by bicubic, compress to in its own codec: the network's result was never below
    1.0 of that. They are only looked at where that could decide. Of memory: the samples of a source
    that is decoded in one piece, half of what encoders were seen to take beyond theirs, a striped source's
    rows, and a whole image's windows; swap counts as memory.

    Parameters
    ----------
    infos : of the pages to be done; if None, only what a coded image declares is looked at, so
        that one that cannot be held is not even decoded

    Raises
    ------
    OutputError, ImageError
        Naming the file, what is needed and what is free.
    """
    said = list(infos) if infos is not None else _said(job, sure=True)
    if not said or not job.target.parent.is_dir():
        return  # what is wrong is found, and said, by those who open it
    work = _Work(job, model, setup, said)
    size = work.size()
    found = work.estimate(size, None)
    free = found.free_bytes
    close = free is not None and free < size.likely + size.temporary - found.kept_bytes
    if close and size.refine and infos is not None:
        found = work.estimate(work.size(sample=_Limit(None)), None)
    refuse(found)


@dataclass(frozen=True, slots=True)
class _Size:
    """Bytes on the disk: of the file expected, likely at the most, and at least; and beside it."""

    file: int
    likely: int
    minimum: int
    temporary: int
    min_temporary: int
    exact: bool
    refine: bool  # whether looking at the image could tell more


@dataclass(slots=True)
class _Limit:
    """How long windows may be sampled, None for all of them."""

    seconds: float | None


class _Work:
    """The parts of an estimate."""

    def __init__(self, job: Job, model: ModelSpec, setup: Setup, infos: Sequence[ImageInfo]) -> None:
        self.job, self.model, self.setup, self.infos = job, model, setup, infos
        self.suffix = job.target.suffix.lower()
        self.tiff = self.suffix in TIFF_SUFFIXES
        self.streams = self.tiff or self.suffix in ZARR_SUFFIXES
        self.large = [i.scaled(job.scale) for i in infos]
        self.raw = sum(_raw(i) for i in self.large)
        self.lr = sum(_raw(i) for i in infos)
        folder = job.source.is_dir()
        self.stored = 0 if folder else _size(job.source)
        self.source_tiff = sampling.is_tiff(job.source)
        self.source_streams = self.source_tiff or folder

    def size(self, sample: _Limit | None = None) -> _Size:
        """Return the file's size; with `sample` by compressing windows, if it is not known otherwise."""
        maximum = [i.dtype.itemsize for i in self.infos]
        if self.tiff and self.job.output.compress == "none":
            file = self._tiled()
            return self._with_temporary(file, file, file, exact=True, refine=False)
        if self.suffix == ".bmp":
            file = sum(
                -(-i.shape[1] * i.layout.channels // 4) * 4 * i.shape[0]
                + (1078 if i.layout.channels == 1 else 54)
                for i in self.large
            )
            return self._with_temporary(file, file, file, exact=True, refine=False)
        ratio = None
        # A coded image would have to be decoded whole, which is too much but for a refusal.
        if sample is not None and (self.source_streams or sample.seconds is None):
            compress = self.job.output.compress if self.tiff else "zarr" if self.streams else "deflate"
            ratio = sampling.ratio(self.job, self.infos, compress, sample.seconds)
        if ratio is None:
            file = round(self.raw * self._guess())
            # Nothing is sure: an image of one colour takes next to nothing.
            return self._with_temporary(file, round(self.raw * 1.3), 0, exact=False, refine=self.streams)
        minimum = round(self.raw * ratio * SURELY) if self.streams else 0
        over = OVER_BICUBIC[max(maximum)] * (
            1 if self.streams else self._over_png() / TIFF_OVER_PNG["deflate"]
        )
        file = round(self.raw * ratio * over)
        return self._with_temporary(file, file, minimum, exact=False, refine=False)

    def _with_temporary(self, file: int, likely: int, minimum: int, *, exact: bool, refine: bool) -> _Size:
        if not self.streams:
            # All of it is allocated when the job starts, and there until the file is complete.
            spool = 0 if self.raw < MIN_BYTES else self.raw
            return _Size(file, likely, minimum, spool, spool, exact, refine)
        if self.job.output.cog:
            beside = round(file * (1 + COG_OVERVIEWS))
            # Small images have no overviews.
            min_made = round(minimum * (MIN_COG_BYTES if min(self.large[0].shape) >= 4096 else 1))
            return _Size(round(file * COG), round(likely * COG), min_made, beside, minimum, False, refine)
        again = len(self.large) == 1 and self.infos[0].metadata.raster.get("overviews")
        if again or not self.tiff:  # overviews are made anew, and smaller levels of a Zarr image
            return _Size(round(file * COG), round(likely * COG), minimum, 0, 0, False, refine)
        return _Size(file, likely, minimum, 0, 0, exact, refine)

    def _tiled(self) -> int:
        """Return the bytes of uncompressed tiles and of what says where they are."""
        from ..io.tiff.writer import block_side

        side = block_side(self.job.scale)
        pointer = 12 if self.raw > 2e9 else 8
        size = 0
        for info in self.large:
            count = math.prod(-(-n // side) for n in info.shape)
            size += count * (side * side * info.layout.channels * info.dtype.itemsize + pointer)
        return size

    def _over_png(self) -> float:
        """Return the bytes over those of a PNG."""
        if self.tiff:
            return TIFF_OVER_PNG[self.job.output.compress]
        if self.streams:
            return ZARR_OVER_PNG
        if self.suffix not in (".jpg", ".jpeg"):
            return OVER_PNG.get(self.suffix, OVER_PNG[".webp"])
        over = JPEG_OVER_PNG.get(self.infos[0].layout.channels, JPEG_OVER_PNG[3])
        return over * float(np.interp(self.job.output.quality or JPEG_QUALITY, *_QUALITY))

    def _guess(self) -> float:
        """Return the result's bytes a raw byte, from the source's."""
        deep = max(i.dtype.itemsize for i in self.infos)
        own = self.stored / max(1, self.lr)
        lossless: bool | None = None
        if self.source_streams:
            lossless = True if 0 < own < 0.95 else None
        elif (found := _declared(self.job.source)) is not None and found[0] is not BMP:
            lossless = found[0] is PNG or (found[0] is WEBP and _is_lossless_webp(self.job.source))
        if lossless is None:
            return USUAL_RATIO[deep] * self._over_png()
        grown = RATIO_OF_SCALE.get(self.job.scale, 0.6) if deep == 1 else RATIO_DEEP
        if not lossless:
            own = min(USUAL_RATIO[deep] * 1.3, own * JPEG_TO_LOSSLESS)
        return min(1.2, own * grown) * self._over_png()

    def estimate(self, size: _Size, rate: float | None) -> Estimate:
        """Put the parts together.

        Parameters
        ----------
        rate : HR pixels a second of arrays; None if nothing was timed
        """
        job, info, large = self.job, self.infos[0], self.large[0]
        done = _done(job, self.infos) if job.resume and (self.streams or self.raw >= MIN_BYTES) else 0.0
        free = _free(job.target.parent)
        kept = _kept(job)
        file = size.file
        if self.tiff and done > 0.02 and not job.output.cog:  # what is there tells more than any guess
            there = _allocated(job.partial)
            file = round(there + (1 - done) * file) if done < 1 else there
        memory = resources.memory()
        own = resources.resident()
        expected, minimum = self._memory(file)
        seconds = self._seconds(rate) * (1 - done) if rate else None
        return Estimate(
            source=str(job.source),
            target=str(job.target),
            source_size=(info.shape[1], info.shape[0]),
            target_size=(large.shape[1], large.shape[0]),
            pages=len(self.infos),
            raw_bytes=self.raw,
            file_bytes=file,
            exact=size.exact,
            temporary_bytes=size.temporary,
            kept_bytes=kept,
            replaced_bytes=_allocated(job.target) if job.overwrite else 0,
            free_bytes=free,
            min_bytes=size.minimum,
            min_temporary_bytes=size.min_temporary,
            memory_bytes=own + expected,
            min_memory=minimum,
            memory_available=None if memory is None else memory.available + own,
            memory_limit=None if memory is None else memory.with_swap + own,
            seconds=seconds,
            tile=min(self.setup.tile, max(info.shape)),
            done=done,
            disk=_disk(job.target.parent),
        )

    def _memory(self, file: int) -> tuple[int, int]:
        """Return the bytes that a job takes beyond what the process has: expected, and in any case."""
        info, s = self.infos[0], self.job.scale
        channels, pixels = info.layout.channels, math.prod(info.shape)
        reading = parts = chunks = writing = min_writing = windows = 0
        with suppress(SrcnnError):  # an image that a model has no windows for is refused elsewhere
            plan = plan_for(self.setup, info, self._sink())
            row = info.shape[1] * channels * info.dtype.itemsize
            if self.source_tiff and sampling.striped(self.job.source):
                parts = min(info.shape[0], plan.chunk[0]) * row
            if self.streams:
                wide = min(plan.chunk[1], info.shape[1])
                chunks = 2 * plan.chunk[0] * wide * s * s * channels * info.dtype.itemsize
            # Was timed with a smaller one; a GPU has memory of its own.
            if max(plan.tile) > autotune.MAX_SIDE and not self.setup.devices:
                windows = 4 * self.model.channels * math.prod(plan.tile) * (1 + s * s) * self.setup.workers
        held = 0 if self.source_streams else self.lr
        if not self.source_streams:
            reading = round(READ_COPIES.get(self.job.source.suffix.lower(), 1.0) * self.lr)
        if not self.streams:
            copies = WRITE_COPIES.get(self.suffix, {}).get(channels, 0) / info.dtype.itemsize
            min_writing = round(copies * SURELY * self.raw)
            writing = round(copies * self.raw) + 2 * file
        small = self.raw if not self.streams and self.raw < MIN_BYTES else 0
        expected = max(
            reading + self.stored * (not self.source_streams),
            held + SOURCE_PARTS * parts + chunks + windows + small,
            held + writing + small,
        )
        # Of a whole image, only what is bound to the runtime is sure.
        sure = windows if pixels <= math.prod(min(self.setup.tile, n) for n in info.shape) else 0
        return expected, max(held + parts, held + sure, held + min_writing)

    def _sink(self) -> Sink:
        """Return what a plan asks of a sink, without a file."""
        sink = ArraySink(ImageInfo((1, 1), Layout.of(1), np.dtype(np.uint8)))
        sink.max_bytes = CHUNK_BYTES
        if self.tiff:
            from ..io.tiff import writer as tiff

            side = tiff.block_side(self.job.scale)
            sink.block, sink.max_bytes = (side, side), tiff.CHUNK_BYTES
        return sink

    def _seconds(self, rate: float) -> float:
        """Return the seconds of all of it; docs/cost.md has the formula."""
        network = sum(math.prod(i.shape) for i in self.large)
        pace, cores = _pace() * 1e-9, available_threads()
        encode = self.raw * pace
        encode *= ENCODE_NS.get(self.job.output.compress if self.tiff else self.suffix, ENCODE_NS[".png"])
        source = "tiff" if self.source_streams else self.job.source.suffix.lower()
        decode = DECODE_NS.get(source, DECODE_NS[".png"]) * self.lr * pace
        seconds, beside = network / rate, 0.0
        if self.source_streams:
            beside += decode
        else:  # in one piece: once for what it is, once for the job
            seconds += 2 * decode
        if self.streams:
            beside += encode
        else:
            seconds += encode
        if self.tiff and self.job.output.cog:
            seconds += COG_NS * self.raw * pace
        # On the CPU files and network share the cores; beside a GPU they run at the same time.
        if self.setup.provider == "cuda":
            return max(seconds, beside / cores)
        return seconds + beside / cores


def _said(job: Job, *, sure: bool = False) -> list[ImageInfo] | None:
    """Return what a coded image declares; None for others."""
    found = _declared(job.source)
    if found is None or job.page not in (None, 1):
        return None
    if sure and found[0] is BMP:  # its palettes count as colour, and may be gray
        return None
    dtype = np.dtype({1: np.uint8, 2: np.uint16, 4: np.float32}[found[1].sample_bytes])
    return [ImageInfo((found[1].height, found[1].width), Layout.of(found[1].channels), dtype)]


def _is_lossless_webp(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return b"VP8L" in file.read(4096)
    return False


def _declared(path: Path) -> tuple[Format, Declared] | None:
    """Return the format of a coded image and what its header says."""
    try:
        with path.open("rb") as file:
            format_ = recognise(file.read(32))
        return None if format_ is None else (format_, declared(path, format_))
    except (OSError, SrcnnError):
        return None  # those who open it say why


def _opened(job: Job) -> list[ImageInfo]:
    with Pages(job) as pages:
        return pages.infos


def _raw(info: ImageInfo) -> int:
    return math.prod(info.shape) * info.layout.channels * info.dtype.itemsize


def _done(job: Job, infos: Sequence[ImageInfo]) -> float:
    """Return which part of the pixels an interrupted run has done, as its journal says."""
    plans: list[list[int]] = []
    seen = set[tuple[int, int]]()
    pixels = 0
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        if not job.partial.exists():
            return 0.0
        for item in journal.items(job.journal):
            if "plans" in item:
                plans = [[int(n) for n in plan] for plan in item["plans"]]
            elif "chunk" in item and (place := (int(item["page"]), int(item["chunk"]))) not in seen:
                seen.add(place)
                page, chunk = place
                (h, w), (_, _, rows, columns) = infos[page].shape, plans[page]
                y, x = divmod(chunk, -(-w // columns))
                pixels += max(0, min(rows, h - y * rows)) * min(columns, w - x * columns)
    whole = sum(math.prod(i.shape) for i in infos)
    return min(1.0, pixels / whole)


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _disk(folder: Path) -> int | None:
    try:
        return folder.stat().st_dev
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _allocated(path: Path) -> int:
    """Return the bytes that a file, or all in a folder, keeps from others; none if it has other names."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    if stat.S_ISDIR(found.st_mode):
        return sum(_allocated(Path(at) / name) for at, _, names in os.walk(path) for name in names)
    blocks = getattr(found, "st_blocks", None)  # not on Windows
    size = found.st_size if blocks is None else min(blocks * 512, found.st_size)
    return size if found.st_nlink == 1 and stat.S_ISREG(found.st_mode) else 0


def _kept(job: Job) -> int:
    names = ("", WORK)
    return sum(_allocated(job.partial.with_name(job.partial.name + name)) for name in names)


def _pace() -> float:
    """Return how many times longer this machine takes than the one that the constants are from."""
    rng = np.random.default_rng(0)
    sample = np.cumsum(rng.integers(-3, 4, 2**16)).astype(np.uint8).tobytes()
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        zlib.compress(sample, 1)
        taken.append(time.perf_counter() - start)
    return min(taken) / len(sample) * 1e9 / _PACE_NS
