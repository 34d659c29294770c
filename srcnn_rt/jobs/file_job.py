"""One file through a network, so that nothing is lost: ``NAME.partial`` grows, with a journal beside it.

The final name appears when the file is complete and on the disk. Until then a job that was killed, at any
moment, can be gone on with from the last chunk that was written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from .._system.safe_files import clear_workspace, remove_own, workspace
from ..errors import ImageError, OutputError, RangeError, SrcnnError
from ..execution.executor import Progress
from ..image.info import AS_SAID, ImageInfo, Reading
from ..io import (
    Output,
    Record,
    Sink,
    Source,
    Target,
    check_holds,
    check_output,
    create_target,
    open_source,
    page_count,
)
from ..io.protocols import Closing
from ..io.registry import TIFF_SUFFIXES, ZARR_SUFFIXES
from ..tiling.geometry import Plan
from .journal import SUFFIX, Journal, fingerprint

PARTIAL = ".partial"
# Seconds of work that a machine that goes down may cost; a killed process costs a chunk or two.
SYNC_SECONDS = 10.0

Run = Callable[[Source, Sink, Plan, int, Callable[[int, Record], None], Progress | None], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done to a file.

    Attributes
    ----------
    source, target : paths
    scale : HR pixels an LR pixel
    identity : whatever else the result depends on; a job is gone on with by an equal one only
    output : how the result is written
    overwrite : replace `target` if it is there, and what an interrupted run left
    resume : go on with what an interrupted run left, if there is any
    page : the only one to be done, from 1; None for all
    max_pixels : refuse larger images
    reading : what the samples of the source are taken for
    """

    source: Path
    target: Path
    scale: int
    identity: Mapping[str, Any]
    output: Output
    overwrite: bool = False
    resume: bool = False
    page: int | None = None
    max_pixels: int | None = None
    reading: Reading = AS_SAID

    @property
    def partial(self) -> Path:
        return self.target.with_name(self.target.name + PARTIAL)

    @property
    def journal(self) -> Path:
        return self.partial.with_name(self.partial.name + SUFFIX)

    def facts(self) -> dict[str, Any]:
        """Return all that the bytes of the result depend on."""
        return {
            **self.identity,
            "source": fingerprint(self.source, beside=True),
            "page": self.page,
            "scale": self.scale,
            "compress": self.output.compress,
            "cog": self.output.cog,
            "quality": self.output.quality,
            **self.reading.facts(),
        }

    def open(self, page: int) -> Source:
        """Return a page of the source, from 1, to be closed; raises as `open_source`."""
        return open_source(self.source, page, self.max_pixels, self.reading)


class Pages(Closing):
    """The pages of a source that are to be done. A single one is opened once; of several each when it is due.

    Parameters
    ----------
    check : raises where the model has no use for a page

    Attributes
    ----------
    infos : of every page

    Raises
    ------
    SourceMissingError, ImageError, OutputError
    """

    def __init__(self, job: Job, check: Callable[[ImageInfo], None] = lambda info: None) -> None:
        self._job, self._numbers = job, _pages(job)
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
        """Return a page's source, to be closed; from 0."""
        if self._only is not None:
            return self._only
        return self._job.open(self._numbers[index])

    def close(self) -> None:
        if self._only is not None:
            self._only.close()


