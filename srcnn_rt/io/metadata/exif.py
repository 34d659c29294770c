"""Reads EXIF blocks and updates them in place; everything else stays byte for byte.

An EXIF block is a TIFF header and directories (IFDs). Only IFD0 and the Exif IFD are parsed, each once, so
pointers cannot form a loop, and every offset is checked against the end of the block. Values are changed
where they are. New values are appended, with a copy of their directory. So nothing moves, and the
undocumented offsets in a MakerNote stay valid.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate
from fractions import Fraction
from typing import Any, Literal

from numpy.typing import NDArray

from .header import decode_text

Order = Literal["little", "big"]
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
# Pixels per unit, on paper and on the sensor.
_DENSITIES = ((X_RESOLUTION, Y_RESOLUTION), (0xA20E, 0xA20F))
# Tags of texts in IFD0, by the PNG keyword of the same meaning.
TEXT_TAGS = {
    "Title": 0x010D,
    "Description": 0x010E,
    "Software": 0x0131,
    "Creation Time": 0x0132,
    "Author": 0x013B,
    "Copyright": 0x8298,
}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
_BYTES, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _UTF8 = 1, 2, 3, 4, 5, 7, 129
_TOP = 2**32 - 1
_EXIF_DATE = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")
_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d:\d\d:\d\d)")
_ENCODINGS = {b"ASCII\0\0\0": "utf-8", b"\0" * 8: "utf-8", b"UNICODE\0": "utf-16"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a directory: its offset, and the offset of its value, which is inside the block."""

    type_: int
    count: int
    at: int
    value: int


class _Block:
    """A mutable copy of an EXIF block; its directories are empty if it is damaged."""

    def __init__(self, exif: bytes | None) -> None:
        self.data = bytearray(exif or b"")
        orders: dict[bytes, Order] = {b"II*\0": "little", b"MM\0*": "big"}
        self.order: Order = orders.get(bytes(self.data[:4]), "little")
        self.valid = bytes(self.data[:4]) in orders and len(self.data) >= 8
        self.first = self.directory(self.number(4, 4)) if self.valid else {}
        self.second: dict[int, _Entry] = {}
        pointer = self.first.get(_EXIF_IFD)
        if pointer is not None and pointer.type_ in (_LONG, 13):
            self.second = self.directory(self.number(pointer.value, 4))

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size], self.order)

    def put(self, at: int, size: int, value: int) -> None:
        self.data[at : at + size] = value.to_bytes(size, self.order)

    def directory(self, at: int) -> dict[int, _Entry]:
        """Return the entries of the directory at `at` whose values are inside the block, by tag."""
        found: dict[int, _Entry] = {}
        if not 8 <= at <= len(self.data) - 2:
            return found
        for k in range(self.number(at, 2)):
            entry = at + 2 + 12 * k
            if entry + 12 > len(self.data):
                break
            type_, count = self.number(entry + 2, 2), self.number(entry + 4, 4)
            size = _SIZES.get(type_, 4) * count
            value = entry + 8 if size <= 4 else self.number(entry + 8, 4)
            if 8 <= value <= len(self.data) - size:  # never in the header, which must not be overwritten
                found.setdefault(self.number(entry, 2), _Entry(type_, count, entry, value))
        return found

    def integer(self, entry: _Entry | None) -> int | None:
        if entry is None or entry.count != 1 or entry.type_ not in (_SHORT, _LONG):
            return None
        return self.number(entry.value, _SIZES[entry.type_])

    def set_integer(self, entry: _Entry, value: int) -> None:
        """Change an integer; a SHORT becomes a LONG if necessary (both fit into the entry)."""
        if entry.count != 1 or entry.type_ not in (_SHORT, _LONG) or value > _TOP:
            return
        type_ = _LONG if value > 0xFFFF else entry.type_
        self.put(entry.at + 2, 2, type_)
        self.data[entry.at + 8 : entry.at + 12] = bytes(4)
        self.put(entry.at + 8, _SIZES[type_], value)

    def rational(self, entry: _Entry | None) -> Fraction | None:
        if entry is None or entry.count != 1 or entry.type_ != _RATIONAL:
            return None
        above, below = self.number(entry.value, 4), self.number(entry.value + 4, 4)
        return Fraction(above, below) if above and below else None

    def set_rational(self, entry: _Entry, value: Fraction) -> None:
        self.data[entry.value : entry.value + 8] = _rational(value, self.order)

    def text(self, entry: _Entry | None) -> str:
        if entry is None or entry.type_ not in (_ASCII, _UTF8):
            return ""
        return decode_text(bytes(self.data[entry.value : entry.value + entry.count])).strip()

    def comment(self) -> str:
        """Return the UserComment, whose first 8 bytes are its encoding."""
        entry = self.second.get(_USER_COMMENT)
        if entry is None or entry.type_ not in (_UNDEFINED, _ASCII, _BYTES) or entry.count <= 8:
            return ""
        data = bytes(self.data[entry.value : entry.value + entry.count])
        encoding = _ENCODINGS.get(data[:8])
        if encoding == "utf-16":
            wide = {"little": "utf-16-le", "big": "utf-16-be"}[self.order]
            return data[8:].decode(wide, "replace").strip("\0\ufeff ")
        return decode_text(data[8:]).strip() if encoding else ""

    def append(self, old: int, added: Mapping[int, tuple[int, int, bytes]]) -> int:
        """Append a copy of a directory with additional entries, and return its offset.

        Parameters
        ----------
        old : int
            Offset of the directory, 0 for an empty one.
        added : mapping of int to (int, int, bytes)
            Type, count and value by tag.
        """
        after = self.number(self.link(old), 4) if old else 0
        items: list[tuple[int, bytes]] = []
        for k in range(self.number(old, 2) if old else 0):
            raw = bytes(self.data[old + 2 + 12 * k : old + 14 + 12 * k])
            tag = int.from_bytes(raw[:2], self.order)
            if len(raw) == 12 and tag not in added:
                items.append((tag, raw[2:]))
        for tag, (type_, count, value) in added.items():
            head = type_.to_bytes(2, self.order) + count.to_bytes(4, self.order)
            place = value.ljust(4, b"\0")
            if len(value) > 4:
                self.data += bytes(len(self.data) % 2)  # values have even offsets
                place = len(self.data).to_bytes(4, self.order)
                self.data += value
            items.append((tag, head + place))
        self.data += bytes(len(self.data) % 2)
        at = len(self.data)
        self.data += min(len(items), 0xFFFF).to_bytes(2, self.order)
        for tag, rest in sorted(items, key=lambda item: item[0])[:0xFFFF]:
            self.data += tag.to_bytes(2, self.order) + rest
        self.data += after.to_bytes(4, self.order)
        return at

    def link(self, directory: int) -> int:
        """Return the offset of a directory's pointer to the next one."""
        return directory + 2 + 12 * self.number(directory, 2)


