"""Zarr folders to read: plain arrays, and OME-Zarr images, of which level 0 counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ImageError, SrcnnError
from ...image.info import Layout
from ..array_like import SlicedSource
from . import ngff
from . import store as zarrstore

# What axes are called elsewhere.
_WORDS = {
    **{letter: letter for letter in ngff.LETTERS},
    "time": "t",
    "channel": "c",
    "band": "c",
    "lat": "y",
    "latitude": "y",
    "lon": "x",
    "longitude": "x",
}
XARRAY = "_ARRAY_DIMENSIONS"  # where xarray keeps the names of axes in format 2


class ZarrImage:
    """A Zarr array or OME-Zarr image to read; `open_zarr` makes it.

    Attributes
    ----------
    path : of the folder
    axes : letters of the array's axes, such as ``"tczyx"``
    shape : of the array
    planes : how many images it holds, one for every place on the axes that are not y, x or c
    info : of every plane
    image : what OME-Zarr says of it, None for a plain array
    """

    def __init__(self, path: Path, axes: str | None, bands: bool | None) -> None:
        self.path = path
        node = zarrstore.read_node(path, path)
        self.image: ngff.Image | None = None
        self.attributes = node.attributes
        folder = path
        if node.kind == "group":
            self.image = ngff.parse(_ome(node, path), str(path))
            folder = zarrstore.level_folder(path, self.image.path)
            node = zarrstore.read_node(folder, path)
            if node.kind != "array":
                raise ImageError(f"{folder}: level 0 must be an array")
        self._node = node
        where = str(folder)
        shape = zarrstore.check(node, where)
        self.names = _dimension_names(node)
        self.axes = self._letters(axes, shape, where)
        zarrstore.check(node, where, self.axes)
        self.shape = shape
        self._array = zarrstore.open_array(folder, path, node)
        # The package may read metadata otherwise than they were checked.
        if tuple(self._array.shape) != shape:
            raise ImageError(f"{where}: zarr reads the shape {tuple(self._array.shape)}, not {shape}")
        self.fill_value = self._array.fill_value
        self.planes = math.prod(self._others().values())
        self._layout = self._meaning(bands)
        self._top = ngff.top(self.image.omero if self.image else None, np.dtype(self._array.dtype))
        if self.planes < 1:
            raise ImageError(f"{where}: holds no image, its shape is {shape}")
        self.info = self.plane(0).info

    def place(self, plane: int) -> dict[str, int]:
        """Return where a plane is on the axes that are not y, x or c, such as ``{"t": 3, "z": 0}``."""
        return place_of(self._others(), plane)

    def plane(self, plane: int) -> SlicedSource:
        """Return one plane as a source.

        Raises
        ------
        ImageError
            If it is empty. Reading raises it if the data are damaged.
        """
        fill = self.fill_value
        nan = fill is not None and np.dtype(self._array.dtype).kind == "f" and bool(np.isnan(fill))
        try:
            return SlicedSource(
                self._array,
                self.axes,
                layout=self._layout,
                at=self.place(plane),
                nodata=math.nan if nan else None,
                top=self._top,
                name=str(self.path),
            )
        except SrcnnError as error:
            raise ImageError(f"{self.path}: {error}") from error

    def _others(self) -> dict[str, int]:
        return {a: n for a, n in zip(self.axes, self.shape, strict=True) if a not in "yxc"}

    def _letters(self, axes: str | None, shape: tuple[int, ...], where: str) -> str:
        if self.image is not None:
            letters = self.image.letters
            if axes is not None and axes != letters:
                raise ImageError(f"{where}: its metadata say that its axes are {letters}, not {axes}")
        elif axes is not None:
            letters = axes
        elif self.names and all(str(name).lower() in _WORDS for name in self.names):
            letters = "".join(_WORDS[str(name).lower()] for name in self.names)
        elif len(shape) == 2:
            letters = "yx"
        elif len(shape) == 3 and 1 <= shape[2] <= 4:
            letters = "yxc"
        else:
            raise ImageError(
                f"{where}: what its axes are is not known, they must be given, such as axes='cyx'; "
                f"got the shape {shape}" + (f" and the names {self.names}" if self.names else "")
            )
        right = len(set(letters)) == len(letters) and {"y", "x"} <= set(letters) <= set(ngff.LETTERS)
        if not right or len(letters) != len(shape):
            raise ImageError(
                f"{where}: axes must be {len(shape)}, y, x and others of t, c, z, once each, got {letters}"
            )
        return letters

    def _meaning(self, bands: bool | None) -> Layout:
        channels = dict(zip(self.axes, self.shape, strict=True)).get("c", 1)
        if channels < 1:
            raise ImageError(f"{self.path}: an image needs channels, its shape is {self.shape}")
        if bands is not None or channels == 1:
            return Layout.of(channels, bands=bool(bands) and channels > 1)
        if self.image is not None:
            return ngff.layout(self.image.omero, channels, np.dtype(self._array.dtype).name)
        # Channels that come last are a photograph's; a stack of planes is not one.
        return Layout.of(channels, bands=not self.axes.endswith("c"))


def open_zarr(path: str | Path, *, axes: str | None = None, bands: bool | None = None) -> ZarrImage:
    """Open a folder that holds a Zarr array or an OME-Zarr image.

    Parameters
    ----------
    axes : letters of a plain array's axes, t, c, z, y, x; None takes what the file calls them, else
        ``"yx"``, or ``"yxc"`` for up to four channels
    bands : whether channels have no common meaning, so that each is upscaled on its own. If None they
        have none, but where OME-Zarr's channels say that they are RGB (`ngff.layout`), or a plain array
        has up to four of them as its last axis.

    Raises
    ------
    SourceMissingError, ImageError
        Naming the file and the rule.
    RuntimeMissingError
        If the package zarr is not installed.
    """
    return ZarrImage(Path(path), axes, bands)


def pages(path: str | Path, *, axes: str | None = None) -> int:
    """Return how many planes a Zarr folder holds; raises as `open_zarr`."""
    return open_zarr(path, axes=axes).planes


def open_plane(
    path: str | Path, plane: int = 0, *, axes: str | None = None, bands: bool | None = None
) -> SlicedSource:
    """Open one plane of a Zarr folder as a source; see `open_zarr`."""
    return open_zarr(path, axes=axes, bands=bands).plane(plane)


def place_of(others: dict[str, int], plane: int) -> dict[str, int]:
    """Return where a plane is on axes of given lengths; the last changes fastest."""
    many = math.prod(others.values())
    if not 0 <= plane < many:
        raise ImageError(f"plane must be from 0 to {many - 1}, got {plane}")
    found = {}
    for letter in reversed(others):
        plane, found[letter] = divmod(plane, others[letter])
    return found


def _ome(node: zarrstore.Node, path: Path) -> dict[str, Any]:
    """Return what holds ``multiscales`` in a group's attributes."""
    found = node.attributes
    if node.format == 3:
        ome = found.get("ome", {})
        found = ome if isinstance(ome, dict) else {}
    if "multiscales" in found:
        return found
    if "bioformats2raw.layout" in found or "plate" in found or "well" in found:
        raise ImageError(f"{path}: a collection of images, not one; open one of them, such as {path / '0'}")
    raise ImageError(f"{path}: a group without multiscales is not an OME-Zarr image; open one of its arrays")


def _dimension_names(node: zarrstore.Node) -> list[str | None] | None:
    """Return what the array calls its axes, None if it does not."""
    found = node.attributes.get(XARRAY) if node.format == 2 else node.document.get("dimension_names")
    if not isinstance(found, list) or not all(isinstance(n, str | None) for n in found):
        return None
    return found
