"""BMP: parsing the headers, and encoding."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...image.info import Metadata
from ..metadata.header import MAX_BLOCK, DamagedError, Declared, Found

SIGNATURE = b"BM"
_FILE, _V3, _V5 = 14, 40, 124  # bytes of the headers
_EMBEDDED = int.from_bytes(b"MBED", "big")  # type of a color space that is an embedded profile
_INCH = 0.0254  # m
MAX_BYTES = 2**32 - 2**20  # of a file, whose size is a 32-bit number


def truncated(data: bytes) -> bool:
    """Return whether the file is shorter than its header says."""
    return len(data) < max(26, int.from_bytes(data[2:6], "little"))


def _header(data: bytes) -> tuple[int, int, int, int]:
    """Return width, height, bits per pixel and compression."""
    size = int.from_bytes(data[14:18], "little")
    if size == 12 and len(data) >= 26:
        width, height, _, bits = struct.unpack("<HHHH", data[18:26])
        compression = 0
    elif size >= 16 and len(data) >= _FILE + _V3:
        width, height, _, bits, compression = struct.unpack("<iiHHI", data[18:34])
    else:
        raise DamagedError("its header is cut short")
    if width <= 0 or height == 0:
        raise DamagedError(f"declares {width} x {height} pixels")
    return width, abs(height), bits, compression


def declared(data: bytes) -> Declared:
    """Return the size and sample type from the header."""
    width, height, bits, _ = _header(data)
    if bits not in (1, 2, 4, 8, 16, 24, 32):
        raise DamagedError(f"declares {bits} bits per pixel")
    return Declared(width, height, 4 if bits == 32 else 3, 1)


def min_bytes(data: bytes) -> int:
    """Return the smallest size in bytes of a file with this header."""
    width, height, bits, compression = _header(data)
    if compression in (0, 3, 6):
        return _FILE + (width * bits + 31) // 32 * 4 * height
    # Two bytes encode at most 255 pixels. Skipped pixels take no bytes, but encoders do not use them for most
    # of an image.
    return _FILE + width * height * 2 // 255


def read(data: bytes) -> Found:
    """Return the print resolution and the embedded profile."""
    found = Found()
    size = int.from_bytes(data[14:18], "little")
    if size >= _V3 and len(data) >= _FILE + size:
        x, y = struct.unpack("<ii", data[38:46])
        if x > 0 and y > 0:
            found.dpi = x * _INCH, y * _INCH
    if size >= _V5 and len(data) >= _FILE + _V5 and struct.unpack("<I", data[70:74])[0] == _EMBEDDED:
        at, length = struct.unpack("<II", data[126:134])
        icc = data[_FILE + at : _FILE + at + length]
        found.icc = icc if 0 < len(icc) == length <= MAX_BLOCK else None
    return found


def encode(array: NDArray[Any], metadata: Metadata) -> bytes:
    """Encode an image.

    Parameters
    ----------
    array : ndarray of uint8, shape (H, W, C)
        C is 1 or 3.
    metadata : Metadata
        Print resolution and profile are written; the latter needs the newest header.
    """
    height, width, channels = array.shape
    stride = -(-width * channels // 4) * 4
    palette = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(256, 4) if channels == 1 else None
    if palette is not None:
        palette[:, 3] = 0
    rows = np.zeros((height, stride), np.uint8)
    rows[:, : width * channels] = array[::-1, :, ::-1].reshape(height, -1)
    icc = metadata.icc or b""
    head = _V5 if icc else _V3
    start = _FILE + head + (1024 if channels == 1 else 0)
    x, y = (min(round(v / _INCH), 2**31 - 1) for v in metadata.dpi or (0, 0))
    total = start + rows.size + len(icc)
    header = struct.pack("<2sIHHI", SIGNATURE, total, 0, 0, start)
    header += struct.pack("<IiiHHIIiiII", head, width, height, 1, 8 * channels, 0, rows.size, x, y, 0, 0)
    if icc:  # masks and primaries are unused with a profile; 4 is the rendering intent for photographs
        header += struct.pack("<4II36x3IIIII", 0, 0, 0, 0, _EMBEDDED, 0, 0, 0, 4,
                              start - _FILE + rows.size, len(icc), 0)  # fmt: skip
    return b"".join([header, b"" if palette is None else palette.tobytes(), rows.data, icc])
