"""What a job will take, as people are told it: of one, of several; and the refusal of what cannot fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, OutputError
from ..io.registry import TIFF_SUFFIXES, ZARR_SUFFIXES

MARGIN = 1.2  # less room than so many times what is expected is worth a warning


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job will take. `dataclasses.asdict` of it is JSON.

    Attributes
    ----------
    source, target : paths
    source_size, target_size : (width, height) of the first page in pixels
    pages : how many are done
    raw_bytes : of the result's samples
    file_bytes : of the result, expected
    exact : whether that is known rather than expected (but for some kB of metadata)
    temporary_bytes : beside it while it grows, at the most
    kept_bytes : of both, what an interrupted run left: gone on with or written over
    replaced_bytes : of the file that the result will replace; they are free only when it is complete
    free_bytes : on the target's disk; None where unknown
    least_bytes, least_temporary_bytes : of the file and beside it, needed in any case
    memory_bytes : of this process at the peak, expected
    least_memory : needed in any case, apart from libraries
    memory_available : what this process may have in all; None where unknown
    memory_limit : the same with swap
    seconds : expected; None if nothing was timed
    tile : side in LR pixels
    done : the part of the pixels that an interrupted run has done, 0 to 1
    disk : the number of the target's disk
    """

    source: str
    target: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    pages: int
    raw_bytes: int
    file_bytes: int
    exact: bool
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
    def fits(self) -> bool:
        """Whether what is expected fits with some room; what surely does not fit is refused."""
        wanted = (self.file_bytes + self.temporary_bytes) * (1 if self.exact else MARGIN) - self.kept_bytes
        disk = self.free_bytes is None or wanted <= self.free_bytes
        return disk and (self.memory_available is None or self.memory_bytes <= self.memory_available)


