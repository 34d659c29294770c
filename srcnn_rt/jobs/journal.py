"""Journal of a job: which chunks of its growing file are written.

A journal lies beside the growing file and has one entry per line: a checksum and JSON. The first line
describes the job (source, model, settings, version), the second how its pages are cut. After that, each
chunk gets a line as soon as it is written. The line names its page and its chunk, so **chunks may be recorded
in any order**: resuming computes exactly the chunks that have no line. Targets that only append, such as
TIFF, take back chunks in the plan's order up to the first that is missing; see `file_job`.

A line ``synced`` says that all chunks recorded before it are on the disk, a line ``made`` that the result is
complete and about to get its name. When the process is killed, every line is true. When the power fails, the
lines before the last ``synced`` are true, and the other chunks must be compared with the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._system.file_lock import open_locked
from ..errors import ImageError, OutputError, SourceMissingError

SUFFIX = ".journal"
_MAX_LINE = 64 * 2**20  # bytes; a longer line is not from this module
_HASHED_BYTES = 2**20  # at either end of a source
_MAX_SHOWN = 60  # characters of a value in an error message

Key = tuple[int, int]  # page and chunk, both from 0


class Journal:
    """Journal of one growing file, by default locked for this process until it is closed.

    Parameters
    ----------
    path : Path
        Created if it does not exist, unless it is only read.
    locked : bool
        False only reads the file, without a lock. The object is closed then.

    Attributes
    ----------
    empty : bool
        Whether the file held no valid journal.
    done : dict of (int, int) to dict
        The sink's record of each finished chunk by (page, chunk), in the order of the lines.
    plans : list of list of int, optional
        How the job's pages are cut; see `set_plans`. None if that was not recorded.
    made : dict, optional
        `fingerprint` of the finished file. None if that was not recorded.

    Raises
    ------
    OutputError
        If the file cannot be read or written, or another process has locked it.
    """

    def __init__(self, path: Path, *, locked: bool = True) -> None:
        self.path = path
        self._file = open_locked(path) if locked else _open_to_read(path)
        self._job: Mapping[str, Any] | None = None
        self._clear()
        try:
            self._read()
        except OSError as error:
            self.close()
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
        self.empty = self._job is None
        if not locked:
            self.close()

    def _clear(self) -> None:
        self.done: dict[Key, dict[str, Any]] = {}
        self.plans: list[list[int]] | None = None
        self.made: dict[str, Any] | None = None
        self._lines: dict[Key, tuple[int, int]] = {}  # of a chunk: its place among all, and its first byte
        self._end = self._synced = 0

    def start(self, job: Mapping[str, Any]) -> None:
        """Start a new journal for a job, replacing the content of the file."""
        self._clear()
        self._truncate(0)
        self._append({"job": job})

    def set_plans(self, plans: Sequence[Sequence[int]]) -> None:
        """Record how each page is cut: tile height and width, chunk height and width in LR pixels."""
        self.plans = [list(p) for p in plans]
        self._append({"plans": self.plans})

    def add(self, page: int, chunk: int, record: Mapping[str, Any]) -> None:
        """Record that a chunk is written. Chunks may be recorded in any order, each once."""
        self._append({"page": page, "chunk": chunk, **record})

    def mark_synced(self) -> None:
        """Record that all chunks recorded so far are on the disk."""
        self._append({"synced": True})
        self._sync()

    def set_made(self, made: Mapping[str, Any]) -> None:
        """Record that the result is complete and about to get its name."""
        self._append({"made": made})

    def is_synced(self, page: int, chunk: int) -> bool:
        """Return whether a chunk in `done` is certainly on the disk."""
        return (page, chunk) in self._lines and self._lines[page, chunk][0] < self._synced

    def difference(self, job: Mapping[str, Any]) -> str | None:
        """Return in words how `job` differs from the job of this journal, None if it does not."""
        return _difference(self._job or {}, json.loads(json.dumps(job)))

    def keep(self, kept: Container[Key]) -> None:
        """Forget all chunks except `kept`, because they will be written again, and an incomplete last line.

        The lines from the first forgotten chunk on are cut off, and the cut is on the disk before anything
        else happens. Otherwise, after a power failure, old lines would vouch for chunks that are being
        written again. Lines of kept chunks behind the cut are then appended again.
        """
        keys = list(self.done)
        count = next((k for k, key in enumerate(keys) if key not in kept), len(keys))
        moved = [self.done[key] for key in keys[count:] if key in kept]
        if count < len(keys):
            self._end = self._lines[keys[count]][1]
        if os.fstat(self._file).st_size != self._end:
            self._truncate(self._end)
            self._sync()
        for item in moved:
            self._append(item)

    def close(self) -> None:
        """Release the file; safe to call twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _sync(self) -> None:
        with suppress(OSError):  # unsynced lines are true too; their chunks are compared with the file
            os.fsync(self._file)

    def _truncate(self, end: int) -> None:
        try:
            os.ftruncate(self._file, end)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _append(self, item: Mapping[str, Any]) -> None:
        line = line_of(item)
        try:
            while line:
                written = os.write(self._file, line)
                line, self._end = line[written:], self._end + written
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _read(self) -> None:
        """Read all lines up to the first that is damaged or invalid."""
        for item, size in _entries(self._file):
            if not self._take(item):
                return
            self._end += size

    def _take(self, item: dict[str, Any]) -> bool:
        """Take in one entry; return whether it is valid at this place."""
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
            page, chunk = item.get("page"), item["chunk"]
            if type(page) is not int or type(chunk) is not int or (page, chunk) in self.done:
                return False
            if not (0 <= page < len(self.plans) and chunk >= 0):
                return False
            self._lines[page, chunk] = len(self.done), self._end
            self.done[page, chunk] = item
        elif item.get("synced") is True:
            self._synced = len(self.done)
        elif isinstance(item.get("made"), dict):
            self.made = item["made"]
        else:
            return False
        return True


