"""Reads the metadata of a TIFF page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rasterio.enums import ColorInterp

from ...image.info import Metadata
from ..metadata import exif, xmp
from ..metadata.header import decode_text
from . import imagej, photoshop
from .gdal import OpenPage
from .ifd import ASCII, EXIF_DIRECTORY, GPS_DIRECTORY, SHORT, Directory, Field, encode
from .photometric import PALETTE, PHOTOMETRIC, Interpretation

# PNG keywords of TIFF's text fields by GDAL's names.
TEXTS = {
    "TIFFTAG_DOCUMENTNAME": "Title",
    "TIFFTAG_ARTIST": "Author",
    "TIFFTAG_IMAGEDESCRIPTION": "Description",
    "TIFFTAG_COPYRIGHT": "Copyright",
    "TIFFTAG_DATETIME": "Creation Time",
    "TIFFTAG_SOFTWARE": "Software",
}
_TEXT_TAGS = {name: exif.TEXT_TAGS[key] for name, key in TEXTS.items()} | {"TIFFTAG_HOSTCOMPUTER": 316}
# PNG keywords without a TIFF field. GDAL stores them in its own metadata.
OTHER_TEXTS = ("Comment", "Disclaimer", "Warning", "Source", "Creation Time")
# Structure, statistics and value range are those of the source only.
_DERIVED_TAGS = (
    "STATISTICS_", "AREA_OR_POINT_", "OVERVIEWS", "LAYOUT", "TIFFTAG_MINSAMPLE", "TIFFTAG_MAXSAMPLE",
)  # fmt: skip
_DERIVED_DOMAINS = (
    "IMAGE_STRUCTURE", "COLOR_PROFILE", "RPC", "DERIVED_SUBDATASETS", "SUBDATASETS", "EXIF", "GEOLOCATION",
)  # fmt: skip
XMP, ICC, _ORIENTATION, _NODATA = 700, 34675, 274, 42113
# Copied unchanged: maker and model, position on the sheet, page name and number, white point and primaries,
# IPTC, Windows' rating and texts. Other private fields may state the pixel size, which changes.
_COPIED = (271, 272, 285, 286, 287, 297, 318, 319, 18246, 18249, 33723, *range(40091, 40096))
# Fields of a camera or scanner that belong to the EXIF directory.
_CAMERA = (270, 271, 272, 305, 306, 315, 33432)
_RESOLUTIONS = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")


@dataclass(frozen=True, slots=True)
class TiffMetadata:
    """Metadata that only TIFF can store, not yet updated for the result.

    Attributes
    ----------
    bands : mapping of str to sequence
        Values by band: ``descriptions``, the names of the bands; ``scales``, ``offsets`` and ``units``, the
        linear conversion of samples to physical values.
    colorinterp : tuple of ColorInterp or None
        GDAL's color interpretation of the bands; None for the usual one of the layout.
    signed : slice, optional
        Channels to convert back to two's complement.
    tags : mapping of str to str
        GDAL's metadata items of the page, TIFF's text fields among them.
    domains : mapping of str to mapping
        Metadata items in other domains, by domain.
    band_tags : sequence of mapping
        Metadata items by band.
    statistics : bool
        Whether the page has statistics.
    planar : bool
        Whether each channel is stored separately.
    fields : tuple of Field
        Fields to copy unchanged.
    stack_fields : tuple of Field
        Fields to copy if the result has all pages of the source.
    photoshop : bytes
        Photoshop's image resources.
    pages : int
        Number of pages in the source; 0 if the result has other axes, such as RGB from a palette.
    """

    bands: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    colorinterp: tuple[ColorInterp, ...] | None = None
    signed: slice | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    domains: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    band_tags: Sequence[Mapping[str, str]] = ()
    statistics: bool = False
    planar: bool = False
    fields: tuple[Field, ...] = ()
    stack_fields: tuple[Field, ...] = ()
    photoshop: bytes = b""
    pages: int = 1

    @classmethod
    def of(cls, metadata: Metadata) -> TiffMetadata:
        """Return what a TIFF left in an image's metadata, empty for other formats."""
        return metadata.private if isinstance(metadata.private, cls) else cls()

    def complete(self, pages: int) -> bool:
        """Return whether a result of `pages` pages has all pages of the source, with the same axes."""
        return pages == self.pages


def applied_orientation(page: OpenPage) -> int:
    """Return the orientation to apply to a page, 1 to 8; georeferenced pages are never turned."""
    return 1 if page.georeference else _declared_orientation(page.ifd)


