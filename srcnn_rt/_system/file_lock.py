"""Lock a file, so that two processes cannot write the same result."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import OutputError
from .safe_files import open_own

try:
    import fcntl
except ImportError:  # not POSIX: two processes can run the same job at once
    fcntl = None  # type: ignore[assignment]

_LOCK_ATTEMPTS = 100


def open_locked(path: Path) -> int:
    """Open a file of this program for appending, creating it if needed, and lock it for this process.

    The lock ends with the file descriptor, also when the process is killed. File systems without locks are
    used without one.

    Parameters
    ----------
    path : Path

    Returns
    -------
    int
        The file descriptor, which the caller closes.

    Raises
    ------
    OutputError
        If another process holds the lock, or the file cannot be opened.
    """
    for _ in range(_LOCK_ATTEMPTS):
        file = open_own(path, os.O_APPEND)
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(file)
                raise OutputError(f"{path}: another process is writing this result") from error
            except OSError:  # a file system without locks
                return file
        try:
            if os.path.samestat(os.fstat(file), path.lstat()):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # its owner finished and removed it after it was opened here
    raise OutputError(f"{path}: cannot be locked, because it is being replaced all the time")
