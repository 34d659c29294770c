"""Hostile and damaged Zarr folders are refused in one line that names the folder and the rule."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from srcnn_rt import ArgumentError, ImageError, SourceMissingError
from srcnn_rt.image.info import ImageInfo, Layout
from srcnn_rt.io.array_like import SlicedSink
from srcnn_rt.io.zarr import store
from srcnn_rt.io.zarr.reader import open_zarr
from srcnn_rt.io.zarr.writer import create
from srcnn_rt.tiling.geometry import Span
from tests.conftest import drawing
from tests.helpers.reference import quantise
from tests.helpers.zarrs import ome_zarr, plain_zarr


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def refused(path: Path, rule: str) -> None:
    with pytest.raises(ImageError) as caught:
        source = open_zarr(path).plane(0)
        h, w = source.info.shape
        source.read(Span(0, h), Span(0, w))
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\xff\xfe", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"zarr_format": 4, "node_type": "array"}', "neither an array nor a group of zarr_format 3"),
        ('{"zarr_format": 3, "node_type": "group", "attributes": 3}', "attributes must be an object"),
        ('{"zarr_format": 3, "node_type": "group"}', "a group without multiscales"),
        ('{"zarr_format": 3, "node_type": "array"}', "samples must be uint8, int8, "),
    ],
)
def test_garbage_metadata_are_refused(tmp_path: Path, content: str, rule: str) -> None:
    (tmp_path / "zarr.json").write_bytes(content.encode("latin-1"))
    refused(tmp_path, rule)


def test_what_is_no_zarr_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError):
        open_zarr(tmp_path / "none")
    refused(tmp_path, "it has no zarr.json")
    (tmp_path / "zarr.json").mkdir()
    refused(tmp_path, "must be a plain file")
    (tmp_path / "zarr.json").rmdir()
    with (tmp_path / "zarr.json").open("wb") as file:
        file.truncate(store.MAX_JSON_BYTES + 1)
    refused(tmp_path, "at most 16 MiB")
    (tmp_path / "zarr.json").unlink()
    os.mkfifo(tmp_path / "zarr.json")  # opening a pipe would block forever
    refused(tmp_path, "must be a plain file")


@pytest.mark.parametrize("key", ["bioformats2raw.layout", "plate", "well"])
def test_collections_are_refused(tmp_path: Path, key: str) -> None:
    zarr.create_group(tmp_path / "a", zarr_format=2).attrs.update({key: 3})
    refused(tmp_path / "a", "a collection of images; open one of them, such as")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"shape": [2**40, 2**40]}, "must be at most 16777216"),
        ({"shape": [-1, 5]}, "shape must be a list of whole numbers"),
        ({"shape": "50"}, "shape must be a list of whole numbers"),
        ({"shape": [5.0, 5]}, "shape must be a list of whole numbers"),
        ({"shape": [0, 5]}, "must not be empty"),
        ({"shape": [50]}, "chunks must be 1 sizes"),
        ({"chunks": [2**20, 2**20]}, "a chunk must hold at most 256 MiB"),
        ({"chunks": [0, 5]}, "sizes of at least 1"),
        ({"chunks": [1, 1], "shape": [10_000, 10_000]}, "chunks must not be tiny"),
        ({"chunks": None}, "chunks must be a list"),
        ({"dtype": "|O"}, "float32, float64, got '|O'"),
        ({"dtype": "<i8"}, "got '<i8'"),
        ({"dtype": [["a", "|u1"]]}, "samples must be uint8"),
        ({"filters": [{"id": "pickle"}]}, "the codec 'pickle' is not one of"),
        ({"filters": [{"id": ["pickle"]}]}, "the codec ['pickle'] is not one of"),
        ({"compressor": {"id": "json2"}}, "the codec 'json2' is not one of"),
        ({"compressor": {"id": "zlib", "level": "x\ny"}}, "cannot be read"),
        ({"order": "Q"}, "zarr cannot open it"),
        ({"fill_value": {"a": 1}}, "zarr cannot open it"),
    ],
)
def test_absurd_arrays_of_format_2_are_refused(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    path = plain_zarr(tmp_path / "a", np.ones((50, 50), np.uint8), 2)
    edited(path / ".zarray", lambda document: document.update(change))
    refused(path, rule)


def sharding(chunk: list[int], codec: str = "bytes", index: str = "bytes") -> dict[str, Any]:
    options = {"chunk_shape": chunk, "codecs": [{"name": codec}], "index_codecs": [{"name": index}]}
    return {"codecs": [{"name": "sharding_indexed", "configuration": options}]}


def grid(*chunk: int) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"shape": [2**63, 1]}, "must be at most 16777216"),
        (grid(2**40, 1), "a chunk must hold at most 256 MiB"),
        ({"chunk_grid": {"name": "odd"}}, "the chunk grid must be regular"),
        ({"chunk_grid": {"name": "regular"}}, "chunks must be a list"),
        ({"data_type": "int64"}, "got 'int64'"),
        ({"data_type": {"name": "uint8"}}, "samples must be"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "the codec 'numcodecs.pickle' is not one of"),
        ({"codecs": None}, "codecs must be a list"),
        ({"codecs": []}, "zarr cannot open it"),
        (sharding([5, 5], codec="vlen-bytes"), "the codec 'vlen-bytes' is not one of"),
        (sharding([5, 5], index="vlen-utf8"), "the codec 'vlen-utf8' is not one of"),
        (sharding([5, 5], codec="sharding_indexed"), "the codec 'sharding_indexed' is not one of"),
        ({**sharding([1, 2**40]), **grid(2**30, 2**40)}, "a chunk must hold at most 256 MiB"),
        ({**sharding([64, 64]), **grid(2**30, 2**30)}, "a shard must have at most 1048576 chunks"),
    ],
)
def test_absurd_arrays_of_format_3_are_refused(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    path = plain_zarr(tmp_path / "a", np.ones((50, 50), np.uint8), 3)
    edited(path / "zarr.json", lambda document: document.update(change))
    refused(path, rule)


def test_absurd_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    path = plain_zarr(tmp_path / "a", np.ones((2, 50, 50), np.uint8), 3)
    change: dict[str, Any] = {"shape": [2**20, 50, 50], "dimension_names": ["c", "y", "x"]}
    edited(path / "zarr.json", lambda document: document.update(change))
    refused(path, "c must be at most 1024")
    change["dimension_names"] = ["z", "y", "x"]
    edited(path / "zarr.json", lambda document: document.update(change))
    assert open_zarr(path).planes == 2**20


@pytest.mark.parametrize(
    "name", ["../b/s0", "/etc", "file:///etc", "s0/../../b/s0", "", ".", "..\\b", "s0/", "a\0"]
)
def test_no_path_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    data = np.ones((50, 50), np.uint8)
    ome_zarr(tmp_path / "b", data, "yx")
    path = ome_zarr(tmp_path / "a", data, "yx")
    edited(path / ".zattrs", lambda doc: doc["multiscales"][0]["datasets"][0].update(path=name))
    refused(path, "a path in metadata must be names below the folder")


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    data = np.ones((50, 50), np.uint8)
    other = ome_zarr(tmp_path / "b", data, "yx")
    path = ome_zarr(tmp_path / "a", data, "yx")
    (path / "s0").rename(path / "real")
    (path / "s0").symlink_to(other / "s0")
    refused(path, "leads out of")
    (path / "s0").unlink()
    (path / "s0").symlink_to("real")  # links inside the folder are allowed
    assert (open_zarr(path).plane(0).read(Span(0, 50), Span(0, 50)) == 1).all()
    (path / "real" / ".zarray").rename(tmp_path / "c")
    (path / "real" / ".zarray").symlink_to(tmp_path / "c")
    refused(path, "leads out of")


def test_a_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "a", np.ones((50, 50), np.uint8), "yx")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert (open_zarr(tmp_path / "link").plane(0).read(Span(0, 50), Span(0, 50)) == 1).all()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_and_foreign_chunks_are_refused(tmp_path: Path, zarr_format: int) -> None:
    data = quantise(drawing(50, 50, 1)[..., 0], np.uint8)
    path = plain_zarr(tmp_path / "a", data, zarr_format)
    chunk = path / ("0.0" if zarr_format == 2 else "c/0/0")
    whole = chunk.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"garbage" * 9):
        chunk.write_bytes(damaged)
        refused(path, "cannot be read")
    chunk.unlink()
    source = open_zarr(path).plane(0)  # a missing chunk has the fill value
    assert (source.read(Span(0, 30), Span(0, 30)) == 0).all()
    chunk.symlink_to("/dev/zero")
    refused(path, "must be a plain file")
    chunk.unlink()
    os.mkfifo(chunk)
    refused(path, "must be a plain file")
    chunk.unlink()
    (tmp_path / "outside").write_bytes(whole)
    chunk.symlink_to(tmp_path / "outside")
    refused(path, "leads out of")
    chunk.unlink()
    with chunk.open("wb") as file:
        file.truncate(store.MAX_FILE_BYTES + 1)
    refused(path, "must have at most 512 MiB")


def test_a_large_array_of_nothing_costs_nothing(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(2**24, 2**24), chunks=(512, 512), dtype=np.uint8)
    tracemalloc.start()
    try:
        source = open_zarr(tmp_path / "a").plane(0)
        part = source.read(Span(2**23, 2**23 + 300), Span(2**23, 2**23 + 300))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert part.shape == (300, 300, 1)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda m: m.clear(), "axes must be a list of objects"),
        (lambda m: m.update(axes=["y", "x"]), "axes must be a list of objects with a name (0.4 or 0.5)"),
        (lambda m: m.update(axes=[{"name": "y"}, {"name": "y"}]), "each once, got y, y"),
        (lambda m: m.update(axes=[{"name": "y"}, {"name": "lambda"}]), "got y, lambda"),
        (lambda m: m.update(axes=[{"name": "c"}, {"name": "y"}, {"name": "x"}]), "scale must be 3 numbers"),
        (lambda m: m.update(datasets=[]), "datasets must be a non-empty list"),
        (lambda m: m["datasets"][0].update(path=5), "path must be a string, got 5"),
        (lambda m: m["datasets"][0].update(path="nowhere"), "nowhere"),
        (lambda m: m["datasets"][0].pop("coordinateTransformations"), "coordinateTransformations must be"),
        (
            lambda m: m["datasets"][0].update(coordinateTransformations=[{"type": "affine"}]),
            "must be scale or translation, got 'affine'",
        ),
        (
            lambda m: m["datasets"][0].update(coordinateTransformations=[{"type": "scale", "path": "x"}]),
            "scale must be 2 numbers, got None",
        ),
        (
            lambda m: m["datasets"][0].update(
                coordinateTransformations=[{"type": "scale", "scale": [1, math.inf]}]
            ),
            "scale must be 2 numbers",
        ),
        (
            lambda m: m["datasets"][0].update(
                coordinateTransformations=[{"type": "scale", "scale": [1, 10**400]}]
            ),
            "scale must be 2 numbers",
        ),
    ],
)
def test_wrong_ome_metadata_are_refused(tmp_path: Path, change: Callable[[Any], Any], rule: str) -> None:
    path = ome_zarr(tmp_path / "a", np.ones((50, 50), np.uint8), "yx")
    edited(path / ".zattrs", lambda document: change(document["multiscales"][0]))
    if rule == "nowhere":
        with pytest.raises(SourceMissingError, match="nowhere: no such folder"):
            open_zarr(path)
    else:
        refused(path, rule)


@pytest.mark.parametrize("value", [None, [], {}, [3]])
def test_wrong_multiscales_are_refused(tmp_path: Path, value: Any) -> None:
    path = ome_zarr(tmp_path / "a", np.ones((50, 50), np.uint8), "yx")
    edited(path / ".zattrs", lambda document: document.update(multiscales=value))
    refused(path, "multiscales")


def test_level_0_may_have_other_axes_than_it_says(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a", np.ones((2, 50, 50), np.uint8), "zyx")
    edited(path / "s0" / ".zarray", lambda doc: doc.update(shape=[50, 50], chunks=[40, 40]))
    refused(path, "axes must be 2 letters: y, x and any of t, c, z, each once, got zyx")
    (path / "s0" / ".zarray").unlink()
    (path / "s0" / ".zgroup").write_text('{"zarr_format": 2}')
    refused(path, "level 0 must be an array")


def test_planes_are_sinks_as_arrays_are(tmp_path: Path) -> None:
    """A plane that does not exist and a sink of another size are refused."""
    writer = create(tmp_path / "a", ImageInfo((30, 30), Layout("gray", 1), np.dtype(np.uint8)), 2)
    assert writer.info.shape == (60, 60)
    with pytest.raises(ImageError, match="plane must be from 0 to 0, got 1"):
        writer.page(1)
    with pytest.raises(ArgumentError):
        SlicedSink(writer._levels[0], writer.info.scaled(2), 2)
