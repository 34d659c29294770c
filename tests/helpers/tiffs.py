"""Write TIFFs for tests and read results back by three other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from srcnn_rt import Engine
from tests.conftest import drawing
from tests.helpers.reference import quantise


def image_of(channels: int, dtype: type = np.uint8, h: int = 45, w: int = 60, seed: int = 0) -> np.ndarray:
    values = drawing(h, w, channels, seed)
    return values.astype(np.float32) if dtype is np.float32 else quantise(values, dtype)


def write(path: Path, image: np.ndarray, **options: object) -> Path:
    """Write an (H, W, C) array as TIFF by GDAL."""
    h, w, c = image.shape
    profile = {"driver": "GTiff", "height": h, "width": w, "count": c, "dtype": image.dtype.name}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(image.transpose(2, 0, 1))
    return path


def by_tifffile(path: Path, page: int = 0) -> np.ndarray:
    """Read a page as (H, W, C)."""
    with tifffile.TiffFile(path) as file:
        ifd = file.pages[page]
        array = ifd.asarray()
        planar = ifd.planarconfig == tifffile.PLANARCONFIG.SEPARATE and ifd.samplesperpixel > 1
    array = np.moveaxis(array, 0, 2) if planar else array
    return array if array.ndim == 3 else array[:, :, np.newaxis]


def by_gdal(path: Path | str) -> np.ndarray:
    """Read the stored samples."""
    with rasterio.open(f"GTIFF_RAW:{path}") as file:
        return file.read().transpose(1, 2, 0)


def by_pillow(path: Path, page: int = 0) -> np.ndarray:
    with Image.open(path) as image:
        image.seek(page)
        array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, np.newaxis]


def reads_back(path: Path, expected: np.ndarray, *, pillow: bool = True) -> None:
    """Assert that readers which share no code with the writer see the same samples."""
    for read in (by_tifffile, by_gdal, by_pillow) if pillow else (by_tifffile, by_gdal):
        got = read(path)
        assert got.shape == expected.shape, read.__name__
        assert got.dtype == expected.dtype, read.__name__
        assert np.array_equal(got, expected, equal_nan=expected.dtype.kind == "f"), read.__name__


GRAY, RGB = image_of(1), image_of(3)
both = pytest.mark.parametrize("cog", [False, True], ids=["tiff", "cog"])


@pytest.fixture(scope="module", params=[2, 3], ids=["x2", "x3"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(f"bicubic-x{request.param}", provider="cpu", tile=32, threads=2)


def upscaled(engine: Engine, source: Path, name: str = "out.tif", **how: object) -> Path:
    target = source.with_name(name)
    engine.upscale_file(source, target, overwrite=True, **how)
    return target
