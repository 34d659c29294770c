"""TIFF by GDAL: read window by window, so memory does not grow with size."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from ..errors import ArgumentError, PictureError
from ..geometry import Span
from ..picture import Layout, Metadata, PictureInfo
from . import exif, tiff_head
from .base import Closing
from .tiff_head import Directory

DTYPES = ("uint8", "uint16", "float32")
# What TIFF's own fields are called among a picture's texts.
TEXTS = {
    "TIFFTAG_DOCUMENTNAME": "Title",
    "TIFFTAG_ARTIST": "Author",
    "TIFFTAG_IMAGEDESCRIPTION": "Description",
    "TIFFTAG_COPYRIGHT": "Copyright",
    "TIFFTAG_DATETIME": "Creation Time",
    "TIFFTAG_SOFTWARE": "Software",
}
# Structure and statistics of the source are not those of the result.
_DERIVED_TAGS = ("STATISTICS_", "AREA_OR_POINT_", "OVERVIEWS", "LAYOUT")
_DERIVED_DOMAINS = ("IMAGE_STRUCTURE", "COLOR_PROFILE", "RPC", "DERIVED_SUBDATASETS", "SUBDATASETS", "EXIF")
_ORIENTATION, _PHOTOMETRIC, _EXTRA, _XMP, _ICC = 274, 262, 338, 700, 34675
_MINISWHITE, _CMYK, _LAB = 0, 5, 8
# Carried as they are: IPTC, the page's name and number.
_CARRIED = (33723, 285, 297)
# Beside the EXIF directory: what a camera or scanner says of itself.
_CAMERA = (270, 271, 272, 305, 306, 315, 33432)
# A picture that lies on its side is read across its strips: up to this many bytes are kept whole.
_TURNED_BYTES = 256 * 2**20
_quiet_lock = threading.Lock()


def pages(path: Path) -> int:
    """Return how many pages a TIFF has; overviews and masks are none.

    Raises
    ------
    PictureError
    """
    return len(_page_names(path))


class RasterSource(Closing):
    """One page of a TIFF, of uint8, uint16 or float32 samples.

    Turned upright as its orientation says, unless it is georeferenced; palettes, fewer than 8 bits
    and white-is-zero expanded; alpha no longer multiplied into the colour.

    Parameters
    ----------
    page : from 1

    Raises
    ------
    PictureError
        If the file is damaged or of another kind.
    """

    in_memory = False

    def __init__(self, path: Path, page: int = 1) -> None:
        self._path = path
        names = _page_names(path)
        if not 1 <= page <= len(names):
            raise ArgumentError(f"{path}: has {len(names)} pages, so there is no page {page}")
        with reading(path):
            self._file = open_quietly(names[page - 1], driver="GTiff")
        try:
            self._head = _directory(path, names[page - 1])
            self._check()
            self._lut = self._expansion()
            self._turned = self._orientation()
            self._inverted = self._white_is_zero()
            self.info = self._describe()
        except BaseException:
            self._file.close()
            raise
        striped = bool(self._file.block_shapes[0][1] >= self._file.width)
        self.by_rows = striped and self._turned < 5
        self._whole: NDArray[Any] | None = None
        size = (
            self._file.width * self._file.height * self._file.count * np.dtype(self._file.dtypes[0]).itemsize
        )
        self._keep = striped and self._turned >= 5 and size <= _TURNED_BYTES

    def read(self, y: Span, x: Span) -> NDArray[Any]:
        if self._keep and self._whole is None:
            with reading(self._path):
                self._whole = self._file.read().transpose(1, 2, 0)
        window = self._window(y, x)
        if self._whole is not None:
            rows, columns = window.toslices()
            samples = self._whole[rows, columns]
        else:
            with reading(self._path):
                samples = self._file.read(window=window).transpose(1, 2, 0)
        if self._lut is not None:
            samples = self._lut[samples[:, :, 0]]
        if self._inverted:
            samples = np.iinfo(samples.dtype).max - samples
        if self._premultiplied:
            samples = _straight(samples)
        return np.asarray(exif.turn(samples, self._turned))

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        with reading(self._path):
            mask = self._file.read_masks(1, window=self._window(y, x))
        return np.asarray(exif.turn((mask != 0)[:, :, np.newaxis], self._turned)[:, :, 0])

    def close(self) -> None:
        self._file.close()

    def _window(self, y: Span, x: Span) -> Window:
        """Return the stored rows and columns of a place of the upright picture."""
        (h, w), turned = self.info.shape, self._turned
        if turned in (3, 4, 7, 8):
            y = Span(h - y.stop, h - y.start)
        if turned in (2, 3, 6, 7):
            x = Span(w - x.stop, w - x.start)
        if turned >= 5:
            y, x = x, y
        return Window(x.start, y.start, x.size, y.size)

    def _check(self) -> None:
        f, path = self._file, self._path
        if f.count == 0 or f.width < 1 or f.height < 1:
            raise PictureError(f"{path}: a picture needs samples, got {f.width} x {f.height} x {f.count}")
        if len(set(f.dtypes)) > 1 or f.dtypes[0] not in DTYPES:
            kinds = ", ".join(sorted(set(f.dtypes)))
            raise PictureError(f"{path}: samples must be {', '.join(DTYPES)}, got {kinds}")

    def _expansion(self) -> NDArray[Any] | None:
        """Return the table that expands a palette or 1-, 2-, 4-bit samples, or None."""
        f = self._file
        if f.count != 1 or f.dtypes[0] != "uint8":
            return None
        if f.colorinterp[0] is ColorInterp.palette:
            table = np.zeros((256, 4), np.uint8)
            colors = f.colormap(1)
            for index, color in colors.items():
                table[index] = color
            # Entries the file does not define are opaque black.
            table[:, 3][[i for i in range(256) if i not in colors]] = 255
            if f.nodata is not None and 0 <= f.nodata < 256:
                table[int(f.nodata), 3] = 0
            opaque = bool((table[:, 3] == 255).all())
            grays = bool((table[:, 0] == table[:, 1]).all() and (table[:, 1] == table[:, 2]).all())
            return np.asarray(table[:, : 1 if opaque and grays else 3 if opaque else 4])
        bits = int(f.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        if bits < 8:
            ramp = np.minimum(np.arange(256) * 255 // (2**bits - 1), 255)
            return np.asarray(ramp[:, np.newaxis], np.uint8)
        return None

    def _orientation(self) -> int:
        field = self._head.get(_ORIENTATION)
        value = field.numbers()[0] if field and field.numbers() else 1
        f = self._file
        placed = f.crs or f.gcps[0] or f.rpcs or f.transform != Affine.identity()
        return value if 1 <= value <= 8 and not placed else 1

    def _white_is_zero(self) -> bool:
        f, field = self._file, self._head.get(_PHOTOMETRIC)
        palette = f.colorinterp[0] is ColorInterp.palette
        return bool(field and field.numbers() == (_MINISWHITE,) and f.dtypes[0] != "float32" and not palette)

    @property
    def _premultiplied(self) -> bool:
        field = self._head.get(_EXTRA)
        return bool(field and field.numbers()[-1:] == (1,) and self.info.layout.alpha)

    def _nodata(self) -> float | None:
        """Return the value in the samples that `read` gives."""
        f, value = self._file, self._file.nodata
        if value is None or f.colorinterp[0] is ColorInterp.palette:
            return None  # a palette's is transparent
        if f.dtypes[0] == "float32":
            return float(value)
        most = np.iinfo(f.dtypes[0]).max
        if not (0 <= value <= most and value == int(value)):
            return None  # no sample can be it
        stored = int(value)
        if self._lut is not None:
            stored = int(self._lut[stored, 0])
        return float(most - stored if self._inverted else stored)

    def _describe(self) -> PictureInfo:
        f, head = self._file, self._head
        shape = (f.width, f.height) if self._turned >= 5 else (f.height, f.width)
        roles = None
        if self._lut is not None:
            layout = Layout.of(self._lut.shape[1])
        else:
            layout, roles = _layout(f.colorinterp), f.colorinterp
        photometric = head.get(_PHOTOMETRIC)
        inks = photometric is not None and photometric.numbers() in ((_CMYK,), (_LAB,))
        if inks and layout.color != "bands":
            layout = Layout("bands", layout.channels)
        tags = {k: v for k, v in f.tags().items() if not k.startswith(_DERIVED_TAGS)}
        if self._turned >= 5:
            tags = _swapped(tags)
        dtype = np.dtype(f.dtypes[0])
        per_dataset = MaskFlags.per_dataset in f.mask_flag_enums[0]
        masked = per_dataset and MaskFlags.alpha not in f.mask_flag_enums[0]
        icc, xmp = head.get(_ICC), head.get(_XMP)
        raster = {
            "crs": f.crs,
            "transform": None if f.transform == Affine.identity() else f.transform,
            "gcps": f.gcps if f.gcps[0] else None,
            "rpcs": f.rpcs,
            "descriptions": f.descriptions,
            "scales": f.scales,
            "offsets": f.offsets,
            "units": f.units,
            "colorinterp": roles,
            "photometric": {_CMYK: "CMYK", _LAB: "CIELAB"}[photometric.numbers()[0]]
            if inks and photometric
            else None,
            "tags": tags,
            "domains": {d: f.tags(ns=d) for d in f.tag_namespaces() if _is_private(d)},
            "band_tags": [_kept(f.tags(k)) for k in f.indexes] if self._lut is None else [],
            "statistics": any("STATISTICS_MEAN" in f.tags(k) for k in f.indexes),
            "overviews": bool(f.overviews(1)),
            "planar": f.interleaving is not None and f.interleaving.name == "band",
            "fields": tuple(field for tag in _CARRIED if (field := head.get(tag))),
        }
        metadata = Metadata(
            icc=icc.data if icc else None,
            exif=_exif(head),
            xmp=xmp.data.rstrip(b"\0") if xmp else None,
            dpi=_dpi(tags),
            texts={name: tags[tag] for tag, name in TEXTS.items() if tag in tags},
            raster=raster,
        )
        return PictureInfo(shape, layout, dtype, metadata, self._nodata(), masked)


def open_quietly(path: Path | str, **options: Any) -> Any:
    """Open without the warning that a plain picture has no georeference.

    Filters are the process's own, so they are changed under a lock and put back.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, **options)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn GDAL's errors into `PictureError`, naming the file."""
    try:
        yield
    except RasterioError as error:
        raise PictureError(f"{path}: damaged TIFF: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return GDAL's own words, which rasterio keeps as the cause."""
    cause = error.__cause__
    return str(getattr(cause, "errmsg", None) or cause or error)


