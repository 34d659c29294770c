"""Decoding and encoding of samples in every format, and refusals of what a format cannot hold."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from srcnn_rt import ImageError, OutputError
from srcnn_rt.image.info import ImageInfo, Layout, Metadata
from srcnn_rt.io.codecs import bmp
from srcnn_rt.io.codecs import whole_file as coded
from tests.conftest import drawing
from tests.helpers.coding import EVERY, SRGB, chunk, decoded, enlarge, jxl_file, make, pixels, read, seen
from tests.helpers.reference import quantise

RGB = quantise(drawing(45, 60), np.uint8)


def image(channels: int, dtype: type = np.uint8, h: int = 45, w: int = 60) -> np.ndarray:
    return quantise(drawing(h, w, channels), dtype)


def write(
    path: Path, array: np.ndarray, quality: int | None = None, metadata: Metadata | None = None
) -> None:
    """Write an image by the package."""
    h, w, c = array.shape
    info = ImageInfo((h, w), Layout.of(c), array.dtype, metadata or Metadata())
    format_ = coded.FORMATS[path.suffix]
    coded.check_coded(path, format_, info, quality)
    path.write_bytes(coded.encode(array, format_, info, 1, quality, path))


KINDS = [
    *((s, c, d) for s in (".png", ".jxl") for c in (1, 2, 3, 4) for d in (np.uint8, np.uint16)),
    *((s, c, np.uint8) for s in (".webp", ".avif") for c in (1, 2, 3, 4)),
    *((".bmp", c, np.uint8) for c in (1, 3)),
]


@pytest.mark.parametrize(("suffix", "channels", "dtype"), KINDS)
def test_lossless_by_default(tmp_path: Path, suffix: str, channels: int, dtype: type) -> None:
    """Every sample type and channel count of a format is read back equal, by another reader and by ours."""
    array = image(channels, dtype)
    if channels in (2, 4):
        array[:9, :, -1] = 0  # transparent parts have a color too
    write(tmp_path / f"a{suffix}", array)
    expected = array
    if suffix == ".webp" or (suffix == ".avif" and channels == 2):  # which have no gray, or none with alpha
        expected = array[..., {1: [0, 0, 0], 2: [0, 0, 0, 1]}.get(channels, list(range(channels)))]
    if suffix == ".png" and dtype is np.uint16:  # Pillow has no color of 16 bits
        got = imagecodecs.png_decode((tmp_path / "a.png").read_bytes())
    else:
        got = decoded(tmp_path / f"a{suffix}")
    assert got.dtype == dtype
    assert (got.reshape(expected.shape) == expected).all()
    mine = pixels(read(tmp_path / f"a{suffix}"))
    assert mine.dtype == dtype
    assert (mine == expected).all()


@pytest.mark.skipif(shutil.which("djxl") is None, reason="djxl, another reader of JPEG XL, is missing")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl_by_djxl(tmp_path: Path, channels: int, dtype: type) -> None:
    array = image(channels, dtype)
    write(tmp_path / "a.jxl", array)
    subprocess.run(["djxl", tmp_path / "a.jxl", tmp_path / "b.png"], check=True, capture_output=True)
    got = imagecodecs.png_decode((tmp_path / "b.png").read_bytes())
    assert (got.reshape(array.shape) == array).all()


@pytest.mark.parametrize("suffix", EVERY)
def test_small_and_odd_sizes(tmp_path: Path, suffix: str) -> None:
    for h, w in ((1, 1), (1, 17), (33, 2), (3, 5)):
        array = image(3, h=h, w=w)
        write(tmp_path / f"a{suffix}", array)
        got = decoded(tmp_path / f"a{suffix}")
        assert got.shape == (h, w, 3)
        assert np.abs(got.astype(int) - array).max() <= (40 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", EVERY)
def test_arrays_of_any_strides_and_in_files(tmp_path: Path, suffix: str) -> None:
    array = np.memmap(tmp_path / "samples", np.uint8, "w+", shape=(20, 30, 3))
    array[:] = image(3, h=20, w=30)
    write(tmp_path / f"a{suffix}", array)
    write(tmp_path / f"b{suffix}", np.asfortranarray(array)[::-1])
    a, b = decoded(tmp_path / f"a{suffix}").astype(int), decoded(tmp_path / f"b{suffix}")
    assert np.abs(a - b[::-1]).max() <= (40 if suffix == ".jpg" else 0)


def test_jpeg_keeps_full_chroma(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", RGB)
    with Image.open(tmp_path / "a.jpg") as back:
        assert [layer[1:3] for layer in back.layer] == [(1, 1)] * 3
        assert np.abs(np.asarray(back).astype(int) - RGB).mean() < 4


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".jxl"])
def test_quality(tmp_path: Path, suffix: str) -> None:
    """A lower quality means fewer bytes and a larger error."""
    smooth = np.asarray(Image.fromarray(RGB).resize((240, 180), Image.Resampling.BICUBIC))
    sizes, errors = [], []
    for quality in (10, 50, 90, 100):
        write(tmp_path / f"a{suffix}", smooth, quality)
        sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        errors.append(np.abs(decoded(tmp_path / f"a{suffix}").astype(int) - smooth).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert sizes[0] < sizes[2] / 2
    assert errors[2] < 4
    if suffix in (".avif", ".jxl"):
        assert errors[3] == 0


@pytest.mark.parametrize("suffix", [".jxl", ".avif", ".webp"])
def test_alpha_with_a_quality(tmp_path: Path, suffix: str) -> None:
    array = image(4)
    array[..., 3] = 255 * (np.indices((45, 60)).sum(0) > 50)
    write(tmp_path / f"a{suffix}", array, 80, Metadata(icc=SRGB))
    got = decoded(tmp_path / f"a{suffix}")
    assert got.shape == array.shape
    assert np.abs(got[..., 3].astype(int) - array[..., 3]).mean() < 3
    assert read(tmp_path / f"a{suffix}").info.metadata.icc is not None or suffix == ".jxl"


def test_deep_avif(tmp_path: Path) -> None:
    """10 and 12 bits are read as 16; 16 bits are written as 12 if a quality is given."""
    for bits in (10, 12):
        top = 2**bits - 1
        array = np.random.default_rng(0).integers(0, top + 1, (20, 30, 3)).astype(np.uint16)
        (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(array, bitspersample=bits))
        got = pixels(read(tmp_path / "a.avif"))
        assert got.dtype == np.uint16
        assert (got == np.round(array / top * 65535)).all()
    write(tmp_path / "b.avif", got, 100)
    back = imagecodecs.avif_decode((tmp_path / "b.avif").read_bytes())
    assert back.max() <= 4095
    assert (back == array).all()
    with pytest.raises(OutputError, match=r"b\.avif: AVIF holds uint8 samples \(12 bits with a quality\)"):
        write(tmp_path / "b.avif", got)


def test_other_depths_of_jpeg_xl_and_jpeg(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 1024, (20, 30, 3)).astype(np.uint16)
    (tmp_path / "a.jxl").write_bytes(jxl_file(array, bitspersample=10))
    assert (pixels(read(tmp_path / "a.jxl")) == np.round(array / 1023 * 65535)).all()
    real = (array / 1023).astype(np.float32)
    (tmp_path / "a.jxl").write_bytes(jxl_file(real))
    assert (pixels(read(tmp_path / "a.jxl")) == real).all()
    smooth = (drawing(40, 40, 1) * 4095).astype(np.uint16)
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(smooth[..., 0], level=99, bitspersample=12))
    got = pixels(read(tmp_path / "a.jpg"))
    assert got.dtype == np.uint16
    assert np.abs(got / 65535 - smooth / 4095).mean() < 0.01


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_and_fewer_bits_beside_a_profile_in_jpeg_xl(tmp_path: Path, channels: int) -> None:
    """Samples of fewer bits are scaled to 16: no encoder supports both a bit depth and a profile."""
    array = image(channels, np.uint16)
    write(tmp_path / "a.jxl", array, metadata=Metadata(icc=SRGB))
    assert (decoded(tmp_path / "a.jxl") == array).all()
    few = ImageInfo((45, 60), Layout.of(channels), np.dtype(np.uint16), Metadata(icc=SRGB), top=4095)
    coded_ = coded.encode(array >> 4, coded.FORMATS[".jxl"], few, 1, None, tmp_path / "a.jxl")
    (tmp_path / "a.jxl").write_bytes(coded_)
    assert (decoded(tmp_path / "a.jxl") == np.round((array >> 4) / 4095 * 65535)).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["gray", "gray-transparent", "palette", "palette-transparent"])
def test_png_palettes_and_few_bits(tmp_path: Path, kind: str, bits: int) -> None:
    """The file is written chunk by chunk, and the expected colors are computed here."""
    rng = np.random.default_rng(bits)
    n = 2**bits
    index = rng.integers(0, n, (7, 13), dtype=np.uint8)
    padded = np.pad(index, [(0, 0), (0, -13 % (8 // bits))]).reshape(7, -1, 8 // bits)
    rows = (padded.astype(int) << (np.arange(8 // bits)[::-1] * bits)).sum(-1).astype(np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    colors = rng.integers(0, 256, (n, 3), dtype=np.uint8)
    alphas = rng.integers(0, 256, n // 2, dtype=np.uint8)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 13, 7, bits, 3 if "palette" in kind else 0, 0, 0, 0))]
    gray = (index.astype(int) * 255 // (n - 1)).astype(np.uint8)[..., None]
    expected = gray
    if "palette" in kind:
        parts.append(chunk(b"PLTE", colors.tobytes()))
        expected = colors[index]
    if kind == "palette-transparent":
        parts.append(chunk(b"tRNS", alphas.tobytes()))
        table = np.concatenate([alphas, np.full(n - n // 2, 255, np.uint8)])
        expected = np.dstack([expected, table[index]])
    if kind == "gray-transparent":
        parts.append(chunk(b"tRNS", struct.pack(">H", 1)))
        expected = np.dstack([gray, np.where(index == 1, 0, 255).astype(np.uint8)])
    body = b"".join([*parts, chunk(b"IDAT", data), chunk(b"IEND", b"")])
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    got = pixels(read(tmp_path / "a.png"))
    assert got.shape == expected.shape
    assert (got == expected).all()


def test_interlaced_and_16_bit_transparent_png(tmp_path: Path) -> None:
    array = image(3, np.uint16)
    write(tmp_path / "a.png", array)
    data = (tmp_path / "a.png").read_bytes()
    key = array[3, 4]
    data = data[:33] + chunk(b"tRNS", struct.pack(">HHH", *key)) + data[33:]
    (tmp_path / "a.png").write_bytes(data)
    got = pixels(read(tmp_path / "a.png"))
    assert (got[..., :3] == array).all()
    assert (got[..., 3] == np.where((array == key).all(-1), 0, 65535)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_bmp_kinds(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(image(4) if mode == "RGBA" else RGB).convert(mode)
    source.save(tmp_path / "a.bmp")
    expected = np.asarray(source.convert({"1": "L", "P": "RGB"}.get(mode, mode)))
    got = pixels(read(tmp_path / "a.bmp"))
    if mode == "RGBA" and got.shape[2] == 3:  # a fourth byte without a mask for it is no alpha
        expected = expected[..., :3]
    assert (got == np.atleast_3d(expected)).all()


def test_a_bmp_of_run_lengths(tmp_path: Path) -> None:
    """The bottom row has three pixels of index 1 and one of 2, the top row four of 0."""
    rows = bytes([3, 1, 1, 2, 0, 0, 4, 0, 0, 1])
    colors = bytes([0, 0, 0, 0, 10, 20, 30, 0, 40, 50, 60, 0]) + bytes(4 * 253)
    start = 14 + 40 + 1024
    head = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, len(rows), 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(head + colors + rows)
    expected = np.array([[[0, 0, 0]] * 4, [[30, 20, 10]] * 3 + [[60, 50, 40]]])
    assert (pixels(read(tmp_path / "a.bmp")) == expected).all()


def test_a_bmp_with_its_profile(tmp_path: Path) -> None:
    for array in (RGB, RGB[..., :1]):
        icc = SRGB if array.shape[2] == 3 else bytes(imagecodecs.cms_profile("gray", gamma=2.2))
        write(tmp_path / "a.bmp", array, metadata=Metadata(icc=icc, dpi=(300, 200)))
        with Image.open(tmp_path / "a.bmp") as back:
            assert (np.asarray(back.convert("RGB")) == array).all()
            assert back.info["dpi"] == pytest.approx((300, 200), abs=0.02)
        assert (tmp_path / "a.bmp").stat().st_size == int.from_bytes(
            (tmp_path / "a.bmp").read_bytes()[2:6], "little"
        )
        assert read(tmp_path / "a.bmp").info.metadata.icc == icc


# CMYK ------------------------------------------------------------------------------------------


def ink(h: int = 32, w: int = 48) -> Image.Image:
    """Return flat patches, which JPEG keeps: no ink, each ink, and a mixture."""
    patches = [
        (0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (128, 64, 0, 0),
    ]  # fmt: skip
    array = np.repeat(np.array(patches, np.uint8), w // 6, axis=0)[None].repeat(h, 0)
    return Image.frombytes("CMYK", (w, h), array.tobytes())


def centers(array: np.ndarray) -> np.ndarray:
    return array[16, 4::8].astype(int)


def test_cmyk_without_a_profile(tmp_path: Path) -> None:
    ink().save(tmp_path / "a.jpg", quality=100, subsampling=0)
    source = read(tmp_path / "a.jpg")
    c, m, y, k = centers(np.asarray(ink()).reshape(32, 48, 4)).T
    expected = np.stack([(255 - v) * (255 - k) / 255 for v in (c, m, y)], -1)
    assert np.abs(centers(pixels(source)) - expected).max() <= 3
    assert source.info.metadata.icc is None
    assert source.info.layout == Layout.of(3)


def test_cmyk_that_is_not_adobes_is_not_inverted(tmp_path: Path) -> None:
    """libjpeg does not invert samples; only Adobe's segment means that 255 is no ink."""
    samples = np.asarray(ink())
    plain = imagecodecs.jpeg8_encode(samples, level=100, colorspace="CMYK", outcolorspace="CMYK")
    at = plain.index(b"\xff\xee")
    size = int.from_bytes(plain[at + 2 : at + 4], "big") + 2
    (tmp_path / "plain.jpg").write_bytes(plain[:at] + plain[at + size :])
    inverted = imagecodecs.jpeg8_encode(255 - samples, level=100, colorspace="CMYK", outcolorspace="CMYK")
    (tmp_path / "adobe.jpg").write_bytes(inverted)
    ink().save(tmp_path / "a.jpg", quality=100)
    expected = centers(pixels(read(tmp_path / "a.jpg")))
    for name in ("plain", "adobe"):
        assert np.abs(centers(pixels(read(tmp_path / f"{name}.jpg"))) - expected).max() <= 3, name


