"""Samples that are not data: kept out of the network, and put back afterwards.

Nodata values, what a mask hides, NaN and infinity would spread over all pixels that a network sees them
from. So before a part of an image goes through it, they take the mean of the data around them, as
colour does under what is transparent; of the result, the pixels of an LR pixel that is not data are
copies of it. Pixels further from them than the margin are the same, bit for bit, as without them.

Nor are floats data from 2^120 (1.3e36) on, which writers put where there are none: float32 ends at 2^128, so
that bicubic, luminance or a layer of gain 256 would make infinity of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import color
from .info import ImageInfo

Invalid = NDArray[np.bool_]
HUGE = 2.0**120


def concerns(info: ImageInfo) -> bool:
    """Return whether an image can have samples that are not data, and that matters.

    Classes are copied, data or not: only their mask has to come along.
    """
    if info.layout.color == "classes":
        return info.masked
    return info.masked or info.nodata is not None or info.dtype.kind == "f"


def invalid(part: NDArray[Any], info: ImageInfo, mask: NDArray[np.bool_] | None = None) -> Invalid | None:
    """Tell which samples are not data.

    Parameters
    ----------
    part : (h, w, C) of the image
    info : its nodata value and layout. Of RGB, a pixel is nodata if all three samples are; other
        channels are each on their own. Alpha is always data.
    mask : (h, w), true where the image's own mask says data

    Returns
    -------
    (h, w, C) or None if all are data
    """
    if info.layout.color == "classes":
        return None
    colors = part[:, :, : info.layout.channels - info.layout.alpha]
    found = np.zeros(colors.shape, np.bool_)
    if _has_value(info):
        found |= _is_nodata(colors, info)
        if info.layout.color == "rgb":
            found &= found.all(axis=2, keepdims=True)
    if info.dtype.kind == "f":
        minimum = HUGE if float(np.finfo(info.dtype).max) > HUGE else np.inf
        found |= ~(np.abs(colors) < minimum)  # NaN is not below it either
        if info.layout.color == "rgb":  # colour is computed from all three
            found |= found.any(axis=2, keepdims=True)
    if mask is not None:
        found |= ~mask[:, :, np.newaxis]
    if not found.any():
        return None
    if info.layout.alpha:
        found = np.concatenate([found, np.zeros_like(found[:, :, :1])], axis=2)
    return found


def fill(part: NDArray[Any], invalid: Invalid, info: ImageInfo, radius: int) -> NDArray[Any]:
    """Return a copy in which data go on where there are none.

    What a sample becomes depends on the image no further than `reach` from it, and not on where
    `part` begins and ends; within `reach` of the edges of `part` that is only true of the image's
    own edges.

    Parameters
    ----------
    part, invalid : (h, w, C)
    reach : LR pixels; where no data are in reach, samples become 0
    """
    planes = np.where(invalid, 0, part).transpose(2, 0, 1).astype(np.float32)
    seen = (~invalid).transpose(2, 0, 1).astype(np.float32)
    # Colour has one weight for its channels, bands have each their own: one after the other, so that
    # memory does not grow with their number.
    groups = [slice(0, len(planes))] if info.layout.color == "rgb" else _singles(len(planes))
    out = part.copy()
    around = ((0, 0), (0, 0), (radius, radius), (radius, radius))
    for group in groups:
        holes = invalid[:, :, group]
        if not holes.any():
            continue
        weighted = np.concatenate([planes[group], seen[group][:1]])[np.newaxis]
        filled = color.fill(np.pad(weighted, around), radius)[0].transpose(1, 2, 0)
        if info.dtype.kind != "f":
            filled = np.rint(filled)
        # Channels one at a time: a boolean index of all three would be a copy of both.
        np.copyto(out[:, :, group], filled.astype(info.dtype), where=holes)
    return out


def put_back(
    out: NDArray[Any], part: NDArray[Any], invalid: Invalid | None, info: ImageInfo, scale: int
) -> None:
    """Give the result's samples that are not data their own values, and take those from all others.

    Parameters
    ----------
    out : (s·h, s·w, C), changed in place
    part, invalid : (h, w, C) as they were before `fill`; None if all are data
    """
    if _has_value(info) and info.layout.color != "classes":
        _step_aside(out, info)
    if invalid is None:
        return
    for c in range(out.shape[2]):
        if invalid[:, :, c].any():
            np.copyto(out[:, :, c], enlarge(part[:, :, c], scale), where=enlarge(invalid[:, :, c], scale))


def enlarge(plane: NDArray[Any], scale: int) -> NDArray[Any]:
    """Return an (h, w) array with each element `scale` times on both axes."""
    return plane.repeat(scale, axis=0).repeat(scale, axis=1)


def _has_value(info: ImageInfo) -> bool:
    return info.nodata is not None and not np.isnan(info.nodata)


def _is_nodata(samples: NDArray[Any], info: ImageInfo) -> Invalid:
    """Tell which samples have the nodata value."""
    minimum, maximum = _range(info)
    if minimum == maximum:
        return np.asarray(samples == maximum)
    return np.asarray((samples >= minimum) & (samples <= maximum))


def _range(info: ImageInfo) -> tuple[Any, Any]:
    """Return the least and the largest sample that is the nodata value; floats hold the nearest."""
    value = info.nodata or 0
    if info.dtype.kind != "f":
        whole = int(value) if np.isfinite(value) and value == int(value) else value
        return whole, whole
    with np.errstate(over="ignore"):
        minimum, maximum = (info.dtype.type(value + way * info.nodata_within) for way in (-1, 1))
    return minimum, maximum


def _step_aside(out: NDArray[Any], info: ImageInfo) -> None:
    """Move computed samples off the nodata value to the next one beside it: they are data."""
    minimum, maximum = _range(info)
    colors = out[:, :, : info.layout.channels - info.layout.alpha]
    taken = _is_nodata(colors, info)
    if info.layout.color == "rgb":
        taken = np.asarray(taken.all(axis=2, keepdims=True))
    if not taken.any():
        return
    if info.dtype.kind == "f":
        near, to = (minimum, 0) if maximum > 0 else (maximum, 0 if maximum else 1)
        step = np.nextafter(near, info.dtype.type(to))
    else:
        step = maximum + 1 if maximum < np.iinfo(info.dtype).max else maximum - 1
    np.copyto(colors, info.dtype.type(step), where=taken)


def _singles(count: int) -> list[slice]:
    return [slice(k, k + 1) for k in range(count)]
