"""Read ahead, compute with several workers, write behind: bounded, in order."""

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
    """Read every item, start the work on it, and write it when that work is done; in order.

    `start` gives work to threads of its own and returns at once: what is to be written, and
    the futures that fill it. The work on item k + 1 is started before that on item k is done,
    so that no worker waits for the last of an item. `read` runs in one thread, one item
    ahead; `write` in another, one item behind. So at most two results are being filled or
    written: result k is written before `start` is called for item k + 2. The first error
    of any stage is raised here, after all that was started has stopped. `done` is called here
    with what each future gives, in their order.

    Where `background` is false `read` and `write` run in the caller's thread: right for images in
    memory, of which nothing has to be waited for. On Ctrl-C, or whatever else is no `Exception`, running
    work is waited for within `interrupted`, which should make it end soon.
    """
    running: list[Future[int]] = []
    with ExitStack() as stack:
        reader, writer = (stack.enter_context(_worker(name, background)) for name in ("read", "write"))
        stack.push(lambda kind, error, trace: _end(kind, running, interrupted))
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
                writing = _finish(before, writer, write, done)
                del running[: len(before[2])]
            before = item, result, futures
            del part, result, futures  # or they would live on through the next computation
            item = following
        if writing is not None:
            writing.result()  # the last but one may have failed where the last does not
        if before is not None:
            _finish(before, writer, write, done).result()


class _Inline(Executor):
    """Runs what it is given at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # it is raised where the result is asked for
            future.set_exception(error)
        return future


def _worker(name: str, background: bool) -> Executor:
    return ThreadPoolExecutor(1, f"srcnn-{name}") if background else _Inline()


def stop(futures: Sequence[Future[int]]) -> None:
    """Take back what has not begun and wait for what has."""
    for future in futures:
        future.cancel()
    for future in futures:
        if not future.cancelled():
            future.exception()


def _end(
    kind: type[BaseException] | None,
    running: Sequence[Future[int]],
    interrupted: Callable[[], AbstractContextManager[None]],
) -> None:
    with interrupted() if kind is not None and not issubclass(kind, Exception) else nullcontext():
        stop(running)


def _finish(
    before: tuple[Item, Result, Sequence[Future[int]]],
    writer: Executor,
    write: Callable[[Item, Result], None],
    done: Callable[[int], None],
) -> Future[None]:
    item, result, futures = before
    for future in futures:
        done(future.result())
    return writer.submit(write, item, result)
