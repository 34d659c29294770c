"""Metadata are kept and updated for the new resolution; they are read back by other readers."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from srcnn_rt import Engine, RuntimeMissingError
from srcnn_rt.image.info import Metadata
from srcnn_rt.io.codecs.formats import FORMATS
from srcnn_rt.io.metadata import exif, xmp
from tests.conftest import drawing
from tests.helpers.coding import (  # fmt: skip
    EVERY,
    MAKER,
    SRGB,
    WITH_EXIF,
    XMP,
    box,
    chunk,
    decoded,
    enlarge,
    exif_block,
    jxl_file,
    make,
    pixels,
    read,
    seen,
    tags,
)
from tests.helpers.reference import quantise

RGB = quantise(drawing(45, 60), np.uint8)
GRAY = RGB[..., 0]


def wide_profile() -> bytes:
    """Return a profile with the primaries and gamma of Adobe RGB."""
    primaries = [0.64, 0.33, 1, 0.21, 0.71, 1, 0.15, 0.06, 1]
    white = [0.3127, 0.3290, 1]
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, gamma=2.2))


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".avif"])
def test_the_profile(tmp_path: Path, source: str, target: str) -> None:
    icc = wide_profile()
    make(tmp_path / f"a{source}", RGB, icc=icc)
    enlarge(tmp_path / f"a{source}", tmp_path / f"b{target}")
    if target in (".bmp", ".jxl"):  # Pillow does not look for one there
        assert read(tmp_path / f"b{target}").info.metadata.icc == icc
        assert target == ".jxl" or icc in (tmp_path / f"b{target}").read_bytes()
    else:
        assert seen(tmp_path / f"b{target}")["icc_profile"] == icc


def shown(array: np.ndarray, icc: bytes) -> np.ndarray:
    """Convert samples to sRGB by LittleCMS."""
    profiles = [ImageCms.ImageCmsProfile(io.BytesIO(p)) for p in (icc, SRGB)]
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(array), *profiles)).astype(int)


@pytest.mark.skipif(shutil.which("djxl") is None, reason="djxl, another reader of JPEG XL, is missing")
@pytest.mark.parametrize("quality", [None, 90])
def test_the_profile_of_a_jpeg_xl_by_djxl(tmp_path: Path, quality: int | None) -> None:
    icc = wide_profile()
    make(tmp_path / "a.png", RGB, icc=icc)
    array = enlarge(tmp_path / "a.png", tmp_path / "b.jxl", 2, quality)
    subprocess.run(["djxl", tmp_path / "b.jxl", tmp_path / "c.png"], check=True, capture_output=True)
    with Image.open(tmp_path / "c.png") as back:
        if quality is None:
            assert back.info["icc_profile"] == icc
            assert (np.asarray(back) == array).all()
    # By its profile, what the package reads is the same color, also where libjxl changed the space.
    source = read(tmp_path / "b.jxl")
    expected = shown(array, icc).mean(axis=(0, 1))
    got = shown(pixels(source), source.info.metadata.icc or SRGB).mean(axis=(0, 1))
    assert np.abs(got - expected).max() < 0.5
    assert np.abs(array.mean(axis=(0, 1)) - expected).max() > 2  # a forgotten profile would be seen


@pytest.mark.parametrize("target", WITH_EXIF)
@pytest.mark.parametrize("source", WITH_EXIF)
def test_exif_is_patched_where_it_lies(tmp_path: Path, source: str, target: str) -> None:
    block = exif_block()
    make(tmp_path / f"a{source}", RGB, exif=block)
    enlarge(tmp_path / f"a{source}", tmp_path / f"b{target}", 3)
    got = seen(tmp_path / f"b{target}")["exif"]
    # Pillow leaves the orientation out of what it puts into an AVIF.
    said = block if source != ".avif" else seen(tmp_path / "a.avif")["exif"]
    assert got.index(MAKER) == said.index(MAKER)
    assert len(got) == len(said)
    parsed = tags(got)
    assert parsed.get(0x0112, 1) == 1
    assert (parsed[0x011A], parsed[0x011B], parsed[0x0128]) == (900, 450, 2)
    assert parsed[0x010E] == "a drawing"
    inner = parsed.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003], inner[0x927C]) == (180, 135, MAKER)
    different = sum(a != b for a, b in zip(got, said, strict=True))
    assert different <= 4 * 4  # two densities, two sizes


@pytest.mark.parametrize("target", WITH_EXIF)
@pytest.mark.parametrize("source", WITH_EXIF)
def test_xmp(tmp_path: Path, source: str, target: str) -> None:
    make(tmp_path / f"a{source}", RGB, xmp=XMP)
    enlarge(tmp_path / f"a{source}", tmp_path / f"b{target}")
    expected = XMP.replace(b'"300/1"', b'"600/1"').replace(b">150<", b">300<").replace(b'"60"', b'"120"')
    assert seen(tmp_path / f"b{target}")["xmp"] == expected


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize("source", [".png", ".jpg", ".bmp"])
def test_print_resolution(tmp_path: Path, source: str, target: str) -> None:
    make(tmp_path / f"a{source}", RGB, dpi=(300, 150 if source != ".bmp" else 300))
    expected = (600, 300 if source != ".bmp" else 600)
    enlarge(tmp_path / f"a{source}", tmp_path / f"b{target}")
    if target in (".png", ".jpg", ".bmp"):
        assert seen(tmp_path / f"b{target}")["dpi"] == pytest.approx(expected, abs=0.03)
    else:
        parsed = tags(seen(tmp_path / f"b{target}")["exif"])
        assert (float(parsed[0x011A]), float(parsed[0x011B])) == pytest.approx(expected, abs=0.03)
        assert parsed[0x0128] == 2
    assert read(tmp_path / f"b{target}").info.metadata.dpi == pytest.approx(expected, abs=0.03)


def test_a_print_resolution_that_jpeg_cannot_say_in_inches(tmp_path: Path) -> None:
    make(tmp_path / "a.png", RGB, dpi=(40_000, 40_000))
    enlarge(tmp_path / "a.png", tmp_path / "b.jpg", 4)  # 160,000 an inch, 62,992 a centimetre
    assert read(tmp_path / "b.jpg").info.metadata.dpi == pytest.approx((160_000, 160_000), rel=1e-4)


TEXTS = {
    "Title": "a title", "Author": "somebody", "Description": "drawn, é", "Copyright": "(c)",
    "Software": "a test", "Creation Time": "2024-05-06T07:08:09", "Comment": "a comment, 写真",
    "Key of one's own": "x" * 300,
}  # fmt: skip


def test_texts_from_png_to_png(tmp_path: Path) -> None:
    make(tmp_path / "a.png", RGB, texts=TEXTS)
    enlarge(tmp_path / "a.png", tmp_path / "b.png")
    got = seen(tmp_path / "b.png")
    assert {k: got.get(k) for k in TEXTS} == TEXTS


@pytest.mark.parametrize("with_exif", [False, True])
@pytest.mark.parametrize("target", [".jpg", ".webp", ".avif", ".jxl"])
def test_texts_from_png_into_exif(tmp_path: Path, target: str, with_exif: bool) -> None:
    """Existing texts of EXIF are kept, and its MakerNote does not move."""
    block = exif_block() if with_exif else None
    make(tmp_path / "a.png", RGB, texts=TEXTS, exif=block)
    enlarge(tmp_path / "a.png", tmp_path / f"b{target}")
    got = seen(tmp_path / f"b{target}")
    parsed = tags(got["exif"])

    def said(tag: int) -> str:
        return parsed[tag].encode("latin-1", "ignore").decode("utf-8", "replace")

    assert said(0x010D) == "a title"
    assert said(0x010E) == ("a drawing" if with_exif else "drawn, é")
    assert said(0x8298) == "(c)"
    assert said(0x0131) == "a test"
    assert said(0x0132) == "2024:05:06 07:08:09"
    other = "Description: drawn, é\n" if with_exif else ""
    everything = f"a comment, 写真\n{other}Key of one's own: {'x' * 300}"
    if target == ".jpg":
        assert got["comment"].decode() == everything
    else:
        wide = "utf-16-be" if got["exif"][:2] == b"MM" else "utf-16-le"
        assert parsed.get_ifd(0x8769)[0x9286] == b"UNICODE\0" + everything.encode(wide)
    if block:
        assert got["exif"].index(MAKER) == block.index(MAKER)
        assert parsed.get_ifd(0x8769)[0x927C] == MAKER
    back = read(tmp_path / f"b{target}").info.metadata.texts
    assert back["Title"] == "a title"
    assert back["Comment"] == everything


@pytest.mark.parametrize("target", [".jpg", ".webp", ".avif", ".jxl"])
def test_texts_that_contradict_exif_are_kept_beside_it(tmp_path: Path, target: str) -> None:
    block = exif.completed(exif_block(), {}, None, "of the camera")
    texts = {"Author": "somebody else", "Description": "a drawing", "Comment": "of a person"}
    make(tmp_path / "a.png", RGB, texts=texts, exif=block)
    enlarge(tmp_path / "a.png", tmp_path / f"b{target}")
    got = seen(tmp_path / f"b{target}")
    assert tags(got["exif"])[0x013B] == "somebody"
    comment = tags(got["exif"]).get_ifd(0x8769)[0x9286]
    if target == ".jpg":
        assert comment == b"ASCII\0\0\0of the camera"
        assert got["comment"] == b"of a person\nAuthor: somebody else"
    else:
        assert comment == b"ASCII\0\0\0of the camera\nof a person\nAuthor: somebody else"
    enlarge(tmp_path / f"b{target}", tmp_path / f"c{target}")  # and once is enough
    again = tags(seen(tmp_path / f"c{target}")["exif"])
    assert again.get_ifd(0x8769)[0x9286] == comment


@pytest.mark.parametrize("source", [".jpg", ".webp", ".avif", ".jxl"])
def test_exif_texts_in_png_chunks(tmp_path: Path, source: str) -> None:
    make(tmp_path / f"a{source}", RGB, exif=exif_block())
    enlarge(tmp_path / f"a{source}", tmp_path / "b.png")
    got = seen(tmp_path / "b.png")
    assert got["Description"] == "a drawing"
    assert got["Author"] == "somebody"
    assert got["Creation Time"] == "2024:05:06 07:08:09"


@pytest.mark.parametrize("target", [".jpg", ".png"])
def test_a_jpeg_comment(tmp_path: Path, target: str) -> None:
    make(tmp_path / "a.jpg", RGB, texts={"Comment": "said aloud"})
    enlarge(tmp_path / "a.jpg", tmp_path / f"b{target}")
    got = seen(tmp_path / f"b{target}")
    assert (got["comment"] == b"said aloud") if target == ".jpg" else (got["Comment"] == "said aloud")


def test_dates_become_exif_dates(tmp_path: Path) -> None:
    for text in ("2024:05:06 07:08:09", "Mon, 06 May 2024 07:08:09 GMT", "2024-05-06 07:08:09.5"):
        make(tmp_path / "a.png", RGB, texts={"Creation Time": text})
        enlarge(tmp_path / "a.png", tmp_path / "b.webp")
        assert tags(seen(tmp_path / "b.webp")["exif"])[0x0132] == "2024:05:06 07:08:09"
    make(tmp_path / "a.png", RGB, texts={"Creation Time": "in May"})
    enlarge(tmp_path / "a.png", tmp_path / "b.jpg")
    assert seen(tmp_path / "b.jpg")["comment"] == b"Creation Time: in May"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", WITH_EXIF)
def test_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Samples, resolution and sizes in EXIF are those of the source as Pillow displays it."""
    block = exif_block(orientation)
    packet = XMP.replace(b'Orientation="1"', f'Orientation="{orientation}"'.encode())
    a = make(tmp_path / f"a{suffix}", RGB, exif=block, xmp=packet)
    if suffix == ".jxl":  # its own header turns it, and EXIF must not turn it again
        expected, turned = decoded(a), 1
    else:
        with Image.open(a) as image:
            expected, turned = np.asarray(ImageOps.exif_transpose(image)), orientation
    source = read(a)
    assert (pixels(source) == expected).all()
    enlarge(a, tmp_path / f"b{suffix}")
    with_tags = tags(seen(tmp_path / f"b{suffix}")["exif"])
    assert with_tags.get(0x0112, 1) == 1
    across = turned >= 5
    assert (with_tags[0x011A], with_tags[0x011B]) == ((300, 600) if across else (600, 300))
    size = with_tags.get_ifd(0x8769)
    assert (size[0xA002], size[0xA003]) == ((90, 120) if across else (120, 90))
    back = decoded(tmp_path / f"b{suffix}")
    assert back.shape[:2] == (expected.shape[0] * 2, expected.shape[1] * 2)
    assert np.abs(back[::2, ::2].astype(int) - expected).mean() < 3
    assert source.info.metadata.dpi == ((150, 300) if across else (300, 150))
    if turned == orientation:
        assert b'Orientation="1"' in seen(tmp_path / f"b{suffix}")["xmp"]
    if suffix != ".jxl":
        with Image.open(tmp_path / f"b{suffix}") as image:
            assert np.asarray(ImageOps.exif_transpose(image)).shape == back.shape


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_containers_resolution_turns_with_the_image(tmp_path: Path, suffix: str) -> None:
    exif_only = Image.Exif()
    exif_only[0x0112] = 6
    make(tmp_path / f"a{suffix}", RGB, exif=exif_only.tobytes()[6:], dpi=(300, 150))
    enlarge(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    assert seen(tmp_path / f"b{suffix}")["dpi"] == pytest.approx((300, 600), abs=0.03)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_xl_that_turns_itself(tmp_path: Path, orientation: int) -> None:
    """Only the orientation of the codestream counts, not that of EXIF."""
    data = bytearray(jxl_file(RGB, exif_block(orientation)))
    plain = read_bytes(tmp_path, bytes(data))
    assert (plain == RGB).all()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_orientation_in_a_jpeg_xl_header(tmp_path: Path, orientation: int) -> None:
    """3 x 2 pixels by libjxl; a byte of the header holds the orientation."""
    data = bytearray.fromhex(
        "ff0a084003c4040804010080004b12c58285249241edfc9e4a4cb6e12e10068030c618674ce7751f47fb955d36"
    )
    data[4] = 2 * orientation - 1
    expected = exif.turn((9 * np.arange(18, dtype=np.uint8)).reshape(2, 3, 3), orientation)
    height, width, _ = expected.shape
    assert FORMATS[".jxl"].declared(bytes(data)) == (width, height, 3, 1)
    assert (read_bytes(tmp_path, bytes(data)) == expected).all()


def read_bytes(folder: Path, data: bytes) -> np.ndarray:
    (folder / "a.jxl").write_bytes(data)
    return pixels(read(folder / "a.jxl"))


def test_a_turned_image_has_no_unturned_thumbnail() -> None:
    """The pointer to the thumbnail's directory follows the first directory."""
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block += struct.pack("<I", 26) + struct.pack("<HI", 0, 0)
    assert exif.upright(block, 6)[22:26] == bytes(4)
    assert exif.upright(block.replace(b"\x06\0\0\0", b"\x01\0\0\0"), 1)[22:26] == struct.pack("<I", 26)


def test_values_that_x_and_y_share_are_scaled_once() -> None:
    entries = [(0x011A, 5, 1, 50), (0x011B, 5, 1, 50), (0x0128, 3, 1, 3)]
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    block += b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4) + struct.pack("<II", 100, 1)
    assert exif.dpi(block) == (254, 254)
    assert exif.dpi(exif.scaled(block, 3, (1, 1))) == (762, 762)
    assert exif.upright(block, 6) == block


