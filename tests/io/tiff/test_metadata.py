"""Metadata of people, cameras and microscopes in a TIFF are kept and updated for the new resolution.

Other programs read them back: tifffile, Pillow, rasterio, and exiftool if it is installed.
"""

from __future__ import annotations

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

from srcnn_rt import Engine, ImageError
from srcnn_rt.io.tiff import descriptions
from tests.helpers import tiffs
from tests.helpers.tiffs import GRAY, RGB, both, image_of, upscaled

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

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

engine = tiffs.engine


def exiftool(path: Path) -> dict[str, object]:
    """Return exiftool's values by group and name, unformatted."""
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    done = subprocess.run(["exiftool", "-j", "-n", "-G1", "-a", path], capture_output=True, check=True)
    return json.loads(done.stdout)[0]


# Texts and camera metadata


def camera_tiff(path: Path, orientation: int = 1, image: np.ndarray = RGB) -> Path:
    """Write a TIFF as a camera does: texts, EXIF, GPS, XMP, IPTC, profile, resolution."""
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
    exif[0x8769] = exif[0x8825] = 0  # otherwise Pillow does not write them into a TIFF
    exif[285], exif[297] = "recto", (3, 9)
    Image.fromarray(image).save(path, exif=exif, dpi=(300, 200), icc_profile=SRGB)
    return path


