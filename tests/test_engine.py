"""Engine as other people's code uses it."""

from __future__ import annotations

import inspect
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srcnn_rt
from srcnn_rt import ArgumentError, Engine, ImageError
from srcnn_rt.cli.upscale import upscale as upscale_command
from srcnn_rt.execution import overlap
from srcnn_rt.options import EngineArguments
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.reference import quantise

GRAY = quantise(drawing(50, 40, 1)[..., 0], np.uint8)


@pytest.fixture(scope="module")
def small() -> Engine:
    return Engine(TEST_MODEL, provider="cpu", tile=16)


def test_what_an_engine_says_of_itself(small: Engine) -> None:
    assert (small.scale, small.margin, small.tile, small.provider) == (2, 5, 16, "cpu")
    assert small.spec.architecture == "9-1-5"
    assert Engine(provider="cpu").tile == 128
    assert Engine(provider="cpu", tile="auto").tile == 128
    assert Engine("srcnn-915-x4", provider="cpu", tile="auto").tile == 64


def test_an_engine_describes_itself_in_one_line(small: Engine) -> None:
    assert repr(small) == f"<Engine {TEST_MODEL} (x2): cpu, exact, tile 16, {small._options.threads} threads>"
    engine = Engine("bicubic-x3", provider="cpu", tile=None, threads=1)
    engine.close()
    assert repr(engine) == "<Engine bicubic-x3 (x3): cpu, exact, whole images, 1 threads, closed>"
    assert engine.tile > 0 and engine.provider == "cpu"  # what it was can still be asked for


def test_all_arguments_but_the_model_are_given_by_name() -> None:
    parameters = list(inspect.signature(Engine).parameters.values())
    assert parameters[0].name == "model" and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {p.kind for p in parameters[1:]} == {inspect.Parameter.KEYWORD_ONLY}
    named = {p.name: p.default for p in parameters[1:]}
    assert set(named) == set(EngineArguments.__annotations__)
    assert named["tile"] == "auto" == {o.name: o.default for o in upscale_command.params}["tile"]


def test_shape_and_dtype_follow_the_input(small: Engine) -> None:
    for shape in ((9, 8), (9, 8, 1), (9, 8, 2), (9, 8, 3), (9, 8, 4), (9, 8, 7)):
        for dtype in (np.uint8, np.uint16, np.float32):
            out = small.upscale(np.zeros(shape, dtype))
            assert out.shape == (18, 16, *shape[2:])
            assert out.dtype == dtype


def test_any_strides_give_the_same_image(small: Engine) -> None:
    rgb = quantise(drawing(40, 50), np.uint8)
    expected = small.upscale(rgb)
    flipped = np.ascontiguousarray(rgb[:, :, ::-1])[:, :, ::-1]
    planar = np.ascontiguousarray(rgb.transpose(2, 0, 1)).transpose(1, 2, 0)
    frozen = rgb.copy()
    frozen.flags.writeable = False
    for view in (flipped, planar, frozen):
        assert (small.upscale(view) == expected).all()


