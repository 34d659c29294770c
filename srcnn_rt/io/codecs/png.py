"""PNG: parsing the chunks, and inserting metadata."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...image.info import Metadata, top_of_bits
from ..metadata.header import (
    MAX_BLOCK,
    MAX_TEXT,
    MAX_TEXTS,
    Block,
    DamagedError,
    Declared,
    Found,
    decode_text,
    without_prefix,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_COLOR = {"gAMA": 4, "cHRM": 32, "sRGB": 1, "cICP": 4}  # color chunks and their sizes
_BITS = "sBIT"
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # to decode the samples
_XMP = "XML:com.adobe.xmp"
_RAW = "Raw profile type "  # ImageMagick stores EXIF as hexadecimal text, which is older than eXIf
_RAW_BLOCKS: dict[str, Block] = {"exif": "exif", "APP1": "exif", "xmp": "xmp", "icc": "icc", "icm": "icc"}
_INCH = 0.0254  # metres


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each whole chunk, and the start and end of its content."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            return
        yield data[at + 4 : at + 8], at + 8, at + 8 + size
        at += 12 + size


def truncated(data: bytes) -> bool:
    """Return whether there is no whole IEND chunk."""
    return not any(kind == b"IEND" for kind, _, _ in chunks(data))


def animated(data: bytes) -> bool:
    """Return whether an animation control chunk precedes the image data."""
    for kind, _, _ in chunks(data):
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
    return False


def declared(data: bytes) -> Declared:
    """Return the size and sample type from IHDR; a palette counts as RGB, with transparency as RGBA."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise DamagedError("no IHDR chunk at its beginning")
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise DamagedError(f"declares {width} x {height} pixels")
    if depth not in _DEPTHS.get(color, ()) or interlaced > 1:
        raise DamagedError(f"declares color type {color} with {depth} bits")
    channels = _CHANNELS[color]
    for kind, _, _ in chunks(data):
        if kind == b"tRNS" and color in (0, 2, 3):
            channels += 1
        if kind in (b"tRNS", b"IDAT"):
            break
    return Declared(width, height, channels, 2 if depth == 16 else 1)


def min_bytes(data: bytes) -> int:
    """Return the smallest size in bytes of a file with this header: deflate compresses at most 1032 : 1."""
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    bits = depth * (1 if color == 3 else _CHANNELS[color])
    return int(height * (width * bits / 8) / 1032)


def samples_only(data: bytes) -> bytes:
    """Return the file without its metadata chunks; libpng would print a warning for each damaged one."""
    kinds = {kind for kind, _, _ in chunks(data)}
    if kinds <= set(_NEEDED):
        return data
    view = memoryview(data)
    parts = [view[a - 8 : b + 4] for kind, a, b in chunks(data) if kind in _NEEDED]
    return b"".join([view[:8], *parts])


