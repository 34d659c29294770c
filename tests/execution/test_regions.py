"""A region is that part of the whole, bit for bit, and costs what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from srcnn_rt import ArgumentError, Engine, open_image
from srcnn_rt.execution.planner import plan_for
from srcnn_rt.image.info import ImageInfo, Layout
from srcnn_rt.tiling.geometry import Region, Span
from tests.conftest import drawing
from tests.helpers.models import save, value
from tests.helpers.reference import quantise

Spans = tuple[slice, slice]


def padded_model(path: Path, fixed: int | None = None, multiple: int = 1) -> Path:
    """Three layers that pad, at x2; of one size only, or of multiples by a pooling and its inverse."""
    rng = np.random.default_rng(3)
    weights = {
        "a": (rng.normal(size=(8, 1, 3, 3)) / 4).astype(np.float32),
        "b": (rng.normal(size=(8, 8, 3, 3)) / 12).astype(np.float32),
        "c": (rng.normal(size=(4, 8, 3, 3)) / 12).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["lr", "a"], ["x"], pads=[1] * 4),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Conv", ["y", "b"], ["z"], pads=[1] * 4),
    ]
    last = "z"
    if multiple > 1:
        kernel = (rng.normal(size=(8, 8, multiple, multiple)) / multiple / 3).astype(np.float32)
        weights |= {"down": kernel, "up": kernel}
        nodes.append(helper.make_node("Conv", ["z", "down"], ["small"], strides=[multiple] * 2))
        nodes.append(helper.make_node("ConvTranspose", ["small", "up"], ["large"], strides=[multiple] * 2))
        last = "large"
    nodes.append(helper.make_node("Conv", [last, "c"], ["w"], pads=[1] * 4))
    nodes.append(helper.make_node("DepthToSpace", ["w"], ["hr"], blocksize=2, mode="CRD"))
    inputs = [value("lr", [1, 1, fixed, fixed])] if fixed else None
    outputs = [value("hr", [1, 1, 2 * fixed, 2 * fixed])] if fixed else None
    return save(path, nodes, weights, inputs=inputs, outputs=outputs)


MODELS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "fast kernels, period 2": lambda folder: {"model": "srcnn-915-x2", "provider": "native", "tile": 64},
    "fast kernels, larger period": lambda folder: {"model": "srcnn-955-x2", "provider": "native", "tile": 48},
    "chain of 3x3": lambda folder: {"model": "compact-m4c16-x2", "provider": "native", "tile": 64},
    "x3 by ONNX Runtime": lambda folder: {"model": "srcnn-935-x3", "provider": "cpu", "tile": 32},
    "bicubic": lambda folder: {"model": "bicubic-x3", "provider": "cpu", "tile": 40},
    "pads": lambda folder: {"model": padded_model(folder / "p.onnx"), "provider": "cpu", "tile": 32},
    "pads, multiples of 4": lambda folder: {
        "model": padded_model(folder / "m.onnx", multiple=4), "provider": "cpu", "tile": 32,
    },
    "pads, one size": lambda folder: {
        "model": padded_model(folder / "f.onnx", fixed=48), "provider": "cpu", "tile": 64,
    },
    "whole images": lambda folder: {"model": "srcnn-915-x2", "provider": "cpu", "tile": None},
}  # fmt: skip


def regions(shape: tuple[int, int], count: int, seed: int = 0) -> list[Spans]:
    """The whole, each corner, and some anywhere."""
    rng, (h, w) = np.random.default_rng(seed), shape
    found: list[Spans] = [
        np.s_[0:h, 0:w],
        np.s_[0:1, 0:1],
        np.s_[h - 3 : h, w - 2 : w],
        np.s_[0:40, w - 33 : w],
    ]
    for _ in range(count):
        (y, below), (x, right) = (np.sort(rng.choice(n + 1, 2, replace=False)) for n in shape)
        found.append(np.s_[int(y) : int(below), int(x) : int(right)])
    return found


def streamed(engine: Engine, image: Any, region: Spans, shape: tuple[int, ...], **options: Any) -> np.ndarray:
    """The region's result from its parts, each pixel of which comes once."""
    out, seen = None, np.zeros(shape[:2], int)
    for window, part in engine.stream(image, region=region, **options):
        out = np.zeros((*shape[:2], part.shape[2]), part.dtype) if out is None else out
        out[window] = part
        seen[window] += 1
    assert (seen == 1).all()
    assert out is not None
    return out


