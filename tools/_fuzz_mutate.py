"""Mutations of seeds: bytes anywhere, and numbers at the offsets where a format stores them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

from tools._fuzz_models import change_model
from tools._fuzz_seeds import members, packed

# Offset, size in bytes and byte order of a number in the structure of a format.
Place = tuple[int, int, str]
# fmt: off
_NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 64, 100, 127, 128, 255, 256, 257, 1000, 4096, 32767, 32768,
    65535, 65536, 10**6, 2**24, 2**28, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1,
)
# fmt: on
_MAX = 2**17  # largest case, bytes


def mutate(kind: str, data: bytes, other: bytes, rng: Random) -> bytes:
    """Return a damaged copy of `data`.

    Parameters
    ----------
    kind : str
        Kind of the seed, a key of `_fuzz_seeds.KINDS`.
    data : bytes
        The seed.
    other : bytes
        Another seed of the same kind, for splices.
    rng : Random
        Source of all choices.
    """
    if kind == "model":
        if rng.random() < 0.25:
            return bytes(_mangled(bytearray(data), other, rng))
        return change_model(data, rng)
    if kind == "zarr":
        return _folder(data, other, rng)
    out = bytearray(data)
    places = _PLACES.get(kind, _no_places)(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        if places and rng.random() < 0.6:
            _number(out, rng.choice(places), rng)
        else:
            out = rng.choice(_BYTES)(out, other, rng)
    del out[_MAX:]
    if kind == "png" and rng.random() < 0.8:
        _fix_png_checksums(out)
    return bytes(out)


def _mangled(out: bytearray, other: bytes, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 4))):
        out = rng.choice(_BYTES)(out, other, rng)
    return out


def _number(out: bytearray, place: Place, rng: Random) -> None:
    at, size, order = place
    if at + size > len(out):
        return
    old = int.from_bytes(out[at : at + size], order)  # type: ignore[arg-type]
    choice = rng.random()
    if choice < 0.6:
        new = rng.choice((*_NUMBERS, len(out)))
    elif choice < 0.9:
        new = old + rng.choice((-16, -2, -1, 1, 2, 16))
    else:
        new = old ^ (1 << rng.randrange(8 * size))
    out[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]


def _flip_bits(out: bytearray, other: bytes, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 4, 16))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return out


def _set_bytes(out: bytearray, other: bytes, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 4, 16))):
        if out:
            out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return out


def _copy_block(out: bytearray, other: bytes, rng: Random) -> bytearray:
    if len(out) > 2:
        size = rng.randrange(1, min(len(out), 64))
        a, b = (rng.randrange(len(out) - size + 1) for _ in range(2))
        out[b : b + size] = out[a : a + size]
    return out


def _insert(out: bytearray, other: bytes, rng: Random) -> bytearray:
    at = rng.randrange(len(out) + 1)
    what = rng.randbytes(rng.choice((1, 2, 4, 40))) if rng.random() < 0.5 else bytes(out[at : at + 40])
    out[at:at] = what
    return out


def _remove(out: bytearray, other: bytes, rng: Random) -> bytearray:
    at = rng.randrange(len(out) + 1)
    del out[at : at + rng.choice((1, 2, 4, 40))]
    return out


def _truncate(out: bytearray, other: bytes, rng: Random) -> bytearray:
    del out[rng.randrange(len(out) + 1) :]
    return out


def _splice(out: bytearray, other: bytes, rng: Random) -> bytearray:
    a, b = rng.randrange(len(out) + 1), rng.randrange(len(other) + 1)
    return out[:a] + other[b:]


def _overlay(out: bytearray, other: bytes, rng: Random) -> bytearray:
    at = rng.randrange(len(out) + 1)
    part = other[at : at + rng.choice((4, 16, 64))]
    out[at : at + len(part)] = part
    return out


_BYTES: list[Callable[[bytearray, bytes, Random], bytearray]] = [
    *[_flip_bits, _set_bytes] * 2, _copy_block, _insert, _remove, _truncate, _splice, _overlay,
]  # fmt: skip


# Offsets of the numbers of each format.


def _no_places(data: bytes) -> list[Place]:
    return []


def _tiff_places(data: bytes) -> list[Place]:
    """Return every field of every directory entry, and the arrays that the entries point to."""
    order = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"+\0", b"\0+")
    word, head, count_size, entry = (8, 16, 8, 20) if big else (4, 8, 2, 12)
    places: list[Place] = [(head - word, word, order)]

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    sizes = {3: 2, 4: 4, 5: 4, 12: 8, 16: 8, 9: 4, 8: 2}
    directory, seen = number(head - word, word), set()
    while directory and directory not in seen and directory < len(data) and len(seen) < 8:
        seen.add(directory)
        count = min(number(directory, count_size), 60)
        places.append((directory, count_size, order))
        for k in range(count):
            at = directory + count_size + entry * k
            places += [
                (at, 2, order),
                (at + 2, 2, order),
                (at + 4, word, order),
                (at + 4 + word, word, order),
            ]
            kind, items = number(at + 2, 2), number(at + 4, word)
            size = sizes.get(kind, 1)
            if size * items > word:
                begin = number(at + 4 + word, word)
                places += [(begin + size * i, size, order) for i in range(min(items, 8))]
            else:
                places.append((at + 4 + word, min(size, word), order))
        directory = number(directory + count_size + entry * count, word)
    return [p for p in places if p[0] + p[1] <= len(data)]


def _png_places(data: bytes) -> list[Place]:
    places: list[Place] = [(16, 4, "big"), (20, 4, "big"), *((24 + k, 1, "big") for k in range(5))]
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        places += [(at, 4, "big"), (at + 4, 1, "big")]
        places += [(at + 8 + 4 * k, 4, "big") for k in range(min(size // 4, 6))]
        at += 12 + size
    return places


def _fix_png_checksums(out: bytearray) -> None:
    """Recompute the checksum of each chunk; otherwise readers stop at the first wrong one."""
    at = 8
    while at + 12 <= len(out):
        size = int.from_bytes(out[at : at + 4], "big")
        if at + 12 + size > len(out):
            return
        out[at + 8 + size : at + 12 + size] = zlib.crc32(out[at + 4 : at + 8 + size]).to_bytes(4, "big")
        at += 12 + size


def _jpeg_places(data: bytes) -> list[Place]:
    places: list[Place] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        places += [(at + 1, 1, "big"), (at + 2, 2, "big")]
        places += [(at + 4 + k, 1, "big") for k in range(min(size - 2, 24))]
        if 0xC0 <= data[at + 1] <= 0xCF:
            places += [(at + 5, 2, "big"), (at + 7, 2, "big")] * 3
        if data[at + 1] == 0xDA:
            break
        at += 2 + size
    return places


def _riff_places(data: bytes) -> list[Place]:
    places: list[Place] = [(4, 4, "little")]
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4 + 4][4:], "little")
        places += [(at + 4, 4, "little"), *((at + 8 + k, 1, "little") for k in range(min(size, 16)))]
        places += [(at + 8 + k, 3, "little") for k in (4, 7)]
        at += 8 + size + size % 2
    return places


def _bmp_places(data: bytes) -> list[Place]:
    wide = [(k, 4, "little") for k in (2, 10, 14, 18, 22, 30, 34, 38, 42, 46, 50)]
    return [*wide, *wide, (26, 2, "little"), (28, 2, "little"), *((k, 1, "little") for k in range(54, 80))]


def _box_places(data: bytes) -> list[Place]:
    """Return sizes and types of nested ISO boxes, and the numbers that follow them."""
    places: list[Place] = []

    def walk(start: int, stop: int, depth: int) -> None:
        at = start
        while at + 8 <= stop:
            size = struct.unpack_from(">I", data, at)[0]
            places.extend([(at, 4, "big"), (at + 4, 1, "big")])
            places.extend((at + 8 + 4 * k, 4, "big") for k in range(min(max(size - 8, 0) // 4, 5)))
            if size < 8:
                return
            kind = data[at + 4 : at + 8]
            if depth < 4 and kind in (b"meta", b"iprp", b"ipco", b"iinf", b"moov"):
                walk(
                    at + (12 if kind == b"meta" else 14 if kind == b"iinf" else 8),
                    min(at + size, stop),
                    depth + 1,
                )
            at += size

    walk(0, len(data), 0)
    return [p for p in places if p[0] + p[1] <= len(data)]


_PLACES: dict[str, Callable[[bytes], list[Place]]] = {
    "tiff": _tiff_places, "png": _png_places, "jpeg": _jpeg_places, "webp": _riff_places, "bmp": _bmp_places,
    "avif": _box_places, "jxl": lambda data: [(k, 1, "little") for k in range(min(len(data), 40))],
}  # fmt: skip


# Zarr folders: JSON documents and chunks.

# fmt: off
_LEAVES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 20, 24, 255, 65536, 2**31, 2**40, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), True,
    None, "", "a", "..", "../../etc", "/etc/passwd", "\x1b[2J", "x" * 5000, "uint8", "float16", "int64",
    ">u2", "<f4", "|O", "NaN", "gzip", "blosc", "zstd", "bytes", "sharding_indexed", "transpose", "C", "F",
    "/", ".", [], {}, [0], [1, 1, 1, 1, 1], [2**40] * 2, [[]], {"a": 1},
)
# fmt: on


def _folder(data: bytes, other: bytes, rng: Random) -> bytes:
    """Return a packed folder with changed documents and chunks."""
    files = members(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        documents = [n for n in files if n.endswith(("json", ".zarray", ".zattrs", ".zgroup"))]
        if documents and rng.random() < 0.8:
            name = rng.choice(documents)
            try:
                tree = json.loads(files[name])
            except (ValueError, RecursionError):  # damaged by an earlier change
                continue
            if rng.random() < 0.95:
                _change_leaf(tree, rng)
                files[name] = json.dumps(tree).encode()
            else:
                files[name] = (
                    b"[" * rng.choice((100, 100_000))
                    if rng.random() < 0.5
                    else files[name][: rng.randrange(99)]
                )
        elif files:
            name = rng.choice(sorted(files))
            if rng.random() < 0.1:
                del files[name]
            else:
                files[name] = bytes(rng.choice(_BYTES)(bytearray(files[name]), other, rng)[:_MAX])
    return packed(files)


def _change_leaf(tree: Any, rng: Random) -> None:
    """Replace, remove or duplicate one item anywhere in a JSON document."""
    places: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        stack += [node[key] for key in keys]
    if not places:
        return
    node, key = rng.choice(places)
    choice = rng.random()
    if choice < 0.8:
        node[key] = rng.choice(_LEAVES)
    elif choice < 0.9:
        del node[key]
    elif isinstance(node, list):
        node.append(node[key])
    else:
        node[rng.choice(("path", "shape", "axes", "codecs", "fill_value", "order"))] = node[key]
