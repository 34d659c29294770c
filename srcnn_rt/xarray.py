"""Upscale arrays of xarray with their dimensions, coordinates, reference system and attributes.

xarray is imported by this module only. rioxarray isn't needed: what it writes is kept and updated.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .errors import ArgumentError
from .io.array_axes import BANDS, NAMES
from .io.in_memory import shared
from .io.metadata import nodata_tag
from .options import ArrayLayout

if TYPE_CHECKING:  # it calls this module
    from .engine import Engine

__all__ = ["upscale"]

# Of how a variable is stored, what is still true of an enlarged one.
_KEPT_ENCODING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "dtype", "grid_mapping")

Data = TypeVar("Data", xr.DataArray, xr.Dataset)


def upscale(
    data: Data,
    engine: Engine,
    *,
    dims: tuple[Hashable, Hashable] | None = None,
    channels: Hashable | None = None,
    **options: Any,
) -> Data:
    """Upscale an xarray object along two dimensions.

    Coordinates along these are placed at the centers of the smaller pixels, bounds at their edges. A grid
    mapping keeps its reference system, and its GeoTransform gets the new pixel size. Name, attributes, other
    coordinates and the order of the dimensions are kept. Arrays of dask are computed window by window; the
    result is in memory.

    Parameters
    ----------
    data : DataArray or Dataset
        Of a type in `SAMPLE_TYPES`. Each image along its other dimensions, such as time, is upscaled alone.
        In a Dataset, variables without both dimensions follow them as coordinates do.
    engine : Engine
        What upscales; it may be used again.
    dims : (hashable, hashable), optional
        Names of the dimensions of rows and columns. By default those called like y and x, latitude and
        longitude, northing and easting, row and column, or height and width.
    channels : hashable, optional
        Name of the dimension of channels. By default one that is called like band or channel.
    **options
        As in `Engine.upscale`, but for `layout`. `bands` is True by default where the channels are called
        band, wavelength or variable. `nodata` is the attribute ``_FillValue`` or ``missing_value`` by
        default.

    Returns
    -------
    DataArray or Dataset
        Of the same types.

    Raises
    ------
    ArgumentError
        If `dims` or `channels` cannot be told from the names, or `Engine.upscale` refuses the array.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from srcnn_rt import Engine
    >>> from srcnn_rt.xarray import upscale
    >>> image = xr.DataArray(np.zeros((2, 4), "float32"), {"y": [10.0, 20.0]}, ("y", "x"))
    >>> with Engine("bicubic-x2", provider="cpu") as engine:
    ...     upscale(image, engine).y.values
    array([ 7.5, 12.5, 17.5, 22.5])
    """
    if not isinstance(data, xr.DataArray | xr.Dataset):
        raise ArgumentError(f"a DataArray or Dataset is needed, got {type(data).__name__}")
    y, x = dims or (_named(data, "y", "rows"), _named(data, "x", "columns"))
    if missing := [d for d in (y, x) if d not in data.dims] or ([y] if y == x else []):
        raise ArgumentError(f"dims must be two of {_names(data)}, got {(y, x)}; {missing[0]!r} does not fit")
    if channels is not None and channels not in data.dims:
        raise ArgumentError(f"channels must be one of {_names(data)}, got {channels!r}")
    grid = _Grid(y, x, engine.scale, _bounds(data))

    def image(array: xr.DataArray) -> xr.Variable:
        return _upscaled(array, engine, grid, channels, options)

    coords = {name: grid.enlarged(name, variable) for name, variable in data.coords.variables.items()}
    if isinstance(data, xr.DataArray):
        variable = image(data)
        made = xr.DataArray(variable, coords, name=data.name)
        made.encoding = variable.encoding  # which the constructor drops
        return made
    variables = {
        name: image(array) if {y, x} <= set(array.dims) else grid.enlarged(name, array.variable)
        for name, array in data.data_vars.items()
    }
    return xr.Dataset(variables, coords, data.attrs)


class _Grid:
    """Two dimensions that become `scale` times longer, and what lies along them."""

    def __init__(self, y: Hashable, x: Hashable, scale: int, bounds: frozenset[Hashable]) -> None:
        self.y, self.x, self.scale, self._bounds = y, x, scale, bounds

    def enlarged(self, name: Hashable, variable: xr.Variable) -> xr.Variable:
        """Return a variable that describes the image, for the enlarged one."""
        attrs, values = dict(variable.attrs), variable.values
        if isinstance(transform := attrs.get("GeoTransform"), str):
            attrs["GeoTransform"] = self._transform(transform)
        along = [axis for axis, dim in enumerate(variable.dims) if dim in (self.y, self.x)]
        if not along:
            return xr.Variable(variable.dims, variable.data, attrs, variable.encoding)
        for axis in along:
            if name in self._bounds and variable.ndim == 2 and axis == 0:
                values = self._edges(values)
            else:
                values = self._centers(values, axis)
        kept = {key: variable.encoding[key] for key in ("units", "calendar") if key in variable.encoding}
        return xr.Variable(variable.dims, values, attrs, kept)

    def _centers(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Interpolate linearly at the centers of the smaller pixels; names are repeated."""
        count = values.shape[axis]
        if values.dtype.kind not in "fiumM" or count < 2:
            return np.repeat(values, self.scale, axis)
        at = (np.arange(count * self.scale) + 0.5) / self.scale - 0.5
        first = np.clip(np.floor(at).astype(int), 0, count - 2)
        shape = [1] * values.ndim
        shape[axis] = -1
        start = np.take(values, first, axis)
        step = np.take(values, first + 1, axis) - start
        found = start + step * (at - first).reshape(shape)
        return np.asarray(found.astype(values.dtype) if values.dtype.kind == "f" else found)

    def _edges(self, values: NDArray[Any]) -> NDArray[Any]:
        """Divide cells, (n, 2), into `scale` cells each."""
        parts = np.arange(self.scale) / self.scale
        start, size = values[:, :1], values[:, 1:] - values[:, :1]
        low, high = start + size * parts, start + size * (parts + 1 / self.scale)
        return np.stack([low.ravel(), high.ravel()], axis=1)

    def _transform(self, text: str) -> str:
        """Return GDAL's six numbers, of which the first and fourth are the corner, for the smaller pixels."""
        numbers = text.split()
        if len(numbers) != 6:
            return text
        return " ".join(n if k in (0, 3) else repr(float(n) / self.scale) for k, n in enumerate(numbers))


