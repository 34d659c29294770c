"""Is the file whole, and one picture? Decoders fill what is missing with gray and drop frames."""

from __future__ import annotations

import re

# In a JPEG's compressed data 0xFF is followed by 0x00 or a restart marker; any other
# byte (0xFF is padding) begins the next segment.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def truncated_png(data: bytes) -> bool:
    """Walk a PNG's chunks; the last must be a whole IEND."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return False
        at += 12 + size
    return True


def truncated_jpeg(data: bytes) -> bool:
    """Walk a JPEG's segments and scans; it must reach the end marker of the picture itself.

    Looking for the last two bytes would not do: thumbnails in EXIF have end markers
    too, and cameras append data.
    """
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return True
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = _MARKER.search(data, at)
            if found is None:
                return True
            at = found.start()
    return data[at : at + 2] != b"\xff\xd9"


def truncated_webp(data: bytes) -> bool:
    """A RIFF header gives the size of the rest."""
    return len(data) < 8 + int.from_bytes(data[4:8], "little")


def truncated_bmp(data: bytes) -> bool:
    """A BMP header gives the size of the file, or 0."""
    return len(data) < max(54, int.from_bytes(data[2:6], "little"))


def animated_png(data: bytes) -> bool:
    """An animation control chunk stands before the picture's data."""
    at = 8
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def animated_webp(data: bytes) -> bool:
    """The extended header has a bit for it."""
    return data[12:16] == b"VP8X" and bool(data[20] & 0x02)


def never_animated(data: bytes) -> bool:
    """JPEG and BMP hold one picture."""
    return False
