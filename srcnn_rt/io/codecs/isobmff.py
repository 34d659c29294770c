"""Boxes of the ISO base media file format, of which AVIF and JPEG XL files consist."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..metadata.header import MAX_BLOCK, DamagedError

_MAX_ITEMS = 4096


def walk(data: bytes, start: int, stop: int, *, cut: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each whole box in a range, and the start and end of its content.

    With `cut`, also yield a last box that ends after the range.
    """
    at = start
    while at + 8 <= stop:
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = stop if size == 0 else at + size
        if end < at + head or (end > stop and not cut):
            return
        yield data[at + 4 : at + 8], at + head, end
        at = end


def box(kind: bytes, *contents: bytes) -> bytes:
    """Return a box with a 32-bit size, or a 64-bit size if it is larger."""
    size = 8 + sum(map(len, contents))
    head = struct.pack(">I4s", size, kind) if size < 2**32 else struct.pack(">I4sQ", 1, kind, size + 8)
    return b"".join([head, *contents])


def truncated(data: bytes) -> bool:
    """Return whether a box is cut short: the last whole one does not end at the end of the file."""
    return max((stop for _, _, stop in walk(data, 0, len(data))), default=0) != len(data)


@dataclass(slots=True)
class Items:
    """Items of a meta box.

    Attributes
    ----------
    primary : int
        Number of the item that is the image.
    kinds : dict of int to bytes
        Type by item: b"av01", b"grid", b"Exif", or the media type of b"mime" items.
    places : dict of int to list of (int, int)
        Offset and length in the file of the parts of each item.
    properties : dict of int to list of (bytes, int, int)
        Type, start and end of the property boxes of each item.
    refers : list of (bytes, int, int)
        References: type, from item, to item.
    """

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    properties: dict[int, list[tuple[bytes, int, int]]] = field(default_factory=dict)
    refers: list[tuple[bytes, int, int]] = field(default_factory=list)

    def content(self, data: bytes, item: int) -> bytes:
        """Return the content of an item; empty if it is incomplete or too large."""
        pieces = self.places.get(item, [])
        large = sum(length for _, length in pieces) > MAX_BLOCK
        if large or any(at + length > len(data) for at, length in pieces):
            return b""
        return b"".join(data[at : at + length] for at, length in pieces)


class Reader:
    """Reads big-endian numbers in sequence; raises `DamagedError` at the end."""

    def __init__(self, data: bytes, at: int, stop: int) -> None:
        self.data, self.at, self.stop = data, at, stop

    def number(self, size: int) -> int:
        if self.at + size > self.stop:
            raise DamagedError("a box ends too early")
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")


def exif(content: bytes) -> bytes:
    """Return the EXIF block in an Exif box or item, whose first four bytes are its offset."""
    return content[4 + int.from_bytes(content[:4], "big") :]


def items(data: bytes) -> Items:
    """Parse the meta box of a file.

    Raises
    ------
    DamagedError
        If there is none, or it is damaged.
    """
    meta = next((box for box in walk(data, 0, len(data)) if box[0] == b"meta"), None)
    if meta is None:
        raise DamagedError("no meta box")
    found = Items()
    inner = {kind: (a, b) for kind, a, b in walk(data, meta[1] + 4, meta[2])}
    if b"pitm" in inner:
        reader = Reader(data, *inner[b"pitm"])
        found.primary = reader.number(2 if reader.number(4) >> 24 == 0 else 4)
    if b"iinf" in inner:
        _infos(data, *inner[b"iinf"], found)
    if b"iloc" in inner:
        _locations(data, *inner[b"iloc"], inner.get(b"idat", (0, 0))[0], found)
    if b"iprp" in inner:
        _properties(data, *inner[b"iprp"], found)
    if b"iref" in inner:
        start, stop = inner[b"iref"]
        wide = 4 if data[start : start + 1] != b"\0" else 2
        for kind, a, b in walk(data, start + 4, stop):
            reader = Reader(data, a, b)
            source, count = reader.number(wide), reader.number(2)
            found.refers += [(kind, source, reader.number(wide)) for _ in range(count)]
    return found


def _infos(data: bytes, start: int, stop: int, found: Items) -> None:
    head = 6 if data[start : start + 1] == b"\0" else 8
    for kind, a, b in walk(data, start + head, stop):
        if kind != b"infe":
            continue
        reader = Reader(data, a, b)
        version = reader.number(4) >> 24
        if version < 2:
            continue
        item = reader.number(2 if version == 2 else 4)
        reader.number(2)
        name = reader.number(4).to_bytes(4, "big")
        if name == b"mime":  # two strings follow: a name and the media type
            name = (data[reader.at : b] + b"\0\0").split(b"\0")[1]
        found.kinds[item] = name


def _locations(data: bytes, start: int, stop: int, idat: int, found: Items) -> None:
    reader = Reader(data, start, stop)
    version = reader.number(4) >> 24
    sizes = reader.number(2)
    offset_size, length_size, base_size, index_size = (sizes >> k & 15 for k in (12, 8, 4, 0))
    for _ in range(min(reader.number(4 if version == 2 else 2), _MAX_ITEMS)):
        item = reader.number(4 if version == 2 else 2)
        method = reader.number(2) & 15 if version else 0
        reader.number(2)
        base = reader.number(base_size)
        pieces = []
        for _ in range(reader.number(2)):
            if version:
                reader.number(index_size)
            offset, length = reader.number(offset_size), reader.number(length_size)
            pieces.append((base + offset + (idat if method == 1 else 0), length))
        if method < 2:
            found.places[item] = pieces


def _properties(data: bytes, start: int, stop: int, found: Items) -> None:
    inner = list(walk(data, start, stop))
    known = [p for kind, a, b in inner if kind == b"ipco" for p in walk(data, a, b)]
    for kind, a, b in inner:
        if kind != b"ipma":
            continue
        reader = Reader(data, a, b)
        head = reader.number(4)
        for _ in range(min(reader.number(4), _MAX_ITEMS)):
            item = reader.number(4 if head >> 24 else 2)
            listed = found.properties.setdefault(item, [])
            for _ in range(reader.number(1)):
                index = reader.number(2) & 0x7FFF if head & 1 else reader.number(1) & 0x7F
                if 0 < index <= len(known):
                    listed.append(known[index - 1])
