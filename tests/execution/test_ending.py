"""Runs that end early: cancelled, abandoned, closed. What ran stops, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from onnx import helper

from srcnn_rt import (
    ArgumentError,
    CancelledError,
    ClosedError,
    Engine,
    ImageError,
    OutputError,
    SourceMissingError,
    SrcnnError,
)
from srcnn_rt.backends.host_renderer import HostRenderer
from srcnn_rt.execution import overlap
from srcnn_rt.execution.ending import Ending, Runs
from tests.conftest import drawing
from tests.helpers import models
from tests.helpers.reference import quantise

IMAGE = quantise(drawing(400, 500, 1)[..., 0], np.uint8)


class Renders:
    """Counts windows that begin and those that are finished, and calls a function when one begins."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun = self.finished = 0
        self.errors: list[str] = []
        self.called: Callable[[int], None] = lambda begun: None
        self._lock, render = threading.Lock(), HostRenderer.render

        def counted(renderer: HostRenderer, tiles: Any, chunk: Any) -> None:
            with self._lock:
                self.begun += 1
                begun = self.begun
            self.called(begun)
            try:
                render(renderer, tiles, chunk)
            except SrcnnError as error:
                self.errors.append(str(error))
                raise
            self.finished += 1

        patch.setattr(HostRenderer, "render", counted)


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> Renders:
    return Renders(monkeypatch)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine("srcnn-915-x2", provider="cpu", tile=20, threads=2) as made:
        yield made


