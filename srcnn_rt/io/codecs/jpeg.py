"""JPEG: parsing the segments, and inserting metadata."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator

from ...image.info import Metadata
from ..metadata.header import MAX_BLOCK, MAX_TEXT, DamagedError, Declared, Found, decode_text

SIGNATURE = b"\xff\xd8\xff"
_APP0, _APP1, _APP2, _COM, _SOS, _EOI = 0xE0, 0xE1, 0xE2, 0xFE, 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_MAX = 65_533  # bytes of a segment's content
MAX_EXIF = _MAX - 6
# In compressed data 0xFF is followed by 0x00, a restart marker or 0xFF as padding; any other byte begins the
# next segment.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each whole segment up to the end marker, and the start and end of its content.

    Compressed data are skipped.
    """
    at = 2
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _EOI:
            yield marker, at + 2, at + 2
            return
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not at + 4 <= stop <= len(data):
            return
        yield marker, at + 4, stop
        at = stop
        if marker == _SOS:
            found = _MARKER.search(data, at)
            at = found.start() if found else len(data)


def truncated(data: bytes) -> bool:
    """Return whether segments and scans end before the end marker of the image.

    The last two bytes of the file do not tell: thumbnails have end markers too, and cameras append data.
    """
    return all(marker != _EOI for marker, _, _ in segments(data))


def frame(data: bytes) -> tuple[int, ...]:
    """Return the frame header: its marker, bits per sample, height, width and number of components.

    Raises
    ------
    DamagedError
        If there is no complete one.
    """
    for marker, start, stop in segments(data):
        if marker in _FRAMES:
            content = data[start:stop]
            if len(content) < 6 or len(content) < 6 + 3 * content[5]:
                break
            return marker, *struct.unpack(">BHHB", content[:6])
    raise DamagedError("no complete frame header")


def declared(data: bytes) -> Declared:
    """Return the size and sample type from the frame header; CMYK counts as the RGB it is converted to."""
    _, bits, height, width, components = frame(data)
    if not (width and height):
        raise DamagedError(f"declares {width} x {height} pixels")
    if components not in (1, 3, 4):
        raise DamagedError(f"declares {components} components; 1, 3 or 4 are supported")
    return Declared(width, height, min(components, 3), 2 if bits > 8 else 1)


def min_bytes(data: bytes) -> int:
    """Return the smallest size in bytes of a file with this header.

    Each block of 64 samples has at least one Huffman code, of at least one bit. Arithmetic coding has no such
    bound.
    """
    marker, _, height, width, _ = frame(data)
    return 0 if marker > 0xC7 else height * width // (64 * 8)


def read(data: bytes) -> Found:
    """Return the metadata; damaged segments are ignored."""
    found = Found()
    profile: dict[int, bytes] = {}
    parts = 0
    for marker, start, stop in segments(data):
        if marker == _SOS:
            break
        content = data[start:stop]
        if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 12:
            unit, x, y = struct.unpack(">BHH", content[7:12])
            inch = {1: 1.0, 2: 2.54}.get(unit)
            if inch and x and y:
                found.dpi = x * inch, y * inch
        elif marker == _APP1 and content.startswith(_EXIF):
            found.keep("exif", content)
        elif marker == _APP1 and content.startswith(_XMP):
            found.keep("xmp", content[len(_XMP) :])
        elif marker == _APP2 and content.startswith(_ICC) and len(content) > 14:
            parts = content[13]
            profile.setdefault(content[12], content[14:])
        elif marker == _COM and content:
            said = decode_text(content[:MAX_TEXT]).strip()
            if said:
                before = found.texts.get("Comment")
                found.texts["Comment"] = f"{before}\n{said}" if before else said
    if parts and sorted(profile) == list(range(1, parts + 1)):
        whole = b"".join(profile[k] for k in sorted(profile))
        found.icc = whole if len(whole) <= MAX_BLOCK else None
    return found


def insert(coded: bytes, metadata: Metadata) -> bytes:
    """Return an encoded image with JFIF, EXIF, XMP, profile and comments, in this order."""
    parts = [_segment(_APP0, b"JFIF\0\1\2" + _density(metadata.dpi) + b"\0\0")]
    for name, prefix, block in (("EXIF", _EXIF, metadata.exif), ("XMP", _XMP, metadata.xmp)):
        size = len(prefix) + len(block or b"")
        if size > _MAX:
            warnings.warn(
                f"a JPEG segment holds {_MAX} bytes, so {size} bytes of {name} are left out",
                RuntimeWarning,
                stacklevel=2,
            )
        elif block:
            parts.append(_segment(_APP1, prefix + block))
    if metadata.icc:
        step = _MAX - len(_ICC) - 2
        pieces = [metadata.icc[k : k + step] for k in range(0, len(metadata.icc), step)]
        if len(pieces) <= 255:
            head = [_ICC + bytes([k, len(pieces)]) for k in range(1, len(pieces) + 1)]
            parts += [_segment(_APP2, a + b) for a, b in zip(head, pieces, strict=True)]
    comment = metadata.texts.get("Comment", "").encode()
    parts += [_segment(_COM, comment[k : k + _MAX]) for k in range(0, len(comment), _MAX)]
    view, rest = memoryview(coded), 2
    for marker, _, stop in segments(coded):  # replaces the encoder's JFIF segment
        if marker != _APP0:
            break
        rest = stop
    return b"".join([view[:2], *parts, view[rest:]])


def _density(dpi: tuple[float, float] | None) -> bytes:
    """Return unit, x and y: pixels per inch, or per centimetre if these do not fit into 16 bits."""
    if dpi:
        for unit, inch in ((1, 1.0), (2, 2.54)):
            x, y = (round(v / inch) for v in dpi)
            if 0 < x < 2**16 and 0 < y < 2**16:
                return struct.pack(">BHH", unit, x, y)
    return struct.pack(">BHH", 0, 1, 1)


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
