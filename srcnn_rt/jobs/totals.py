"""Sum up estimates of jobs that run one after the other, and refuse them if they cannot all fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from .estimate import Estimate, size_text


@dataclass(frozen=True, slots=True)
class Total:
    """What several jobs need that run one after the other; sizes in bytes.

    Attributes
    ----------
    files, raw_bytes, file_bytes, seconds
        Sums over the jobs. `seconds` is None if one is unknown.
    peak_bytes, min_bytes : int
        Space that suffices and that is needed at least, on the disk with the least room left. Replaced files
        and what interrupted runs left count as free once their job is done.
    free_bytes : int, optional
        Free space on that disk.
    """

    files: int
    raw_bytes: int
    file_bytes: tuple[int, int]
    seconds: float | None
    peak_bytes: int
    min_bytes: int
    free_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether the high ends fit."""
        return self.free_bytes is None or self.peak_bytes <= self.free_bytes


def total(estimates: Sequence[Estimate]) -> Total:
    """Return what jobs need together that run one after the other."""
    peaks = []
    for device in {e.disk for e in estimates}:
        jobs = [e for e in estimates if e.disk == device]
        free = min((e.free_bytes for e in jobs if e.free_bytes is not None), default=None)
        peaks.append((_peak(jobs), _peak(jobs, least=True), free))
    peak, minimum, free = max(peaks, key=lambda p: p[0] - (p[2] or 0), default=(0, 0, None))
    seconds = [e.seconds for e in estimates if e.seconds is not None]
    return Total(
        files=len(estimates),
        raw_bytes=sum(e.raw_bytes for e in estimates),
        file_bytes=(sum(e.file_bytes[0] for e in estimates), sum(e.file_bytes[1] for e in estimates)),
        seconds=sum(seconds) if len(seconds) == len(estimates) else None,
        peak_bytes=peak,
        min_bytes=minimum,
        free_bytes=free,
    )


def check_total(estimates: Sequence[Estimate], folder: str = "") -> None:
    """Refuse several jobs that certainly cannot all fit, by the rule of `check`.

    Raises
    ------
    OutputError
    """
    found = total(estimates)
    if found.free_bytes is not None and found.min_bytes > found.free_bytes:
        raise OutputError(
            f"{folder or Path(estimates[0].target).parent}: {found.files} results need at least "
            f"{size_text(found.min_bytes)} of disk space, but only {size_text(found.free_bytes)} are free"
        )


def _peak(jobs: Sequence[Estimate], *, least: bool = False) -> int:
    """Return by how much jobs fill a disk at most, one after the other: by their high ends, or at least."""
    before = peak = 0
    for job in jobs:
        file = job.min_bytes if least else job.file_bytes[1]
        beside = job.min_temporary_bytes if least else job.temporary_bytes
        peak = max(peak, before + file + beside - job.kept_bytes)
        before += file - job.kept_bytes - job.replaced_bytes
    return peak
