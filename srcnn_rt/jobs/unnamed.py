"""Upscale to bytes, a file-like object or a URL: a result that has no name here, so no job to resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .._system.private_files import private_folder
from ..errors import ArgumentError, OutputError, RangeError
from ..execution.executor import Progress
from ..image.info import ImageInfo
from ..io import remote, streams
from ..io.protocols import Sink
from ..io.registry import IMAGE_SUFFIXES, ZARR_SUFFIXES, check_holds, create_target, suffix_of
from ..io.spool import SpoolTarget
from ..tiling.geometry import Plan
from . import file_job
from .job import PARTIAL, Job
from .report import Report

RESULT = "the result"
SUFFIXES = tuple(s for s in IMAGE_SUFFIXES if s not in ZARR_SUFFIXES)  # of formats that are one file


@dataclass(frozen=True, slots=True)
class Places:
    """Source and target of a job as paths of this machine.

    Attributes
    ----------
    source, target : Path
        Files to read and to write.
    names : tuple of (str, str)
        What messages and reports call them.
    upscale : callable
        `file_job.upscale`, or `upscale` of this module.
    """

    source: Path
    target: Path
    names: tuple[str, str]
    upscale: Callable[..., None]

    def named(self, report: Report) -> Report:
        """Return a report with the names in place of paths."""
        names = {self.source: self.names[0], self.target: self.names[1]}
        warnings = tuple(streams.with_names(text, names) for text in report.warnings)
        return replace(report, source=self.names[0], target=self.names[1], warnings=warnings)


@contextmanager
def places(
    source: Any, target: Any, format_: str | None = None, *, overwrite: bool = False
) -> Iterator[Places]:
    """Make a source and a target into paths, and deliver the result at the end of the block.

    Parameters
    ----------
    source : str, Path, bytes-like, file-like or rasterio dataset
        As in `streams.local_image`.
    target : str, Path or file-like
        A path, a URL of fsspec, or an object with ``write``. Nothing is written to an object or a URL before
        the result is complete.
    format_ : str, optional
        Format of a result that goes to an object: a suffix, with or without its dot. None means that of the
        source.
    overwrite : bool
        Whether an existing object behind a URL may be replaced.

    Raises
    ------
    ArgumentError
        If `source` or `target` is none of these, or `format_` is none of the formats or goes with a name.
    SourceMissingError, ImageError, OutputError, RuntimeMissingError
    """
    to_path, to_url = streams.is_path(target), isinstance(target, str)
    if format_ is not None and (to_path or to_url):
        raise ArgumentError(f"format is for results without a name, got {target} and {format_!r}")
    if not (to_path or to_url or isinstance(target, streams.Writable)):
        raise ArgumentError(
            f"a target must be a path, a URL or a binary file object, got {type(target).__name__}"
        )
    if to_url and not to_path:
        if Path(remote.shown(target)).suffix.lower() not in SUFFIXES:
            raise OutputError(f"{remote.shown(target)}: the suffix must be one of {', '.join(SUFFIXES)}")
        remote.check_target(target, overwrite=overwrite)
    with streams.local_image(source) as local:
        if to_path:
            yield Places(local.path, Path(target), (local.name, str(target)), file_job.upscale)
            return
        name = remote.shown(target) if to_url else RESULT
        made = Path(name).name if to_url else f"result{_suffix(format_, local.path)}"
        with private_folder(made + PARTIAL) as folder:
            path = folder / made
            with streams.renamed({path: name}):
                yield Places(local.path, path, (local.name, name), upscale)
                if to_url:
                    remote.put(path, target)
                    return
                with path.open("rb") as file:
                    streams.copy_out(file, target, name)


def upscale(
    job: Job,
    pages: file_job.Pages,
    plan_for: Callable[[ImageInfo, Sink], Plan],
    run: Callable[..., None],
    progress: Progress | None = None,
) -> None:
    """Upscale a file like `file_job.upscale`, but keep nothing of a run that ends early, and sync nothing.

    Parameters
    ----------
    job, pages, plan_for, run, progress
        As there.

    Raises
    ------
    SrcnnError
    """
    infos = pages.infos
    scaled = [info.scaled(job.scale) for info in infos]
    counts = [math.prod(info.shape) for info in scaled]
    final = Path(job.target.name)  # in warnings, too
    check_holds(final, scaled, job.output)
    target = create_target(job.partial, final, scaled, job.scale, job.output, source=job.source)
    try:
        for k, info in enumerate(infos):
            advance = progress and partial(_advance, progress, sum(counts[:k]), sum(counts))
            with pages.open(k) as source:
                sink = target.page(k)
                try:
                    run(source, sink, plan=plan_for(info, sink), progress=advance)
                except RangeError as error:
                    raise RangeError(f"{job.source}: {error}") from error
        if isinstance(target, SpoolTarget):
            job.target.write_bytes(target.encoded())
        else:
            target.finish().replace(job.target)
    finally:
        target.abort()


def _advance(progress: Progress, before: int, total: int, done: int, of_page: int) -> None:
    progress(before + done, total)


def _suffix(format_: str | None, source: Path) -> str:
    """Return the suffix of the requested format, or of that of the source."""
    if format_ is None:
        return suffix_of(source)
    suffix = "." + format_.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        raise ArgumentError(f"format must be one of {', '.join(s[1:] for s in SUFFIXES)}, got {format_!r}")
    return suffix
