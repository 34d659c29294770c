"""TIFF by rasterio: read and written window by window, so memory does not grow with size."""

from __future__ import annotations

import base64
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from ..errors import OutputError, PictureError
from ..geometry import Span
from ..picture import Layout, Metadata, PictureInfo
from .base import Closing

DTYPES = ("uint8", "uint16", "float32")
BLOCK = 512  # widest output block, HR pixels
# What one write holds, about: the last one is not overlapped by anything, so it should be small.
CHUNK_BYTES = 2 * 2**20
# Level 1 is four times faster than the default at practically the same size. ZSTD is twice as fast
# again, but not every reader has it.
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "deflate": {"compress": "DEFLATE", "zlevel": 1},
    "zstd": {"compress": "ZSTD", "zstd_level": 1},
    "lzw": {"compress": "LZW"},
    "none": {},
}
_RESOLUTION = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")
# Structure and statistics of the source are not those of the result.
_DERIVED_TAGS = ("STATISTICS_", "AREA_OR_POINT_", "OVERVIEWS", "LAYOUT")
_quiet_lock = threading.Lock()


def block_side(scale: int) -> int:
    """Return the output block's side: a multiple of `scale` and of 16, at most ``BLOCK``.

    A power of two in LR pixels, so that tiles of 128, 256, 512 … hold whole blocks.
    """
    side = BLOCK
    while side * scale > BLOCK and side > 16:
        side //= 2
    return side * scale


