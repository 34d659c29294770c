"""ImageJ's own block of a TIFF: labels, lookup tables, ranges, in the byte order of the file it is in."""

from __future__ import annotations

from .ifd import BYTE, LONG, Directory, Field, numbers

_COUNTS, _BLOCK = 50838, 50839
_BIG, _LITTLE = b"IJIJ", b"JIJI"
# Bytes of the numbers in items of each kind; texts are UTF-16. Of other kinds the bytes have no order.
_WORDS = {b"info": 2, b"labl": 2, b"prop": 2, b"rang": 8}
# Regions and overlays are places in the image, drawn at its old size.
_DROPPED = (b"roi ", b"over")


def fields(head: Directory) -> tuple[Field, ...]:
    """Return the two fields of a page's block for a little-endian file; none if it is damaged or missing."""
    sizes, block = head.get(_COUNTS), head.get(_BLOCK)
    if sizes is None or block is None or block.data[:4] not in (_BIG, _LITTLE):
        return ()
    big, data, counts = block.data[:4] == _BIG, block.data, sizes.numbers()
    end = counts[0] if counts else 0
    if end > len(data) or end % 8 != 4:
        return ()
    header, items, lengths = [_LITTLE], [], []
    at, k = end, 1
    for entry in range(4, end, 8):
        kind = data[entry : entry + 4] if big else data[entry : entry + 4][::-1]
        many = int.from_bytes(data[entry + 4 : entry + 8], "big" if big else "little")
        here = counts[k : k + many]
        if len(here) < many or at + sum(here) > len(data):
            return ()
        for size in here if kind not in _DROPPED else ():
            item = data[at : at + size]
            items.append(_turned(item, _WORDS.get(kind, 1)) if big else item)
            lengths.append(size)
            at += size
        if kind in _DROPPED:
            at += sum(here)
        else:
            header += [kind[::-1], many.to_bytes(4, "little")]
        k += many
    if not items:
        return ()
    first = b"".join(header)
    return numbers(_COUNTS, LONG, len(first), *lengths), Field(_BLOCK, BYTE, first + b"".join(items))


def _turned(data: bytes, word: int) -> bytes:
    if len(data) % word:
        return data
    return b"".join(data[k : k + word][::-1] for k in range(0, len(data), word))
