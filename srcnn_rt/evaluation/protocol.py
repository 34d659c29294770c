"""The evaluation protocol of the literature: luminance and bicubic resizing as in MATLAB, and degradations.

Training and evaluation both create their LR images here, so a model is measured on the degradation that
it was trained for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ImageError, SourceMissingError
from ..image.bicubic import keys
from ..image.color import luminance
from . import metrics

Channels = Literal["y", "rgb"]
Image = NDArray[np.float64]  # (H, W) or (H, W, 3), nominally in [0, 1]

SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
_KERNEL_RADIUS = 2  # of the cubic kernel, before it is widened
_DEGRADATION = re.compile(r"(blur|noise|jpeg):([0-9]+\.?[0-9]*|\.[0-9]+)(?:\.\.([0-9]+))?")
_LIMITS = {"blur": (0.1, 20.0), "noise": (0.1, 100.0), "jpeg": (1.0, 100.0)}
_RULE = (
    "a degradation is bicubic, blur:SIGMA, noise:SIGMA, jpeg:QUALITY or jpeg:LOW..HIGH, "
    "or several joined by +"
)


def list_images(folder: str | Path) -> list[Path]:
    """Return all images in a folder and its subfolders, sorted by path.

    Raises
    ------
    SourceMissingError
        If the folder does not exist.
    ImageError
        If it contains no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SourceMissingError(f"{folder}: no such folder")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ImageError(f"{folder}: no images in this folder ({', '.join(SUFFIXES)})")
    return found


def read_image(path: Path, channels: Channels) -> Image:
    """Read a test or training image.

    Parameters
    ----------
    path : Path
        8 or 16 bits per sample, grayscale or colour. An alpha channel must be opaque.
    channels : {"y", "rgb"}
        ``"y"`` converts colour to the luminance of MATLAB's ``rgb2ycbcr``, rounded to 8-bit code values
        in [16/255, 235/255], and keeps grayscale as it is, as is usual. ``"rgb"`` returns R, G, B.

    Returns
    -------
    ndarray, shape (H, W) or (H, W, 3), float64
        In [0, 1].

    Raises
    ------
    ImageError
        If the file is unreadable or transparent, or grayscale with ``channels="rgb"``.
    """
    try:
        coded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # the header claims a size that does not fit into memory
        coded = None
    if coded is None:
        raise ImageError(f"{path}: not an image that OpenCV can read, or damaged")
    if coded.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path}: samples must be uint8 or uint16, got {coded.dtype}")
    white = 255 if coded.dtype == np.uint8 else 65535
    planes = np.atleast_3d(coded)
    if planes.shape[2] in (2, 4):
        if (planes[..., -1] != white).any():
            raise ImageError(f"{path}: is partly transparent")
        planes = planes[..., :-1]
    if planes.shape[2] not in (1, 3):
        raise ImageError(f"{path}: has {planes.shape[2]} channels")
    image = planes[..., ::-1].astype(np.float64) / white  # R, G, B
    if channels == "rgb" and planes.shape[2] == 1:
        raise ImageError(f"{path}: is grayscale, but three channels are needed")
    if planes.shape[2] == 1:
        return image[..., 0]
    return image if channels == "rgb" else _round_to_8_bits(luminance(image))


def modcrop(image: Image, scale: int) -> Image:
    """Crop bottom and right so that both sides are multiples of `scale`."""
    h, w = (n - n % scale for n in image.shape[:2])
    return image[:h, :w]


def crop_border(image: NDArray[Any], border: int) -> NDArray[Any]:
    """Crop `border` pixels off every side."""
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def imresize(image: Image, scale: int, *, down: bool) -> Image:
    """Resize as MATLAB's ``imresize(image, scale, 'bicubic')`` or ``imresize(image, 1 / scale, 'bicubic')``.

    Keys' kernel with a = -1/2, widened by the scale factor for downscaling (antialiasing) and normalised.
    Edges are mirrored and the edge sample repeats.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, C), float64
    scale : int
        Scale factor. 1 returns the image unchanged.
    down : bool
        Whether to downscale; H and W must then be multiples of `scale`.
    """
    if scale == 1:
        return image
    once = _resize_rows(image, scale, down)
    return np.ascontiguousarray(_resize_rows(once.swapaxes(0, 1), scale, down).swapaxes(0, 1))


