"""Builds the directory of a new page: GDAL's fields and the metadata that GDAL would drop."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from ...image.info import ImageInfo
from ..metadata import exif, xmp
from . import descriptions, georeferencing, photoshop
from .gdal import open_quietly
from .ifd import BYTE, LONG, SHORT, SUBFILE_TYPE, UNDEFINED, Directory, Field, Reader
from .metadata import ICC, OTHER_TEXTS, TEXTS, XMP, TiffMetadata
from .photometric import EXTRA_SAMPLES, MAX_SAMPLE_VALUE, PHOTOMETRIC, S_MAX_SAMPLE_VALUE

COMPRESSIONS = {"none": 1, "lzw": 5, "deflate": 8, "zstd": 50000}
_COMPRESSION, _PREDICTOR = 259, 317
# Fields of EXIF's first directory that GDAL has no item for: maker, model, Windows' rating and texts.
_CAMERA = (271, 272, 18246, 18249, *range(40091, 40096))
_DESCRIPTION = "TIFFTAG_IMAGEDESCRIPTION"
_BAND_DEFAULTS = {"scales": 1.0, "offsets": 0.0}
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def page_directory(
    info: ImageInfo, scale: int, side: int, compress: str, planar: bool, pages: int = 1
) -> Directory:
    """Return the directory of a tiled page; the offsets and sizes of its tiles are those of an empty file.

    GDAL writes an empty file with the same properties in memory, from which the fields are taken. So
    georeference, band names and nodata are stored as GDAL stores them. XMP, EXIF and other fields that GDAL
    would drop are added.

    Parameters
    ----------
    info : ImageInfo
        The result; its metadata are those of the source.
    scale : int
        Scale factor.
    side : int
        Height and width of a tile.
    compress : str
        A key of `COMPRESSIONS`.
    planar : bool
        Whether each channel has its own tiles.
    pages : int
        Number of pages of the result.
    """
    tiff, metadata, layout = TiffMetadata.of(info.metadata), info.metadata, info.layout
    made = _gdal_directory(info, scale, side, planar, pages)
    fields = [Field.of(_COMPRESSION, SHORT, COMPRESSIONS[compress])]
    if compress != "none":
        fields.append(Field.of(_PREDICTOR, SHORT, 3 if info.dtype.kind == "f" else 2))
    if info.top is not None:
        # MaxSampleValue holds 16 bits, and libtiff refuses files with more in it.
        tag, type_ = (MAX_SAMPLE_VALUE, SHORT) if info.top < 2**16 else (S_MAX_SAMPLE_VALUE, LONG)
        fields.append(Field.of(tag, type_, *[int(info.top)] * layout.channels))
    if metadata.icc:
        fields.append(Field(ICC, UNDEFINED, metadata.icc))
    size = (info.shape[1], info.shape[0])
    if packet := xmp.scaled(metadata.xmp, scale, size):
        fields.append(Field(XMP, BYTE, packet))
    if any(f.tag == PHOTOMETRIC and f.numbers() != (0,) for f in tiff.fields):
        made = made.without(EXTRA_SAMPLES)  # a color space with other channels has other extra samples
    fields += tiff.fields
    if tiff.complete(pages):
        fields += tiff.stack_fields
    if resources := photoshop.scaled(tiff.photoshop, scale, transposed=False):
        fields.append(Field(photoshop.FIELD, UNDEFINED, resources))
    if block := exif.scaled(metadata.exif, scale, size):
        # Offsets in an EXIF block count from its start. In a TIFF it becomes a subdirectory.
        camera = Reader(io.BytesIO(block.removeprefix(b"Exif\0\0"))).page()
        known = {f.tag for f in (*made.fields, *fields)}
        fields += [f for f in camera.fields if f.tag in _CAMERA and f.tag not in known]
        fields += [f for f in camera.fields if f.below and f.below.fields]
    return made.with_fields(fields)


def mask_directory(shape: tuple[int, int], side: int) -> Directory:
    """Return the directory of a page's internal mask, 1 bit per pixel (TIFF 6.0, transparency mask)."""
    longs = {SUBFILE_TYPE: 4, 256: shape[1], 257: shape[0], 322: side, 323: side}
    shorts = {258: 1, _COMPRESSION: COMPRESSIONS["deflate"], PHOTOMETRIC: 4, 277: 1, 284: 1}
    fields = [Field.of(tag, LONG, value) for tag, value in longs.items()]
    return Directory((*fields, *(Field.of(tag, SHORT, value) for tag, value in shorts.items())))