def read(page: OpenPage, interpretation: Interpretation, orientation: int) -> Metadata:
    """Collect the metadata of a page: those of the upright image, at the source's resolution.

    Parameters
    ----------
    page : OpenPage
        The page.
    interpretation : Interpretation
        How its samples are decoded.
    orientation : int
        As returned by `applied_orientation`.
    """
    file, ifd, transposed = page.file, page.ifd, orientation >= 5
    items = file.tags()
    for name, tag in _TEXT_TAGS.items():
        entry = ifd.get(tag)
        if name not in items and entry and entry.type == ASCII:  # rasterio skips texts that are not UTF-8
            items[name] = decode_text(entry.data)
    tags = _without_derived(items)
    if transposed:
        x, y = _RESOLUTIONS
        tags |= {a: tags[b] for a, b in ((x, y), (y, x)) if b in tags}
    same_bands, values_kept = interpretation.palette is None, interpretation.values_kept
    interleaved = page.planar and interpretation.layout.color in ("gray", "rgb")
    same_axes = same_bands and not (transposed or interleaved)
    copied = [entry for tag in (*_COPIED, *interpretation.fields) if (entry := ifd.get(tag))]
    declared = _declared_orientation(ifd)
    if declared != orientation:  # a georeferenced page is not turned
        copied.append(Field.of(_ORIENTATION, SHORT, declared))
    if interpretation.colormap is not None:
        copied += [interpretation.colormap, Field.of(PHOTOMETRIC, SHORT, PALETTE)]
    nodata = ifd.get(_NODATA)
    if nodata and values_kept and not interpretation.signed and page.reading.nodata is None:
        # GDAL would write other digits. The value may also be one that no sample can have.
        copied.append(nodata)
    bands = {name: getattr(file, name) for name in ("scales", "offsets", "units") if values_kept}
    with suppress(UnicodeDecodeError):  # rasterio only decodes UTF-8
        bands |= {"descriptions": file.descriptions} if same_bands else {}
    packet = ifd.get(XMP)
    return Metadata(
        icc=ifd.data(ICC) or None,
        exif=exif.upright(_exif(ifd), orientation),
        xmp=xmp.upright(packet.data.rstrip(b"\0"), orientation) if packet else None,
        dpi=_dpi(tags),
        texts={name: tags[tag] for tag, name in TEXTS.items() if tag in tags}
        | {name: tags[name] for name in OTHER_TEXTS if name in tags},
        georeference=page.georeference,
        overviews=page.overviews or bool(file.overviews(1)),
        colormap=interpretation.colormap is not None,
        private=TiffMetadata(
            bands=bands,
            colorinterp=interpretation.roles,
            signed=interpretation.signed,
            tags=tags,
            domains={d: file.tags(ns=d) for d in file.tag_namespaces() if _is_private(d)},
            band_tags=[_without_derived(file.tags(k)) for k in file.indexes] if same_bands else (),
            statistics=any("STATISTICS_MEAN" in file.tags(k) for k in file.indexes),
            planar=page.planar,
            fields=tuple(copied),
            stack_fields=imagej.fields(ifd),
            photoshop=photoshop.scaled(ifd.data(photoshop.FIELD), 1, transposed=transposed),
            pages=page.pages if same_axes else 0,
        ),
    )


def nodata_text(ifd: Directory) -> str:
    """Return the text of GDAL's nodata value, empty if there is none."""
    entry = ifd.get(_NODATA)
    return decode_text(entry.data) if entry and entry.type == ASCII else ""


def _declared_orientation(ifd: Directory) -> int:
    value = ifd.number(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _dpi(tags: dict[str, str]) -> tuple[float, float] | None:
    """Return pixels per inch; resolution unit 2 is the inch, 3 the centimetre."""
    unit = tags.get("TIFFTAG_RESOLUTIONUNIT", "2")[:1]
    try:
        x, y = (float(tags[name]) for name in _RESOLUTIONS)
    except (KeyError, ValueError):
        return None
    factor = {"2": 1.0, "3": 2.54}.get(unit)
    return (x * factor, y * factor) if factor and x > 0 and y > 0 else None


def _exif(ifd: Directory) -> bytes | None:
    """Return the EXIF and GPS directories as a block of their own, as JPEG and PNG store them."""
    below = [f for f in ifd.fields if f.tag in (EXIF_DIRECTORY, GPS_DIRECTORY) and f.below and f.below.fields]
    camera = [f for f in ifd.fields if f.tag in _CAMERA]
    return encode([Directory((*camera, *below))], big=False) if below else None


def _is_private(domain: str) -> bool:
    return not domain.startswith("xml:") and domain not in _DERIVED_DOMAINS


def _without_derived(tags: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in tags.items() if not k.startswith(_DERIVED_TAGS)}
