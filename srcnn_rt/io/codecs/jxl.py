"""JPEG XL: a bare codestream, or boxes around one with EXIF and XMP beside it."""

from __future__ import annotations

from ..metadata.header import MAX_BLOCK, DamagedError, Declared, Found, without_prefix
from . import isobmff, libjxl

BARE = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"


def truncated(data: bytes) -> bool:
    """Every box must be whole; a bare codestream says its end to its decoder only."""
    return data.startswith(CONTAINER) and not isobmff.whole(data)


def animated(data: bytes) -> bool:
    """The basic information has a bit for it."""
    try:
        return libjxl.basic_info(data).animated
    except DamagedError:
        return False


def declared(data: bytes) -> Declared:
    """Return what the basic information says; libjxl turns the image itself, so it is as displayed."""
    info = libjxl.basic_info(data)
    if info.extra > 1 or (info.extra and not info.alpha_bits):
        raise DamagedError("has channels beside color and alpha; only those are read")
    if info.premultiplied:
        raise DamagedError("its color is multiplied by its alpha; only straight alpha is read")
    size = 4 if info.bits > 16 else 2 if info.bits > 8 else 1
    return Declared(info.width, info.height, info.colors + info.extra, size)


def read(data: bytes) -> Found:
    """Return the metadata; libjxl has turned the image already, whatever EXIF says."""
    found = Found(orientation=1, icc=libjxl.profile(data))
    if not data.startswith(CONTAINER):
        return found
    for kind, start, stop in isobmff.walk(data, 0, len(data)):
        content = data[start:stop] if kind in (b"Exif", b"xml ", b"brob") else b""
        if kind == b"brob":
            kind, content = content[:4], _unpacked(content[4:])
        if kind == b"Exif" and len(content) > 4:
            at = 4 + int.from_bytes(content[:4], "big")  # where its TIFF header begins
            found.exif = found.exif or without_prefix(content[at:])
        elif kind == b"xml ":
            found.xmp = found.xmp or content or None
    return found


def _unpacked(content: bytes) -> bytes:
    """Return what brotli holds; empty if it is damaged or too large."""
    import imagecodecs

    try:
        return bytes(imagecodecs.brotli_decode(content, out=MAX_BLOCK))
    except (imagecodecs.BrotliError, ValueError, RuntimeError):
        return b""
