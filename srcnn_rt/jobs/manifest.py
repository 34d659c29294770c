"""Manifest of a batch: which of many images are finished, in the folder of their results.

Each image appends a line of JSON when it is finished or has failed. A second run of the same command upscales
the images that are left.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError

NAME = ".srcnn-rt.jsonl"


class Manifest:
    """Manifest of one folder.

    Parameters
    ----------
    folder : Path
        Folder of the results. The file is created with the first image.

    Raises
    ------
    OutputError
        If the file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lines: dict[str, Mapping[str, Any]] = {}
        self._incomplete = False
        try:
            text = self.path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read: {error.strerror}") from error
        self._incomplete = not text.endswith("\n")
        for line in text.splitlines():
            try:
                item = json.loads(line)
                self._lines[item["target"]] = item
            except (ValueError, KeyError, TypeError):
                continue  # half a line: its image is upscaled again

    def is_done(self, target: Path, job: Mapping[str, Any]) -> bool:
        """Return whether `target` is unchanged since an equal job finished it."""
        item = self._lines.get(target.name, {})
        return item.get("job") == digest(job) and item.get("result") == _state(target) is not None

    def add(self, source: Path, target: Path, job: Mapping[str, Any]) -> None:
        """Record a finished image."""
        self._append({
            "source": str(source), "target": target.name, "job": digest(job), "result": _state(target)
        })  # fmt: skip

    def add_error(self, source: Path, target: Path, error: str) -> None:
        """Record an image that failed. The next run tries it again."""
        self._append({"source": str(source), "target": target.name, "error": error})

    def _append(self, item: Mapping[str, Any]) -> None:
        self._lines[item["target"]] = item
        line = json.dumps(item, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            file = os.open(self.path, flags, 0o666)
            try:
                # A line that a killed run left incomplete must not run into this one.
                os.write(file, b"\n" + line if self._incomplete else line)
                self._incomplete = False
            finally:
                os.close(file)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error


def digest(job: Mapping[str, Any]) -> str:
    """Return a hash of everything that the result of a job depends on."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]


def _state(target: Path) -> list[int] | None:
    """Return size and modification time of a file, None if it does not exist."""
    try:
        stat = target.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