def orientation(exif: bytes | None) -> int:
    """Return the orientation of an EXIF block, 1 to 8; 1 (upright) if it has no valid one."""
    block = _Block(exif)
    value = block.integer(block.first.get(ORIENTATION))
    return value if value is not None and 1 <= value <= 8 else 1


def upright(exif: bytes | None, turned: int = 1) -> bytes | None:
    """Return the block of an image to which the orientation `turned` (1 to 8) has been applied.

    The orientation becomes 1. Resolutions in x and y are exchanged if the sides were; `scaled` sets the
    sizes. The pointer to the thumbnail is removed, because the thumbnail is not turned.
    """
    block = _Block(exif)
    if exif is None or not block.valid:
        return exif
    entry = block.first.get(ORIENTATION)
    if entry and block.integer(entry) not in (None, 1):
        block.set_integer(entry, 1)
    if turned != 1:
        link = block.link(block.number(4, 4))
        if link + 4 <= len(block.data):
            block.put(link, 4, 0)
    if turned >= 5:
        for entries in (block.first, block.second):
            for tags in _DENSITIES:
                x, y = map(entries.get, tags)
                dx, dy = block.rational(x), block.rational(y)
                if x and y and dx and dy and x.value != y.value:
                    block.set_rational(x, dy)
                    block.set_rational(y, dx)
    return bytes(block.data)


def scaled(exif: bytes | None, scale: int, size: tuple[int, int]) -> bytes | None:
    """Return the block of an image that was enlarged `scale` times to `size` (width, height)."""
    block = _Block(exif)
    if exif is None or not block.valid:
        return exif
    values = {}  # by offset, because x and y may share a value
    for tag, entry in (*block.first.items(), *block.second.items()):
        if tag in _WIDTHS:
            block.set_integer(entry, size[0])
        elif tag in _HEIGHTS:
            block.set_integer(entry, size[1])
        elif tag in {tag for tags in _DENSITIES for tag in tags}:
            density = block.rational(entry)
            if density is not None:
                values[entry.value] = (entry, density * scale)
    for entry, density in values.values():
        block.set_rational(entry, density)
    return bytes(block.data)