def test_ycck(tmp_path: Path) -> None:
    """YCCK stores luminance and chroma of inverted inks."""
    samples = 255 - np.asarray(ink())
    data = imagecodecs.jpeg8_encode(samples, level=100, colorspace="CMYK", outcolorspace="YCCK")
    assert data[data.index(b"Adobe") + 11] == 2  # the transform
    (tmp_path / "a.jpg").write_bytes(data)
    ink().save(tmp_path / "b.jpg", quality=100)
    a, b = (centers(pixels(read(tmp_path / f"{n}.jpg"))) for n in "ab")
    assert np.abs(a - b).max() <= 4


def ink_profile() -> bytes:
    """Return a CMYK profile, written by hand: a grid of 2^4 corners to Lab (ICC.1, lut16 of A2B1).

    Of the input class, where LittleCMS takes the black point from all inks together.
    """

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    grid = []
    for c in (0, 1):
        for m in (0, 1):
            for y in (0, 1):
                for k in (0, 1):
                    light = 95 * (1 - 0.45 * c) * (1 - 0.5 * m) * (1 - 0.1 * y) * (1 - 0.85 * k)
                    grid.append((light, (70 * m - 35 * c) * (1 - k), (90 * y - 50 * c) * (1 - k)))
    linear = struct.pack(">HH", 0, 65535)
    head = b"mft2" + bytes(4) + bytes([4, 3, 2, 0])
    head += b"".join(s15(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)) + struct.pack(">HH", 2, 2)
    nodes = b"".join(
        struct.pack(">HHH", round(light * 652.8), round((a + 128) * 256), round((b + 128) * 256))
        for light, a, b in grid
    )
    table = head + linear * 4 + nodes + linear * 3
    text = b"desc" + bytes(4) + struct.pack(">I", 4) + b"ink\0" + bytes(79)
    white = b"XYZ " + bytes(4) + s15(0.9642) + s15(1.0) + s15(0.8249)
    blocks = [(b"desc", text), (b"wtpt", white), (b"A2B0", table), (b"A2B1", table), (b"A2B2", table)]
    blocks += [(b"cprt", b"text" + bytes(4) + b"none\0\0\0\0")]
    at = 128 + 4 + 12 * len(blocks)
    index, body = struct.pack(">I", len(blocks)), b""
    for name, block in blocks:
        padded = block + bytes(-len(block) % 4)
        index += name + struct.pack(">II", at + len(body), len(block))
        body += padded
    head = struct.pack(
        ">I4sI4s4s4s12s4s", at + len(body), b"lcms", 0x02400000, b"scnr", b"CMYK", b"Lab ", bytes(12), b"acsp"
    )
    head += bytes(24) + struct.pack(">I", 1) + s15(0.9642) + s15(1.0) + s15(0.8249)
    return head.ljust(128, b"\0") + index + body


