"""TIFF's directories as lists of fields: read from a file, changed, and laid out at the head of another.

Only what stands outside of the pixels. Numbers are kept as little-endian bytes. Format: TIFF 6.0 (Adobe,
1992), section 2; BigTIFF as libtiff writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

TILE_OFFSETS, TILE_COUNTS = 324, 325
EXIF_DIRECTORY, GPS_DIRECTORY = 34665, 34853
_SUBDIRECTORIES = (EXIF_DIRECTORY, GPS_DIRECTORY, 40965)
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD, LONG8 = 1, 2, 3, 4, 5, 7, 13, 16
# Bytes of one value, and of the numbers in it that a byte order turns around.
_SIZES = {
    1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4), 5: (8, 4), 6: (1, 1), 7: (1, 1), 8: (2, 2), 9: (4, 4),
    10: (8, 4), 11: (4, 4), 12: (8, 8), 13: (4, 4), 16: (8, 8), 17: (8, 8), 18: (8, 8),
}  # fmt: skip
_MOST_FIELDS = 4096
_MOST_BYTES = 64 * 2**20  # of one field; a profile or a private block of more is not carried


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a directory: its tag, TIFF's type number, and its values as bytes."""

    tag: int
    type: int
    data: bytes

    @property
    def count(self) -> int:
        return len(self.data) // _SIZES[self.type][0]

    def numbers(self) -> tuple[int, ...]:
        """Return unsigned values; none for other types."""
        code = {BYTE: "B", SHORT: "H", LONG: "I", IFD: "I", LONG8: "Q"}.get(self.type)
        return struct.unpack(f"<{self.count}{code}", self.data) if code else ()


@dataclass(frozen=True, slots=True)
class Directory:
    """The fields of one page, and directories that hang on it: EXIF's, GPS's."""

    fields: tuple[Field, ...]
    below: tuple[tuple[int, Directory], ...] = ()

    def get(self, tag: int) -> Field | None:
        return next((f for f in self.fields if f.tag == tag), None)

    def with_fields(self, fields: Iterable[Field], below: Iterable[tuple[int, Directory]] = ()) -> Directory:
        """Return this directory with some fields more, which replace those of the same tags."""
        kept = {f.tag: f for f in self.fields} | {f.tag: f for f in fields}
        hanging = dict(self.below) | dict(below)
        return Directory(tuple(kept.values()), tuple(hanging.items()))

    def without(self, *tags: int) -> Directory:
        return replace(self, fields=tuple(f for f in self.fields if f.tag not in tags))


def numbers(tag: int, type_: int, *values: int) -> Field:
    """Return a field of unsigned numbers."""
    code = {BYTE: "B", SHORT: "H", LONG: "I", LONG8: "Q"}[type_]
    return Field(tag, type_, struct.pack(f"<{len(values)}{code}", *values))


