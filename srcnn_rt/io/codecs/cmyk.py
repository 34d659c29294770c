"""Conversion of CMYK JPEGs to RGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import jpeg

if TYPE_CHECKING:
    from PIL.Image import Image

_ADOBE = 0xEE  # marker of Adobe's segment, which means that inks are inverted: 255 is none
_DATE = slice(24, 36)  # position in the header of a profile


def srgb_profile() -> bytes:
    """Return LittleCMS's sRGB profile with a fixed date, so that its bytes are always the same."""
    from PIL import ImageCms

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[_DATE] = bytes.fromhex("07e700010001000000000000")  # 1 January 2023
    return bytes(profile)


def decode(data: bytes, icc: bytes | None) -> tuple[NDArray[Any], bytes | None]:
    """Decode a CMYK or YCCK JPEG.

    Colors are converted to sRGB by the embedded profile, relative colorimetric with black point
    compensation. Without a profile, or with one that LittleCMS rejects, R = (255 - C)(255 - K) / 255.

    Parameters
    ----------
    data : bytes
        The file.
    icc : bytes, optional
        Its profile.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    bytes or None
        Profile of the result; None if it was not converted by a profile.

    Raises
    ------
    OSError, SyntaxError, ValueError
        Pillow's, if it cannot be decoded.
    """
    from PIL import ImageChops
    from PIL.JpegImagePlugin import JpegImageFile

    # Image.open has its own limit on the number of pixels.
    with JpegImageFile(io.BytesIO(data)) as opened:
        opened.load()
        ink: Image = opened.copy()
    if ink.mode != "CMYK":
        raise ValueError(f"four components decode as {ink.mode}")
    if not any(marker == _ADOBE for marker, _, _ in jpeg.segments(data)):
        ink = ImageChops.invert(ink)  # Pillow inverts every CMYK JPEG, as if it were Adobe's
    return to_rgb(ink, icc)


def to_rgb(ink: Image, icc: bytes | None) -> tuple[NDArray[Any], bytes | None]:
    """Convert a CMYK image of Pillow as `decode` does, and return the same."""
    from PIL import ImageCms

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
