"""Resolution pyramids: each level is computed from the level above, chunk by chunk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 256  # the last level is the first whose shorter side is below this
THREADS = 2  # one reads and encodes while the other computes


def level_sizes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width of every level, including the first; odd sizes are rounded up."""
    sizes = [shape]
    while min(sizes[-1]) >= MIN_SIDE:
        h, w = sizes[-1]
        sizes.append((-(-h // 2), -(-w // 2)))
    return sizes


def build(above: Any, level: Any, axes: str, *, classes: bool = False) -> None:
    """Fill a level with the means of 2 x 2 pixels of the level above.

    Every chunk is written whole and once. Each of a few threads holds at most four chunks of `above`.

    Parameters
    ----------
    above, level : zarr.Array
        The arrays.
    axes : str
        Letters of their axes, including y and x.
    classes : bool
        Take the first of the four pixels instead of their mean.
    """

    def build_chunk(starts: tuple[int, ...]) -> None:
        write = tuple(
            slice(start, min(start + size, n)) if a in "yx" else start
            for a, start, size, n in zip(axes, starts, level.chunks, level.shape, strict=True)
        )
        # The end is clipped if the size is odd.
        read = tuple(slice(2 * w.start, 2 * w.stop) if isinstance(w, slice) else w for w in write)
        plane = np.asarray(above[read])
        level[write] = plane[::2, ::2] if classes else halved(plane)

    starts = itertools.product(*(
        range(0, n, c if a in "yx" else 1) for a, n, c in zip(axes, level.shape, level.chunks, strict=True)
    ))  # fmt: skip
    with ThreadPoolExecutor(THREADS, "srcnn-pyramid") as pool:
        # In batches, because futures for all chunks of a large image would take too much memory.
        while batch := list(itertools.islice(starts, 16 * THREADS)):
            list(pool.map(build_chunk, batch))


def halved(plane: NDArray[Any]) -> NDArray[Any]:
    """Return the means of 2 x 2 samples, in the type of the samples.

    Integers are rounded half to even. The last row or column of an odd size counts twice. NaN is ignored,
    unless all four samples are NaN.

    Parameters
    ----------
    plane : ndarray, shape (h, w)
        Any of `SAMPLE_TYPES`.
    """
    h, w = plane.shape
    if h % 2 or w % 2:
        plane = np.pad(plane, ((0, h % 2), (0, w % 2)), mode="edge")
    corners = [plane[i::2, j::2] for i in (0, 1) for j in (0, 1)]
    if plane.dtype.kind != "f":
        # The sum needs two more bits. A float64 holds it and its quarter exactly.
        total: NDArray[Any] = corners[0].astype(np.int32 if plane.dtype.itemsize < 4 else np.int64)
        for corner in corners[1:]:
            np.add(total, corner, out=total, casting="unsafe")
        return np.asarray(np.rint(total * 0.25), plane.dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # infinity - infinity is NaN, as it should be
        mean = np.add.reduce([corner * np.float32(0.25) for corner in corners])
    missing = np.isnan(mean)
    if missing.any():
        values = np.stack([corner[missing] for corner in corners]).astype(np.float64)
        valid = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            mean[missing] = np.where(valid, values, 0).sum(0) / valid.sum(0)
    return np.asarray(mean, plane.dtype)


def flush(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Flush files in a folder, by default all, and the folders that contain them to the disk."""
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
