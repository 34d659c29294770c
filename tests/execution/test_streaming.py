"""Parts handed out as they are finished: the same image, in bounded memory, and an end at any time."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.windows import Window

from srcnn_rt import ArgumentError, Engine, ImageError
from srcnn_rt.execution import streaming
from srcnn_rt.tiling.geometry import Span
from tests.conftest import drawing
from tests.helpers.reference import quantise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def image() -> np.ndarray:
    return quantise(drawing(700, 900, 3), np.uint8)


@pytest.mark.parametrize("from_file", [False, True])
def test_parts_make_the_image(tmp_path: Path, image: np.ndarray, from_file: bool) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64))
    with Engine("bicubic-x2", provider="cpu", tile=128) as engine:
        out = np.zeros((1400, 1800, 3), np.uint8)
        seen = np.zeros((1400, 1800), np.uint8)
        count = 0
        for window, part in engine.stream(tmp_path / "a.tif" if from_file else image):
            out[window] = part
            seen[window] += 1
            count += 1
        assert count > 5
        assert (seen == 1).all()
        assert (out == engine.upscale(image)).all()


def test_parts_are_the_takers_own(image: np.ndarray) -> None:
    with Engine("bicubic-x2", provider="cpu", tile=128) as engine:
        parts = list(engine.stream(image))
        whole = engine.upscale(image)
    assert all((part == whole[window]).all() for window, part in parts)


def test_a_gray_array_has_parts_of_one_channel() -> None:
    with Engine("bicubic-x2", provider="cpu") as engine:
        ((window, part),) = engine.stream(np.zeros((20, 30), np.uint16))
    assert part.shape == (40, 60, 1)
    assert part.dtype == np.uint16
    assert window == (slice(0, 40), slice(0, 60))


def test_work_stops_when_nobody_takes(image: np.ndarray) -> None:
    with Engine("bicubic-x2", provider="cpu", tile=16) as engine:
        parts = engine.stream(image)
        next(parts)
        parts.close()
        assert not [t for t in threading.enumerate() if t.name.startswith(("srcnn-read", "srcnn-write"))]
        assert engine.upscale(image).shape == (1400, 1800, 3)  # the engine is as good as before


def test_work_waits_for_the_taker(image: np.ndarray) -> None:
    """Only some parts are made ahead."""
    made, buffer = [], streaming._PartSink.buffer

    def counted(self: object, y: Span, x: Span) -> np.ndarray:
        made.append(y)
        return buffer(self, y, x)  # type: ignore[arg-type]

    with Engine("bicubic-x2", provider="cpu", tile=16) as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming._PartSink, "buffer", counted)
        parts = engine.stream(image)
        assert not made
        for taken in range(1, 4):
            next(parts)
            before = -1
            while before != len(made):  # until nothing more comes
                before = len(made)
                threading.Event().wait(0.2)
            assert len(made) <= taken + 2
        parts.close()


def test_errors_come_where_the_parts_are_taken(tmp_path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64))
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2])
    with (
        Engine("bicubic-x2", provider="cpu", tile=128) as engine,
        pytest.raises(ImageError, match=r"a\.tif: damaged"),
    ):
        for _ in engine.stream(tmp_path / "a.tif"):
            pass


@pytest.mark.parametrize("model", ["srcnn-915-x2", "bicubic-x3"])
def test_a_region_is_that_part_of_the_whole(image: np.ndarray, model: str) -> None:
    rng = np.random.default_rng(1)
    with Engine(model, provider="cpu", tile=64) as engine:
        s, whole = engine.scale, engine.upscale(image)
        for _ in range(8):
            (y, below), (x, right) = (np.sort(rng.choice(n + 1, 2, replace=False)) for n in (700, 900))
            out = np.zeros((s * (below - y), s * (right - x), 3), np.uint8)
            seen = np.zeros(out.shape[:2], int)
            for window, part in engine.stream(image, region=(slice(y, below), slice(x, right))):
                out[window] = part
                seen[window] += 1
            assert (seen == 1).all()
            expected = whole[s * y : s * below, s * x : s * right]
            assert np.abs(out.astype(int) - expected).max() <= 1
            assert (out == expected).mean() > 0.9999


def test_only_the_region_is_read(tmp_path: Path) -> None:
    """Of a sparse file of 10,000 megapixels declared, a corner."""
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=100_000, height=100_000, count=1, dtype="uint8",
        tiled=True, SPARSE_OK=True, BIGTIFF=True,
    ) as file:  # fmt: skip
        file.write(np.full((1, 100, 100), 9, np.uint8), window=Window(99_900, 99_900, 100, 100))
    with Engine("bicubic-x2", provider="cpu") as engine:
        region = (slice(-120, None), slice(-130, None))
        parts = list(engine.stream(tmp_path / "a.tif", region=region))
    out = np.full((240, 260, 1), 255, np.uint8)
    for window, part in parts:
        out[window] = part
    assert (out[50:, 70:] == 9).all()
    assert (out[:30, :50] == 0).all()


@pytest.mark.parametrize(
    "region", [(slice(5, 5), slice(0, 9)), (slice(0, 9, 2), slice(0, 9)), (slice(0, 9),)]
)
def test_regions_that_are_none(region: tuple[slice, ...]) -> None:
    with Engine("bicubic-x2", provider="cpu") as engine, pytest.raises(ArgumentError, match="region"):
        list(engine.stream(np.zeros((20, 30), np.uint8), region=region))  # type: ignore[arg-type]


def test_sliced_arrays_go_into_sliced_arrays(tmp_path: Path, image: np.ndarray) -> None:
    source = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (3, 700, 900))
    source[:] = image.transpose(2, 0, 1)
    target = np.lib.format.open_memmap(tmp_path / "b.npy", "w+", np.uint8, (3, 1400, 1800))
    with Engine("bicubic-x2", provider="cpu", tile=128) as engine:
        engine.upscale_into(source, target, layout="CHW")
        whole = engine.upscale(image)
        assert (target.transpose(1, 2, 0) == whole).all()
        with pytest.raises(ArgumentError, match="1400"):
            engine.upscale_into(source, target[:, :-1], layout="CHW")


def test_a_sliced_array_is_streamed(image: np.ndarray) -> None:
    class Lazy:
        shape, dtype = image.shape, image.dtype

        def __getitem__(self, key: object) -> np.ndarray:
            part = image[key]  # type: ignore[index]
            assert part.size < image.size
            return part

    with Engine("bicubic-x2", provider="cpu", tile=128) as engine:
        out = np.zeros((1400, 1800, 3), np.uint8)
        for window, part in engine.stream(Lazy()):
            out[window] = part
        assert (out == engine.upscale(image)).all()
