"""One picture through a network: plan, read, render, write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from numpy.typing import NDArray

from . import geometry, pipeline
from .geometry import Chunk, Plan, Span, Tile
from .io import Sink, Source
from .io.base import StripCache
from .picture import PictureInfo
from .render import Renderer, check_layout, margin_for, rules_for
from .runtime import Setup
from .spec import ModelSpec

CHUNK_TILES = 8  # of every worker in a chunk, at least
LEAST_SHARE = 16  # LR pixels; halves of less are not worth a worker's start

Progress = Callable[[int, int], None]


def process(
    source: Source,
    sink: Sink,
    model: ModelSpec,
    setup: Setup,
    pool: ThreadPoolExecutor,
    progress: Progress | None = None,
) -> None:
    """Upscale a picture from `source` into `sink`, which is not closed.

    Parameters
    ----------
    pool : runs the workers; it may be shared with other pictures
    progress : called with (HR pixels done, HR pixels in all)

    Raises
    ------
    PictureError, OutputError, ModelError
    """
    info, s = source.info, model.scale
    check_layout(model, info.layout)
    plan = plan_for(model, setup, info, sink)
    total, seen = info.shape[0] * info.shape[1] * s * s, 0
    strips = StripCache(source) if source.by_rows else source
    idle: SimpleQueue[Renderer] = SimpleQueue()
    for _ in range(setup.workers):
        idle.put(Renderer(model, setup.network, info, plan))
    most = Renderer.batch_for(model, info, plan)

    def hr(span: Span) -> Span:
        return Span(span.start * s, span.stop * s)

    def read(chunk: Chunk) -> NDArray[Any]:
        return strips.read(*chunk.reach(plan.tile, plan.margin, info.shape))

    def start(chunk: Chunk, part: NDArray[Any]) -> tuple[NDArray[Any], list[Future[int]]]:
        out = sink.buffer(hr(chunk.y), hr(chunk.x))
        y, x = chunk.reach(plan.tile, plan.margin, info.shape)
        at, origin = (y.start, x.start), (chunk.y.start, chunk.x.start)

        def compute(batch: tuple[Tile, ...]) -> int:
            work = idle.get()
            try:
                work.render(batch, part, at, out, origin)
            finally:
                idle.put(work)
            return sum(t.y.core.size * t.x.core.size for t in batch) * s * s

        batches = (chunk.tiles[k : k + most] for k in range(0, len(chunk.tiles), most))
        return out, [pool.submit(compute, batch) for batch in batches]

    def write(chunk: Chunk, out: NDArray[Any]) -> None:
        sink.write(hr(chunk.y), hr(chunk.x), out)

    def done(pixels: int) -> None:
        nonlocal seen
        seen += pixels
        if progress is not None:
            progress(seen, total)

    background = not (source.in_memory and sink.in_memory)
    pipeline.overlap(plan, read, start, write, done, background=background)


def plan_for(model: ModelSpec, setup: Setup, info: PictureInfo, sink: Sink) -> Plan:
    """Cut a picture so that chunks are whole blocks of the sink and every worker has windows."""
    s = model.scale
    tile = _share(model.period, info.shape, setup)
    height = geometry.ceil_to(tile, max(1, sink.block[0] // s))
    column = height * s * s * info.layout.channels * info.dtype.itemsize
    # Enough for every worker, or they would wait for each other at the end of each chunk.
    least = CHUNK_TILES * setup.workers * -(-tile * tile // height)
    widest = info.shape[1] if sink.max_bytes is None else max(least, sink.max_bytes // column)
    return geometry.plan(
        info.shape,
        tile,
        margin=margin_for(model, info.layout),
        rules=rules_for(model),
        block=(max(1, sink.block[0] // s), max(1, sink.block[1] // s)),
        max_chunk=widest,
    )


def _share(period: int, shape: tuple[int, int], setup: Setup) -> int:
    """Return a tile with which a picture has windows for every worker, where it is large enough."""
    tile, (h, w) = setup.tile, shape
    while -(-h // tile) * -(-w // tile) < setup.workers:
        half = geometry.ceil_to(min(tile, max(h, w)) // 2, period)
        if half < LEAST_SHARE:
            break
        tile = half
    return tile