def test_sizes_that_outgrow_16_bits_become_longs() -> None:
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + struct.pack(">HHIHH", 0x0100, 3, 1, 60, 0) + bytes(4)
    got = exif.scaled(block, 2, (70_000, 5))
    assert tags(got)[0x0100] == 70_000
    assert len(got) == len(block)
    huge = block[:8] + struct.pack(">H", 1) + struct.pack(">HHII", 0x011A, 5, 1, 26) + bytes(4)
    huge += struct.pack(">II", 2**32 - 1, 7)
    assert float(tags(exif.scaled(huge, 4, (1, 1)))[0x011A]) == pytest.approx((2**32 - 1) / 7 * 4, rel=1e-6)


def test_color_chunks_stay_from_png_to_png(tmp_path: Path) -> None:
    color = {
        b"gAMA": struct.pack(">I", 50_000), b"cHRM": struct.pack(">8I", *range(10_000, 90_000, 10_000)),
        b"cICP": bytes([12, 13, 0, 1]),
    }  # fmt: skip
    for chunks in (color, {b"sRGB": b"\1"}):
        make(tmp_path / "a.png", RGB)
        data = (tmp_path / "a.png").read_bytes()
        data = data[:33] + b"".join(chunk(*c) for c in chunks.items()) + data[33:]
        (tmp_path / "a.png").write_bytes(data)
        enlarge(tmp_path / "a.png", tmp_path / "b.png")
        got = (tmp_path / "b.png").read_bytes()
        for kind, content in chunks.items():
            assert got.count(chunk(kind, content)) == 1
            assert got.index(kind) < got.index(b"IDAT")
        with Image.open(tmp_path / "b.png") as image:
            image.load()