def finished_share(path: Path, shapes: Sequence[tuple[int, int]]) -> float:
    """Return the share of the pixels, 0 to 1, that a journal records, without locking it.

    Parameters
    ----------
    path : Path
        A journal. Where it is missing or invalid, what precedes counts.
    shapes : sequence of (int, int)
        Height and width of each page in LR pixels.
    """
    pixels = 0
    with suppress(OutputError, ValueError, LookupError, TypeError, ArithmeticError):
        journal = Journal(path, locked=False)
        for page, chunk in journal.done:
            (h, w), (_, _, rows, columns) = shapes[page], map(int, (journal.plans or [])[page])
            y, x = divmod(chunk, -(-w // columns))
            pixels += max(0, min(rows, h - y * rows)) * min(columns, w - x * columns)
    return min(1.0, pixels / sum(h * w for h, w in shapes))


def line_of(item: Mapping[str, Any]) -> bytes:
    """Return an entry as a line: a CRC-32, by which damage is detected, and JSON."""
    text = json.dumps(item, separators=(",", ":")).encode()
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def fingerprint(path: Path, *, beside: bool = False) -> dict[str, Any]:
    """Return what identifies the content of a file: its size, its modification time and a hash of its ends.

    Parameters
    ----------
    path : Path
        A file, or a folder, whose files' names, sizes and times are hashed.
    beside : bool
        Whether to include the sizes and times of the sidecar files from which GDAL reads masks and
        georeferences.

    Returns
    -------
    dict
        JSON values.

    Raises
    ------
    SourceMissingError, ImageError
        If the path does not exist or cannot be read.
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
                digest.update(data.read(_HASHED_BYTES))
                data.seek(max(0, size - _HASHED_BYTES))
                digest.update(data.read(_HASHED_BYTES))
        if beside:
            for file in _sidecars(path):
                with suppress(FileNotFoundError):
                    found = file.stat()
                    digest.update(f"{file.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    except FileNotFoundError as error:
        raise SourceMissingError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return {"size": size, "modification time": changed, "hash": digest.hexdigest()[:16]}


def _open_to_read(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error


def _sidecars(path: Path) -> list[Path]:
    added = [path.with_name(path.name + suffix) for suffix in (".msk", ".aux.xml")]
    replaced = [path.with_suffix(suffix) for suffix in (".tfw", ".tifw", ".wld", ".RPB")]
    return [*added, *replaced, path.with_name(path.stem + "_RPC.TXT")]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], parent: str = "") -> str | None:
    for key in dict.fromkeys((*now, *before)):
        was, is_ = before.get(key), now.get(key)
        if was == is_:
            continue
        name = f"{key} of the {parent}" if parent else key
        if isinstance(was, dict) and isinstance(is_, dict):
            return _difference(was, is_, name)
        texts = (json.dumps(v).strip('"')[:_MAX_SHOWN] for v in (was, is_))
        return "the {} differs: {} in the journal, {} now".format(name, *texts)
    return None


def _entries(file: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the entries of a file up to the first damaged or incomplete line, and the bytes of each line."""
    rest = b""
    while (block := os.read(file, 2**20)) and len(rest) < _MAX_LINE:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if (item := _item(line)) is None:
                return
            yield item, len(line) + 1


def _item(line: bytes) -> dict[str, Any] | None:
    """Return the entry in a line, None if the line is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        item = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return item if isinstance(item, dict) else None