class Reader:
    """Reads directories of a TIFF, of an EXIF block too; whatever the bytes say, it ends.

    What is damaged or too large is left out: these are things beside the picture.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = self._at(0, 16)
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        self.first = 0
        if len(head) >= 8 and self._order:
            version = struct.unpack(self._order + "H", head[2:4])[0]
            self._big = version == 43
            if self._big and len(head) == 16:
                self.first = struct.unpack(self._order + "Q", head[8:16])[0]
            elif version == 42:
                self.first = struct.unpack(self._order + "I", head[4:8])[0]

    def directory(self, offset: int, depth: int = 0) -> tuple[Directory, int]:
        """Return the directory at `offset` and where the next one is, 0 for none."""
        entry, code = (20, "HHQ") if self._big else (12, "HHI")
        head = self._at(offset, 8 if self._big else 2)
        if not offset or len(head) < (8 if self._big else 2):
            return Directory(()), 0
        count = struct.unpack(self._order + ("Q" if self._big else "H"), head)[0]
        if count > _MOST_FIELDS:
            return Directory(()), 0
        table = self._at(offset + len(head), count * entry + (8 if self._big else 4))
        fields, below = [], []
        for k in range(min(count, len(table) // entry)):
            raw = table[k * entry : (k + 1) * entry]
            tag, type_, many = struct.unpack(self._order + code, raw[: struct.calcsize("=" + code)])
            data = self._values(raw[-8 if self._big else -4 :], type_, many)
            if data is None:
                continue
            field = Field(tag, type_, data)
            if tag in _SUBDIRECTORIES:
                at = field.numbers()
                if at and depth < 2:
                    below.append((tag, self.directory(at[0], depth + 1)[0]))
                continue
            fields.append(field)
        rest = table[count * entry :]
        following = (
            struct.unpack(self._order + ("Q" if self._big else "I"), rest) if len(rest) in (4, 8) else (0,)
        )
        return Directory(tuple(fields), tuple(below)), following[0]

    def page(self, index: int) -> Directory:
        """Return the directory of that number in the file's chain, an empty one if it has fewer."""
        at, seen = self.first, set[int]()
        for _ in range(index):
            if at in seen or not at:
                return Directory(())
            seen.add(at)
            at = self._next(at)
        return self.directory(at)[0]

    def _next(self, offset: int) -> int:
        size, code = (8, "Q") if self._big else (2, "H")
        head = self._at(offset, size)
        if len(head) < size:
            return 0
        count = struct.unpack(self._order + code, head)[0]
        if count > _MOST_FIELDS:
            return 0
        word = self._at(offset + size + count * (20 if self._big else 12), 8 if self._big else 4)
        form = self._order + ("Q" if self._big else "I")
        return struct.unpack(form, word)[0] if len(word) == struct.calcsize(form) else 0

    def _values(self, inline: bytes, type_: int, count: int) -> bytes | None:
        if type_ not in _SIZES:
            return None
        size, word = _SIZES[type_]
        total = size * count
        if total > _MOST_BYTES:
            return None
        if total <= len(inline):
            data = inline[:total]
        else:
            offset = struct.unpack(self._order + ("Q" if self._big else "I"), inline)[0]
            data = self._at(offset, total)
            if len(data) < total:
                return None
        if self._order == ">" and word > 1:
            data = b"".join(data[k : k + word][::-1] for k in range(0, total, word))
        return data

    def _at(self, offset: int, size: int) -> bytes:
        if offset >= 2**63:
            return b""
        self._file.seek(offset)
        return self._file.read(size)


def lay_out(
    directories: Sequence[Directory], *, big: bool, linked: bool = True
) -> tuple[bytes, list[dict[int, int]]]:
    """Write directories one after the other, as the beginning of a little-endian TIFF.

    Parameters
    ----------
    directories : in the order of the file, each linked to the next
    big : whether to write a BigTIFF

    Returns
    -------
    The bytes, and for each directory where in them the values of every tag stand.
    """
    out = bytearray(
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    )
    places: list[dict[int, int]] = []
    link = len(out) - (8 if big else 4)
    for k, directory in enumerate(directories):
        _align(out)
        if k and linked:
            struct.pack_into("<Q" if big else "<I", out, link, len(out))
        place: dict[int, int] = {}
        link = _append(out, directory, big, place)
        places.append(place)
    return bytes(out), places


def _append(out: bytearray, directory: Directory, big: bool, place: dict[int, int]) -> int:
    """Append one directory and its values; return where the link to the next one stands."""
    pointer = LONG8 if big else LONG
    hanging = {tag: numbers(tag, pointer, 0) for tag, _ in directory.below}
    fields = sorted([*directory.fields, *hanging.values()], key=lambda f: f.tag)
    inline, entry = (8, 20) if big else (4, 12)
    table = len(out)
    out += struct.pack("<Q" if big else "<H", len(fields)) + bytes(entry * len(fields) + inline)
    first = table + (8 if big else 2)
    for k, field in enumerate(fields):
        at = first + k * entry
        struct.pack_into("<HHQ" if big else "<HHI", out, at, field.tag, field.type, field.count)
        value = at + entry - inline
        if len(field.data) <= inline:
            place[field.tag] = value
            out[value : value + len(field.data)] = field.data
        else:
            _align(out)
            place[field.tag] = len(out)
            struct.pack_into("<Q" if big else "<I", out, value, len(out))
            out += field.data
    for tag, below in directory.below:
        _align(out)
        struct.pack_into("<Q" if big else "<I", out, place[tag], len(out))
        _append(out, below, big, {})
    return first + len(fields) * entry


def _align(out: bytearray) -> None:
    out += bytes(-len(out) % 8)
