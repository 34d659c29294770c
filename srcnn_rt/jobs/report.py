"""What was done to a file, and what it took."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Report:
    """What `Engine.upscale_file` did.

    Attributes
    ----------
    source, target : paths
    source_size, target_size : (width, height) of the first page in pixels
    pages : how many there are in the result
    layout, dtype : of both images, e.g. ``"rgb + alpha"``, ``"uint16"``
    scale, model, provider, precision : what was used
    tile : largest side of a tile in LR pixels, the whole image's at most
    seconds : from opening the source to the finished file
    mpx_per_s : HR megapixels a second
    peak_memory : largest resident size of the process so far, bytes; None where unknown
    warnings : what may not be as it was meant, a line each
    """

    source: str
    target: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    pages: int
    layout: str
    dtype: str
    scale: int
    model: str
    provider: str
    precision: str
    tile: int
    seconds: float
    mpx_per_s: float
    peak_memory: int | None
    warnings: tuple[str, ...] = ()


def peak_memory() -> int | None:
    """Return the largest resident size of this process so far in bytes, None if unknown."""
    try:
        # Not getrusage: there Linux counts the parent's memory in, from before the exec.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
