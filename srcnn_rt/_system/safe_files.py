"""Atomic writing, and work files that are never opened through planted links."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..errors import OutputError

Result = TypeVar("Result")

WORK = ".work"
_POLL = 0.05  # seconds between two calls of what `checking` was given
_finishing: dict[Path, threading.Thread] = {}
_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends without an error.

    Until then it has a random name in the same folder, its ``name`` attribute. It is flushed to the disk
    before it is renamed, so that `path` is the old file or the whole new one, even after a power failure.
    If `path` is a symbolic link, the link is replaced, not what it points to.

    Parameters
    ----------
    path : Path
        Final name of the file.

    Yields
    ------
    BinaryIO
        Open for reading and writing.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        file = temporary.open("x+b")  # fails if a file or link is there
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, where the system supports it."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def open_own(path: Path, flags: int = 0) -> int:
    """Open a file for reading and writing; create it if it does not exist, and keep its content.

    Parameters
    ----------
    path : Path
        The file.
    flags : int
        Further flags of `os.open`.

    Returns
    -------
    int
        File descriptor.

    Raises
    ------
    OutputError
        If it cannot be opened, or is a symbolic link, a hard link or no regular file, which another program
        may have planted.
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
        what = "a hard link" if stat.S_ISREG(found.st_mode) else "something other than a file"
        raise OutputError(f"{path}: cannot be written: {what} is in the way")
    return file


def remove_own(path: Path, *, folder: bool = False) -> None:
    """Remove a file that `open_own` would open, or with `folder` also a folder; never raises."""
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            path.unlink()
        elif folder and stat.S_ISDIR(found.st_mode):
            shutil.rmtree(path)


def workspace(path: Path) -> Path:
    """Return a new, empty folder for the last steps of writing the file `path`.

    Raises
    ------
    OutputError
        If it cannot be created.
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
    """Call a function on a file so that Ctrl-C is heard during it, which libraries' long calls prevent.

    So is what `checking` looks at. After either, the function continues in its thread, and `wait_for` returns
    when it has ended.

    Parameters
    ----------
    path : Path
        The file, by which `wait_for` finds the function.
    work : callable
        What to call.
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
    check = _check.get()
    while not wait((future,), _POLL).done:
        check()
    done = future.result()
    wait_for(path)
    return done


@contextmanager
def checking(check: Callable[[], None]) -> Iterator[None]:
    """Have `interruptible` call a function now and then, whose errors end it, while the context is active."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def when_ended(path: Path, then: Callable[[], None]) -> None:
    """Call a function when one that `interruptible` called on a file has ended; at once if that is so."""
    thread = _finishing.pop(path, None)
    if thread is None or not thread.is_alive():
        then()
        return

    def wait_and_call() -> None:
        thread.join()
        then()

    threading.Thread(target=wait_and_call, name="srcnn-clean", daemon=True).start()


def wait_for(path: Path) -> None:
    """Wait until a function that `interruptible` called on a file has ended."""
    if (thread := _finishing.pop(path, None)) is not None:
        thread.join()
