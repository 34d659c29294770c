"""The tiler: pictures to windows and back. Validates and allocates; ``_tiles`` loops.

Pictures are (H, W, C) arrays of uint8, uint16 or float32 with any strides, so gray,
interleaved and planar data (a transposed view) come in without a copy. Windows are
(N, C, h, w) float32; integer samples are mapped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _tiles
from .errors import ArgumentError
from .geometry import Span, Tile, mirrored_reach

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def white(dtype: np.dtype[Any]) -> float:
    """Return the sample value that stands for 1.0: 255, 65535, or 1 for float32."""
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)


def extract(
    picture: NDArray[Any],
    tiles: Sequence[Tile],
    margin: int,
    out: NDArray[np.float32],
    *,
    shape: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Fill ``out[:len(tiles)]`` with windows of a picture, mirrored at its true edges.

    Parameters
    ----------
    picture : (h, w, C) uint8, uint16 or float32
        The whole picture, or the part of it that the windows reach.
    tiles : at most ``len(out)``
    margin : LR pixels around each tile
    out : (N, C, h, w) float32, C-contiguous; h and w are those of a window
    shape : (H, W) of the whole picture, if `picture` is a part
    origin : (y, x) of the part in the whole picture

    Raises
    ------
    ArgumentError
        If an array has the wrong shape or type, or the part lacks a pixel a window needs.
    """
    _check_picture(picture)
    if out.dtype != np.float32 or out.ndim != 4 or not out.flags.c_contiguous:
        raise ArgumentError("windows must be a C-contiguous (N, C, h, w) float32 array")
    if len(tiles) > len(out) or out.shape[1] != picture.shape[2]:
        raise ArgumentError(
            f"{len(tiles)} windows of {picture.shape[2]} channels do not fit into {out.shape}"
        )
    if not tiles:
        return
    whole = (picture.shape[0], picture.shape[1]) if shape is None else shape
    corners = [(t.y.origin - margin, t.x.origin - margin) for t in tiles]
    for axis in (0, 1):
        starts = [c[axis] for c in corners]
        need = mirrored_reach(min(starts), max(starts) + out.shape[2 + axis], whole[axis])
        have = Span(origin[axis], origin[axis] + picture.shape[axis])
        if need.start < have.start or need.stop > have.stop:
            raise ArgumentError(
                f"windows reach {need.start}..{need.stop - 1}, "
                f"the part at hand holds {have.start}..{have.stop - 1}"
            )
    gain = 1.0 / white(picture.dtype)
    _tiles.extract(picture, whole[0], whole[1], origin[0], origin[1], np.array(corners, np.intp), gain, out)


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
        The picture, or the part of it that the cores lie in.
    cut : HR samples of each window's border that lie outside its tile
    origin : (y, x) of the part in the whole picture, LR pixels

    Raises
    ------
    ArgumentError
        If a shape or type is wrong, or a core lies outside its window or `out`.
    """
    _check_picture(out)
    if windows.dtype != np.float32 or windows.ndim != 4 or not windows.flags.c_contiguous:
        raise ArgumentError("windows must be a C-contiguous (N, C, h, w) float32 array")
    if len(tiles) > len(windows) or windows.shape[1] != out.shape[2]:
        raise ArgumentError(
            f"windows {windows.shape} do not hold {len(tiles)} tiles of {out.shape[2]} channels"
        )
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
            if min(core) < 0 or core[axis] + size > windows.shape[2 + axis]:
                raise ArgumentError(f"a core lies outside its window of shape {windows.shape[2:]}")
            if core[2 + axis] + size > out.shape[axis]:
                raise ArgumentError(f"a core lies outside the output of shape {out.shape[:2]}")
    if cores:
        _tiles.stitch(windows, np.array(cores, np.intp), white(out.dtype), out)


def _check_picture(array: NDArray[Any]) -> None:
    if array.ndim != 3 or min(array.shape) < 1:
        raise ArgumentError(f"a picture must be (H, W, C) with no empty side, got shape {array.shape}")
    if array.dtype not in DTYPES or not array.dtype.isnative:
        raise ArgumentError(f"a picture must be uint8, uint16 or float32, got {array.dtype}")
    if any(s % array.itemsize for s in array.strides):
        raise ArgumentError(f"a picture's strides must be whole samples, got {array.strides}")
