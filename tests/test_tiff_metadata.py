"""What a TIFF says beside its pixels: all of it is kept, and true at the new scale.

Read back by other programs: tifffile, Pillow, rasterio, exiftool and GDAL's own tools where there are any.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.transform import Affine, RPCTransformer

from srcnn_rt import Engine, PictureError
from srcnn_rt.io.tiff import descriptions
from tests.tiffs import by_pillow, by_tifffile, picture_of, write

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

GRAY, RGB = picture_of(1), picture_of(3)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:Orientation="6" tiff:ImageWidth="60" tiff:XResolution="300/1" dc:format="image/tiff"/>'
    b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x05\x00\x06harbor\x1c\x02\x50\x00\x05Berta"
TEXTS = {269: "plate 7", 270: "a harbor", 305: "scanner 2.1", 306: "1987:06:05 04:03:02", 315: "Berta",
         316: "host", 33432: "Archiv 1987"}  # fmt: skip


@pytest.fixture(scope="module", params=[2, 3], ids=["x2", "x3"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(f"bicubic-x{request.param}", "cpu", 32, threads=2)


def upscaled(engine: Engine, source: Path, name: str = "out.tif", **how: object) -> Path:
    target = source.with_name(name)
    engine.upscale_file(source, target, overwrite=True, **how)
    return target


def exiftool(path: Path) -> dict[str, object]:
    """Return what exiftool says, by group and name, numbers as numbers."""
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    done = subprocess.run(["exiftool", "-j", "-n", "-G1", "-a", path], capture_output=True, check=True)
    return json.loads(done.stdout)[0]


def gdalinfo(path: Path) -> dict[str, object]:
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed")
    done = subprocess.run(["gdalinfo", "-json", "-mdd", "all", path], capture_output=True, check=True)
    return json.loads(done.stdout)


both = pytest.mark.parametrize("cog", [False, True], ids=["tiff", "cog"])


# Where it is on the ground


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
    if point and transform.is_rectilinear:  # the tie point itself: the centre of the first pixel
        with tifffile.TiffFile(target) as file:
            tags = file.pages[0].geotiff_tags
            assert tags["GTRasterTypeGeoKey"].name == "IsPoint"
            x, y = tags["ModelTiepoint"][3:5]
            assert (x, y) == pytest.approx((500000 + 5 / engine.scale, 5200000 - 5 / engine.scale))


def rpc() -> RPC:
    """A camera over 60 x 45 pixels, nearly linear, with terms of all orders."""
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
    """GDAL's own transformer is the judge of where the first pixel's corner is."""
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
        assert 5 < places[0][0].min() < 40  # inside the picture, so that it says something
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


def test_files_beside_the_picture(engine: Engine, tmp_path: Path) -> None:
    """A world file, GDAL's notes and overviews beside the source are in the result itself."""
    source = write(tmp_path / "a.tif", picture_of(1, np.uint8, 300, 300))
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
    source = write(tmp_path / "a.tif", picture_of(5, np.uint16), photometric="MINISBLACK", nodata=0)
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
    picture = picture_of(1, np.uint8, 300, 300)
    source = write(tmp_path / "a.tif", picture)
    with rasterio.open(source, "r+") as file:
        file.update_tags(1, STATISTICS_MEAN="1", STATISTICS_MAXIMUM="2", STATISTICS_MINIMUM="0")
        file.update_tags(TIFFTAG_MAXSAMPLEVALUE="2", TIFFTAG_MINSAMPLEVALUE="1")
        file.build_overviews([2])
    target = upscaled(engine, source, cog=cog)
    expected = engine.upscale(picture)
    with rasterio.open(target) as file:
        found = {k: float(v) for k, v in _statistics(file, 1).items()}
        assert found["STATISTICS_MEAN"] == pytest.approx(expected.mean(), abs=1e-6)
        assert found["STATISTICS_MAXIMUM"] == expected.max()
        assert "TIFFTAG_MAXSAMPLEVALUE" not in file.tags()
        assert file.overviews(1)[0] == 2
    assert (by_tifffile(target) == expected).all()
    plain = upscaled(engine, write(tmp_path / "plain.tif", picture))
    with rasterio.open(plain) as file:  # what it did not have, it does not get
        assert not _statistics(file, 1)
        assert not file.overviews(1)


# What people and cameras wrote


