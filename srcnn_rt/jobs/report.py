"""Report of a finished job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from .._system import memory

if TYPE_CHECKING:
    from ..backends.loader import Setup
    from ..image.info import ImageInfo
    from .job import Job


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of a job and their pages, which its estimate and its report begin with.

    Attributes
    ----------
    source, target : str
        Paths.
    source_size, target_size : tuple of (int, int)
        Width and height of the first page in pixels.
    pages : int
        Number of pages.
    """

    source: str
    target: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    pages: int

    @staticmethod
    def facts(job: Job, infos: Sequence[ImageInfo]) -> dict[str, Any]:
        """Return the values of these fields, from one info per page of the source."""
        (h, w), s = infos[0].shape, job.scale
        paths = {"source": str(job.source), "target": str(job.target)}
        return {**paths, "source_size": (w, h), "target_size": (w * s, h * s), "pages": len(infos)}


@dataclass(frozen=True, slots=True)
class Report(JobFiles):
    """What `Engine.upscale_file` did. `dataclasses.asdict` of it is JSON.

    Attributes
    ----------
    source, target, source_size, target_size, pages
        As in `JobFiles`.
    layout, dtype : str
        Of both images, e.g. ``"rgb + alpha"`` and ``"uint16"``.
    scale : int
        Scale factor.
    model, provider, precision : str
        What computed the result.
    tile : int
        Side of a tile in LR pixels, at most the longer side of the image.
    seconds : float
        From opening the source to the finished file.
    mpx_per_s : float
        HR megapixels per second.
    peak_memory : int, optional
        Largest resident size of the process so far in bytes, None if unknown.
    warnings : tuple of str
        One line for each doubt about the source.
    """

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

    @classmethod
    def of(
        cls, job: Job, infos: Sequence[ImageInfo], setup: Setup, seconds: float, warnings: tuple[str, ...]
    ) -> Self:
        """Return the report of a finished job."""
        pixels = sum(info.shape[0] * info.shape[1] for info in infos) * job.scale**2
        return cls(
            **JobFiles.facts(job, infos),
            layout=str(infos[0].layout),
            dtype=infos[0].dtype.name,
            scale=job.scale,
            model=setup.model.name,
            provider=setup.provider,
            precision=job.identity["precision"],
            tile=min(setup.tile, max(infos[0].shape)),
            seconds=round(seconds, 3),
            mpx_per_s=round(pixels / 1e6 / seconds, 3),
            peak_memory=peak_memory(),
            warnings=warnings,
        )


def peak_memory() -> int | None:
    """Return the largest resident size of this process so far in bytes, None if unknown."""
    # getrusage would include the parent's memory from before the exec.
    if known := memory.peak():
        return known
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
