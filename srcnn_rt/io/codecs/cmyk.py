"""Ink to light: a CMYK JPEG becomes the sRGB image that it is the print of."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import jpeg

_ADOBE = 0xEE  # the segment by which a coder says that 255 is no ink
_DATE = slice(24, 36)  # in a profile's header


def srgb_profile() -> bytes:
    """Return LittleCMS's sRGB profile, the same bytes whenever it is made."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_DATE] = bytes.fromhex("07e700010001000000000000")  # 1 January 2023
    return bytes(profile)


def decode(data: bytes, icc: bytes | None) -> tuple[NDArray[Any], bytes | None]:
    """Return a CMYK or YCCK JPEG as (H, W, 3) uint8, and the profile of the result.

    By its embedded profile: relative colorimetric with black point compensation, what
    printers' software does. Without one, or with one that LittleCMS does not take:
    R = (255 - C)(255 - K) / 255, and no profile.

    Raises
    ------
    OSError, SyntaxError, ValueError
        Pillow's, if it does not decode.
    """
    from PIL import Image, ImageChops, ImageCms
    from PIL.JpegImagePlugin import JpegImageFile

    # Not Image.open, which has a limit of its own on the number of pixels.
    with JpegImageFile(io.BytesIO(data)) as opened:
        opened.load()
        ink: Image.Image = opened.copy()
    if ink.mode != "CMYK":
        raise ValueError(f"four components decode as {ink.mode}")
    if not any(marker == _ADOBE for marker, _, _ in jpeg.segments(data)):
        ink = ImageChops.invert(ink)  # Pillow takes every one for Adobe's, which are inverted
    if icc:
        try:
            rgb = ImageCms.profileToProfile(
                ink,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            return np.asarray(rgb), srgb_profile()
        except (ImageCms.PyCMSError, OSError):
            pass
    return np.asarray(ink.convert("RGB")), None