class RasterSource(Closing):
    """A single-page TIFF of uint8, uint16 or float32 samples.

    Raises
    ------
    PictureError
        If the file is damaged or of another kind.
    """

    in_memory = False

    def __init__(self, path: Path) -> None:
        self._path = path
        with _reading(path):
            self._file = _open(path, driver="GTiff")
        try:
            self._lut = self._expansion()
            self.info = self._describe()
        except BaseException:
            self._file.close()
            raise
        self.by_rows = self._file.block_shapes[0][1] >= self._file.width

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        with _reading(self._path):
            planes = self._file.read(window=Window(x.start, y.start, x.size, y.size))
        if self._lut is not None:
            return np.asarray(self._lut[planes[0]])
        return np.asarray(planes.transpose(1, 2, 0))

    def close(self) -> None:
        self._file.close()

    def _expansion(self) -> NDArray[Any] | None:
        """Return the table that expands a palette or 1-, 2-, 4-bit samples, or None."""
        f = self._file
        if f.colorinterp[0] is ColorInterp.palette and f.count == 1:
            table = np.zeros((256, 4), np.uint8)
            for index, color in f.colormap(1).items():
                table[index] = color
            # Entries the file does not define are opaque black.
            table[:, 3][[i for i in range(256) if i not in f.colormap(1)]] = 255
            opaque = bool((table[:, 3] == 255).all())
            grays = bool((table[:, 0] == table[:, 1]).all() and (table[:, 1] == table[:, 2]).all())
            return np.asarray(table[:, : 1 if opaque and grays else 3 if opaque else 4])
        bits = int(f.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        if f.dtypes[0] == "uint8" and bits < 8 and f.count == 1:
            ramp = np.minimum(np.arange(256) * 255 // (2**bits - 1), 255)
            return np.asarray(ramp[:, np.newaxis], np.uint8)
        return None

    def _describe(self) -> PictureInfo:
        f, path = self._file, self._path
        if f.subdatasets:
            pages = len(f.subdatasets)
            raise PictureError(f"{path}: holds {pages} pages; only TIFFs of one page are read")
        if f.count == 0 or f.width < 1 or f.height < 1:
            raise PictureError(f"{path}: a picture needs samples, got {f.width} x {f.height} x {f.count}")
        if len(set(f.dtypes)) > 1 or f.dtypes[0] not in DTYPES:
            kinds = ", ".join(sorted(set(f.dtypes)))
            raise PictureError(f"{path}: samples must be {', '.join(DTYPES)}, got {kinds}")
        if self._lut is not None:
            layout, roles = Layout.of(self._lut.shape[1]), None
        else:
            layout, roles = _layout(f.colorinterp), f.colorinterp
        tags = {k: v for k, v in f.tags().items() if not k.startswith(_DERIVED_TAGS)}
        icc = f.tags(ns="COLOR_PROFILE").get("SOURCE_ICC_PROFILE")
        metadata = Metadata(
            raster={
                "crs": f.crs,
                "transform": None if f.transform == Affine.identity() else f.transform,
                "nodata": f.nodata,
                "descriptions": f.descriptions,
                "colorinterp": roles,
                "tags": tags,
            },
            icc=base64.b64decode(icc) if icc else None,
        )
        return PictureInfo((f.height, f.width), layout, np.dtype(f.dtypes[0]), metadata)


class RasterSink(Closing):
    """A tiled, compressed TIFF; BigTIFF when it may need to be.

    Parameters
    ----------
    path : created or replaced
    info : of the result
    scale : HR pixels an LR pixel; georeference and print resolution are scaled by it
    compress : a key of ``COMPRESSIONS``
    """

    max_bytes: int | None = CHUNK_BYTES
    in_memory = False

    def __init__(self, path: Path, info: PictureInfo, scale: int, compress: str = "deflate") -> None:
        side = block_side(scale)
        self.block = (side, side)
        self._path, self._info = path, info
        # One is filled while the other is written. New ones for every chunk would fragment
        # the heap, and memory would grow with the number of chunks.
        self._buffers: list[NDArray[Any]] = [np.empty(0, info.dtype)] * 2
        meta, layout = info.metadata.raster, info.layout
        options: dict[str, Any] = {
            "driver": "GTiff",
            "height": info.shape[0],
            "width": info.shape[1],
            "count": layout.channels,
            "dtype": info.dtype.name,
            "tiled": True,
            "blockxsize": side,
            "blockysize": side,
            "interleave": "pixel",
            **COMPRESSIONS[compress],
            "bigtiff": "IF_SAFER",
            "photometric": "RGB" if layout.color == "rgb" else "MINISBLACK",
        }
        if compress != "none":
            options["predictor"] = 3 if info.dtype.kind == "f" else 2
        if layout.alpha:
            options["alpha"] = "NON-PREMULTIPLIED"
        if meta.get("crs"):
            options["crs"] = meta["crs"]
        if meta.get("transform"):
            t = meta["transform"]  # same corner, smaller pixels
            options["transform"] = Affine(t.a / scale, t.b / scale, t.c, t.d / scale, t.e / scale, t.f)
        if meta.get("nodata") is not None:
            options["nodata"] = meta["nodata"]
        if info.metadata.icc:
            options["source_icc_profile"] = base64.b64encode(info.metadata.icc).decode()
        with _writing(path):
            self._file = _open(path, mode="w", **options)
            self._set_items(scale)

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        size = self._info.layout.channels * y.size * x.size
        free = self._buffers.pop(0)
        if free.size < size:
            free = np.empty(size, self._info.dtype)
        self._buffers.append(free)
        return free[:size].reshape(-1, y.size, x.size).transpose(1, 2, 0)

    def write(self, y: Span, x: Span, block: NDArray[Any]) -> None:
        with _writing(self._path):
            self._file.write(block.transpose(2, 0, 1), window=Window(x.start, y.start, x.size, y.size))

    def close(self) -> None:
        with _writing(self._path):
            self._file.close()
        # What GDAL writes last, it reports to nobody: read the end of the file back.
        h, w = self._info.shape
        with _writing(self._path), _open(self._path, driver="GTiff") as back:
            if (back.height, back.width) != (h, w):
                raise OutputError(f"{self._path}: reads back as {back.width} x {back.height}, not {w} x {h}")
            back.read(window=Window(w - 1, h - 1, 1, 1))

    def abort(self) -> None:
        with suppress(RasterioError, OSError):  # the reason is on its way up already
            self._file.close()

    def _set_items(self, scale: int) -> None:
        meta, layout = self._info.metadata.raster, self._info.layout
        roles = meta.get("colorinterp")
        if roles is not None and len(roles) == layout.channels:
            self._file.colorinterp = roles
        elif layout.alpha:
            color = [ColorInterp.gray] if layout.color == "gray" else [ColorInterp(k) for k in (3, 4, 5)]
            self._file.colorinterp = [*color, ColorInterp.alpha]
        for k, text in enumerate(meta.get("descriptions") or (), start=1):
            if text and k <= layout.channels:
                self._file.set_band_description(k, text)
        tags = dict(meta.get("tags") or {})
        for key in _RESOLUTION:  # the print size stays, so there are more pixels an inch
            if key in tags:
                tags[key] = str(float(tags[key]) * scale)
        if tags:
            self._file.update_tags(**tags)


def _layout(roles: tuple[ColorInterp, ...]) -> Layout:
    """Read bands as gray, RGB or with alpha only where the file says so."""
    alpha = roles[-1] is ColorInterp.alpha
    color = roles[:-1] if alpha else roles
    if color == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
        return Layout("rgb", len(roles), alpha)
    if len(color) == 1:
        return Layout("gray", len(roles), alpha)
    return Layout("bands", len(roles))


def _open(path: Path, **options: Any) -> Any:
    """Open without the warning that a plain picture has no georeference.

    Filters are the process's own, so they are changed under a lock and put back.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, **options)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise PictureError(f"{path}: damaged TIFF: {_reason(error)}") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (RasterioError, OSError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be written: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return GDAL's own words, which rasterio keeps as the cause."""
    cause = error.__cause__
    return str(getattr(cause, "errmsg", None) or cause or error)
