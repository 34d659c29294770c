"""Reads Zarr arrays and level 0 of OME-Zarr images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ImageError, SrcnnError
from ...image.info import Layout
from ..array_like import SlicedSource
from . import ngff, store

# Letters of the axis names that other programs use.
_AXIS_NAMES = {
    **{letter: letter for letter in ngff.LETTERS},
    "time": "t",
    "channel": "c",
    "band": "c",
    "lat": "y",
    "latitude": "y",
    "lon": "x",
    "longitude": "x",
}
XARRAY = "_ARRAY_DIMENSIONS"  # xarray's attribute for the names of the axes in format 2


class ZarrImage:
    """A Zarr array or OME-Zarr image for reading, opened by `open_zarr`.

    Attributes
    ----------
    path : Path
        The folder.
    axes : str
        Letters of the array's axes, such as ``"tczyx"``.
    shape : tuple of int
        Shape of the array.
    others : dict of str to int
        Lengths of the axes other than y, x and c.
    planes : int
        Number of planes: one for each index on these axes.
    info : ImageInfo
        Description of each plane.
    image : ngff.Image, optional
        OME-Zarr metadata; None for a plain array.
    attributes : dict
        User attributes of the array or group.
    names : list of (str or None), optional
        Names of the array's axes.
    fill_value : scalar, optional
        Value of chunks that are not stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        node = store.read_node(path, path)
        self.image: ngff.Image | None = None
        self.attributes = node.attributes
        folder = path
        if node.kind == "group":
            self.image = ngff.parse(_ome(node, path), str(path))
            folder = store.level_folder(path, self.image.path)
            node = store.read_node(folder, path)
            if node.kind != "array":
                raise ImageError(f"{folder}: level 0 must be an array")
        where = str(folder)
        self.shape, chunk = store.check(node, where)
        self.names = _dimension_names(node)
        self.axes = self._letters(where)
        store.check_axes(self.axes, self.shape, chunk, where)
        self._array = store.open_array(folder, path, node)
        self.fill_value = self._array.fill_value
        sizes = dict(zip(self.axes, self.shape, strict=True))
        self.others = {a: n for a, n in sizes.items() if a not in "yxc"}
        self.planes, channels = math.prod(self.others.values()), sizes.get("c", 1)
        if self.planes * channels < 1:
            raise ImageError(f"{where}: holds no image, its shape is {self.shape}")
        self._layout = self._meaning(channels)
        self._top = ngff.top(self.image.omero if self.image else None, np.dtype(self._array.dtype))
        self.info = self.plane(0).info

    def plane(self, plane: int) -> SlicedSource:
        """Return a plane, counted from 0, as a source.

        Raises
        ------
        ImageError
            If the plane does not exist or is empty. Reading raises it if the data are damaged.
        """
        fill = self.fill_value
        nan = fill is not None and np.dtype(self._array.dtype).kind == "f" and bool(np.isnan(fill))
        try:
            return SlicedSource(
                self._array,
                self.axes,
                layout=self._layout,
                at=place_of(self.others, plane),
                nodata=math.nan if nan else None,
                top=self._top,
                name=str(self.path),
            )
        except SrcnnError as error:
            raise ImageError(f"{self.path}: {error}") from error

    def _letters(self, where: str) -> str:
        shape = self.shape
        if self.image is not None:
            letters = self.image.letters
        elif self.names and all(str(name).lower() in _AXIS_NAMES for name in self.names):
            letters = "".join(_AXIS_NAMES[str(name).lower()] for name in self.names)
        elif len(shape) == 2:
            letters = "yx"
        elif len(shape) == 3 and 1 <= shape[2] <= 4:
            letters = "yxc"
        else:
            raise ImageError(
                f"{where}: unknown axes; name them in dimension_names, such as c, y, x; got the shape {shape}"
                + (f" and the names {self.names}" if self.names else "")
            )
        valid = len(set(letters)) == len(letters) and {"y", "x"} <= set(letters) <= set(ngff.LETTERS)
        if not valid or len(letters) != len(shape):
            rule = "y, x and any of t, c, z, each once"
            raise ImageError(f"{where}: axes must be {len(shape)} letters: {rule}, got {letters}")
        return letters

    def _meaning(self, channels: int) -> Layout:
        if self.image is not None and channels > 1:
            return ngff.layout(self.image.omero, channels, np.dtype(self._array.dtype).name)
        # In photographs the channels come last.
        return Layout.of(channels, bands=channels > 1 and not self.axes.endswith("c"))


def open_zarr(path: str | Path) -> ZarrImage:
    """Open a folder with a Zarr array or an OME-Zarr image.

    The axes of a plain array without names are ``"yx"``, or ``"yxc"`` for up to four channels. Channels are
    bands, each of which is upscaled on its own, unless OME-Zarr declares them as RGB (`ngff.layout`), or they
    are the last axis of a plain array and at most four.

    Parameters
    ----------
    path : str or Path
        The folder.

    Raises
    ------
    SourceMissingError
        If there is no such folder.
    ImageError
        If the folder cannot be read as an image.
    RuntimeMissingError
        If the package zarr is not installed.
    """
    return ZarrImage(Path(path))


def place_of(others: dict[str, int], plane: int) -> dict[str, int]:
    """Return the index of a plane on axes of given lengths, such as ``{"t": 3, "z": 0}``.

    The index on the last axis varies fastest.
    """
    count = math.prod(others.values())
    if not 0 <= plane < count:
        raise ImageError(f"plane must be from 0 to {count - 1}, got {plane}")
    index = np.unravel_index(plane, tuple(others.values()))
    return {letter: int(k) for letter, k in zip(others, index, strict=True)}


def _ome(node: store.Node, path: Path) -> dict[str, Any]:
    """Return the object with ``multiscales`` in a group's attributes."""
    found = node.attributes
    if node.format == 3:
        ome = found.get("ome", {})
        found = ome if isinstance(ome, dict) else {}
    if "multiscales" in found:
        return found
    if "bioformats2raw.layout" in found or "plate" in found or "well" in found:
        raise ImageError(f"{path}: a collection of images; open one of them, such as {path / '0'}")
    raise ImageError(f"{path}: a group without multiscales is not an OME-Zarr image; open one of its arrays")


def _dimension_names(node: store.Node) -> list[str | None] | None:
    """Return the names of the array's axes, None if it has none."""
    found = node.attributes.get(XARRAY) if node.format == 2 else node.document.get("dimension_names")
    if not isinstance(found, list) or not all(isinstance(n, str | None) for n in found):
        return None
    return found