def read(data: bytes) -> Found:
    """Return the metadata; damaged chunks are ignored."""
    found, budget = Found(), MAX_TEXTS
    for kind, start, stop in chunks(data):
        if kind in (b"IDAT", b"IEND"):
            continue
        if zlib.crc32(data[start - 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            continue
        name, content = kind.decode("latin-1"), data[start:stop]
        right = len(content) == _COLOR.get(name, -1) or (name == _BITS and 1 <= len(content) <= 4)
        if right:
            found.color[name] = content
        elif kind == b"iCCP" and found.icc is None:
            _, _, rest = content.partition(b"\0")
            found.icc = _inflate(rest[1:], MAX_BLOCK) or None
        elif kind == b"pHYs" and len(content) == 9:
            x, y, unit = struct.unpack(">IIB", content)
            if unit == 1 and x and y:
                found.dpi = x * _INCH, y * _INCH
        elif kind == b"eXIf":
            found.exif = without_prefix(content) or found.exif
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            block = content.startswith((_XMP.encode(), _RAW.encode()))
            key, text = _text(kind, content, MAX_BLOCK if block else MAX_TEXT)
            if key == _XMP and text:
                found.keep("xmp", text)
            elif key.startswith(_RAW):
                _keep_raw_profile(found, key[len(_RAW) :], text)
            elif key and text is not None and len(text) <= budget:
                budget -= len(text)
                said = decode_text(text) if kind == b"iTXt" else text.decode("latin-1")
                found.texts.setdefault(key, said)
    return found


def top(bits: bytes, samples: NDArray[Any]) -> float | None:
    """Return the largest possible value of unscaled samples with fewer bits than their type, else None.

    The PNG specification (third edition, 11.3.2.6 and 12.4) requires such samples to be scaled to the full
    depth, with their original bits in sBIT. Microscopes and cameras write the same chunk but do not scale.
    Samples count as unscaled if all of them fit into the bits of sBIT and some cannot result from scaling.

    Parameters
    ----------
    bits : bytes
        Content of sBIT, one number per channel.
    samples : ndarray of uint8 or uint16, shape (H, W, C)
        The image.
    """
    found = top_of_bits(bits[0], samples.dtype) if bits and len(set(bits)) == 1 else None
    if found is None or len(bits) != samples.shape[2] or samples.max() > found:
        return None
    maximum, depth = int(found), 8 * samples.dtype.itemsize
    values = np.arange(maximum + 1)
    full = 2**depth - 1
    spread = np.zeros(2**depth, np.bool_)
    spread[(values * full + maximum // 2) // maximum] = True
    spread[values << (depth - bits[0])] = True
    return None if spread[samples].all() else found


def insert(coded: bytes, metadata: Metadata, dtype: np.dtype[Any], top: float | None = None) -> bytes:
    """Return an encoded image with chunks of metadata before the samples.

    Parameters
    ----------
    coded : bytes
        File without metadata.
    metadata : Metadata
        What to insert.
    dtype : dtype
        Type of the samples.
    top : float, optional
        Largest value of the samples if that is not the largest of their type; written to sBIT.
    """
    parts: list[bytes] = []
    color = metadata.color
    for name in _COLOR:  # a profile takes precedence over sRGB, and PNG forbids both together
        if name in color and not (name == "sRGB" and metadata.icc):
            parts.append(_chunk(name.encode(), color[name]))
    channels = _CHANNELS[coded[25]]
    bits = bytes([int(top).bit_length()] * channels) if top is not None else color.get(_BITS, b"")
    if len(bits) == channels and all(0 < n <= 8 * dtype.itemsize for n in bits):
        parts.append(_chunk(_BITS.encode(), bits))
    if metadata.icc:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        x, y = (round(v / _INCH) for v in metadata.dpi)
        if 0 < x < 2**31 and 0 < y < 2**31:
            parts.append(_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.exif:
        parts.append(_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        parts.append(_chunk(b"iTXt", _XMP.encode() + b"\0\0\0\0\0" + metadata.xmp))
    for key, text in metadata.texts.items():
        name_bytes = " ".join(key.split()).encode("latin-1", "replace")[:79]
        if not name_bytes or not text:
            continue
        try:
            parts.append(_chunk(b"tEXt", name_bytes + b"\0" + text.replace("\0", " ").encode("latin-1")))
        except UnicodeEncodeError:
            parts.append(_chunk(b"iTXt", name_bytes + b"\0\0\0\0\0" + text.replace("\0", " ").encode()))
    view = memoryview(coded)
    return b"".join([view[:33], *parts, view[33:]]) if parts else coded


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _inflate(data: bytes, limit: int) -> bytes | None:
    """Decompress zlib data; None if it is damaged or larger than `limit` bytes."""
    try:
        inflater = zlib.decompressobj()
        out = inflater.decompress(data, limit)
        return out if inflater.eof else None
    except zlib.error:
        return None


def _text(kind: bytes, content: bytes, limit: int) -> tuple[str, bytes | None]:
    """Return the keyword and text of a text chunk; the text is None if it is damaged or too long."""
    name, zero, rest = content.partition(b"\0")
    key = name.decode("latin-1")
    if not zero or not 1 <= len(name) <= 79:
        return "", None
    if kind == b"zTXt":
        return key, _inflate(rest[1:], limit)
    if kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        texts = rest[2:].split(b"\0", 2)  # language, translated keyword, text
        if len(texts) < 3:
            return key, None
        return key, _inflate(texts[2], limit) if compressed else texts[2]
    return key, rest


def _keep_raw_profile(found: Found, name: str, text: bytes | None) -> None:
    """Store EXIF, XMP or a profile from ImageMagick's hexadecimal text, which has name, size and digits."""
    words = (text or b"").split()
    try:
        content = bytes.fromhex(b"".join(words[2:]).decode("ascii"))
    except ValueError:
        return
    if name in _RAW_BLOCKS:
        found.keep(_RAW_BLOCKS[name], content)
