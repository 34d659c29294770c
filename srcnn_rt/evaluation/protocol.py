"""The field's protocol: MATLAB's luminance and imresize, modcrop, and how an LR image is made.

Training pairs and evaluation both come from here, so that a model is measured on what it
was trained for. Needs neither torch nor a model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ImageError, SourceMissingError
from ..image.color import luminance

Channels = Literal["y", "rgb"]
Image = NDArray[np.float64]  # (H, W) or (H, W, 3), nominally in [0, 1]

SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
_CUBIC = 2  # samples the cubic kernel reaches on each side, before it is widened
_PART = re.compile(r"(blur|noise|jpeg):([0-9.]+?)(?:\.\.([0-9]+))?")
_RULE = (
    "a degradation is bicubic, blur:SIGMA, noise:SIGMA, jpeg:QUALITY or jpeg:LOW..HIGH, "
    "or several joined by +"
)


def list_images(folder: str | Path) -> list[Path]:
    """Every image below `folder`, sorted by path.

    Raises
    ------
    SourceMissingError
        If there is no such folder.
    ImageError
        If it holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SourceMissingError(f"{folder}: no such folder")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ImageError(f"{folder}: no images in this folder ({', '.join(SUFFIXES)})")
    return found


def read_image(path: Path, channels: Channels) -> Image:
    """Read one image as the field does.

    Parameters
    ----------
    path : 8 or 16 bits, gray or colour; an alpha channel must be opaque
    channels : ``"y"``: the luminance of MATLAB's ``rgb2ycbcr`` as it is for uint8, rounded
        to whole code values, in [16/255, 235/255]; a gray image is taken as it is, which
        is the field's habit. ``"rgb"``: R, G, B.

    Returns
    -------
    (H, W) or (H, W, 3) float64 in [0, 1]

    Raises
    ------
    ImageError
        Naming the file: unreadable, transparent, or gray where three channels are wanted.
    """
    import cv2

    try:
        coded = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # a header that promises more than memory holds
        coded = None
    if coded is None:
        raise ImageError(f"{path}: not an image that OpenCV reads, or damaged")
    if coded.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path}: {coded.dtype}; 8 or 16 bits are wanted")
    top = 255 if coded.dtype == np.uint8 else 65535
    if coded.ndim == 3 and coded.shape[2] in (2, 4):
        if (coded[..., -1] != top).any():
            raise ImageError(f"{path}: is partly transparent")
        coded = coded[..., :-1]
    if coded.ndim == 3 and coded.shape[2] == 1:
        coded = coded[..., 0]
    if coded.ndim == 3 and coded.shape[2] != 3:
        raise ImageError(f"{path}: has {coded.shape[2]} channels")
    if coded.ndim == 2:
        if channels == "rgb":
            raise ImageError(f"{path}: is gray, and three channels are wanted")
        return coded.astype(np.float64) / top
    rgb = coded[..., ::-1].astype(np.float64) / top
    if channels == "rgb":
        return rgb
    return np.asarray(np.rint(luminance(rgb) * 255) / 255, dtype=np.float64)


def modcrop(image: Image, scale: int) -> Image:
    """Cut bottom and right so that both sides are multiples of `scale`."""
    h, w = (n - n % scale for n in image.shape[:2])
    return image[:h, :w]


def crop_border(image: NDArray[Any], border: int) -> NDArray[Any]:
    """Cut `border` pixels off every side."""
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def imresize(image: Image, scale: int, *, down: bool) -> Image:
    """MATLAB's ``imresize(image, scale or 1/scale, 'bicubic')`` for a whole-number scale.

    Keys' kernel with a = -1/2, widened by the scale when shrinking (antialiasing) and
    normalised, edges mirrored with the edge sample repeating.

    Parameters
    ----------
    image : (H, W) or (H, W, C) float64
    scale : 1 returns the image as it is
    down : shrink by `scale` (H and W must be multiples of it) rather than enlarge
    """
    if scale == 1:
        return image
    once = _resize_rows(image, scale, down)
    return np.ascontiguousarray(_resize_rows(once.swapaxes(0, 1), scale, down).swapaxes(0, 1))