def camera_tiff(path: Path, orientation: int = 1, picture: np.ndarray = RGB) -> Path:
    """A TIFF as from a camera: texts, EXIF, GPS, XMP, IPTC, profile, resolution."""
    exif = Image.Exif()
    for tag, text in TEXTS.items():
        exif[tag] = text
    exif[271], exif[272], exif[274], exif[700], exif[33723] = "Maker", "Model X", orientation, XMP, IPTC
    exif.get_ifd(0x8769).update({
        33434: IFDRational(1, 250), 36867: "1987:06:05 04:03:01", 37500: b"maker's own note",
        40962: 60, 40963: 45,
        41486: IFDRational(1000), 41487: IFDRational(1000),
    })  # fmt: skip
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 30.5), 3: "E", 4: (16.0, 22.0, 1.0)})
    exif[0x8769] = exif[0x8825] = 0  # or Pillow would not write them into a TIFF
    exif[285], exif[297] = "recto", (3, 9)
    Image.fromarray(picture).save(path, exif=exif, dpi=(300, 200), icc_profile=SRGB)
    return path


@both
@pytest.mark.parametrize("orientation", [1, 6])
def test_camera_metadata(engine: Engine, tmp_path: Path, orientation: int, cog: bool) -> None:
    s = engine.scale
    target = upscaled(engine, camera_tiff(tmp_path / "a.tif", orientation), cog=cog)
    size = (60 * s, 45 * s) if orientation == 1 else (45 * s, 60 * s)
    with Image.open(target) as picture:
        assert picture.size == size
        tags, exif = picture.tag_v2, picture.getexif()
        assert {k: tags[k] for k in TEXTS} == TEXTS
        assert (tags[271], tags[272], tags[285], tags[297]) == ("Maker", "Model X", "recto", (3, 9))
        assert tags.get(274, 1) == 1
        assert picture.info["icc_profile"] == SRGB
        assert tuple(picture.info["dpi"]) == ((300 * s, 200 * s) if orientation == 1 else (200 * s, 300 * s))
        more = exif.get_ifd(0x8769)
        assert (more[40962], more[40963]) == size
        assert (float(more[41486]), float(more[41487])) == (1000 * s, 1000 * s)
        assert more[37500] == b"maker's own note"
        assert more[36867] == "1987:06:05 04:03:01"
        assert float(more[33434]) == 0.004
        assert tuple(exif.get_ifd(0x8825)[2]) == (48.0, 12.0, 30.5)
        assert bytes(tags[33723]) == IPTC
        xmp = bytes(tags[700])
    assert (b'tiff:Orientation="6"' in xmp) == (orientation == 1)  # what was true, or not, of the source
    assert f'tiff:ImageWidth="{size[0]}"'.encode() in xmp
    assert f'tiff:XResolution="{300 * s}/1"'.encode() in xmp
    assert b'dc:format="image/tiff"' in xmp
    with tifffile.TiffFile(target) as file:
        page = file.pages[0]
        assert page.tags["ExifTag"].value["PixelXDimension"] == size[0]
        assert page.tags["GPSTag"].value["GPSLatitude"] == (48, 1, 12, 1, 61, 2)
    seen = exiftool(target)
    assert seen["GPS:GPSLatitude"] == pytest.approx(48 + 12 / 60 + 30.5 / 3600)
    assert seen["IPTC:ObjectName"] == "harbor"
    assert seen["IPTC:By-line"] == "Berta"
    assert seen["ExifIFD:ExposureTime"] == 0.004
    assert seen["IFD0:ImageDescription"] == "a harbor"
    assert seen["XMP-dc:Format"] == "image/tiff"
    assert "ExifTool:Error" not in seen
    assert not [v for k, v in seen.items() if k.startswith("ExifTool:Warning")]


@pytest.mark.parametrize("unit", [1, 2, 3])
def test_print_resolution_in_its_own_unit(engine: Engine, tmp_path: Path, unit: int) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", RGB, photometric="rgb", resolution=(118.11, 59.05), resolutionunit=unit
    )
    target = upscaled(engine, tmp_path / "a.tif")
    with tifffile.TiffFile(target) as file:
        page = file.pages[0]
        assert page.resolution == pytest.approx((118.11 * engine.scale, 59.05 * engine.scale), rel=1e-6)
        assert page.resolutionunit == unit


