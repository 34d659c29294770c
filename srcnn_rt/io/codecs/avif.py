"""AVIF's meta box: size, color, how the image is turned, EXIF and XMP."""

from __future__ import annotations

from ..metadata.header import DamagedError, Declared, Found, without_prefix
from . import isobmff

_UNSAID = 2  # primaries or transfer
_XMP = b"application/rdf+xml"
_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
# EXIF's number for a rotation by 0, 90, 180, 270 degrees against the clock, and after it no
# mirroring, one that exchanges top and bottom (axis 0), or left and right (axis 1).
_TURNS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


def recognised(head: bytes) -> bool:
    """Return whether a file type box names AVIF among its brands."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[k : k + 4] for k in range(16, end - 3, 4))]
    return b"avif" in brands or b"avis" in brands


def truncated(data: bytes) -> bool:
    """Every box must be whole, and every item's bytes there."""
    if not isobmff.whole(data):
        return True
    try:
        places = isobmff.items(data).places
    except DamagedError:
        return False  # its own message is better
    return any(at + length > len(data) for pieces in places.values() for at, length in pieces)


def animated(data: bytes) -> bool:
    """A sequence has a movie box."""
    return any(kind == b"moov" for kind, _, _ in isobmff.walk(data, 0, len(data)))


def declared(data: bytes) -> Declared:
    """Return what the properties of the primary item say."""
    found = isobmff.items(data)
    size, depth = None, (8, 3)
    for kind, a, b in found.properties.get(found.primary, []):
        if kind == b"ispe":
            _, width, height = isobmff.unpack(">III", data, a, b)
            size = width, height
        elif kind == b"av1C":
            bits = isobmff.unpack(">4B", data, a, b)[2]
            gray = bits & 0x10
            depth = (12 if bits & 0x20 else 10) if bits & 0x40 else 8, 1 if gray else 3
        elif kind == b"pixi":
            _, count, first = isobmff.unpack(">IBB", data, a, b)
            depth = first, 1 if count == 1 else 3
    if size is None or not min(size):
        raise DamagedError("declares no size" if size is None else f"declares {size[0]} x {size[1]} pixels")
    return Declared(*size, depth[1] + _has_alpha(data, found), 2 if depth[0] > 8 else 1)


def bits(data: bytes) -> int:
    """Return the bits of a sample, from the coder's own configuration."""
    found = isobmff.items(data)
    candidates = [found.primary, *(to for kind, source, to in found.refers if kind == b"dimg")]
    for item in candidates:
        for kind, a, b in found.properties.get(item, []):
            if kind == b"av1C":
                flags = isobmff.unpack(">4B", data, a, b)[2]
                return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    raise DamagedError("does not say how many bits a sample has")


def read(data: bytes) -> Found:
    """Return the metadata; the container's own turn overrules EXIF's, which then only informs.

    Its color, by name rather than by profile, is given as PNG's cICP: samples are decoded to RGB
    of full range.
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
            found.color |= {} if _UNSAID in named else {"cICP": bytes([*named, 0, 1])}
    found.orientation = _TURNS[axis][angle]
    for item, kind in meta.kinds.items():
        content = meta.content(data, item) if kind in (b"Exif", _XMP) else b""
        if kind == b"Exif" and len(content) > 4:
            at = 4 + int.from_bytes(content[:4], "big")  # where its TIFF header begins
            found.exif = found.exif or without_prefix(content[at:])
        elif kind == _XMP:
            found.xmp = found.xmp or content or None
    return found


def with_color(coded: bytes, color: bytes) -> bytes:
    """Return a coded image whose primaries and transfer are those of a cICP chunk."""
    meta = isobmff.items(coded)
    out = bytearray(coded)
    for kind, a, b in meta.properties.get(meta.primary, []):
        if kind == b"colr" and coded[a : a + 4] == b"nclx" and b - a >= 10:
            out[a + 4 : a + 8] = bytes([0, color[0], 0, color[1]])
    return bytes(out)


def _has_alpha(data: bytes, found: isobmff.Items) -> bool:
    of = {source for kind, source, to in found.refers if kind == b"auxl" and to == found.primary}
    return any(
        kind == b"auxC" and _ALPHA in data[a:b]
        for item in of
        for kind, a, b in found.properties.get(item, [])
    )
