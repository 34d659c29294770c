"""WebP: parsing the RIFF chunks."""

from __future__ import annotations

from collections.abc import Iterator

from ..metadata.header import Block, DamagedError, Declared, Found

_ALPHA, _ANIMATION = 0x10, 0x02  # flags of VP8X
_BLOCKS: dict[bytes, Block] = {b"ICCP": "icc", b"EXIF": "exif", b"XMP ": "xmp"}


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each whole chunk, and the start and end of its content."""
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > len(data):
            return
        yield data[at : at + 4], at + 8, at + 8 + size
        at += 8 + size + size % 2


def truncated(data: bytes) -> bool:
    """Return whether the file is shorter than its RIFF header says."""
    return len(data) < 8 + int.from_bytes(data[4:8], "little")


def animated(data: bytes) -> bool:
    """Return whether the extended header has the animation flag."""
    return data[12:16] == b"VP8X" and len(data) > 20 and bool(data[20] & _ANIMATION)


def declared(data: bytes) -> Declared:
    """Return the size and sample type from the header of the first chunk."""
    kind, head = data[12:16], data[20:30]
    if len(head) < 10:
        raise DamagedError("its header is cut short")
    if kind == b"VP8X":
        size = [int.from_bytes(head[k : k + 3], "little") + 1 for k in (4, 7)]
        return Declared(size[0], size[1], 4 if head[0] & _ALPHA else 3, 1)
    if kind == b"VP8L" and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        return Declared((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4 if bits >> 28 & 1 else 3, 1)
    if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(head[k : k + 2], "little") & 0x3FFF for k in (6, 8))
        if width and height:
            return Declared(width, height, 3, 1)
    raise DamagedError("no image in its first chunk")


def read(data: bytes) -> Found:
    """Return the metadata."""
    found = Found()
    for kind, start, stop in chunks(data):
        if kind in _BLOCKS:
            found.keep(_BLOCKS[kind], data[start:stop])
    return found
