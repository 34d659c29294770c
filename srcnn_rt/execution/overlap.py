"""Overlap reading, computing and writing of a sequence of items, in order and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

from ..errors import ClosedError, OutOfMemoryError
from .ending import Ending

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")


def overlap(
    items: Iterable[Item],
    read: Callable[[Item], Part],
    start: Callable[[Item, Part], tuple[Result, Sequence[Future[int]]]],
    write: Callable[[Item, Result], None],
    done: Callable[[int], None] = lambda count: None,
    *,
    background: bool = True,
    ending: Ending | None = None,
    interrupt: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Read every item, compute it and write its result, a step whenever the next value is requested.

    Reading is one item ahead and writing one item behind. The work on item k + 1 starts before that on
    item k is finished, so that no worker idles at the end of an item. At most two results exist at once:
    result k is written before `start` is called for item k + 2.

    Parameters
    ----------
    items : iterable
    read : callable
        Returns the input of an item. It runs in a thread of its own.
    start : callable
        Starts the work on an item and returns at once: the result, and the futures that fill it.
    write : callable
        Writes the filled result of an item. It runs in a thread of its own.
    done : callable
        Called in the caller's thread with the value of each future, in their order.
    background : bool
        False runs `read` and `write` in the caller's thread, which is faster for images in memory.
    ending : Ending, optional
        Whether to end before all is done.
    interrupt : callable
        Makes the running work end soon. It is called after any error, and when the generator is closed.

    Yields
    ------
    None
        Once for each item, after its result was written; the next one or two are computed meanwhile.

    Raises
    ------
    Exception
        The first error of any stage, after everything that was started has stopped.
    """
    ending = ending or Ending()
    running: list[Future[int]] = []

    def end(kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if ending.inherited:
            return
        if kind is not None:
            interrupt()
        stop(running)

    def finish(item: Item, result: Result, futures: Sequence[Future[int]]) -> Future[None]:
        for future in futures:
            done(ending.result(future))
        return submit(writer, write, item, result)

    with ExitStack() as stack:
        reader, writer = (stack.enter_context(_worker(name, background)) for name in ("read", "write"))
        stack.push(end)
        stack.enter_context(ending.calling(interrupt))
        writing: Future[None] | None = None
        before: tuple[Item, Result, Sequence[Future[int]]] | None = None
        iterator = iter(items)
        item = next(iterator, None)
        reading = submit(reader, read, item) if item is not None else None
        while item is not None and reading is not None:
            part = ending.result(reading)
            following = next(iterator, None)
            reading = submit(reader, read, following) if following is not None else None
            written = writing is not None
            if writing is not None:
                ending.result(writing)
            result, futures = start(item, part)
            running += futures
            if written:
                yield
            if before is not None:
                writing = finish(*before)
                del running[: len(before[2])]
            before = item, result, futures
            del part, result, futures  # frees them before the next computation
            item = following
        if writing is not None:
            ending.result(writing)  # raises the error of the last but one
            yield
        if before is not None:
            ending.result(finish(*before))
            yield


def submit(pool: Executor, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
    """Submit a call to a pool.

    Raises
    ------
    ClosedError
        If the pool takes no more.
    OutOfMemoryError
        If the system starts no more threads.
    """
    try:
        return pool.submit(fn, *args)
    except RuntimeError as error:
        if "schedule" in str(error):
            raise ClosedError(f"the engine is closed: {error}") from error
        raise OutOfMemoryError(f"no thread can be started: {error}") from error


class _Inline(Executor):
    """Run submitted functions at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # raised by Future.result
            future.set_exception(error)
        return future


def _worker(name: str, background: bool) -> Executor:
    return ThreadPoolExecutor(1, f"srcnn-{name}") if background else _Inline()


def stop(futures: Sequence[Future[int]]) -> None:
    """Cancel futures that have not started and wait for those that have."""
    for future in futures:
        future.cancel()
    for future in futures:
        if not future.cancelled():
            future.exception()