@dataclass(frozen=True, slots=True)
class Total:
    """What several jobs take, one after the other.

    Attributes
    ----------
    files, raw_bytes, file_bytes, exact, seconds : sums
    peak_bytes : by which the fullest disk grows at the most, expected; files that are replaced and what
        interrupted runs left count when they become free
    least_bytes : the same, in any case
    free_bytes : on that disk
    """

    files: int
    raw_bytes: int
    file_bytes: int
    exact: bool
    seconds: float | None
    peak_bytes: int
    min_bytes: int
    free_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether what is expected fits with some room."""
        wanted = self.peak_bytes * (1 if self.exact else MARGIN)
        return self.free_bytes is None or wanted <= self.free_bytes


def refuse(found: Estimate) -> None:
    """Raise if an estimate says that the job cannot fit; the rule is `check`'s.

    Raises
    ------
    OutputError, ImageError
    """
    needed = found.min_bytes + found.min_temporary_bytes - found.kept_bytes
    if found.free_bytes is not None and needed > found.free_bytes:
        raise OutputError(
            f"{found.target}: needs {'' if found.exact else 'at minimum '}{size_text(needed)} of disk, "
            f"and {size_text(found.free_bytes)} are free"
        )
    if found.memory_limit is None or found.min_memory <= found.memory_limit:
        return
    (w, h), (hr_w, hr_h) = found.source_size, found.target_size
    minimum, limit = size_text(found.min_memory), size_text(found.memory_limit)
    memory = f"at least {minimum} of memory, and {limit} are available"
    if Path(found.target).suffix.lower() not in (*TIFF_SUFFIXES, *ZARR_SUFFIXES):
        raise OutputError(f"{found.target}: {hr_w} x {hr_h} pixels need {memory}; a TIFF is streamed")
    raise ImageError(f"{found.source}: {w} x {h} pixels need {memory}; tiles of a tiled TIFF are streamed")


def total(estimates: Sequence[Estimate]) -> Total:
    """Sum up jobs that are done one after the other."""
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    disks = {e.disk for e in estimates}
    peaks = []
    for disk in disks:
        there = [e for e in estimates if e.disk == disk]
        frees = [e.free_bytes for e in there if e.free_bytes is not None]
        expected = _peak([(e.file_bytes, e.temporary_bytes, e) for e in there])
        minimum = _peak([(e.min_bytes, e.min_temporary_bytes, e) for e in there])
        peaks.append((expected, minimum, min(frees, default=None)))
    # The disk with the least room.
    peak, minimum, free = max(peaks, key=lambda p: p[0] - (p[2] or 0), default=(0, 0, None))
    return Total(
        files=len(estimates),
        raw_bytes=sum(e.raw_bytes for e in estimates),
        file_bytes=sum(e.file_bytes for e in estimates),
        exact=all(e.exact for e in estimates),
        seconds=sum(seconds) if len(seconds) == len(estimates) else None,
        peak_bytes=peak,
        min_bytes=minimum,
        free_bytes=free,
    )


def check_total(estimates: Sequence[Estimate], folder: str = "") -> None:
    """Refuse several jobs that cannot all fit, by the same rule as `check`.

    Raises
    ------
    OutputError
    """
    found = total(estimates)
    if found.free_bytes is not None and found.min_bytes > found.free_bytes:
        where = folder or str(Path(estimates[0].target).parent)
        raise OutputError(
            f"{where}: {found.files} results need {'' if found.exact else 'at minimum '}"
            f"{size_text(found.min_bytes)} of disk, and {size_text(found.free_bytes)} are free"
        )


def lines(found: Estimate) -> list[str]:
    """Say an estimate in some short lines."""
    (w, h), (hr_w, hr_h) = found.source_size, found.target_size
    pages = f", {found.pages} pages" if found.pages > 1 else ""
    about = "" if found.exact else "about "
    needed = max(0, found.file_bytes + found.temporary_bytes - found.kept_bytes)
    while_ = f", {size_text(found.temporary_bytes)} more while it grows" if found.temporary_bytes else ""
    kept = f" ({size_text(found.kept_bytes)} are there already)" if found.kept_bytes else ""
    out = [
        f"{found.source}: {w} x {h} → {hr_w} x {hr_h} pixels{pages}, {size_text(found.raw_bytes)} of samples",
        f"file: {about}{size_text(found.file_bytes)}{while_}"
        + ("" if found.exact else "; an estimate, it depends on the image"),
        f"disk: {about}{size_text(needed)} needed{kept}"
        + ("" if found.free_bytes is None else f", {size_text(found.free_bytes)} free"),
        f"memory: about {size_text(found.memory_bytes)}"
        + ("" if found.memory_available is None else f" of {size_text(found.memory_available)}"),
    ]
    if found.seconds is not None:
        done = f"; {100 * found.done:.0f}% are done already" if found.done else ""
        out.append(f"time: about {time_text(found.seconds)}, tile {found.tile}{done}")
    if not found.fits:
        out.append("warning: it may not fit")
    return out


def total_lines(found: Total) -> list[str]:
    """Say in some short lines what several jobs take."""
    about = "" if found.exact else "about "
    free = "" if found.free_bytes is None else f", {size_text(found.free_bytes)} free"
    out = [f"all {found.files}: files of {about}{size_text(found.file_bytes)}{free}"]
    if found.seconds is not None:
        out.append(f"time: about {time_text(found.seconds)}")
    if not found.fits:
        out.append("warning: they may not fit")
    return out


def size_text(count: float) -> str:
    """Return bytes as people read them, by powers of ten."""
    count = max(0, count)
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size * 0.9995:
            digits = max(0, 2 - int(math.log10(max(1, count / size * 1.0001))))
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f} bytes"


def time_text(seconds: float) -> str:
    """Return seconds as people read them."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _peak(jobs: Sequence[tuple[int, int, Estimate]]) -> int:
    """Return by how much jobs (file, beside it, estimate), one after the other, fill a disk at the most."""
    before = peak = 0
    for file, beside, found in jobs:
        peak = max(peak, before + file + beside - found.kept_bytes)
        before += file - found.kept_bytes - found.replaced_bytes
    return peak
