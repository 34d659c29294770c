"""TIFF's directories as lists of fields: read from a file, changed, and laid out at the head of another.

Only what stands outside of the pixels. Numbers are kept as little-endian bytes. Format: TIFF 6.0 (Adobe,
1992), section 2; BigTIFF as libtiff writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
_MAX_FIELDS = 4096
_MAX_BYTES = 64 * 2**20  # of one field; a profile or a private block of more is not carried
_MAX_READ = 256 * 2**20  # of all fields together, which may all point at the same bytes
_SUBFILE, _REDUCED, _MASK = 254, 1, 4


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


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page's directory stands, that of its mask, and whether overviews of it follow."""

    offset: int
    mask: int | None = None
    overviews: bool = False


def numbers(tag: int, type_: int, *values: int) -> Field:
    """Return a field of unsigned numbers."""
    code = {BYTE: "B", SHORT: "H", LONG: "I", LONG8: "Q"}[type_]
    return Field(tag, type_, struct.pack(f"<{len(values)}{code}", *values))


class Reader:
    """Reads directories of a TIFF, of an EXIF block too; whatever the bytes say, it ends.

    What is damaged or too large is left out: these are things beside the image.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._left = _MAX_READ
        head = self._at(0, 16)
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "<")
        version = head[2:4] if self._order == "<" else head[2:4][::-1]
        self._big = version == b"+\0"
        self.first = 0
        if head[:2] in (b"II", b"MM") and version in (b"*\0", b"+\0"):
            self.first = self._number(head[8:16] if self._big else head[4:8])

    def directory(self, offset: int, depth: int = 0) -> tuple[Directory, int]:
        """Return the directory at `offset` and where the next one is, 0 for none."""
        entries, following = self._table(offset)
        fields, below = [], []
        for raw in entries:
            tag, type_ = (self._number(raw[k : k + 2]) for k in (0, 2))
            value = 12 if self._big else 8
            data = self._values(raw[value:], type_, self._number(raw[4:value]))
            if data is None:
                continue
            field = Field(tag, type_, data)
            if tag in _SUBDIRECTORIES:
                at = field.numbers()
                if at and depth < 2:
                    below.append((tag, self.directory(at[0], depth + 1)[0]))
                continue
            fields.append(field)
        return Directory(tuple(fields), tuple(below)), following

    def page(self) -> Directory:
        """Return the file's first directory."""
        return self.directory(self.first)[0]

    def chain(self) -> list[Directory]:
        """Return all directories, each as it stands in the file."""
        found, at, seen = [], self.first, set[int]()
        while at and at not in seen:
            seen.add(at)
            directory, at = self.directory(at)
            found.append(directory)
        return found

    def pages(self) -> list[Page]:
        """Return all pages; what is only an overview or a mask is part of the page before it.

        A file that has nothing else has its first directory for a page.
        """
        found: list[Page] = []
        at, seen = self.first, set[int]()
        while at and at not in seen:
            seen.add(at)
            entries, following = self._table(at)
            kind = self._kind(entries)
            if not kind & (_REDUCED | _MASK):
                found.append(Page(at))
            elif found and kind & _MASK and not kind & _REDUCED and found[-1].mask is None:
                found[-1] = replace(found[-1], mask=at)
            elif found and not kind & _MASK:
                found[-1] = replace(found[-1], overviews=True)
            at = following
        return found or [Page(self.first)]

    def _kind(self, entries: Sequence[bytes]) -> int:
        """Return what a directory is by its NewSubfileType, 0 for an image of its own."""
        for raw in entries:
            if self._number(raw[:2]) == _SUBFILE and self._number(raw[2:4]) in (SHORT, LONG):
                wide = 4 if self._number(raw[2:4]) == LONG else 2
                at = 12 if self._big else 8
                return self._number(raw[at : at + wide])
        return 0

    def _table(self, offset: int) -> tuple[list[bytes], int]:
        """Return a directory's raw entries, and where the next directory is, 0 for none."""
        word, wide, entry = (8, 8, 20) if self._big else (2, 4, 12)
        head = self._at(offset, word) if offset else b""
        count = self._number(head) if len(head) == word else 0
        if not 0 < count <= _MAX_FIELDS:
            return [], 0
        table = self._at(offset + word, count * entry + wide)
        entries = [table[k * entry : (k + 1) * entry] for k in range(min(count, len(table) // entry))]
        rest = table[count * entry :]
        return entries, self._number(rest) if len(rest) == wide else 0

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self._order == "<" else "big")

    def _values(self, inline: bytes, type_: int, count: int) -> bytes | None:
        if type_ not in _SIZES:
            return None
        size, word = _SIZES[type_]
        total = size * count
        if total > min(_MAX_BYTES, self._left):
            return None
        if total <= len(inline):
            data = inline[:total]
        else:
            data = self._at(self._number(inline), total)
            self._left -= len(data)
            if len(data) < total:
                return None
        if self._order == ">" and word > 1:
            data = b"".join(data[k : k + word][::-1] for k in range(0, total, word))
        return data

    def _at(self, offset: int, size: int) -> bytes:
        if offset >= self._size:  # some systems refuse to go that far
            return b""
        self._file.seek(offset)
        return self._file.read(size)


def is_whole(path: Path) -> bool:
    """Return whether the tiles or strips of all directories of a file are in it to their ends."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for directory in Reader(file).chain():
            for offsets, counts in ((TILE_OFFSETS, TILE_COUNTS), (273, 279)):
                places, sizes = directory.get(offsets), directory.get(counts)
                if places is None or sizes is None:
                    continue
                if any(p + n > size for p, n in zip(places.numbers(), sizes.numbers(), strict=True)):
                    return False
    return True


def lay_out(
    directories: Sequence[Directory], *, big: bool, after_header: bytes = b""
) -> tuple[bytes, list[dict[int, int]]]:
    """Write directories one after the other, as the beginning of a little-endian TIFF.

    Parameters
    ----------
    directories : in the order of the file, each linked to the next
    big : whether to write a BigTIFF
    after_header : bytes that stand before the first directory

    Returns
    -------
    The bytes, and for each directory where in them the values of every tag stand.
    """
    out = bytearray(
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    )
    places: list[dict[int, int]] = []
    link = len(out) - (8 if big else 4)
    out += after_header
    for directory in directories:
        _align(out)
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
