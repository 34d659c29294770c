"""ImageJ's metadata block in a TIFF: labels, lookup tables and display ranges."""

from __future__ import annotations

import struct

from .ifd import BYTE, LONG, Directory, Field, swap_bytes

_COUNTS, _BLOCK = 50838, 50839
_BIG, _LITTLE = b"IJIJ", b"JIJI"
# Bytes per number in items of each kind (texts are UTF-16). Other kinds consist of single bytes.
_WORDS = {b"info": 2, b"labl": 2, b"prop": 2, b"rang": 8}
# Regions of interest and overlays are drawn at the old image size.
_DROPPED = (b"roi ", b"over")


def fields(ifd: Directory) -> tuple[Field, ...]:
    """Return the two fields of a page's block in little-endian order; none if missing or damaged."""
    data, end = ifd.data(_BLOCK), ifd.number(_COUNTS, 0)
    if data[:4] not in (_BIG, _LITTLE) or end > len(data) or end % 8 != 4:
        return ()
    big, counts = data[:4] == _BIG, ifd.numbers(_COUNTS)[1:]
    header, items, at = [_LITTLE], [], end
    for code, count in struct.iter_unpack(">II" if big else "<II", data[4:end]):
        lengths, counts, kind = counts[:count], counts[count:], code.to_bytes(4, "big")
        if len(lengths) < count or at + sum(lengths) > len(data):
            return ()
        if kind in _DROPPED:
            at += sum(lengths)
            continue
        header.append(struct.pack("<II", code, count))
        for length in lengths:
            item, word = data[at : at + length], _WORDS.get(kind, 1)
            items.append(swap_bytes(item, word) if big and length % word == 0 else item)
            at += length
    if not items:
        return ()
    head = b"".join(header)
    return (
        Field.of(_COUNTS, LONG, len(head), *map(len, items)),
        Field(_BLOCK, BYTE, head + b"".join(items)),
    )
