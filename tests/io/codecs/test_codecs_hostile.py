"""False headers, truncated files and hostile metadata give the image or an error message of one line."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from srcnn_rt import ImageError
from srcnn_rt.io.codecs import integrity, isobmff, libraries, png
from srcnn_rt.io.codecs import whole_file as coded
from srcnn_rt.io.metadata import exif
from tests.conftest import drawing
from tests.helpers.coding import EVERY, SRGB, XMP, box, chunk, exif_block, jxl_file, make, pixels, read
from tests.helpers.coding import boxes as top_boxes
from tests.helpers.reference import quantise

SMALL = quantise(drawing(10, 12), np.uint8)
FULL = {"exif": exif_block(), "xmp": XMP, "icc": SRGB, "dpi": (300, 300), "texts": {"Comment": "said"}}


def whole(path: Path) -> bytes:
    """Return a small image with all metadata that its format can hold."""
    items = FULL if path.suffix not in (".bmp",) else {"dpi": (300, 300)}
    return make(path, SMALL, **items).read_bytes()


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded before the header was asked")

    monkeypatch.setattr(libraries, "decode", never)


# Size and type in the header --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", EVERY)
def test_declared_is_what_is_decoded(tmp_path: Path, suffix: str) -> None:
    format_ = coded.FORMATS[suffix]
    said = format_.declared(whole(tmp_path / f"a{suffix}"))
    assert said == integrity.declared(tmp_path / f"a{suffix}", format_) == (12, 10, 3, 1)
    assert pixels(read(tmp_path / f"a{suffix}")).shape == (10, 12, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".avif", ".jxl"])
def test_declared_channels_and_bytes(suffix: str, channels: int) -> None:
    for dtype in (np.uint8, np.uint16):
        array = quantise(drawing(10, 12, channels), dtype)
        flat = array[..., 0] if channels == 1 else array
        if suffix == ".avif":
            if channels == 2:
                continue
            options = {"bitspersample": 12} if dtype is np.uint16 else {}
            data = imagecodecs.avif_encode(flat >> 4 if options else flat, **options)
        else:
            data = imagecodecs.png_encode(flat) if suffix == ".png" else jxl_file(array)
        said = coded.FORMATS[suffix].declared(bytes(data))
        assert said == (12, 10, channels, np.dtype(dtype).itemsize), channels


def test_declared_of_webp_and_palettes(tmp_path: Path) -> None:
    for alpha in (False, True):
        for lossless in (False, True):
            array = quantise(drawing(10, 12, 4 if alpha else 3), np.uint8)
            Image.fromarray(array).save(tmp_path / "a.webp", lossless=lossless, exact=True)
            data = (tmp_path / "a.webp").read_bytes()
            assert coded.FORMATS[".webp"].declared(data) == (12, 10, 4 if alpha else 3, 1)
    Image.fromarray(SMALL).quantize(4).save(tmp_path / "a.png", transparency=1)
    assert integrity.declared(tmp_path / "a.png", coded.FORMATS[".png"]).channels == 4


def test_a_header_behind_a_megabyte_of_segments(tmp_path: Path) -> None:
    data = whole(tmp_path / "a.jpg")
    much = b"\xff\xed\xff\xff" + bytes(65_533)
    (tmp_path / "a.jpg").write_bytes(data[:2] + much * 20 + data[2:])
    assert integrity.declared(tmp_path / "a.jpg", coded.FORMATS[".jpg"]) == (12, 10, 3, 1)
    assert pixels(read(tmp_path / "a.jpg")).shape == (10, 12, 3)


def with_size(suffix: str, data: bytes, width: int, height: int) -> bytes:
    """Return the file with another size in its header."""
    out = bytearray(data)
    if suffix == ".png":
        out[16:24] = struct.pack(">II", width, height)
        out[29:33] = struct.pack(">I", zlib.crc32(out[12:29]))
    elif suffix == ".bmp":
        out[18:26] = struct.pack("<ii", width, height)
    elif suffix == ".jpg":
        at = out.index(b"\xff\xc0")
        out[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif suffix == ".avif":
        at = out.index(b"ispe")
        out[at + 8 : at + 16] = struct.pack(">II", width, height)
    elif suffix == ".webp":
        at = out.index(b"VP8X")
        out[at + 12 : at + 18] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(out)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_more_pixels_than_the_bytes_can_hold(tmp_path: Path, suffix: str, no_decoder: None) -> None:
    data = with_size(suffix, whole(tmp_path / f"a{suffix}"), 30_000, 30_000)
    (tmp_path / f"a{suffix}").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ImageError, match="declares 30000 x 30000 pixels, which take at least") as caught:
        read(tmp_path / f"a{suffix}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20
    assert str(caught.value).startswith(str(tmp_path / f"a{suffix}"))


def test_the_best_that_deflate_can_do_is_read(tmp_path: Path) -> None:
    """A blank page is the smallest possible file, and is not refused as a decompression bomb."""
    blank = np.zeros((3000, 3000), np.uint8)
    data = imagecodecs.png_encode(blank, level=9)
    assert len(data) < blank.nbytes / 500
    (tmp_path / "a.png").write_bytes(data)
    assert not pixels(read(tmp_path / "a.png")).any()
    Image.fromarray(blank).save(tmp_path / "a.jpg", progressive=True, optimize=True, quality=1)
    assert pixels(read(tmp_path / "a.jpg")).max() < 3
    Image.fromarray(blank > 0).save(tmp_path / "b.png", optimize=True)
    assert not pixels(read(tmp_path / "b.png")).any()


@pytest.mark.parametrize("suffix", EVERY)
def test_max_pixels(tmp_path: Path, suffix: str, no_decoder: None) -> None:
    whole(tmp_path / f"a{suffix}")
    with pytest.raises(ImageError) as caught:
        read(tmp_path / f"a{suffix}", max_pixels=119)
    assert "declares 12 x 10 = 120 pixels" in str(caught.value)
    assert "with at most 119 pixels; use --max-pixels 120 to allow it" in str(caught.value)
    with pytest.raises(ImageError, match="decoded before"):
        read(tmp_path / f"a{suffix}", max_pixels=120)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".avif"])
def test_a_size_beyond_the_default_limit(tmp_path: Path, suffix: str, no_decoder: None) -> None:
    side = {".webp": 2**14 + 1, ".jpg": 65_535}.get(suffix, 70_000)
    data = with_size(suffix, whole(tmp_path / f"a{suffix}"), side, side)
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(ImageError, match=r"--max-pixels|sides of at most 16383"):
        read(tmp_path / f"a{suffix}")


def test_a_png_wider_than_libpng_reads(tmp_path: Path, no_decoder: None) -> None:
    rows = zlib.compress(bytes(1_000_002))
    data = with_size(".png", imagecodecs.png_encode(SMALL[:1]), 1_000_001, 1)
    (tmp_path / "a.png").write_bytes(insert_chunks(data, chunk(b"IDAT", rows)))
    with pytest.raises(ImageError, match="declares 1000001 x 1 pixels; PNG sides of at most 1000000"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(("width", "height"), [(0, 10), (12, 0), (2**31, 10)])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".avif"])
def test_sizes_that_cannot_be(tmp_path: Path, suffix: str, width: int, height: int) -> None:
    if width > 2**16:
        if suffix == ".jpg":
            pytest.skip("its sizes have 16 bits")
        data = with_size(suffix, whole(tmp_path / f"a{suffix}"), 1, height)
        at = {".png": 16, ".bmp": 18, ".avif": data.index(b"ispe") + 8 if suffix == ".avif" else 0}[suffix]
        number = struct.pack("<I" if suffix == ".bmp" else ">I", width)
        data = data[:at] + number + data[at + 4 :]
    else:
        data = with_size(suffix, whole(tmp_path / f"a{suffix}"), width, height)
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(ImageError, match=f"a{suffix}: "):
        read(tmp_path / f"a{suffix}")


# Cut anywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", EVERY)
def test_a_file_cut_at_any_byte(tmp_path: Path, suffix: str) -> None:
    data = whole(tmp_path / f"a{suffix}")
    assert pixels(read(tmp_path / f"a{suffix}")).shape == (10, 12, 3)
    cut = tmp_path / f"cut{suffix}"
    for size in sorted({*range(12, 80), *range(80, len(data), 3), *range(len(data) - 40, len(data))}):
        cut.write_bytes(data[:size])
        if coded.recognise(data[:size][:32]) is None:  # AVIF's brands are not there yet
            assert size < 32
            continue
        with pytest.raises(ImageError) as caught:
            read(cut)
        assert str(caught.value).startswith(f"{cut}: "), size
        assert "\n" not in str(caught.value)


def test_a_bare_jpeg_xl_codestream_cut_at_any_byte(tmp_path: Path) -> None:
    for options in ({"lossless": True}, {"distance": 2.0}):
        data = imagecodecs.jpegxl_encode(SMALL, usecontainer=False, **options)
        assert data[:2] == b"\xff\x0a"
        for size in range(3, len(data)):
            (tmp_path / "a.jxl").write_bytes(data[:size])
            with pytest.raises(ImageError, match="JPEG XL"):
                read(tmp_path / "a.jxl")


@pytest.mark.parametrize("suffix", EVERY)
def test_bytes_changed_anywhere(tmp_path: Path, suffix: str) -> None:
    """Each file gives an error or an image, which is then written with its metadata."""
    data = whole(tmp_path / f"a{suffix}")
    rng = np.random.default_rng(0)
    read_some = 0
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(12, len(data), rng.integers(1, 6)):
            changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
        (tmp_path / f"b{suffix}").write_bytes(changed)
        try:
            source = read(tmp_path / f"b{suffix}", max_pixels=10**6)
        except ImageError as error:
            assert str(error).startswith(str(tmp_path / f"b{suffix}"))
            continue
        read_some += 1
        array, info = pixels(source), source.info
        assert array.shape[:2] == info.shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for target in (".png", ".jpg") if info.dtype == np.uint8 and not info.layout.alpha else (".png",):
                assert coded.encode(array, coded.FORMATS[target], info, 2, None, tmp_path / "c")
    assert read_some > 20 if suffix not in (".bmp",) else read_some


# Hostile metadata -------------------------------------------------------------------------


def insert_chunks(data: bytes, *parts: bytes) -> bytes:
    return data[:33] + b"".join(parts) + data[33:]


def test_text_bombs(tmp_path: Path) -> None:
    """Decompression bombs are not inflated, and the image is read."""
    bomb = zlib.compress(bytes(2**28), 9)
    parts = [
        chunk(b"zTXt", b"Comment\0\0" + bomb),
        chunk(b"iTXt", b"Title\0\1\0\0\0" + bomb),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb),
        chunk(b"iCCP", b"icc\0\0" + bomb),
        chunk(b"zTXt", b"Author\0\0" + zlib.compress(b"somebody")),
    ]
    (tmp_path / "a.png").write_bytes(insert_chunks(imagecodecs.png_encode(SMALL), *parts))
    tracemalloc.start()
    source = read(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert (pixels(source) == SMALL).all()
    assert source.info.metadata.texts == {"Author": "somebody"}
    assert source.info.metadata.icc is None
    assert source.info.metadata.xmp is None


def test_many_texts_have_one_budget(tmp_path: Path) -> None:
    parts = [chunk(b"zTXt", b"Key%d\0\0" % k + zlib.compress(bytes([97]) * 2**20)) for k in range(9)]
    (tmp_path / "a.png").write_bytes(insert_chunks(imagecodecs.png_encode(SMALL), *parts))
    assert list(read(tmp_path / "a.png").info.metadata.texts) == ["Key0", "Key1", "Key2", "Key3"]


@pytest.mark.parametrize(
    "part",
    [
        chunk(b"iCCP", b"icc\0\0garbage"),
        chunk(b"iCCP", b"no zero"),
        chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
        chunk(b"eXIf", b"garbage"),
        chunk(b"pHYs", b"\0"),
        chunk(b"pHYs", bytes(9)),
        chunk(b"tEXt", b"\0no key"),
        chunk(b"zTXt", b"Title\0\0garbage"),
        chunk(b"iTXt", b"Title\0\1\0"),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b""),
        chunk(b"prVt", bytes(100)),
        chunk(b"tEXt", b"Title\0text")[:-1] + b"\0",  # its checksum is wrong
        chunk(b"sRGB", b"\x09") + chunk(b"bKGD", b"") + chunk(b"sBIT", b"\xff"),
    ],
)
def test_a_damaged_chunk_does_not_stop_a_good_png(tmp_path: Path, part: bytes) -> None:
    (tmp_path / "a.png").write_bytes(insert_chunks(imagecodecs.png_encode(SMALL), part))
    source = read(tmp_path / "a.png")
    assert (pixels(source) == SMALL).all()
    assert coded.encode(SMALL, coded.FORMATS[".png"], source.info, 2, None, tmp_path / "b")


@pytest.mark.parametrize(
    "part",
    [
        b"\xff\xe1\0\x0eExif\0\0MM\0*\0\0",
        b"\xff\xe1\0\x08Exif\0\0",
        b"\xff\xe2\0\x12ICC_PROFILE\0\x02\x03ab",  # second of three
        b"\xff\xe2\0\x10ICC_PROFILE\0\x00\x00",
        b"\xff\xe1\0\x1fhttp://ns.adobe.com/xap/1.0/\0",
        b"\xff\xe0\0\x07JFIF\0",
        b"\xff\xfe\0\x02",
        b"\xff\xfe\0\x06\xff\xfe\xfd\x80",
    ],
)
def test_a_damaged_segment_does_not_stop_a_good_jpeg(tmp_path: Path, part: bytes) -> None:
    data = imagecodecs.jpeg8_encode(SMALL, level=95)
    (tmp_path / "a.jpg").write_bytes(data[:2] + part + data[2:])
    source = read(tmp_path / "a.jpg")
    assert (pixels(source) == imagecodecs.jpeg8_decode(data)).all()
    assert source.info.metadata.icc is None
    assert coded.encode(SMALL, coded.FORMATS[".jpg"], source.info, 2, None, tmp_path / "b")


def test_damaged_boxes_do_not_stop_a_good_jpeg_xl(tmp_path: Path) -> None:
    bomb = imagecodecs.brotli_encode(bytes(2**26))
    data = jxl_file(SMALL)
    for part in (box(b"Exif", b"\xff" * 9), box(b"Exif", b""), box(b"brob", b""), box(b"brob", b"Exif?"),
                 box(b"brob", b"xml " + bomb)):  # fmt: skip
        (tmp_path / "a.jxl").write_bytes(data[:32] + part + data[32:])
        source = read(tmp_path / "a.jxl")
        assert (pixels(source) == SMALL).all()
        assert source.info.metadata.exif is None
        assert source.info.metadata.xmp is None
    assert b"jxlc" in top_boxes(data)


def hostile_exif() -> list[bytes]:
    """Return blocks with offsets outside, huge counts, and directories that contain themselves."""

    def block(*entries: tuple[int, int, int, int], order: str = "<", after: int = 0) -> bytes:
        head = b"II*\0" if order == "<" else b"MM\0*"
        listed = b"".join(struct.pack(order + "HHII", *e) for e in entries)
        return head + struct.pack(order + "IH", 8, len(entries)) + listed + struct.pack(order + "I", after)

    top = 2**32 - 1
    return [
        b"",
        b"II*\0",
        b"II*\0\0\0\0\0",
        b"II*\0" + b"\xff" * 4,
        b"II*\0\x08\0\0\0\xff\xff",
        b"II*\0\x04\0\0\0" + bytes(20),  # the folder lies on its own pointer
        block((0x8769, 4, 1, 8)),  # the Exif folder is the first folder
        block((0x8769, 4, 1, top), after=8),
        block((0x010E, 2, top, 8), (0x013B, 2, 5, top), (0x0131, 2, 0, 0)),
        block((0x011A, 5, 1, top), (0x011B, 5, 1, 2)),
        block((0x011A, 5, 1, 0), (0x011B, 5, 1, 4)),  # over the header
        block((0x011A, 5, 1, 8), (0x011B, 5, 1, 12), (0x0112, 3, 1, 6)),  # over the folder
        block((0x011A, 5, top, 8), (0xA002, 3, 7, 1), (0xA002, 9, 1, 1), (0xA003, 4, 0, 1)),
        block((0x0112, 3, 1, 6), (0x0112, 3, 1, 8), (0x0112, 4, 1, top), (0x0112, 2, 4, 1)),
        block((0x9286, 7, 9, 8), (0x8769, 4, 1, 8)),
        block(*[(0x0112, 3, 1, 6)] * 5000, order=">", after=8),
    ]


@pytest.mark.parametrize("k", range(len(hostile_exif())))
def test_hostile_exif(k: int) -> None:
    use_exif(hostile_exif()[k])


def use_exif(block: bytes) -> None:
    assert 1 <= exif.orientation(block) <= 8
    for turned in range(1, 9):
        upright = exif.upright(block, turned)
        assert len(upright) == len(block)
        exif.dpi(upright)
        exif.texts(upright)
        scaled = exif.scaled(upright, 4, (2**32 + 5, 70_000))
        assert len(scaled) == len(block)
        more = exif.completed(scaled, {"Title": "t", "Author": "a"}, (72.0, 1e12), "said")
        if block[:4] in (b"II*\0", b"MM\0*") and len(block) >= 8:
            assert more[8:].startswith(scaled[8:])
        assert "Title" in exif.texts(more)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), order=st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_bytes_as_exif(data: bytes, order: bytes) -> None:
    use_exif(order + data)


@settings(max_examples=300, deadline=None)
@given(places=st.lists(st.tuples(st.integers(8, 800), st.integers(0, 255)), max_size=8))
def test_a_camera_block_changed_anywhere(places: list[tuple[int, int]]) -> None:
    block = bytearray(exif_block())
    for at, value in places:
        block[at % len(block)] = value
    if block[:4] in (b"II*\0", b"MM\0*"):
        use_exif(bytes(block))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_as_structure(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Parsers end, whatever they parse."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    for format_ in set(coded.FORMATS.values()):
        format_.truncated(data)
        format_.animated(data)
        format_.read(data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(integrity, "_HEAD", 10)
            try:
                integrity.declared(path, format_)
            except ImageError as error:
                assert "\n" not in str(error)
    list(png.chunks(data))
    list(isobmff.walk(data, 0, len(data)))
