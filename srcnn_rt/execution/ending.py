"""Runs that end early: cancelled by the caller, by a closed engine, or with the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar
from weakref import WeakSet

from ..errors import ArgumentError, CancelledError, ClosedError, SrcnnError

POLL = 0.05  # seconds between two looks at the caller's event
Result = TypeVar("Result")


class Event(Protocol):
    """What cancels a run: a ``threading.Event``, or anything else that can be set."""

    def is_set(self) -> bool:
        """Return whether the run has to end. Called from several threads."""


class Ending:
    """Says whether a run has to end early, and ends what it is doing. Safe to use from several threads.

    Parameters
    ----------
    cancel : Event, optional
        The caller's.

    Raises
    ------
    ArgumentError
        If `cancel` is none.

    Attributes
    ----------
    inherited : bool
        Whether the run was begun in the process from which this one was forked. Its threads are not here, so
        nothing can be waited for.
    """

    inherited = False

    def __init__(self, cancel: Event | None = None) -> None:
        if cancel is not None and not callable(getattr(cancel, "is_set", None)):
            raise ArgumentError(f"cancel must be a threading.Event, got {cancel!r}")
        self._cancel = cancel
        self._lock = threading.Lock()
        self._reason: tuple[type[SrcnnError], str] | None = None
        self._interrupts: list[Callable[[], None]] = []

    def end(self, kind: type[SrcnnError], message: str) -> None:
        """End the run. From now on `check` raises this error."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = kind, message
            for interrupt in self._interrupts:  # under the lock: none is called after `calling` has ended
                interrupt()

    def check(self) -> None:
        """Raise the error of a run that has to end."""
        if self._reason is None and self._cancel is not None and self._cancel.is_set():
            self.end(CancelledError, "the run was cancelled")
        if self._reason is not None:
            kind, message = self._reason
            raise kind(message)

    def after_fork(self) -> None:
        """End the run in a child that was just forked."""
        self._lock = threading.Lock()
        self._reason = ClosedError, "the run was begun in the process from which this one was forked"
        self.inherited = True

    @contextmanager
    def calling(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call a function when the run has to end while the context is active. It must return at once."""
        with self._lock:
            self._interrupts.append(interrupt)
            if self._reason is not None:
                interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.remove(interrupt)

    @contextmanager
    def holding(self, lock: threading.RLock) -> Iterator[None]:
        """Hold a lock; raise the error of `check` if the run has to end while it waits for it."""
        while not lock.acquire(timeout=POLL):
            self.check()
        try:
            yield
        finally:
            lock.release()

    def result(self, future: Future[Result]) -> Result:
        """Return the result of a future, or raise its error; that of `check` if the run has to end first."""
        while True:
            self.check()
            if future.done() or wait((future,), POLL).done:
                break
        try:
            return future.result()
        except BaseException:
            self.check()  # which may have caused it
            raise


class Runs:
    """The runs of an engine that are under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[Ending] = set()
        self._closed: str | None = None
        _all.add(self)

    @contextmanager
    def begin(self, cancel: Event | None = None) -> Iterator[Ending]:
        """Give the `Ending` of a new run, which is under way while the context is active.

        Raises
        ------
        ClosedError
            After `close`.
        ArgumentError
        """
        ending = Ending(cancel)
        with self._lock:
            if self._closed is not None:
                raise ClosedError(self._closed)
            self._under_way.add(ending)
        try:
            ending.check()
            yield ending
        finally:
            with self._lock:
                self._under_way.discard(ending)

    def close(self, why: str = "the engine is closed") -> None:
        """End all runs, and let none begin."""
        with self._lock:
            if self._closed is None:
                self._closed = why
            under_way = list(self._under_way)
        for ending in under_way:
            ending.end(ClosedError, why)

    def after_fork(self) -> None:
        """End all runs in a child that was just forked; see `Ending.after_fork`."""
        self._lock = threading.Lock()
        for ending in self._under_way:
            ending.after_fork()


_all: WeakSet[Runs] = WeakSet()


def _after_fork() -> None:
    for runs in list(_all):
        runs.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _close_all() -> None:
    for runs in list(_all):
        runs.close("the interpreter is exiting")


def _end_with_the_process() -> None:
    """Close all when the main thread has ended, before the threads of pools are waited for.

    They finish what is queued before functions of `atexit` are called. A stream that nobody closed, as after
    an unhandled Ctrl-C, would take its time, and nothing could be queued any more in any case.
    """
    import concurrent.futures.thread  # noqa: F401  what is registered last is called first

    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with suppress(RuntimeError):  # imported when the process is ending already
            register(_close_all)


_end_with_the_process()
