"""What a job of many images has done, in the folder of its results.

One line of JSON an image, appended when it is finished or has failed, so that a second run of the same
command does what is left.
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
    """The manifest of one folder.

    Parameters
    ----------
    folder : of the results; the file is made with the first image
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lines: dict[str, Mapping[str, Any]] = {}
        self._torn = False
        try:
            text = self.path.read_text("utf-8", "replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read: {error.strerror}") from error
        self._torn = not text.endswith("\n")
        for line in text.splitlines():
            try:
                item = json.loads(line)
                self._lines[item["target"]] = item
            except (ValueError, KeyError, TypeError):
                continue  # half a line: its image is done again

    def is_done(self, target: Path, job: Mapping[str, Any]) -> bool:
        """Return whether `target` is there as a former run finished it, and of the same job."""
        item = self._lines.get(target.name, {})
        return item.get("job") == digest(job) and item.get("result") == _state(target) is not None

    def add(self, source: Path, target: Path, job: Mapping[str, Any]) -> None:
        """Note a finished image."""
        self._append({
            "source": str(source), "target": target.name, "job": digest(job), "result": _state(target)
        })  # fmt: skip

    def add_error(self, source: Path, target: Path, error: str) -> None:
        """Note an image that failed; it is tried again."""
        self._append({"source": str(source), "target": target.name, "error": error})

    def _append(self, item: Mapping[str, Any]) -> None:
        self._lines[item["target"]] = item
        line = json.dumps(item, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            file = os.open(self.path, flags, 0o666)
            try:
                # Before it too: a line that another run was killed in stays a line of its own.
                os.write(file, b"\n" + line if self._torn else line)
                self._torn = False
            finally:
                os.close(file)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error


def digest(job: Mapping[str, Any]) -> str:
    """Return a short name of a job: of all its result depends on."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]


def _state(target: Path) -> list[int] | None:
    try:
        stat = target.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
