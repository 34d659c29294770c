"""Kernels that extract windows from images and stitch the results; the loops are compiled (`_tiles`).

Images are (H, W, C) arrays of uint8, uint16 or float32 with any strides, so gray, interleaved and planar data
(a transposed view) need no copy. Windows are (N, C, h, w) float32 with integer samples mapped to [0, 1].

`enlarge` and `stitch_sum` are MATLAB's bicubic (`image.bicubic.taps`), one axis after the other in float32
and in a fixed order, so that a sample does not depend on the window it comes from.
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
from .geometry import Tile, ceil_to, mirrored_span

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def white(dtype: np.dtype[Any]) -> float:
    """Return the sample value of white: 255, 65535, or 1 for float32."""
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)


def min_alpha(dtype: np.dtype[Any]) -> float:
    """Return the alpha in [0, 1] below which pixels count as transparent: it would be stored as 0."""
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
    image : ndarray, shape (h, w, C), of uint8, uint16 or float32
        The whole image, or the part of it that the windows read.
    tiles : sequence of Tile
        At most ``len(out)``.
    margin : int
        LR pixels around each tile.
    out : ndarray of float32, shape (N, C, h, w), C-contiguous
        Of the height and width of a window.
    shape : (int, int), optional
        Height and width of the whole image, if `image` is a part.
    origin : (int, int)
        Row and column of the part in the whole image.

    Raises
    ------
    ArgumentError
        If an array has the wrong shape or type, or the part lacks a pixel that a window reads.
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
        stop = max(starts) + out.shape[2 + axis]
        _check_part(min(starts), stop, whole[axis], origin[axis], image.shape[axis])
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
    """Fill ``out[:len(tiles)]`` with windows in the type and layout of the image: (N, h, w, C).

    Otherwise as `extract`.

    Raises
    ------
    ArgumentError
        If an array has the wrong shape or type, or the part lacks a pixel that a window reads.
    """
    _check_image(image)
    if out.ndim != 4 or out.dtype != image.dtype or out.shape[3] != image.shape[2]:
        raise ArgumentError(f"windows of {image.dtype} {image.shape} do not fit into {out.dtype} {out.shape}")
    if len(tiles) > len(out):
        raise ArgumentError(f"{len(tiles)} windows do not fit into {out.shape}")
    whole = (image.shape[0], image.shape[1]) if shape is None else shape
    for window, tile in zip(out, tiles, strict=False):
        indices = []
        for axis, piece in enumerate((tile.y, tile.x)):
            start, size, length = piece.origin - margin, out.shape[1 + axis], whole[axis]
            _check_part(start, start + size, length, origin[axis], image.shape[axis])
            indices.append(mirrored(start, size, length) - origin[axis])
        rows, columns = indices
        if all(index[-1] - index[0] == len(index) - 1 for index in indices):  # nothing is mirrored
            np.copyto(window, image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        else:
            np.copyto(window, image[rows[:, None], columns])


def mirrored(start: int, size: int, length: int) -> NDArray[np.int64]:
    """Return the indices of `size` samples from `start` on, for an axis mirrored as in `mirrored_span`."""
    index = np.arange(start, start + size, dtype=np.int64) % (2 * length)
    return np.asarray(np.where(index < length, index, 2 * length - 1 - index), np.int64)


def place(
    windows: NDArray[Any],
    tiles: Sequence[Tile],
    scale: int,
    out: NDArray[Any],
    *,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Copy the core of each window to its place in an image of the same type.

    Parameters
    ----------
    windows : ndarray, shape (N, h, w, C)
        HR windows of `tiles`, in order; further windows are ignored.
    tiles : sequence of Tile
    scale : int
        Scale factor.
    out : ndarray, shape (h, w, C)
        The HR image, or a part of it, changed in place.
    origin : (int, int)
        Row and column of the part in the image, LR pixels.

    Raises
    ------
    ArgumentError
        If a shape or type is wrong, or a core is outside its window or `out`.
    """
    _check_image(out)
    if windows.ndim != 4 or windows.dtype != out.dtype or windows.shape[3] != out.shape[2]:
        raise ArgumentError(
            f"windows {windows.dtype} {windows.shape} do not fit into {out.dtype} {out.shape}"
        )
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
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Convert the core of each window to the type of an image and store it there.

    For integer types samples are clipped to [0, 1] and rounded half to even; float32 is stored unchanged.

    Parameters
    ----------
    windows : ndarray of float32, shape (N, C, h, w), C-contiguous
        HR windows of `tiles`, in order; further windows are ignored.
    tiles : sequence of Tile
    scale : int
        Scale factor.
    out : ndarray, shape (h, w, C), of uint8, uint16 or float32
        The HR image, or a part of it, changed in place.
    origin : (int, int)
        Row and column of the part in the image, LR pixels.

    Raises
    ------
    ArgumentError
        If a shape or type is wrong, or a core is outside its window or `out`.
    """
    _check_image(out)
    _check_windows(windows)
    if len(tiles) > len(windows) or windows.shape[1] != out.shape[2]:
        raise ArgumentError(
            f"windows {windows.shape} do not hold {len(tiles)} tiles of {out.shape[2]} channels"
        )
    cores = cores_of(tiles, scale, windows.shape[2:], out.shape, origin)
    if tiles:
        _tiles.stitch(windows, cores, white(out.dtype), out)


def enlarge(
    windows: NDArray[np.float32], scale: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Enlarge windows by bicubic interpolation without padding, which removes two LR pixels on each side.

    Parameters
    ----------
    windows : ndarray of float32, shape (N, C, h, w), C-contiguous
        LR windows of at least 5 x 5 pixels.
    scale : int
        Scale factor s.
    out : ndarray of float32, shape (N, C, s·(h - 4), s·(w - 4)), C-contiguous, optional

    Returns
    -------
    ndarray
        `out`, or a new array.

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
    """Enlarge windows by bicubic interpolation, add a network's output, and stitch the cores.

    The same as `enlarge`, a sum and `stitch`, one HR row at a time.

    Parameters
    ----------
    windows : ndarray of float32, shape (N, K, h, w), C-contiguous
        LR windows of `tiles`, in order, as `extract` fills them.
    detail : ndarray of float32, shape (N, C or 1, s·(h - 2·margin), s·(w - 2·margin)), C-contiguous
        The output of the network, one HR tile per window. A single channel is added to all channels.
    tiles : sequence of Tile
    scale : int
        Scale factor s.
    out : ndarray, shape (h, w, C), of uint8, uint16 or float32
        The HR image, or a part of it, changed in place.
    margin : int
        LR pixels around the tile on each side of a window, at least 2.
    first : int
        Channel of `windows` that the first channel of `out` is computed from.
    origin : (int, int)
        Row and column of the part in the image, LR pixels.

    Raises
    ------
    ArgumentError
        If a shape or type is wrong, or a core is outside its window or `out`.
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
    """Return (scale, 4) weights: the four of the five of `bicubic.taps` that can be nonzero.

    Phases up to the middle of the LR pixel use the first four, the others the last four.
    """
    if scale < 1:
        raise ArgumentError(f"scale must be a positive whole number, got {scale}")
    late = [2 * p + 1 > scale for p in range(scale)]
    rows = [row[1:] if last else row[:-1] for row, last in zip(taps(scale), late, strict=True)]
    return np.array(rows, np.float32)


