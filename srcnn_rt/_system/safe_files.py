"""Files beside a result that are this program's own: nobody can plant another file under their names."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ..errors import OutputError

Result = TypeVar("Result")

WORK = ".work"
_finishing: dict[Path, threading.Thread] = {}


def open_own(path: Path, flags: int = 0) -> int:
    """Open a file to read and write, made if it is not there; what is in it stays.

    Raises
    ------
    OutputError
        If it cannot be written, or is a link or anything but a file: it is then somebody else's.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutputError(f"{path}: cannot be written: a symbolic link is in the way") from error
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        what = "a second name of another file" if stat.S_ISREG(found.st_mode) else "something that is no file"
        raise OutputError(f"{path}: cannot be written: {what} is in the way")
    return file


def remove_own(path: Path, *, folder: bool = False) -> None:
    """Remove a file if it is there and one that `open_own` would open, or a `folder`; never raises."""
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            path.unlink()
        elif folder and stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path)


def workspace(path: Path) -> Path:
    """Return a new, empty folder for what is made of the file `path` in its last steps.

    Raises
    ------
    OutputError
    """
    clear_workspace(path)
    folder = path.with_name(path.name + WORK)
    try:
        folder.mkdir(mode=0o700)  # fails if anything is there, a link too
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder


def clear_workspace(path: Path) -> None:
    """Remove that folder, if it is one; never raises."""
    shutil.rmtree(path.with_name(path.name + WORK), ignore_errors=True)


def interruptible(path: Path, work: Callable[[], Result]) -> Result:
    """Call `work` on a file where it does not keep Ctrl-C from being heard, as long calls of libraries do.

    When Ctrl-C comes it is left to itself; `wait_for` says when nothing touches the file any more.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)

    thread = threading.Thread(target=run, name="srcnn-finish", daemon=True)
    thread.start()
    _finishing[path] = thread
    done = future.result()
    wait_for(path)
    return done


def wait_for(path: Path) -> None:
    """Wait until work on a file has ended that was left to itself."""
    if (thread := _finishing.pop(path, None)) is not None:
        thread.join()
