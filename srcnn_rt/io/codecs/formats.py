"""The coded formats: what each holds, and which module knows its structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..metadata.header import Declared, Found
from . import avif, bmp, jpeg, jxl, png, webp


def _no_bound(data: bytes) -> int:
    """Nothing is known of how small a file of this header can be."""
    return 0


def _single(data: bytes) -> bool:
    """The format holds one image."""
    return False


@dataclass(frozen=True, slots=True)
class Format:
    """What one coded format holds.

    Attributes
    ----------
    name : as it is called
    suffixes : lower case, the usual one first
    depths : bytes a sample that are written without loss
    alpha : whether it holds transparency
    max_side, max_pixels : what the format or the libraries that read it allow
    lossy : whether a quality means anything
    texts, density, exif : whether it has a place of its own for texts, for pixels an inch, for EXIF and XMP
    truncated, animated, declared, least_bytes, read : of a file's bytes
    """

    name: str
    suffixes: tuple[str, ...]
    depths: tuple[int, ...]
    alpha: bool
    max_side: int
    max_pixels: int
    lossy: bool
    texts: bool
    density: bool
    exif: bool
    truncated: Callable[[bytes], bool]
    declared: Callable[[bytes], Declared]
    read: Callable[[bytes], Found]
    animated: Callable[[bytes], bool] = _single
    min_bytes: Callable[[bytes], int] = _no_bound


# 2^31 - 1 by the format, but libpng, which reads nearly all of them, takes a million.
PNG = Format(
    "PNG", (".png",), (1, 2), True, 1_000_000, 2**62, False, True, True, True,
    png.truncated, png.declared, png.read, png.animated, png.min_bytes,
)  # fmt: skip
JPEG = Format(
    "JPEG", (".jpg", ".jpeg"), (1,), False, 65_535, 2**62, True, False, True, True,
    jpeg.truncated, jpeg.declared, jpeg.read, min_bytes=jpeg.min_bytes,
)  # fmt: skip
WEBP = Format(
    "WebP", (".webp",), (1,), True, 16_383, 2**62, True, False, False, True,
    webp.truncated, webp.declared, webp.read, webp.animated,
)  # fmt: skip
BMP = Format(
    "BMP", (".bmp",), (1,), False, 2**31 - 1, 2**62, False, False, True, False,
    bmp.truncated, bmp.declared, bmp.read, min_bytes=bmp.min_bytes,
)  # fmt: skip
# 65,536 by the format, but libavif, which reads nearly all of them, takes these.
AVIF = Format(
    "AVIF", (".avif",), (1,), True, 32_768, 2**28, True, False, False, True,
    avif.truncated, avif.declared, avif.read, avif.animated,
)  # fmt: skip
JXL = Format(
    "JPEG XL", (".jxl",), (1, 2), True, 2**30, 2**40, True, False, False, True,
    jxl.truncated, jxl.declared, jxl.read, jxl.animated,
)  # fmt: skip
FORMATS = {suffix: f for f in (PNG, JPEG, WEBP, BMP, AVIF, JXL) for suffix in f.suffixes}


def recognise(head: bytes) -> Format | None:
    """Return the coded format that a file's first 32 bytes announce, whatever its name is."""
    for format_, signature in ((PNG, png.SIGNATURE), (JPEG, jpeg.SIGNATURE), (BMP, bmp.SIGNATURE)):
        if head.startswith(signature):
            return format_
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head.startswith((jxl.BARE, jxl.CONTAINER)):
        return JXL
    return AVIF if avif.recognised(head) else None
