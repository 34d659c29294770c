"""AVIF: size, bit depth, color, orientation, EXIF and XMP from the meta box."""

from __future__ import annotations

from ..metadata.header import DamagedError, Declared, Found
from . import isobmff

_UNSPECIFIED = 2  # color primaries or transfer
_XMP = b"application/rdf+xml"
_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
# EXIF orientations by mirroring (none, top to bottom, left to right) and the counterclockwise rotation before
# it in steps of 90 degrees.
_TURNS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


def recognised(head: bytes) -> bool:
    """Return whether a file begins with a file type box that has a brand of AVIF."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[k : k + 4] for k in range(16, end - 3, 4))]
    return b"avif" in brands or b"avis" in brands


def animated(data: bytes) -> bool:
    """Return whether the file has a movie box, as image sequences have."""
    return any(kind == b"moov" for kind, _, _ in isobmff.walk(data, 0, len(data)))


def declared(data: bytes) -> Declared:
    """Return the size and sample type of the primary item."""
    found = isobmff.items(data)
    sizes = [(a, b) for kind, a, b in found.properties.get(found.primary, []) if kind == b"ispe"]
    if not sizes:
        raise DamagedError("no size")
    size = isobmff.Reader(data, *sizes[-1])
    _, width, height = (size.number(4) for _ in range(3))
    if not (width and height):
        raise DamagedError(f"declares {width} x {height} pixels")
    depth, colors = _decoder(data, found)
    return Declared(width, height, colors + _has_alpha(data, found), 2 if depth > 8 else 1)


def bits(data: bytes) -> int:
    """Return the bits per sample."""
    return _decoder(data, isobmff.items(data))[0]


def read(data: bytes) -> Found:
    """Return the metadata; the container's orientation takes precedence over EXIF's.

    Color that is described by numbers (nclx) is returned as a cICP chunk of PNG for full-range RGB, which is
    what samples are decoded to.
    """
    found = Found(orientation=1)
    try:
        meta = isobmff.items(data)
    except DamagedError:
        return found
    angle, axis = 0, None
    for kind, a, b in meta.properties.get(meta.primary, []):
        if kind == b"irot" and a < b:
            angle = data[a] & 3
        elif kind == b"imir" and a < b:
            axis = data[a] & 1
        elif kind == b"colr" and data[a : a + 4] in (b"prof", b"rICC"):
            found.icc = data[a + 4 : b] or None
        elif kind == b"colr" and data[a : a + 4] == b"nclx" and b - a >= 10:
            named = data[a + 5], data[a + 7]
            found.color |= {} if _UNSPECIFIED in named else {"cICP": bytes([*named, 0, 1])}
    found.orientation = _TURNS[axis][angle]
    for item, kind in meta.kinds.items():
        if kind == b"Exif":
            found.keep("exif", isobmff.exif(meta.content(data, item)))
        elif kind == _XMP:
            found.keep("xmp", meta.content(data, item))
    return found


def with_color(coded: bytes, color: bytes) -> bytes:
    """Return an encoded image with the color primaries and transfer of a cICP chunk."""
    meta = isobmff.items(coded)
    out = bytearray(coded)
    for kind, a, b in meta.properties.get(meta.primary, []):
        if kind == b"colr" and coded[a : a + 4] == b"nclx" and b - a >= 10:
            out[a + 4 : a + 8] = bytes([0, color[0], 0, color[1]])
    return bytes(out)


def _decoder(data: bytes, found: isobmff.Items) -> tuple[int, int]:
    """Return bits per sample and number of color channels that the AV1 decoder is configured for."""
    for item in (found.primary, *(to for kind, _, to in found.refers if kind == b"dimg")):
        for kind, a, b in found.properties.get(item, []):
            if kind == b"av1C":
                flags = isobmff.Reader(data, a, b).number(4) >> 8
                return (12 if flags & 0x20 else 10) if flags & 0x40 else 8, 1 if flags & 0x10 else 3
    raise DamagedError("no bit depth")


def _has_alpha(data: bytes, found: isobmff.Items) -> bool:
    of = {source for kind, source, to in found.refers if kind == b"auxl" and to == found.primary}
    return any(
        kind == b"auxC" and _ALPHA in data[a:b]
        for item in of
        for kind, a, b in found.properties.get(item, [])
    )
