"""Faults while windows are computed: no memory for one, Ctrl-C while a long one runs."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from onnx import helper

from srcnn_rt import Engine, OutOfMemoryError
from srcnn_rt.backends import host_renderer
from srcnn_rt.backends.base import Bound
from srcnn_rt.errors import ModelError
from srcnn_rt.execution import planner
from srcnn_rt.jobs import file_job
from tests.conftest import TEST_MODEL, drawing
from tests.helpers import faults, models
from tests.helpers.faults import Bench
from tests.helpers.reference import quantise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

engine, gray, small = faults.engine, faults.gray, faults.small


# No memory


class Limited(Bound):
    """A network that has no memory for windows of more than so many samples."""

    maximum = 0
    refused = 0

    def __init__(self, inner: Bound) -> None:
        self.inner, self.input, self.output = inner, inner.input, inner.output

    def run(self) -> None:
        if self.input.size > Limited.maximum:
            Limited.refused += 1
            raise OutOfMemoryError(f"ONNX Runtime failed on windows of shape {self.input.shape}: bad alloc")
        self.inner.run()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> type[Limited]:
    from srcnn_rt.backends.onnxruntime import Session

    bind = Session.bind
    monkeypatch.setattr(Session, "bind", lambda this, *shapes: Limited(bind(this, *shapes)))
    Limited.maximum, Limited.refused = 2**40, 0
    return Limited


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("maximum", [5000, 1500, 700])
def test_windows_are_halved_where_memory_ends(
    memory: type[Limited], tmp_path: Path, maximum: int, workers: int
) -> None:
    """From the first window on, and in the middle of an image: the same image, and nothing twice."""
    source = tmp_path / "a.tif"
    image = quantise(drawing(150, 700, 1)[..., 0], np.uint8)
    tifffile.imwrite(source, image)
    with Engine(TEST_MODEL, provider="cpu", tile=64, threads=workers) as engine:
        plain = engine.upscale(image).astype(int)
        for start in (0, 1):
            noted: list[int] = []

            def note(done: int, total: int, start: int = start, noted: list[int] = noted) -> None:
                noted.append(done)
                if len(noted) > start:
                    memory.maximum = maximum

            memory.maximum, memory.refused = (2**40 if start else maximum), 0
            engine.upscale_file(source, tmp_path / "b.tif", progress=note, overwrite=True)
            assert memory.refused
            made = tifffile.imread(tmp_path / "b.tif").astype(int)
            assert np.abs(made - plain).max() <= 1
            assert (made == plain).mean() > 0.9999
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.tif"]


def test_finished_chunks_are_not_computed_again(
    memory: type[Limited], gray: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine("bicubic-x2", provider="cpu", tile=16, threads=1) as engine:
        gray.run(engine=engine)
        plan, expected = list(gray.rendered), gray.target.read_bytes()
        gray.target.unlink()
        add, order = file_job.Journal.add, []

        def note(this: Any, page: int, chunk: int, record: Any) -> None:
            order.append(chunk)
            memory.maximum = 300  # from the third chunk on, which is started after the first is written
            add(this, page, chunk, record)

        monkeypatch.setattr(file_job.Journal, "add", note)
        gray.run(engine=engine)
    assert memory.refused
    assert gray.target.read_bytes() == expected  # bicubic's sums do not depend on the window
    assert order == list(range(len(plan)))
    assert len(plan) > 3
    assert gray.rendered.count(plan[0]) == 1


def test_no_memory_even_for_the_smallest_window(memory: type[Limited], gray: Bench) -> None:
    memory.maximum = 10
    with pytest.raises(
        OutOfMemoryError, match=r"not enough memory for windows of \d+ x \d+ LR pixels"
    ) as caught:
        gray.run()
    assert "\n" not in str(caught.value)
    assert gray.contents() == ["a.tif"]
    with pytest.raises(OutOfMemoryError):
        gray.engine.upscale(np.zeros((40, 40), np.uint8))
    memory.maximum = 2**40
    gray.run()
    assert gray.target.read_bytes() == gray.expected


def test_no_memory_for_a_buffer(gray: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's own error is the same to the user, and is halved too."""
    real, sizes = host_renderer.HostRenderer.render, []

    def refuse(this: Any, batch: Any, *words: Any) -> None:
        sizes.append(this._plan.tile)
        if this._plan.tile[1] > 16:
            raise MemoryError
        real(this, batch, *words)

    monkeypatch.setattr(host_renderer.HostRenderer, "render", refuse)
    with Engine("bicubic-x2", provider="cpu", tile=32, threads=1) as engine:
        gray.run(engine=engine)
    assert {s[1] > 16 for s in sizes} == {True, False}
    monkeypatch.setattr(
        host_renderer.HostRenderer, "render", lambda *words: (_ for _ in ()).throw(MemoryError)
    )
    with pytest.raises(OutOfMemoryError, match="the smallest possible"):
        gray.run(overwrite=True)


