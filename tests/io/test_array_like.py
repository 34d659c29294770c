"""Array-like objects as sources and sinks: Zarr, HDF5, memory maps, dask."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import pytest
import zarr

from srcnn_rt import ArgumentError, Engine, ImageError, OutputError
from srcnn_rt.image.info import ImageInfo, Layout
from srcnn_rt.io import array_like
from srcnn_rt.io.array_like import SlicedSink, SlicedSource
from srcnn_rt.tiling.geometry import Span
from tests.conftest import drawing
from tests.helpers.reference import quantise

H, W = 61, 83
ORDERS = ["yxc", "cyx", "xcy", "cxy", "ycx", "xyc"]
STORES = ["numpy", "swapped", "memmap", "h5py", "contiguous", "zarr2", "zarr3", "sharded", "dask"]


@pytest.fixture(scope="module")
def engines(integer_model: Callable[..., Any]) -> dict[int, Engine]:
    """Return an engine whose sums are exact in any order, so that results are equal bit for bit."""
    return {
        s: Engine(integer_model(s)[0], provider="cpu", tile=16, threads=2, data_range="dtype") for s in (2, 3)
    }


def through(engine: Engine, source: Any, sink: Any) -> None:
    engine._process(source, sink, None)
    sink.close()


def turned(image: np.ndarray, axes: str) -> np.ndarray:
    """Return an (h, w, C) image in another order of axes."""
    return np.ascontiguousarray(image.transpose(["yxc".index(a) for a in axes]))


def stored(kind: str, folder: Path, data: np.ndarray, chunk: int = 20) -> Any:
    """Return `data` in a store that is read and written through slices."""
    chunks = tuple(min(chunk, n) for n in data.shape)
    if kind == "numpy":
        return data.copy()
    if kind == "swapped":
        return data.astype(data.dtype.newbyteorder(">"))
    if kind == "memmap":
        array: Any = np.memmap(folder / "m", data.dtype.newbyteorder(">"), "w+", shape=data.shape)
    elif kind in ("h5py", "contiguous"):
        array = h5py.File(folder / "m.h5", "w").create_dataset(
            "a", data.shape, data.dtype, chunks=chunks if kind == "h5py" else None
        )
    elif kind == "dask":
        return dask.array.from_array(data, chunks=chunks)
    else:
        shards = tuple(2 * c for c in chunks) if kind == "sharded" else None
        array = zarr.create_array(
            folder / "m.zarr",
            shape=data.shape,
            chunks=chunks,
            shards=shards,
            dtype=data.dtype,
            zarr_format=2 if kind == "zarr2" else 3,
        )
    array[...] = data
    return array


class Spy:
    """An array that records how it is indexed."""

    def __init__(self, data: Any, chunks: tuple[int, ...] | None = None) -> None:
        self.shape, self.dtype, self._data = data.shape, data.dtype, data
        self.chunks = chunks
        self.read: list[tuple[slice, ...]] = []
        self.written: list[tuple[slice, ...]] = []

    def __getitem__(self, key: Any) -> Any:
        self.read.append(key)
        return self._data[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.written.append(key)
        self._data[key] = value


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_every_store_gives_the_same_image(
    engines: dict[int, Engine], tmp_path: Path, kind: str, dtype: type
) -> None:
    if dtype is np.float32:
        image = np.random.default_rng(1).integers(0, 9, (H, W, 3)).astype(np.float32)
    else:
        image = quantise(drawing(H, W), dtype)
    for axes in ORDERS[:3] if kind in ("zarr3", "h5py") else ORDERS[:1]:
        folder = tmp_path / axes
        folder.mkdir()
        source = SlicedSource(stored(kind, folder, turned(image, axes)), axes)
        assert (source.info.shape, source.info.layout) == ((H, W), Layout("rgb", 3))
        assert source.info.dtype == np.dtype(dtype)
        out = np.zeros((2 * H, 2 * W, 3), dtype)
        through(engines[2], source, SlicedSink(out, source.info.scaled(2), 2))
        assert (out == engines[2].upscale(image)).all()


@pytest.mark.parametrize("kind", [k for k in STORES if k != "dask"])
@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("chunk", [50, 64])  # no multiple of 3
def test_every_store_takes_the_same_image(
    engines: dict[int, Engine], tmp_path: Path, kind: str, scale: int, chunk: int
) -> None:
    image = quantise(drawing(H, W), np.uint16)
    expected = engines[scale].upscale(image)
    source = SlicedSource(image)
    for axes in ORDERS if kind == "zarr3" and chunk == 50 else ["cyx"]:
        folder = tmp_path / axes
        folder.mkdir()
        array = stored(kind, folder, np.zeros_like(turned(expected, axes)), chunk)
        through(engines[scale], source, SlicedSink(array, source.info.scaled(scale), scale, axes))
        assert (np.asarray(array[...]) == turned(expected, axes)).all()
        assert array.dtype.newbyteorder("=") == np.uint16


@pytest.mark.parametrize("axes", ["yx", "xy"])
def test_two_axes_are_gray(engines: dict[int, Engine], axes: str) -> None:
    gray = quantise(drawing(H, W, 1), np.uint8)
    source = SlicedSource(turned(gray, axes + "c")[..., 0], axes)
    out = turned(np.zeros((2 * H, 2 * W, 1), np.uint8), axes + "c")[..., 0]
    assert source.info.layout == Layout("gray", 1)
    through(engines[2], source, SlicedSink(out, source.info.scaled(2), 2, axes))
    assert (out == turned(engines[2].upscale(gray), axes + "c")[..., 0]).all()


def test_bands_are_bands(engines: dict[int, Engine]) -> None:
    image = quantise(drawing(H, W, 4), np.uint8)
    assert str(SlicedSource(image).info.layout) == "rgb + alpha"
    source = SlicedSource(turned(image, "cyx"), "cyx", bands=True)
    assert str(source.info.layout) == "4 bands"
    out = np.zeros((4, 2 * H, 2 * W), np.uint8)
    through(engines[2], source, SlicedSink(out, source.info.scaled(2), 2, "cyx"))
    assert (out == turned(engines[2].upscale(image, bands=True), "cyx")).all()


def test_other_axes_have_one_place(engines: dict[int, Engine]) -> None:
    stack = np.stack([quantise(drawing(H, W, 3, k), np.uint8) for k in range(3)])  # zyxc
    out = np.zeros((3, 2 * H, 2 * W, 3), np.uint8)
    source = SlicedSource(stack, "zyxc", at={"z": 2})
    through(engines[2], source, SlicedSink(out, source.info.scaled(2), 2, "zyxc", at={"z": 1}))
    assert (out[1] == engines[2].upscale(stack[2])).all()
    assert not out[0].any()
    assert not out[2].any()


def test_only_the_windows_are_read(engines: dict[int, Engine]) -> None:
    h, w = 200, 300
    spy = Spy(quantise(drawing(h, w), np.uint8))
    out = Spy(np.zeros((2 * h, 2 * w, 3), np.uint8), (64, 64, 3))
    source = SlicedSource(spy)
    sink = SlicedSink(out, source.info.scaled(2), 2)
    sink.max_bytes = 64 * 64 * 3
    through(engines[2], source, sink)
    margin, asked = engines[2].margin, 0
    for y, x, c in spy.read:
        assert (c.start, c.stop) == (0, 3)
        assert y.stop - y.start <= 32 + 2 * margin  # a chunk of 64 HR pixels and what is around it
        asked += (y.stop - y.start) * (x.stop - x.start)
    assert asked < 3.5 * h * w  # margins twice, for chunks this small
    seen = np.zeros((2 * h, 2 * w), int)
    for y, x, _ in out.written:
        seen[y, x] += 1
        assert y.start % 64 == 0
        assert x.start % 64 == 0
        assert y.stop % 64 == 0 or y.stop == 2 * h
        assert x.stop % 64 == 0 or x.stop == 2 * w
    assert (seen == 1).all()


@pytest.mark.parametrize(("chunk", "scale", "block"), [(64, 2, 64), (50, 3, 150), (7, 3, 21), (500, 3, 300)])
def test_blocks_are_whole_chunks_and_whole_pixels(chunk: int, scale: int, block: int) -> None:
    info = ImageInfo((300, 600), Layout("gray", 1), np.dtype(np.uint8))
    sink = SlicedSink(Spy(np.zeros((300, 600), np.uint8), (chunk, chunk)), info, scale)
    assert sink.block[0] == block


def test_shards_are_written_whole(tmp_path: Path) -> None:
    array = stored("sharded", tmp_path, np.zeros((300, 600), np.uint8), 20)
    info = ImageInfo((300, 600), Layout("gray", 1), np.dtype(np.uint8))
    assert SlicedSink(array, info, 3).block == (120, 120)


def test_chunks_too_large_for_a_buffer_are_written_in_parts(
    engines: dict[int, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_like, "BLOCK_BYTES", 10_000)
    image = quantise(drawing(H, W), np.uint8)
    source = SlicedSource(image)
    array = stored("zarr3", tmp_path, np.zeros((2 * H, 2 * W, 3), np.uint8), 64)
    sink = SlicedSink(array, source.info.scaled(2), 2)
    assert sink.block == (1, 1)
    through(engines[2], source, sink)
    assert (array[...] == engines[2].upscale(image)).all()


def test_memory_does_not_grow_with_the_image(engines: dict[int, Engine]) -> None:
    class Endless:
        """An array of any number of rows, which takes no memory."""

        dtype = np.dtype(np.uint8)
        chunks = (64, 64)

        def __init__(self, h: int) -> None:
            self.shape = (h, 512)

        def __getitem__(self, key: Any) -> Any:
            y, x = key
            return np.zeros((y.stop - y.start, x.stop - x.start), np.uint8)

        def __setitem__(self, key: Any, value: Any) -> None:
            pass

    def peak(h: int) -> int:
        source = SlicedSource(Endless(h))
        out = Endless(2 * h)
        out.shape = (2 * h, 1024)
        tracemalloc.start()
        try:
            through(engines[2], source, SlicedSink(out, source.info.scaled(2), 2))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(256)  # what is allocated only once
    small, large = peak(1024), peak(4096)
    assert large < small + 2**19  # the result is 6 MiB larger
    assert large < 2 * array_like.WRITE_BYTES + 2**21


def test_wide_chunks_are_read_as_strips(tmp_path: Path) -> None:
    def rows(shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> bool:
        return SlicedSource(Spy(np.broadcast_to(np.uint8(0), shape), chunks)).by_rows

    assert rows((500, 500), (10, 500))
    assert not rows((500, 500), (10, 250))
    assert not rows((500, 500), None)
    assert not rows((500, 2**19), (1, 2**19))  # a strip would be larger than what it saves
    assert not SlicedSource(dask.array.zeros((50, 50), chunks=(10, 50), dtype=np.uint8)).by_rows


def test_what_is_in_memory_is_filled_in_place() -> None:
    out = np.zeros((8, 8, 3), np.float32)
    sink = SlicedSink(out, ImageInfo((8, 8), Layout("rgb", 3), np.dtype(np.float32)), 2)
    sink.buffer(Span(2, 4), Span(0, 8))[...] = 1
    assert out.sum() == 2 * 8 * 3
    assert sink.in_memory
    assert SlicedSource(out).in_memory
    swapped = SlicedSink(out.astype(">f4"), ImageInfo((8, 8), Layout("rgb", 3), np.dtype(np.float32)), 2)
    assert not swapped.in_memory


def test_closing_flushes(tmp_path: Path) -> None:
    file = h5py.File(tmp_path / "a.h5", "w")
    array = file.create_dataset("a", (8, 8), np.uint8, chunks=(4, 4))
    sink = SlicedSink(array, ImageInfo((8, 8), Layout("gray", 1), np.dtype(np.uint8)), 2)
    block = sink.buffer(Span(0, 8), Span(0, 8))
    block[...] = 5
    sink.write(Span(0, 8), Span(0, 8), block)
    sink.close()
    assert (array[...] == 5).all()  # it is still open
    assert (tmp_path / "a.h5").stat().st_size > 64


@pytest.mark.parametrize(
    ("array", "options", "rule"),
    [
        (np.zeros((4, 4), bool), {}, "float32, float64, got bool"),
        (np.zeros((4, 4), np.int64), {}, "got int64"),
        (np.zeros((4, 4), "U3"), {}, "got <U3"),
        (np.zeros((2, 4, 4, 3), np.uint8), {}, "an array with 4 axes needs axes"),
        (np.zeros((4, 4, 3), np.uint8), {"axes": "yx"}, "name 2 axes, the array has 3"),
        (np.zeros((4, 4, 3), np.uint8), {"axes": "yyx"}, "each once, got 'yyx'"),
        (
            np.zeros((4, 4, 3), np.uint8),
            {"axes": "zyx"},
            "axes must be y, x, optionally c, each once, got 'zyx'",
        ),
        (np.zeros((4, 4, 3), np.uint8), {"axes": "zyx", "at": {"z": 4}}, "z must be from 0 to 3, got 4"),
        (np.zeros((4, 4, 3), np.uint8), {"at": {"z": 0}}, "optionally c and z, each once, got 'yxc'"),
        (np.zeros((0, 4), np.uint8), {}, "must not be empty"),
        (np.zeros((4, 4, 0), np.uint8), {}, "must not be empty"),
        (np.zeros((4, 4, 2), np.uint8), {"layout": Layout("rgb", 3)}, "3 channels, the array 2"),
    ],
)
def test_a_wrong_source_is_refused(array: np.ndarray, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        SlicedSource(array, **options)
    assert rule in str(caught.value)


def test_wrong_types_of_stores_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["flags"] = np.zeros((4, 4), bool)
        file["pairs"] = np.zeros((4, 4), "i2,f4")
        for name, found in (("flags", "got bool"), ("pairs", "got [('f0', '<i2'), ('f1', '<f4')]")):
            with pytest.raises(ArgumentError) as caught:
                SlicedSource(file[name])
            assert found in str(caught.value)
    with pytest.raises(ArgumentError, match="got uint64"):
        SlicedSource(zarr.zeros((4, 4), dtype=np.uint64))

    class Torch:
        shape, dtype = (4, 4), "torch.uint8"

    with pytest.raises(ArgumentError, match=r"got torch\.uint8"):
        SlicedSource(Torch())


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.zeros((8, 9), np.uint8), "an array for 8 x 8 x 1 is needed, got 9 x 8 x 1 (8, 9)"),
        (np.zeros((8, 8, 3), np.uint8), "8 x 8 x 1 is needed, got 8 x 8 x 3"),
        (np.zeros((8, 8), np.uint16), "an array of uint8 is needed, got uint16"),
        (np.zeros((8, 8), np.int64), "got int64"),
        (np.broadcast_to(np.uint8(0), (8, 8)), "got a read-only one"),
    ],
)
def test_a_wrong_sink_is_refused(array: np.ndarray, rule: str) -> None:
    info = ImageInfo((8, 8), Layout("gray", 1), np.dtype(np.uint8))
    with pytest.raises(ArgumentError) as caught:
        SlicedSink(array, info, 2)
    assert rule in str(caught.value)


def test_a_mask_is_not_dropped() -> None:
    info = ImageInfo((8, 8), Layout("gray", 1), np.dtype(np.uint8), masked=True)
    with pytest.raises(ArgumentError, match="cannot hold the image's mask"):
        SlicedSink(np.zeros((8, 8), np.uint8), info, 2)


def test_a_store_that_fails_says_so(engines: dict[int, Engine]) -> None:
    class Broken(Spy):
        def __getitem__(self, key: Any) -> Any:
            raise KeyError("gone\nquite")

        def __setitem__(self, key: Any, value: Any) -> None:
            raise OSError(28, "No space left on device")

    image = np.zeros((64, 64), np.uint8)
    broken, info = Broken(image), ImageInfo((128, 128), Layout("gray", 1), np.dtype(np.uint8))
    with pytest.raises(ImageError, match=r"the array cannot be read: .*gone"):
        through(engines[2], SlicedSource(broken), SlicedSink(np.zeros((128, 128), np.uint8), info, 2))
    sink = SlicedSink(Broken(np.zeros((128, 128), np.uint8)), info, 2, name="x.zarr")
    with pytest.raises(OutputError, match=r"x\.zarr cannot be written: No space left on device"):
        through(engines[2], SlicedSource(image), sink)
