"""Smaller levels of an image in chunks, each made from the one above, chunk by chunk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 256  # levels end with the first whose smaller side is below this
THREADS = 2  # one reads and packs while the other computes


def level_sizes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (H, W) of every level, the first included; odd sizes are rounded up."""
    sizes = [shape]
    while min(sizes[-1]) >= MIN_SIDE:
        h, w = sizes[-1]
        sizes.append((-(-h // 2), -(-w // 2)))
    return sizes


def build(above: Any, level: Any, axes: str, *, classes: bool = False) -> None:
    """Fill a level with the means of 2 x 2 pixels of the one above; of classes with the first of them.

    A chunk is written whole and once, and no more than four chunks of `above` are held for each
    of a few threads.

    Parameters
    ----------
    above, level : Zarr arrays
    axes : letters of their axes, y and x among them
    """
    chunk = level.chunks
    steps = [
        range(0, n, c) if a in "yx" else range(n) for a, n, c in zip(axes, level.shape, chunk, strict=True)
    ]

    def one(starts: tuple[int, ...]) -> None:
        read: list[slice | int] = []
        write: list[slice | int] = []
        for a, start, size, n in zip(axes, starts, chunk, level.shape, strict=True):
            if a in "yx":
                stop = min(start + size, n)
                write.append(slice(start, stop))
                read.append(slice(2 * start, 2 * stop))  # past an odd end it is cut off
            else:
                write.append(start)
                read.append(start)
        plane = np.asarray(above[tuple(read)])
        level[tuple(write)] = plane[::2, ::2] if classes else halved(plane)

    with ThreadPoolExecutor(THREADS, "srcnn-pyramid") as pool:
        places = itertools.product(*steps)
        # A few at a time: an image may have more chunks than there is room for their futures.
        while batch := list(itertools.islice(places, 16 * THREADS)):
            for future in [pool.submit(one, starts) for starts in batch]:
                future.result()


def halved(plane: NDArray[Any]) -> NDArray[Any]:
    """Return the means of 2 x 2 samples of an (h, w) array, of its type.

    Whole numbers are rounded half to even. The last row or column of an odd size counts twice.
    NaN is left out of a mean, and is the result where nothing else is there.
    """
    h, w = plane.shape
    if h % 2 or w % 2:
        plane = np.pad(plane, ((0, h % 2), (0, w % 2)), mode="edge")
    corners = [plane[i::2, j::2] for i in (0, 1) for j in (0, 1)]
    if plane.dtype.kind != "f":
        # Four of them need two bits more; a float64 then holds the sum and its quarter.
        total: NDArray[Any] = corners[0].astype(np.int32 if plane.dtype.itemsize < 4 else np.int64)
        for corner in corners[1:]:
            np.add(total, corner, out=total, casting="unsafe")
        return np.asarray(np.rint(total * 0.25), plane.dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity is NaN, as it should be
        mean = np.add.reduce([corner * np.float32(0.25) for corner in corners])
    lost = np.isnan(mean)
    if lost.any():
        values = np.stack([corner[lost] for corner in corners]).astype(np.float64)
        there = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            mean[lost] = np.where(there, values, 0).sum(0) / there.sum(0)
    return np.asarray(mean, plane.dtype)


def flush(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Flush files in a folder, all if None, and the folders that they are in, to the disk."""
    if files is None:
        files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    folders = {folder}
    for path in files:
        _sync(path)
        folders.update(p for p in path.parents if p.is_relative_to(folder))
    for path in folders:
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
