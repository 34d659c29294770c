"""What memory there is, and what this process has of it: Linux's own files, nothing else.

In a container the machine's memory says little: the control groups a process is in limit it, those above
them too. All of them count, in both versions of control groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Files are read below it; tests have their own.
ROOT = Path("/")
# By controller, which version 2 leaves empty: the root, and the names of the limit, of the memory in use, and
# of the pages of files in it.
_CONTROL_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max memory.current inactive_file active_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes memory.usage_in_bytes total_inactive_file total_active_file",
    ),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a process may still take.

    Attributes
    ----------
    available : without swapping; caches that the system would give back count
    with_swap : at most, before something is killed
    """

    available: int
    with_swap: int


def memory() -> Memory | None:
    """Return what memory there is for this process, the least of machine and control groups."""
    table = _table("proc/meminfo")
    if "MemAvailable" not in table:  # not Linux
        return None
    free = Memory(table["MemAvailable"], table["MemAvailable"] + table.get("SwapFree", 0))
    for left in _groups(table.get("SwapFree", 0)):
        free = Memory(min(free.available, left.available), min(free.with_swap, left.with_swap))
    return free


def resident() -> int:
    """Return the bytes of memory that this process has now; 0 where unknown."""
    return _table("proc/self/status").get("VmRSS", 0)


def peak() -> int:
    """Return the most bytes of memory that this process had so far; 0 where unknown."""
    return _table("proc/self/status").get("VmHWM", 0)


def _groups(swap: int) -> Iterator[Memory]:
    """Yield what every control group of this process, and those above it, leave."""
    for line in _lines("proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, place = rest.partition(":")
        parts = Path(place.strip("/"))
        version = next((name for name in controllers.split(",") if name in _CONTROL_GROUPS), None)
        if version is None:
            continue
        root, names = _CONTROL_GROUPS[version]
        # Inside a container the place may be named as the host sees it; its own is the root then.
        for folder in (parts, *parts.parents):
            found = _left(f"{root}/{folder}", names.split(), swap)
            if found is not None:
                yield found


def _left(folder: str, names: list[str], swap: int) -> Memory | None:
    """Return what a control group leaves; None if it limits nothing."""
    limit, used = (_number(f"{folder}/{name}") for name in names[:2])
    if limit is None or used is None or limit >= 2**60:  # version 1 says so where there is no limit
        return None
    kept = _table(f"{folder}/memory.stat")
    # Pages of files are taken back before anything is killed.
    left = max(0, limit - used + sum(kept.get(name, 0) for name in names[2:]))
    return Memory(left, left + swap)


def _lines(name: str) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return (ROOT / name).read_text().splitlines()
    return []


def _number(name: str) -> int | None:
    text = "".join(_lines(name))
    return int(text) if text.isdigit() else None


def _table(name: str) -> dict[str, int]:
    """Read lines of a name and a number, in bytes or in kB."""
    found = (re.fullmatch(r"(\w+)\S*\s+(\d+)(\s+kB)?\s*", line) for line in _lines(name))
    return {m[1]: int(m[2]) * (1024 if m[3] else 1) for m in found if m}
