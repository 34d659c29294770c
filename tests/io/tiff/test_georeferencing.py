"""GeoTIFFs: georeference, bands, statistics and overviews fit the new resolution, and COGs are valid.

Other programs read them back: tifffile, Pillow, rasterio, and GDAL's tools if they are installed.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.transform import Affine, RPCTransformer

from srcnn_rt import Engine
from tests.helpers import tiffs
from tests.helpers.tiffs import GRAY, RGB, both, by_pillow, by_tifffile, image_of, upscaled, write

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

engine = tiffs.engine


def gdalinfo(path: Path) -> dict[str, object]:
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed")
    done = subprocess.run(["gdalinfo", "-json", "-mdd", "all", path], capture_output=True, check=True)
    return json.loads(done.stdout)


# Georeference


@both
@pytest.mark.parametrize("transform", [Affine(10, 0, 500000, 0, -10, 5200000), Affine(9, 2, 7, -3, -8, 11)])
@pytest.mark.parametrize("point", [False, True], ids=["area", "point"])
def test_the_corner_stays_and_pixels_are_smaller(
    engine: Engine, tmp_path: Path, transform: Affine, point: bool, cog: bool
) -> None:
    source = write(tmp_path / "a.tif", RGB, photometric="RGB", crs="EPSG:32633", transform=transform)
    if point:
        with rasterio.open(source, "r+") as file:
            file.update_tags(AREA_OR_POINT="Point")
            file.transform = transform
    target = upscaled(engine, source, cog=cog)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert b.crs == a.crs
        assert b.tags()["AREA_OR_POINT"] == ("Point" if point else "Area")
        for corner in ((0, 0), (60, 0), (0, 45), (60, 45)):
            s = engine.scale
            there = b.transform @ (corner[0] * s, corner[1] * s)
            assert np.allclose(there, a.transform @ corner, rtol=0, atol=1e-6)
    info = gdalinfo(target)
    assert np.allclose(info["geoTransform"][1], transform.a / engine.scale)
    if point and transform.is_rectilinear:  # the tie point is the centre of the first pixel
        with tifffile.TiffFile(target) as file:
            tags = file.pages[0].geotiff_tags
            assert tags["GTRasterTypeGeoKey"].name == "IsPoint"
            x, y = tags["ModelTiepoint"][3:5]
            assert (x, y) == pytest.approx((500000 + 5 / engine.scale, 5200000 - 5 / engine.scale))


def rpc() -> RPC:
    """Return a camera model for 60 x 45 pixels, nearly linear, with terms of all orders."""
    rng = np.random.default_rng(0)
    small = [rng.normal(0, 1e-4, 20).tolist() for _ in range(4)]
    for k, at in enumerate((2, 0, 1, 0)):
        small[k][at] = 1.0
    return RPC(
        height_off=100, height_scale=500, lat_off=48.2, lat_scale=0.01, line_off=22.3, line_scale=23,
        long_off=16.4, long_scale=0.01, samp_off=29.6, samp_scale=31, line_num_coeff=small[0],
        line_den_coeff=small[1], samp_num_coeff=small[2], samp_den_coeff=small[3], err_bias=1.5, err_rand=0.5,
    )  # fmt: skip


@both
def test_a_camera_sees_the_same_ground_at_s_times_the_place(
    engine: Engine, tmp_path: Path, cog: bool
) -> None:
    """GDAL's own transformer maps the corner of the first pixel to the same place."""
    source = write(tmp_path / "a.tif", GRAY)
    with rasterio.open(source, "r+") as file:
        file.rpcs = rpc()
    target = upscaled(engine, source, cog=cog)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        assert (b.rpcs.err_bias, b.rpcs.err_rand) == (a.rpcs.err_bias, a.rpcs.err_rand)
        ground = ([16.395, 16.4, 16.404], [48.195, 48.2, 48.207])
        places = []
        for file in (a, b):
            with RPCTransformer(file.rpcs) as t:
                rows, columns = t.rowcol(*ground, zs=[0, 120, 300], op=lambda v: v)
                places.append(np.array([rows, columns]))
        assert np.abs(places[1] - places[0] * engine.scale).max() < 1e-3
        assert 5 < places[0][0].min() < 40  # inside the image, or the comparison would be meaningless
    if shutil.which("gdaltransform") is None:
        pytest.skip("gdaltransform is not installed")
    found = []
    for path in (source, target):
        done = subprocess.run(
            ["gdaltransform", "-rpc", "-i", path], input="16.4 48.2 120\n", text=True, capture_output=True,
            check=True,
        )  # fmt: skip
        found.append([float(v) for v in done.stdout.split()[:2]])
    assert np.allclose(found[1], np.array(found[0]) * engine.scale, atol=1e-3)


