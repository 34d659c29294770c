"""Updates sizes, resolution and orientation in XMP packets; everything else stays byte for byte."""

from __future__ import annotations

import re
from fractions import Fraction

_SIZES = {
    b"tiff:ImageWidth": 0, b"exif:PixelXDimension": 0, b"tiff:ImageLength": 1, b"exif:PixelYDimension": 1,
}  # fmt: skip
_DENSITIES = (b"tiff:XResolution", b"tiff:YResolution")
_NUMBER = rb"\d{1,9}(?:/\d{1,9})?"


def upright(xmp: bytes | None, turned: int) -> bytes | None:
    """Return the packet of an image to which the orientation `turned` (1 to 8) has been applied."""
    if xmp is None or turned == 1:
        return xmp
    xmp = _item(b"tiff:Orientation", rb"[2-8]").sub(rb"\g<1>1\g<3>", xmp)
    if turned >= 5:
        x, y = (_item(name, _NUMBER).search(xmp) for name in _DENSITIES)
        if x and y and x[2] != y[2]:
            for name, value in zip(_DENSITIES, (y[2], x[2]), strict=True):
                xmp = _item(name, _NUMBER).sub(rb"\g<1>" + value + rb"\g<3>", xmp, count=1)
    return xmp


def scaled(xmp: bytes | None, scale: int, size: tuple[int, int]) -> bytes | None:
    """Return the packet of an image that was enlarged `scale` times to `size` (width, height)."""
    if xmp is None:
        return None
    for name, axis in _SIZES.items():
        xmp = _item(name, rb"\d{1,9}").sub(rb"\g<1>" + str(size[axis]).encode() + rb"\g<3>", xmp)
    for name in _DENSITIES:
        xmp = _item(name, _NUMBER).sub(lambda m: m[1] + _times(m[2], scale) + m[3], xmp)
    return xmp


def _item(name: bytes, value: bytes) -> re.Pattern[bytes]:
    """Return a pattern of a property, as attribute or element, with its value in the second group."""
    return re.compile(
        rb"((?<![\w:])" + name + rb"(?:\s{0,9}=\s{0,9}[\"']|>)\s{0,9})(" + value + rb")(\s{0,9}[\"'<])"
    )


def _times(number: bytes, scale: int) -> bytes:
    above, _, below = number.partition(b"/")
    divisor = int(below or b"1")
    if divisor == 0:
        return number
    value = Fraction(int(above), divisor) * scale
    return f"{value.numerator}/{value.denominator}".encode() if below else str(value).encode()
