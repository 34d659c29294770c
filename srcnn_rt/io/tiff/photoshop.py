"""Photoshop's image resources in a TIFF, updated for an enlarged image.

Format: Adobe Photoshop File Formats Specification, "Image Resources".
"""

from __future__ import annotations

import struct

FIELD = 34377
_RESOLUTION = 0x03ED
# IPTC, copyright flag, URL, caption digest, print flags and captions. Thumbnails, guides, slices and layers
# are dropped, because they have the old image size.
_KEPT = (0x0404, 0x040A, 0x040B, 0x0425, 0x03F0, 0x2710, 0x041B)
_MAX = 2**32 - 1


def scaled(data: bytes, scale: int, *, transposed: bool) -> bytes:
    """Return the resources for an image `scale` times larger, possibly empty.

    Parameters
    ----------
    data : bytes
        Value of the field `FIELD`.
    scale : int
        Scale factor.
    transposed : bool
        Whether rows and columns are swapped.
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
            out += data[at : start + 4] + _scaled_resolution(value, scale, transposed)
        elif kind in _KEPT:
            out += data[at : start + 4] + value + bytes(size % 2)
        at = start + 4 + size + size % 2
    return bytes(out)


def _scaled_resolution(value: bytes, scale: int, transposed: bool) -> bytes:
    """Multiply a resolution, two 16.16 fixed-point numbers, by `scale`."""
    x, x_unit, width, y, y_unit, height = struct.unpack(">IHHIHH", value)
    if transposed:
        x, x_unit, width, y, y_unit, height = y, y_unit, height, x, x_unit, width
    return struct.pack(">IHHIHH", min(x * scale, _MAX), x_unit, width, min(y * scale, _MAX), y_unit, height)