@both
def test_ground_control_points(engine: Engine, tmp_path: Path, cog: bool) -> None:
    source = write(tmp_path / "a.tif", GRAY)
    points = [GroundControlPoint(0, 0, 10, 50, 1), GroundControlPoint(12.5, 33.25, 11, 49, 2, "p", "church"),
              GroundControlPoint(45, 60, 12, 48, 3)]  # fmt: skip
    with rasterio.open(source, "r+") as file:
        file.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    target = upscaled(engine, source, cog=cog)
    with rasterio.open(target) as file:
        found, crs = file.gcps
    assert crs.to_epsg() == 4326
    assert [(p.row, p.col) for p in found] == [(p.row * engine.scale, p.col * engine.scale) for p in points]
    assert [(p.x, p.y, p.z) for p in found] == [(p.x, p.y, p.z) for p in points]
    assert len(gdalinfo(target)["gcps"]["gcpList"]) == 3


def test_files_beside_the_image(engine: Engine, tmp_path: Path) -> None:
    """A world file, a PAM file and external overviews of the source are stored in the result itself."""
    source = write(tmp_path / "a.tif", image_of(1, np.uint8, 300, 300))
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n105\n195\n")
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(source, "r+") as file:
        file.build_overviews([2, 4])
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:31256</SRS><Metadata><MDI key='flight'>7</MDI></Metadata>"
        "<PAMRasterBand band='1'><Description>depth</Description><UnitType>m</UnitType></PAMRasterBand>"
        "</PAMDataset>"
    )
    assert (tmp_path / "a.tif.ovr").exists()
    folder = tmp_path / "alone"
    folder.mkdir()
    engine.upscale_file(source, folder / "b.tif")
    assert [p.name for p in folder.iterdir()] == ["b.tif"]
    with rasterio.open(folder / "b.tif") as file:
        assert file.transform.to_gdal() == (100, 10 / engine.scale, 0, 200, 0, -10 / engine.scale)
        assert file.crs.to_epsg() == 31256
        assert file.tags()["flight"] == "7"
        assert (file.descriptions, file.units) == (("depth",), ("m",))
        assert file.overviews(1)


# Bands


@both
def test_what_bands_are_called_and_mean(engine: Engine, tmp_path: Path, cog: bool) -> None:
    source = write(tmp_path / "a.tif", image_of(5, np.uint16), photometric="MINISBLACK", nodata=0)
    roles = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined, ColorInterp.gray)
    with rasterio.open(source, "r+") as file:
        file.descriptions = ("B2", "B3", "B4", "B8 Nah-IR µm", None)
        file.scales, file.offsets, file.units = (1e-4,) * 5, (-0.1, 0, 0, 0, 2), ("", "", "", "K", "m")
        file.colorinterp = roles
        file.update_tags(1, wavelength="490")
        file.update_tags(4, wavelength="842", STATISTICS_MEAN="3")
        file.update_tags(mission="S2", AREA_OR_POINT="Area")
        file.update_tags(ns="PROCESSING", level="2A", steps="a\nb")
    target = upscaled(engine, source, cog=cog)
    with rasterio.open(source) as a, rasterio.open(target) as b:
        for item in ("descriptions", "scales", "offsets", "units", "colorinterp", "nodatavals"):
            assert getattr(b, item) == getattr(a, item), item
        assert b.tags(1) == {"wavelength": "490"} | _statistics(b, 1)
        assert b.tags(4)["wavelength"] == "842"
        assert b.tags()["mission"] == "S2"
        assert b.tags(ns="PROCESSING") == {"level": "2A", "steps": "a\nb"}
        assert a.tags(ns="PROCESSING") == b.tags(ns="PROCESSING")
    info = gdalinfo(target)
    assert [band.get("description", "") for band in info["bands"]] == ["B2", "B3", "B4", "B8 Nah-IR µm", ""]
    assert info["metadata"]["PROCESSING"]["level"] == "2A"


def _statistics(file: rasterio.DatasetReader, band: int) -> dict[str, str]:
    return {k: v for k, v in file.tags(band).items() if k.startswith("STATISTICS_")}