def test_texts_that_are_no_utf8(engine: Engine, tmp_path: Path) -> None:
    """rasterio leaves them out without a word."""
    text = [(270, "s", 0, "Maßstab 5µm".encode("latin-1"), True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, extratags=text)
    with Image.open(upscaled(engine, tmp_path / "a.tif")) as picture:
        # Pillow knows no UTF-8 in TIFF, which is what GDAL, exiftool and OME write.
        assert picture.tag_v2[270].encode("latin-1").decode() == "Maßstab 5µm"


def test_a_big_endian_source_has_the_same_metadata(engine: Engine, tmp_path: Path) -> None:
    little = camera_tiff(tmp_path / "a.tif")
    with tifffile.TiffFile(little) as file:
        kept = [
            (t.code, t.dtype, t.count, t.value, True)
            for t in file.pages[0].tags
            if t.code in (271, 272, 285, 33723, 700)
        ]
    tifffile.imwrite(
        tmp_path / "b.tif", RGB, photometric="rgb", byteorder=">", bigtiff=True, metadata=None, extratags=kept
    )
    target = upscaled(engine, tmp_path / "b.tif")
    with Image.open(target) as picture:
        assert (picture.tag_v2[271], picture.tag_v2[285]) == ("Maker", "recto")
        assert bytes(picture.tag_v2[33723]) == IPTC


def test_white_point_and_primaries(engine: Engine, tmp_path: Path) -> None:
    white, primaries = (3127, 10000, 329, 1000), (64, 100, 33, 100, 30, 100, 60, 100, 15, 100, 6, 100)
    tags = [(318, "2I", 2, white, True), (319, "2I", 6, primaries, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, extratags=tags)
    with tifffile.TiffFile(upscaled(engine, tmp_path / "a.tif")) as file:
        assert file.pages[0].tags[318].value == white
        assert file.pages[0].tags[319].value == primaries


def test_photoshops_block(engine: Engine, tmp_path: Path) -> None:
    """IPTC and resolution are kept and true; thumbnails and guides are of the old size."""

    def resource(kind: int, value: bytes) -> bytes:
        return b"8BIM" + struct.pack(">HHI", kind, 0, len(value)) + value + bytes(len(value) % 2)

    density = struct.pack(">IHHIHH", 300 << 16, 1, 1, 200 << 16, 1, 1)
    block = b"".join(
        resource(*r) for r in ((0x03ED, density), (0x040C, b"thumbnail"), (0x0404, IPTC), (0x040A, b"\1"))
    )
    for orientation in (1, 6):
        tags = [(34377, "B", len(block), block, True), (274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, extratags=tags)
        target = upscaled(engine, tmp_path / "a.tif")
        with tifffile.TiffFile(target) as file:
            assert b"thumbnail" not in file.pages[0].tags[34377].value
        seen = exiftool(target)
        s = engine.scale
        expected = (300 * s, 200 * s) if orientation == 1 else (200 * s, 300 * s)
        assert (seen["Photoshop:XResolution"], seen["Photoshop:YResolution"]) == expected
        assert seen["Photoshop:CopyrightFlag"] in (1, True)
        assert "harbor" in (seen.get("IPTC:ObjectName"), seen.get("IPTC2:ObjectName"))
        assert "Photoshop:PhotoshopThumbnail" not in seen


# What microscopes write

ZCYX = np.stack([picture_of(1, np.uint16, 40, 50, k)[..., 0] for k in range(6)]).reshape(3, 2, 40, 50)


def test_ome_tiff(engine: Engine, tmp_path: Path) -> None:
    source, s = tmp_path / "a.ome.tif", engine.scale
    tifffile.imwrite(
        source, ZCYX, ome=True,
        metadata={
            "axes": "ZCYX", "PhysicalSizeX": 0.3, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.6,
            "PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 2.0, "SignificantBits": 12,
            "Channel": {"Name": ["DAPI", "GFP"]}, "Plane": {"PositionX": [5.0] * 6},
        },
    )  # fmt: skip
    target = upscaled(engine, source, "b.ome.tif")
    with tifffile.TiffFile(source) as a, tifffile.TiffFile(target) as b:
        assert b.is_ome
        series = b.series[0]
        assert (series.axes, series.shape) == ("ZCYX", (3, 2, 40 * s, 50 * s))
        expected = np.stack([engine.upscale(p) for p in ZCYX.reshape(6, 40, 50)])
        assert (series.asarray().reshape(expected.shape) == expected).all()
        old, new = (tifffile.xml2dict(f.ome_metadata)["OME"]["Image"]["Pixels"] for f in (a, b))
        assert (new["SizeX"], new["SizeY"]) == (50 * s, 40 * s)
        assert new["PhysicalSizeX"] == pytest.approx(0.3 / s)
        assert new["PhysicalSizeY"] == pytest.approx(0.6 / s)
        changed = ("SizeX", "SizeY", "PhysicalSizeX", "PhysicalSizeY")
        assert {k: v for k, v in new.items() if k not in changed} == {
            k: v for k, v in old.items() if k not in changed
        }
    one = upscaled(engine, source, "c.tif", page=2)  # one plane of six is no ZC stack
    with tifffile.TiffFile(one) as file:
        assert not file.is_ome
        assert file.series[0].shape == (40 * s, 50 * s)


def test_regions_in_ome_are_where_they_were_and_files_are_no_others() -> None:
    text = (
        '<!-- OME --><OME xmlns="x" UUID="urn:uuid:1"><Image>'
        '<Pixels SizeX="50" SizeY="40" PhysicalSizeX="1e-1">'
        '<TiffData IFD="0"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData IFD="1"><UUID FileName="other.tif">urn:uuid:2</UUID></TiffData>'
        '<Plane PositionX="3"/></Pixels></Image><ROI ID="R"><Rectangle X="1.5" Y="2" Width="4" Height="5"/>'
        '<Polygon Points="1,2 3.5,4"/><Label Text="X=3"/></ROI></OME>'
    )
    made = descriptions.scaled(text, 2, (40, 50), pages=1, complete=True)
    assert made is not None
    assert 'SizeX="100" SizeY="80" PhysicalSizeX="0.05"' in made
    assert 'X="3.0" Y="4" Width="8" Height="10"' in made
    assert 'Points="2,4 7.0,8"' in made
    assert 'PositionX="3"' in made
    assert 'Text="X=3"' in made
    assert "<UUID>urn:uuid:1</UUID>" in made
    assert '<UUID FileName="other.tif">urn:uuid:2</UUID>' in made


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_imagej_hyperstacks(engine: Engine, tmp_path: Path, byteorder: str) -> None:
    labels = [f"plane {k} µ" for k in range(6)]
    lut = np.stack([np.arange(256, dtype=np.uint8)] * 3)
    tifffile.imwrite(
        tmp_path / "a.tif", ZCYX, imagej=True, resolution=(4.5, 4.5), byteorder=byteorder,
        metadata={
            "axes": "ZCYX", "spacing": 2.0, "unit": "um", "Labels": labels, "Info": "all of it",
            "LUTs": [lut, 255 - lut], "Ranges": (0.0, 4095.0, 1.0, 99.0), "ROI": b"Iout" + bytes(60),
        },
    )  # fmt: skip
    target = upscaled(engine, tmp_path / "a.tif")
    with tifffile.TiffFile(target) as file:
        assert file.is_imagej
        found = file.imagej_metadata
        assert (found["images"], found["channels"], found["slices"]) == (6, 2, 3)
        assert (found["unit"], found["spacing"]) == ("um", 2.0)
        assert file.pages[0].resolution == pytest.approx((4.5 * engine.scale,) * 2)
        assert file.series[0].axes == "ZCYX"
        expected = np.stack([engine.upscale(p) for p in ZCYX.reshape(6, 40, 50)])
        assert (file.asarray().reshape(expected.shape) == expected).all()
        assert found["Labels"] == labels
        assert found["Info"] == "all of it"
        assert (found["LUTs"][1] == 255 - lut).all()
        assert tuple(found["Ranges"]) == (0.0, 4095.0, 1.0, 99.0)
        assert "ROI" not in found  # its places would be wrong
    one = upscaled(engine, tmp_path / "a.tif", "b.tif", page=1)
    with tifffile.TiffFile(one) as file:
        assert file.series[0].shape == (40 * engine.scale, 50 * engine.scale)
        assert file.imagej_metadata["unit"] == "um"


def test_an_imagej_stack_behind_one_directory_is_refused(engine: Engine, tmp_path: Path) -> None:
    """ImageJ writes stacks of over 4 GB so; the first picture alone would be a loss without a word."""
    tifffile.imwrite(
        tmp_path / "a.tif", GRAY[..., 0], metadata=None,
        extratags=[(270, "s", 0, "ImageJ=1.53t\nimages=5000\nslices=5000\n", True)],
    )  # fmt: skip
    with pytest.raises(PictureError, match="5000 pictures behind one directory"):
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(upscaled(engine, tmp_path / "a.tif", page=1)) as file:
        assert "images" not in file.pages[0].description


@pytest.mark.parametrize("shape", [(3, 40, 50), (40, 40, 40), (40, 50), (2, 40, 50, 3), (40, 50, 3)])
def test_the_shape_that_tifffile_notes(engine: Engine, tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    color = shape[-1] == 3
    tifffile.imwrite(
        tmp_path / "a.tif", picture, photometric="rgb" if color else "minisblack", metadata={"note": "kept"}
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == np.prod(shape[: -3 if color else -2])
    target = upscaled(engine, tmp_path / "a.tif")
    with tifffile.TiffFile(target) as file:
        s, at = engine.scale, len(shape) - (3 if color else 2)
        assert file.is_shaped
        assert file.series[0].shape == (*shape[:at], shape[at] * s, shape[at + 1] * s, *shape[at + 2 :])
        assert file.shaped_metadata[0]["note"] == "kept"


def test_descriptions_that_are_no_numbers_of_ours() -> None:
    def same(text: str) -> bool:
        return descriptions.scaled(text, 2, (4, 5), pages=1, complete=True) == text

    assert same("a harbor")
    assert same('<OME SizeX="x"/>')
    assert same('<OME PhysicalSizeX="1e999"/>')
    for text in (
        '{"shape": [',
        '{"shape": "no"}',
        '{"shape": [1, 2]}',
        '{"a": {"shape": 1}}',
        "{" * 9999 + '"shape"',
    ):
        assert descriptions.scaled(text, 2, (4, 5), pages=1, complete=True) is None


# Cloud-optimised


def check_cog(path: Path) -> None:
    """The rules of GDAL's validate_cloud_optimized_geotiff.py, with tifffile for eyes."""
    with tifffile.TiffFile(path) as file:
        data = path.read_bytes()
        first = file.pages[0]
        assert first.is_tiled
        assert first.subfiletype == 0
        note = data.find(b"GDAL_STRUCTURAL_METADATA_SIZE=")
        assert note in (8, 16)
        assert b"LAYOUT=IFDS_BEFORE_DATA" in data[note : note + 400]
        size = int(data[note + 30 : note + 36])
        assert first.offset <= note + 43 + size + 8  # the first directory follows at once
        offsets = [p.offset for p in file.pages]
        assert offsets == sorted(offsets)
        pictures = [p for p in file.pages if not p.subfiletype & 4]
        assert all(p.is_tiled and p.subfiletype == 1 for p in pictures[1:])
        assert all(a.imagewidth > b.imagewidth for a, b in itertools.pairwise(pictures))
        if max(first.shape[:2]) > 512:
            assert len(pictures) > 1
            assert max(pictures[-1].shape[:2]) <= 512
        starts = [min(n for n in p.dataoffsets if n) for p in pictures]
        assert starts == sorted(starts, reverse=True)  # overviews before what they are of
        assert max(offsets) < min(starts)
        for page in pictures:
            assert list(page.dataoffsets) == sorted(page.dataoffsets)
            for at, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                assert int.from_bytes(data[at - 4 : at], "little") == count  # each says its size before it


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("kind", ["plain", "masked", "big"])
def test_cogs_are_valid(
    engine: Engine, tmp_path: Path, compress: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = picture_of(3, np.uint8, 400, 500)
    how = {"photometric": "RGB", "crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
    source = write(tmp_path / "a.tif", picture, **how)
    if kind == "masked":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source, "r+") as file:
            file.write_mask(picture[..., 0] > 40)
    if kind == "big":
        from srcnn_rt.io.tiff import cog

        copy = cog.copy
        monkeypatch.setattr(cog, "copy", lambda *a, **k: copy(*a, **k | {"bigtiff": "YES"}))
    target = upscaled(engine, source, cog=True, compress=compress)
    assert (target.read_bytes()[2:4] == b"+\0") == (kind == "big")
    if kind != "masked":
        check_cog(target)
        assert (by_tifffile(target) == engine.upscale(picture)).all()
        assert (by_pillow(target) == engine.upscale(picture)).all()
    with rasterio.open(target) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert "SRCNN_RT_PADDING" not in file.tags()
        assert b"SRCNN_RT_PADDING" not in target.read_bytes()
        for factor in file.overviews(1):
            with rasterio.open(target, overview_level=file.overviews(1).index(factor)) as small:
                small.read()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "out.tif"]


def test_a_cog_interrupted_in_its_last_step_is_gone_on_with(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL has rewritten the head by then, and room has been made in it."""
    from srcnn_rt.io.tiff import cog

    picture = picture_of(3, np.uint8, 300, 310)
    source = write(tmp_path / "a.tif", picture, photometric="RGB")
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
    assert (by_tifffile(tmp_path / "out.tif") == engine.upscale(picture)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "out.tif"]


# Other formats


def test_png_to_tiff(engine: Engine, tmp_path: Path) -> None:
    from PIL import PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    written = {
        "Title": "plate", "Author": "Berta", "Description": "a harbor", "Copyright": "Archiv",
        "Software": "scan", "Comment": "folded", "Creation Time": "Fri, 05 Jun 1987 04:03:02 GMT",
    }  # fmt: skip
    for key, text in written.items():
        texts.add_itxt(key, text)
    exif = Image.Exif()
    exif[271] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(RGB).save(
        tmp_path / "a.png", pnginfo=texts, dpi=(300, 300), icc_profile=SRGB, exif=exif.tobytes()
    )
    target = upscaled(engine, tmp_path / "a.png")
    with Image.open(target) as picture:
        tags = picture.tag_v2
        assert (tags[269], tags[270], tags[305], tags[315], tags[33432]) == (
            "plate", "a harbor", "scan", "Berta", "Archiv",
        )  # fmt: skip
        assert tags[306] == "1987:06:05 04:03:02"
        assert tags[271] == "Maker"
        assert picture.getexif().get_ifd(0x8825)[1] == "N"
        assert picture.info["dpi"] == pytest.approx((300 * engine.scale,) * 2, rel=1e-4)
        assert picture.info["icc_profile"] == SRGB
    with rasterio.open(target) as file:
        assert file.tags()["Comment"] == "folded"
    again = upscaled(engine, target, "again.png")  # and back
    with Image.open(again) as picture:
        kept = {"Title": "plate", "Author": "Berta", "Comment": "folded", "Copyright": "Archiv"}
        assert {k: picture.text[k] for k in kept} == kept
        assert picture.info["dpi"] == pytest.approx((300 * engine.scale**2,) * 2, rel=1e-3)


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.webp"])
def test_tiff_to_others(engine: Engine, tmp_path: Path, name: str) -> None:
    s = engine.scale
    target = upscaled(engine, camera_tiff(tmp_path / "a.tif", 6), name)
    with Image.open(target) as picture:
        assert picture.size == (45 * s, 60 * s)
        assert picture.info["icc_profile"] == SRGB
        exif = picture.getexif()
        assert exif[271] == "Maker"
        assert exif.get(274, 1) == 1
        more = exif.get_ifd(0x8769)
        assert (more[40962], more[40963]) == picture.size
        assert tuple(exif.get_ifd(0x8825)[2]) == (48.0, 12.0, 30.5)
    seen = exiftool(target)
    assert seen["XMP-dc:Format"] == "image/tiff"
    if name == "b.jpg":
        assert (seen["JFIF:XResolution"], seen["JFIF:YResolution"]) == (200 * s, 300 * s)
    assert "ExifTool:Error" not in seen


def test_jpeg_to_tiff(engine: Engine, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[274], exif[315] = "Maker", 6, "Berta"
    exif.get_ifd(0x8769).update({40962: 60, 40963: 45})
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(RGB).save(
        tmp_path / "a.jpg", exif=exif, dpi=(300, 200), icc_profile=SRGB, xmp=XMP, comment="a comment"
    )
    target = upscaled(engine, tmp_path / "a.jpg")
    s = engine.scale
    with Image.open(target) as picture:
        assert picture.size == (45 * s, 60 * s)
        assert picture.tag_v2[271] == "Maker"
        assert picture.tag_v2[315] == "Berta"
        assert picture.getexif().get_ifd(0x8769)[40962] == 45 * s
        assert picture.info["icc_profile"] == SRGB
        assert tuple(picture.info["dpi"]) == pytest.approx((200 * s, 300 * s))
        assert b'tiff:Orientation="1"' in bytes(picture.tag_v2[700])
    with rasterio.open(target) as file:
        assert file.tags()["Comment"] == "a comment"
