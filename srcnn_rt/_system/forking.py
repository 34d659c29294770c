"""Values that a forked child does not share with its parent: threads, locks, sessions of a runtime."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

Value = TypeVar("Value")


class PerProcess(Generic[Value]):
    """A value that a forked child makes again when it first asks for it.

    A fork copies the memory of a process, but only the thread that forked. In the child a thread pool has no
    threads, a session waits for its own for ever, and a lock that another thread held is never released.
    The inherited value is therefore neither used nor released there: releasing it would join its threads.

    Parameters
    ----------
    value : Value
    again : callable
        Makes the value of a child out of the inherited one, of which it may only read plain data. `get`
        raises its errors, and calls it again at the next use.
    """

    def __init__(self, value: Value, again: Callable[[Value], Value]) -> None:
        self._value: Value | None = value
        self._again = again
        self._inherited, self._making = False, threading.Lock()
        _all.add(self)

    def get(self) -> Value:
        """Return the value of this process.

        Raises
        ------
        LookupError
            After `take`.
        """
        if self._inherited:
            with self._making:
                if self._inherited and self._value is not None:  # another thread may have made it meanwhile
                    self._value, self._inherited = self._again(self._value), False
        if self._value is None:
            raise LookupError("the value was taken")
        return self._value

    def take(self) -> Value | None:
        """Remove the value and return it for release; None if this process has made none."""
        value, self._value = self._value, None
        return None if self._inherited else value

    def after_fork(self) -> None:
        """Give up the inherited value. Only for a child that was just forked."""
        self._making = threading.Lock()
        if self._value is not None and not self._inherited:
            # One reference too many, so that its destructors never run. Its memory is the parent's.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._value))
            self._inherited = True


class NoForkWithin:
    """Contexts in which a library holds locks that no child could release: a fork waits until all have ended.

    Use it for short calls, and not to call what may fork.
    """

    def __init__(self) -> None:
        self._changed, self._active = threading.Condition(), 0
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(
                before=self._wait, after_in_parent=self._go_on, after_in_child=self._begin_anew
            )

    def __enter__(self) -> None:
        with self._changed:
            self._active += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def _wait(self) -> None:
        self._changed.acquire()  # so that none begins before the fork
        self._changed.wait_for(lambda: self._active == 0)

    def _go_on(self) -> None:
        self._changed.release()

    def _begin_anew(self) -> None:
        self._changed, self._active = threading.Condition(), 0


_all: WeakSet[PerProcess[Any]] = WeakSet()


def _after_fork() -> None:
    for each in list(_all):
        each.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
