"""A chunk depends on plan and source alone: any process may render any chunk, in any order."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srcnn_rt import Engine
from srcnn_rt.execution import normalization
from srcnn_rt.execution.executor import process
from srcnn_rt.execution.normalization import DataRange
from srcnn_rt.execution.planner import plan_for
from srcnn_rt.execution.render_chunk import render_chunk
from srcnn_rt.execution.workers import Workers
from srcnn_rt.io.in_memory import ArraySink, ArraySource, array_source
from srcnn_rt.tiling.geometry import Plan
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.reference import quantise

SHAPE = (70, 90)


def small_chunks(engine: Engine, source: ArraySource) -> Plan:
    """Return a plan of 5 x 3 chunks."""
    whole = plan_for(engine._setup, source.info, ArraySink(source.info.scaled(engine.scale)))
    return replace(whole, chunk=(16, 32))


def image(kind: str) -> np.ndarray:
    made = drawing(*SHAPE, 1)
    if kind == "uint8":
        return quantise(made, np.uint8)
    made = (made * 4000 - 350).astype(np.float32)  # metres
    made[20:40, 30:60] = np.nan
    return made


def rendered(engine: Engine, source: ArraySource, numbers: list[int]) -> dict[int, np.ndarray]:
    """Render the chunks of some numbers, in their order."""
    setup = engine._setup
    values = normalization.for_image(source, setup.model, DataRange())
    plan = small_chunks(engine, source)
    chunks, batch = list(plan), setup.networks[0].batch_size(setup.model, source, plan)
    with (
        ThreadPoolExecutor(2) as pool,
        Workers(setup, source, values.info, plan, batch) as workers,
    ):
        words: dict[str, Any] = {"values": values, "workers": workers, "pool": pool}
        return {n: render_chunk(plan, chunks[n], source, **words).samples.copy() for n in numbers}


def another_process(kind: str, numbers: list[int]) -> dict[int, np.ndarray]:
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=1) as engine:
        return rendered(engine, array_source(image(kind)), numbers)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_chunks_in_any_order_and_process_make_the_image(kind: str, rng: np.random.Generator) -> None:
    source = array_source(image(kind))
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=1) as engine:
        expected = engine.upscale(image(kind))
        chunks = list(small_chunks(engine, source))
        assert len(chunks) == 15
        order = rng.permutation(len(chunks)).tolist()
        made = rendered(engine, source, order[::2])
        s = engine.scale
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        made |= pool.apply(another_process, (kind, order[1::2]))
    out = np.full_like(expected, 77)
    for number, samples in made.items():
        y, x = chunks[number].y, chunks[number].x
        out[y.start * s : y.stop * s, x.start * s : x.stop * s] = samples
    assert np.array_equal(out, expected, equal_nan=True)


def test_only_the_chunks_that_are_left_are_computed() -> None:
    """Any set of chunks may be done already; each record comes with its chunk's own number."""
    source = array_source(image("uint8"))
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=1) as engine:
        s = engine.scale
        sink = ArraySink(source.info.scaled(s))
        plan = small_chunks(engine, source)
        chunks, written, seen = list(plan), [], []
        done = {1, 2, len(chunks) - 1}
        process(
            source, sink, engine._setup, engine._pool, lambda *count: seen.append(count),
            plan=plan, done=done, written=lambda number, record: written.append(number),
        )  # fmt: skip
        expected = engine.upscale(image("uint8"))
    assert written == [n for n in range(len(chunks)) if n not in done]
    assert seen[-1][0] <= seen[-1][1] == expected.size
    for number in written:
        y, x = chunks[number].y, chunks[number].x
        window = np.s_[y.start * s : y.stop * s, x.start * s : x.stop * s]
        assert np.array_equal(sink.array[window], expected[window])


def test_the_module_is_importable_without_a_runtime(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, srcnn_rt.execution.render_chunk\nassert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
