"""Invalid directories: reading terminates, stays inside the file, and reports the error in one line."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from srcnn_rt import Engine, ImageError, OutputError
from srcnn_rt.image.info import ImageInfo, Layout
from srcnn_rt.io.registry import check_holds, open_source, page_count
from srcnn_rt.io.tiff import descriptions, ifd, imagej, photoshop
from srcnn_rt.io.tiff.ifd import Directory, Field, Reader
from srcnn_rt.options import OutputOptions
from srcnn_rt.tiling.geometry import Span
from tests.helpers.tiffs import by_tifffile, image_of, write

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class Watched(io.BytesIO):
    """A file that fails on endless or unbounded reads."""

    asked = 0
    got = 0

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        assert size >= 0, "unbounded read"
        assert size <= 64 * 2**20 + 2**17
        self.asked += 1
        assert self.asked < 20_000, "endless reading"
        data = super().read(size)
        self.got += len(data)
        return data


def read_all(data: bytes) -> list[Directory]:
    """Read all directories; must never raise."""
    reader = Reader(Watched(data))
    assert all(p.offset >= 0 for p in reader.pages())
    found = reader.chain()
    found.append(reader.page())
    for directory in found:
        for field in directory.fields:
            field.numbers()
            assert len(field.data) <= 64 * 2**20
            assert field.count * ifd._SIZES[field.type][0] == len(field.data)
    return found


def head(big: bool = False, order: str = "<", *fields: tuple[int, int, int, int], at: int = 0, link: int = 0):
    """Return a header and one directory with (tag, type, count, value) fields."""
    start = (b"II" if order == "<" else b"MM") + struct.pack(
        order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8))
    )
    body = struct.pack(order + ("Q" if big else "H"), len(fields))
    for tag, kind, count, value in fields:
        body += struct.pack(order + ("HHQQ" if big else "HHII"), tag, kind, count, value)
    return start + body + struct.pack(order + ("Q" if big else "I"), link)


def real_heads() -> list[bytes]:
    """Return the heads of valid files of all kinds."""
    out = []
    for options in (
        {"bigtiff": True}, {"byteorder": ">"}, {"byteorder": ">", "bigtiff": True}, {"tile": (16, 16)},
    ):  # fmt: skip
        file = io.BytesIO()
        with tifffile.TiffWriter(file, **{k: v for k, v in options.items() if k != "tile"}) as writer:
            for k in range(3):
                tile = {"tile": options["tile"]} if "tile" in options else {}
                writer.write(
                    image_of(1, np.uint8, 20, 30, k)[..., 0], description="x" * 30, contiguous=False, **tile
                )
        out.append(file.getvalue())
    interoperability = Field(40965, 4, bytes(4), Directory((Field(1, 2, b"R98\0"),)))
    exif = Field(34665, 4, bytes(4), Directory((Field(33434, 5, bytes(8)), interoperability)))
    gps = Field(34853, 4, bytes(4), Directory((Field(2, 5, bytes(24)),)))
    below = Directory((Field(270, 2, b"text\0"), exif, gps))
    for big in (False, True):
        out.append(ifd.encode([below, below, below], big=big))
    return out


REAL = real_heads()


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes(data: bytes) -> None:
    read_all(data)
    for start in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0" + struct.pack("<Q", 16)):
        read_all(start + data)


@given(st.sampled_from(REAL), st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_heads(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        at = draw.draw(st.integers(0, len(changed) - 1))
        new = draw.draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8)]))
        )
        changed[at : at + len(new)] = new
    read_all(bytes(changed[: draw.draw(st.integers(0, len(changed)))]))
    read_all(bytes(changed))


def test_real_heads_are_read_whole() -> None:
    """The tests above would also pass for a reader that finds nothing."""
    for data in REAL[:4]:
        assert len(Reader(io.BytesIO(data)).pages()) == 3
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            for page, directory in zip(file.pages, read_all(data), strict=False):
                assert {t.code for t in page.tags} == {f.tag for f in directory.fields}
                assert directory.get(256).numbers() == (30,)
                assert directory.get(270).data == b"x" * 30 + b"\0"
    for data in REAL[4:]:
        first = Reader(io.BytesIO(data)).page()
        assert first.get(34665).below.get(40965).below.get(1).data == b"R98\0"


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_invalid_fields(big: bool, order: str) -> None:
    top = 2**64 - 1 if big else 2**32 - 1
    own = 16 if big else 8

    def of(*fields: tuple[int, int, int, int], link: int = 0) -> list[Directory]:
        return read_all(head(big, order, *fields, link=link))

    assert not of((270, 2, top, 8))[0].fields  # 2**64 characters
    assert not of((270, 12, top, 8))[0].fields
    assert not of((270, 2, 100, top))[0].fields  # outside the file
    assert not of((270, 2, 100, top - 50))[0].fields
    assert not of((270, 99, 1, 1))[0].fields  # no such type
    assert len(of((256, 4, 1, 7), link=own)) == 2  # a circular chain
    assert len(of((256, 4, 1, 7), link=top)) == 3  # a link past the end
    for tag in (34665, 34853, 40965):  # subdirectories that contain themselves
        found = of((tag, 4, 1, own if order == "<" or big is None else own << (32 if big else 0)))
        assert len(found) >= 1
    reader = Reader(io.BytesIO(head(big, order, (34665, 13, 1, own))))
    assert reader.page() is not None
    table = struct.pack(order + ("Q" if big else "H"), top if big else 65535)
    assert not read_all(head(big, order)[:own] + table)[0].fields
    assert read_all(head(big, order, (256, 4, 1, 7))[:-1])  # truncated
    for cut in range(len(head(big, order, (256, 4, 1, 7)))):
        read_all(head(big, order, (256, 4, 1, 7))[:cut])


@pytest.mark.parametrize("at", [2**63 - 1, 2**63, 2**64 - 1, 2**62])
def test_places_that_no_file_can_have(tmp_path: Path, at: int) -> None:
    """Unlike a buffer in memory, a real file refuses to seek to such offsets."""
    path = tmp_path / "a.tif"
    path.write_bytes(head(True, "<", (256, 4, 1, 7), (270, 2, 100, at), link=at))
    with path.open("rb") as file:
        assert len(Reader(file).chain()) == 2
        assert [f.tag for f in Reader(file).page().fields] == [256]
    whole(path)


def test_many_fields_of_the_same_bytes_take_bounded_memory() -> None:
    """4,096 fields that all claim the same 8 MiB would be 32 GiB."""
    size = 8 * 2**20
    start = head(False, "<", *[(1000 + k, 7, size, 100_000) for k in range(4096)])
    data = start + bytes(100_000 + size - len(start))
    tracemalloc.start()
    reader = Reader(io.BytesIO(data))
    directory = reader.page()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert directory.fields
    assert peak < ifd._MAX_READ + 40 * 2**20


def test_a_long_chain_is_bounded_by_the_file() -> None:
    """Every directory is read once, however they are linked."""
    out = bytearray(b"II*\0\x08\0\0\0")
    for k in range(1000):
        out += struct.pack("<HI", 0, 8 + 6 * ((k * 7 + 1) % 1000))
    read_all(bytes(out))


@given(st.binary(max_size=200), st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_blocks_of_other_programs(data: bytes, scale: int) -> None:
    photoshop.scaled(data, scale, transposed=False)
    photoshop.scaled(b"8BIM\x03\xed\0\0" + data, scale, transposed=True)
    counts = Field(50838, 4, data[: len(data) // 4 * 4])
    for magic in (b"IJIJ", b"JIJI"):
        imagej.fields(Directory((counts, Field(50839, 1, magic + data))))


@given(
    st.text(max_size=200), st.sampled_from(['{"shape": [', "ImageJ=\nimages=", "<OME ", '<OME SizeX="', ""])
)
@settings(max_examples=300, deadline=None)
def test_descriptions(text: str, start: str) -> None:
    whole = start + text
    descriptions.stack_size(whole, 12)
    for complete in (False, True):
        descriptions.scaled(whole, 3, (4, 5), pages=1, complete=complete)


@pytest.mark.timeout(60)
def test_descriptions_take_linear_time() -> None:
    import time

    many = 50_000
    for text in (
        "<OME " + "<ROI " * many,
        "<OME " + "<ROI X=" * many + "</ROI>",
        "<OME " + "<ROI>" + ' X="1"' * many + "</ROI>" * many,
        "<OME" + " UUID" * many,
        "<OME" * many,
        '<OME SizeX="' * many,
        '<OME UUID="u"><' + ' FileName="' * many,
        '<OME UUID="u"' + " " * many + "FileName" + " " * many,
    ):
        start = time.perf_counter()
        descriptions.scaled(text, 2, (4, 5), pages=1, complete=True)
        assert time.perf_counter() - start < 5, text[:20]


# Whole files


def sources(folder: Path) -> list[Path]:
    """Write small files with all structures: masks, overviews, pages, metadata, tiles, strips."""
    rgb = image_of(3)
    a = write(folder / "a.tif", rgb, photometric="RGB", tiled=True, blockxsize=16, blockysize=16,
              compress="deflate", crs="EPSG:32633", nodata=0)  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(a, "r+") as file:
        file.write_mask(rgb[..., 0] > 40)
        file.build_overviews([2])
    with tifffile.TiffWriter(folder / "b.tif", bigtiff=True, byteorder=">") as writer:
        for k in range(3):
            writer.write(rgb[:, :, k], rowsperstrip=9, compression="lzw", contiguous=False)
    tifffile.imwrite(folder / "c.tif", rgb, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    return [folder / f"{n}.tif" for n in "abc"]


def whole(path: Path) -> None:
    """Read all pages and masks; the only exception is an `ImageError` of one line that names the file."""
    try:
        for page in range(1, page_count(path) + 1):
            with open_source(path, page) as source:
                h, w = source.info.shape
                if h * w > 2**22:
                    continue  # a wrong size; reading it in parts is a test too
                source.read(Span(0, h), Span(0, w))
                if source.info.masked:
                    source.read_mask(Span(0, h), Span(0, w))
    except ImageError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)


def test_truncated_anywhere(tmp_path: Path) -> None:
    """Files cut at and between the boundaries of all structures are read, or refused in one line."""
    for source in sources(tmp_path):
        data = source.read_bytes()
        with tifffile.TiffFile(source) as file:
            edges = {0, 1, 7, 8, 15, 16, len(data) - 1}
            for page in file.pages:
                edges |= {page.offset, *page.dataoffsets}
                edges |= {a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=True)}
                for tag in page.tags:
                    edges |= {tag.offset, tag.valueoffset, tag.valueoffset + 2}
        cuts = {min(max(e + d, 1), len(data) - 1) for e in edges for d in (-1, 0, 1)}
        cuts |= set(range(1, len(data), max(1, len(data) // 60)))
        for cut in sorted(cuts):
            path = tmp_path / "cut.tif"
            path.write_bytes(data[:cut])
            if data[:cut][:4] in (b"II*\0", b"MM\0+"):
                whole(path)


@given(st.integers(0, 2), st.data())
@settings(max_examples=150, deadline=None)
def test_files_with_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, which: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "changed"
    if not folder.exists():
        folder.mkdir()
        sources(folder)
    content = bytearray((folder / f"{'abc'[which]}.tif").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, min(len(content), 900) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = folder / "x.tif"
    path.write_bytes(content)
    whole(path)


def test_a_truncated_source_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", image_of(3, np.uint8, 300, 300), photometric="RGB", compress="lzw")
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 2 // 3])
    with (
        Engine("bicubic-x2", provider="cpu", tile=32) as engine,
        pytest.raises(ImageError, match=r"a\.tif: damaged TIFF"),
    ):
        engine.upscale_file(source, tmp_path / "b.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_metadata_that_is_damaged_does_not_stop_the_image(tmp_path: Path) -> None:
    """An EXIF directory outside the file or a truncated profile does not prevent reading the image."""
    image = image_of(3)
    tags = [(34665, "I", 1, 2**31, True), (34853, "I", 1, 8, True), (50838, "I", 2, (2**32 - 1, 5), True)]
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extratags=tags)
    with Engine("bicubic-x2", provider="cpu", tile=32) as engine:
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
        assert (by_tifffile(tmp_path / "b.tif") == engine.upscale(image)).all()


def test_a_result_with_sides_that_gdal_does_not_count(tmp_path: Path) -> None:
    """A case found by fuzzing: a page of 2**30 rows is enlarged."""
    info = ImageInfo((2**31, 48), Layout.of(1), np.dtype(np.uint8))
    with pytest.raises(OutputError, match=r"b\.tif: TIFF sides are at most 2147483647 pixels, got 48 x 2147"):
        check_holds(tmp_path / "b.tif", [info], OutputOptions())