def _resize_rows(image: Image, scale: int, down: bool) -> Image:
    n = image.shape[0]
    size, step, width = (n // scale, float(scale), scale) if down else (n * scale, 1 / scale, 1)
    centre = (np.arange(size) + 0.5) * step - 0.5
    first = np.floor(centre - _KERNEL_RADIUS * width).astype(np.int64)
    taps = first[:, None] + np.arange(2 * _KERNEL_RADIUS * width + 2)
    weights = keys((centre[:, None] - taps) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    taps %= 2 * n  # mirrors repeatedly if the kernel is larger than the image
    taps = np.where(taps < n, taps, 2 * n - 1 - taps)
    out = np.zeros((size, *image.shape[1:]))
    for k in range(taps.shape[1]):
        out += weights[:, k].reshape(-1, *(1,) * (image.ndim - 1)) * image[taps[:, k]]
    return out


@dataclass(frozen=True, slots=True)
class Degradation:
    """How an LR image is made of an HR image: blur, bicubic downscaling, noise, JPEG, in this order.

    Attributes
    ----------
    blur : float
        σ of a Gaussian blur in HR pixels; 0 for none.
    noise : float
        σ of white Gaussian noise in 8-bit code values; 0 for none.
    jpeg : int
        JPEG quality, 1 to 100; 0 for no JPEG.
    max_jpeg : int
        If not 0, the quality is drawn uniformly from `jpeg` to `max_jpeg`.
    """

    blur: float = 0.0
    noise: float = 0.0
    jpeg: int = 0
    max_jpeg: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a specification such as ``"bicubic"``, ``"blur:1.6"`` or ``"noise:15+jpeg:40"``.

        Raises
        ------
        ArgumentError
            If the syntax or a value is invalid.
        """
        values: dict[str, float] = {}
        max_jpeg = 0
        for part in re.split(r"[+,]", text.replace(" ", "")):
            if part == "bicubic":
                continue
            match = _DEGRADATION.fullmatch(part)
            if match is None or match[1] in values:
                raise ArgumentError(f"{_RULE}; got {text!r}")
            values[match[1]] = float(match[2])
            if match[3] is not None:
                max_jpeg = int(match[3])
                if match[1] != "jpeg" or not values["jpeg"] < max_jpeg <= 100:
                    raise ArgumentError(f"{_RULE}; got {text!r}")
        for name, value in values.items():
            low, high = _LIMITS[name]
            if not low <= value <= high or (name == "jpeg" and value % 1):
                kind = "an integer " if name == "jpeg" else ""
                raise ArgumentError(f"{name} must be {kind}from {low:g} to {high:g}, got {value:g}")
        return cls(values.get("blur", 0.0), values.get("noise", 0.0), int(values.get("jpeg", 0)), max_jpeg)

    def __str__(self) -> str:
        parts = [f"{name}:{value:g}" for name in _LIMITS if (value := getattr(self, name))]
        if self.max_jpeg:
            parts[-1] += f"..{self.max_jpeg}"
        return "+".join(parts) or "bicubic"

    @property
    def random(self) -> bool:
        """Whether `apply` depends on its random generator."""
        return self.noise > 0 or self.max_jpeg > 0

    def apply(self, truth: Image, scale: int, rng: np.random.Generator) -> Image:
        """Return the LR image of an HR image.

        After blur, noise or JPEG the image is clipped and rounded to 8 bits like an image file: a model
        that learns to undo an unrounded blur fails on files. Bicubic alone is not rounded, as is usual.

        Parameters
        ----------
        truth : ndarray, shape (H, W) or (H, W, 3)
            In [0, 1], with sides that are multiples of `scale`.
        scale : int
            Scale factor. 1 does not downscale.
        rng : Generator
            Source of noise and JPEG qualities.
        """
        image = truth
        if self.blur:
            # So wide that less than 10^-5 of the Gaussian is cut off.
            size = 2 * int(np.ceil(4.5 * self.blur)) + 1
            blurred = cv2.GaussianBlur(
                image, (size, size), self.blur, sigmaY=self.blur, borderType=cv2.BORDER_REFLECT
            )
            image = np.asarray(blurred, dtype=np.float64)
        image = imresize(image, scale, down=True)
        if self.noise:
            image = image + rng.normal(0, self.noise / 255, image.shape)
        if self.noise or self.blur:
            image = _round_to_8_bits(image)
        if self.jpeg:
            quality = int(rng.integers(self.jpeg, self.max_jpeg + 1)) if self.max_jpeg else self.jpeg
            order = slice(None, None, -1 if image.ndim == 3 else 1)  # OpenCV's colour is B, G, R
            codes = metrics.codes(image).astype(np.uint8)[..., order]
            encoded, data = cv2.imencode(".jpg", codes, [cv2.IMWRITE_JPEG_QUALITY, quality])
            assert encoded
            decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            assert decoded is not None
            image = decoded[..., order].astype(np.float64) / 255
        return image


BICUBIC = Degradation()


def _round_to_8_bits(image: NDArray[np.floating]) -> Image:
    return metrics.codes(image) / metrics.PEAK