def scaled(region: Spans, s: int) -> Spans:
    return np.s_[s * region[0].start : s * region[0].stop, s * region[1].start : s * region[1].stop]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_kind_of_model(kind: str, threads: int, tmp_path: Path) -> None:
    image = quantise(drawing(123, 171, 3), np.uint8)
    if kind.startswith("pads"):
        image = image[:, :, 0]
    with Engine(**MODELS[kind](tmp_path), threads=threads, trust=True) as engine:
        whole = engine.upscale(image)
        whole = whole[:, :, None] if whole.ndim == 2 else whole
        for region in regions(image.shape[:2], 6):
            expected = whole[scaled(region, engine.scale)]
            assert np.array_equal(streamed(engine, image, region, expected.shape), expected)


@pytest.mark.parametrize(
    ("dtype", "channels", "options"),
    [
        (np.uint16, 4, {}),  # colour and alpha
        (np.uint8, 5, {"bands": True}),
        (np.float32, 3, {"nodata": -1.0}),
        (np.float64, 1, {}),
        (np.int16, 1, {"nodata": -7}),
        (np.uint8, 1, {"classes": True}),
    ],
)
@pytest.mark.parametrize("model", ["srcnn-955-x2", "compact-m4c16-x3", "srcnn-915-x4"])
def test_every_kind_of_image(model: str, dtype: type, channels: int, options: dict[str, Any]) -> None:
    """Offsets of floats, filled nodata and transparency depend on the image, not on what is asked for."""
    image = drawing(90, 110, channels)
    if np.dtype(dtype).kind == "f":
        image = (300 + 50 * image).astype(dtype)
    else:
        image = quantise(image, np.uint16 if np.dtype(dtype).itemsize == 2 else np.uint8)
        image = (image // 2).astype(dtype) if dtype == np.int16 else image
    if channels == 4:
        image[20:50, 30:70, 3], image[50:60, :, 3] = 0, 9000
    if "nodata" in options:
        image[10:40, 15:30] = options["nodata"]
        image[70, 80] = options["nodata"]
    with Engine(model, provider="native", tile=36) as engine:
        whole = engine.upscale(image, **options)
        for region in regions(image.shape[:2], 5, seed=channels):
            expected = whole[scaled(region, engine.scale)]
            made = streamed(engine, image, region, expected.shape, **options)
            assert np.array_equal(made, expected, equal_nan=True)


# What it costs, counted


def counted(patch: pytest.MonkeyPatch) -> list[int]:
    """LR pixels of every window that a network computes from now on, with and without margins."""
    from srcnn_rt.backends.host_renderer import HostRenderer

    pixels, render = [0, 0], HostRenderer.render

    def count(self: Any, tiles: Any, chunk: Any) -> None:
        pixels[0] += len(tiles) * int(np.prod(self._plan.tile))
        pixels[1] += len(tiles) * int(np.prod(self._plan.window))
        render(self, tiles, chunk)

    patch.setattr(HostRenderer, "render", count)
    return pixels


@pytest.mark.parametrize("model", ["srcnn-915-x2", "srcnn-955-x2"])
@pytest.mark.parametrize("threads", [1, 16])
@pytest.mark.parametrize("at", [(0, 0), (333, 217)])
def test_a_region_costs_a_region(
    model: str, threads: int, at: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run for real. It was 8 times as much with one thread, and 128 times with sixteen."""
    pixels = counted(monkeypatch)
    image = np.zeros((1000, 1000), np.uint8)
    with Engine(model, provider="native", threads=threads) as engine:
        (y, x), side = at, 512 // engine.scale
        list(engine.stream(image, region=np.s_[y : y + side, x : x + side]))
    assert side**2 <= pixels[0] <= 1.3 * side**2
    assert pixels[1] <= 1.3 * side**2  # with all margins


@settings(deadline=None, max_examples=60)
@given(
    at=st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)),
    side=st.sampled_from([512, 2048]),
    scale=st.sampled_from([1, 2, 3, 4]),
    period=st.sampled_from([1, 2, 3, 4, 6]),
    tile=st.sampled_from([256, 512, 1024]),
    threads=st.sampled_from([1, 2, 4, 8, 16, 64]),
    provider=st.sampled_from(["native", "cpu", "openvino", "cuda"]),
)
def test_at_any_place_and_any_number_of_threads(
    at: tuple[int, int], side: int, scale: int, period: int, tile: int, threads: int, provider: str
) -> None:
    """At most 1.3 times the pixels of 512 x 512, and 1.1 times those of 2048 x 2048."""
    facts = SimpleNamespace(macs=8000.0, y=axis(period), x=axis(period))
    model = SimpleNamespace(
        scale=scale, period=period, margin=6, extra_margin=(0, 0), padded=False, adds_bicubic=False,
        channels=1, facts=facts,
    )  # fmt: skip
    lr = -(-tile // scale // period) * period
    setup: Any = SimpleNamespace(model=model, tile=lr, workers=threads, provider=provider, devices=0)
    (y, x), size = at, side // scale
    region = Region(Span(y, y + size), Span(x, x + size), at)
    sink: Any = SimpleNamespace(block=(1, 1), max_bytes=4 * 2**20)
    info = ImageInfo((30_000, 30_000), Layout.of(3), np.dtype(np.uint8))
    plan = plan_for(setup, info, sink, region)
    chunks = list(plan)
    computed = sum(len(chunk.tiles) for chunk in chunks) * int(np.prod(plan.tile))
    assert size**2 <= computed <= {512: 1.3, 2048: 1.1}[side] * size**2
    assert sum(c.y.size * c.x.size for c in chunks) == size**2


def axis(period: int) -> SimpleNamespace:
    return SimpleNamespace(period=period, multiple=1, minimum=1, fixed=None)


def test_workers_share_a_region() -> None:
    with Engine("srcnn-915-x2", provider="native", threads=4) as engine:
        sink: Any = SimpleNamespace(block=(1, 1), max_bytes=4 * 2**20)
        info = ImageInfo((4000, 4000), Layout.of(3), np.dtype(np.uint8))
        chunks = list(plan_for(engine._setup, info, sink, Region(Span(100, 356), Span(8, 264), (100, 8))))
    assert len(chunks) <= 2  # which are computed at once
    assert sum(len(chunk.tiles) for chunk in chunks) == 4


@pytest.mark.parametrize("tiled", [True, False])
def test_only_what_it_needs_is_read(tmp_path: Path, tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file, the region and its margin; of one in strips too, though GDAL decodes whole rows."""
    from srcnn_rt.io.tiff.reader import RasterSource

    image = quantise(drawing(600, 1500, 3), np.uint8)
    layout: dict[str, Any] = {"tile": (64, 64)} if tiled else {"rowsperstrip": 8}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", **layout)
    read, samples = RasterSource.read, []

    def counting(self: RasterSource, y: Span, x: Span) -> np.ndarray:
        samples.append(y.size * x.size)
        return read(self, y, x)

    monkeypatch.setattr(RasterSource, "read", counting)
    region = np.s_[200:328, 700:828]
    with Engine("srcnn-915-x2", provider="native") as engine:
        made = streamed(engine, tmp_path / "a.tif", region, (256, 256))
        around = engine.margin + max(engine._spec.extra_margin) + engine._spec.period
        assert sum(samples) <= (128 + 2 * around) ** 2
        assert np.array_equal(made, engine.upscale(image)[scaled(region, 2)])


# Into an array


def test_a_region_into_an_array_of_its_size_or_of_the_whole(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    image = quantise(drawing(200, 260, 3), np.uint8)
    region = np.s_[31:157, 90:255]
    with Engine("srcnn-955-x2", provider="native", tile=48, threads=2) as engine:
        whole = engine.upscale(image)
        part = np.zeros((252, 330, 3), np.uint8)
        engine.upscale_into(image, part, region=region)
        assert np.array_equal(part, whole[scaled(region, 2)])
        for name, shape in (("part", part.shape), ("whole", whole.shape)):
            target = zarr.create_array(
                tmp_path / f"{name}.zarr", shape=shape, chunks=(50, 70, 3), dtype="uint8", fill_value=7
            )
            engine.upscale_into(image, target, region=region)
            expected = part
            if name == "whole":
                expected = np.full_like(whole, 7)
                expected[scaled(region, 2)] = part
            assert np.array_equal(target[...], expected)
        with pytest.raises(ArgumentError, match="an array for 330 x 252 x 3 is needed, got 331 x 252 x 3"):
            engine.upscale_into(image, np.zeros((252, 331, 3), np.uint8), region=region)
        with pytest.raises(ArgumentError, match="an array for 520 x 400 x 3 is needed, got 330 x 252 x 3"):
            engine.upscale_into(image, part)


def test_chunks_of_a_target_are_written_once(tmp_path: Path) -> None:
    """Inside the region; those at its edge are shared with what is beside it."""
    image = quantise(drawing(300, 300, 1)[..., 0], np.uint8)

    class Chunked:
        shape, dtype, chunks = (600, 600), np.dtype(np.uint8), (64, 64)

        def __init__(self) -> None:
            self.writes = np.zeros((10, 10), int)

        def __getitem__(self, key: Any) -> Any:
            raise AssertionError("a target is not read")

        def __setitem__(self, key: tuple[slice, slice], values: np.ndarray) -> None:
            rows, columns = (range(k.start // 64, -(-k.stop // 64)) for k in key)
            self.writes[np.ix_(rows, columns)] += 1

    target = Chunked()
    with Engine("bicubic-x2", provider="cpu", tile=20, threads=2) as engine:
        engine.upscale_into(image, target, region=np.s_[40:250, 70:290])
    assert target.writes[1:8, 2:9].max() == 1
    assert target.writes.max() == 1
    assert (target.writes[:1] == 0).all()
    assert target.writes.sum() == 7 * 8


def test_progress_counts_the_region(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    image = np.zeros((300, 300), np.uint8)
    with Engine("bicubic-x2", provider="cpu", tile=32) as engine:
        engine.upscale_into(
            image, np.zeros((200, 160), np.uint8), region=np.s_[50:150, 60:140],
            progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
    assert seen[-1] == (200 * 160, 200 * 160)
    assert {total for _, total in seen} == {200 * 160}


# One source, many regions


def test_an_open_image_serves_many_threads(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    image = (1000 * drawing(400, 500, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64))
    with Engine("srcnn-915-x2", threads=2) as engine, open_image(tmp_path / "a.tif") as opened:
        whole = engine.upscale(image)

        def serve(k: int) -> bool:
            region = np.s_[k * 17 : k * 17 + 60, k * 23 : k * 23 + 70]
            tile = np.zeros((120, 140, 3), np.float32)
            engine.upscale_into(opened, tile, region=region)
            return np.array_equal(tile, whole[scaled(region, 2)])

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(serve, range(16)))


def test_the_whole_image_is_sampled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What normalises floats: a tile server would read a megabyte for every tile."""
    from srcnn_rt.io.tiff.reader import RasterSource

    tifffile.imwrite(tmp_path / "a.tif", drawing(900, 900, 1)[..., 0].astype(np.float32), tile=(64, 64))
    read, count = RasterSource.read, []
    monkeypatch.setattr(RasterSource, "read", lambda self, y, x: count.append(y) or read(self, y, x))
    with Engine("srcnn-915-x2") as engine, open_image(tmp_path / "a.tif") as opened:
        for _ in range(5):
            list(engine.stream(opened, region=np.s_[300:350, 300:350]))
    assert len(count) == 16 + 5


def test_an_open_image_takes_what_says_how_to_read_it(tmp_path: Path) -> None:
    image = quantise(drawing(40, 50, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    with Engine("srcnn-915-x2") as engine:
        with open_image(str(tmp_path / "a.tif"), bands=True) as opened:
            out = np.zeros((80, 100, 3), np.uint8)
            engine.upscale_into(opened, out)
            assert np.array_equal(out, engine.upscale(image, bands=True))
            with pytest.raises(ArgumentError, match=r"a\.tif: is open already; give nodata to open_image"):
                engine.stream(opened, nodata=3)
            assert repr(opened).endswith("a.tif': 50 x 40, 3 bands uint8>")
        with pytest.raises(ArgumentError, match=r"a\.tif: the image is closed"):
            list(engine.stream(opened))
        with pytest.raises(ArgumentError, match=r"a\.tif: alpha is for arrays"):
            engine.upscale_into(tmp_path / "a.tif", out, alpha=True)
        engine.upscale_into(tmp_path / "a.tif", out)
        assert np.array_equal(out, engine.upscale(image))


def test_a_job_needs_the_file_itself(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), np.uint8))
    with (
        Engine("bicubic-x2") as engine,
        open_image(tmp_path / "a.tif") as opened,
        pytest.raises(
            ArgumentError, match=r"a\.tif: is open already; upscale_file takes what open_image takes"
        ),
    ):
        engine.upscale_file(opened, tmp_path / "b.tif")  # type: ignore[arg-type]
