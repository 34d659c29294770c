"""Files that no other user can open and that vanish with the process, even if it is killed."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from .safe_files import when_ended

MEMORY_BYTES = 64 * 2**20  # larger data go to the disk, from where the system can reclaim the memory


def private_file(size: int | None = None) -> BinaryIO:
    """Return an empty file without a name, open for reading and writing.

    Parameters
    ----------
    size : int, optional
        How much it will hold. Up to `MEMORY_BYTES` it lies in memory; a file of unknown size does not.

    Raises
    ------
    OSError
    """
    if size is not None and size <= MEMORY_BYTES and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("srcnn-rt"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def path_of(file: BinaryIO) -> Path:
    """Return a path by which this process can open an open file once more. The file must stay open."""
    return Path(f"/proc/self/fd/{file.fileno()}")


def tell_apart(file: BinaryIO) -> None:
    """Give a private file a time of its own.

    Caches recognise files by inode, size and time. The inode of a file without a name is used again at once,
    and the system's clock for times ticks only every few milliseconds.
    """
    now = time.time_ns()
    os.utime(file.fileno(), ns=(now, now))


@contextmanager
def private_folder(growing: str = "") -> Iterator[Path]:
    """Yield a new folder that only this user can open; it is removed with its content.

    Parameters
    ----------
    growing : str
        Name of a file in it on which `interruptible` may call a function. If that still runs after the
        block, the folder is removed when it has ended.
    """
    folder = Path(tempfile.mkdtemp(prefix="srcnn-rt-"))  # with mode 0700
    try:
        yield folder
    finally:
        when_ended(folder / growing, partial(shutil.rmtree, folder, ignore_errors=True))


def is_plain_file(file: object) -> bool:
    """Return whether `file` is a named, regular file that Python opened and that is at its beginning."""
    if not isinstance(file, io.BufferedReader | io.BufferedRandom | io.FileIO):
        return False
    try:
        found = os.fstat(file.fileno())
        return stat.S_ISREG(found.st_mode) and found.st_nlink > 0 and file.tell() == 0
    except (OSError, ValueError):  # without a descriptor, a pipe, or closed
        return False