def upscale(
    job: Job,
    pages: Pages,
    plan_for: Callable[[ImageInfo, Sink], Plan],
    run: Run,
    progress: Progress | None = None,
) -> None:
    """Do a job.

    Parameters
    ----------
    pages : of the job's source
    plan_for : cuts a page
    run : upscales a page: source, sink, plan, the first chunk to do, what to call with every chunk that is
        written, and progress

    Raises
    ------
    SrcnnError
        Naming the file and the rule. Nothing is then under the name `target`; of a job of more than some
        seconds, what is done is kept.
    """
    if not (job.resume and job.journal.is_file()):  # then the target may be the result of that very job
        check_output(job.target, job.source, overwrite=job.overwrite)
    infos = pages.infos
    scaled = [info.scaled(job.scale) for info in infos]
    check_holds(job.target, scaled, job.output)
    with ExitStack() as stack:
        journal = Journal(job.journal)
        stack.callback(journal.close)
        keep = _Keeper(job, journal)
        stack.push(keep.leave)
        facts = job.facts()
        if _is_published(job, journal, facts):
            _tidy(job)
            return
        resume = _resumes(job, journal, facts)
        keep.begin(resumed=resume)
        if not resume:
            journal.start(facts)
        target = create_target(
            job.partial, job.target, scaled, job.scale, job.output, source=job.source, resume=resume
        )
        keep.target = target
        plans = [plan_for(info, target.page(k)) for k, info in enumerate(infos)]
        if journal.plans is None:
            journal.keep(0)
            journal.set_plans([(*p.tile, *p.chunk) for p in plans])
        else:
            plans = _as_before(job, journal.plans, plans, target)
        firsts = _restore(journal, target, plans, job.scale)
        target.rewind()
        counts = [i.shape[0] * i.shape[1] * job.scale**2 for i in infos]
        for k, plan in enumerate(plans):
            if firsts[k] is None:  # all of it is there
                continue

            def advance(done: int, total: int, before: int = sum(counts[:k])) -> None:
                if progress is not None:
                    progress(before + done, sum(counts))

            with pages.open(k) as source:
                if (source.info.shape, source.info.layout) != (infos[k].shape, infos[k].layout):
                    keep.discard(_changed(job))
                try:
                    run(source, target.page(k), plan, firsts[k] or 0, keep.noting(k), advance)
                except RangeError as error:
                    raise RangeError(f"{job.source}: {error}") from error
        # A source that is gone was open to its end, or that would have been an error.
        if job.source.exists() and fingerprint(job.source, beside=True) != facts["source"]:
            keep.discard(_changed(job))
        made = target.finish()
        journal.set_made(fingerprint(made))
        _publish(made, job)


def _pages(job: Job) -> range:
    return range(job.page, job.page + 1) if job.page is not None else range(1, 1 + page_count(job.source))


def _is_published(job: Job, journal: Journal, facts: Mapping[str, Any]) -> bool:
    """Return whether the job was killed between giving the result its name and tidying up."""
    return (
        job.resume
        and journal.made is not None
        and job.target.exists()
        and not job.target.is_symlink()
        and journal.difference(facts) is None
        and fingerprint(job.target) == journal.made
    )


def _resumes(job: Job, journal: Journal, facts: Mapping[str, Any]) -> bool:
    """Return whether there is something to go on with, now that nobody else is at work on it.

    Raises
    ------
    OutputError
        If there is and nobody said what to do with it, or it is another job's; or the target must not be
        written.
    """
    check_output(job.target, job.source, overwrite=job.overwrite)
    if journal.empty or not os.path.lexists(job.partial):
        return False
    if not (job.resume or job.overwrite):
        raise OutputError(
            f"{job.partial}: left by an interrupted run; --resume goes on with it, --overwrite begins again"
        )
    if job.resume and (differs := journal.difference(facts)):
        raise OutputError(f"{job.journal}: cannot be resumed: {differs}")
    return job.resume


def _changed(job: Job) -> ImageError:
    return ImageError(f"{job.source}: changed while it was being read")


class _Keeper:
    """Decides what becomes of an unfinished file."""

    target: Target | None = None

    def __init__(self, job: Job, journal: Journal) -> None:
        self._job, self._journal = job, journal
        self._begun = self._resumed = self._worthless = False
        self._folder = False  # whether a folder under the file's name would be ours
        self._synced = time.monotonic()
        self._syncs = self._chunks = 0

    def begin(self, *, resumed: bool) -> None:
        """From here on what is under the job's names is ours."""
        self._begun, self._resumed = True, resumed
        if not resumed and not self._journal.empty and self._job.target.suffix.lower() in ZARR_SUFFIXES:
            remove_own(self._job.partial, folder=True)  # an interrupted run's, as its journal says
        self._folder = not os.path.lexists(self._job.partial)

    def noting(self, page: int) -> Callable[[int, Record], None]:
        """Return what notes a page's chunks, and now and then sees them to the disk."""

        def note(chunk: int, record: Record) -> None:
            self._journal.add(page, chunk, record)
            self._chunks += 1
            if time.monotonic() - self._synced >= SYNC_SECONDS and self.target is not None:
                self.target.sync()
                self._journal.mark_synced()
                if not self._syncs:  # the names too
                    _sync_folder(self._job.target.parent)
                self._synced = time.monotonic()
                self._syncs += 1

        return note

    def discard(self, error: SrcnnError) -> NoReturn:
        """Raise an error after which what is done is of no use."""
        self._worthless = self._folder = True
        raise error

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            return
        if self.target is not None:
            self.target.abort()
        if not self._begun:
            if self._journal.empty:  # made by looking for it
                remove_own(self._job.journal)
            return
        interrupted = not issubclass(kind, Exception) and self._chunks > 0
        if (self._resumed or self._syncs or interrupted) and not self._worthless:
            return  # there is something to go on with
        _tidy(self._job, folder=self._folder)


