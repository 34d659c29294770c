"""Files of every format are upscaled and read back by another library."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, ImageCms
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from srcnn_rt import ArgumentError, Engine, ImageError, OutputError
from srcnn_rt.io.protocols import StripCache
from srcnn_rt.io.registry import open_source
from srcnn_rt.io.tiff import writer as tiff
from srcnn_rt.tiling.geometry import Span
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.reference import quantise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RGB = quantise(drawing(45, 60), np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(TEST_MODEL, provider="cpu", tile=32)


def write_tiff(path: Path, image: np.ndarray, **options: object) -> Path:
    """Write an (H, W, C) array to a TIFF by rasterio."""
    h, w, c = image.shape
    kind = {"driver": "GTiff", "height": h, "width": w, "count": c, "dtype": image.dtype.name}
    with rasterio.open(path, "w", **kind, **options) as file:
        file.write(image.transpose(2, 0, 1))
    return path


def image_of(channels: int, dtype: type, h: int = 45, w: int = 60) -> np.ndarray:
    values = drawing(h, w, channels)
    return values.astype(np.float32) if dtype is np.float32 else quantise(values, dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize(
    "options",
    [
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"blockysize": 7, "interleave": "pixel", "compress": "lzw"},
        {"interleave": "band", "compress": "deflate", "BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG", "compress": "zstd"},
    ],
    ids=["tiled", "striped", "planar-big", "big-endian"],
)
def test_tiff_equals_the_array(
    engine: Engine, tmp_path: Path, dtype: type, channels: int, options: dict[str, object]
) -> None:
    image = image_of(channels, dtype)
    color = "RGB" if channels in (3, 4) else "MINISBLACK"
    alpha = {"alpha": "YES"} if channels == 4 else {}
    source = write_tiff(tmp_path / "a.tif", image, photometric=color, **options, **alpha)
    report = engine.upscale_file(source, tmp_path / "b.tif")
    back = tifffile.imread(tmp_path / "b.tif")
    if channels == 6 and options.get("interleave") == "band":  # bands lie as they lay
        back = back.transpose(1, 2, 0)
    back = back.reshape(90, 120, channels)
    assert back.dtype == dtype
    assert (back == engine.upscale(image)).all()
    assert report.dtype == np.dtype(dtype).name
    assert report.target_size == (120, 90)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.tif"]


def test_output_blocks_are_whole_whatever_the_tile(tmp_path: Path) -> None:
    """The image is larger than a block, tiles do not divide it, and chunks are narrower than the image."""
    image = image_of(1, np.uint8, 700, 900)
    source = write_tiff(tmp_path / "a.tif", image, tiled=True, blockxsize=256, blockysize=256)
    results = []
    for scale, tile in ((2, 37), (2, 512), (3, 100), (4, 64)):
        with Engine(f"bicubic-x{scale}", provider="cpu", tile=tile) as e:
            e.upscale_file(source, tmp_path / "b.tif", overwrite=True)
            results.append((e.upscale(image), tifffile.imread(tmp_path / "b.tif")))
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            page = file.pages[0]
            assert page.is_tiled
            assert page.tilewidth % (16 * scale) == 0 or page.tilewidth == 512
            assert page.compression.name == "ADOBE_DEFLATE"
    for expected, got in results:
        assert (expected[..., 0] == got).all()


def test_narrow_chunks_give_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(3, np.uint16, 300, 2000)
    for options in ({"tiled": True, "blockxsize": 128, "blockysize": 128}, {"blockysize": 3}):
        source = write_tiff(tmp_path / "a.tif", image, photometric="RGB", **options)
        monkeypatch.setattr(tiff._Page, "max_bytes", 100_000)
        with Engine("bicubic-x2", provider="cpu", tile=64) as e:
            e.upscale_file(source, tmp_path / "b.tif", overwrite=True)
            assert (tifffile.imread(tmp_path / "b.tif") == e.upscale(image)).all()


def test_striped_files_are_read_strip_by_strip(tmp_path: Path) -> None:
    image = image_of(1, np.uint8, 64, 300)
    with open_source(write_tiff(tmp_path / "a.tif", image, blockysize=4)) as source:
        assert source.by_rows
        calls = []
        read = source.read
        source.read = lambda y, x: calls.append((y, x)) or read(y, x)  # type: ignore[method-assign]
        cache = StripCache(source)
        for x in (Span(0, 50), Span(40, 150), Span(250, 300)):
            assert (cache.read(Span(3, 40), x) == image[3:40, x.start : x.stop]).all()
        assert calls == [(Span(3, 40), Span(0, 300))]
    tiled = write_tiff(tmp_path / "b.tif", image, tiled=True, blockxsize=16, blockysize=16)
    with open_source(tiled) as source:
        assert not source.by_rows


def test_geotiff_keeps_its_place_on_earth(engine: Engine, tmp_path: Path) -> None:
    place = Affine(10, 0, 500_000, 0, -10, 4_600_000)
    source = tmp_path / "scene.tif"
    with rasterio.open(
        source, "w", driver="GTiff", height=45, width=60, count=4, dtype="uint16", crs="EPSG:32633",
        transform=place, nodata=0,
    ) as file:  # fmt: skip
        file.write(image_of(4, np.uint16).transpose(2, 0, 1))
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]
        file.set_band_description(4, "near infrared")
        file.update_tags(SENSOR="drawn", TIFFTAG_XRESOLUTION="300", TIFFTAG_YRESOLUTION="300")
    engine.upscale_file(source, tmp_path / "big.tif")
    with rasterio.open(source) as a, rasterio.open(tmp_path / "big.tif") as b:
        assert b.crs == a.crs
        assert b.bounds == a.bounds
        assert b.res == (5, 5)
        assert b.nodata == 0
        assert b.colorinterp == a.colorinterp
        assert b.descriptions == (None, None, None, "near infrared")
        assert b.tags()["SENSOR"] == "drawn"
        assert float(b.tags()["TIFFTAG_XRESOLUTION"]) == 600
    with tifffile.TiffFile(tmp_path / "big.tif") as file:
        assert file.geotiff_metadata["ModelPixelScale"][:2] == [5.0, 5.0]
        assert file.geotiff_metadata["ProjectedCSTypeGeoKey"] == 32633


def test_a_fourth_band_that_is_not_alpha_is_a_band(engine: Engine, tmp_path: Path) -> None:
    image = image_of(4, np.uint16)
    source = write_tiff(tmp_path / "a.tif", image, photometric="MINISBLACK")
    engine.upscale_file(source, tmp_path / "b.tif")
    assert (tifffile.imread(tmp_path / "b.tif") == engine.upscale(image, bands=True)).all()


def test_palettes_and_bits_are_expanded(engine: Engine, tmp_path: Path) -> None:
    colors = {0: (255, 0, 0, 255), 1: (0, 128, 255, 255), 2: (9, 9, 9, 255)}
    index = np.random.default_rng(0).integers(0, 3, (20, 30), dtype=np.uint8)
    with rasterio.open(
        tmp_path / "p.tif", "w", driver="GTiff", height=20, width=30, count=1, dtype="uint8",
        photometric="PALETTE",
    ) as file:  # fmt: skip
        file.write(index, 1)
        file.write_colormap(1, colors)
    expanded = np.array([colors[k][:3] for k in range(3)], np.uint8)[index]
    engine.upscale_file(tmp_path / "p.tif", tmp_path / "q.tif")
    assert (tifffile.imread(tmp_path / "q.tif") == engine.upscale(expanded)).all()

    Image.fromarray(expanded).quantize(3).save(tmp_path / "p.png")
    engine.upscale_file(tmp_path / "p.png", tmp_path / "q.png")
    assert np.asarray(Image.open(tmp_path / "q.png")).shape == (40, 60, 3)

    bits = np.random.default_rng(0).random((20, 30)) > 0.5
    for invert in ("minisblack", "miniswhite"):
        tifffile.imwrite(tmp_path / "bits.tif", bits, photometric=invert)
        with open_source(tmp_path / "bits.tif") as source:
            got = source.read(Span(0, 20), Span(0, 30))
        assert got.shape == (20, 30, 1)
        assert (got[..., 0] == np.where(bits ^ (invert == "miniswhite"), 255, 0)).all()


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [
        (".png", 1, np.uint8), (".png", 3, np.uint8), (".png", 4, np.uint8), (".png", 1, np.uint16),
        (".png", 3, np.uint16), (".png", 4, np.uint16), (".webp", 3, np.uint8), (".webp", 4, np.uint8),
        (".bmp", 1, np.uint8), (".bmp", 3, np.uint8),
    ],
)  # fmt: skip
def test_lossless_formats_equal_the_array(
    engine: Engine, tmp_path: Path, suffix: str, channels: int, dtype: type
) -> None:
    image = image_of(channels, dtype)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    source = tmp_path / f"a{suffix}"
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    cv2.imwrite(str(source), image[..., order], options)
    engine.upscale_file(source, tmp_path / f"b{suffix}")
    expected = engine.upscale(image)
    if dtype is np.uint8:
        back = np.asarray(Image.open(tmp_path / f"b{suffix}"))
        back = back.reshape(expected.shape)
        assert (back == expected).all()
    else:  # Pillow has no 16-bit colour
        back = cv2.imread(str(tmp_path / f"b{suffix}"), cv2.IMREAD_UNCHANGED).reshape(expected.shape)
        assert (back[..., order] == expected).all()


def test_gray_with_alpha_stays_gray_with_alpha(engine: Engine, tmp_path: Path) -> None:
    planes = [Image.fromarray(quantise(drawing(30, 30, 1, k)[..., 0], np.uint8)) for k in (0, 1)]
    la = Image.merge("LA", planes)
    la.save(tmp_path / "a.png")
    engine.upscale_file(tmp_path / "a.png", tmp_path / "b.png")
    back = np.asarray(Image.open(tmp_path / "b.png"))
    expected = engine.upscale(np.asarray(la))
    assert (back == expected).all()


def test_jpeg_is_close_to_the_array(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=95)
    expected = engine.upscale(np.asarray(Image.open(tmp_path / "a.jpg"))).astype(int)
    engine.upscale_file(tmp_path / "a.jpg", tmp_path / "b.jpg")
    back = np.asarray(Image.open(tmp_path / "b.jpg")).astype(int)
    assert back.shape == (90, 120, 3)
    assert np.abs(back - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_applied_once(
    engine: Engine, tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a drawing"
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", exif=exif.tobytes(), quality=95)
    engine.upscale_file(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    from PIL import ImageOps

    with Image.open(tmp_path / f"a{suffix}") as a, Image.open(tmp_path / f"b{suffix}") as b:
        upright = ImageOps.exif_transpose(a)
        assert b.getexif().get(0x0112) == 1
        assert b.getexif().get(0x010E) == "a drawing"
        assert b.size == (upright.width * 2, upright.height * 2)
        difference = np.abs(
            np.asarray(b.convert("RGB").resize(upright.size, Image.Resampling.BOX)).astype(int)
            - np.asarray(upright.convert("RGB"))
        )
    assert difference.mean() < 8


@pytest.mark.parametrize(
    "suffixes", [(".png", ".png"), (".jpg", ".webp"), (".png", ".tif"), (".tif", ".tif")]
)
def test_the_colour_profile_is_kept(engine: Engine, tmp_path: Path, suffixes: tuple[str, str]) -> None:
    a, b = (tmp_path / f"{n}{s}" for n, s in zip("ab", suffixes, strict=True))
    Image.fromarray(RGB).save(a, icc_profile=SRGB)
    engine.upscale_file(a, b)
    with Image.open(b) as back:
        assert back.info["icc_profile"] == SRGB


def test_the_content_decides_not_the_name(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "named.jpg")
    engine.upscale_file(tmp_path / "named.jpg", tmp_path / "out.png")
    assert (np.asarray(Image.open(tmp_path / "out.png")) == engine.upscale(RGB)).all()


def test_a_camera_jpeg_with_data_after_the_end_is_whole(engine: Engine, tmp_path: Path) -> None:
    exif = Image.Exif()
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data + b"motion image" * 9)
    engine.upscale_file(tmp_path / "a.jpg", tmp_path / "b.jpg")


@pytest.mark.parametrize(
    ("name", "image", "rule"),
    [
        ("b.jpg", image_of(4, np.uint8), "JPEG holds no alpha"),
        ("b.jpg", image_of(3, np.uint16), "JPEG holds uint8 samples, got uint16"),
        ("b.png", image_of(3, np.float32), "PNG holds uint8 or uint16 samples, got float32"),
        ("b.png", image_of(6, np.uint8), "PNG holds gray or RGB, got 6 bands"),
        ("b.bmp", image_of(4, np.uint8), "BMP holds no alpha"),
        ("b.webp", np.zeros((2, 8192, 1), np.uint8), "WebP sides are at most 16383 pixels, got 16384 x 4"),
        ("b.jpg", np.zeros((2, 32768, 1), np.uint8), "JPEG sides are at most 65535 pixels, got 65536 x 4"),
    ],
)
def test_a_format_that_cannot_hold_the_result_is_refused_before_the_work(
    engine: Engine, tmp_path: Path, name: str, image: np.ndarray, rule: str
) -> None:
    kinds = {"photometric": "RGB"} if image.shape[2] in (3, 4) else {}
    if image.shape[2] == 4:
        kinds["alpha"] = "YES"
    source = write_tiff(tmp_path / "a.tif", image, **kinds)
    worked = []
    with pytest.raises(OutputError, match=rule):
        engine.upscale_file(source, tmp_path / name, progress=lambda *p: worked.append(p))
    assert not worked
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_a_georeference_that_would_be_lost_is_said(engine: Engine, tmp_path: Path) -> None:
    source = write_tiff(
        tmp_path / "a.tif", RGB, photometric="RGB", crs="EPSG:4326", transform=Affine.scale(2)
    )
    with pytest.warns(RuntimeWarning, match="PNG does not keep the georeference"):
        engine.upscale_file(source, tmp_path / "b.png")


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_animations_are_refused_not_cut_to_a_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.roll(RGB, 9 * k, axis=1)) for k in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(ImageError, match="only images of one frame are supported"):
        open_source(tmp_path / f"a{suffix}")
    frames[0].save(tmp_path / f"b{suffix}", lossless=True, icc_profile=SRGB)
    open_source(tmp_path / f"b{suffix}").close()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_one_pixel(engine: Engine, tmp_path: Path, channels: int) -> None:
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    for suffix in (".png", ".tif"):
        Image.new(mode, (1, 1), 200 if channels == 1 else (200,) * channels).save(tmp_path / f"a{suffix}")
        engine.upscale_file(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", overwrite=True)
        with Image.open(tmp_path / f"b{suffix}") as image:
            assert image.size == (2, 2)
            assert abs(int(np.asarray(image).reshape(4, -1)[0, 0]) - 200) <= 3


def test_exif_that_lies_is_taken_as_upright() -> None:
    from srcnn_rt.io.metadata import exif

    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    good = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry
    assert exif.orientation(good) == 6
    assert exif.orientation(exif.upright(good)) == 1
    for bad in (b"", b"II*\0", good[:-3], b"XX" + good[2:], good.replace(b"\x06", b"\x63")):
        assert exif.orientation(bad) == 1
    assert exif.upright(None) is None
    assert exif.upright(b"junk") == b"junk"


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_compression_of_a_tiff_reads_back(tmp_path: Path, compress: str, dtype: type) -> None:
    image = drawing(70, 90, 3).astype(dtype) if dtype is np.float32 else quantise(drawing(70, 90, 3), dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    with Engine("bicubic-x2", provider="cpu") as e:
        e.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif", compress=compress)
        expected = e.upscale(image)
    assert (tifffile.imread(tmp_path / "b.tif") == expected).all()
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        found = file.pages[0].compression.name.lower()
    assert found == {"deflate": "adobe_deflate"}.get(compress, compress)


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    with (
        Engine("bicubic-x2", provider="cpu") as e,
        pytest.raises(ArgumentError, match="one of deflate, zstd, lzw, none"),
    ):
        e.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif", compress="jpeg")