def _upscaled(
    array: xr.DataArray, engine: Engine, grid: _Grid, channels: Hashable | None, options: Mapping[str, Any]
) -> xr.Variable:
    """Return the enlarged samples of an array, with its attributes."""
    if channels is None:
        usual = [d for d in array.dims if str(d).lower() in NAMES["c"]]
        channels = usual[0] if len(usual) == 1 else None
        if len(usual) > 1:
            raise ArgumentError(f"channels must be one of {', '.join(map(str, usual))}")
    given = dict(options)
    if channels in array.dims:
        given.setdefault("bands", str(channels).lower() in BANDS)
    value = array.attrs.get("_FillValue", array.attrs.get("missing_value"))
    if value is not None and not given.get("classes"):
        # A value that no sample can have, such as -9999 beside unsigned integers, marks none.
        given.setdefault("nodata", nodata_tag.held(np.asarray(value).ravel()[0].item(), array.dtype))
    last = [grid.y, grid.x, *([channels] if channels in array.dims else [])]
    others = [d for d in array.dims if d not in last]
    images = array.variable.transpose(*others, *last)
    scaled = {grid.y: grid.scale, grid.x: grid.scale}
    samples = np.empty([n * scaled.get(d, 1) for d, n in images.sizes.items()], array.dtype)
    layout: ArrayLayout = "HW" if len(last) == 2 else "HWC"
    progress = given.pop("progress", None)
    indices = list(np.ndindex(*(array.sizes[d] for d in others)))
    for k, index in enumerate(indices):
        reported = shared(progress, k, len(indices))
        engine.upscale_into(images.data[index], samples[index], layout=layout, progress=reported, **given)
    encoding = {key: value for key, value in array.encoding.items() if key in _KEPT_ENCODING}
    return xr.Variable(images.dims, samples, array.attrs, encoding).transpose(*array.dims)


def _named(data: xr.DataArray | xr.Dataset, letter: str, what: str) -> Hashable:
    found = [d for d in data.dims if str(d).lower() in NAMES[letter]]
    if len(found) != 1:
        raise ArgumentError(f"dims must name the dimensions of rows and columns: {what} of {_names(data)}?")
    return found[0]


def _names(data: xr.DataArray | xr.Dataset) -> str:
    return ", ".join(map(str, data.dims))


def _bounds(data: xr.DataArray | xr.Dataset) -> frozenset[Hashable]:
    """Return the names of the variables that hold cells' edges, as CF conventions declare them."""
    variables: Iterator[xr.Variable] = iter(data.coords.variables.values())
    return frozenset(v.attrs.get("bounds", v.encoding.get("bounds")) for v in variables) - {None}
