"""Invalid samples: they are filled before the network runs and restored in its result.

Nodata values, masked pixels, NaN and infinity would spread to all pixels whose receptive field has them. They
are therefore replaced by the mean of the valid samples around them, as colour under transparent pixels is.
In the result, the s x s pixels of an invalid LR pixel are copies of it. Pixels farther from it than the
margin are bit for bit the same as without it.

Floats from 2^120 (1.3e36) on are invalid too: they serve as fill values, and bicubic, luminance or a layer
with a gain of 256 would overflow float32, which ends at 2^128.
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
    """Return whether an image can have invalid samples, which must be handled.

    In class rasters only a mask matters, because all samples are copied.
    """
    if info.layout.color == "classes":
        return info.masked
    return info.masked or info.nodata is not None or info.dtype.kind == "f"


def invalid(part: NDArray[Any], info: ImageInfo, mask: NDArray[np.bool_] | None = None) -> Invalid | None:
    """Return which samples are invalid.

    Parameters
    ----------
    part : ndarray, shape (h, w, C)
        A part of the image.
    info : ImageInfo
        Gives the nodata value and the layout. An RGB pixel is nodata if all three samples have the value;
        bands are independent. Alpha is always valid.
    mask : ndarray of bool, shape (h, w) or (h, w, C), optional
        True where the mask of the image says valid. An RGB pixel is valid if all three samples are.

    Returns
    -------
    ndarray of bool, shape (h, w, C), or None
        None if all samples are valid.
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
        found |= ~(np.abs(colors) < minimum)  # this includes NaN
        if info.layout.color == "rgb":  # luminance depends on all three
            found |= found.any(axis=2, keepdims=True)
    if mask is not None:
        masked = ~mask.reshape(*mask.shape[:2], -1)
        found |= masked[:, :, : part.shape[2] - info.layout.alpha]
        if info.layout.color == "rgb":
            found |= found.any(axis=2, keepdims=True)
    if not found.any():
        return None
    if info.layout.alpha:
        found = np.concatenate([found, np.zeros_like(found[:, :, :1])], axis=2)
    return found


def fill(part: NDArray[Any], invalid: Invalid, info: ImageInfo, radius: int) -> NDArray[Any]:
    """Return a copy with invalid samples replaced by the mean of valid ones around them; see `color.fill`.

    The result does not depend on the extent of `part`, except within `radius` of its edges where these are
    not edges of the image.

    Parameters
    ----------
    part : ndarray, shape (h, w, C)
    invalid : ndarray of bool, shape (h, w, C)
    info : ImageInfo
    radius : int
        LR pixels of the neighbourhood on each side; samples without valid neighbours become 0.
    """
    planes = np.where(invalid, 0, part).transpose(2, 0, 1).astype(np.float32)
    seen = (~invalid).transpose(2, 0, 1).astype(np.float32)
    # RGB channels share their invalid pixels. Bands do not; one at a time, memory does not grow with their
    # number.
    rgb = info.layout.color == "rgb"
    groups = [slice(0, len(planes))] if rgb else [slice(k, k + 1) for k in range(len(planes))]
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
        # A boolean index would copy both arrays.
        np.copyto(out[:, :, group], filled.astype(info.dtype), where=holes)
    return out


def put_back(
    out: NDArray[Any], part: NDArray[Any], invalid: Invalid | None, info: ImageInfo, scale: int
) -> None:
    """Restore invalid samples in the result, and move all other samples off the nodata value.

    Parameters
    ----------
    out : ndarray, shape (s·h, s·w, C)
        Changed in place.
    part : ndarray, shape (h, w, C)
        The LR samples before `fill`.
    invalid : ndarray of bool, shape (h, w, C), or None
        None if all samples are valid.
    info : ImageInfo
    scale : int
        Scale factor s.
    """
    if _has_value(info) and info.layout.color != "classes":
        _avoid_nodata(out, info)
    if invalid is None:
        return
    for c in range(out.shape[2]):
        if invalid[:, :, c].any():
            np.copyto(out[:, :, c], enlarge(part[:, :, c], scale), where=enlarge(invalid[:, :, c], scale))


def enlarge(plane: NDArray[Any], scale: int) -> NDArray[Any]:
    """Return an (h, w) array with each element repeated `scale` times on both axes."""
    return plane.repeat(scale, axis=0).repeat(scale, axis=1)


def _has_value(info: ImageInfo) -> bool:
    return info.nodata is not None and not np.isnan(info.nodata)


def _is_nodata(samples: NDArray[Any], info: ImageInfo) -> Invalid:
    """Return which samples have the nodata value."""
    minimum, maximum = _range(info)
    if minimum == maximum:
        return np.asarray(samples == maximum)
    return np.asarray((samples >= minimum) & (samples <= maximum))


def _range(info: ImageInfo) -> tuple[Any, Any]:
    """Return the smallest and the largest sample that count as the nodata value."""
    value = info.nodata or 0
    if info.dtype.kind != "f":
        whole = int(value) if np.isfinite(value) and value == int(value) else value
        return whole, whole
    with np.errstate(over="ignore"):
        minimum, maximum = (info.dtype.type(value + way * info.nodata_within) for way in (-1, 1))
    return minimum, maximum


def _avoid_nodata(out: NDArray[Any], info: ImageInfo) -> None:
    """Change computed samples that equal the nodata value to the next value beside it."""
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