def test_the_buffers_of_large_windows_are_let_go(
    memory: type[Limited], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short, nothing may hold on to what did not fit."""
    seen: list[int] = []
    made = host_renderer.HostRenderer.__init__

    def count(this: Any, *words: Any) -> None:
        # isinstance would ask the class of other packages' objects, and some warn of being asked.
        seen.append(sum(type(o) is host_renderer.HostRenderer for o in gc.get_objects()) - 1)
        made(this, *words)

    memory.maximum = 900
    with Engine(TEST_MODEL, provider="cpu", tile=64, threads=2) as engine:
        monkeypatch.setattr(host_renderer.HostRenderer, "__init__", count)
        gc.disable()
        try:
            engine.upscale(np.zeros((100, 100), np.uint8))
        finally:
            gc.enable()
    assert len(seen) >= 4
    assert max(seen) == 1  # the other worker's of the same plan


def test_a_model_of_unbounded_reach_is_not_cut(memory: type[Limited], tmp_path: Path) -> None:
    """It has no margin, so its smaller windows would be another image."""
    nodes = [
        helper.make_node("ReduceMean", ["lr"], ["mean"], axes=[2, 3], keepdims=1),
        helper.make_node("Sub", ["lr", "mean"], ["hr"]),
    ]
    path = models.save(tmp_path / "mean.onnx", nodes, {})
    with Engine(path, provider="cpu", tile=None) as engine:
        engine.upscale(np.zeros((64, 64), np.uint8))
        memory.maximum = 3000
        with pytest.raises(OutOfMemoryError, match="windows of 64 x 64 LR pixels, the smallest possible"):
            engine.upscale(np.zeros((64, 64), np.uint8))


# Ctrl-C while a long window runs


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_long_window_ends_when_it_is_interrupted(provider: str, tmp_path: Path) -> None:
    """The runtime is told to stop between two layers: of 400 few are computed."""
    rng = np.random.default_rng(0)
    weights = {"w": (rng.normal(size=(16, 16, 3, 3)) / 12).astype(np.float32)}
    weights |= {"first": np.ones((16, 1, 1, 1), np.float32), "last": np.ones((1, 16, 1, 1), np.float32)}
    nodes = [helper.make_node("Conv", ["lr", "first"], ["c0"])]
    for k in range(400):
        nodes.append(helper.make_node("Conv", [f"c{k}", "w"], [f"c{k + 1}"], f"conv{k}", pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Conv", ["c400", "last"], ["hr"]))
    path = models.save(tmp_path / "deep.onnx", nodes, weights)
    image = np.zeros((700, 700), np.uint8)
    with Engine(path, provider=provider, tile=None, threads=1) as engine:
        run, done = host_renderer.HostRenderer.render, []

        def counted(this: Any, *words: Any) -> None:
            threading.Timer(0.4, lambda: os.kill(os.getpid(), 2)).start()  # it runs now
            try:
                run(this, *words)
                done.append("whole")
            except ModelError as error:
                done.append(str(error))
                raise

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(host_renderer.HostRenderer, "render", counted)
            engine.upscale(image)
        assert len(done) == 1
        assert "whole" not in done
        engine.upscale(image[:20, :20])  # it can be used again


def test_heavy_models_have_small_chunks(tmp_path: Path) -> None:
    """So that two chunks are less than a minute of work."""
    from dataclasses import replace

    from srcnn_rt.image.info import ImageInfo, Layout
    from srcnn_rt.io.in_memory import ArraySink

    info = ImageInfo((8000, 8000), Layout.of(1), np.dtype(np.uint8))
    with Engine(TEST_MODEL, provider="cpu", tile=256, threads=2) as engine:
        sink = ArraySink(info)
        sink.max_bytes, sink.block = 2 * 2**20, (512, 512)
        sizes = []
        for macs in (engine.spec.facts.macs, 1e6, 1e8):
            spec = replace(engine.spec, facts=replace(engine.spec.facts, macs=macs))
            setup = replace(engine._setup, model=spec)
            sizes.append(np.prod(planner.plan_for(setup, info, sink).chunk))
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[1] * 4 * 1e6 <= 2 * planner.MAX_CHUNK_MACS
    assert sizes[2] == 2 * 256 * 256