@both
@pytest.mark.parametrize("orientation", [1, 6])
def test_camera_metadata(engine: Engine, tmp_path: Path, orientation: int, cog: bool) -> None:
    s = engine.scale
    target = upscaled(engine, camera_tiff(tmp_path / "a.tif", orientation), cog=cog)
    size = (60 * s, 45 * s) if orientation == 1 else (45 * s, 60 * s)
    with Image.open(target) as image:
        assert image.size == size
        tags, exif = image.tag_v2, image.getexif()
        assert {k: tags[k] for k in TEXTS} == TEXTS
        assert (tags[271], tags[272], tags[285], tags[297]) == ("Maker", "Model X", "recto", (3, 9))
        assert tags.get(274, 1) == 1
        assert image.info["icc_profile"] == SRGB
        assert tuple(image.info["dpi"]) == ((300 * s, 200 * s) if orientation == 1 else (200 * s, 300 * s))
        more = exif.get_ifd(0x8769)
        assert (more[40962], more[40963]) == size
        assert (float(more[41486]), float(more[41487])) == (1000 * s, 1000 * s)
        assert more[37500] == b"maker's own note"
        assert more[36867] == "1987:06:05 04:03:01"
        assert float(more[33434]) == 0.004
        assert tuple(exif.get_ifd(0x8825)[2]) == (48.0, 12.0, 30.5)
        assert bytes(tags[33723]) == IPTC
        xmp = bytes(tags[700])
    assert (b'tiff:Orientation="6"' in xmp) == (
        orientation == 1
    )  # not reset on an image that is turned upright
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
    """rasterio silently omits them."""
    text = [(270, "s", 0, "Maßstab 5µm".encode("latin-1"), True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, extratags=text)
    with Image.open(upscaled(engine, tmp_path / "a.tif")) as image:
        # GDAL, exiftool and OME write UTF-8, which Pillow does not support in TIFF.
        assert image.tag_v2[270].encode("latin-1").decode() == "Maßstab 5µm"


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
    with Image.open(target) as image:
        assert (image.tag_v2[271], image.tag_v2[285]) == ("Maker", "recto")
        assert bytes(image.tag_v2[33723]) == IPTC


def test_white_point_and_primaries(engine: Engine, tmp_path: Path) -> None:
    white, primaries = (3127, 10000, 329, 1000), (64, 100, 33, 100, 30, 100, 60, 100, 15, 100, 6, 100)
    tags = [(318, "2I", 2, white, True), (319, "2I", 6, primaries, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, extratags=tags)
    with tifffile.TiffFile(upscaled(engine, tmp_path / "a.tif")) as file:
        assert file.pages[0].tags[318].value == white
        assert file.pages[0].tags[319].value == primaries


def test_photoshops_block(engine: Engine, tmp_path: Path) -> None:
    """IPTC is kept, the resolution is updated; thumbnails and guides of the old size are dropped."""

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


# Microscopy metadata

ZCYX = np.stack([image_of(1, np.uint16, 40, 50, k)[..., 0] for k in range(6)]).reshape(3, 2, 40, 50)


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
    one = upscaled(engine, source, "c.tif", page=2)  # one of six planes is not a ZC stack
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
        assert "ROI" not in found  # its coordinates would be wrong
    one = upscaled(engine, tmp_path / "a.tif", "b.tif", page=1)
    with tifffile.TiffFile(one) as file:
        assert file.series[0].shape == (40 * engine.scale, 50 * engine.scale)
        assert file.imagej_metadata["unit"] == "um"


def test_an_imagej_stack_behind_one_directory_is_refused(engine: Engine, tmp_path: Path) -> None:
    """ImageJ writes stacks of more than 4 GB like this; reading one image would silently lose the rest."""
    tifffile.imwrite(
        tmp_path / "a.tif", GRAY[..., 0], metadata=None,
        extratags=[(270, "s", 0, "ImageJ=1.53t\nimages=5000\nslices=5000\n", True)],
    )  # fmt: skip
    with pytest.raises(ImageError, match="5000 images behind one directory"):
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(upscaled(engine, tmp_path / "a.tif", page=1)) as file:
        assert "images" not in file.pages[0].description


@pytest.mark.parametrize("shape", [(3, 40, 50), (40, 40, 40), (40, 50), (2, 40, 50, 3), (40, 50, 3)])
def test_the_shape_that_tifffile_notes(engine: Engine, tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    color = shape[-1] == 3
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="rgb" if color else "minisblack", metadata={"note": "kept"}
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
    for number in (
        "1e999",
        "1e999999999",
        "1e-99999999999999999999",
    ):  # computing them exactly would never end
        assert same(f'<OME PhysicalSizeX="{number}"/>')
    for text in (
        '{"shape": [',
        '{"shape": "no"}',
        '{"shape": [1, 2]}',
        '{"a": {"shape": 1}}',
        "{" * 9999 + '"shape"',
    ):
        assert descriptions.scaled(text, 2, (4, 5), pages=1, complete=True) is None


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
    with Image.open(target) as image:
        tags = image.tag_v2
        assert (tags[269], tags[270], tags[305], tags[315], tags[33432]) == (
            "plate", "a harbor", "scan", "Berta", "Archiv",
        )  # fmt: skip
        assert tags[306] == "1987:06:05 04:03:02"
        assert tags[271] == "Maker"
        assert image.getexif().get_ifd(0x8825)[1] == "N"
        assert image.info["dpi"] == pytest.approx((300 * engine.scale,) * 2, rel=1e-4)
        assert image.info["icc_profile"] == SRGB
    with rasterio.open(target) as file:
        assert file.tags()["Comment"] == "folded"
    again = upscaled(engine, target, "again.png")  # back to PNG
    with Image.open(again) as image:
        kept = {"Title": "plate", "Author": "Berta", "Comment": "folded", "Copyright": "Archiv"}
        assert {k: image.text[k] for k in kept} == kept
        assert image.info["dpi"] == pytest.approx((300 * engine.scale**2,) * 2, rel=1e-3)


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.webp"])
def test_tiff_to_others(engine: Engine, tmp_path: Path, name: str) -> None:
    s = engine.scale
    target = upscaled(engine, camera_tiff(tmp_path / "a.tif", 6), name)
    with Image.open(target) as image:
        assert image.size == (45 * s, 60 * s)
        assert image.info["icc_profile"] == SRGB
        exif = image.getexif()
        assert exif[271] == "Maker"
        assert exif.get(274, 1) == 1
        more = exif.get_ifd(0x8769)
        assert (more[40962], more[40963]) == image.size
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
    with Image.open(target) as image:
        assert image.size == (45 * s, 60 * s)
        assert image.tag_v2[271] == "Maker"
        assert image.tag_v2[315] == "Berta"
        assert image.getexif().get_ifd(0x8769)[40962] == 45 * s
        assert image.info["icc_profile"] == SRGB
        assert tuple(image.info["dpi"]) == pytest.approx((200 * s, 300 * s))
        assert b'tiff:Orientation="1"' in bytes(image.tag_v2[700])
    with rasterio.open(target) as file:
        assert file.tags()["Comment"] == "a comment"