def _resize_rows(image: Image, scale: int, down: bool) -> Image:
    n = image.shape[0]
    size, step, wide = (n // scale, float(scale), scale) if down else (n * scale, 1 / scale, 1)
    centre = (np.arange(size) + 0.5) * step - 0.5
    first = np.floor(centre - _CUBIC * wide).astype(np.int64)
    taps = first[:, None] + np.arange(2 * _CUBIC * wide + 2)
    weights = _keys((centre[:, None] - taps) / wide)
    weights /= weights.sum(axis=1, keepdims=True)
    taps %= 2 * n  # mirrored, however far outside
    taps = np.where(taps < n, taps, 2 * n - 1 - taps)
    out = np.zeros((size, *image.shape[1:]))
    extra = (1,) * (image.ndim - 1)
    for k in range(taps.shape[1]):
        out += weights[:, k].reshape(-1, *extra) * image[taps[:, k]]
    return out


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -1/2 (R. Keys, 1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@dataclass(frozen=True, slots=True)
class Degradation:
    """What happens to an image on its way to LR: blurred, shrunk by bicubic, noise, JPEG.

    Attributes
    ----------
    blur : σ of a Gaussian before shrinking, in HR pixels; 0 is none
    noise : σ of white Gaussian noise after shrinking, in code values of 8 bits; 0 is none
    jpeg : quality 1 to 100 of a JPEG the LR image went through; 0 is none
    best_jpeg : where qualities are drawn, from `jpeg` to this one; 0 is that one quality
    """

    blur: float = 0.0
    noise: float = 0.0
    jpeg: int = 0
    best_jpeg: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"bicubic"``, ``"blur:1.6"``, ``"noise:15+jpeg:40"`` ...

        Raises
        ------
        ArgumentError
            Giving the rule and the text.
        """
        values: dict[str, float] = {}
        best = 0
        for part in re.split(r"[+,]", text.replace(" ", "")):
            if part == "bicubic":
                continue
            match = _PART.fullmatch(part)
            if match is None or match[1] in values:
                raise ArgumentError(f"{_RULE}; got {text!r}")
            try:
                values[match[1]] = float(match[2])
                if match[3] is not None:
                    if match[1] != "jpeg" or not values["jpeg"] < int(match[3]) <= 100:
                        raise ValueError
                    best = int(match[3])
            except ValueError as error:
                raise ArgumentError(f"{_RULE}; got {text!r}") from error
        limits = {"blur": (0.1, 20.0), "noise": (0.1, 100.0), "jpeg": (1.0, 100.0)}
        for name, value in values.items():
            low, high = limits[name]
            if not low <= value <= high or (name == "jpeg" and value % 1):
                kind = "a whole number, " if name == "jpeg" else ""
                raise ArgumentError(f"{name} must be {kind}{low:g} to {high:g}, got {value:g}")
        return cls(values.get("blur", 0.0), values.get("noise", 0.0), int(values.get("jpeg", 0)), best)

    def __str__(self) -> str:
        parts = [f"{name}:{value:g}" for name, value in self._values() if value]
        if self.best_jpeg:
            parts[-1] += f"..{self.best_jpeg}"
        return "+".join(parts) or "bicubic"

    def _values(self) -> Sequence[tuple[str, float]]:
        return (("blur", self.blur), ("noise", self.noise), ("jpeg", self.jpeg))

    @property
    def random(self) -> bool:
        """Whether two calls of `apply` with other generators differ."""
        return self.noise > 0 or self.best_jpeg > 0

    def apply(self, truth: Image, scale: int, rng: np.random.Generator) -> Image:
        """Make the LR image of `truth`.

        Blur, noise and JPEG leave an image of 8 bits, rounded and clipped as a file would
        be: to undo a blur without rounding is another, far easier task, and what learns it
        fails on files. Bicubic alone is not rounded, which is the field's habit.

        Parameters
        ----------
        truth : (H, W) or (H, W, 3) in [0, 1], sides multiples of `scale`
        scale : 1 does not shrink
        rng : where noise and drawn qualities come from
        """
        import cv2

        image = truth
        if self.blur:
            # Wide enough that what is cut off is below one part in 10^5.
            size = 2 * int(np.ceil(4.5 * self.blur)) + 1
            blurred = cv2.GaussianBlur(
                image, (size, size), self.blur, sigmaY=self.blur, borderType=cv2.BORDER_REFLECT
            )
            image = np.asarray(blurred, dtype=np.float64)
        image = imresize(image, scale, down=True)
        if self.noise:
            image = image + rng.normal(0, self.noise / 255, image.shape)
        if self.noise or self.blur:
            image = _eight_bits(image)
        if self.jpeg:
            quality = int(rng.integers(self.jpeg, self.best_jpeg + 1)) if self.best_jpeg else self.jpeg
            codes = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
            done, data = cv2.imencode(
                ".jpg", codes if codes.ndim == 2 else codes[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
            )
            assert done
            decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            assert decoded is not None
            image = (decoded if codes.ndim == 2 else decoded[..., ::-1]).astype(np.float64) / 255
        return image


BICUBIC = Degradation()


def _eight_bits(image: Image) -> Image:
    return np.asarray(np.rint(image.clip(0, 1) * 255) / 255, dtype=np.float64)
