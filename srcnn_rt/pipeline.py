"""Read ahead and write behind while the network runs: three stages, bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")


def overlap(
    items: Iterable[Item],
    read: Callable[[Item], Part],
    compute: Callable[[Item, Part], Result],
    write: Callable[[Item, Result], None],
) -> None:
    """Do ``write(item, compute(item, read(item)))`` for every item, in order.

    `read` runs in one thread, one item ahead; `write` in another, one item behind;
    `compute` in the caller's. So at most two parts and two results are alive: result k is
    written before `compute` is called for item k + 2. The first error of any stage is
    raised here, after the other stages have stopped.
    """
    with ThreadPoolExecutor(1, "srcnn-read") as reader, ThreadPoolExecutor(1, "srcnn-write") as writer:
        writing: Future[None] | None = None
        iterator = iter(items)
        item = next(iterator, None)
        reading = reader.submit(read, item) if item is not None else None
        while item is not None and reading is not None:
            part = reading.result()
            following = next(iterator, None)
            reading = reader.submit(read, following) if following is not None else None
            result = compute(item, part)
            if writing is not None:
                writing.result()
            writing = writer.submit(write, item, result)
            del part, result  # or they would live on through the next computation
            item = following
        if writing is not None:
            writing.result()
