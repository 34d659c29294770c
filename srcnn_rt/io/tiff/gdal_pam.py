"""GDAL's auxiliary metadata (PAM) file ``NAME.tif.aux.xml``: names and attributes of classes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as Xml

from ..._system.safe_files import atomic_write

SUFFIX = ".aux.xml"
_MAX_BYTES = 16 * 2**20
_KEPT = ("CategoryNames", "GDALRasterAttributeTable")
_PIXEL_COUNT = "1"  # GDAL's GFU_PixelCount


def scaled(source: Path, scale: int) -> bytes | None:
    """Return the class names and attributes of a source for an enlarged image; None if it has none.

    Everything else in the file is stored in the TIFF itself or does not apply to the result.
    """
    path = source.with_name(source.name + SUFFIX)
    try:
        if not 0 < path.stat().st_size <= _MAX_BYTES:
            return None
        data = path.read_bytes()
        # Refuse entity declarations, which can expand without bound and which GDAL never writes.
        if b"<!" in data.replace(b"<!--", b"").replace(b"<![CDATA[", b""):
            return None
        root = Xml.fromstring(data)
    except (OSError, Xml.ParseError, ValueError, LookupError):
        return None
    made = Xml.Element("PAMDataset")
    for band in root.iter("PAMRasterBand"):
        kept = [item for item in band if item.tag in _KEPT]
        for table in kept:
            _scale_pixel_counts(table, scale)
        if kept:
            Xml.SubElement(made, "PAMRasterBand", band.attrib).extend(kept)
    return Xml.tostring(made, "utf-8") if len(made) else None


def write(target: Path, data: bytes) -> None:
    """Write the auxiliary file of a result atomically.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_write(target.with_name(target.name + SUFFIX)) as file:
        file.write(data)


def _scale_pixel_counts(table: Xml.Element, scale: int) -> None:
    """Multiply the number of pixels of each class by the growth of the area."""
    uses = [field.findtext("Usage", "") for field in table.iter("FieldDefn")]
    for row in table.iter("Row"):
        for use, value in zip(uses, row.iter("F"), strict=False):
            if use == _PIXEL_COUNT and value.text:
                with suppress(ValueError):
                    value.text = str(int(value.text) * scale**2)
