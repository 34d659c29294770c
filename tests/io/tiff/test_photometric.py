"""TIFFs of all kinds: the result is the decoded image, enlarged. Other libraries read it back."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.enums import ColorInterp

from srcnn_rt import ArgumentError, Engine, ImageError
from srcnn_rt.io.registry import open_source, page_count
from srcnn_rt.io.tiff import reader, writer
from srcnn_rt.tiling.geometry import Span
from tests.helpers.tiffs import by_gdal, by_pillow, by_tifffile, image_of, reads_back, write

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

GRAY, RGB, RGBA = (image_of(c) for c in (1, 3, 4))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("bicubic-x2", provider="cpu", tile=32, threads=2)


def doubled(
    engine: Engine,
    source: Path,
    expected: np.ndarray,
    *,
    bands: bool = False,
    alpha: bool | None = None,
    top: int | None = None,
    **how: object,
) -> Path:
    """Upscale a file, check the result against that of its decoded array up to `top`, return its path."""
    target = source.with_name("out.tif")
    engine.upscale_file(source, target, overwrite=True, **how)
    made = engine.upscale(expected, bands=bands, alpha=alpha)
    assert np.array_equal(by_tifffile(target), made if top is None else np.minimum(made, top))
    return target


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_every_compression_is_read_by_everybody(
    engine: Engine, tmp_path: Path, compress: str, dtype: type, channels: int
) -> None:
    image = image_of(channels, dtype, 300, 290)
    kinds = {"photometric": "RGB"} if channels in (3, 4) else {}
    kinds |= {"alpha": "YES"} if channels == 4 else {}
    for extra in ({}, {"interleave": "band"}):
        source = write(tmp_path / "a.tif", image, **kinds, **extra)
        target = doubled(engine, source, image, compress=compress)
        # Pillow supports 32-bit gray, but only 8-bit color.
        able = channels == 1 or (dtype is np.uint8 and channels < 5)
        reads_back(target, engine.upscale(image), pillow=able)
        with tifffile.TiffFile(target) as file:
            assert file.pages[0].predictor == (1 if compress == "none" else 3 if dtype is np.float32 else 2)


@pytest.mark.parametrize("channels", range(1, 13))
def test_one_to_twelve_bands(engine: Engine, tmp_path: Path, channels: int) -> None:
    image = image_of(channels, np.uint16)
    source = write(tmp_path / "a.tif", image, photometric="MINISBLACK", interleave="pixel")
    target = doubled(engine, source, image, bands=True)
    reads_back(target, engine.upscale(image, bands=True), pillow=channels == 1)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "lzw"},
        {"compress": "packbits"},
        {"compress": "zstd", "predictor": 2},
        {"compress": "deflate", "predictor": 2, "tiled": True, "blockxsize": 16, "blockysize": 32},
        {"compress": "lzma"},
        {"compress": "lerc"},
        {"compress": "webp", "webp_lossless": True},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG", "interleave": "band"},
        {"ENDIANNESS": "BIG", "BIGTIFF": "YES", "tiled": True, "blockxsize": 16, "blockysize": 16},
    ],
    ids=str,
)
def test_sources_of_every_storage(engine: Engine, tmp_path: Path, options: dict[str, object]) -> None:
    doubled(engine, write(tmp_path / "a.tif", RGB, photometric="RGB", **options), RGB)


def test_lossy_sources_are_what_their_decoder_says(engine: Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", RGB, photometric="YCBCR", compress="JPEG")
    with tifffile.TiffFile(source) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
    decoded = Image.open(source).convert("RGB")
    with rasterio.open(source) as file:
        seen = file.read().transpose(1, 2, 0)
    assert np.abs(np.asarray(decoded).astype(int) - seen).mean() < 2  # decoders differ in chroma
    target = doubled(engine, source, seen)
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
    Image.fromarray(RGB).convert("YCbCr").save(tmp_path / "y.tif")
    engine.upscale_file(tmp_path / "y.tif", target, overwrite=True)
    assert np.abs(by_tifffile(target).astype(int) - engine.upscale(RGB)).max() <= 4


def test_a_codec_that_gdal_lacks_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, compression="png")
    with pytest.raises(ImageError, match=r"a\.tif: cannot be read: .*missing codec") as caught:
        open_source(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


def test_a_cog_is_a_source(engine: Engine, tmp_path: Path) -> None:
    image = image_of(3, np.uint8, 600, 700)
    from rasterio.shutil import copy

    write(tmp_path / "plain.tif", image, photometric="RGB")
    copy(tmp_path / "plain.tif", tmp_path / "a.tif", driver="COG", blocksize=256)
    target = doubled(engine, tmp_path / "a.tif", image)
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(target) as b:
        assert a.overviews(1)
        assert b.overviews(1)
        assert "LAYOUT" not in b.tags(ns="IMAGE_STRUCTURE")
    with rasterio.open(target, overview_level=0) as small:  # overviews are computed from the result
        average = engine.upscale(image).reshape(600, 2, 700, 2, 3).mean((1, 3))
        assert np.abs(small.read().transpose(1, 2, 0) - average).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_results_that_may_be_large_are_bigtiff(
    engine: Engine, tmp_path: Path, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(3, dtype, 300, 290)
    source = write(tmp_path / "a.tif", image, photometric="RGB")
    size = 1024 * 1024 * 3 * image.itemsize  # 2 x 2 tiles of 512 pixels for 600 x 580 pixels
    monkeypatch.setattr(writer, "_MAX_CLASSIC_BYTES", size - 1)
    target = doubled(engine, source, image)
    assert target.read_bytes()[:4] == b"II+\0"
    reads_back(target, engine.upscale(image), pillow=dtype is np.uint8)
    monkeypatch.setattr(writer, "_MAX_CLASSIC_BYTES", size)
    assert doubled(engine, source, image).read_bytes()[:4] == b"II*\0"


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("white", [0, 1])
def test_fewer_than_eight_bits_fill_eight(engine: Engine, tmp_path: Path, bits: int, white: int) -> None:
    """White stays white: values are stretched to 0 … 255 and inverted once where white is zero."""
    stored = GRAY >> (8 - bits)
    color = ("MINISWHITE", "MINISBLACK")[white]
    source = write(tmp_path / "a.tif", stored, NBITS=bits, photometric=color)
    meant = np.rint(stored * (255 / (2**bits - 1))).astype(np.uint8)
    target = doubled(engine, source, meant if white else 255 - meant)
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK


def test_four_bits_of_colour(engine: Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", RGB >> 4, NBITS=4, photometric="RGB")
    doubled(engine, source, (RGB >> 4) * np.uint8(17))


def test_twelve_bits_stay_the_numbers_they_are(engine: Engine, tmp_path: Path) -> None:
    stored = image_of(1, np.uint16) >> 4
    doubled(engine, write(tmp_path / "a.tif", stored, NBITS=12), stored, top=4095)
    source = write(tmp_path / "b.tif", stored, NBITS=12, photometric="MINISWHITE")
    doubled(engine, source, 4095 - stored, top=4095)


@pytest.mark.parametrize("writer", ["tifffile", "gdal", "gdal with nodata"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_inverted_once(engine: Engine, tmp_path: Path, dtype: type, writer: str) -> None:
    stored = image_of(1, dtype)
    stored[stored == 3] = 4
    if writer == "tifffile":
        tifffile.imwrite(tmp_path / "a.tif", stored[:, :, 0], photometric="miniswhite")
    else:
        nodata = {"nodata": 3} if "nodata" in writer else {}
        write(tmp_path / "a.tif", stored, photometric="MINISWHITE", **nodata)
    maximum = np.iinfo(dtype).max
    target = tmp_path / "b.tif"
    engine.upscale_file(tmp_path / "a.tif", target)
    expected = engine.upscale(maximum - stored)
    if "nodata" in writer:
        expected[expected == maximum - 3] += 1  # valid samples may not have the nodata value
        with rasterio.open(target) as file:
            assert file.nodata == maximum - 3
    assert (by_tifffile(target) == expected).all()
    if writer == "tifffile" and dtype is np.uint8:  # as Pillow displays source and result
        seen = np.asarray(Image.open(tmp_path / "a.tif").convert("L"))
        assert (engine.upscale(seen) == np.asarray(Image.open(target))).all()


def test_fax_is_black_on_white(engine: Engine, tmp_path: Path) -> None:
    page = GRAY[:, :, 0] > 100
    for compression in ("group3", "group4", "tiff_ccitt"):
        Image.fromarray(page).save(tmp_path / "a.tif", compression=compression)
        doubled(engine, tmp_path / "a.tif", np.where(page, 255, 0).astype(np.uint8)[:, :, np.newaxis])


def test_floats_with_white_as_zero_keep_their_values_and_say_so(engine: Engine, tmp_path: Path) -> None:
    image = image_of(1, np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image[:, :, 0], photometric="miniswhite")
    target = doubled(engine, tmp_path / "a.tif", image)
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE


def test_palettes_become_what_they_look_like(engine: Engine, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "a.tif")
    doubled(engine, tmp_path / "a.tif", np.asarray(image.convert("RGB")))
    grays = np.repeat(np.arange(256, dtype=np.uint16)[np.newaxis] * 257, 3, axis=0)[:, ::-1]
    tifffile.imwrite(tmp_path / "a.tif", GRAY[:, :, 0], photometric="palette", colormap=grays)
    doubled(engine, tmp_path / "a.tif", 255 - GRAY)
    colors = np.random.default_rng(0).integers(0, 256, (3, 65536)).astype(np.uint16) * 257
    index = image_of(1, np.uint16)[:, :, 0]
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colors)
    doubled(engine, tmp_path / "a.tif", (colors.T[index] // 257).astype(np.uint8))


def test_a_palettes_nodata_is_transparent(engine: Engine, tmp_path: Path) -> None:
    index = (GRAY // 64).astype(np.uint8)
    colors = {0: (9, 9, 9), 1: (200, 0, 0), 2: (0, 200, 0), 3: (0, 0, 200)}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=45, width=60, count=1, dtype="uint8", nodata=0
    ) as file:
        file.write(index[:, :, 0], 1)
        file.write_colormap(1, colors)
    table = np.array([(*colors[k], 255 * (k > 0)) for k in range(4)], np.uint8)
    target = doubled(engine, tmp_path / "a.tif", table[index[:, :, 0]])
    assert by_pillow(target).shape == (90, 120, 4)
    assert (by_tifffile(target)[..., 3] == 0).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [2, 4])
def test_premultiplied_alpha_is_divided_out(
    engine: Engine, tmp_path: Path, dtype: type, channels: int
) -> None:
    straight = image_of(channels, dtype)
    maximum = 1 if dtype is np.float32 else np.iinfo(dtype).max
    color, alpha = straight[..., :-1].astype(float), straight[..., -1:] / maximum
    stored = np.concatenate([color * alpha, straight[..., -1:]], axis=2)
    stored = (stored if dtype is np.float32 else np.rint(stored)).astype(dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb" if channels == 4 else "minisblack",
        extrasamples=["assocalpha"], planarconfig="contig",
    )  # fmt: skip
    with open_source(tmp_path / "a.tif") as source:
        assert source.info.layout.alpha
        seen = source.read(Span(0, 45), Span(0, 60))
    visible = straight[..., -1] > maximum / 8
    allowed = 1e-6 if dtype is np.float32 else 5
    assert np.abs(seen.astype(float) - straight)[visible].max() <= allowed
    target = doubled(engine, tmp_path / "a.tif", seen)
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].extrasamples == (2,)  # no longer premultiplied, and declared so


def test_four_bands_are_rgba_only_where_the_file_says_so(engine: Engine, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGBA, photometric="rgb", extrasamples=["unspecified"])
    target = doubled(engine, tmp_path / "a.tif", RGBA, bands=True)
    with tifffile.TiffFile(target) as file, rasterio.open(target) as again:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
        assert file.pages[0].extrasamples == (0,)
        assert again.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def color_tiff(path: Path, kind: str, image: np.ndarray) -> np.ndarray:
    """Write a color space other than RGB; return the stored samples."""
    if kind == "cmyk jpeg":
        Image.fromarray(image, "CMYK").save(path, compression="jpeg", quality=95)
        return np.asarray(Image.open(path))
    photometric = {"cmyk": "separated", "cmyka": "separated"}.get(kind, kind)
    extra = {"extrasamples": ["unassalpha"]} if kind == "cmyka" else {}
    tifffile.imwrite(path, image, photometric=photometric, planarconfig="contig", **extra)
    return image


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("kind", ["cmyk", "cmyk jpeg", "cmyka", "icclab", "itulab"])
@pytest.mark.parametrize("cog", [False, True])
def test_other_colours_are_kept_as_they_are(engine: Engine, tmp_path: Path, kind: str, cog: bool) -> None:
    image = image_of({"cmyk": 4, "cmyk jpeg": 4, "cmyka": 5}.get(kind, 3), np.uint8, 300, 310)
    stored = color_tiff(tmp_path / "a.tif", kind, image)
    alpha = kind == "cmyka"
    target = doubled(engine, tmp_path / "a.tif", stored, bands=True, alpha=alpha, cog=cog)
    made = engine.upscale(stored, bands=True, alpha=alpha)
    reads_back(target, made, pillow=kind.startswith("cmyk j") or kind == "cmyk")
    with tifffile.TiffFile(tmp_path / "a.tif") as a, tifffile.TiffFile(target) as b:
        for page in [b.pages[0], b.pages[-1]]:
            assert page.photometric == a.pages[0].photometric
            assert page.extrasamples == a.pages[0].extrasamples
            assert page.samplesperpixel == image.shape[2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_signs_of_cielab_are_seen(engine: Engine, tmp_path: Path, dtype: type) -> None:
    """a* and b* are signed: -1 is stored as 255 and is next to 0."""
    signed = {np.uint8: np.int8, np.uint16: np.int16}[dtype]
    y, x = np.mgrid[0:40, 0:50]
    chroma = np.rint(20 * np.sin(x / 9) + y / 9 - 2).astype(signed)
    light = image_of(1, dtype, 40, 50)[..., 0]
    stored = np.stack([light, chroma.view(dtype), -chroma.view(dtype)], axis=2)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="cielab")
    engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    half = np.iinfo(signed).max + 1
    shifted = stored.copy()
    shifted[..., 1:] = (stored[..., 1:].view(signed).astype(int) + half).astype(dtype)
    expected = engine.upscale(shifted, bands=True).astype(int)
    got = by_tifffile(tmp_path / "b.tif")
    assert (got[..., 0] == expected[..., 0]).all()
    assert (got[..., 1:].view(signed) == expected[..., 1:] - half).all()
    assert (
        np.abs(got[..., 1:].view(signed).astype(int)).max() < 40
    )  # ignoring the sign yields values near 127
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.CIELAB


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("storage", ["strips", "one strip", "tiles", "spooled"])
def test_orientation_is_applied_once(
    engine: Engine, tmp_path: Path, orientation: int, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"tile": (16, 32)} if storage == "tiles" else {"rowsperstrip": 45 if "one" in storage else 4}
    if storage == "spooled":  # larger than the limits of memory and of one band
        monkeypatch.setattr("srcnn_rt.io.tiff.orientation.IN_MEMORY", 1000)
        monkeypatch.setattr("srcnn_rt.io.tiff.orientation._BAND_BYTES", 2000)
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", extratags=tag, metadata=None, **how)
    upright = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1],
        5: RGB.swapaxes(0, 1), 6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).swapaxes(0, 1), 8: np.rot90(RGB),
    }[orientation]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from PIL import ImageOps

        assert (np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.tif"))) == upright).all()
    target = doubled(engine, tmp_path / "a.tif", np.ascontiguousarray(upright))
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].tags.get(274) is None or file.pages[0].tags[274].value == 1


def test_a_georeferenced_image_is_not_turned(engine: Engine, tmp_path: Path) -> None:
    """The transform refers to stored rows and columns. The orientation field is kept."""
    tag = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", extratags=tag, metadata=None)
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n105\n195\n")
    target = doubled(engine, tmp_path / "a.tif", RGB)
    with rasterio.open(target) as file:
        assert file.transform.to_gdal() == (100, 5, 0, 200, 0, -5)
    with tifffile.TiffFile(target) as file:
        assert file.pages[0].tags[274].value == 6


def test_a_rotated_image_is_decoded_once(tmp_path: Path) -> None:
    image = image_of(1, np.uint8, 400, 300)
    tag = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", image[..., 0], rowsperstrip=8, extratags=tag, compression="lzw")
    with open_source(tmp_path / "a.tif") as source:
        decoded: list[int] = []
        decode = source._decode
        source._decode = lambda rows, columns: decoded.append(rows.size) or decode(rows, columns)
        upright = np.rot90(image, -1)
        for y in range(0, 300, 30):
            part = source.read(Span(y, y + 30), Span(10, 390))
            assert (part == upright[y : y + 30, 10:390]).all()
        assert sum(decoded) == 400


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_file_of_one_strip_is_decoded_forward_and_about_once(
    tmp_path: Path, channels: int, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(channels, np.uint8, 2500, 90)
    tifffile.imwrite(
        tmp_path / "a.tif", image.squeeze(), rowsperstrip=2500, compression=compression,
        photometric="rgb" if channels == 3 else "minisblack",
    )  # fmt: skip
    asked: list[Span] = []
    decode = reader.RasterSource._decode

    def spy(self: reader.RasterSource, rows: Span, columns: Span) -> np.ndarray:
        asked.append(rows)
        assert columns == Span(0, 90)
        return decode(self, rows, columns)

    monkeypatch.setattr(reader.RasterSource, "_decode", spy)
    with Engine("bicubic-x2", provider="cpu", tile=64) as engine:
        doubled(engine, tmp_path / "a.tif", image)
    assert len(asked) > 3
    assert all(a.stop == b.start for a, b in itertools.pairwise(asked))
    assert sum(span.size for span in asked) == 2500


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_one_large_strip_needs_neither_its_memory_nor_its_time_twice(
    tmp_path: Path, channels: int, compression: str | None
) -> None:
    """6,000 x 6,000 in one strip takes the memory of strips of 16 rows. The CLI sets GDAL_CACHEMAX."""
    import subprocess
    import sys

    shape = (6000, 6000, channels)
    image = (np.arange(np.prod(shape), dtype=np.uint32) // 7 % 251).astype(np.uint8).reshape(shape)
    code = (
        "import sys\nfrom pathlib import Path\nfrom srcnn_rt.io.registry import open_source\n"
        "from srcnn_rt.io.protocols import StripCache\nfrom srcnn_rt.tiling.geometry import Span\n"
        "with open_source(Path(sys.argv[1])) as s:\n"
        "    c = StripCache(s)\n"
        "    for y in range(0, 6000, 250):\n"
        "        c.read(Span(max(0, y - 9), min(6000, y + 259)), Span(0, 6000))\n"
        "print([l for l in open('/proc/self/status') if l.startswith('VmHWM')][0].split()[1])\n"
    )
    peaks = []
    for rows in (16, 6000):
        tifffile.imwrite(
            tmp_path / "a.tif", image.squeeze(), rowsperstrip=rows, compression=compression,
            photometric="rgb" if channels == 3 else "minisblack",
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.tif")],
            capture_output=True, text=True, check=True, timeout=60,
            env={"GDAL_CACHEMAX": "32", "PATH": ""},
        )  # fmt: skip
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 40, peaks


# Pages


def three_pages(path: Path) -> list[np.ndarray]:
    """Pages of different size, type and layout, with overviews and a thumbnail between them."""
    pages = [image_of(3), image_of(1, np.uint16, 33, 70), image_of(5, np.float32, 20, 25)]
    with tifffile.TiffWriter(path) as file:
        file.write(pages[0], photometric="rgb", metadata=None, tile=(16, 16))
        file.write(pages[0][::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
        file.write(pages[1][..., 0], photometric="minisblack", metadata=None, compression="deflate")
        file.write(pages[1][::2, ::2, 0], photometric="minisblack", metadata=None, subfiletype=1)
        file.write(
            np.moveaxis(pages[2], 2, 0), photometric="minisblack", planarconfig="separate", metadata=None
        )
    return pages


def test_pages_of_any_size_and_type(engine: Engine, tmp_path: Path) -> None:
    pages = three_pages(tmp_path / "a.tif")
    assert page_count(tmp_path / "a.tif") == 3
    assert engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif").pages == 3
    assert page_count(tmp_path / "b.tif") == 3
    for k, page in enumerate(pages):
        expected = engine.upscale(page)
        assert np.array_equal(by_tifffile(tmp_path / "b.tif", k), expected)
        assert np.array_equal(by_gdal(f"GTIFF_DIR:{k + 1}:{tmp_path / 'b.tif'}"), expected)
        if k < 2:
            assert np.array_equal(by_pillow(tmp_path / "b.tif", k), expected)
        target = doubled(engine, tmp_path / "a.tif", page, page=k + 1)
        assert page_count(target) == 1
        with rasterio.open(target) as file:  # the result has the structures of the source
            assert bool(file.overviews(1)) == (k < 2)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert [p.subfiletype for p in file.pages] == [2, 2, 2]
    for page in (0, 4):
        with pytest.raises(ArgumentError, match=f"has 3 pages, so there is no page {page}"):
            engine.upscale_file(tmp_path / "a.tif", tmp_path / "c.tif", page=page)


def test_pages_keep_their_masks(engine: Engine, tmp_path: Path) -> None:
    pages = [image_of(3, seed=k) for k in range(3)]
    masks = [np.zeros((45, 60), bool) for _ in pages]
    masks[0][5:30, 7:40] = masks[2][20:40, 10:50] = True
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for k, (page, mask) in enumerate(zip(pages, masks, strict=True)):
            file.write(page, photometric="rgb", metadata=None, subfiletype=2)
            if k != 1:
                file.write(
                    mask, photometric=4, metadata=None, subfiletype=6, bitspersample=1, compression="deflate"
                )
    engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    assert page_count(tmp_path / "b.tif") == 3
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        kinds = [int(p.subfiletype) for p in file.pages]
        assert kinds == [2, 6, 2, 2, 6]
        for at, mask in ((1, masks[0]), (4, masks[2])):
            assert (file.pages[at].asarray() == mask.repeat(2, 0).repeat(2, 1)).all()
    again = Engine("bicubic-x2", provider="cpu", tile=32)
    for k in range(3):  # the result can be read page by page
        with open_source(tmp_path / "b.tif", k + 1) as source:
            assert source.info.masked == (k != 1)
            if source.info.masked:
                part = source.read_mask(Span(3, 80), Span(11, 120))
                assert (part == masks[k].repeat(2, 0).repeat(2, 1)[3:80, 11:120]).all()
    again.close()


def test_a_thumbnail_in_front_is_no_image(engine: Engine, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB[::4, ::4], photometric="rgb", metadata=None, subfiletype=1)
        file.write(RGB, photometric="rgb", metadata=None)
    assert page_count(tmp_path / "a.tif") == 1
    doubled(engine, tmp_path / "a.tif", RGB)


def test_many_pages_are_opened_in_time(tmp_path: Path) -> None:
    """Each page is opened by its offset instead of walking the chain of directories."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for k in range(2000):
            file.write(np.full((4, 4), k % 256, np.uint8), metadata=None, contiguous=False)
    assert page_count(tmp_path / "a.tif") == 2000
    reader._outline_of.cache_clear()
    for page in (1, 1000, 2000):
        with open_source(tmp_path / "a.tif", page) as source:
            assert source.read(Span(0, 4), Span(0, 4))[0, 0, 0] == (page - 1) % 256
    assert reader._outline_of.cache_info().misses == 1


@pytest.mark.parametrize(
    "name", ["a#b?.tif", "x!y z.tif", "p%20q.tif", "ü.tif", "c:d.tif", "GTIFF_DIR:1:a.tif"]
)
def test_odd_names(engine: Engine, tmp_path: Path, name: str) -> None:
    three_pages(tmp_path / name)
    engine.upscale_file(tmp_path / name, tmp_path / f"out {name}", page=2)
    assert np.array_equal(
        by_tifffile(tmp_path / f"out {name}"), engine.upscale(image_of(1, np.uint16, 33, 70))
    )
