"""One image through a network: plan, read, render, write."""

from __future__ import annotations

import gc
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends.loader import Setup, Work, batch_for, forget, networks_for, renderer
from ..errors import DeviceError, OutOfMemoryError
from ..image import nodata
from ..image.info import ImageInfo
from ..io import Record, Sink, Source
from ..io.protocols import StripCache
from ..models.margins import check_layout, margin_for, rules_for
from ..tiling import geometry
from ..tiling.geometry import Chunk, Plan, Span, Tile
from . import normalization, overlap
from .normalization import DataRange, Values

CHUNK_TILES = 8  # of every worker in a chunk, at least
CHUNK_MACS = 5e11  # of every worker in a chunk, about: some ten seconds
MIN_SHARE = 16  # LR pixels; halves of less are not worth a worker's start

AUTO = DataRange()

Progress = Callable[[int, int], None]
Written = Callable[[int, Record], None]


@dataclass(slots=True)
class Part:
    """What is read for a chunk, and what of it are no data."""

    samples: NDArray[Any]
    at: tuple[int, int]
    mask: NDArray[np.bool_] | None = None
    # Of the chunk itself, where some are no data: its samples as they were, and which are not.
    original: NDArray[Any] | None = None
    invalid: NDArray[np.bool_] | None = None


