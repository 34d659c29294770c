"""What a job has done, beside the file that grows: one line a chunk, a checksum and JSON.

The first line says which job it is: source, model, settings, version; the second how pages are cut. A line
follows when its chunk is written, in order; a line ``synced`` when all before it is on the disk; a line
``made`` before the result gets its name. So when the process is killed every line is true, and when the
machine goes down those before the last ``synced`` are; the others are checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._system.safe_files import open_own
from ..errors import ImageError, OutputError, SourceMissingError

try:
    import fcntl
except ImportError:  # not a POSIX system: nobody is kept from running the same job twice
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".journal"
_MAX_LINE = 64 * 2**20  # bytes; what is longer was not written here
_ENDS = 2**20  # bytes at both ends of a source that are hashed
_TRIES = 100
_MAX_SHOWN = 60  # characters of a value in an error


class Journal:
    """The journal of one growing file. It is this process's own until it is closed.

    Parameters
    ----------
    path : made if it is not there

    Attributes
    ----------
    empty : whether nothing was in it, or nothing that was written here
    done : (page, chunk) → the sink's record, in order, of the job that it is of
    plans : how that job's pages are cut, None if it did not come to that
    made : `fingerprint` of the finished file, None if it did not come to that

    Raises
    ------
    OutputError
        If it cannot be written, or another process is at work on it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _locked(path)
        self._job: Mapping[str, Any] | None = None
        self._forget()
        try:
            self._read()
        except OSError as error:
            self.close()
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
        self.empty = self._job is None

    def _forget(self) -> None:
        self.done: dict[tuple[int, int], dict[str, Any]] = {}
        self.plans: list[list[int]] | None = None
        self.made: dict[str, Any] | None = None
        self._ends = [0]  # of the part before the first chunk, and after each
        self._end = self._synced = 0

    def start(self, job: Mapping[str, Any]) -> None:
        """Begin anew, whatever is there."""
        self._forget()
        self._cut(0)
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
        self._sync()

    def set_made(self, made: Mapping[str, Any]) -> None:
        """Note that the result is complete and about to get its name."""
        self._append({"made": made})

    def is_synced(self, number: int) -> bool:
        """Return whether the chunk of that place in `done` is surely on the disk."""
        return number < self._synced

    def difference(self, job: Mapping[str, Any]) -> str | None:
        """Return how the job that this is of differs from another, in words; None if it does not."""
        return _difference(self._job or {}, json.loads(json.dumps(job)))

    def keep(self, count: int) -> None:
        """Forget all chunks but the first `count`, which will be written again, and half a last line.

        That is on the disk when it returns, or after a power failure old lines would vouch for
        what is being written anew.
        """
        if count < len(self.done):
            self._end = self._ends[count]
        if os.fstat(self._file).st_size != self._end:
            self._cut(self._end)
            self._sync()

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _sync(self) -> None:
        with suppress(OSError):  # what it says is true anyway, and chunks are checked without it
            os.fsync(self._file)

    def _cut(self, end: int) -> None:
        try:
            os.ftruncate(self._file, end)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _append(self, item: Mapping[str, Any]) -> None:
        line = line_of(item)
        try:
            while line:
                done = os.write(self._file, line)
                line, self._end = line[done:], self._end + done
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _read(self) -> None:
        """Take in all lines up to the first that was not wholly written here."""
        for line in _lines(self._file):
            item = _item(line)
            if item is None or not self._take(item):
                return
            self._end += len(line)
            self._ends[-1] = self._end

    def _take(self, item: dict[str, Any]) -> bool:
        if self._job is None:
            job = item.get("job")
            self._job = job if isinstance(job, dict) and job else None
            return self._job is not None
        if self.plans is None:
            plans = item.get("plans")
            if not (isinstance(plans, list) and all(isinstance(p, list) for p in plans)):
                return False
            self.plans = [list(p) for p in plans]
        elif "chunk" in item:
            key = item.get("page"), item["chunk"]
            page, chunk = next(reversed(self.done), (0, -1))
            if not all(type(n) is int for n in key) or key not in ((page, chunk + 1), (page + 1, 0)):
                return False
            self.done[key] = item
            self._ends.append(0)
        elif item.get("synced") is True:
            self._synced = len(self.done)
        elif isinstance(item.get("made"), dict):
            self.made = item["made"]
        else:
            return False
        return True


def items(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the whole lines of a journal say, whoever is at work on it.

    Raises
    ------
    OutputError
        If it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            for line in _lines(file):
                if (item := _item(line)) is None:
                    return
                yield item
        finally:
            os.close(file)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error


def line_of(item: Mapping[str, Any]) -> bytes:
    """Return a journal's line: a checksum, so that a damaged one is known, and JSON."""
    text = json.dumps(item, separators=(",", ":")).encode()
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def fingerprint(path: Path, *, beside: bool = False) -> dict[str, Any]:
    """Tell a file from another of its name: size, time of change, and a hash of its ends.

    Of a folder, the files in it, their sizes and times; with `beside`, those of the files from which
    GDAL reads a mask or a place on the ground.

    Raises
    ------
    SourceMissingError, ImageError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        found = path.stat()
        size, changed = found.st_size, found.st_mtime_ns
        if path.is_dir():
            size = changed = 0
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                found = file.stat()
                size, changed = size + found.st_size, max(changed, found.st_mtime_ns)
                digest.update(f"{file.relative_to(path)} {found.st_size} {found.st_mtime_ns}\n".encode())
        else:
            with path.open("rb") as data:
                digest.update(data.read(_ENDS))
                data.seek(max(0, size - _ENDS))
                digest.update(data.read(_ENDS))
        if beside:
            for file in _beside(path):
                with suppress(FileNotFoundError):
                    found = file.stat()
                    digest.update(f"{file.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    except FileNotFoundError as error:
        raise SourceMissingError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return {"bytes": size, "changed": changed, "hash": digest.hexdigest()[:16]}


def _beside(path: Path) -> list[Path]:
    added = [path.with_name(path.name + suffix) for suffix in (".msk", ".aux.xml")]
    replaced = [path.with_suffix(suffix) for suffix in (".tfw", ".tifw", ".wld", ".RPB")]
    return [*added, *replaced, path.with_name(path.stem + "_RPC.TXT")]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], whole: str = "") -> str | None:
    for key in sorted({*before, *now}):
        was, is_ = before.get(key), now.get(key)
        if was == is_:
            continue
        name = f"{key} of the {whole}" if whole else key
        if isinstance(was, dict) and isinstance(is_, dict):
            return _difference(was, is_, name)
        texts = (json.dumps(v).strip('"')[:_MAX_SHOWN] for v in (was, is_))
        return "the {} differs, {} then, {} now".format(name, *texts)
    return None


def _locked(path: Path) -> int:
    for _ in range(_TRIES):
        file = open_own(path, os.O_APPEND)
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(file)
                raise OutputError(f"{path}: another process is at work on this result") from error
            except OSError:  # a file system without locks
                return file
        try:
            if os.path.samestat(os.fstat(file), path.lstat()):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # its owner finished and removed it between our two steps
    raise OutputError(f"{path}: cannot be locked: it does not stay where it is")


def _lines(file: int) -> Iterator[bytes]:
    """Yield whole lines from the beginning."""
    rest = b""
    while (block := os.read(file, 2**20)) and len(rest) < _MAX_LINE:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"


def _item(line: bytes) -> dict[str, Any] | None:
    """Return what a line says, None if it is not one that was written here."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        item = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return item if isinstance(item, dict) else None