def _as_before(job: Job, cuts: Sequence[Sequence[int]], plans: Sequence[Plan], target: Target) -> list[Plan]:
    """Return plans cut as the journal says.

    Raises
    ------
    OutputError
        If these are none that could have been made of these images.
    """
    if len(cuts) != len(plans):
        raise OutputError(
            f"{job.journal}: cannot be resumed: it has plans of {len(cuts)} pages, not {len(plans)}"
        )
    made = []
    for k, (cut, plan) in enumerate(zip(cuts, plans, strict=True)):
        h, w = target.page(k).block
        block = max(1, h // job.scale), max(1, w // job.scale)
        if not (
            len(cut) == 4
            and all(type(n) is int and 1 <= n < 2**63 for n in cut)
            and plan.allows((cut[0], cut[1]), (cut[2], cut[3]), block)
        ):
            raise OutputError(f"{job.journal}: cannot be resumed: {str(cut)[:100]} is no plan of this image")
        made.append(replace(plan, tile=(cut[0], cut[1]), chunk=(cut[2], cut[3])))
    return made


def _restore(journal: Journal, target: Target, plans: Sequence[Plan], scale: int) -> list[int | None]:
    """Take over what was written, in order, up to what is missing or not as it was noted.

    Returns
    -------
    For every page the number of the first chunk to do, None if there is none.
    """
    firsts: list[int | None] = []
    whole, kept = True, 0
    for page, plan in enumerate(plans):
        sink, first = target.page(page), None
        for number, chunk in enumerate(plan):
            record = journal.done.get((page, number))
            y, x = (replace(s, start=s.start * scale, stop=s.stop * scale) for s in (chunk.y, chunk.x))
            try:
                whole = (
                    whole
                    and record is not None
                    and sink.restore(y, x, record, check=not journal.is_synced(kept))
                )
            except (KeyError, TypeError, ValueError, OverflowError):  # the record is not what a sink gave
                whole = False
            if not whole:
                first = number
                break
            kept += 1
        firsts.append(first)
    journal.keep(kept)
    return firsts


def _publish(made: Path, job: Job) -> None:
    """Give a finished file its name, and take away what it grew with."""
    try:
        _write_names(job)
        if made.is_dir() and job.target.is_dir() and not job.target.is_symlink():
            # A folder takes no other's place at once. A kill in between leaves all but the name.
            job.target.rename(workspace(job.partial) / "replaced")
        made.replace(job.target)
    except OSError as error:
        raise OutputError(f"{job.target}: cannot be written: {error.strerror}") from error
    _sync_folder(job.target.parent)
    _tidy(job)


def _write_names(job: Job) -> None:
    """Put beside a raster of classes what they are called."""
    if not (job.reading.classes and job.target.suffix.lower() in TIFF_SUFFIXES):
        return
    from ..io.tiff import gdal_pam

    if (names := gdal_pam.scaled(job.source, job.scale)) is not None:
        gdal_pam.write(job.target, names)


def _tidy(job: Job, *, folder: bool = False) -> None:
    """Take away all but the result, the journal last: what it names is then gone."""
    clear_workspace(job.partial)
    remove_own(job.partial, folder=folder)
    remove_own(job.journal)


def _sync_folder(path: Path) -> None:
    """See the names in a folder to the disk, where the system can."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