def process(
    source: Source,
    sink: Sink,
    setup: Setup,
    pool: ThreadPoolExecutor,
    progress: Progress | None = None,
    *,
    plan: Plan | None = None,
    first: int = 0,
    region: tuple[Span, Span] | None = None,
    data_range: DataRange = AUTO,
    written: Written = lambda chunk, record: None,
) -> None:
    """Upscale an image from `source` into `sink`.

    Where the network finds no memory, batches and then tiles are halved, and what was written is kept. A GPU
    that breaks leaves its windows to the others.

    Parameters
    ----------
    pool : runs the workers; it may be shared with other images
    progress : called with (HR pixels done, HR pixels in all)
    plan : as `plan_for` gives it
    first : chunks of the plan before this one are done already
    region : (y, x), LR: only chunks that have a part in it are done; `first` counts those
    data_range : which samples are black and white, where the model needs to know
    written : called with each chunk's number and the sink's record of it, in order, in another thread

    Raises
    ------
    ImageError, OutputError, ModelError, OutOfMemoryError, DeviceError
    """
    model = setup.model
    check_layout(model, source.info.layout)
    mapped = normalization.for_image(source, model, data_range)
    plan = plan or plan_for(setup, source.info, sink)
    following = first

    def note(record: Record) -> None:
        nonlocal following
        written(following, record)
        following += 1

    batch, again = batch_for(setup, source, plan), setup.devices > 0
    while True:
        try:
            _Run(source, mapped, sink, setup, plan, batch, region, progress, note).go(pool, following)
            return
        except MemoryError as error:
            fewer = 1 if model.batch is None else batch
            if again:
                again = False  # what other images left on the GPU may have been all there was
            elif batch > fewer:
                batch = max(fewer, batch // 2)
            else:
                # A model that was not analysed has no margin: only whole images are right.
                smaller = None if math.isnan(model.facts.macs) else plan.halved()
                if smaller is None:
                    h, w = plan.window
                    text = f"not enough memory for windows of {h} x {w} LR pixels, and there are none smaller"
                    raise OutOfMemoryError(f"{text}: {error}" if str(error) else text) from error
                plan = smaller  # the batch stays, or it would need as much
        # The buffers of the larger windows hang on a cycle of error, frame and future, and GPUs keep theirs.
        forget(setup)
        gc.collect()


class _Run:
    """One plan of an image, gone through once."""

    def __init__(
        self,
        source: Source,
        mapped: Values,
        sink: Sink,
        setup: Setup,
        plan: Plan,
        batch: int,
        region: tuple[Span, Span] | None,
        progress: Progress | None,
        note: Callable[[Record], None],
    ) -> None:
        self._source, self._values, self._sink, self._setup = source, mapped, sink, setup
        self._plan, self._batch, self._progress, self._note = plan, batch, progress, note
        self._info, self._s = source.info, setup.model.scale
        h, w = source.info.shape
        self._region = region or (Span(0, h), Span(0, w))
        self._read = StripCache(source).read if source.by_rows else source.read
        # Data go on into what is none as far as a window sees.
        self._careful = nodata.concerns(self._info) and not hasattr(source, "GPU")
        self._radius = max(plan.margin, 1) if self._careful else 0
        self._idle: SimpleQueue[Work | None] = SimpleQueue()
        self._works: list[Work] = []
        self._alive, self._broke, self._counting = 0, "", threading.Lock()
        self._seen = 0

    def go(self, pool: ThreadPoolExecutor, first: int) -> None:
        networks = networks_for(self._setup, self._source)
        try:
            broken: DeviceError | None = None
            for network in networks:
                try:
                    work = renderer(
                        self._setup, network, self._source, self._values.info, self._plan, self._batch
                    )
                except DeviceError as error:
                    broken = error  # the others do it
                    continue
                self._works.append(work)
                self._idle.put(work)
            if broken is not None and not self._works:
                raise broken
            self._alive = len(self._works)
            self._go(pool, first, networks)
        finally:
            for work in self._works:
                work.close()

    def _go(self, pool: ThreadPoolExecutor, first: int, networks: Sequence[Interruptible]) -> None:
        plan = self._plan
        chunks = plan.within(*self._region)
        for chunk in itertools.islice(chunks, first):
            self._seen += chunk.y.size * chunk.x.size * self._s**2

        def start(chunk: Chunk, part: Part) -> tuple[tuple[Part, NDArray[Any]], Sequence[Future[int]]]:
            out = self._buffer(chunk)
            if part.invalid is not None and part.invalid.all():
                return (part, out), [_done(chunk.y.size * chunk.x.size * self._s**2)]
            futures: list[Future[int]] = []
            try:
                for k in range(0, len(chunk.tiles), self._batch):
                    batch = chunk.tiles[k : k + self._batch]
                    futures.append(pool.submit(self._compute, chunk, batch, part, out))
            except BaseException:  # Ctrl-C: nobody else knows of them
                overlap.stop(futures)
                raise
            return (part, out), futures

        background = not (self._source.in_memory and self._sink.in_memory)
        overlap.overlap(
            chunks,
            self._part,
            start,
            self._write,
            self._advance,
            background=background,
            interrupted=lambda: _interrupted(networks),
        )

    def _part(self, chunk: Chunk) -> Part:
        plan, info, radius = self._plan, self._info, self._radius
        y, x = (
            Span(max(0, span.start - radius), min(length, span.stop + radius))
            for span, length in zip(
                chunk.source_spans(plan.tile, plan.margin, info.shape), info.shape, strict=True
            )
        )
        part = Part(self._read(y, x), (y.start, x.start))
        if not self._careful:
            part.samples = self._values.encode(part.samples)
            return part
        inner = np.s_[
            chunk.y.start - y.start : chunk.y.stop - y.start, chunk.x.start - x.start : chunk.x.stop - x.start
        ]
        mask = self._source.read_mask(y, x) if info.masked else None
        invalid = nodata.invalid(part.samples, info, mask)
        if mask is not None:
            part.mask = mask[inner].copy()
        if invalid is not None and invalid[inner].any():
            part.original, part.invalid = part.samples[inner].copy(), invalid[inner].copy()
        part.samples = self._values.encode(part.samples)
        if invalid is not None:
            part.samples = nodata.fill(part.samples, invalid, self._values.info, radius)
        return part

    def _compute(self, chunk: Chunk, batch: tuple[Tile, ...], part: Part, out: NDArray[Any]) -> int:
        while True:
            work = self._idle.get()
            if work is None:  # for all who wait
                self._idle.put(None)
                raise DeviceError(self._broke)
            try:
                work.render(batch, part.samples, part.at, out, (chunk.y.start, chunk.x.start))
            except DeviceError as error:
                # Its windows go to the others; it gets no more.
                with self._counting:
                    self._alive, self._broke = self._alive - 1, str(error)
                    last = self._alive == 0
                if last:
                    self._idle.put(None)
                    raise
                continue
            except BaseException:
                self._idle.put(work)
                raise
            self._idle.put(work)
            return sum(t.y.core.size * t.x.core.size for t in batch) * self._s**2

    def _write(self, chunk: Chunk, result: tuple[Part, NDArray[Any]]) -> None:
        part, made = result
        out = made if self._values.native else self._sink.buffer(self._hr(chunk.y), self._hr(chunk.x))
        self._values.decode(made, out)
        if self._careful:
            original = part.original if part.original is not None else out[:0, :0]
            nodata.put_back(out, original, part.invalid, self._info, self._s)
        mask = nodata.enlarge(part.mask, self._s) if part.mask is not None else None
        self._note(self._sink.write(self._hr(chunk.y), self._hr(chunk.x), out, mask))

    def _buffer(self, chunk: Chunk) -> NDArray[Any]:
        """Return what windows of a chunk are stitched into: the sink's own buffer, if types are the same."""
        if self._values.native:
            return self._sink.buffer(self._hr(chunk.y), self._hr(chunk.x))
        shape = (self._hr(chunk.y).size, self._hr(chunk.x).size, self._info.layout.channels)
        # Zeros where no window is stitched: what is no data is put back afterwards.
        return np.zeros(shape, np.float32)

    def _advance(self, pixels: int) -> None:
        self._seen += pixels
        if self._progress is not None:
            h, w = self._info.shape
            self._progress(self._seen, h * w * self._s**2)

    def _hr(self, span: Span) -> Span:
        return Span(span.start * self._s, span.stop * self._s)


def plan_for(setup: Setup, info: ImageInfo, sink: Sink) -> Plan:
    """Cut an image so that chunks are whole blocks of the sink and every worker has windows."""
    model, s = setup.model, setup.model.scale
    tile = _share(model.period, info.shape, setup)
    height = geometry.ceil_to(tile, max(1, sink.block[0] // s))
    column = height * s * s * info.layout.channels * info.dtype.itemsize
    # Enough for every worker, or they would wait for each other at the end of each chunk.
    minimum = CHUNK_TILES * setup.workers * -(-tile * tile // height)
    widest = info.shape[1] if sink.max_bytes is None else max(minimum, sink.max_bytes // column)
    if sink.max_bytes is not None and model.facts.macs > 0:
        # What a kill costs is about two chunks: of a heavy model they are smaller, a window each worker.
        light = int(CHUNK_MACS * setup.workers / (model.facts.macs * height * s * s))
        widest = min(widest, max(light, setup.workers * -(-tile * tile // height)))
    return geometry.plan(
        info.shape,
        tile,
        margin=margin_for(model, info.layout),
        rules=rules_for(model, info.layout),
        block=(max(1, sink.block[0] // s), max(1, sink.block[1] // s)),
        max_chunk=widest,
    )


def _share(period: int, shape: tuple[int, int], setup: Setup) -> int:
    """Return a tile with which an image has windows for every worker, where it is large enough."""
    tile, (h, w) = setup.tile, shape
    while -(-h // tile) * -(-w // tile) < setup.workers:
        half = geometry.ceil_to(min(tile, max(h, w)) // 2, period)
        if half < MIN_SHARE or half >= tile:  # a period may be as long as the tile
            break
        tile = half
    return tile


class Interruptible(Protocol):
    """A network whose runs can be ended."""

    def interrupted(self) -> AbstractContextManager[None]: ...


@contextmanager
def _interrupted(networks: Sequence[Interruptible]) -> Iterator[None]:
    with ExitStack() as stack:
        for network in {id(n): n for n in networks}.values():
            stack.enter_context(network.interrupted())
        yield


def _done(value: int) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(value)
    return future
