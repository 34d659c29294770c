"""OME-Zarr and plain Zarr folders are read and written; ome-zarr-models reads the results back."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v05
import pytest
import zarr
from ome_zarr_models.common.omero import Omero

from srcnn_rt import Engine, ImageError, OutputError, RuntimeMissingError
from srcnn_rt.image.info import ImageInfo, Layout
from srcnn_rt.io.registry import page_count
from srcnn_rt.io.zarr import ngff, pyramid
from srcnn_rt.io.zarr import writer as zarr_writer
from srcnn_rt.io.zarr.reader import open_zarr, place_of
from srcnn_rt.io.zarr.writer import create, reopen
from srcnn_rt.tiling.geometry import Span
from tests.conftest import drawing
from tests.helpers.reference import quantise
from tests.helpers.zarrs import ome_zarr, plain_zarr


@pytest.fixture(scope="module")
def engine(integer_model: Callable[..., Any]) -> Engine:
    return Engine(integer_model(2)[0], provider="cpu", tile=32, threads=2)


def upscaled(engine: Engine, source: Any, target: Path, make: Any = create) -> dict[str, Any]:
    """Upscale every plane of a folder into another; return the attributes of the group or array."""
    writer = make(target, source, engine.scale)
    for k in range(source.planes):
        with source.plane(k) as image:
            engine._process(image, writer.page(k), None)
    assert writer.finish() == target
    return dict(json.loads((target / "zarr.json").read_text())["attributes"])


def channels(*colors: str, labels: tuple[str, ...] | None = None, end: float = 255) -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": end}
    listed = [{"color": color, "window": window, "active": True} for color in colors]
    for channel, label in zip(listed, labels or (), strict=False):
        channel["label"] = label
    return {"channels": listed, "rdefs": {"model": "color"}}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_plane_and_channel_by_itself(engine: Engine, tmp_path: Path, version: str, dtype: type) -> None:
    h, w = 45, 62
    data = np.zeros((2, 3, 2, h, w), dtype)
    for t, c, z in np.ndindex(2, 3, 2):
        drawn = drawing(h, w, 1, 100 * t + 10 * c + z)[..., 0]
        data[t, c, z] = np.rint(9 * drawn) / 16 if dtype is np.float32 else quantise(drawn, dtype)
    omero = channels("FF0000", "00FF00", "0000FF", end=99)
    path = ome_zarr(tmp_path / "a.zarr", data, "tczyx", version, omero=omero)
    source = open_zarr(path)
    assert (source.axes, source.planes, page_count(path)) == ("tczyx", 4, 4)
    assert place_of(source.others, 3) == {"t": 1, "z": 1}
    assert source.info.layout == Layout("bands", 3)
    attributes = upscaled(engine, source, tmp_path / "b.zarr.partial")
    result = zarr.open_group(tmp_path / "b.zarr.partial", mode="r")
    assert result["0"].shape == (2, 3, 2, 2 * h, 2 * w)
    assert result["0"].dtype == dtype
    assert result["0"].metadata.dimension_names == tuple("tczyx")
    for t, c, z in np.ndindex(2, 3, 2):
        assert (result["0"][t, c, z] == engine.upscale(data[t, c, z])).all()
    assert attributes["_creator"] == "me"
    assert attributes["ome"]["omero"] == omero
    assert "multiscales" not in attributes


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_another_reader_accepts_the_metadata(engine: Engine, tmp_path: Path, version: str) -> None:
    data = quantise(drawing(150, 140, 2), np.uint8).transpose(2, 0, 1)[:, np.newaxis]
    omero = channels("00FFFF", "FF00FF", labels=("DAPI", "GFP"), end=180)
    where = {"scale": (1.0, 2.5, 0.4, 0.5), "translation": (0.0, 7.0, 100.0, -3.0)}
    path = ome_zarr(tmp_path / "a.zarr", data, "czyx", version, **where, omero=omero)
    upscaled(engine, open_zarr(path), tmp_path / "b.zarr")
    read = ome_zarr_models.v05.Image.from_zarr(zarr.open_group(tmp_path / "b.zarr", mode="r"))
    ome = read.ome_attributes
    assert ome.version == "0.5"
    (multiscale,) = ome.multiscales
    assert [(a.name, a.type, a.unit) for a in multiscale.axes] == [
        ("c", "channel", None),
        ("z", "space", "micrometer"),
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    assert multiscale.name == "cells"
    assert [d.path for d in multiscale.datasets] == ["0", "1"]
    first = multiscale.datasets[0].coordinateTransformations
    assert first[0].scale == [1.0, 2.5, 0.2, 0.25]
    assert first[1].translation == pytest.approx([0.0, 7.0, 99.9, -3.125])
    shown = Omero.model_validate(ome.omero).channels
    assert [c.color for c in shown] == ["00FFFF", "FF00FF"]
    assert [c.window.end for c in shown] == [180, 180]


def places(ome: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (scale, translation) of every level as read by another library."""
    found = []
    for level in ome["multiscales"][0]["datasets"]:
        steps = {step["type"]: np.array(step[step["type"]]) for step in level["coordinateTransformations"]}
        found.append((steps["scale"], steps["translation"]))
    return found


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_landmark_stays_where_it_is(tmp_path: Path, scale: int) -> None:
    y, x = np.mgrid[0:300, 0:310]
    # Wide enough to be visible in every level, and not centred on a pixel.
    spot = np.exp(-((y - 123.3) ** 2 + (x - 187.9) ** 2) / (2 * 12.0**2)).astype(np.float32)
    path = ome_zarr(tmp_path / "a.zarr", spot, "yx", scale=(0.65, 0.5), translation=(10.0, -20.0))
    there = np.array([10 + 0.65 * 123.3, -20 + 0.5 * 187.9])
    with Engine(f"bicubic-x{scale}", provider="cpu", tile=128) as engine:
        ome = upscaled(engine, open_zarr(path), tmp_path / "b.zarr")["ome"]
    levels = places(ome)
    assert len(levels) == {2: 3, 3: 3, 4: 4}[scale]
    group = zarr.open_group(tmp_path / "b.zarr", mode="r")
    for k, (size, place) in enumerate(levels):
        level = group[str(k)][...]
        index = np.indices(level.shape)
        centre = (index * level).sum((1, 2)) / level.sum()
        # A shift of half an HR pixel, the usual mistake, would be at least 0.06.
        assert size * centre + place == pytest.approx(there, abs=0.01)
    # The image covers the same area, so its outer edge has not moved.
    size, place = levels[0]
    assert place - size / 2 == pytest.approx([10 - 0.325, -20 - 0.25])
    assert place + size * (np.array(spot.shape) * scale - 0.5) == pytest.approx(
        [10 + 0.65 * 299.5, -20 + 0.5 * 309.5]
    )