def dpi(exif: bytes | None) -> tuple[float, float] | None:
    """Return pixels per inch in x and y, None if the block has not both."""
    block = _Block(exif)
    x, y = (block.rational(block.first.get(tag)) for tag in (X_RESOLUTION, Y_RESOLUTION))
    unit = block.integer(block.first.get(RESOLUTION_UNIT))
    if x is None or y is None or unit == 1:  # unit 1: only the aspect ratio
        return None
    inch = 2.54 if unit == 3 else 1.0
    return float(x) * inch, float(y) * inch


def texts(exif: bytes | None) -> dict[str, str]:
    """Return the texts by PNG keyword."""
    block = _Block(exif)
    found = {key: block.text(block.first.get(tag)) for key, tag in TEXT_TAGS.items()}
    found["Comment"] = block.comment()
    return {key: text for key, text in found.items() if text}


def completed(
    exif: bytes | None,
    written: Mapping[str, str],
    density: tuple[float, float] | None = None,
    comment: str | None = None,
) -> bytes | None:
    """Return the block with additional texts, comment and print resolution.

    Existing values are kept, and `comment` is appended to an existing comment.

    Parameters
    ----------
    exif : bytes, optional
        EXIF block; None for a new one.
    written : mapping of str to str
        Texts by PNG keyword.
    density : tuple of (float, float), optional
        Pixels per inch in x and y.
    comment : str, optional
        UserComment.

    Returns
    -------
    bytes or None
        None if `exif` is None and there is nothing to add.
    """
    block = _Block(exif)
    if not block.valid:
        block = _Block(b"II*\0" + bytes(4))
    have = texts(exif)
    added = {
        TEXT_TAGS[key]: (_ASCII, len(data), data)
        for key, text in written.items()
        if key in TEXT_TAGS and key not in have and (data := text.replace("\0", " ").encode() + b"\0")
    }
    if density is not None and dpi(exif) is None and min(density) > 0:
        for tag, value in zip((X_RESOLUTION, Y_RESOLUTION), density, strict=True):
            added[tag] = (_RATIONAL, 1, _rational(Fraction(value).limit_denominator(10_000), block.order))
        added[RESOLUTION_UNIT] = (_SHORT, 1, (2).to_bytes(2, block.order))
    before = have.get("Comment", "")
    readable = bool(before) or _USER_COMMENT not in block.second
    said = None
    if comment and comment not in before and readable:
        said = _encoded_comment(f"{before}\n{comment}" if before else comment, block.order)
    if not added and said is None:
        return exif
    if said is not None:
        pointer = block.first.get(_EXIF_IFD)
        old = block.number(pointer.value, 4) if pointer and block.second else 0
        place = block.append(old, {_USER_COMMENT: (_UNDEFINED, len(said), said)})
        added[_EXIF_IFD] = (_LONG, 1, place.to_bytes(4, block.order))
    block.put(4, 4, block.append(block.number(4, 4) if block.first else 0, added))
    return bytes(block.data)


def date(text: str) -> str | None:
    """Convert a date of EXIF, ISO 8601 or RFC 1123 (which PNG recommends) to that of EXIF and TIFF.

    Returns
    -------
    str or None
        ``"YYYY:MM:DD HH:MM:SS"``, None for any other text.
    """
    if _EXIF_DATE.fullmatch(text):
        return text
    if found := _ISO_DATE.match(text):
        return "{}:{}:{} {}".format(*found.groups())
    parsed = parsedate(text)
    return "{:04}:{:02}:{:02} {:02}:{:02}:{:02}".format(*parsed[:6]) if parsed else None


def turn(image: NDArray[Any], value: int) -> NDArray[Any]:
    """Return a view of an (H, W, C) image with the orientation `value` (1 to 8) applied."""
    if value >= 5:
        image = image.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        image = image[::-1]
    if value in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _rational(value: Fraction, order: Order) -> bytes:
    """Return the nearest fraction of two unsigned 32-bit integers."""
    if max(value.numerator, value.denominator) > _TOP:
        near = value.limit_denominator(max(1, min(_TOP, math.floor(_TOP / max(value, Fraction(1))))))
        value = near if near.numerator <= _TOP else Fraction(_TOP)
    return struct.pack("<II" if order == "little" else ">II", value.numerator, value.denominator)


def _encoded_comment(comment: str, order: Order) -> bytes:
    if comment.isascii():
        return b"ASCII\0\0\0" + comment.encode()
    return b"UNICODE\0" + comment.encode("utf-16-le" if order == "little" else "utf-16-be")
