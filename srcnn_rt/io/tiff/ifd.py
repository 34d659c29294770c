"""Image file directories (IFDs): read from a TIFF, edited, and encoded as the head of another one.

Only fields are handled here, no pixels. Values are kept as little-endian bytes. Format: TIFF 6.0 (Adobe,
1992), section 2; BigTIFF as libtiff writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

SUBFILE_TYPE, TILE_OFFSETS, TILE_COUNTS = 254, 324, 325
_STRIP_OFFSETS, _STRIP_COUNTS = 273, 279
EXIF_DIRECTORY, GPS_DIRECTORY = 34665, 34853
_SUBDIRECTORIES = (EXIF_DIRECTORY, GPS_DIRECTORY, 40965)
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD, LONG8 = 1, 2, 3, 4, 5, 7, 13, 16
_INTEGER_CODES = {BYTE: "B", SHORT: "H", LONG: "I", IFD: "I", LONG8: "Q"}
# By type: bytes per value, and bytes per number in it, whose byte order is swapped as a unit.
_SIZES = {
    1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4), 5: (8, 4), 6: (1, 1), 7: (1, 1), 8: (2, 2), 9: (4, 4),
    10: (8, 4), 11: (4, 4), 12: (8, 8), 13: (4, 4), 16: (8, 8), 17: (8, 8), 18: (8, 8),
}  # fmt: skip
_MAX_FIELDS = 4096
_MAX_BYTES = 64 * 2**20  # per field; larger profiles and private blocks are dropped
_MAX_READ = 256 * 2**20  # of all fields together, because many fields may point to the same bytes
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
# An entry as stored: tag, type, number of values, and the values or their offset.
_Entry = tuple[int, int, int, bytes]


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a directory.

    Attributes
    ----------
    tag : int
        TIFF tag.
    type : int
        TIFF type code, such as `LONG`.
    data : bytes
        Values, little-endian.
    below : Directory, optional
        The EXIF, GPS or interoperability directory that the field points to.
    """

    tag: int
    type: int
    data: bytes
    below: Directory | None = None

    @classmethod
    def of(cls, tag: int, type_: int, *values: int) -> Field:
        """Return a field of unsigned integers."""
        return cls(tag, type_, struct.pack(f"<{len(values)}{_INTEGER_CODES[type_]}", *values))

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.data) // _SIZES[self.type][0]

    def numbers(self) -> tuple[int, ...]:
        """Return the values of an unsigned integer type; an empty tuple for other types."""
        code = _INTEGER_CODES.get(self.type)
        return struct.unpack(f"<{self.count}{code}", self.data) if code else ()