def test_color_primaries_go_to_avif_and_back(tmp_path: Path) -> None:
    make(tmp_path / "a.png", RGB)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"cICP", bytes([12, 16, 0, 1])) + data[33:])
    array = enlarge(tmp_path / "a.png", tmp_path / "b.avif")
    assert b"nclx" + struct.pack(">HH", 12, 16) in (tmp_path / "b.avif").read_bytes()
    assert (decoded(tmp_path / "b.avif") == array).all()
    enlarge(tmp_path / "b.avif", tmp_path / "c.png")
    assert chunk(b"cICP", bytes([12, 16, 0, 1])) in (tmp_path / "c.png").read_bytes()
    with pytest.warns(RuntimeWarning, match="WebP does not keep its color primaries and transfer"):
        enlarge(tmp_path / "a.png", tmp_path / "b.webp")


def test_what_bmp_has_no_place_for_is_said(tmp_path: Path) -> None:
    make(tmp_path / "a.jpg", RGB, exif=exif_block(), xmp=XMP)
    with pytest.warns(RuntimeWarning) as caught:
        enlarge(tmp_path / "a.jpg", tmp_path / "b.bmp")
    assert [str(w.message).partition(": ")[2] for w in caught] == [
        f"BMP does not keep {item}" for item in ("EXIF", "XMP", "texts")
    ]


