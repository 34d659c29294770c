"""Print estimates: one line per fact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..jobs.estimate import size_text

if TYPE_CHECKING:
    from ..jobs.estimate import Estimate
    from ..jobs.totals import Total


def lines(found: Estimate) -> list[str]:
    """Return an estimate as text."""
    (w, h), (hr_w, hr_h) = found.source_size, found.target_size
    pages = f", {found.pages} pages" if found.pages > 1 else ""
    needed = f"at most {size_text(found.needed_bytes)} needed"
    if found.temporary_bytes:
        needed += f", {size_text(found.temporary_bytes)} of it temporarily"
    if found.kept_bytes:
        needed += f", beside {size_text(found.kept_bytes)} of an interrupted run"
    memory = f"about {size_text(found.memory_bytes)}"
    if found.memory_available is not None:
        memory += f" of {size_text(found.memory_available)}"
    out = [
        f"{found.source}: {w} x {h} → {hr_w} x {hr_h} pixels{pages}, {size_text(found.raw_bytes)} of samples",
        f"file: {_range_text(*found.file_bytes)}",
        f"disk: {needed}{_free_text(found.free_bytes)}",
        f"memory: {memory}",
    ]
    if found.seconds is not None:
        done = f", {100 * found.done:.0f}% finished already" if found.done else ""
        out.append(f"time: at least {time_text(found.seconds)}, tile {found.tile}{done}")
    return out if found.fits else [*out, "warning: it may not fit"]


def total_lines(found: Total) -> list[str]:
    """Return a total as text."""
    out = [f"all {found.files}: files of {_range_text(*found.file_bytes)}{_free_text(found.free_bytes)}"]
    if found.seconds is not None:
        out.append(f"time: at least {time_text(found.seconds)}")
    return out if found.fits else [*out, "warning: they may not fit"]


def time_text(seconds: float) -> str:
    """Return a duration in hours, minutes and seconds."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _range_text(low: int, high: int) -> str:
    if low == 0:
        return f"at most {size_text(high)}"
    return size_text(high) if low == high else f"{size_text(low)} to {size_text(high)}"


def _free_text(free: int | None) -> str:
    return "" if free is None else f", {size_text(free)} free"
