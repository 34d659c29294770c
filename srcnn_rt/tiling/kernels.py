"""The tiler: images to windows and back. Validates and allocates; ``_tiles`` loops.

Images are (H, W, C) arrays of uint8, uint16 or float32 with any strides, so gray,
interleaved and planar data (a transposed view) come in without a copy. Windows are
(N, C, h, w) float32; integer samples are mapped to [0, 1].

`enlarge` and `stitch_sum` are MATLAB's bicubic (`bicubic.taps`), one axis after the other in
float32 and in one order, so that a sample does not depend on the window it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _tiles
from ..errors import ArgumentError
from ..image.bicubic import RADIUS, taps
from .geometry import Span, Tile, ceil_to, mirrored_span

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def white(dtype: np.dtype[Any]) -> float:
    """Return the sample value that stands for 1.0: 255, 65535, or 1 for float32."""
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)


def min_alpha(dtype: np.dtype[Any]) -> float:
    """Return the alpha in [0, 1] below which it is stored as 0; of float32, below which it says nothing."""
    return 1e-6 if dtype.kind == "f" else 0.5 / white(dtype)


def extract(
    image: NDArray[Any],
    tiles: Sequence[Tile],
    margin: int,
    out: NDArray[np.float32],
    *,
    shape: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Fill ``out[:len(tiles)]`` with windows of an image, mirrored at its true edges.

    Parameters
    ----------
    image : (h, w, C) uint8, uint16 or float32
        The whole image, or the part of it that the windows reach.
    tiles : at most ``len(out)``
    margin : LR pixels around each tile
    out : (N, C, h, w) float32, C-contiguous; h and w are those of a window
    shape : (H, W) of the whole image, if `image` is a part
    origin : (y, x) of the part in the whole image

    Raises
    ------
    ArgumentError
        If an array has the wrong shape or type, or the part lacks a pixel a window needs.
    """
    _check_image(image)
    _check_windows(out)
    if len(tiles) > len(out) or out.shape[1] != image.shape[2]:
        raise ArgumentError(f"{len(tiles)} windows of {image.shape[2]} channels do not fit into {out.shape}")
    if not tiles:
        return
    whole = (image.shape[0], image.shape[1]) if shape is None else shape
    corners = [(t.y.origin - margin, t.x.origin - margin) for t in tiles]
    for axis in (0, 1):
        starts = [c[axis] for c in corners]
        need = mirrored_span(min(starts), max(starts) + out.shape[2 + axis], whole[axis])
        have = Span(origin[axis], origin[axis] + image.shape[axis])
        if need.start < have.start or need.stop > have.stop:
            raise ArgumentError(
                f"windows reach {need.start}..{need.stop - 1}, "
                f"the part at hand holds {have.start}..{have.stop - 1}"
            )
    gain = 1.0 / white(image.dtype)
    _tiles.extract(image, whole[0], whole[1], origin[0], origin[1], np.array(corners, np.intp), gain, out)


