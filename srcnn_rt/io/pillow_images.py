"""Images of Pillow as arrays and back. Pillow is not imported before the caller has done so.

========================= ==============================================================
mode                      becomes
========================= ==============================================================
L, LA, RGB, RGBA, I;16,   what it is; with a transparent colour LA or RGBA
I, F
1                         L
P, PA                     RGB, or RGBA if any colour is transparent
RGBX, YCbCr, HSV          RGB
La, RGBa (premultiplied)  LA, RGBA
CMYK                      sRGB by the embedded profile, as a JPEG file
LAB                       LAB, each channel on its own, as a TIFF file
========================= ==============================================================
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..options import ArrayOptions

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # Exif tag
_CONVERTED = {
    "1": "L", "La": "LA", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA", "YCbCr": "RGB",
    "HSV": "RGB",
}  # fmt: skip
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
_KEPT = ("L", "LA", "RGB", "RGBA", "LAB", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def is_image(value: Any) -> TypeGuard[Image]:
    """Return whether a value is an image of Pillow."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


@dataclass(frozen=True)
class Samples:
    """The samples of an image.

    Attributes
    ----------
    array : ndarray, shape (H, W) or (H, W, C)
        Upright: the orientation of its Exif data is applied, as for files.
    options : ArrayOptions
        What the channels are.
    mode : str
        Mode of an image made of them.
    icc : bytes, optional
        Their colour profile.
    """

    array: NDArray[Any]
    options: ArrayOptions = field(default_factory=ArrayOptions)
    mode: str = "L"
    icc: bytes | None = None

    def image(self, array: NDArray[Any]) -> Image:
        """Return an array with the same channels as an image with the same profile."""
        from PIL import Image

        if self.mode == "LAB":
            made = Image.merge("LAB", [Image.fromarray(plane) for plane in np.moveaxis(array, -1, 0)])
        else:
            made = Image.fromarray(array)
        if self.icc:
            made.info["icc_profile"] = self.icc
        return made


def samples_of(image: Image) -> Samples:
    """Return the samples of an image, in the mode that the table above gives.

    Raises
    ------
    ArgumentError
        If it has another mode.
    """
    from PIL import ImageOps

    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    icc = image.info.get("icc_profile")
    if image.mode == "CMYK":
        from .codecs import cmyk

        rgb, icc = cmyk.to_rgb(image, icc)
        return Samples(rgb, {}, "RGB", icc)
    mode = _CONVERTED.get(image.mode, image.mode)
    if mode not in _KEPT:
        raise ArgumentError(
            f"an image of mode {image.mode} is not supported; convert it to RGB, L, I;16 or F"
        )
    if image.has_transparency_data:
        mode = _WITH_ALPHA.get(mode, mode)
    if mode != image.mode:
        image = image.convert(mode)
    options: ArrayOptions = {"layout": "HWC" if len(image.getbands()) > 1 else "HW"}
    if mode == "LAB":
        options["bands"] = True
        # As one array, its a and b would have their sign bit inverted and wrap around at gray.
        return Samples(np.stack([np.asarray(band) for band in image.split()], axis=-1), options, mode, icc)
    if mode in _WITH_ALPHA.values():
        options["alpha"] = True
    return Samples(np.asarray(image), options, mode, icc)