def test_a_profile_of_other_channels_is_left_out(tmp_path: Path) -> None:
    gray = bytes(imagecodecs.cms_profile("gray", gamma=2.2))
    make(tmp_path / "a.png", GRAY, icc=gray)
    enlarge(tmp_path / "a.png", tmp_path / "b.jpg")
    assert seen(tmp_path / "b.jpg")["icc_profile"] == gray
    with pytest.warns(RuntimeWarning, match=r"WebP holds this image as rgb, .* \(GRAY\)"):
        enlarge(tmp_path / "a.png", tmp_path / "b.webp")
    assert "icc_profile" not in seen(tmp_path / "b.webp")


def test_large_profiles_span_jpeg_segments(tmp_path: Path) -> None:
    icc = wide_profile()
    icc += np.random.default_rng(0).bytes(200_000)  # behind its tags
    make(tmp_path / "a.png", RGB, icc=icc)
    enlarge(tmp_path / "a.png", tmp_path / "b.jpg")
    assert seen(tmp_path / "b.jpg")["icc_profile"] == icc
    assert read(tmp_path / "b.jpg").info.metadata.icc == icc


def test_what_is_too_long_for_a_jpeg_segment_is_said(tmp_path: Path) -> None:
    make(tmp_path / "a.png", RGB, xmp=XMP + b" " * 70_000)
    with pytest.warns(RuntimeWarning, match="bytes of XMP are left out"):
        enlarge(tmp_path / "a.png", tmp_path / "b.jpg")
    assert decoded(tmp_path / "b.jpg").shape == (90, 120, 3)


