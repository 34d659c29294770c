"""`srcnn_rt.xarray`: where pixels lie is checked by rioxarray, whose files other programs read."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from srcnn_rt import ArgumentError, Engine
from tests.conftest import drawing

xr = pytest.importorskip("xarray", reason="xarray is not installed")
upscale = pytest.importorskip("srcnn_rt.xarray").upscale

PLANE = drawing(30, 40, 1)[:, :, 0].astype(np.float32)


@pytest.fixture(scope="module", params=[2, 3])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(f"bicubic-x{request.param}", provider="cpu", tile=16, threads=2) as made:
        yield made


def test_coordinates_are_centers(engine: Engine) -> None:
    y, x = 100.0 - 5 * np.arange(30), 7.5 + 2.5 * np.arange(40)
    array = xr.DataArray(
        PLANE, {"y": ("y", y, {"units": "m"}), "x": x, "time": 5}, ("y", "x"), "height", {"source": "survey"}
    )
    made = upscale(array, engine)
    s = engine.scale
    assert np.array_equal(made.values, engine.upscale(PLANE))
    assert (made.name, made.attrs, made.y.attrs) == ("height", {"source": "survey"}, {"units": "m"})
    assert made.time == 5
    # The mean of the smaller pixels' centers is the center of their pixel, and their steps are even.
    for name, before in (("y", y), ("x", x)):
        after = made[name].values
        assert np.allclose(after.reshape(-1, s).mean(1), before, rtol=0, atol=1e-9)
        assert np.allclose(np.diff(after), (before[1] - before[0]) / s)


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # in rioxarray
def test_a_geotiff_stays_in_place(engine: Engine, tmp_path: Path) -> None:
    rioxarray = pytest.importorskip("rioxarray", reason="rioxarray is not installed")
    bands = (drawing(30, 40, 4) * 3000).astype(np.int16)
    bands[:4, :4, 3] = -9
    profile = {"driver": "GTiff", "width": 40, "height": 30, "count": 4, "dtype": "int16", "nodata": -9}
    profile |= {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -20, 4e6)}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(bands.transpose(2, 0, 1))
    array = rioxarray.open_rasterio(tmp_path / "a.tif")
    made = upscale(array, engine)
    assert made.dims == ("band", "y", "x")
    assert made.rio.crs == array.rio.crs
    assert made.rio.bounds() == pytest.approx(array.rio.bounds())
    assert made.rio.transform() == Affine(10 / engine.scale, 0, 5e5, 0, -20 / engine.scale, 4e6)
    assert made.rio.nodata == -9
    assert list(made.band.values) == [1, 2, 3, 4]
    # Each band by itself: a dark fourth one is no alpha.
    for k in range(4):
        assert np.array_equal(made.values[k], engine.upscale(bands[:, :, k], nodata=-9))
    made.rio.to_raster(tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as file:
        assert file.transform.almost_equals(made.rio.transform())
        assert file.nodata == -9
        assert file.crs == array.rio.crs
    masked = rioxarray.open_rasterio(tmp_path / "a.tif", masked=True)
    large = upscale(masked, engine)
    assert np.array_equal(np.isnan(large.values), made.values == -9)
    assert large.rio.encoded_nodata == -9


def test_a_dataset(engine: Engine) -> None:
    s = engine.scale
    data = xr.Dataset(
        {
            "t": (("time", "lat", "lon"), np.stack([PLANE, 2 * PLANE])),
            "photo": (("lat", "lon", "rgb"), drawing(30, 40, 3).astype(np.float32)),
            "weight": ("lat", np.arange(30.0)),
            "count": 7,
        },
        {
            "time": [10, 20],
            "lat": ("lat", np.linspace(60, 50, 30).astype(np.float32), {"bounds": "lat_bnds"}),
            "lon": np.arange(40),
            "lat_bnds": (("lat", "edge"), np.stack([np.arange(30.0), np.arange(1.0, 31)], 1)),
            "place": (("lat", "lon"), np.add.outer(100.0 * np.arange(30), np.arange(40))),
            "name": ("lon", [f"c{k}" for k in range(40)]),
        },
        {"title": "weather"},
    )
    made = upscale(data, engine)
    assert made.attrs == {"title": "weather"}
    assert made.t.dims == ("time", "lat", "lon")
    assert np.array_equal(made.t.values[1], engine.upscale(2 * PLANE))
    assert np.array_equal(made.photo.values, engine.upscale(data.photo.values))  # colours, not bands
    assert made["count"] == 7
    assert made.lat.dtype == np.float32
    assert np.allclose(made.weight.values.reshape(-1, s).mean(1), data.weight)
    edges = made.lat_bnds.values
    assert np.allclose(edges[::s, 0], np.arange(30))
    assert np.allclose(edges[1:, 0], edges[:-1, 1])
    assert np.allclose(
        made.place.values,
        np.add.outer(100 * (np.arange(30 * s) + 0.5) / s - 50, (np.arange(40 * s) + 0.5) / s - 0.5),
    )
    assert list(made.name.values[:s]) == ["c0"] * s


def test_dask_is_read_in_windows(engine: Engine) -> None:
    pytest.importorskip("dask.array")
    array = xr.DataArray(np.resize(PLANE, (3, 30, 40)), dims=("time", "row", "column"))
    assert np.array_equal(upscale(array.chunk({"row": 7}), engine).values, upscale(array, engine).values)


def test_names_must_be_clear(engine: Engine) -> None:
    array = xr.DataArray(PLANE, dims=("a", "b"))
    made = upscale(array, engine, dims=("a", "b"))
    assert np.array_equal(made.values, engine.upscale(PLANE))
    turned = upscale(array.T, engine, dims=("a", "b"))
    assert np.array_equal(turned.values.T, made.values)
    for data, how, message in (
        (array, {}, "dims must name the dimensions of rows and columns: rows of a, b"),
        (array, {"dims": ("a", "z")}, r"dims must be two of a, b, got \('a', 'z'\); 'z' does not fit"),
        (array, {"dims": ("a", "a")}, "'a' does not fit"),
        (array, {"dims": ("a", "b"), "channels": "c"}, "channels must be one of a, b, got 'c'"),
        (PLANE, {}, "a DataArray or Dataset is needed, got ndarray"),
        (array.astype(complex), {"dims": ("a", "b")}, "samples must be"),
        (xr.DataArray(PLANE.reshape(30, 40, 1, 1), dims=("y", "x", "band", "channel")), {}, "band, channel"),
    ):
        with pytest.raises(ArgumentError, match=message):
            upscale(data, engine, **how)


def test_netcdf_values_keep_their_packing(engine: Engine) -> None:
    pytest.importorskip("scipy.io", reason="SciPy is not installed")
    array = xr.DataArray(PLANE, dims=("y", "x"), name="t")
    array.encoding = {"dtype": "int16", "scale_factor": 0.001, "_FillValue": -32768, "chunksizes": (10, 10)}
    made = upscale(array, engine)
    assert made.encoding == {"dtype": "int16", "scale_factor": 0.001, "_FillValue": -32768}
    file = io.BytesIO(made.to_netcdf(format="NETCDF3_64BIT", engine="scipy"))
    with xr.open_dataset(file, engine="scipy") as back:
        assert np.allclose(back.t.values, made.values, atol=6e-4)


def test_xarray_is_not_loaded_otherwise() -> None:
    code = (
        "import sys, srcnn_rt, srcnn_rt.io.streams\n"
        "assert not {'xarray', 'torch', 'fsspec'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
