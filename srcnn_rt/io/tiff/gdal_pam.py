"""Names and attributes of classes, which GDAL keeps beside a TIFF: ``NAME.tif.aux.xml``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as Xml

from ..._system.safe_files import open_own, remove_own

SUFFIX = ".aux.xml"
_MAX_BYTES = 16 * 2**20
_KEPT = ("CategoryNames", "GDALRasterAttributeTable")
_PIXEL_COUNT = "1"  # GDAL's GFU_PixelCount


def scaled(source: Path, scale: int) -> bytes | None:
    """Return what a source's file says of its classes, for an image `scale` times larger; None if nothing.

    All else in it is in the TIFF itself, or is not true of another image.
    """
    path = source.with_name(source.name + SUFFIX)
    try:
        if not 0 < path.stat().st_size <= _MAX_BYTES:
            return None
        data = path.read_bytes()
        if b"<!" in data.replace(b"<!--", b"").replace(
            b"<![CDATA[", b""
        ):  # entities, which GDAL writes none of
            return None
        root = Xml.fromstring(data)
    except (OSError, Xml.ParseError, ValueError, LookupError):
        return None
    made = Xml.Element("PAMDataset")
    for band in root.iter("PAMRasterBand"):
        kept = [item for item in band if item.tag in _KEPT]
        for table in kept:
            _count_pixels(table, scale)
        if kept:
            Xml.SubElement(made, "PAMRasterBand", band.attrib).extend(kept)
    return Xml.tostring(made, "utf-8") if len(made) else None


def write(target: Path, data: bytes) -> None:
    """Put it beside a result, whole or not at all.

    Raises
    ------
    OSError, OutputError
    """
    import os

    path = target.with_name(target.name + SUFFIX)
    partial = path.with_name(path.name + ".partial")
    with open(open_own(partial), "wb") as file:  # noqa: PTH123 (a descriptor)
        file.truncate()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        partial.replace(path)
    except OSError:
        remove_own(partial)
        raise


def _count_pixels(table: Xml.Element, scale: int) -> None:
    """Multiply the counts of pixels of every class, of which there are more now."""
    uses = [field.findtext("Usage", "") for field in table.iter("FieldDefn")]
    for row in table.iter("Row"):
        for use, value in zip(uses, row.iter("F"), strict=False):
            if use == _PIXEL_COUNT and value.text:
                with suppress(ValueError):
                    value.text = str(int(value.text) * scale**2)