@dataclass(frozen=True, slots=True)
class Directory:
    """Fields of one page or subdirectory."""

    fields: tuple[Field, ...]

    def get(self, tag: int) -> Field | None:
        """Return the first field with a tag, None if there is none."""
        return next((f for f in self.fields if f.tag == tag), None)

    def data(self, tag: int) -> bytes:
        """Return the bytes of a field, empty if there is none."""
        field = self.get(tag)
        return field.data if field else b""

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the unsigned integers of a field, empty if there are none."""
        field = self.get(tag)
        return field.numbers() if field else ()

    def number(self, tag: int, default: int) -> int:
        """Return the first unsigned integer of a field, `default` if there is none."""
        return next(iter(self.numbers(tag)), default)

    def with_fields(self, fields: Iterable[Field]) -> Directory:
        """Return a copy with fields added; they replace fields with the same tag."""
        return Directory(tuple({f.tag: f for f in (*self.fields, *fields)}.values()))

    def without(self, *tags: int) -> Directory:
        """Return a copy without the fields of some tags."""
        return Directory(tuple(f for f in self.fields if f.tag not in tags))


@dataclass(frozen=True, slots=True)
class Page:
    """Position of a page in its file.

    Attributes
    ----------
    offset : int
        Offset of its directory in bytes.
    mask : int, optional
        Offset of the directory of its validity mask.
    overviews : bool
        Whether overviews of the page follow it.
    """

    offset: int
    mask: int | None = None
    overviews: bool = False


class Reader:
    """Reads the directories of a TIFF or of an EXIF block. It terminates on arbitrary bytes.

    Damaged and oversized fields are skipped, because they only hold metadata.

    Parameters
    ----------
    file : binary file
        Seekable.

    Attributes
    ----------
    first : int
        Offset of the first directory, 0 if there is none.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._remaining = _MAX_READ
        header = self._bytes(0, 16)
        self._little = header[:2] != b"MM"
        version = header[2:4] if self._little else header[2:4][::-1]
        self._big = version == b"+\0"
        self.first = 0
        if header[:2] in (b"II", b"MM") and version in (b"*\0", b"+\0"):
            self.first = self._number(header[8:16] if self._big else header[4:8])

    def directory(self, offset: int) -> Directory:
        """Return the directory at an offset; an empty one if there is none."""
        return self._parse(self._entries(offset)[0])

    def page(self) -> Directory:
        """Return the first directory of the file."""
        return self.directory(self.first)

    def chain(self) -> list[Directory]:
        """Return all directories in file order."""
        return [self._parse(entries) for _, entries in self._walk()]

    def pages(self) -> list[Page]:
        """Return all pages; overviews and masks belong to the page before them.

        If a file holds nothing else, its first directory counts as a page.
        """
        found: list[Page] = []
        for offset, entries in self._walk():
            kind = self._subfile_type(entries)
            if not kind & (_REDUCED | _MASK):
                found.append(Page(offset))
            elif found and kind & _MASK and not kind & _REDUCED and found[-1].mask is None:
                found[-1] = replace(found[-1], mask=offset)
            elif found and not kind & _MASK:
                found[-1] = replace(found[-1], overviews=True)
        return found or [Page(self.first)]

    def _walk(self) -> Iterator[tuple[int, list[_Entry]]]:
        """Yield the offset and raw entries of every linked directory, each once."""
        offset, seen = self.first, set[int]()
        while offset and offset not in seen:
            seen.add(offset)
            entries, following = self._entries(offset)
            yield offset, entries
            offset = following

    def _parse(self, entries: Sequence[_Entry], depth: int = 0) -> Directory:
        fields = []
        for tag, type_, count, value in entries:
            data = self._values(value, type_, count)
            if data is None:
                continue
            field = Field(tag, type_, data)
            if tag not in _SUBDIRECTORIES:
                fields.append(field)
            elif depth < 2 and (offsets := field.numbers()):
                below = self._parse(self._entries(offsets[0])[0], depth + 1)
                fields.append(replace(field, below=below))
        return Directory(tuple(fields))

    def _subfile_type(self, entries: Sequence[_Entry]) -> int:
        """Return NewSubfileType, 0 for a page of its own."""
        for tag, type_, _, value in entries:
            if tag == SUBFILE_TYPE and type_ in (SHORT, LONG):
                return self._number(value[: _SIZES[type_][0]])
        return 0

    def _entries(self, offset: int) -> tuple[list[_Entry], int]:
        """Return the raw entries of a directory and the offset of the next directory, 0 for none."""
        word, pointer, code = (8, 8, "HHQ8s") if self._big else (2, 4, "HHI4s")
        entry = struct.Struct(f"{'<' if self._little else '>'}{code}")
        head = self._bytes(offset, word) if offset else b""
        count = self._number(head) if len(head) == word else 0
        if not 0 < count <= _MAX_FIELDS:
            return [], 0
        table = self._bytes(offset + word, count * entry.size + pointer)
        present = min(count, len(table) // entry.size)  # fewer in a truncated file
        entries = list(entry.iter_unpack(table[: present * entry.size]))
        rest = table[count * entry.size :]
        return entries, self._number(rest) if len(rest) == pointer else 0

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self._little else "big")

    def _values(self, inline: bytes, type_: int, count: int) -> bytes | None:
        if type_ not in _SIZES:
            return None
        size, word = _SIZES[type_]
        total = size * count
        if total > min(_MAX_BYTES, self._remaining):
            return None
        if total <= len(inline):
            data = inline[:total]
        else:
            data = self._bytes(self._number(inline), total)
            self._remaining -= len(data)
            if len(data) < total:
                return None
        return data if self._little else swap_bytes(data, word)

    def _bytes(self, offset: int, size: int) -> bytes:
        if offset >= self._size:  # some systems refuse to seek that far
            return b""
        self._file.seek(offset)
        return self._file.read(size)


def swap_bytes(data: bytes, word: int) -> bytes:
    """Reverse the byte order of numbers of `word` bytes each."""
    return np.frombuffer(data, f"u{word}").byteswap().tobytes()


def is_complete(path: Path) -> bool:
    """Return whether the file contains the tiles or strips of all its directories to their ends."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for directory in Reader(file).chain():
            offsets = directory.numbers(TILE_OFFSETS) + directory.numbers(_STRIP_OFFSETS)
            counts = directory.numbers(TILE_COUNTS) + directory.numbers(_STRIP_COUNTS)
            if any(p + n > size for p, n in zip(offsets, counts, strict=True)):
                return False
    return True


def encode(directories: Sequence[Directory], *, big: bool, after_header: bytes = b"") -> bytes:
    """Return the beginning of a little-endian TIFF: its header and directories.

    Parameters
    ----------
    directories : sequence of Directory
        In file order; each links to the next.
    big : bool
        Whether to write a BigTIFF.
    after_header : bytes
        Inserted before the first directory.
    """
    out = bytearray(
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    )
    link = len(out) - (8 if big else 4)
    out += after_header
    for directory in directories:
        _align(out)
        struct.pack_into("<Q" if big else "<I", out, link, len(out))
        link = _append(out, directory, big)
    return bytes(out)


def _append(out: bytearray, directory: Directory, big: bool) -> int:
    """Append a directory and its values; return the offset of the link to the next directory."""
    pointer, code = (LONG8, "<Q") if big else (LONG, "<I")
    inline, entry = (8, 20) if big else (4, 12)
    fields = sorted(directory.fields, key=lambda f: f.tag)
    links = []
    first = len(out) + (8 if big else 2)
    out += struct.pack("<Q" if big else "<H", len(fields)) + bytes(entry * len(fields) + inline)
    for k, field in enumerate(fields):
        at = first + k * entry
        if field.below:
            links.append((at + entry - inline, field.below))
            field = Field.of(field.tag, pointer, 0)
        struct.pack_into("<HHQ" if big else "<HHI", out, at, field.tag, field.type, field.count)
        value = at + entry - inline
        if len(field.data) <= inline:
            out[value : value + len(field.data)] = field.data
        else:
            _align(out)
            struct.pack_into(code, out, value, len(out))
            out += field.data
    for value, below in links:
        _align(out)
        struct.pack_into(code, out, value, len(out))
        _append(out, below, big)
    return first + len(fields) * entry


def _align(out: bytearray) -> None:
    out += bytes(-len(out) % 8)
