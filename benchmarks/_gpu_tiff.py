"""TIFFs read and written by GDAL: the source of the file routes, and the peers' files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_tiff(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a gray image as a TIFF in deflated tiles, at the fastest level and on all threads."""
    import rasterio

    h, w = image.shape
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "photometric": "minisblack"}
    packing = {"compress": "deflate", "zlevel": 1, "predictor": 2, "num_threads": "all_cpus"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", height=h, width=w, count=1, dtype="uint8", **layout, **packing
        ) as file:
            file.write(image, 1)


def read_tiff(path: Path) -> NDArray[np.uint8]:
    """Read a gray TIFF on all threads."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, num_threads="all_cpus") as file:
            image: NDArray[np.uint8] = file.read(1)
    return image
