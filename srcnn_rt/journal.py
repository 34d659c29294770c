"""What a job has done, beside the file that grows: one line of JSON a chunk.

The first line says which job it is: source, model, plan, version. A line follows when its chunk is written;
a line ``synced`` when all before it is on the disk. So when the process is killed every line is true, and
when the machine goes down those before the last ``synced`` are; the others are checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import OutputError

try:
    import fcntl
except ImportError:  # not a POSIX system: nobody is kept from running the same job twice
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".journal"


class Journal:
    """The journal of one growing file. It is this process's own until it is closed.

    Parameters
    ----------
    path : made if it is not there

    Attributes
    ----------
    done : (page, chunk) → the sink's record, of a job that is gone on with
    synced : those of them that are surely on the disk
    plans : how that job's pages are cut

    Raises
    ------
    OutputError
        If it cannot be written, or another process is at work on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _locked(path)
        self.done: dict[tuple[int, int], dict[str, Any]] = {}
        self.synced: set[tuple[int, int]] = set()
        self.plans: list[list[int]] | None = None

    def start(self, job: Mapping[str, Any]) -> None:
        """Begin anew, whatever is there."""
        try:
            os.ftruncate(self._file, 0)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._append({"job": job})

    def set_plans(self, plans: Sequence[Sequence[int]]) -> None:
        """Note how the pages are cut: (tile height, width, chunk height, width) of each, LR pixels."""
        self.plans = [list(p) for p in plans]
        self._append({"plans": self.plans})

    def add(self, page: int, chunk: int, record: Mapping[str, Any]) -> None:
        """Note that a chunk is written."""
        self._append({"page": page, "chunk": chunk, **record})

    def mark_synced(self) -> None:
        """Note that all noted so far is on the disk."""
        self._append({"synced": True})
        with suppress(OSError):
            os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _append(self, item: Mapping[str, Any]) -> None:
        line = json.dumps(item, separators=(",", ":")).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def resume(self, job: Mapping[str, Any]) -> None:
        """Read what was done of a job, to go on with it.

        Raises
        ------
        OutputError
            If the journal is another job's, saying what differs.
        """
        before: Mapping[str, Any] | None = None
        end = 0
        for line in _lines(self._file):
            try:
                item = json.loads(line)
                if before is None:
                    before = dict(item["job"])
                elif "plans" in item:
                    self.plans = [[int(n) for n in plan] for plan in item["plans"]]
                elif item.get("synced"):
                    self.synced = set(self.done)
                else:
                    self.done[int(item["page"]), int(item["chunk"])] = item
            except (ValueError, KeyError, TypeError, AttributeError):
                break  # a line that was being written
            end += len(line)
        if before is None:  # killed before the first line was there: nothing is lost by beginning anew
            self.start(job)
            return
        now = json.loads(json.dumps(job))
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                was, is_ = (json.dumps(x.get(key)).strip('"') for x in (before, now))
                raise OutputError(f"{self.path}: cannot be resumed: the {key} differs, {was} then, {is_} now")
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)


def fingerprint(path: Path) -> dict[str, Any]:
    """Tell a source from another of its name: size, time of change, and a hash of its ends."""
    stat = path.stat()
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, stat.st_size - 2**20))
            digest.update(file.read(2**20))
    return {"bytes": stat.st_size, "changed": stat.st_mtime_ns, "hash": digest.hexdigest()[:16]}


def _locked(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise OutputError(f"{path}: another process is at work on this result") from error
    return file


def _lines(file: int) -> Iterator[bytes]:
    """Yield whole lines from the beginning."""
    os.lseek(file, 0, os.SEEK_SET)
    rest = b""
    while block := os.read(file, 2**20):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
