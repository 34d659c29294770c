"""What GDAL writes into a TIFF's directory for an image, as fields, before there is any file."""

from __future__ import annotations

import io
import re
from email.utils import parsedate
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from ...image.info import ImageInfo
from ..metadata import exif, xmp
from . import descriptions, georeferencing, photoshop
from . import ifd as tiff_head
from .ifd import Directory, Field
from .metadata import OTHER_TEXTS, TEXTS
from .reader import open_quietly

COMPRESSIONS = {"none": 1, "lzw": 5, "deflate": 8, "zstd": 50000}
_XMP, _ICC, _COMPRESSION, _PREDICTOR, _PHOTOMETRIC, _EXTRA = 700, 34675, 259, 317, 262, 338
_MAX_VALUE, _S_MAX_VALUE = 281, 341
# Of EXIF's first directory: maker, model, Windows' rating and texts. The others have names of GDAL's.
_OF_CAMERA = (271, 272, 18246, 18249, *range(40091, 40096))
_DESCRIPTION = "TIFFTAG_IMAGEDESCRIPTION"
_TIFF_DATE = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")
_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d:\d\d:\d\d)")


def directory(
    info: ImageInfo, scale: int, block: tuple[int, int], compress: str, planar: bool, pages: int = 1
) -> Directory:
    """Describe a tiled TIFF: everything but where its tiles are.

    GDAL writes an empty file of the kind in memory, and its fields are taken: the georeference, band
    names, nodata and all that people expect of GDAL stand where GDAL puts them. XMP, EXIF and what else
    it would lose are added.

    Parameters
    ----------
    info : of the result; its metadata are the source's, not yet scaled
    scale : HR pixels an LR pixel
    block : (h, w) of a tile
    compress : a key of ``COMPRESSIONS``
    planar : whether each channel has tiles of its own
    pages : of the file that is written
    """
    meta, layout = info.metadata.raster, info.layout
    options: dict[str, Any] = {
        "driver": "GTiff",
        "height": info.shape[0],
        "width": info.shape[1],
        "count": layout.channels,
        "dtype": info.dtype.name,
        "tiled": True,
        "blockysize": block[0],
        "blockxsize": block[1],
        "interleave": "band" if planar else "pixel",
        "bigtiff": "YES",
        "sparse_ok": "TRUE",
        "endianness": "LITTLE",
        "photometric": "RGB" if layout.color == "rgb" or _begins_with_rgb(meta) else "MINISBLACK",
        # GDAL would take the first band beyond gray for it; of bands, their roles say which is alpha.
        "alpha": "NON-PREMULTIPLIED" if layout.alpha and layout.color != "bands" else "NO",
    }
    if info.dtype == np.float16:  # GDAL knows it as a way to store float32
        options |= {"dtype": "float32", "nbits": 16}
    if meta.get("crs"):
        options["crs"] = meta["crs"]
    if meta.get("transform"):
        options["transform"] = georeferencing.transform(meta["transform"], scale)
    if info.nodata is not None:
        options["nodata"] = info.nodata
    # The environment is the process's own: no side files, and GDAL's usual place for corners.
    with rasterio.Env(GTIFF_POINT_GEO_IGNORE="FALSE"), MemoryFile() as memory:
        with open_quietly(memory.name, mode="w", **options) as file:
            _set_items(file, info, scale, pages)
        memory.seek(0)
        made = tiff_head.Reader(io.BytesIO(memory.read())).page()
    fields = [tiff_head.numbers(_COMPRESSION, tiff_head.SHORT, COMPRESSIONS[compress])]
    if compress != "none":
        kind = 3 if info.dtype.kind == "f" else 2
        fields.append(tiff_head.numbers(_PREDICTOR, tiff_head.SHORT, kind))
    if info.top is not None:
        # The first holds 16 bits, and libtiff refuses files with more there.
        tag, type_ = (_MAX_VALUE, tiff_head.SHORT) if info.top < 2**16 else (_S_MAX_VALUE, tiff_head.LONG)
        fields.append(tiff_head.numbers(tag, type_, *[int(info.top)] * layout.channels))
    if info.metadata.icc:
        fields.append(Field(_ICC, tiff_head.UNDEFINED, info.metadata.icc))
    size = (info.shape[1], info.shape[0])
    if packet := xmp.scaled(info.metadata.xmp, scale, size):
        fields.append(Field(_XMP, tiff_head.BYTE, packet))
    made = made.without(tiff_head.TILE_OFFSETS, tiff_head.TILE_COUNTS)
    carried = meta.get("fields", ())
    if any(f.tag == _PHOTOMETRIC and f.numbers() != (0,) for f in carried):
        made = made.without(_EXTRA)  # there are other colours, so other channels are extra
    fields += carried
    if _complete(meta, pages):
        fields += meta.get("stack_fields", ())
    if resources := photoshop.scaled(meta.get("photoshop", b""), scale, turned=False):
        fields.append(Field(photoshop.FIELD, tiff_head.UNDEFINED, resources))
    block_of = exif.scaled(info.metadata.exif, scale, size)
    if not block_of:
        return made.with_fields(fields)
    # EXIF counts its bytes from its own beginning, and is a directory below this one here.
    camera = tiff_head.Reader(io.BytesIO(block_of.removeprefix(b"Exif\0\0"))).page()
    known = {f.tag for f in (*made.fields, *fields)}
    fields += [f for f in camera.fields if f.tag in _OF_CAMERA and f.tag not in known]
    return made.with_fields(fields, [(tag, d) for tag, d in camera.below if d.fields])


