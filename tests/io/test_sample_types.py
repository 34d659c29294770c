"""Every sample type is copied through every container, window by window, and read back by other libraries."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
import zarr

from srcnn_rt import ArgumentError, ImageError, OutputError
from srcnn_rt.image.info import SAMPLE_TYPES, ImageInfo, Layout
from srcnn_rt.io.array_like import SlicedSink, SlicedSource
from srcnn_rt.io.codecs import jxl
from srcnn_rt.io.in_memory import ArraySink, array_source
from srcnn_rt.io.protocols import Sink, Source, StripCache
from srcnn_rt.io.registry import check_holds as holds
from srcnn_rt.io.registry import create_target, open_source
from srcnn_rt.io.spool import SpoolTarget
from srcnn_rt.io.tiff import orientation
from srcnn_rt.io.tiff.writer import TiffTarget
from srcnn_rt.io.zarr.pyramid import halved
from srcnn_rt.io.zarr.reader import open_zarr
from srcnn_rt.io.zarr.writer import create
from srcnn_rt.options import TIFF_COMPRESSIONS, OutputOptions
from srcnn_rt.tiling.geometry import Span
from tests.helpers.tiffs import by_gdal, by_tifffile
from tests.helpers.zarrs import ome_zarr, plain_zarr

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
H, W = 61, 83
# Larger than one of the written tiles, on both axes.
LARGE = (530, 570)
every_type = pytest.mark.parametrize("dtype", SAMPLE_TYPES)
every_order = pytest.mark.parametrize("order", "<>")


def samples(dtype: str, channels: int = 1, shape: tuple[int, int] = (H, W), seed: int = 0) -> np.ndarray:
    """Return random bits of the type, with its smallest and largest value, NaN and infinities."""
    rng = np.random.default_rng(seed)
    size = (*shape, channels)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        values = (rng.standard_normal(size) * 10.0 ** rng.integers(-6, 4, size)).astype(kind)
        found = np.array(
            [np.nan, np.inf, -np.inf, np.finfo(kind).max, np.finfo(kind).smallest_subnormal, -0.0]
        )
    else:
        limits = np.iinfo(kind)
        values = rng.integers(limits.min, limits.max, size, dtype=kind, endpoint=True)
        found = np.array([limits.min, limits.max, 0, 1], np.int64)
    values.reshape(-1)[:: values.size // len(found)][: len(found)] = found.astype(kind)
    return values


def same(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected, equal_nan=expected.dtype.kind == "f")


def windows(info: ImageInfo, block: tuple[int, int]) -> Iterator[tuple[Span, Span]]:
    h, w = info.shape
    bh, bw = (b if b > 1 else 32 for b in block)
    for top in range(0, h, bh):
        for left in range(0, w, bw):
            yield Span(top, min(h, top + bh)), Span(left, min(w, left + bw))


def copy(source: Source, sink: Sink) -> None:
    for y, x in windows(source.info, sink.block):
        part, block = source.read(y, x), sink.buffer(y, x)
        assert part.dtype == block.dtype == source.info.dtype
        block[...] = part
        sink.write(y, x, block, source.read_mask(y, x) if source.info.masked else None)


def read(source: Source) -> np.ndarray:
    """Read a source in windows that are not aligned to anything."""
    assert source.info.dtype.isnative
    out = np.empty((*source.info.shape, source.info.layout.channels), source.info.dtype)
    for y, x in windows(source.info, (23, 37)):
        part = source.read(y, x)
        assert part.dtype == source.info.dtype
        out[y.start : y.stop, x.start : x.stop] = part
    return out


def rewritten(source: Source, target: Path, **how: Any) -> Path:
    holds(target, [source.info], OutputOptions(**how))
    made = create_target(
        target.with_name(f"{target.name}.made"), target, [source.info], 1, OutputOptions(**how)
    )
    copy(source, made.page(0))
    return made.finish().rename(target)


# TIFF


@every_type
@every_order
@pytest.mark.parametrize(
    ("channels", "form"),
    [
        (1, {"rowsperstrip": 7}),
        (3, {"rowsperstrip": 7, "photometric": "rgb"}),
        (1, {"tile": (32, 48)}),
        (3, {"tile": (32, 48), "photometric": "rgb"}),
        (5, {"tile": (32, 48), "photometric": "minisblack", "planarconfig": "separate"}),
        (5, {"rowsperstrip": 9, "photometric": "minisblack", "planarconfig": "separate"}),
        (3, {"rowsperstrip": 7, "photometric": "rgb", "compression": "deflate", "predictor": True}),
        (3, {"tile": (32, 48), "photometric": "rgb", "compression": "lzw", "predictor": True}),
        (1, {"tile": (32, 48), "compression": "zstd", "predictor": True}),
        (1, {"rowsperstrip": 61, "compression": "deflate", "bigtiff": True}),
    ],
)
def test_tiffs_of_others_are_read(
    tmp_path: Path, dtype: str, order: str, channels: int, form: dict[str, Any]
) -> None:
    expected, form = samples(dtype, channels), dict(form)
    given = expected if channels > 1 else expected[..., 0]
    if form.get("planarconfig") == "separate":
        given = np.moveaxis(expected, 2, 0)
    big = {"bigtiff": True} if form.pop("bigtiff", False) else {}
    tifffile.imwrite(tmp_path / "a.tif", given, byteorder=order, metadata=None, **form, **big)
    with open_source(tmp_path / "a.tif") as source:
        assert source.info.top is None
        same(read(source), expected)


@every_type
@pytest.mark.parametrize("compress", TIFF_COMPRESSIONS)
def test_tiffs_are_written(tmp_path: Path, dtype: str, compress: str) -> None:
    for channels, planar in ((1, False), (3, False), (2, True)):
        expected = samples(dtype, channels, LARGE if channels == 1 else (H, W))
        given = np.moveaxis(expected, 2, 0) if planar else expected if channels > 1 else expected[..., 0]
        tifffile.imwrite(
            tmp_path / "a.tif", given, metadata=None, photometric="rgb" if channels == 3 else "minisblack",
            planarconfig="separate" if planar else "contig" if channels > 1 else None,
        )  # fmt: skip
        with open_source(tmp_path / "a.tif") as source:
            made = rewritten(source, tmp_path / "b.tif", compress=compress)
        same(by_tifffile(made), expected)
        same(by_gdal(made).astype(dtype), expected)  # float16 is float32 to GDAL
        with open_source(made) as source:
            same(read(source), expected)
        with tifffile.TiffFile(made) as file:
            page = file.pages[0]
            assert page.dtype == np.dtype(dtype)
            assert page.bitspersample == np.dtype(dtype).itemsize * 8
            predictors = {"none": 1}.get(compress, 3 if expected.dtype.kind == "f" else 2)
            assert page.predictor == predictors
        made.unlink()


@every_type
@pytest.mark.parametrize("cog", [False, True])
def test_overviews_and_statistics_are_of_the_type(tmp_path: Path, dtype: str, cog: bool) -> None:
    expected = samples(dtype, 1, LARGE)
    if expected.dtype.kind == "f":
        expected = np.nan_to_num(expected, posinf=1, neginf=-1).clip(-1e4, 1e4)
    name = "float32" if dtype == "float16" else dtype
    bits = {"nbits": 16} if dtype == "float16" else {}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=LARGE[0], width=LARGE[1], count=1, dtype=name,
        transform=rasterio.Affine(2, 0, 5e5, 0, -2, 5e6), crs="EPSG:32633", **bits,
    ) as file:  # fmt: skip
        file.write(expected[..., 0].astype(name), 1)
        file.build_overviews([2], rasterio.enums.Resampling.average)
        file.update_stats(approx=False)
    with open_source(tmp_path / "a.tif") as source:
        made = rewritten(source, tmp_path / "b.tif", cog=cog)
    same(by_tifffile(made), expected)
    with tifffile.TiffFile(made) as file:
        assert len(file.pages) > 1
        assert {page.dtype for page in file.pages} == {np.dtype(dtype)}
    with rasterio.open(made) as file:
        mean = float(file.tags(1)["STATISTICS_MEAN"])
        assert mean == pytest.approx(expected.mean(dtype=np.float64), rel=1e-6, abs=1e-6)
        level = file.read(1, out_shape=(-(-LARGE[0] // 2), -(-LARGE[1] // 2)))
    quarters = expected[: LARGE[0] // 2 * 2, : LARGE[1] // 2 * 2, 0].astype(np.float64)
    means = quarters.reshape(LARGE[0] // 2, 2, LARGE[1] // 2, 2).mean((1, 3))
    assert np.abs(level - means).max() <= max(0.5, np.abs(means).max() * 1e-3 * (dtype[0] == "f"))


NODATA = [
    ("uint8", 255), ("int8", -128), ("uint16", 65535), ("int16", -9999), ("int16", -32768),
    ("uint32", 2**32 - 1),
    ("int32", -(2**31)), ("int32", -9999), ("float16", -9999.0), ("float16", 65504.0),
    ("float32", float(np.finfo(np.float32).min)), ("float64", -1.7976931348623157e308), ("float64", 0.1),
    ("float64", 1e20), ("float64", float("nan")),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "value"), NODATA)
@pytest.mark.parametrize("cog", [False, True])
def test_nodata_stays_the_same_number(tmp_path: Path, dtype: str, value: float, cog: bool) -> None:
    expected = samples(dtype)
    expected[3:9, 4:8] = np.array(value).astype(dtype)
    tag = f"{value!r}\0" if value == value else "nan\0"
    tifffile.imwrite(
        tmp_path / "a.tif", expected[..., 0], metadata=None, extratags=[(42113, 2, len(tag), tag, True)]
    )
    with open_source(tmp_path / "a.tif") as source:
        assert np.array_equal(source.info.nodata, value, equal_nan=True)
        made = rewritten(source, tmp_path / "b.tif", cog=cog)
    same(by_tifffile(made), expected)
    with rasterio.open(made) as file:
        assert np.array_equal(file.nodata, value, equal_nan=True)
    with tifffile.TiffFile(made) as file:
        assert np.array_equal(float(file.pages[0].tags[42113].value), value, equal_nan=True)


def test_a_nodata_value_that_no_sample_can_be(tmp_path: Path) -> None:
    for dtype, tag in (
        ("int8", "-9999\0"),
        ("int16", "0.5\0"),
        ("int32", "4294967295\0"),
        ("uint32", "-1\0"),
    ):
        array = samples(dtype)[..., 0]
        extra = [(42113, 2, len(tag), tag, True)]
        tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, extratags=extra)
        with open_source(tmp_path / "a.tif") as source:
            assert source.info.nodata is None
            made = rewritten(source, tmp_path / "b.tif")
        with tifffile.TiffFile(made) as file:
            assert file.pages[0].tags[42113].value in (tag.rstrip("\0"), float(tag.rstrip("\0")))


def test_every_float16(tmp_path: Path) -> None:
    """All 65,536 bit patterns are kept, except for payloads of NaN."""
    expected = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(256, 256, 1)
    tifffile.imwrite(tmp_path / "a.tif", expected[..., 0], metadata=None)
    with open_source(tmp_path / "a.tif") as source:
        made = rewritten(source, tmp_path / "b.tif")
    for got in (by_tifffile(made), by_gdal(made).astype(np.float16)):
        there = ~np.isnan(expected)
        assert np.array_equal(got.view(np.uint16)[there], expected.view(np.uint16)[there])
        assert np.isnan(got[~there]).all()


@every_type
def test_a_mask_beside_the_samples(tmp_path: Path, dtype: str) -> None:
    expected, mask = samples(dtype), np.random.default_rng(1).random((H, W)) > 0.5
    name, bits = ("float32", {"nbits": 16}) if dtype == "float16" else (dtype, {})
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", height=H, width=W, count=1, dtype=name, **bits
        ) as file,
    ):
        file.write(expected[..., 0].astype(name), 1)
        file.write_mask(mask)
    with open_source(tmp_path / "a.tif") as source:
        assert source.info.masked
        made = rewritten(source, tmp_path / "b.tif")
    with rasterio.open(made) as file:
        same(file.read(1).astype(dtype), expected[..., 0])
        assert np.array_equal(file.read_masks(1) > 0, mask)


@pytest.mark.parametrize("dtype", ["int8", "float16", "uint32", "float64"])
def test_a_killed_job_goes_on(tmp_path: Path, dtype: str) -> None:
    source = array_source(samples(dtype, 3, LARGE), bands=False, nodata=None)
    target = TiffTarget(tmp_path / "whole", [source.info], 1, "deflate")
    copy(source, target.page(0))
    whole = target.finish().read_bytes()
    target = TiffTarget(tmp_path / "part", [source.info], 1, "deflate")
    sink = target.page(0)
    places = list(windows(source.info, sink.block))
    records = []
    for y, x in places[:2]:
        block = sink.buffer(y, x)
        block[...] = source.read(y, x)
        records.append(json.loads(json.dumps(sink.write(y, x, block))))
    target.abort()
    target = TiffTarget(tmp_path / "part", [source.info], 1, "deflate", resume=True)
    sink = target.page(0)
    assert all(sink.restore(y, x, r, check=True) for (y, x), r in zip(places[:2], records, strict=True))
    target.rewind()
    for y, x in places[2:]:
        block = sink.buffer(y, x)
        block[...] = source.read(y, x)
        sink.write(y, x, block)
    assert target.finish().read_bytes() == whole


@pytest.mark.parametrize("dtype", ["int16", "float16", "float64"])
@pytest.mark.parametrize("room", [0, 2**28])
def test_turned_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, room: int) -> None:
    monkeypatch.setattr(orientation, "IN_MEMORY", room)
    expected = samples(dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", expected[..., 0], metadata=None, rowsperstrip=8, extratags=[(274, 3, 1, 6, True)]
    )
    with open_source(tmp_path / "a.tif") as source:
        same(read(source), np.rot90(expected, -1))


@every_type
def test_strips_are_kept(tmp_path: Path, dtype: str) -> None:
    expected = samples(dtype)
    tifffile.imwrite(tmp_path / "a.tif", expected[..., 0], metadata=None, rowsperstrip=61)
    with open_source(tmp_path / "a.tif") as source:
        cache = StripCache(source)
        for top in range(0, H - 10, 8):
            same(cache.read(Span(top, top + 10), Span(3, 50)), expected[top : top + 10, 3:50])


# Zarr and arrays


@every_type
@pytest.mark.parametrize("kind", ["plain 2", "plain 2 big-endian", "plain 3", "ome 0.4", "ome 0.5"])
def test_zarr_folders(tmp_path: Path, dtype: str, kind: str) -> None:
    expected = samples(dtype, 3)
    stored = np.moveaxis(expected, 2, 0)
    if kind.startswith("plain"):
        stored = stored.astype(stored.dtype.newbyteorder(">")) if "big" in kind else stored
        plain_zarr(tmp_path / "a.zarr", stored.transpose(1, 2, 0).copy(), 2 if "2" in kind else 3)
    else:
        ome_zarr(tmp_path / "a.zarr", stored.copy(), "cyx", kind[-3:])
    image = open_zarr(tmp_path / "a.zarr")
    source = image.plane(0)
    same(read(source), expected)
    writer = create(tmp_path / "b.zarr", image, 1)
    copy(source, writer.page(0))
    made = zarr.open(str(writer.finish()), mode="r")
    level = made if isinstance(made, zarr.Array) else made["0"]
    assert level.dtype == np.dtype(dtype)
    same(level[...] if kind.startswith("plain") else np.moveaxis(level[...], 0, 2), expected)


@every_type
def test_a_tiff_becomes_an_ome_zarr_and_goes_on_after_a_crash(tmp_path: Path, dtype: str) -> None:
    source = array_source(samples(dtype, 1, LARGE), bands=False, nodata=None)
    target = create_target(tmp_path / "a.zarr", Path("b.zarr"), [source.info], 1, OutputOptions())
    sink = target.page(0)
    places = list(windows(source.info, sink.block))
    block = sink.buffer(*places[0])
    block[...] = source.read(*places[0])
    record = sink.write(*places[0], block)
    target.abort()
    target = create_target(
        tmp_path / "a.zarr", Path("b.zarr"), [source.info], 1, OutputOptions(), resume=True
    )
    assert target.page(0).restore(*places[0], record, check=True)
    copy(source, target.page(0))
    made = zarr.open(str(target.finish()), mode="r")
    same(made["0"][...][..., np.newaxis], read(source))
    assert made["1"].dtype == np.dtype(dtype)


@every_type
def test_smaller_levels_are_means(dtype: str) -> None:
    plane = samples(dtype, 1, (40, 60))[..., 0]
    if plane.dtype.kind == "f":
        plane = np.nan_to_num(plane, posinf=1, neginf=-1)
    corners = [plane[i::2, j::2].astype(np.longdouble) / 4 for i in (0, 1) for j in (0, 1)]
    mean = sum(corners)
    got = halved(plane)
    assert got.dtype == plane.dtype
    if plane.dtype.kind == "f":
        largest = np.abs(corners).max(0)
        step = largest * 4 * np.finfo(dtype).eps + np.finfo(dtype).smallest_subnormal
        assert (np.abs(got - mean) <= step).all()
    else:
        assert (got == np.rint(mean)).all()
    full = np.full((4, 4), plane.max())
    assert (halved(full) == full[::2, ::2]).all()


@every_type
@every_order
def test_arrays(dtype: str, order: str) -> None:
    expected = samples(dtype, 3)
    given = expected.astype(expected.dtype.newbyteorder(order))
    for source in (SlicedSource(given), array_source(given, bands=False, nodata=None)):
        same(read(source), expected)
        sink = ArraySink(source.info)
        copy(source, sink)
        same(sink.array, expected)
        out = np.zeros_like(given)
        copy(source, SlicedSink(out, source.info, 1))
        assert out.dtype == given.dtype
        same(out.astype(dtype), expected)


@every_type
def test_a_spool_keeps_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr("srcnn_rt.io.spool.MIN_BYTES", 0)
    source = array_source(samples(dtype, 3), bands=False, nodata=None)
    kept: list[np.ndarray] = []

    def encode(array: np.ndarray) -> bytes:
        kept.append(array.copy())
        return b"coded"

    target = SpoolTarget(tmp_path / "a", source.info, encode)
    copy(source, target.page(0))
    target.finish()
    same(kept[0], read(source))


# Declared bits


def ome_xml(bits: int, kind: str) -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{kind}"'
        f' SizeX="{W}" SizeY="{H}" SizeC="1" SizeZ="2" SizeT="1" SignificantBits="{bits}">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData/>'
        "</Pixels></Image></OME>"
    )


@pytest.mark.parametrize(("dtype", "bits"), [("uint16", 9), ("uint16", 12), ("uint16", 15), ("uint32", 20)])
@pytest.mark.parametrize("cog", [False, True])
def test_fewer_bits_are_declared_on(tmp_path: Path, dtype: str, bits: int, cog: bool) -> None:
    top = 2**bits - 1
    expected = np.random.default_rng(0).integers(0, top, (H, W, 2), dtype, endpoint=True)
    expected[0, 0] = top
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=H, width=W, count=2, dtype=dtype, nbits=bits
    ) as file:
        file.write(expected.transpose(2, 0, 1))
    with open_source(tmp_path / "a.tif") as source:
        assert source.info.top == top
        made = rewritten(source, tmp_path / "b.tif", cog=cog)
    same(by_tifffile(made), expected)
    same(by_gdal(made), expected)
    with tifffile.TiffFile(made) as file:
        assert file.pages[0].tags[281 if bits <= 16 else 341].value == (top, top)
    with open_source(made) as source:
        assert source.info.top == top


@pytest.mark.parametrize(
    ("dtype", "tag", "value", "top"),
    [
        ("uint16", 281, 4095, 4095), ("uint16", 281, 1023, 1023), ("uint16", 281, 255, 255),
        ("int16", 281, 2047, 2047), ("uint32", 281, 65535, 65535), ("uint32", 341, 2**24 - 1, 2**24 - 1),
        # The type's own largest value, the brightest sample of a file, and what is no integer's.
        ("uint16", 281, 65535, None), ("uint8", 281, 255, None), ("uint16", 281, 3871, None),
        ("uint8", 281, 127, None), ("uint16", 281, 0, None), ("float32", 281, 4095, None),
        ("int16", 281, 32767, None),
    ],
)  # fmt: skip
def test_a_largest_value(tmp_path: Path, dtype: str, tag: int, value: int, top: int | None) -> None:
    extra = [(tag, 3 if tag == 281 else 4, 1, value, True)]
    array = (samples("uint8")[..., 0] & 127).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, extratags=extra)
    with open_source(tmp_path / "a.tif") as source:
        assert source.info.top == top
        made = rewritten(source, tmp_path / "b.tif")
    with open_source(made) as source:
        assert source.info.top == top
    same(by_tifffile(made)[..., 0], array)


@pytest.mark.parametrize(
    ("dtype", "bits", "top"),
    [("uint16", 12, 4095), ("uint16", 16, None), ("int16", 12, 2047), ("uint8", 7, 127), ("uint16", 0, None),
     ("uint16", 999, None)],
)  # fmt: skip
def test_significant_bits_of_ome(tmp_path: Path, dtype: str, bits: int, top: int | None) -> None:
    """The description in the first page applies to all pages."""
    array = samples("uint8")[..., 0].astype(dtype) & 127
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(array, description=ome_xml(bits, dtype), metadata=None)
        file.write(array, metadata=None)
    for page in (1, 2):
        with open_source(tmp_path / "a.tif", page) as source:
            assert source.info.top == top
            made = rewritten(source, tmp_path / "b.tif")
        with tifffile.TiffFile(made) as file:
            tag = file.pages[0].tags.get(281)
            assert (tag.value if tag else None) == top
        made.unlink()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with_bits(path: Path, array: np.ndarray, bits: bytes) -> Path:
    coded = bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))
    path.write_bytes(coded[:33] + png_chunk(b"sBIT", bits) + coded[33:])
    return path


def bits_in(path: Path) -> bytes | None:
    data = path.read_bytes()
    at = data.find(b"sBIT")
    return data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")] if at >= 0 else None


def test_significant_bits_of_png(tmp_path: Path) -> None:
    """Samples are scaled to the full depth, as PNG requires, or unscaled, as microscopes write them."""
    codes = np.random.default_rng(0).integers(0, 4096, (H, W, 3)).astype(np.uint16)
    dark = codes % 200
    for array, bits, top in (
        (codes, b"\x0c\x0c\x0c", 4095),
        (codes[..., 0], b"\x0c", 4095),
        (dark, b"\x0c\x0c\x0c", 4095),
        (codes << 4 | codes >> 8, b"\x0c\x0c\x0c", None),
        (codes << 4, b"\x0c\x0c\x0c", None),
        (dark << 4, b"\x0c\x0c\x0c", None),  # none larger than 4095, but all of them spread
        (np.rint(dark * (65535 / 4095)).astype(np.uint16), b"\x0c\x0c\x0c", None),
        (codes, b"\x0c\x0c\x0d", None),
        (codes, b"\x10\x10\x10", None),
        ((codes >> 7).astype(np.uint8), b"\5\5\5", 31),
        ((codes >> 4).astype(np.uint8), b"\5\6\5", None),
    ):
        with open_source(png_with_bits(tmp_path / "a.png", array, bits)) as source:
            assert source.info.top == top
            made = rewritten(source, tmp_path / "b.png")
            assert bits_in(made) == bits
            same(imagecodecs.png_decode(made.read_bytes()), array)
            assert bits_in(rewritten(source, tmp_path / "c.jxl")) is None
        with open_source(made) as source:
            assert source.info.top == top
    for bits in (b"", b"\x0c", b"\x0c\x0c\x0c\x0c", b"\0\0\0", b"\xff\xff\xff", b"\x0c" * 5):
        with open_source(png_with_bits(tmp_path / "a.png", codes, bits)) as source:
            assert source.info.top is None
            assert bits_in(rewritten(source, tmp_path / "b.png")) is None


def test_declared_bits_go_from_format_to_format(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).integers(0, 4096, (H, W, 1)).astype(np.uint16)
    expected[0, 0] = 4095
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=H, width=W, count=1, dtype="uint16", nbits=12
    ) as file:
        file.write(expected[..., 0], 1)
    path = tmp_path / "a.tif"
    for name in ("b.png", "c.zarr", "d.tif", "e.zarr", "f.png"):
        with open_source(path) as source:
            assert source.info.top == 4095, path
            same(read(source), expected)
            path = rewritten(source, tmp_path / name)
    with open_source(path) as source:
        # Viewers show the same brightness.
        coded = rewritten(source, tmp_path / "g.jxl").read_bytes()
        assert jxl.header(coded).bits == 12
        same(imagecodecs.jpegxl_decode(coded)[..., np.newaxis], expected)
        coded = rewritten(source, tmp_path / "h.avif", quality=100).read_bytes()
        assert np.abs(imagecodecs.avif_decode(coded).astype(int).max() - 4095) <= 8
    window = zarr.open(str(tmp_path / "c.zarr"), mode="r").attrs["ome"]["omero"]["channels"][0]["window"]
    assert window == {"min": 0, "max": 4095, "start": 0, "end": 4095}


@pytest.mark.parametrize(
    ("dtype", "minimum", "maximum", "top"),
    [
        ("uint16", 0, 4095, 4095), ("uint16", 0, 65535, None), ("uint16", 0, 3871, None),
        ("uint16", 7, 4095, None),
        ("int16", -2048, 2047, 2047), ("float32", 0, 4095, None), ("uint16", 0, "4095", None),
        ("uint16", 0, float("inf"), None), ("uint16", None, True, None),
        ("uint32", 0, 2**20 - 1.0, 2**20 - 1),
    ],
)  # fmt: skip
def test_windows_of_ome_zarr(tmp_path: Path, dtype: str, minimum: Any, maximum: Any, top: int | None) -> None:
    window = {"min": minimum, "max": maximum, "start": 5, "end": 50}
    channels = [{"label": "a", "color": "FFFFFF", "window": window}] * 2
    array = samples("uint8", 2).astype(dtype)
    path = ome_zarr(
        tmp_path / "a.zarr", np.moveaxis(array, 2, 0).copy(), "cyx", "0.5", omero={"channels": channels}
    )
    with open_source(path) as source:
        assert source.info.top == top
        same(read(source), array)


# What samples mean


def test_white_is_zero(tmp_path: Path) -> None:
    for dtype, maximum in (("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1)):
        array = samples(dtype)
        tifffile.imwrite(tmp_path / "a.tif", array[..., 0], metadata=None, photometric="miniswhite")
        with open_source(tmp_path / "a.tif") as source:
            same(read(source), (maximum - array.astype(np.int64)).astype(dtype))
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=H, width=W, count=1, dtype="uint16", nbits=12,
        photometric="MINISWHITE", nodata=7,
    ) as file:  # fmt: skip
        file.write(samples("uint16")[..., 0] & 4095, 1)
    with open_source(tmp_path / "a.tif") as source:
        assert (source.info.top, source.info.nodata) == (4095, 4088)
        same(read(source), 4095 - (samples("uint16") & 4095))
    # Of signed samples no value is opposite to 0; they stay as they are, and the file says what it said.
    for dtype in ("int8", "int16", "int32", "float16", "float64"):
        array = samples(dtype)
        tifffile.imwrite(tmp_path / "a.tif", array[..., 0], metadata=None, photometric="miniswhite")
        with open_source(tmp_path / "a.tif") as source:
            same(read(source), array)
            made = rewritten(source, tmp_path / "b.tif")
        with tifffile.TiffFile(made) as file:
            assert file.pages[0].photometric == 0
            same(file.pages[0].asarray(), array[..., 0])


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint32", "int32", "float16", "float64"])
def test_premultiplied_alpha(tmp_path: Path, dtype: str) -> None:
    kind = np.dtype(dtype)
    maximum = 1 if kind.kind == "f" else np.iinfo(kind).max
    rng = np.random.default_rng(0)
    color = rng.random((H, W, 3)) - (0 if kind.kind == "u" else 0.5)
    alpha = np.where(rng.random((H, W, 1)) < 0.2, 0, rng.random((H, W, 1)) * 0.5 + 0.5)
    stored = np.concatenate([color * alpha, alpha], 2) * maximum
    stored = stored.astype(kind) if kind.kind == "f" else np.rint(stored).astype(kind)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, metadata=None, photometric="rgb", extrasamples=["assocalpha"]
    )
    with open_source(tmp_path / "a.tif") as source:
        got = read(source)
    assert got.dtype == kind
    there = alpha[..., 0] > 0
    wide = stored.astype(np.longdouble)
    exact = (wide[..., :3] * maximum)[there] / wide[..., 3:][there]
    step = (
        1e-3
        if dtype == "float16"
        else 1e-12
        if kind.kind == "f"
        else 0.5 + maximum * 1e-6 * (maximum < 2**16)
    )
    assert np.abs(got[..., :3][there] - exact).max() <= step
    assert (got[..., :3][~there] == 0).all()
    same(got[..., 3:], stored[..., 3:])


def test_premultiplied_alpha_of_twelve_bits(tmp_path: Path) -> None:
    """Opaque pixels have the alpha 4095."""
    stored = np.full((4, 4, 4), 2000, np.uint16)
    stored[..., 3] = 4095
    stored[2:, :, 3] = 3000
    tifffile.imwrite(
        tmp_path / "a.tif", stored, metadata=None, photometric="rgb", extrasamples=["assocalpha"],
        extratags=[(281, 3, 4, (4095,) * 4, True)],
    )  # fmt: skip
    with open_source(tmp_path / "a.tif") as source:
        got = read(source)
    assert (got[:2, :, :3] == 2000).all()
    assert (got[2:, :, :3] == 2730).all()


def test_twelve_bits_with_a_sign(tmp_path: Path) -> None:
    """GDAL ignores the sign of such samples."""
    expected = np.random.default_rng(0).integers(-2048, 2048, (H, W, 1)).astype(np.int16)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=H, width=W, count=1, dtype="uint16", nbits=12
    ) as file:
        file.write((expected[..., 0] & 4095).astype(np.uint16), 1)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["SampleFormat"].overwrite(2)
    with open_source(tmp_path / "a.tif") as source:
        assert source.info.top == 2047
        same(read(source), expected)
        made = rewritten(source, tmp_path / "b.tif")
    same(by_tifffile(made), expected)
    same(by_gdal(made), expected)


def test_float_samples_of_jpeg_xl(tmp_path: Path) -> None:
    for dtype in ("float16", "float32"):
        array = np.random.default_rng(0).random((H, W, 3)).astype(dtype)
        (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(array, lossless=True))
        with open_source(tmp_path / "a.jxl") as source:
            same(read(source), array)


# What is refused


LIST = ", ".join(SAMPLE_TYPES)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "complex64", "complex128", "bool"])
def test_other_types_are_refused_in_one_line(tmp_path: Path, dtype: str) -> None:
    array = np.ones((H, W), dtype)
    if dtype != "bool":
        tifffile.imwrite(tmp_path / "a.tif", array, metadata=None)
        with pytest.raises(ImageError) as caught:
            open_source(tmp_path / "a.tif")
        assert str(caught.value) == f"{tmp_path / 'a.tif'}: samples must be {LIST}, got {dtype}"
    for version in (2, 3):
        plain_zarr(tmp_path / f"{version}.zarr", array, version)
        with pytest.raises(ImageError, match=f"samples must be {LIST}, got '"):
            open_source(tmp_path / f"{version}.zarr")
    for make in (SlicedSource, lambda a: array_source(a, bands=False, nodata=None)):
        with pytest.raises(ArgumentError, match=f"samples must be {LIST}, got {dtype}$"):
            make(array)


@pytest.mark.parametrize("dtype", [t for t in SAMPLE_TYPES if t not in ("uint8", "uint16")])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".avif", ".jxl"])
def test_a_format_without_the_type_names_others(suffix: str, dtype: str) -> None:
    info = ImageInfo((4, 4), Layout.of(3), np.dtype(dtype))
    with pytest.raises(OutputError) as caught:
        holds(Path(f"b{suffix}"), [info], OutputOptions())
    assert str(caught.value).endswith(f"got {dtype}; write a TIFF or Zarr instead")
    assert "\n" not in str(caught.value)
