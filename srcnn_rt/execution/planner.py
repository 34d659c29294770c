"""Decide how an image is cut into chunks and windows for a given sink and number of workers."""

from __future__ import annotations

from ..backends.loader import Setup
from ..image.info import ImageInfo
from ..io.protocols import Sink
from ..models.margins import margin_for, rules_for
from ..tiling import geometry
from ..tiling.geometry import Plan

MIN_CHUNK_TILES = 8  # per worker
MAX_CHUNK_MACS = 5e11  # per worker, about ten seconds of work
MIN_TILE_SHARE = 16  # LR pixels; smaller tiles are not worth starting another worker


def plan_for(setup: Setup, info: ImageInfo, sink: Sink) -> Plan:
    """Return a plan whose chunks are whole blocks of the sink and which keeps every worker busy.

    Parameters
    ----------
    setup : Setup
        Model, tile and workers.
    info : ImageInfo
        The LR image.
    sink : Sink
        Where the result is written. Its block and largest write set the size of a chunk.

    Returns
    -------
    Plan
    """
    model, s = setup.model, setup.model.scale
    tile = _tile_per_worker(model.period, info.shape, setup)
    height = geometry.ceil_to(tile, max(1, sink.block[0] // s))
    column_bytes = height * s * s * info.layout.channels * info.dtype.itemsize
    # With fewer tiles, workers would wait for each other at the end of every chunk.
    minimum = MIN_CHUNK_TILES * setup.workers * -(-tile * tile // height)
    widest = info.shape[1] if sink.max_bytes is None else max(minimum, sink.max_bytes // column_bytes)
    if sink.max_bytes is not None and model.facts.macs > 0:
        # A killed job loses about two chunks, so heavy models get smaller ones: one window per worker.
        light = int(MAX_CHUNK_MACS * setup.workers / (model.facts.macs * height * s * s))
        widest = min(widest, max(light, setup.workers * -(-tile * tile // height)))
    return geometry.plan(
        info.shape,
        tile,
        margin=margin_for(model, info.layout),
        rules=rules_for(model, info.layout),
        block=(max(1, sink.block[0] // s), max(1, sink.block[1] // s)),
        max_chunk=widest,
        extra=max(model.extra_margin),
    )


def _tile_per_worker(period: int, shape: tuple[int, int], setup: Setup) -> int:
    """Return the tile of the setup, halved until every worker gets one where the image allows it."""
    tile, (h, w) = setup.tile, shape
    while -(-h // tile) * -(-w // tile) < setup.workers:
        half = geometry.ceil_to(min(tile, max(h, w)) // 2, period)
        if half < MIN_TILE_SHARE or half >= tile:  # a period may be as long as the tile
            break
        tile = half
    return tile