def test_texts_too_long_for_exif_are_comments(tmp_path: Path) -> None:
    long = "word " * 20_000
    make(tmp_path / "a.png", RGB, exif=exif_block(), texts={"Title": long, "Comment": "said"})
    enlarge(tmp_path / "a.png", tmp_path / "b.jpg")
    data = (tmp_path / "b.jpg").read_bytes()
    assert b"Title: word word" in data
    assert b"Comment: said" in data
    assert seen(tmp_path / "b.jpg")["exif"].index(MAKER) == exif_block().index(MAKER)


def test_brotli_boxes_of_jpeg_xl(tmp_path: Path) -> None:
    """EXIF and XMP may be compressed, as cjxl writes them."""
    data = jxl_file(RGB)
    exif_brob = box(b"brob", b"Exif" + imagecodecs.brotli_encode(bytes(4) + exif_block()))
    xml_brob = box(b"brob", b"xml " + imagecodecs.brotli_encode(XMP))
    (tmp_path / "a.jxl").write_bytes(data[:32] + exif_brob + xml_brob + data[32:])
    metadata = read(tmp_path / "a.jxl").info.metadata
    assert metadata.exif == exif_block()
    assert metadata.xmp == XMP


def test_imagemagicks_hexadecimal_exif(tmp_path: Path) -> None:
    block = exif_block(6)
    content = f"\nexif\n{len(block) + 6:8}\n{(b'Exif' + bytes(2) + block).hex()}\n"
    make(tmp_path / "a.png", RGB, texts={"Raw profile type exif": content})
    source = read(tmp_path / "a.png")
    assert source.info.shape == (60, 45)
    assert tags(source.info.metadata.exif)[0x010E] == "a drawing"


