"""Photoshop's block of a TIFF: what of it is true of the larger image.

Format: Adobe Photoshop File Formats Specification, "Image Resources".
"""

from __future__ import annotations

import struct

FIELD = 34377
_RESOLUTION = 0x03ED
# IPTC, copyright flag, address, caption's digest, print flags and captions. Thumbnails, guides, slices and
# layers are of the old size.
_KEPT = (0x0404, 0x040A, 0x040B, 0x0425, 0x03F0, 0x2710, 0x041B)
_MAX = 2**32 - 1


def scaled(data: bytes, scale: int, *, turned: bool) -> bytes:
    """Return the block of an image `scale` times larger; it may be empty.

    Parameters
    ----------
    turned : whether its rows were columns
    """
    out, at = bytearray(), 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        kind = int.from_bytes(data[at + 4 : at + 6], "big")
        name = 1 + data[at + 6]
        start = at + 6 + name + name % 2
        size = int.from_bytes(data[start : start + 4], "big")
        value = data[start + 4 : start + 4 + size]
        if len(value) < size:
            break
        if kind == _RESOLUTION and size == 16:
            out += data[at : start + 4] + _denser(value, scale, turned)
        elif kind in _KEPT:
            out += data[at : start + 4] + value + bytes(size % 2)
        at = start + 4 + size + size % 2
    return bytes(out)


def _denser(value: bytes, scale: int, turned: bool) -> bytes:
    """Return a resolution times `scale`; numbers are of 16 bits before and 16 behind the point."""
    x, x_unit, width, y, y_unit, height = struct.unpack(">IHHIHH", value)
    if turned:
        x, x_unit, width, y, y_unit, height = y, y_unit, height, x, x_unit, width
    return struct.pack(">IHHIHH", min(x * scale, _MAX), x_unit, width, min(y * scale, _MAX), y_unit, height)