def _page_names(path: Path) -> list[Path | str]:
    with reading(path), open_quietly(path, driver="GTiff") as file:
        names = list(file.subdatasets)
    return names if len(names) > 1 else [path]


def _directory(path: Path, name: Path | str) -> Directory:
    """Return the page's own directory: of a page of many, GDAL's name holds its number."""
    index = int(name.split(":")[1]) - 1 if isinstance(name, str) else 0
    with path.open("rb") as file:
        return tiff_head.Reader(file).page(index)


def _layout(roles: tuple[ColorInterp, ...]) -> Layout:
    """Read bands as gray, RGB or with alpha only where the file says so."""
    alpha = roles[-1] is ColorInterp.alpha
    color = roles[:-1] if alpha else roles
    if color == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
        return Layout("rgb", len(roles), alpha)
    if len(color) == 1:
        return Layout("gray", len(roles), alpha)
    return Layout("bands", len(roles))


def _straight(samples: NDArray[Any]) -> NDArray[Any]:
    """Divide colour by the alpha that was multiplied into it."""
    alpha = samples[:, :, -1:].astype(np.float32)
    most = np.float32(1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)
    color = np.divide(
        samples[:, :, :-1] * most, alpha, out=np.zeros_like(samples[:, :, :-1], np.float32), where=alpha > 0
    )
    out = samples.copy()
    if samples.dtype.kind == "f":
        out[:, :, :-1] = color
    else:
        out[:, :, :-1] = np.rint(np.minimum(color, most)).astype(samples.dtype)
    return out