def _gdal_directory(info: ImageInfo, scale: int, side: int, planar: bool, pages: int) -> Directory:
    """Return the directory that GDAL writes for an empty file with the same properties."""
    tiff, layout, place = TiffMetadata.of(info.metadata), info.layout, info.metadata.georeference
    begins_with_rgb = tuple((tiff.colorinterp or ())[:3]) == _RGB
    options: dict[str, Any] = {
        "height": info.shape[0],
        "width": info.shape[1],
        "count": layout.channels,
        "dtype": info.dtype.name,
        "tiled": True,
        "blockysize": side,
        "blockxsize": side,
        "interleave": "band" if planar else "pixel",
        "bigtiff": "YES",
        "sparse_ok": "TRUE",
        "endianness": "LITTLE",
        "photometric": "RGB" if layout.color == "rgb" or begins_with_rgb else "MINISBLACK",
        # GDAL would take the first band after gray for alpha. Bands have roles that say which one is.
        "alpha": "NON-PREMULTIPLIED" if layout.alpha and layout.color != "bands" else "NO",
    }
    if info.dtype == np.float16:  # in GDAL a storage option of float32
        options |= {"dtype": "float32", "nbits": 16}
    if place.crs:
        options["crs"] = place.crs
    if place.transform:
        options["transform"] = georeferencing.scaled_transform(place.transform, scale)
    if info.nodata is not None:
        options["nodata"] = info.nodata
    # Ignore the host process's GDAL configuration: corners are stored where GDAL puts them by default.
    with rasterio.Env(GTIFF_POINT_GEO_IGNORE="FALSE"), MemoryFile() as memory:
        with open_quietly(memory.name, mode="w", **options) as file:
            _set_items(file, info, tiff, scale, pages)
        memory.seek(0)
        return Reader(io.BytesIO(memory.read())).page()


def _set_items(file: Any, info: ImageInfo, tiff: TiffMetadata, scale: int, pages: int) -> None:
    layout, place, roles = info.layout, info.metadata.georeference, tiff.colorinterp
    if place.gcps:
        points, crs = place.gcps
        file.gcps = (georeferencing.scaled_gcps(points, scale), crs or CRS())
    if place.rpcs:
        file.rpcs = georeferencing.scaled_rpcs(place.rpcs, scale)
    if roles is not None and len(roles) == layout.channels:
        file.colorinterp = roles
    elif layout.alpha:
        gray = (ColorInterp.gray, *[ColorInterp.undefined] * (layout.colors - 1))
        file.colorinterp = (*(_RGB if layout.color == "rgb" else gray), ColorInterp.alpha)
    for name, values in tiff.bands.items():
        if len(values) == layout.channels and any(v != _BAND_DEFAULTS.get(name) for v in values):
            setattr(file, name, values)
    for k, items in enumerate(tiff.band_tags, start=1):
        if items:
            file.update_tags(k, **items)
    for domain, items in tiff.domains.items():
        file.update_tags(ns=domain, **items)
    if tags := _tags(info, tiff, scale, pages):
        file.update_tags(**tags)


def _tags(info: ImageInfo, tiff: TiffMetadata, scale: int, pages: int) -> dict[str, str]:
    """Return the texts and the resolution by GDAL's names, whatever the format of the source."""
    tags, texts, shape = dict(tiff.tags), info.metadata.texts, info.shape
    for key in ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION"):
        if key in tags:  # the print size stays the same
            try:
                tags[key] = repr(float(tags[key]) * scale)
            except ValueError:  # GDAL would write 0
                del tags[key]
    for tag, name in TEXTS.items():
        if tag not in tags and name in texts:
            date = exif.date(texts[name]) if name == "Creation Time" else texts[name]
            tags[tag if date else name] = date or texts[name]
    if _DESCRIPTION in tiff.tags:
        before = (shape[0] // scale, shape[1] // scale)
        source = tags.pop(_DESCRIPTION)
        text = descriptions.scaled(source, scale, before, pages=pages, complete=tiff.complete(pages))
        tags |= {_DESCRIPTION: text} if text is not None else {}
    tags |= {name: texts[name] for name in OTHER_TEXTS if name in texts and name not in tags}
    dpi = info.metadata.dpi
    if dpi is not None and "TIFFTAG_XRESOLUTION" not in tags:
        tags |= {f"TIFFTAG_{a}RESOLUTION": repr(v * scale) for a, v in zip("XY", dpi, strict=True)}
        tags["TIFFTAG_RESOLUTIONUNIT"] = "2"
    return tags
