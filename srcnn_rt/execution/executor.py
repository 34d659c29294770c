"""Upscale one image: read, compute and write its chunks, overlapped and in bounded memory."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ..backends.loader import Setup
from ..errors import OutOfMemoryError
from ..io.protocols import Record, Sink, Source, StripCache
from ..models.margins import check_layout
from ..tiling.geometry import Chunk, Plan, Region, Span
from . import normalization, overlap
from .ending import Ending
from .normalization import DataRange, Normalization
from .planner import plan_for
from .render_chunk import (
    ChunkInput,
    Read,
    buffer_for,
    columns_read,
    compute_chunk,
    finish_chunk,
    read_chunk,
)
from .workers import Workers

AUTO = DataRange()

Progress = Callable[[int, int], None]
Written = Callable[[int, Record], None]

_log = logging.getLogger("srcnn_rt")


def process(
    source: Source,
    sink: Sink,
    setup: Setup,
    pool: ThreadPoolExecutor,
    progress: Progress | None = None,
    *,
    plan: Plan | None = None,
    done: Container[int] = (),
    region: Region | None = None,
    data_range: DataRange = AUTO,
    written: Written = lambda chunk, record: None,
    ending: Ending | None = None,
) -> None:
    """Upscale an image from `source` into `sink`, as `steps` does, at once."""
    for _ in steps(
        source, sink, setup, pool, progress,
        plan=plan, done=done, region=region, data_range=data_range, written=written, ending=ending,
    ):  # fmt: skip
        pass


def steps(
    source: Source,
    sink: Sink,
    setup: Setup,
    pool: ThreadPoolExecutor,
    progress: Progress | None = None,
    *,
    plan: Plan | None = None,
    done: Container[int] = (),
    region: Region | None = None,
    data_range: DataRange = AUTO,
    written: Written = lambda chunk, record: None,
    ending: Ending | None = None,
) -> Iterator[None]:
    """Upscale an image from `source` into `sink`, chunk by chunk. Nothing is done before the first.

    When a network runs out of memory, batches are halved, then tiles; chunks that are written already are
    kept. When a GPU fails, the others compute its windows.

    Parameters
    ----------
    source : Source
    sink : Sink
    setup : Setup
        Model, networks, tile and workers.
    pool : ThreadPoolExecutor
        Runs the workers. Several images may share it.
    progress : callable, optional
        Called with the HR pixels done and the HR pixels in total.
    plan : Plan, optional
        As `plan_for` returns it, which is the default.
    done : container of int
        Numbers of the chunks to skip because they are written already.
    region : Region, optional
        The only part to upscale, and where in the sink it goes. By default it is the plan's.
    data_range : DataRange
        Black and white of the samples, for models that need a range.
    written : callable
        Called with the number of each chunk and the sink's record of it, from another thread.
    ending : Ending, optional
        Whether to end before all is done.

    Yields
    ------
    None
        After each chunk was written.

    Raises
    ------
    ImageError, OutputError, ModelError, OutOfMemoryError, DeviceError, CancelledError, ClosedError
    """
    model = setup.model
    check_layout(model, source.info.layout)
    values = normalization.for_image(source, model, data_range)
    plan = plan or plan_for(setup, source.info, sink, region)
    run = _Run(source, values, sink, progress, done, written, ending or Ending())
    batch, retry = setup.networks[0].batch_size(model, source, plan), setup.devices > 0
    while True:
        try:
            yield from run.go(plan, setup, batch, pool)
            return
        except MemoryError as error:
            fewer = 1 if model.batch is None else batch
            if retry:
                retry = False  # other images' buffers on the GPU may have taken the memory
                _log.warning("out of memory on the GPU; releasing idle buffers and trying again")
            elif batch > fewer:
                batch = max(fewer, batch // 2)
                _log.warning("out of memory; continuing with %d windows per run", batch)
            else:
                # The margin of a model that was not analysed is unknown, so it only runs on whole images.
                smaller = None if math.isnan(model.facts.macs) else plan.halved()
                if smaller is None:
                    h, w = plan.window
                    text = f"not enough memory for windows of {h} x {w} LR pixels, the smallest possible"
                    raise OutOfMemoryError(f"{text}: {error}" if str(error) else text) from error
                plan = smaller
                _log.warning("out of memory; continuing with tiles of %d x %d LR pixels", *plan.tile)
        # The error's traceback holds the larger buffers in a reference cycle, and GPUs keep theirs for reuse.
        setup.empty_cache()
        gc.collect()


@dataclass
class _Run:
    """Upscales all chunks of an image that are not written yet, with one plan after the other."""

    _source: Source
    _values: Normalization
    _sink: Sink
    _progress: Progress | None
    _done: Container[int]
    _written: Written
    _ending: Ending
    _finished: set[int] = field(default_factory=set)

    _plan: Plan = field(init=False)
    _read: Read = field(init=False)
    _pixels: int = 0

    def go(self, plan: Plan, setup: Setup, batch: int, pool: ThreadPoolExecutor) -> Iterator[None]:
        self._plan, self._pixels = plan, 0
        self._read = self._source.read
        if self._source.by_rows:
            self._read = StripCache(self._source, columns_read(plan, self._values)).read
        with Workers(setup, self._source, self._values.info, plan, batch) as workers:
            yield from overlap.overlap(
                self._left(),
                self._input,
                partial(self._start, workers, pool),
                self._write,
                self._advance,
                background=not (self._source.in_memory and self._sink.in_memory),
                ending=self._ending,
                interrupt=workers.interrupt,
            )

    def _left(self) -> Iterator[tuple[int, Chunk]]:
        """Yield the chunks that are not written yet, with their numbers."""
        for number, chunk in enumerate(self._plan):
            if number in self._done or number in self._finished:
                self._pixels += chunk.y.size * chunk.x.size * self._values.scale**2
            else:
                yield number, chunk

    def _input(self, item: tuple[int, Chunk]) -> ChunkInput:
        return read_chunk(self._plan, item[1], self._source, self._values, self._read)

    def _start(
        self, workers: Workers, pool: ThreadPoolExecutor, item: tuple[int, Chunk], part: ChunkInput
    ) -> tuple[tuple[ChunkInput, NDArray[Any]], Sequence[Future[int]]]:
        chunk = item[1]
        # Windows are stitched into the sink's own array where the types are equal.
        native = self._values.native
        out = self._sink.buffer(*self._hr(chunk)) if native else buffer_for(chunk, self._values)
        return (part, out), compute_chunk(chunk, part, out, workers, pool)

    def _write(self, item: tuple[int, Chunk], result: tuple[ChunkInput, NDArray[Any]]) -> None:
        (number, chunk), (part, made) = item, result
        y, x = self._hr(chunk)
        out = made if self._values.native else self._sink.buffer(y, x)
        finished = finish_chunk(part, made, self._values, out)
        self._written(number, self._sink.write(y, x, finished.samples, finished.mask))
        self._finished.add(number)

    def _advance(self, pixels: int) -> None:
        self._pixels += pixels
        if self._progress is not None:
            self._progress(self._pixels, math.prod(self._plan.region.shape) * self._values.scale**2)

    def _hr(self, chunk: Chunk) -> tuple[Span, Span]:
        """Return the rows and columns of a chunk in the sink."""
        (top, left), s = self._plan.region.corner, self._values.scale
        return chunk.y.moved(-top).scaled(s), chunk.x.moved(-left).scaled(s)