def _dpi(tags: dict[str, str]) -> tuple[float, float] | None:
    """Return pixels an inch; the resolution's unit is 2 for inches, 3 for centimetres."""
    unit = tags.get("TIFFTAG_RESOLUTIONUNIT", "2")[:1]
    try:
        x, y = (float(tags[f"TIFFTAG_{axis}RESOLUTION"]) for axis in "XY")
    except (KeyError, ValueError):
        return None
    factor = {"2": 1.0, "3": 2.54}.get(unit)
    return (x * factor, y * factor) if factor and x > 0 and y > 0 else None


def _swapped(tags: dict[str, str]) -> dict[str, str]:
    """Exchange the resolutions of the two axes."""
    x, y = "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION"
    return tags | {a: tags[b] for a, b in ((x, y), (y, x)) if b in tags}


def _exif(head: Directory) -> bytes | None:
    """Return EXIF's and GPS's directories as a block of their own, as JPEG and PNG hold them."""
    below = tuple(
        (tag, d) for tag, d in head.below
        if tag in (tiff_head.EXIF_DIRECTORY, tiff_head.GPS_DIRECTORY) and d.fields
    )  # fmt: skip
    if not below:
        return None
    camera = tuple(f for f in head.fields if f.tag in _CAMERA)
    return tiff_head.lay_out([Directory(camera, below)], big=False)[0]


def _is_private(domain: str) -> bool:
    return not domain.startswith("xml:") and domain not in _DERIVED_DOMAINS


def _kept(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if not k.startswith(_DERIVED_TAGS)}