def test_the_input_is_not_changed(small: Engine) -> None:
    for channels in (1, 3, 4):
        image = drawing(30, 30, channels).astype(np.float32)
        before = image.copy()
        small.upscale(image)
        assert (image == before).all()


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        (np.zeros((4, 4), np.int64), "float32, float64, got int64"),
        (np.zeros((4, 4), np.complex64), "got complex64"),
        (np.zeros((4, 4), ">u8"), "got >u8"),
        (np.zeros((0, 4), np.uint8), "not empty, got (0, 4)"),
        (np.zeros((4, 4, 0), np.uint8), "not empty"),
        (np.zeros((1, 2, 3, 4), np.uint8), "(H, W) or (H, W, C)"),
        (np.zeros(4, np.uint8), "(H, W) or (H, W, C)"),
    ],
)
def test_a_wrong_array_is_refused(small: Engine, image: np.ndarray, rule: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        small.upscale(image)
    assert rule in str(caught.value)


@pytest.mark.parametrize("tile", [7, 0, -1, 1.5, "big", True])
def test_a_wrong_tile_is_refused(tile: object) -> None:
    with pytest.raises(ArgumentError, match="tile must be"):
        Engine(TEST_MODEL, provider="cpu", tile=tile)


def test_wrong_threads_and_provider_are_refused() -> None:
    with pytest.raises(ArgumentError, match="threads must be at least 1, got 0"):
        Engine(TEST_MODEL, provider="cpu", threads=0)
    with pytest.raises(ArgumentError, match="provider must be one of auto, cpu, cuda, native, openvino, got"):
        Engine(TEST_MODEL, provider="tpu")


def test_a_closed_engine_says_so() -> None:
    with Engine(TEST_MODEL, provider="cpu") as e:
        e.upscale(GRAY)
    with pytest.raises(ArgumentError, match="the engine is closed"):
        e.upscale(GRAY)


def test_several_threads_share_one_engine(small: Engine) -> None:
    images = [quantise(drawing(40 + k, 60 - k, 1 + k % 4), np.uint8) for k in range(12)]
    expected = [small.upscale(p) for p in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for got, want in zip(pool.map(small.upscale, images), expected, strict=True):
                assert (got == want).all()


def test_progress_ends_at_the_whole(small: Engine) -> None:
    seen: list[tuple[int, int]] = []
    small.upscale(GRAY, progress=lambda done, total: seen.append((done, total)))
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1] == (8000, 8000)


def test_an_error_in_progress_reaches_the_caller(small: Engine) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.upscale(GRAY, progress=stop)
    assert small.upscale(GRAY).shape == (100, 80)


def test_no_global_state_is_touched(tmp_path: Path) -> None:
    import logging
    import warnings

    import cv2
    import rasterio  # noqa: F401  (importing either sets variables of its own)

    def state() -> tuple[object, ...]:
        return (
            dict(os.environ),
            cv2.getNumThreads(),
            logging.root.level,
            list(logging.root.handlers),
            list(warnings.filters),
            np.geterr(),
            threading.active_count(),
        )

    before = state()
    cv2.imwrite(str(tmp_path / "a.png"), GRAY)
    with Engine(TEST_MODEL, provider="cpu") as e:
        e.upscale_file(tmp_path / "a.png", tmp_path / "b.tif")
    assert state() == before


def test_a_colour_model_takes_gray_and_refuses_bands(integer_model) -> None:
    path, _ = integer_model(2, (9, 1, 5), 3)
    with Engine(path, provider="cpu", tile=16, data_range="dtype") as e:
        gray = GRAY.astype(np.float32)
        rgb = np.repeat(gray[..., None], 3, axis=2)
        assert np.allclose(e.upscale(gray), e.upscale(rgb).mean(axis=2), atol=1e-3)
        assert e.upscale(np.dstack([rgb, gray])).shape == (100, 80, 4)
        with pytest.raises(ImageError, match="a colour model takes gray or RGB images, got 5 bands"):
            e.upscale(np.zeros((9, 9, 5), np.uint8))


def test_a_model_with_a_fixed_batch_and_a_period(tmp_path: Path) -> None:
    """A strided last layer (period 4 in HR) and exactly three windows a run."""
    from onnx import helper

    from tests.helpers import models

    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-1, 2, (4, 1, 6, 6)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["lr", "w"], ["c"], strides=[2, 2]),
        helper.make_node("DepthToSpace", ["c"], ["hr"], blocksize=2),
    ]
    path = models.save(
        tmp_path / "strided.onnx", nodes, weights, inputs=[models.value("lr", [3, 1, "h", "w"])]
    )
    image = rng.integers(0, 9, (45, 33)).astype(np.float32)
    results = []
    for tile in (9, 14, 512):
        with Engine(path, provider="cpu", tile=tile, data_range="dtype") as e:
            assert (e.scale, e.margin, e.spec.period, e.spec.batch) == (1, 2, 2, 3)
            assert e.tile % 2 == 0
            results.append(e.upscale(image))
    assert results[0].shape == (45, 33)
    assert (results[0] == results[2]).all()
    assert (results[1] == results[2]).all()


def test_upscale_function() -> None:
    assert srcnn_rt.upscale(GRAY, "bicubic-x3", provider="cpu").shape == (150, 120)


def resolved(value: int) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(value)
    return future


def run_overlapped(*words: Any, **options: Any) -> None:
    for _ in overlap.overlap(*words, **options):
        pass


def test_overlap_keeps_order() -> None:
    written: list[tuple[int, int]] = []
    counted: list[int] = []
    run_overlapped(
        range(9),
        lambda i: i * 10,
        lambda i, p: (p + i, [resolved(i), resolved(1)]),
        lambda i, r: written.append((i, r)),
        counted.append,
    )
    assert written == [(i, 11 * i) for i in range(9)]
    assert counted == [n for i in range(9) for n in (i, 1)]


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("stage", ["read", "start", "compute", "write"])
def test_overlap_stops_at_the_first_error(stage: str, background: bool) -> None:
    done: list[int] = []

    def maybe(name: str, i: int) -> int:
        if name == stage and i == 3:
            raise OSError(stage)
        return i

    with ThreadPoolExecutor(2) as pool, pytest.raises(OSError, match=stage):
        run_overlapped(
            range(9),
            lambda i: maybe("read", i),
            lambda i, _: (maybe("start", i), [pool.submit(maybe, "compute", i)]),
            lambda i, _: done.append(maybe("write", i)),
            background=background,
        )
    assert done in ([0, 1], [0, 1, 2])  # what was being filled when it happened is not written


def test_overlap_leaves_no_work_behind() -> None:
    """After an error nothing runs that could still touch a buffer."""
    running = threading.Event()
    finished: list[int] = []

    def slow(i: int) -> int:
        running.set()
        time.sleep(0.05)
        finished.append(i)
        return i

    def write(item: int, result: int) -> None:
        raise OSError("disk")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(OSError, match="disk"):
            run_overlapped(
                range(9), lambda i: i, lambda i, p: (p, [pool.submit(slow, i) for _ in range(3)]), write
            )
        count = len(finished)
        time.sleep(0.2)
    assert running.is_set()
    assert len(finished) == count


def test_a_buffer_is_written_before_it_is_filled_again() -> None:
    """Two buffers take turns: result k must be stored before the start of k + 2."""
    stored: list[int] = []
    seen: list[bool] = []

    def start(i: int, part: int) -> tuple[int, list[Future[int]]]:
        seen.append(i < 2 or i - 2 in stored)
        return part, [resolved(1)]

    def write(i: int, _: int) -> None:
        time.sleep(0.01)
        stored.append(i)

    run_overlapped(range(12), lambda i: i, start, write)
    assert all(seen)
    assert stored == list(range(12))
