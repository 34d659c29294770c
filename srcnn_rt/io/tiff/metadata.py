"""What a TIFF's page says beside its pixels, as an image's metadata."""

from __future__ import annotations

from typing import Any

from rasterio.transform import Affine

from ...image.info import Metadata, Reading
from ..metadata import exif, xmp
from ..metadata.header import decode_text
from . import ifd as tiff_head
from . import imagej, photoshop
from .ifd import Directory
from .photometric import PALETTE, PHOTOMETRIC, Kind

# What TIFF's own fields are called among an image's texts, by GDAL's names for them.
TEXTS = {
    "TIFFTAG_DOCUMENTNAME": "Title",
    "TIFFTAG_ARTIST": "Author",
    "TIFFTAG_IMAGEDESCRIPTION": "Description",
    "TIFFTAG_COPYRIGHT": "Copyright",
    "TIFFTAG_DATETIME": "Creation Time",
    "TIFFTAG_SOFTWARE": "Software",
}
_TEXT_FIELDS = {
    "TIFFTAG_DOCUMENTNAME": 269,
    "TIFFTAG_IMAGEDESCRIPTION": 270,
    "TIFFTAG_SOFTWARE": 305,
    "TIFFTAG_DATETIME": 306,
    "TIFFTAG_ARTIST": 315,
    "TIFFTAG_HOSTCOMPUTER": 316,
    "TIFFTAG_COPYRIGHT": 33432,
}
# PNG's keywords that TIFF has no field for; GDAL keeps them as items of its own.
OTHER_TEXTS = ("Comment", "Disclaimer", "Warning", "Source", "Creation Time")
# Structure, statistics and the range of the source are not those of the result.
_DERIVED_TAGS = (
    "STATISTICS_", "AREA_OR_POINT_", "OVERVIEWS", "LAYOUT", "TIFFTAG_MINSAMPLE", "TIFFTAG_MAXSAMPLE",
)  # fmt: skip
_DERIVED_DOMAINS = (
    "IMAGE_STRUCTURE", "COLOR_PROFILE", "RPC", "DERIVED_SUBDATASETS", "SUBDATASETS", "EXIF", "GEOLOCATION",
)  # fmt: skip
_ORIENTATION, _XMP, _ICC, _NODATA = 274, 700, 34675, 42113
# Carried as they are: maker and model, the place on the sheet, the page's name and number, white point and
# primaries, IPTC, Windows' rating and texts. Other private fields may tell the size of a pixel, which
# would not be true any more.
_CARRIED = (271, 272, 285, 286, 287, 297, 318, 319, 18246, 18249, 33723, *range(40091, 40096))
# Beside the EXIF directory: what a camera or scanner says of itself.
_CAMERA = (270, 271, 272, 305, 306, 315, 33432)


def orientation(file: Any, head: Directory) -> int:
    """Return how a page is to be turned: 1, not at all, if it is placed on the ground."""
    value = _stated_orientation(head)
    return value if 1 <= value <= 8 and not placed(file) else 1


def read(
    file: Any, head: Directory, kind: Kind, reading: Reading, turned: int, pages: int, overviews: bool
) -> Metadata:
    """Collect a page's metadata, for the upright image, not yet scaled.

    Parameters
    ----------
    file : the page, open in rasterio
    head : its directory
    reading : what its samples are taken for
    turned : as `orientation` says
    pages : of the whole file
    overviews : whether the page has any
    """
    items = file.tags()
    for name, tag in _TEXT_FIELDS.items():
        field = head.get(tag)
        if name not in items and field and field.type == tiff_head.ASCII:  # rasterio drops what is not UTF-8
            items[name] = decode_text(field.data)
    tags = _kept(items)
    if turned >= 5:
        tags = _swapped(tags)
    icc, packet, block = head.get(_ICC), head.get(_XMP), head.get(photoshop.FIELD)
    same_bands = kind.palette is None
    carried = [field for tag in (*_CARRIED, *kind.fields) if (field := head.get(tag))]
    if _stated_orientation(head) in range(2, 9) and turned == 1:
        carried.append(tiff_head.numbers(_ORIENTATION, tiff_head.SHORT, _stated_orientation(head)))
    if kind.colormap is not None:
        carried += [kind.colormap, tiff_head.numbers(PHOTOMETRIC, tiff_head.SHORT, PALETTE)]
    if kind.values_kept and not kind.signed and reading.nodata is None:
        # As it was written: GDAL's own digits would be others. It may be a value that no sample can have.
        carried += [field for field in [head.get(_NODATA)] if field]
    planar = file.interleaving is not None and file.interleaving.name == "band" and file.count > 1
    raster = {
        "crs": file.crs,
        "transform": None if file.transform == Affine.identity() else file.transform,
        "gcps": file.gcps if file.gcps[0] else None,
        "rpcs": file.rpcs,
        "descriptions": _descriptions(file) if same_bands else (),
        "scales": file.scales if kind.values_kept else (),
        "offsets": file.offsets if kind.values_kept else (),
        "units": file.units if kind.values_kept else (),
        "colorinterp": kind.roles,
        "signed": kind.signed,
        "tags": tags,
        "domains": {d: file.tags(ns=d) for d in file.tag_namespaces() if _is_private(d)},
        "band_tags": [_kept(file.tags(k)) for k in file.indexes] if same_bands else [],
        "statistics": any("STATISTICS_MEAN" in file.tags(k) for k in file.indexes),
        "overviews": overviews,
        "planar": planar,
        "fields": tuple(carried),
        "stack_fields": imagej.fields(head),
        "photoshop": photoshop.scaled(block.data, 1, turned=turned >= 5) if block else b"",
        "pages": pages,
        # Whether programs that count axes would count others now.
        "rearranged": turned >= 5 or not same_bands or (planar and kind.layout.color in ("gray", "rgb")),
    }
    return Metadata(
        icc=icc.data if icc else None,
        exif=exif.upright(_exif(head), turned),
        xmp=xmp.upright(packet.data.rstrip(b"\0"), turned) if packet else None,
        dpi=_dpi(tags),
        texts={name: tags[tag] for tag, name in TEXTS.items() if tag in tags}
        | {name: tags[name] for name in OTHER_TEXTS if name in tags},
        raster=raster,
    )


def _stated_orientation(head: Directory) -> int:
    field = head.get(_ORIENTATION)
    return field.numbers()[0] if field and field.numbers() else 1


def placed(file: Any) -> bool:
    """Return whether a page has a place on the ground."""
    return bool(file.crs or file.gcps[0] or file.rpcs or file.transform != Affine.identity())


def nodata_text(head: Directory) -> str:
    """Return GDAL's text of a nodata value, empty if there is none."""
    field = head.get(_NODATA)
    return decode_text(field.data) if field and field.type == tiff_head.ASCII else ""


def _descriptions(file: Any) -> tuple[str | None, ...]:
    try:
        return tuple(file.descriptions)
    except UnicodeDecodeError:  # rasterio reads nothing else
        return (None,) * int(file.count)


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