def test_cmyk_by_its_profile(tmp_path: Path) -> None:
    """The conversion to sRGB equals that of another binding, with black point compensation."""
    icc = ink_profile()
    colors = [
        (0, 0, 0, 0), (0, 0, 0, 255), (0, 255, 0, 0), (255, 255, 255, 255), (0, 0, 0, 128), (0, 0, 255, 0),
    ]  # fmt: skip
    samples = np.repeat(np.array(colors, np.uint8), 8, axis=0)[None].repeat(32, 0)
    flat = Image.frombytes("CMYK", (48, 32), samples.tobytes())
    flat.save(tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=icc)
    source = read(tmp_path / "a.jpg")
    got = centers(pixels(source))

    def by_lcms(intent: int, flags: int) -> np.ndarray:
        space = {"colorspace": "CMYK", "outcolorspace": "RGB", "outdtype": "uint8"}
        return centers(imagecodecs.cms_transform(samples, icc, SRGB, intent=intent, flags=flags, **space))

    assert np.abs(got - by_lcms(1, 0x2000)).max() <= 3
    # Otherwise converted it would be another image.
    assert np.abs(got - by_lcms(1, 0)).max() > 5
    assert np.abs(got - centers(np.asarray(flat.convert("RGB")))).max() > 20
    # What is known: paper is white, all the ink there is is black, magenta is no green.
    assert (got[0] > 230).all()
    assert got[3].max() <= 3
    assert got[2][1] + 60 < min(got[2][0], got[2][2])
    profile = ImageCms.ImageCmsProfile(io.BytesIO(source.info.metadata.icc))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    enlarge(tmp_path / "a.jpg", tmp_path / "b.png")
    assert seen(tmp_path / "b.png")["icc_profile"] == source.info.metadata.icc


