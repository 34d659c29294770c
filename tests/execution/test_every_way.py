"""Every type of sample by every way through the engine: arrays, slices, parts and files give one result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile

from srcnn_rt import Engine
from srcnn_rt.image.info import SAMPLE_TYPES
from tests.conftest import TEST_MODEL, drawing


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(TEST_MODEL, provider="cpu", tile=16, threads=1)


def make_image(dtype: str, channels: int = 1) -> np.ndarray:
    """An image in a unit of its own: the middle of the type, or 300 to 1,800."""
    kind = np.dtype(dtype)
    plane = drawing(37, 41, channels)
    if kind.kind == "f":
        made = 300 + 1500 * plane
    else:
        limits = np.iinfo(kind)
        made = np.rint(limits.min / 3 + (limits.max / 2 - limits.min / 3) * plane)
    return (made if channels > 1 else made[..., 0]).astype(kind)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("dtype", SAMPLE_TYPES)
def test_every_way_gives_the_same(engine: Engine, tmp_path: Path, dtype: str) -> None:
    image = make_image(dtype)
    expected = engine.upscale(image)
    assert expected.dtype == dtype
    for order in "<>":
        swapped = image.astype(image.dtype.newbyteorder(order))
        assert np.array_equal(engine.upscale(swapped), expected)
        into = np.zeros((74, 82), swapped.dtype)
        engine.upscale_into(swapped, into)
        assert np.array_equal(into, expected)
        path = tmp_path / f"a{'le' if order == '<' else 'be'}.tif"
        tifffile.imwrite(path, image, byteorder=order)
        engine.upscale_file(path, tmp_path / "b.tif", overwrite=True)
        assert tifffile.imread(tmp_path / "b.tif").dtype == dtype
        assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), expected)
        if dtype != "float16":  # which GDAL reads as float32
            with rasterio.open(tmp_path / "b.tif") as f:
                assert f.dtypes == (dtype,)
        parts = np.zeros((74, 82), dtype)
        for window, part in engine.stream(path):
            parts[window] = part[:, :, 0]
        assert np.array_equal(parts, expected)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "float64"])
def test_zarr_too(engine: Engine, tmp_path: Path, dtype: str) -> None:
    zarr = pytest.importorskip("zarr")
    image = make_image(dtype)
    stored = zarr.create_array(tmp_path / "a.zarr", shape=image.shape, chunks=(16, 16), dtype=dtype)
    stored[...] = image
    engine.upscale_file(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert np.array_equal(zarr.open_array(tmp_path / "b.zarr", mode="r")[...], engine.upscale(image))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", ["int16", "uint32", "float32", "float64"])
def test_colour_and_alpha_in_any_type(engine: Engine, dtype: str, channels: int) -> None:
    image = make_image(dtype, channels)
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    if channels == 4:
        image[..., 3] = top
    got = engine.upscale(image)
    assert got.shape == (74, 82, channels)
    plain = engine.upscale(image[..., :3])
    span = float(np.ptp(image[..., :3].astype(float)))
    assert np.abs(got[..., :3].astype(float) - plain.astype(float)).max() <= max(1, 1e-5 * span)
    if channels == 4:
        assert (got[..., 3] == top).all()


def test_twelve_bits_stay_within_them(engine: Engine, tmp_path: Path) -> None:
    image = np.where(drawing(40, 40, 1)[..., 0] > 0.4, 4095, 0).astype(np.uint16)  # edges that overshoot
    free = engine.upscale(image)
    assert free.max() > 4095
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(281, "H", 1, 4095, True)])
    engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as f:
        assert f.pages[0].tags[281].value == 4095
        assert np.array_equal(f.asarray(), np.minimum(free, 4095))


def test_a_constant_file_in_every_type(engine: Engine, tmp_path: Path) -> None:
    for dtype in SAMPLE_TYPES:
        kind = np.dtype(dtype)
        value = kind.type(-350.5 if kind.kind == "f" else np.iinfo(kind).max // 3 + 1)
        tifffile.imwrite(tmp_path / f"{dtype}.tif", np.full((30, 20), value))
        engine.upscale_file(tmp_path / f"{dtype}.tif", tmp_path / f"{dtype}_x2.tif")
        assert (tifffile.imread(tmp_path / f"{dtype}_x2.tif") == value).all()
