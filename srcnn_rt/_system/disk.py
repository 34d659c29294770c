"""Free space on disks, and what files take of it."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


def free_bytes(folder: Path) -> int | None:
    """Return the free space on a folder's disk, None if unknown."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def device(folder: Path) -> int | None:
    """Return the device number of a folder's disk, None if unknown."""
    with suppress(OSError):
        return folder.stat().st_dev
    return None


def allocated_bytes(path: Path) -> int:
    """Return what a file, or everything in a folder, takes on the disk.

    Files with several names count 0, because removing one name frees nothing.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    if stat.S_ISDIR(found.st_mode):
        return sum(allocated_bytes(Path(at) / name) for at, _, names in os.walk(path) for name in names)
    blocks = getattr(found, "st_blocks", None)  # not on Windows
    size = found.st_size if blocks is None else min(blocks * 512, found.st_size)
    return size if found.st_nlink == 1 and stat.S_ISREG(found.st_mode) else 0