@both
def test_statistics_and_overviews_are_those_of_the_result(engine: Engine, tmp_path: Path, cog: bool) -> None:
    image = image_of(1, np.uint8, 300, 300)
    source = write(tmp_path / "a.tif", image)
    with rasterio.open(source, "r+") as file:
        file.update_tags(1, STATISTICS_MEAN="1", STATISTICS_MAXIMUM="2", STATISTICS_MINIMUM="0")
        file.update_tags(TIFFTAG_MAXSAMPLEVALUE="2", TIFFTAG_MINSAMPLEVALUE="1")
        file.build_overviews([2])
    target = upscaled(engine, source, cog=cog)
    expected = engine.upscale(image)
    with rasterio.open(target) as file:
        found = {k: float(v) for k, v in _statistics(file, 1).items()}
        assert found["STATISTICS_MEAN"] == pytest.approx(expected.mean(), abs=1e-6)
        assert found["STATISTICS_MAXIMUM"] == expected.max()
        assert "TIFFTAG_MAXSAMPLEVALUE" not in file.tags()
        assert file.overviews(1)[0] == 2
    assert (by_tifffile(target) == expected).all()
    plain = upscaled(engine, write(tmp_path / "plain.tif", image))
    with rasterio.open(plain) as file:  # nothing is added that the source lacks
        assert not _statistics(file, 1)
        assert not file.overviews(1)


# Cloud-optimised


def check_cog(path: Path) -> None:
    """Check the rules of GDAL's validate_cloud_optimized_geotiff.py by tifffile."""
    with tifffile.TiffFile(path) as file:
        data = path.read_bytes()
        first = file.pages[0]
        assert first.is_tiled
        assert first.subfiletype == 0
        note = data.find(b"GDAL_STRUCTURAL_METADATA_SIZE=")
        assert note in (8, 16)
        assert b"LAYOUT=IFDS_BEFORE_DATA" in data[note : note + 400]
        size = int(data[note + 30 : note + 36])
        assert first.offset <= note + 43 + size + 8  # the first directory follows directly
        offsets = [p.offset for p in file.pages]
        assert offsets == sorted(offsets)
        images = [p for p in file.pages if not p.subfiletype & 4]
        assert all(p.is_tiled and p.subfiletype == 1 for p in images[1:])
        assert all(a.imagewidth > b.imagewidth for a, b in itertools.pairwise(images))
        if max(first.shape[:2]) > 512:
            assert len(images) > 1
            assert max(images[-1].shape[:2]) <= 512
        starts = [min(n for n in p.dataoffsets if n) for p in images]
        assert starts == sorted(starts, reverse=True)  # overviews precede the image
        assert max(offsets) < min(starts)
        for page in images:
            assert list(page.dataoffsets) == sorted(page.dataoffsets)
            for at, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                assert int.from_bytes(data[at - 4 : at], "little") == count  # its size precedes each tile


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("kind", ["plain", "masked", "big"])
def test_cogs_are_valid(
    engine: Engine, tmp_path: Path, compress: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(3, np.uint8, 400, 500)
    how = {"photometric": "RGB", "crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
    source = write(tmp_path / "a.tif", image, **how)
    if kind == "masked":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source, "r+") as file:
            file.write_mask(image[..., 0] > 40)
    if kind == "big":
        from srcnn_rt.io.tiff import cog

        copy = cog.copy
        monkeypatch.setattr(cog, "copy", lambda *a, **k: copy(*a, **k | {"bigtiff": "YES"}))
    target = upscaled(engine, source, cog=True, compress=compress)
    assert (target.read_bytes()[2:4] == b"+\0") == (kind == "big")
    if kind != "masked":
        check_cog(target)
        assert (by_tifffile(target) == engine.upscale(image)).all()
        assert (by_pillow(target) == engine.upscale(image)).all()
    with rasterio.open(target) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert "SRCNN_RT_PADDING" not in file.tags()
        assert b"SRCNN_RT_PADDING" not in target.read_bytes()
        for factor in file.overviews(1):
            with rasterio.open(target, overview_level=file.overviews(1).index(factor)) as small:
                small.read()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "out.tif"]


def test_a_cog_interrupted_in_its_last_step_is_resumed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that point GDAL has rewritten the head and made room in it."""
    from srcnn_rt.io.tiff import cog

    image = image_of(3, np.uint8, 300, 310)
    source = write(tmp_path / "a.tif", image, photometric="RGB")
    with rasterio.open(source, "r+") as file:
        file.update_tags(1, STATISTICS_MEAN="1")

    def interrupted(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cog, "copy", interrupted)
        upscaled(engine, source, cog=True)
    assert (tmp_path / "out.tif.partial").exists()
    engine.upscale_file(source, tmp_path / "out.tif", cog=True, resume=True)
    check_cog(tmp_path / "out.tif")
    assert (by_tifffile(tmp_path / "out.tif") == engine.upscale(image)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "out.tif"]
