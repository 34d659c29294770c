"""Which axes of an array are images, rows, columns and channels: as said, as they are named, or HWC."""

from __future__ import annotations

import re
import sys
from reprlib import repr as short
from typing import Any

from .._system import arguments
from ..errors import ArgumentError
from ..options import ARRAY_LAYOUTS, ArrayLayout, ArrayOptions

_LETTERS = {"N": "n", "H": "y", "W": "x", "C": "c"}
BANDS = ("band", "bands", "wavelength", "wavelengths", "variable")  # channels without a common meaning
NAMES = {
    "n": ("n", "batch", "image", "sample", "t", "time", "date"),
    "y": ("y", "h", "height", "row", "rows", "lat", "latitude", "northing"),
    "x": ("x", "w", "width", "col", "cols", "column", "columns", "lon", "longitude", "easting"),
    "c": ("c", "channel", "channels", "rgb", "rgba", "color", "colour", *BANDS),
}
_MEANING = {name: letter for letter, names in NAMES.items() for name in names}
_NO_NAME = re.compile(r"dim_\d+|phony_dim_\d+")  # what xarray calls axes without one
_MANY_CHANNELS = 5  # of this many or more the last axis is doubtful, if the first axis is the shortest


def axes_of(array: Any, layout: ArrayLayout | None = None) -> str:
    """Return one letter for each axis of an array: n (images), y, x and c, such as ``"yxc"`` or ``"ncyx"``.

    Parameters
    ----------
    array : array_like
        Has ``shape``. Names of its axes are taken from ``dims`` (xarray), ``names`` (torch),
        ``dimensions`` (netCDF4) or ``metadata.dimension_names`` (Zarr).
    layout : {"HWC", "CHW", "NHWC", "NCHW", "HW"}, optional
        What the axes are. None uses their names, and for an array without names HW or HWC.

    Raises
    ------
    ArgumentError
        If the layout does not fit, the names are unknown, or the shape leaves it open what the axes are.
    """
    if not hasattr(array, "shape"):
        raise ArgumentError(f"an array is needed, got {short(array)}")
    shape = tuple(int(n) for n in array.shape)
    arguments.texts(layout=layout, optional=True)
    if layout is not None:
        if layout not in ARRAY_LAYOUTS:
            raise ArgumentError(f"layout must be one of {', '.join(ARRAY_LAYOUTS)}, got {layout!r}")
        if len(layout) != len(shape):
            raise ArgumentError(f"layout {layout!r} has {len(layout)} axes, the array {len(shape)}: {shape}")
        return "".join(_LETTERS[c] for c in layout)
    names = _names(array, len(shape))
    if names is not None:
        return _named(names)
    if len(shape) == 4:
        raise ArgumentError(
            f"an image must be (H, W) or (H, W, C), got {shape}; "
            "for several images say layout='NCHW' or 'NHWC'"
        )
    if len(shape) not in (2, 3):
        raise ArgumentError(f"an image must be (H, W) or (H, W, C) and not empty, got {shape}")
    if len(shape) == 3 and max(shape[0] + 1, _MANY_CHANNELS) <= min(shape[1:]):
        raise ArgumentError(
            f"an array of shape {shape} may be (C, H, W): say layout='CHW', or layout='HWC' if it has "
            f"{shape[2]} channels"
        )
    return "yxc"[: len(shape)]


def is_data_array(value: Any) -> bool:
    """Return whether a value is a ``DataArray``, without importing xarray."""
    module = sys.modules.get("xarray")
    return module is not None and isinstance(value, module.DataArray)


def dimensions_of(array: Any, layout: ArrayLayout | None) -> dict[str, Any]:
    """Return what `srcnn_rt.xarray.upscale` calls the dimensions of a DataArray with a layout."""
    if layout is None:
        return {}
    places = dict(zip(axes_of(array, layout), array.dims, strict=True))
    return {"dims": (places["y"], places["x"]), "channels": places.get("c")}


def meaning_of(array: Any, options: ArrayOptions) -> tuple[str, dict[str, Any]]:
    """Return the axes of an array, as `axes_of`, and the options without the layout.

    Channels that an array without a layout calls bands are bands.
    """
    meaning = dict[str, Any](options)
    layout = meaning.pop("layout", None)
    if layout is None and _has_bands(array):
        meaning["bands"] = True
    return axes_of(array, layout), meaning


def _has_bands(array: Any) -> bool:
    """Return whether an array calls its channels bands, which then have no common meaning."""
    return any(name in BANDS for name in _names(array, len(array.shape)) or ())


def _names(array: Any, count: int) -> tuple[str, ...] | None:
    """Return the names of the axes, in lower case; None if they have none."""
    metadata = getattr(array, "metadata", None)
    for found in (
        getattr(array, "dims", None),
        getattr(array, "names", None),
        getattr(array, "dimensions", None),
        getattr(metadata, "dimension_names", None),
    ):
        if not isinstance(found, tuple) or len(found) != count:
            continue
        if any(isinstance(name, str) and not _NO_NAME.fullmatch(name) for name in found):
            return tuple(str(name).lower() for name in found)
    return None


def _named(names: tuple[str, ...]) -> str:
    letters = [_MEANING.get(name) for name in names]
    known = [letter for letter in letters if letter]
    if len(known) < len(letters) or len(set(known)) < len(known) or not {"y", "x"} <= set(known):
        raise ArgumentError(
            f"axes named {', '.join(names)} are not understood; name them as (band, y, x), or say layout="
        )
    return "".join(known)
