"""Resume an interrupted job: whether it is the same job, and which of its chunks are finished."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..io.protocols import Target
from ..io.registry import check_output
from ..tiling.geometry import Plan
from .journal import Journal, fingerprint

if TYPE_CHECKING:
    from .job import Job

_log = logging.getLogger("srcnn_rt")


def is_published(job: Job, journal: Journal, facts: Mapping[str, Any]) -> bool:
    """Return whether the job was killed after the result got its name and before it was tidied up."""
    return (
        job.resume
        and journal.made is not None
        and job.target.exists()
        and not job.target.is_symlink()
        and journal.difference(facts) is None
        and fingerprint(job.target) == journal.made
    )


def can_resume(job: Job, journal: Journal, facts: Mapping[str, Any]) -> bool:
    """Return whether there is something to resume. The journal is locked, so no other process writes it.

    Raises
    ------
    OutputError
        If an interrupted run left something and neither `resume` nor `overwrite` is set, or it belongs to
        another job, or the target must not be written.
    """
    check_output(job.target, job.source, overwrite=job.overwrite)
    if journal.empty or not os.path.lexists(job.partial):
        return False
    if not (job.resume or job.overwrite):
        raise OutputError(
            f"{job.partial}: left by an interrupted run; "
            "use --resume to continue it or --overwrite to start again"
        )
    if not job.resume:
        _log.info("%s: discarded, because overwriting was requested", job.partial)
    elif differs := journal.difference(facts):
        raise OutputError(f"{job.journal}: cannot be resumed: {differs}")
    return job.resume


def recorded_plans(
    job: Job, cuts: Sequence[Sequence[int]], plans: Sequence[Plan], target: Target
) -> list[Plan]:
    """Return plans with the tiles and chunks that the journal records.

    Raises
    ------
    OutputError
        If these images could not have been cut so.
    """
    if len(cuts) != len(plans):
        raise OutputError(
            f"{job.journal}: cannot be resumed: it records {len(cuts)} pages, the source has {len(plans)}"
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
            raise OutputError(
                f"{job.journal}: cannot be resumed: the plan {str(cut)[:100]} does not fit the image"
            )
        made.append(replace(plan, tile=(cut[0], cut[1]), chunk=(cut[2], cut[3])))
    return made


def chunk_count(plan: Plan) -> int:
    return math.prod(-(-n // step) for n, step in zip(plan.shape, plan.chunk, strict=True))


def restore_chunks(job: Job, journal: Journal, target: Target, plans: Sequence[Plan]) -> list[set[int]]:
    """Take back the recorded chunks that are in the growing file as they were written.

    A target that only appends takes them in order up to the first that is missing or damaged. Other targets
    take any chunks.

    Returns
    -------
    list of set of int
        For each page the numbers of its finished chunks.
    """
    finished, sinks = [set[int]() for _ in plans], [target.page(page) for page in range(len(plans))]
    chunks = ((page, *numbered) for page, plan in enumerate(plans) for numbered in enumerate(plan))
    for page, number, chunk in chunks if journal.done else ():
        record = journal.done.get((page, number))
        y, x = chunk.y.scaled(job.scale), chunk.x.scaled(job.scale)
        check = not journal.is_synced(page, number)
        try:
            valid = record is not None and sinks[page].restore(y, x, record, check=check)
        except (KeyError, TypeError, ValueError, OverflowError):  # the record is not from a sink
            valid = False
        if valid:
            finished[page].add(number)
        elif target.append_only:
            break
    kept = sum(map(len, finished))
    if journal.done:
        _log.info("%s: resumed with %d of %d chunks", job.partial, kept, sum(map(chunk_count, plans)))
    if lost := len(journal.done) - kept:
        _log.info("%s: discarded %d recorded chunks, missing or damaged in the file", job.partial, lost)
    journal.keep({(page, number) for page, numbers in enumerate(finished) for number in numbers})
    return finished
