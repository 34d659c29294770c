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


def truncated(data: bytes) -> bool:
    """Return whether a box or the content of an item is cut short."""
    if not isobmff.whole(data):
        return True
    try:
        places = isobmff.items(data).places
    except DamagedError:
        return False  # `declared` has a better message
    return any(at + length > len(data) for pieces in places.values() for at, length in pieces)


def animated(data: bytes) -> bool:
    """Return whether the file has a movie box, as image sequences have."""
    return any(kind == b"moov" for kind, _, _ in isobmff.walk(data, 0, len(data)))


def declared(data: bytes) -> Declared:
    """Return the size and sample type of the primary item."""
    found = isobmff.items(data)
    size, depth = None, (8, 3)
    for kind, a, b in found.properties.get(found.primary, []):
        if kind == b"ispe":
            _, width, height = isobmff.unpack(">III", data, a, b)
            size = width, height
        elif kind == b"av1C":
            depth = _depth(data, a, b)
        elif kind == b"pixi":
            _, count, first = isobmff.unpack(">IBB", data, a, b)
            depth = first, 1 if count == 1 else 3
    if size is None or not min(size):
        raise DamagedError("no size" if size is None else f"declares {size[0]} x {size[1]} pixels")
    return Declared(*size, depth[1] + _has_alpha(data, found), 2 if depth[0] > 8 else 1)


def bits(data: bytes) -> int:
    """Return the bits per sample that the AV1 decoder is configured for."""
    found = isobmff.items(data)
    candidates = [found.primary, *(to for kind, source, to in found.refers if kind == b"dimg")]
    for item in candidates:
        for kind, a, b in found.properties.get(item, []):
            if kind == b"av1C":
                return _depth(data, a, b)[0]
    raise DamagedError("no bit depth")


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


def _depth(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Return bits per sample and number of color channels from an av1C property."""
    flags = isobmff.unpack(">4B", data, start, stop)[2]
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8, 1 if flags & 0x10 else 3


def _has_alpha(data: bytes, found: isobmff.Items) -> bool:
    of = {source for kind, source, to in found.refers if kind == b"auxl" and to == found.primary}
    return any(
        kind == b"auxC" and _ALPHA in data[a:b]
        for item in of
        for kind, a, b in found.properties.get(item, [])
    )
