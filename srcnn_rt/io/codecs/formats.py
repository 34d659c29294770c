"""The table of the formats that are decoded and encoded whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..metadata.header import Declared, Found
from . import avif, bmp, isobmff, jpeg, jxl, png, webp


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format, its limits, and the functions that parse its structure.

    Attributes
    ----------
    name : str
        Name in messages.
    suffixes : tuple of str
        In lower case, the usual one first.
    recognised : callable
        Return whether the first 32 bytes of a file announce the format.
    truncated, animated : callable
        Return whether a file is cut short, or has more than one frame.
    declared : callable
        Return size and sample type from the header.
    read : callable
        Return the metadata.
    min_bytes : callable
        Return the smallest possible size in bytes of a file with the same header, 0 if it is unknown.
    depths : tuple of int
        Bytes per sample that are stored losslessly.
    alpha : bool
        Whether it supports transparency.
    lossy : bool
        Whether it takes a quality.
    exif : bool
        Whether it has fields for EXIF and XMP.
    max_side, max_pixels : int
        Limits of the format, or of the libraries that most programs read it with.
    """

    name: str
    suffixes: tuple[str, ...]
    recognised: Callable[[bytes], bool]
    truncated: Callable[[bytes], bool]
    declared: Callable[[bytes], Declared]
    read: Callable[[bytes], Found]
    animated: Callable[[bytes], bool] = lambda data: False
    min_bytes: Callable[[bytes], int] = lambda data: 0
    depths: tuple[int, ...] = (1,)
    alpha: bool = True
    lossy: bool = True
    exif: bool = True
    max_side: int
    max_pixels: int = 2**62


PNG = Format(
    name="PNG", suffixes=(".png",), recognised=lambda head: head.startswith(png.SIGNATURE),
    truncated=png.truncated, declared=png.declared, read=png.read, animated=png.animated,
    min_bytes=png.min_bytes, depths=(1, 2), lossy=False,
    max_side=1_000_000,  # of libpng; the format allows 2^31 - 1
)  # fmt: skip
JPEG = Format(
    name="JPEG", suffixes=(".jpg", ".jpeg"), recognised=lambda head: head.startswith(jpeg.SIGNATURE),
    truncated=jpeg.truncated, declared=jpeg.declared, read=jpeg.read, min_bytes=jpeg.min_bytes,
    alpha=False, max_side=65_535,
)  # fmt: skip
WEBP = Format(
    name="WebP", suffixes=(".webp",), recognised=lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    truncated=webp.truncated, declared=webp.declared, read=webp.read, animated=webp.animated,
    max_side=16_383,
)  # fmt: skip
BMP = Format(
    name="BMP", suffixes=(".bmp",), recognised=lambda head: head.startswith(bmp.SIGNATURE),
    truncated=bmp.truncated, declared=bmp.declared, read=bmp.read, min_bytes=bmp.min_bytes,
    alpha=False, lossy=False, exif=False, max_side=2**31 - 1,
)  # fmt: skip
AVIF = Format(
    name="AVIF", suffixes=(".avif",), recognised=avif.recognised,
    truncated=isobmff.truncated, declared=avif.declared, read=avif.read, animated=avif.animated,
    max_side=32_768, max_pixels=2**28,  # of libavif; the format allows 65,536
)  # fmt: skip
JXL = Format(
    name="JPEG XL", suffixes=(".jxl",), recognised=lambda head: head.startswith((jxl.BARE, jxl.CONTAINER)),
    truncated=jxl.truncated, declared=jxl.declared, read=jxl.read, animated=jxl.animated,
    depths=(1, 2), max_side=2**30, max_pixels=2**40,
)  # fmt: skip
_FORMATS = (PNG, JPEG, WEBP, BMP, AVIF, JXL)
FORMATS = {suffix: format_ for format_ in _FORMATS for suffix in format_.suffixes}


def recognise(head: bytes) -> Format | None:
    """Return the format that the first 32 bytes of a file announce, None if it is not in the table."""
    return next((format_ for format_ in _FORMATS if format_.recognised(head)), None)