def test_transformations_of_all_levels_are_kept(engine: Engine, tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", np.zeros((20, 20), np.uint8), "yx", "0.5", scale=(2.0, 2.0))
    document = json.loads((path / "zarr.json").read_text())
    common = [{"type": "scale", "scale": [10.0, 10.0]}]
    document["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = common
    (path / "zarr.json").write_text(json.dumps(document))
    ome = upscaled(engine, open_zarr(path), tmp_path / "b.zarr")["ome"]
    assert ome["multiscales"][0]["coordinateTransformations"] == common
    assert places(ome)[0][0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_pyramid_is_means_of_means(tmp_path: Path, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_writer, "CHUNK", 64)
    h, w = 307, 530
    data = quantise(drawing(h, w, 3), np.uint8).astype(dtype).transpose(2, 0, 1)
    source = open_zarr(ome_zarr(tmp_path / "a.zarr", data, "cyx"))
    writer = create(tmp_path / "b.zarr", source, 1)
    block = np.ascontiguousarray(data.transpose(1, 2, 0))
    writer.page(0).write(Span(0, h), Span(0, w), block)
    writer.finish()
    group = zarr.open_group(tmp_path / "b.zarr", mode="r")
    assert sorted(group.array_keys()) == ["0", "1"]
    assert group["1"].chunks == (1, 64, 64)
    padded = np.pad(data, ((0, 0), (0, 1), (0, 0)), mode="edge").astype(np.float64)
    expected = padded.reshape(3, 154, 2, 265, 2).mean((2, 4))
    if dtype is np.float32:
        assert group["1"][...] == pytest.approx(expected, abs=1e-4)
    else:
        assert (group["1"][...] == np.rint(expected)).all()


def test_the_pyramid_takes_bounded_memory(tmp_path: Path) -> None:
    above = zarr.create_array(tmp_path / "0", shape=(6000, 6000), chunks=(512, 512), dtype=np.uint8)
    level = zarr.create_array(tmp_path / "1", shape=(3000, 3000), chunks=(512, 512), dtype=np.uint8)
    tracemalloc.start()
    try:
        pyramid.build(above, level, "yx")
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20  # the level above has 34 MiB
    finally:
        tracemalloc.stop()


def test_sizes_of_levels() -> None:
    assert pyramid.level_sizes((1001, 2003)) == [(1001, 2003), (501, 1002), (251, 501)]
    assert pyramid.level_sizes((256, 9999)) == [(256, 9999), (128, 5000)]
    assert pyramid.level_sizes((255, 9999)) == [(255, 9999)]


def test_means_leave_out_what_is_not_there() -> None:
    nan = np.float32(np.nan)
    plane = np.array([[1, nan, nan, nan], [3, 8, nan, nan], [np.inf, 1, -np.inf, np.inf]], np.float32)
    found = pyramid.halved(plane)
    assert found.dtype == np.float32
    assert found[0, 0] == 4
    assert np.isnan(found[0, 1])
    assert found[1, 0] == np.inf
    assert np.isnan(found[1, 1])
    assert pyramid.halved(np.array([[1, 2], [2, 1]], np.uint8)) == 2  # 1.5, half to even
    assert pyramid.halved(np.full((2, 2), 65535, np.uint16)) == 65535
    assert pyramid.halved(np.full((1, 1), 3, np.uint8)).tolist() == [[3]]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", ["yxc", "cyx", "tyx", "yx"])
def test_a_plain_array_stays_one(engine: Engine, tmp_path: Path, zarr_format: int, axes: str) -> None:
    image = quantise(drawing(45, 62, 3), np.uint8)
    turned = {"yx": (2, 0, 1), "yxc": (0, 1, 2)}.get(axes, (2, 0, 1))
    data = image.transpose(turned) if axes != "yx" else image[..., 0]
    names = list(axes)
    named = {"dimension_names": names} if zarr_format == 3 else {}
    extra = {"_ARRAY_DIMENSIONS": names} if zarr_format == 2 else {}
    path = plain_zarr(
        tmp_path / "a", data, zarr_format, attributes={"who": "me", **extra}, fill_value=7, **named
    )
    source = open_zarr(path)
    assert source.axes == axes
    upscaled(engine, source, tmp_path / "b")
    result = zarr.open_array(tmp_path / "b", mode="r")
    assert (result.metadata.zarr_format, result.fill_value, dict(result.attrs)) == (3, 7, {"who": "me"})
    assert result.metadata.dimension_names == tuple(axes)
    rgb = axes == "yxc"
    expected = engine.upscale(image, bands=not rgb)
    expected = expected.transpose(turned) if axes != "yx" else expected[..., 0]
    assert (result[...] == expected).all()


def test_axes_must_be_named_where_the_shape_does_not_tell(engine: Engine, tmp_path: Path) -> None:
    image = quantise(drawing(30, 40, 3), np.uint8)
    planes = np.moveaxis(image, 2, 0)

    def named_axes(letters: str) -> Path:
        return plain_zarr(tmp_path / letters, planes, dimension_names=list(letters))

    with pytest.raises(ImageError, match=r"such as c, y, x; got the shape \(3, 30, 40\)"):
        open_zarr(plain_zarr(tmp_path / "a", planes))
    assert open_zarr(named_axes("cyx")).plane(0).info.layout == Layout("bands", 3)
    assert open_zarr(named_axes("zyx")).planes == 3
    with pytest.raises(ImageError, match="axes must be 3 letters: y, x"):
        open_zarr(named_axes("cyy"))
    with pytest.raises(ImageError, match="axes must be 3 letters: y, x"):
        open_zarr(named_axes("czy"))
    with pytest.raises(ImageError, match=r"and the names \['a', 'y', 'x'\]"):
        open_zarr(named_axes("ayx"))
    assert open_zarr(plain_zarr(tmp_path / "b", image)).plane(0).info.layout == Layout("rgb", 3)
    named = plain_zarr(tmp_path / "c", image, dimension_names=["Latitude", "lon", "band"])
    assert open_zarr(named).axes == "yxc"
    with pytest.raises(ImageError, match="plane must be from 0 to 0, got 1"):
        open_zarr(named).plane(1)


def test_another_image_becomes_an_ome_zarr(engine: Engine, tmp_path: Path) -> None:
    for channels_, text in ((1, "gray"), (2, "gray + alpha"), (3, "rgb"), (4, "rgb + alpha"), (5, "5 bands")):
        image = quantise(drawing(40, 30, channels_), np.uint16)
        info = ImageInfo((40, 30), Layout.of(channels_), np.dtype(np.uint16))
        target = tmp_path / f"{channels_}.zarr"
        writer = create(target, info, 1)
        sink = writer.page(0)
        sink.write(Span(0, 40), Span(0, 30), image)
        writer.finish()
        read = ome_zarr_models.v05.Image.from_zarr(zarr.open_group(target, mode="r"))
        shown = getattr(read.ome_attributes, "omero", None)
        assert (shown is None) == (text in ("gray", "5 bands"))
        if shown is not None:
            assert len(Omero.model_validate(shown).channels) == channels_
        back = open_zarr(target).plane(0)  # the meaning of the channels is kept
        assert str(back.info.layout) == text
        assert (back.read(Span(0, 40), Span(0, 30)) == image).all()


@pytest.mark.parametrize(
    ("omero", "dtype", "text"),
    [
        (None, np.uint8, "3 bands"),
        (channels("FF0000", "00FF00", "0000FF"), np.uint8, "rgb"),
        (channels("ff0000", "00ff00", "0000ff"), np.uint8, "rgb"),
        (channels("FF0000", "00FF00", "0000FF"), np.uint16, "3 bands"),
        (channels("FF0000", "00FF00", "0000FF", end=99), np.uint8, "3 bands"),
        (channels("FF0000", "00FF00", "0000FF", end=9, labels=("Red", "Green", "Blue")), np.uint16, "rgb"),
        (channels("0000FF", "00FF00", "FF0000"), np.uint8, "3 bands"),
        (channels("FF0000", "00FF00"), np.uint8, "3 bands"),
        ({"channels": [1, 2, 3]}, np.uint8, "3 bands"),
        ({"channels": None}, np.uint8, "3 bands"),
    ],
)
def test_channels_are_bands_unless_they_say_rgb(omero: Any, dtype: type, text: str) -> None:
    assert str(ngff.layout(omero, 3, np.dtype(dtype).name)) == text


def test_nan_is_not_data(engine: Engine, tmp_path: Path) -> None:
    data = np.full((40, 40), np.nan, np.float32)
    data[:20] = 1
    path = plain_zarr(tmp_path / "a", data, fill_value=np.nan)
    source = open_zarr(path)
    assert math.isnan(source.info.nodata)
    upscaled(engine, source, tmp_path / "b")
    result = zarr.open_array(tmp_path / "b", mode="r")
    assert math.isnan(result.fill_value)
    assert np.isfinite(result[:20]).all()
    assert open_zarr(plain_zarr(tmp_path / "c", np.zeros((9, 9), np.uint8))).info.nodata is None


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 3, 40, 1000])
def test_chunks_hold_whole_pixels_and_bounded_bytes(tmp_path: Path, scale: int, count: int) -> None:
    info = ImageInfo((2000, 1900), Layout.of(count, bands=True), np.dtype(np.float32))
    writer = create(tmp_path / "a", info, scale)
    block = writer.page(0).block
    assert block[0] == block[1]
    assert block[0] % scale == 0
    assert block[0] > 1  # chunks are written whole
    assert block[0] ** 2 * count * 4 <= max(zarr_writer.CHUNK_BYTES, (8 * scale) ** 2 * 4000)
    if count == 1:
        assert 256 <= block[0] <= 512


def test_a_run_can_be_resumed(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_writer, "CHUNK", 64)
    data = np.stack([quantise(drawing(150, 140, 1, k)[..., 0], np.uint8) for k in range(2)])
    source = open_zarr(ome_zarr(tmp_path / "a.zarr", data, "tyx"))
    upscaled(engine, source, tmp_path / "whole")
    target = tmp_path / "b.zarr.partial"
    writer = create(target, source, 2)

    class StoppedError(Exception):
        pass

    class Stopping(zarr_writer.PlaneSink):
        def write(self, *args: Any) -> Any:
            if len(records) > 1:
                raise StoppedError
            record = super().write(*args)
            records.append((args[0], args[1], record))
            return record

    records: list[tuple[Span, Span, dict[str, Any]]] = []
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(zarr_writer, "PlaneSink", Stopping)
        engine._process(source.plane(1), writer.page(1), None)
    writer.sync()
    writer.abort()
    done = {p: p.stat().st_mtime_ns for p in target.rglob("0/c/*/*/*") if p.is_file()}
    assert 0 < len(done) < 25
    leftover = next(iter(done)).with_suffix(".0123456789abcdef.partial")  # left by a killed process
    leftover.write_bytes(b"half")
    writer = reopen(target, source, 2)
    assert not leftover.exists()
    assert {p: p.stat().st_mtime_ns for p in done} == done  # nothing was rewritten
    sink = writer.page(1)
    writer.rewind()
    assert len(records) == 2
    for y, x, record in records:
        for check in (True, False):
            assert sink.restore(y, x, record, check=check)
            assert writer.page(0).restore(y, x, record, check=check) is not check  # nothing was written there
    y, x, record = records[0]
    for damaged in (b"", b"garbage"):
        next(sink.files(y, x)).write_bytes(damaged)
        assert not sink.restore(y, x, record, check=True)
    for k in (1, 0):
        engine._process(source.plane(k), writer.page(k), None)
    writer.finish()
    for level in ("0", "1"):
        assert (
            zarr.open_array(target / level, mode="r")[...]
            == zarr.open_array(tmp_path / "whole" / level, mode="r")[...]
        ).all()
    files = [p.relative_to(target) for p in target.rglob("*")]
    assert sorted(files) == sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*"))


def test_only_the_same_run_is_resumed(tmp_path: Path) -> None:
    data = np.zeros((30, 40), np.uint8)
    source = open_zarr(ome_zarr(tmp_path / "a.zarr", data, "yx"))
    with pytest.raises(OutputError, match=r"zarr\.json is missing"):
        reopen(tmp_path / "none", source, 2)
    create(tmp_path / "b", source, 2).abort()
    with pytest.raises(OutputError, match=r"b: cannot be resumed: .*differs from this job's"):
        reopen(tmp_path / "b", source, 3)
    with pytest.raises(OutputError, match="cannot be resumed"):
        reopen(tmp_path / "b", open_zarr(ome_zarr(tmp_path / "c", data, "yx", scale=(3.0, 3.0))), 2)
    (tmp_path / "b" / "zarr.json").write_text("{")
    with pytest.raises(OutputError, match="cannot be resumed"):
        reopen(tmp_path / "b", source, 2)
    with pytest.raises(OutputError, match="already exists and is not empty"):
        create(tmp_path / "b", source, 2)
    with pytest.raises(OutputError, match="cannot be written"):
        create(tmp_path / "no" / "folder", source, 2)


def test_each_chunk_is_written_once_and_whole(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr.storage._local as local

    monkeypatch.setattr(zarr_writer, "CHUNK", 64)
    put, names = local._put, []

    def counted(path: Path, *rest: Any, **options: Any) -> Any:
        names.append(str(path))
        return put(path, *rest, **options)

    data = quantise(drawing(150, 140, 3), np.uint8).transpose(2, 0, 1)
    source = open_zarr(ome_zarr(tmp_path / "a.zarr", data, "cyx"))
    monkeypatch.setattr(local, "_put", counted)
    upscaled(engine, source, tmp_path / "b")
    chunks = [name for name in names if "/c/" in name]
    assert len(set(chunks)) == len(chunks) == 3 * (5 * 5 + 3 * 3)
    assert not list((tmp_path / "b").rglob("*.partial"))


def test_sync_flushes_what_was_written_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = ImageInfo((600, 600), Layout("gray", 1), np.dtype(np.uint8))
    writer = create(tmp_path / "a", info, 2)
    flushed: list[str] = []
    monkeypatch.setattr(pyramid, "_sync", lambda path: flushed.append(path.relative_to(tmp_path).as_posix()))
    sink = writer.page(0)
    assert sink.block == (512, 512)
    sink.write(Span(0, 512), Span(512, 1200), np.ones((512, 688, 1), np.uint8))
    writer.sync()
    assert sorted(flushed) == ["a", "a/0", "a/0/c", "a/0/c/0", "a/0/c/0/1", "a/0/c/0/2"]
    flushed.clear()
    sink.write(
        Span(512, 1024), Span(0, 512), np.zeros((512, 512, 1), np.uint8)
    )  # zarr does not store chunks of the fill value
    writer.sync()
    assert flushed == ["a"]
    writer.finish()
    every = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "a").rglob("*")}
    assert set(flushed) == every | {"a"}


def test_a_mask_is_not_dropped(tmp_path: Path) -> None:
    info = ImageInfo((60, 60), Layout("gray", 1), np.dtype(np.uint8), masked=True)
    with pytest.raises(OutputError, match="a: Zarr cannot store the mask of the image"):
        create(tmp_path / "a", info, 2)


def test_a_full_disk_is_an_output_error(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr.storage._local as local

    def full(*rest: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    source = open_zarr(plain_zarr(tmp_path / "a", quantise(drawing(30, 40, 3), np.uint8)))
    writer = create(tmp_path / "b", source, 2)
    monkeypatch.setattr(local, "_put", full)
    with pytest.raises(OutputError, match="b cannot be written: No space left on device"):
        engine._process(source.plane(0), writer.page(0), None)
    writer.abort()


def test_without_the_package_the_error_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain_zarr(tmp_path / "a", np.zeros((9, 9), np.uint8))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(RuntimeMissingError, match=r'type: pip install "srcnn-rt\[zarr\]"'):
        open_zarr(path)
    monkeypatch.undo()
    monkeypatch.setattr(zarr, "__version__", "2.18.0")
    with pytest.raises(RuntimeMissingError, match=r"needs version 3\.1\.3, got 2\.18\.0"):
        open_zarr(path)
