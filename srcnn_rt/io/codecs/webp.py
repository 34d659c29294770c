"""WebP: parsing the RIFF chunks, and inserting metadata."""

from __future__ import annotations

from collections.abc import Iterator

from ...image.info import Metadata
from ..metadata.header import Block, DamagedError, Declared, Found

_ALPHA, _ANIMATION = 0x10, 0x02  # flags of VP8X
_BLOCKS: dict[bytes, tuple[Block, int]] = {  # by chunk type, each with its flag
    b"ICCP": ("icc", 0x20),
    b"EXIF": ("exif", 0x08),
    b"XMP ": ("xmp", 0x04),
}


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
            found.keep(_BLOCKS[kind][0], data[start:stop])
    return found


def insert(coded: bytes, metadata: Metadata) -> bytes:
    """Return an encoded image with its metadata, which need the extended file format."""
    blocks = {kind: getattr(metadata, name) for kind, (name, _) in _BLOCKS.items() if getattr(metadata, name)}
    if not blocks:
        return coded
    said = declared(coded)
    flags = sum(_BLOCKS[kind][1] for kind in blocks) | (_ALPHA if said.channels == 4 else 0)
    size = (said.width - 1).to_bytes(3, "little") + (said.height - 1).to_bytes(3, "little")
    view = memoryview(coded)
    pieces: list[tuple[bytes, bytes | memoryview]] = [(b"VP8X", bytes([flags, 0, 0, 0]) + size)]
    if b"ICCP" in blocks:  # the only block before the samples
        pieces.append((b"ICCP", blocks.pop(b"ICCP")))
    pieces += [(kind, view[a:b]) for kind, a, b in chunks(coded) if kind != b"VP8X"]
    pieces += blocks.items()
    parts: list[bytes | memoryview] = []
    for kind, content in pieces:
        parts += [kind, len(content).to_bytes(4, "little"), content, bytes(len(content) % 2)]
    length = 4 + sum(len(part) for part in parts)
    return b"".join([b"RIFF", length.to_bytes(4, "little"), b"WEBP", *parts])
