"""Upscale one file without losing work: ``NAME.partial`` grows, with a journal beside it.

The result gets its final name when it is complete and on the disk. A job that is killed before that, at any
moment, can be resumed: only chunks that are not recorded in the journal are computed. Chunks may be recorded
in any order. A target that only appends (TIFF) takes them back in the plan's order up to the first that is
missing, so that its bytes are those of a run without interruption.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

from .._system.safe_files import clear_workspace, remove_own, sync_folder, workspace
from ..errors import CancelledError, ClosedError, ImageError, OutputError, RangeError
from ..execution.executor import Progress
from ..image.info import ImageInfo
from ..io.protocols import Closing, Record, Sink, Source, Target
from ..io.registry import TIFF_SUFFIXES, ZARR_SUFFIXES, check_holds, check_output, create_target
from ..tiling.geometry import Plan
from .job import Job
from .journal import Journal, fingerprint
from .resume import can_resume, chunk_count, is_published, recorded_plans, restore_chunks

# Seconds of work that a power failure may cost. A killed process loses a chunk or two.
SYNC_SECONDS = 10.0

_log = logging.getLogger("srcnn_rt")


class Pages(Closing):
    """Pages of a source that a job upscales.

    A single page is opened once. Of several pages each is opened when it is due.

    Parameters
    ----------
    job : Job
    check : callable
        Called with each page's info; raises `ImageError` if the model cannot upscale it.

    Attributes
    ----------
    infos : list of ImageInfo
        One per page.

    Raises
    ------
    SourceMissingError, ImageError, OutputError
    """

    def __init__(self, job: Job, check: Callable[[ImageInfo], None] = lambda info: None) -> None:
        self._job, self._numbers = job, job.page_numbers()
        self._only: Source | None = None
        self.infos: list[ImageInfo] = []
        for number in self._numbers:
            source = job.open(number)
            try:
                check(source.info)
            except ImageError as error:
                source.close()
                raise ImageError(f"{job.source}: {error}") from error
            self.infos.append(source.info)
            if len(self._numbers) == 1:
                self._only = source
            else:
                source.close()

    def open(self, index: int) -> Source:
        """Return the source of a page, from 0; the caller closes it."""
        if self._only is not None:
            return self._only
        return self._job.open(self._numbers[index])

    def close(self) -> None:
        """Close the page that is kept open."""
        if self._only is not None:
            self._only.close()


def upscale(
    job: Job,
    pages: Pages,
    plan_for: Callable[[ImageInfo, Sink], Plan],
    run: Callable[..., None],
    progress: Progress | None = None,
) -> None:
    """Upscale a file, or the rest of it.

    Parameters
    ----------
    job : Job
    pages : Pages
        Of the job's source.
    plan_for : callable
        Returns how a page is cut.
    run : callable
        Upscales a page: `executor.process` without `setup`, `pool` and `data_range`.
    progress : callable, optional
        Called with the HR pixels done and the HR pixels in total.

    Raises
    ------
    SrcnnError
        Names the file and the rule. `target` is as it was before. Finished chunks are kept if the job ran
        longer than `SYNC_SECONDS`.
    """
    if not (job.resume and job.journal.is_file()):  # otherwise the target may be this job's own result
        check_output(job.target, job.source, overwrite=job.overwrite)
    infos = pages.infos
    scaled = [info.scaled(job.scale) for info in infos]
    check_holds(job.target, scaled, job.output)
    with ExitStack() as stack:
        journal = Journal(job.journal)
        stack.callback(journal.close)
        unfinished = _Unfinished(job, journal)
        stack.push(unfinished.leave)
        facts = job.facts()
        if is_published(job, journal, facts):
            _log.info("%s: was complete already; removed what the interrupted run left", job.target)
            _remove_leftovers(job)
            return
        resume = can_resume(job, journal, facts)
        unfinished.claim(resumed=resume)
        if not resume:
            journal.start(facts)
        target = create_target(
            job.partial, job.target, scaled, job.scale, job.output, source=job.source, resume=resume
        )
        unfinished.target = target
        plans = [plan_for(info, target.page(k)) for k, info in enumerate(infos)]
        if journal.plans is None:
            journal.keep(())
            journal.set_plans([(*p.tile, *p.chunk) for p in plans])
        else:
            plans = recorded_plans(job, journal.plans, plans, target)
        finished = restore_chunks(job, journal, target, plans)
        target.rewind()
        counts = [math.prod(info.shape) for info in scaled]
        for k, plan in enumerate(plans):
            if len(finished[k]) == chunk_count(plan):
                continue

            def advance(done: int, total: int, before: int = sum(counts[:k])) -> None:
                if progress is not None:
                    progress(before + done, sum(counts))

            with pages.open(k) as source:
                if (source.info.shape, source.info.layout) != (infos[k].shape, infos[k].layout):
                    unfinished.discard_changed()
                try:
                    run(
                        source,
                        target.page(k),
                        plan=plan,
                        done=finished[k],
                        written=partial(unfinished.record, k),
                        progress=advance,
                    )
                except RangeError as error:
                    raise RangeError(f"{job.source}: {error}") from error
        # A source that was unlinked meanwhile was read to its end, otherwise reading would have failed.
        if job.source.exists() and fingerprint(job.source, beside=True) != facts["source"]:
            unfinished.discard_changed()
        made = target.finish()
        journal.set_made(fingerprint(made))
        _publish(made, job)


class _Unfinished:
    """The growing file while a job runs: records its chunks, and keeps or removes it after an error."""

    target: Target | None = None

    def __init__(self, job: Job, journal: Journal) -> None:
        self._job, self._journal = job, journal
        self._claimed = self._resumed = self._worthless = False
        self._own_folder = False  # whether a folder under the file's name is this job's
        self._synced = time.monotonic()
        self._syncs = self._chunks = 0

    def claim(self, *, resumed: bool) -> None:
        """Take possession of the job's files: from here on they may be removed."""
        self._claimed, self._resumed = True, resumed
        if not resumed and not self._journal.empty and self._job.target.suffix.lower() in ZARR_SUFFIXES:
            remove_own(self._job.partial, folder=True)  # its journal shows that it is an interrupted run's
        self._own_folder = not os.path.lexists(self._job.partial)

    def record(self, page: int, chunk: int, written: Record) -> None:
        """Record a chunk of a page, and regularly flush all to the disk."""
        self._journal.add(page, chunk, written)
        self._chunks += 1
        if time.monotonic() - self._synced >= SYNC_SECONDS and self.target is not None:
            self.target.sync()
            self._journal.mark_synced()
            if not self._syncs:  # the names of the files too
                sync_folder(self._job.target.parent)
            self._synced = time.monotonic()
            self._syncs += 1
            _log.debug("%s: checkpoint after %d chunks of this run", self._job.partial, self._chunks)

    def discard_changed(self) -> NoReturn:
        """Raise the error of a source that changed, which makes the finished chunks useless."""
        self._worthless = self._own_folder = True
        raise ImageError(f"{self._job.source}: changed while it was being read")

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Release the file; after an error keep it if it is worth resuming, else remove it."""
        if kind is None:
            return
        if self.target is not None:
            self.target.abort()
        if not self._claimed:
            if self._journal.empty:  # opening created it
                remove_own(self._job.journal)
            return
        wanted = not issubclass(kind, Exception) or issubclass(kind, CancelledError | ClosedError)
        interrupted = wanted and self._chunks > 0
        if (self._resumed or self._syncs or interrupted) and not self._worthless:
            _log.info("%s: kept after %s; the job can be resumed", self._job.partial, kind.__name__)
            return
        reason = error if self._worthless else "there is too little to resume"
        _log.info("%s: discarded: %s", self._job.partial, reason)
        _remove_leftovers(self._job, folder=self._own_folder)


def _publish(made: Path, job: Job) -> None:
    """Give a finished file its name and remove everything else of the job."""
    try:
        _write_class_names(job)
        if made.is_dir() and job.target.is_dir() and not job.target.is_symlink():
            # One folder cannot replace another in one step. A kill in between leaves everything but the name.
            job.target.rename(workspace(job.partial) / "replaced")
        made.replace(job.target)
    except OSError as error:
        raise OutputError(f"{job.target}: cannot be written: {error.strerror}") from error
    sync_folder(job.target.parent)
    _remove_leftovers(job)


def _write_class_names(job: Job) -> None:
    """Write the names of a raster's classes beside it."""
    if not (job.reading.classes and job.target.suffix.lower() in TIFF_SUFFIXES):
        return
    from ..io.tiff import gdal_pam

    if (names := gdal_pam.scaled(job.source, job.scale)) is not None:
        gdal_pam.write(job.target, names)


def _remove_leftovers(job: Job, *, folder: bool = False) -> None:
    """Remove everything but the result. The journal goes last, because it shows what belongs to the job."""
    clear_workspace(job.partial)
    remove_own(job.partial, folder=folder)
    remove_own(job.journal)