WAYS: dict[str, Callable[[Engine, Path, threading.Event], Any]] = {
    "upscale": lambda e, folder, cancel: e.upscale(IMAGE, cancel=cancel),
    "upscale_into": lambda e, folder, cancel: e.upscale_into(
        IMAGE, np.zeros((800, 1000), np.uint8), cancel=cancel
    ),
    "upscale_file": lambda e, folder, cancel: e.upscale_file(
        folder / "a.tif", folder / "b.tif", cancel=cancel
    ),
    "upscale_bytes": lambda e, folder, cancel: e.upscale_bytes(
        (folder / "a.tif").read_bytes(), cancel=cancel
    ),
    "stream": lambda e, folder, cancel: list(e.stream(folder / "a.tif", cancel=cancel)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_cancelled(way: str, engine: Engine, renders: Renders, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, tile=(64, 64))
    cancel = threading.Event()
    renders.called = lambda begun: cancel.set() if begun == 4 else None
    with pytest.raises(CancelledError, match="the run was cancelled"):
        WAYS[way](engine, tmp_path, cancel)
    assert renders.begun <= 6  # those that both threads were about to begin
    renders.called = lambda begun: None
    WAYS[way](engine, tmp_path / ".", threading.Event()) if way != "upscale_file" else None
    with pytest.raises(CancelledError):  # before it began
        WAYS[way](engine, tmp_path, cancel)


def test_a_cancelled_file_is_gone_on_with(engine: Engine, renders: Renders, tmp_path: Path) -> None:
    """What was finished is kept, as after Ctrl-C."""
    image = quantise(drawing(700, 700, 1)[..., 0], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64))
    engine.upscale_file(tmp_path / "a.tif", tmp_path / "whole.tif")
    every = renders.begun
    cancel = threading.Event()
    renders.called = lambda begun: cancel.set() if begun == every + every // 2 else None
    with pytest.raises(CancelledError):
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif", cancel=cancel)
    assert not (tmp_path / "b.tif").exists()
    before = renders.begun
    engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif", resume=True)
    assert renders.begun - before < every
    assert (tmp_path / "b.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def deep_model(path: Path) -> Path:
    """400 layers: a window takes seconds, between two layers only milliseconds pass."""
    rng = np.random.default_rng(0)
    weights = {"w": (rng.normal(size=(16, 16, 3, 3)) / 12).astype(np.float32)}
    weights |= {"first": np.ones((16, 1, 1, 1), np.float32), "last": np.ones((1, 16, 1, 1), np.float32)}
    nodes = [helper.make_node("Conv", ["lr", "first"], ["c0"])]
    for k in range(400):
        nodes.append(helper.make_node("Conv", [f"c{k}", "w"], [f"c{k + 1}"], f"conv{k}", pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Conv", ["c400", "last"], ["hr"]))
    return models.save(path, nodes, weights)


@pytest.mark.parametrize("provider", ["native", "cpu", "openvino"])
def test_a_long_window_ends_too(provider: str, tmp_path: Path, renders: Renders) -> None:
    """The runtime stops within a window, and one of another image on the same engine goes on."""
    native = provider == "native"
    model = "srcnn-955-x2" if native else deep_model(tmp_path / "deep.onnx")
    image = np.zeros((2500, 2500) if native else (700, 700), np.uint8)
    small = quantise(drawing(100, 90, 1)[..., 0], np.uint8)
    cancel = threading.Event()
    with Engine(model, provider=provider, tile=None, threads=1) as engine:
        expected = engine.upscale(small)
        renders.begun = renders.finished = 0
        engine._running.get().pool._max_workers = 2  # for both images at once
        with ThreadPoolExecutor(1) as pool:

            def called(begun: int) -> None:
                if begun == 1:  # the large one runs now
                    threading.Timer(0.3, cancel.set).start()
                    other.append(pool.submit(engine.upscale, small))

            other: list[Future[np.ndarray]] = []
            renders.called = called
            with pytest.raises(CancelledError):
                engine.upscale(image, cancel=cancel)
            assert np.array_equal(other[0].result(), expected)
    assert len(renders.errors) == 1
    assert (
        "interrupted" in renders.errors[0]
        or "terminate" in renders.errors[0]
        or "cancel" in renders.errors[0].lower()
    )
    assert renders.finished == 1


def open_files() -> int:
    """How many descriptors this process has; 0 where unknown."""
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_an_abandoned_stream_stops(how: str, engine: Engine, renders: Renders, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, tile=(64, 64))
    before = open_files()
    parts = engine.stream(tmp_path / "a.tif")
    next(parts)
    if how == "closed":
        parts.close()  # type: ignore[attr-defined]
    del parts
    gc.collect()
    begun, finished = renders.begun, renders.finished
    threading.Event().wait(0.2)
    assert (renders.begun, renders.finished) == (begun, finished)
    assert open_files() == before
    assert not [t for t in threading.enumerate() if t.name.startswith(("srcnn-read", "srcnn-write"))]


def test_a_stream_that_was_never_begun_holds_no_file(engine: Engine, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, tile=(64, 64))
    before = open_files()
    parts = engine.stream(tmp_path / "a.tif")
    assert open_files() > before or sys.platform != "linux"
    parts.close()  # type: ignore[attr-defined]
    assert open_files() == before


def test_a_source_that_is_missing_is_missed_at_the_call(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match="no such file") as caught:
        engine.stream(tmp_path / "none.tif")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(ArgumentError, match="holds no pixel"):
        engine.stream(IMAGE, region=(slice(5, 5), slice(0, 9)))
    with pytest.raises(ArgumentError, match=r"cancel must be a threading\.Event"):
        engine.stream(IMAGE, cancel=True)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="data range"):
        engine.stream(IMAGE, data_range="?")


# An engine that is closed


def test_a_closed_engine_ends_what_others_do(renders: Renders) -> None:
    engine = Engine("srcnn-915-x2", provider="cpu", tile=20, threads=2)
    waiting = engine.stream(IMAGE)
    next(waiting)
    began = threading.Event()
    renders.called = lambda begun: began.set()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(engine.upscale, np.tile(IMAGE, (4, 4))) for _ in range(2)]
        assert began.wait(60)
        engine.close()
        for run in runs:
            with pytest.raises(ClosedError, match="the engine is closed"):
                run.result()
    with pytest.raises(ClosedError, match="the engine is closed"):
        list(waiting)
    begun = renders.begun
    threading.Event().wait(0.2)
    assert renders.begun == begun


@pytest.mark.parametrize(
    "call",
    [
        lambda e, folder: e.upscale(IMAGE),
        lambda e, folder: e.upscale_into(IMAGE, np.zeros((800, 1000), np.uint8)),
        lambda e, folder: e.stream(IMAGE),
        lambda e, folder: e.upscale_file(folder / "a.tif", folder / "b.tif"),
        lambda e, folder: e.upscale_bytes((folder / "a.tif").read_bytes()),
        lambda e, folder: e.estimate(folder / "a.tif", folder / "b.tif"),
        lambda e, folder: e.tune(),
    ],
)
def test_a_closed_engine_is_an_error_of_both_kinds(call: Callable[..., Any], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    engine = Engine("bicubic-x2", provider="cpu")
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="the engine is closed") as caught:
        call(engine, tmp_path)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, ArgumentError)
    assert (engine.scale, engine.provider, engine.tile) == (2, "cpu", 128)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tif"]


SCRIPT = """
import sys, threading, numpy as np
from srcnn_rt import Engine, ClosedError
from srcnn_rt.backends.host_renderer import HostRenderer
from srcnn_rt.execution import ending

begun, render = [0], HostRenderer.render
def counted(*words):
    begun[0] += 1
    render(*words)
HostRenderer.render = counted
image = np.zeros((1500, 1500), np.uint8)
engine = Engine("srcnn-955-x2", provider="cpu", tile=64, threads=2)
threading._register_atexit(lambda: print("at exit", begun[0]))  # before any of the engine's
if sys.argv[1] == "thread":
    def work():
        try:
            engine.upscale(image)
        except ClosedError as error:
            print(error)
        print("end", begun[0])
    thread = threading.Thread(target=work)
    thread.start()
    while begun[0] < 4:
        pass
else:
    parts = engine.stream(image)
    next(parts)
    import concurrent.futures.thread, atexit
    atexit.register(lambda: print("end", begun[0]))
    if sys.argv[1] == "interrupt":
        raise KeyboardInterrupt
"""


@pytest.mark.parametrize(("how", "status"), [("kept", 0), ("interrupt", -2), ("thread", 0)])
def test_the_process_ends_at_once(how: str, status: int) -> None:
    """Pools would finish what is queued; a thread that goes on would fail with a bare RuntimeError."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=120)
    assert done.returncode in (status, 130 if status else 0), done.stderr
    counts = {
        line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1])
        for line in done.stdout.splitlines()
        if line[-1].isdigit()
    }
    assert counts["end"] - counts["at exit"] <= 2  # one window per thread
    if how == "thread":
        assert "the interpreter is exiting" in done.stdout
    assert "Traceback" not in done.stderr or how == "interrupt"


def test_a_task_of_asyncio_is_cancelled(engine: Engine, renders: Renders) -> None:
    """As the documentation shows it."""

    async def upscaled(image: np.ndarray) -> np.ndarray:
        cancel = threading.Event()
        try:
            return await asyncio.to_thread(engine.upscale, image, cancel=cancel)
        finally:
            cancel.set()

    async def main() -> None:
        await asyncio.wait_for(upscaled(np.tile(IMAGE, (20, 20))), 0.3)

    with pytest.raises(TimeoutError):
        asyncio.run(main())  # which waits for its threads
    assert 0 < renders.begun < 20 * 20 * 100


# What leaves


def test_errors_keep_the_number_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)

    def refuse(*words: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with Engine("bicubic-x2", provider="cpu") as engine:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ImageError) as read:
            patch.setattr(Path, "open", refuse)
            engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
        (tmp_path / "folder").write_bytes(b"")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OutputError) as written:
            patch.setattr(os, "open", refuse)
            engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    assert read.value.errno == written.value.errno == errno.EIO
    again = pickle.loads(pickle.dumps(written.value))
    assert (type(again), str(again), again.errno) == (OutputError, str(written.value), errno.EIO)
    assert OutputError("full").errno is None
    assert ArgumentError("no").errno is None


def test_no_bare_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine("bicubic-x2", provider="cpu") as engine, pytest.raises(SrcnnError, match="memory"):
        engine.upscale(np.broadcast_to(np.uint8(0), (4_000_000, 4_000_000)))


# The parts


def test_a_result_or_the_reason_why_not() -> None:
    event, future = threading.Event(), Future[int]()
    ending, called = Ending(event), []
    with ending.calling(lambda: called.append(1)):
        future.set_result(7)
        assert ending.result(future) == 7
        threading.Timer(0.1, event.set).start()
        with pytest.raises(CancelledError):
            ending.result(Future())
    assert called == [1]
    with ending.calling(lambda: called.append(2)):
        assert called == [1, 2]  # it has ended already
    failed: Future[int] = Future()
    failed.set_exception(OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        Ending().result(failed)
    with pytest.raises(CancelledError):  # the reason counts, not what it led to
        ending.result(failed)


def test_runs_that_are_closed() -> None:
    runs = Runs()
    with pytest.raises(ClosedError), runs.begin() as ending:
        runs.close()
        ending.check()
    with pytest.raises(ClosedError), runs.begin():
        pass


def test_a_pool_that_takes_no_more() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(ClosedError):
        overlap.submit(pool, print)


def test_work_of_a_generator_that_is_closed_has_stopped() -> None:
    started, stopped, interrupted = threading.Event(), [], threading.Event()

    def work() -> int:
        started.set()
        interrupted.wait(60)
        stopped.append(1)
        return 1

    with ThreadPoolExecutor(1) as pool:
        first: Future[int] = Future()
        first.set_result(1)
        steps = overlap.overlap(
            range(5),
            lambda i: i,
            lambda i, part: (part, [first if i == 0 else pool.submit(work)]),
            lambda i, result: None,
            interrupt=interrupted.set,
        )
        del steps  # nothing was begun
        assert not started.is_set()
        steps = overlap.overlap(
            range(5),
            lambda i: i,
            lambda i, part: (part, [first if i < 2 else pool.submit(work)]),
            lambda i, result: None,
            interrupt=interrupted.set,
        )
        next(steps)
        assert started.wait(60)
        steps.close()  # type: ignore[attr-defined]
        assert stopped == [1]


def test_what_is_written_into_is_left_alone_afterwards(engine: Engine, renders: Renders) -> None:
    """When the error is there, no thread writes any more."""
    cancel, target = threading.Event(), np.zeros((800, 1000), np.uint8)
    renders.called = lambda begun: cancel.set() if begun == 4 else None
    with pytest.raises(CancelledError):
        engine.upscale_into(IMAGE, target, cancel=cancel)
    left = target.copy()
    threading.Event().wait(0.2)
    assert np.array_equal(target, left)
    assert (target == 0).any()


def test_bytes_io_is_not_harmed(engine: Engine, renders: Renders, tmp_path: Path) -> None:
    """An object that takes the result gets none of a cancelled run."""
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, tile=(64, 64))
    cancel, result = threading.Event(), BytesIO()
    renders.called = lambda begun: cancel.set() if begun == 4 else None
    with pytest.raises(CancelledError):
        engine.upscale_file(tmp_path / "a.tif", result, format="tif", cancel=cancel)
    assert result.getvalue() == b""


def test_measuring_before_a_large_image_is_cancelled_too(
    renders: Renders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is waiting for another thread that measures."""
    from srcnn_rt import engine as engine_module

    monkeypatch.setattr(engine_module, "TUNE_FROM", 100)
    cancel, begun = threading.Event(), threading.Event()
    renders.called = lambda count: begun.set()
    with (
        Engine("srcnn-955-x2", provider="cpu", tile="auto", threads=2) as engine,
        ThreadPoolExecutor(2) as pool,
    ):
        runs = [pool.submit(engine.upscale, IMAGE, cancel=cancel) for _ in range(2)]
        assert begun.wait(60)
        cancel.set()
        for run in runs:
            with pytest.raises(CancelledError):
                run.result()
        assert engine._untuned