def cut(
    image: NDArray[Any],
    tiles: Sequence[Tile],
    margin: int,
    out: NDArray[Any],
    *,
    shape: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Fill ``out[:len(tiles)]`` with windows as they stand in the image, mirrored at its true edges.

    As `extract`, but interleaved and of the image's own type: (N, h, w, C).

    Raises
    ------
    ArgumentError
        If an array has the wrong shape or type, or the part lacks a pixel a window needs.
    """
    _check_image(image)
    if out.ndim != 4 or out.dtype != image.dtype or out.shape[3] != image.shape[2]:
        raise ArgumentError(f"windows of {image.dtype} {image.shape} do not go into {out.dtype} {out.shape}")
    if len(tiles) > len(out):
        raise ArgumentError(f"{len(tiles)} windows do not fit into {out.shape}")
    whole = (image.shape[0], image.shape[1]) if shape is None else shape
    for window, tile in zip(out, tiles, strict=False):
        corner = (tile.y.origin - margin, tile.x.origin - margin)
        places = []
        for axis in (0, 1):
            start, size, length = corner[axis], out.shape[1 + axis], whole[axis]
            need = mirrored_span(start, start + size, length)
            have = Span(origin[axis], origin[axis] + image.shape[axis])
            if need.start < have.start or need.stop > have.stop:
                raise ArgumentError(
                    f"a window reaches {need.start}..{need.stop - 1}, "
                    f"the part at hand holds {have.start}..{have.stop - 1}"
                )
            places.append(mirrored(start, size, length) - origin[axis])
        rows, columns = places
        if all(place[-1] - place[0] == len(place) - 1 for place in places):  # nothing is mirrored
            np.copyto(window, image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        else:
            np.copyto(window, image[rows[:, None], columns])


def mirrored(start: int, size: int, length: int) -> NDArray[np.int64]:
    """Return where in an image's axis positions ``start … start + size - 1`` come from.

    Symmetrically and endlessly, as `mirrored_reach` says.
    """
    place = np.arange(start, start + size, dtype=np.int64) % (2 * length)
    return np.asarray(np.where(place < length, place, 2 * length - 1 - place), np.int64)


def place(
    windows: NDArray[Any],
    tiles: Sequence[Tile],
    scale: int,
    out: NDArray[Any],
    *,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Put each window's core into its place; the samples stay as they are.

    Parameters
    ----------
    windows : (N, h, w, C) of the type of `out`, HR, of `tiles`, in order; later windows are ignored
    scale : HR pixels an LR pixel
    out : (h, w, C), the image, or the part of it that the cores lie in
    origin : (y, x) of the part in the whole image, LR pixels

    Raises
    ------
    ArgumentError
        If a shape or type is wrong, or a core lies outside its window or `out`.
    """
    _check_image(out)
    if windows.ndim != 4 or windows.dtype != out.dtype or windows.shape[3] != out.shape[2]:
        raise ArgumentError(f"windows {windows.dtype} {windows.shape} do not go into {out.dtype} {out.shape}")
    if len(tiles) > len(windows):
        raise ArgumentError(f"windows {windows.shape} do not hold {len(tiles)} tiles")
    for window, core in zip(
        windows, cores_of(tiles, scale, windows.shape[1:3], out.shape, origin), strict=False
    ):
        y, x, to_y, to_x, h, w = core
        np.copyto(out[to_y : to_y + h, to_x : to_x + w], window[y : y + h, x : x + w])


def stitch(
    windows: NDArray[np.float32],
    tiles: Sequence[Tile],
    scale: int,
    out: NDArray[Any],
    *,
    cut: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Put each window's core into its place, clipped, rounded half to even and converted.

    Integer types are clipped to [0, 1] of full scale; float32 is stored as it is.

    Parameters
    ----------
    windows : (N, C, h, w) float32, HR
        What the network returned for `tiles`, in order; later windows are ignored.
    scale : HR pixels an LR pixel
    out : (h, w, C) uint8, uint16 or float32
        The image, or the part of it that the cores lie in.
    cut : HR samples of each window's border that lie outside its tile
    origin : (y, x) of the part in the whole image, LR pixels

    Raises
    ------
    ArgumentError
        If a shape or type is wrong, or a core lies outside its window or `out`.
    """
    _check_image(out)
    _check_windows(windows)
    if len(tiles) > len(windows) or windows.shape[1] != out.shape[2]:
        raise ArgumentError(
            f"windows {windows.shape} do not hold {len(tiles)} tiles of {out.shape[2]} channels"
        )
    cores = cores_of(tiles, scale, windows.shape[2:], out.shape, origin, cut)
    if tiles:
        _tiles.stitch(windows, cores, white(out.dtype), out)


def enlarge(
    windows: NDArray[np.float32], scale: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Enlarge windows by bicubic, without a border: two LR pixels are lost on each side.

    Parameters
    ----------
    windows : (N, C, h, w) float32, C-contiguous, LR; h and w at least 5
    scale : HR pixels an LR pixel
    out : (N, C, s·(h - 4), s·(w - 4)) float32, C-contiguous, optional
        Every element is written.

    Returns
    -------
    `out`, or a new array

    Raises
    ------
    ArgumentError
        If a shape, a type or the scale is wrong.
    """
    _check_windows(windows)
    weights = _phases(scale)
    n, c, h, w = windows.shape
    if min(h, w) <= 2 * RADIUS:
        raise ArgumentError(f"bicubic needs windows of at least 5 x 5 LR pixels, got {h} x {w}")
    shape = (n, c, (h - 2 * RADIUS) * scale, (w - 2 * RADIUS) * scale)
    if out is None:
        out = np.empty(shape, np.float32)
    _check_windows(out)
    if out.shape != shape:
        raise ArgumentError(f"windows {windows.shape} enlarge to {shape} at x{scale}, not to {out.shape}")
    _tiles.enlarge(windows, scale, weights, _rows(4, shape[3]), out)
    return out


def stitch_sum(
    windows: NDArray[np.float32],
    detail: NDArray[np.float32],
    tiles: Sequence[Tile],
    scale: int,
    out: NDArray[Any],
    *,
    margin: int,
    first: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Enlarge windows by bicubic, add what a network adds to that, and stitch the cores.

    The same as `enlarge`, a sum and `stitch`, one HR row at a time.

    Parameters
    ----------
    windows : (N, K, h, w) float32, C-contiguous, LR, of `tiles`, in order, as `extract` fills them
    detail : (N, C or 1, s·(h - 2·margin), s·(w - 2·margin)) float32, C-contiguous, HR
        What the network returned for `tiles`: each window is one tile, without a border. One channel is
        added to all of them.
    scale : HR pixels an LR pixel
    out : (h, w, C) uint8, uint16 or float32
        The image, or the part of it that the cores lie in.
    margin : LR pixels of each window around its tile, at least 2
    first : the channel of the windows that the first of `out` is made of; the others follow it
    origin : (y, x) of the part in the whole image, LR pixels

    Raises
    ------
    ArgumentError
        If a shape or type is wrong, or a core lies outside its window or `out`.
    """
    _check_image(out)
    _check_windows(windows)
    _check_windows(detail)
    weights = _phases(scale)
    (n, k, h, w), c = windows.shape, out.shape[2]
    if not 0 <= first <= k - c or detail.shape[1] not in (1, c) or len(tiles) > min(n, len(detail)):
        raise ArgumentError(
            f"windows {windows.shape} from channel {first} and detail {detail.shape} "
            f"do not make {len(tiles)} tiles of {c} channels"
        )
    if margin < RADIUS:
        raise ArgumentError(f"margin must be at least {RADIUS} LR pixels for bicubic, got {margin}")
    shape = ((h - 2 * margin) * scale, (w - 2 * margin) * scale)
    if detail.shape[2:] != shape:
        raise ArgumentError(
            f"windows {windows.shape} with a margin of {margin} go with detail "
            f"(N, C, {shape[0]}, {shape[1]}) at x{scale}, not with {detail.shape}"
        )
    cores = cores_of(tiles, scale, shape, out.shape, origin)
    if tiles:
        _tiles.stitch_sum(
            windows,
            detail,
            cores,
            first,
            margin - RADIUS,
            scale,
            weights,
            _rows(5 * c, shape[1]),
            white(out.dtype),
            out,
        )


@cache
def _phases(scale: int) -> NDArray[np.float32]:
    """Return the (scale, 4) weights of each phase that the loops use, of `bicubic.taps`' five.

    Phases up to the middle of the LR pixel read the first four, the others the last four.
    """
    if scale < 1:
        raise ArgumentError(f"scale must be a positive whole number, got {scale}")
    late = [2 * p + 1 > scale for p in range(scale)]
    rows = [row[1:] if last else row[:-1] for row, last in zip(taps(scale), late, strict=True)]
    return np.array(rows, np.float32)


def _rows(count: int, width: int) -> NDArray[np.float32]:
    """Return scratch rows that begin at cache lines: unaligned ones cost a fifth of the speed."""
    line = 16  # floats
    width = ceil_to(width, line)
    flat = np.empty(count * width + line, np.float32)
    start = -flat.ctypes.data % (4 * line) // 4
    return flat[start : start + count * width].reshape(count, width)


def cores_of(
    tiles: Sequence[Tile],
    scale: int,
    window: tuple[int, ...],
    shape: tuple[int, ...],
    origin: tuple[int, int],
    cut: int = 0,
) -> NDArray[np.intp]:
    """Return (from_y, from_x, to_y, to_x, height, width) of each core, HR samples, checked.

    Parameters
    ----------
    window : (h, w) of a window, HR
    shape : (h, w) of the part of the result that the cores lie in
    origin : (y, x) of that part, LR
    cut : HR samples of each window's border that lie outside its tile
    """
    cores = [
        (
            (t.y.core.start - t.y.origin) * scale + cut,
            (t.x.core.start - t.x.origin) * scale + cut,
            (t.y.core.start - origin[0]) * scale,
            (t.x.core.start - origin[1]) * scale,
            t.y.core.size * scale,
            t.x.core.size * scale,
        )
        for t in tiles
    ]
    for core in cores:
        for axis in (0, 1):
            size = core[4 + axis]
            if min(core) < 0 or core[axis] + size > window[axis]:
                raise ArgumentError(f"a core lies outside its window of shape {tuple(window)}")
            if core[2 + axis] + size > shape[axis]:
                raise ArgumentError(f"a core lies outside the output of shape {tuple(shape[:2])}")
    return np.array(cores, np.intp)


def _check_windows(array: NDArray[Any]) -> None:
    if array.dtype != np.float32 or array.ndim != 4 or not (array.flags.c_contiguous and array.flags.aligned):
        raise ArgumentError("windows must be a C-contiguous, aligned (N, C, h, w) float32 array")


def _check_image(array: NDArray[Any]) -> None:
    if array.ndim != 3 or min(array.shape) < 1:
        raise ArgumentError(f"an image must be (H, W, C) with no empty side, got shape {array.shape}")
    if array.dtype not in DTYPES or not array.dtype.isnative:
        raise ArgumentError(f"an image must be uint8, uint16 or float32, got {array.dtype}")
    if not array.flags.aligned:
        raise ArgumentError("an image's samples must be aligned in memory; copy it")
    if any(s % array.itemsize for s in array.strides):
        raise ArgumentError(f"an image's strides must be whole samples, got {array.strides}")