def _rows(count: int, width: int) -> NDArray[np.float32]:
    """Return scratch rows aligned to cache lines; unaligned rows are a fifth slower."""
    line = 16  # floats per cache line
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
) -> NDArray[np.intp]:
    """Return (from_y, from_x, to_y, to_x, height, width) of each core in HR samples.

    Parameters
    ----------
    tiles : sequence of Tile
    scale : int
        Scale factor.
    window : tuple of int
        HR height and width of a window.
    shape : tuple of int
        HR height and width of the image, or of a part of it.
    origin : (int, int)
        Row and column of the part in the image, LR pixels.

    Raises
    ------
    ArgumentError
        If a core is outside its window or the image.
    """
    cores = [
        (
            (t.y.core.start - t.y.origin) * scale,
            (t.x.core.start - t.x.origin) * scale,
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
                raise ArgumentError(f"a core is outside its window of shape {tuple(window)}")
            if core[2 + axis] + size > shape[axis]:
                raise ArgumentError(f"a core is outside the output of shape {tuple(shape[:2])}")
    return np.array(cores, np.intp)


def _check_part(start: int, stop: int, length: int, origin: int, size: int) -> None:
    """Raise `ArgumentError` unless a part of an axis has the positions ``[start, stop)``, mirrored."""
    span = mirrored_span(start, stop, length)
    if span.start < origin or span.stop > origin + size:
        raise ArgumentError(
            f"windows read {span.start}..{span.stop - 1}, but the part is {origin}..{origin + size - 1}"
        )


def _check_windows(array: NDArray[Any]) -> None:
    if array.dtype != np.float32 or array.ndim != 4 or not (array.flags.c_contiguous and array.flags.aligned):
        raise ArgumentError("windows must be a C-contiguous, aligned (N, C, h, w) float32 array")


def _check_image(array: NDArray[Any]) -> None:
    if array.ndim != 3 or min(array.shape) < 1:
        raise ArgumentError(f"an image must be (H, W, C) and not empty, got shape {array.shape}")
    if array.dtype not in DTYPES or not array.dtype.isnative:
        raise ArgumentError(f"an image must be uint8, uint16 or float32, got {array.dtype}")
    if not array.flags.aligned:
        raise ArgumentError("samples of an image must be aligned in memory; copy the array")
    if any(s % array.itemsize for s in array.strides):
        raise ArgumentError(f"strides of an image must be multiples of the sample size, got {array.strides}")