def mask_directory(shape: tuple[int, int], block: tuple[int, int]) -> Directory:
    """Describe the internal mask of a page: one bit a pixel (TIFF 6.0, NewSubfileType 4)."""
    (h, w), (bh, bw) = shape, block
    short, long = tiff_head.SHORT, tiff_head.LONG
    return Directory((
        tiff_head.numbers(254, long, 4),
        tiff_head.numbers(256, long, w),
        tiff_head.numbers(257, long, h),
        tiff_head.numbers(258, short, 1),
        tiff_head.numbers(_COMPRESSION, short, COMPRESSIONS["deflate"]),
        tiff_head.numbers(262, short, 4),
        tiff_head.numbers(277, short, 1),
        tiff_head.numbers(284, short, 1),
        tiff_head.numbers(322, long, bw),
        tiff_head.numbers(323, long, bh),
    ))  # fmt: skip


def _complete(meta: Any, pages: int) -> bool:
    """Return whether all pages of the source are written, with the axes that they have there."""
    return pages == meta.get("pages", 1) and not meta.get("rearranged")


def _begins_with_rgb(meta: Any) -> bool:
    roles = meta.get("colorinterp") or ()
    return tuple(roles[:3]) == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def _set_items(file: Any, info: ImageInfo, scale: int, pages: int) -> None:
    meta, layout = info.metadata.raster, info.layout
    if meta.get("gcps"):
        points, crs = meta["gcps"]
        file.gcps = (georeferencing.gcps(points, scale), crs or CRS())
    if meta.get("rpcs"):
        file.rpcs = georeferencing.rpcs(meta["rpcs"], scale)
    roles = meta.get("colorinterp")
    if roles is not None and len(roles) == layout.channels:
        file.colorinterp = roles
    elif layout.alpha:
        color = [ColorInterp(k) for k in (3, 4, 5)]
        if layout.color != "rgb":
            color = [ColorInterp.gray, *[ColorInterp.undefined] * (layout.colors - 1)]
        file.colorinterp = [*color, ColorInterp.alpha]
    for k, text in enumerate(meta.get("descriptions") or (), start=1):
        if text and k <= layout.channels:
            file.set_band_description(k, text)
    for name, plain in (("scales", 1.0), ("offsets", 0.0), ("units", None)):
        values = meta.get(name)
        if values is not None and len(values) == layout.channels and any(v != plain for v in values):
            setattr(file, name, values)
    for k, items in enumerate(meta.get("band_tags") or (), start=1):
        if items:
            file.update_tags(k, **items)
    for domain, items in (meta.get("domains") or {}).items():
        file.update_tags(ns=domain, **items)
    if tags := _tags(info, scale, pages):
        file.update_tags(**tags)


def _tags(info: ImageInfo, scale: int, pages: int) -> dict[str, str]:
    """Return TIFF's own texts and numbers by GDAL's names, whichever format they come from."""
    meta, texts = info.metadata.raster, info.metadata.texts
    tags = georeferencing.tags(meta.get("tags") or {}, scale)
    if _DESCRIPTION in tags:
        shape = (info.shape[0] // scale, info.shape[1] // scale)
        text = descriptions.scaled(
            tags.pop(_DESCRIPTION), scale, shape, pages=pages, complete=_complete(meta, pages)
        )
        if text is not None:
            tags[_DESCRIPTION] = text
    elif "Description" in texts:
        tags[_DESCRIPTION] = texts["Description"]
    for tag, name in TEXTS.items():
        if tag in tags or name not in texts or tag == _DESCRIPTION:
            continue
        date = _date(texts[name]) if name == "Creation Time" else texts[name]
        tags[tag if date else name] = date or texts[name]
    tags |= {name: texts[name] for name in OTHER_TEXTS if name in texts and name not in tags}
    dpi = info.metadata.dpi
    if dpi is not None and "TIFFTAG_XRESOLUTION" not in tags:
        tags |= {f"TIFFTAG_{a}RESOLUTION": repr(v * scale) for a, v in zip("XY", dpi, strict=True)}
        tags["TIFFTAG_RESOLUTIONUNIT"] = "2"
    return tags


def _date(text: str) -> str | None:
    """Return a date as TIFF writes it, from that, ISO 8601 or RFC 1123; None if it is none of them."""
    if _TIFF_DATE.fullmatch(text):
        return text
    if found := _ISO_DATE.match(text):
        return f"{found[1]}:{found[2]}:{found[3]} {found[4]}"
    date = parsedate(text)
    return "{:04}:{:02}:{:02} {:02}:{:02}:{:02}".format(*date[:6]) if date else None