def test_cmyk_with_a_broken_profile_is_still_an_image(tmp_path: Path) -> None:
    for icc in (b"not a profile" * 20, SRGB):
        ink().save(tmp_path / "a.jpg", quality=100, icc_profile=icc)
        source = read(tmp_path / "a.jpg")
        assert (centers(pixels(source))[0] > 250).all()
        assert source.info.metadata.icc is None


# Refusals --------------------------------------------------------------------------------------


def info(
    shape: tuple[int, int] = (10, 10), channels: int = 3, dtype: type = np.uint8, **more: object
) -> ImageInfo:
    return ImageInfo(shape, Layout.of(channels), np.dtype(dtype), **more)


@pytest.mark.parametrize(
    ("name", "image_info", "rule"),
    [
        ("b.jpg", info(channels=4), "JPEG holds no alpha; write a PNG, WebP or TIFF instead"),
        ("b.jpg", info(channels=2), "JPEG holds no alpha"),
        ("b.bmp", info(channels=4), "BMP holds no alpha"),
        ("b.jpg", info(dtype=np.uint16), "JPEG holds uint8 samples, got uint16"),
        ("b.webp", info(dtype=np.uint16), "WebP holds uint8 samples, got uint16"),
        ("b.bmp", info(dtype=np.uint16), "BMP holds uint8 samples, got uint16"),
        *((f"b{s}", info(dtype=np.float32), "samples, got float32") for s in EVERY),
        *((f"b{s}", info(channels=6), "holds gray or RGB, got 6 bands; write a TIFF instead") for s in EVERY),
        *((f"b{s}", info(nodata=0.0), "does not hold a nodata value; write a TIFF") for s in EVERY),
        *((f"b{s}", info(masked=True), "does not hold a mask; write a TIFF") for s in EVERY),
        ("b.jpg", info((65_536, 4)), "JPEG sides are at most 65535 pixels, got 4 x 65536"),
        ("b.webp", info((4, 16_384)), "WebP sides are at most 16383 pixels, got 16384 x 4"),
        ("b.avif", info((4, 32_769)), "AVIF sides are at most 32768 pixels, got 32769 x 4"),
        ("b.avif", info((30_000, 30_000)), "AVIF images have at most 268435456 pixels, got 30000 x 30000"),
        ("b.png", info((4, 1_000_001)), "PNG sides are at most 1000000 pixels, got 1000001 x 4"),
        ("b.jxl", info((4, 2**30 + 1)), "JPEG XL sides are at most 1073741824 pixels, got 1073741825 x 4"),
        ("b.bmp", info((60_000, 60_000)), "BMP files have at most 4293918720 bytes, too few for 60000 x"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold(name: str, image_info: ImageInfo, rule: str) -> None:
    path = Path("folder") / name
    with pytest.raises(OutputError) as caught:
        coded.check_coded(path, coded.FORMATS[path.suffix], image_info, None)
    assert str(caught.value).startswith(f"{path}: ")
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("name", "quality", "rule"),
    [
        ("b.png", 90, "PNG is lossless and takes no quality, got 90"),
        ("b.bmp", 90, "BMP is lossless and takes no quality, got 90"),
        ("b.jpg", 0, "quality is 1 to 100, got 0"),
        ("b.webp", 101, "quality is 1 to 100, got 101"),
    ],
)
def test_qualities_that_mean_nothing(name: str, quality: int, rule: str) -> None:
    with pytest.raises(OutputError, match=rule):
        coded.check_coded(Path(name), coded.FORMATS[Path(name).suffix], info(), quality)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif"])
def test_the_largest_that_is_allowed_is_written(tmp_path: Path, suffix: str) -> None:
    """The libraries write and read images of the largest size, and refuse one more pixel."""
    side = coded.FORMATS[suffix].max_side
    array = np.zeros((16 if suffix == ".avif" else 1, side, 1), np.uint8)
    write(tmp_path / f"a{suffix}", array)
    assert pixels(read(tmp_path / f"a{suffix}")).shape[:2] == array.shape[:2]
    if suffix in (".jpg", ".webp", ".png"):
        wider = np.zeros((1, side + 1, 1), np.uint8)
        image_info = info((1, side + 1), 1)
        with pytest.raises(OutputError, match="cannot be encoded as"):
            coded.encode(wider, coded.FORMATS[suffix], image_info, 1, None, tmp_path / "b")


def test_the_names() -> None:
    assert tuple(coded.FORMATS) == (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")
    assert bmp.MAX_BYTES < 2**32


@pytest.mark.parametrize("suffix", EVERY)
def test_recognised_by_content_and_not_by_pillows_limit(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / f"a{suffix}", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = read(tmp_path / f"a{suffix}")
    assert source.info.shape == (45, 60)
    with (tmp_path / f"a{suffix}").open("rb") as file:
        found = coded.recognise(file.read(32))
    assert found is coded.FORMATS[suffix]
    assert coded.recognise(b"GIF89a" + bytes(26)) is None
    assert coded.recognise(b"\0\0\0\x1cftypheic" + bytes(20)) is None


def test_cmyk_is_not_stopped_by_pillows_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ink().save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read(tmp_path / "a.jpg").info.shape == (32, 48)


def test_premultiplied_and_further_channels_of_jpeg_xl_are_refused(tmp_path: Path) -> None:
    planes = np.zeros((3, 20, 30), np.uint8)  # gray and two channels of no known meaning
    data = imagecodecs.jpegxl_encode(planes, lossless=True, planar=True, photometric="gray")
    (tmp_path / "a.jxl").write_bytes(data)
    with pytest.raises(ImageError, match="damaged JPEG XL: has channels beside color and alpha"):
        read(tmp_path / "a.jxl")
    # 3 x 2 pixels by libjxl, with premultiplied alpha.
    rest = "0810100060004b12c58285240e60db4c66bc8018005435b6e9898780e82b"
    (tmp_path / "a.jxl").write_bytes(bytes.fromhex("ff0a084030004a" + rest))
    with pytest.raises(ImageError, match="damaged JPEG XL: its color is multiplied by its alpha"):
        read(tmp_path / "a.jxl")
    # The same with straight alpha, of the name "see through".
    data = bytes.fromhex("ff0a0840308076aeac0c840e4deeadee0c8d04" + rest)
    (tmp_path / "a.jxl").write_bytes(data)
    assert (pixels(read(tmp_path / "a.jxl")) == imagecodecs.jpegxl_decode(data)).all()


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(RGB, 9 * k, axis=1)) for k in range(3)]
    frames[0].save(tmp_path / "a.avif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="an animated AVIF; only images of one frame are supported"):
        read(tmp_path / "a.avif")
    many = imagecodecs.jpegxl_encode(np.stack([RGB, RGB[::-1]]), lossless=True)
    (tmp_path / "a.jxl").write_bytes(many)
    with pytest.raises(ImageError, match="an animated JPEG XL"):
        read(tmp_path / "a.jxl")


def test_metadata_of_the_source_is_not_changed(tmp_path: Path) -> None:
    make(tmp_path / "a.png", RGB, dpi=(300, 300), texts={"Title": "a"})
    source = read(tmp_path / "a.png")
    before = replace(source.info)
    for suffix in EVERY[:3]:
        coded.encode(pixels(source), coded.FORMATS[suffix], source.info, 1, None, tmp_path / "b")
    assert source.info == before


def test_the_suffixes_of_the_registry_are_those_of_the_formats() -> None:
    from srcnn_rt.io.registry import CODED_SUFFIXES, IMAGE_SUFFIXES

    assert tuple(coded.FORMATS) == CODED_SUFFIXES
    assert set(CODED_SUFFIXES) < set(IMAGE_SUFFIXES)
