"""Overlap reading, computing and writing of a sequence of items, in order and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

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
    interrupted: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Read every item, compute it and write its result.

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
    interrupted : callable
        Returns a context that makes running work end soon. It is entered on Ctrl-C and any other exception
        that is no `Exception`, while running work is waited for.

    Raises
    ------
    Exception
        The first error of any stage, after everything that was started has stopped.
    """
    running: list[Future[int]] = []

    def end(kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with interrupted() if kind is not None and not issubclass(kind, Exception) else nullcontext():
            stop(running)

    def finish(item: Item, result: Result, futures: Sequence[Future[int]]) -> Future[None]:
        for future in futures:
            done(future.result())
        return writer.submit(write, item, result)

    with ExitStack() as stack:
        reader, writer = (stack.enter_context(_worker(name, background)) for name in ("read", "write"))
        stack.push(end)
        writing: Future[None] | None = None
        before: tuple[Item, Result, Sequence[Future[int]]] | None = None
        iterator = iter(items)
        item = next(iterator, None)
        reading = reader.submit(read, item) if item is not None else None
        while item is not None and reading is not None:
            part = reading.result()
            following = next(iterator, None)
            reading = reader.submit(read, following) if following is not None else None
            if writing is not None:
                writing.result()
            result, futures = start(item, part)
            running += futures
            if before is not None:
                writing = finish(*before)
                del running[: len(before[2])]
            before = item, result, futures
            del part, result, futures  # frees them before the next computation
            item = following
        if writing is not None:
            writing.result()  # raises the error of the last but one
        if before is not None:
            finish(*before).result()


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
