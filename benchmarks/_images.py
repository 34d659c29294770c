"""Images for file benchmarks. The speed of writing depends on the content, so these are photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from _drawing import photo_like
from numpy.typing import NDArray

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")
ENLARGED = 2  # small photographs are sharper per pixel than large ones
BLOCK = 256


def make_image(side: int, channels: int) -> tuple[NDArray[np.uint8], str]:
    """Return a (side, side) or (side, side, 3) image and its description.

    The image repeats photographs of scikit-image, enlarged and mirrored. Without scikit-image it is noise at
    several scales.
    """
    try:
        import cv2
        import skimage.data
    except ImportError:
        drawn = photo_like(np.random.default_rng(0), side, side, channels)
        return drawn.squeeze(), "noise at several scales (scikit-image is not installed)"
    photographs = []
    for name in PHOTOGRAPHS:
        photograph = getattr(skimage.data, name)()
        if channels == 1:
            photograph = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
        size = (photograph.shape[1] * ENLARGED, photograph.shape[0] * ENLARGED)
        photographs.append(cv2.resize(photograph, size, interpolation=cv2.INTER_CUBIC))
    height = min(len(p) for p in photographs)
    band = np.concatenate([p[:height] for p in photographs], axis=1)
    names = ", ".join(PHOTOGRAPHS)
    return _mirrored(band, side), f"photographs of scikit-image ({names}), enlarged {ENLARGED}×, mirrored"


def write_tiled(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a gray or RGB image as a TIFF in deflated tiles."""
    tifffile.imwrite(
        path,
        image,
        tile=(BLOCK, BLOCK),
        photometric="rgb" if image.ndim == 3 else "minisblack",
        compression="deflate",
        predictor=True,
    )


def _mirrored(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return a square cut from the periodic, mirrored continuation of an image."""
    for axis in (0, 1):
        length = image.shape[axis]
        at = np.arange(side) % (2 * length)
        image = image.take(np.minimum(at, 2 * length - 1 - at), axis)
    return np.ascontiguousarray(image)