def test_xmp_as_elements_is_turned_and_scaled() -> None:
    packet = b"<tiff:Orientation>6</tiff:Orientation><tiff:XResolution>300/2</tiff:XResolution>"
    packet += b"<tiff:YResolution>72</tiff:YResolution><exif:PixelYDimension> 9 </exif:PixelYDimension>"
    got = xmp.scaled(xmp.upright(packet, 6), 2, (10, 20))
    assert got == (
        b"<tiff:Orientation>1</tiff:Orientation><tiff:XResolution>144</tiff:XResolution>"
        b"<tiff:YResolution>300/1</tiff:YResolution><exif:PixelYDimension> 20 </exif:PixelYDimension>"
    )
    assert xmp.scaled(b"<tiff:XResolution>3/0</tiff:XResolution>", 2, (1, 1)).count(b"3/0") == 1


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool, a reader of all of them, is missing")
@pytest.mark.parametrize("suffix", WITH_EXIF)
def test_exiftool_finds_no_fault(tmp_path: Path, suffix: str) -> None:
    make(tmp_path / "a.png", RGB, texts=TEXTS, exif=exif_block(), xmp=XMP, icc=SRGB, dpi=(300, 150))
    enlarge(tmp_path / "a.png", tmp_path / f"b{suffix}")
    words = [
        "exiftool",
        "-m",
        "-s3",
        "-warning",
        "-error",
        "-XResolution",
        "-Artist",
        tmp_path / f"b{suffix}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["600", "somebody"]


def test_metadata_without_anything_make_no_exif(tmp_path: Path) -> None:
    make(tmp_path / "a.png", RGB)
    assert read(tmp_path / "a.png").info.metadata == Metadata()
    for suffix in EVERY:
        enlarge(tmp_path / "a.png", tmp_path / f"b{suffix}")
        found = seen(tmp_path / f"b{suffix}")
        assert not found.get("exif")
        assert not found.get("xmp")
        assert "icc_profile" not in found


def test_a_profile_in_jpeg_xl_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused both ways, with the command to type, because colours would be wrong without it."""
    source = tmp_path / "a.png"
    make(source, RGB, icc=wide_profile())
    with Engine("bicubic-x2", provider="cpu") as engine:
        pytest.importorskip("opencodecs", reason="the extra 'jxl' is not installed")
        engine.upscale_file(source, tmp_path / "b.jxl")
        monkeypatch.setitem(sys.modules, "opencodecs", None)
        line = r'JPEG XL with a color profile needs opencodecs; type: pip install "srcnn-rt\[jxl\]"'
        with pytest.raises(RuntimeMissingError, match=line):
            engine.upscale_file(source, tmp_path / "c.jxl")
        with pytest.raises(RuntimeMissingError, match=line):
            engine.upscale_file(tmp_path / "b.jxl", tmp_path / "c.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.jxl"]
