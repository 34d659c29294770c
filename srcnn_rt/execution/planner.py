"""Decide how an image is cut into chunks and windows for a given sink and number of workers."""

from __future__ import annotations

import math

from ..backends.loader import Setup
from ..image.info import ImageInfo
from ..io.protocols import Sink
from ..models.margins import margin_for, rules_for
from ..tiling import geometry
from ..tiling.geometry import Plan, Region

MIN_CHUNK_TILES = 8  # per worker
MAX_CHUNK_MACS = 5e11  # per worker, about ten seconds of work
MIN_TILE_SHARE = 16  # LR pixels; smaller tiles are not worth starting another worker
# A region is shared out among workers while its windows, margins included, are at most so much larger.
MAX_MARGINS = 1.25
GRAINS = 32  # per tile: sizes of windows for regions, where each size costs


def plan_for(setup: Setup, info: ImageInfo, sink: Sink, region: Region | None = None) -> Plan:
    """Return a plan whose chunks are whole blocks of the sink and which keeps every worker busy.

    Parameters
    ----------
    setup : Setup
        Model, tile and workers.
    info : ImageInfo
        The LR image.
    sink : Sink
        Where the result is written. Its block and largest write set the size of a chunk.
    region : Region, optional
        The only part to upscale.

    Returns
    -------
    Plan
    """
    model, s = setup.model, setup.model.scale
    shape = info.shape if region is None else region.shape
    margin = margin_for(model, info.layout)
    tile = rows, columns = _tile_per_worker(model.period, shape, setup, None if region is None else margin)
    height = geometry.ceil_to(rows, max(1, sink.block[0] // s))
    column_bytes = height * s * s * info.layout.channels * info.dtype.itemsize
    # With fewer tiles, workers would wait for each other at the end of every chunk.
    minimum = MIN_CHUNK_TILES * setup.workers * -(-rows * columns // height)
    widest = shape[1] if sink.max_bytes is None else max(minimum, sink.max_bytes // column_bytes)
    if sink.max_bytes is not None and model.facts.macs > 0:
        # A killed job loses about two chunks, so heavy models get smaller ones: one window per worker.
        light = int(MAX_CHUNK_MACS * setup.workers / (model.facts.macs * height * s * s))
        widest = min(widest, max(light, setup.workers * -(-rows * columns // height)))
    return geometry.plan(
        info.shape,
        tile,
        margin=margin,
        rules=rules_for(model, info.layout),
        block=(max(1, sink.block[0] // s), max(1, sink.block[1] // s)),
        max_chunk=widest,
        extra=max(model.extra_margin),
        region=region,
        grain=geometry.ceil_to(max(tile) // GRAINS, model.period) if _shapes_cost(setup) else 1,
    )


def _shapes_cost(setup: Setup) -> bool:
    """Return whether the runtime compiles the model, or chooses kernels, for each shape of windows."""
    return setup.provider in ("openvino", "cuda")


def _tile_per_worker(
    period: int, shape: tuple[int, int], setup: Setup, margin: int | None = None
) -> tuple[int, int]:
    """Return the tile of the setup, with one side after the other halved until every worker gets one.

    The longer side is halved, because then margins are shortest, as long as the image allows it. With a
    margin, only as long as that costs little.
    """
    sides = [setup.tile, setup.tile]
    while math.prod(-(-n // side) for n, side in zip(shape, sides, strict=True)) < setup.workers:
        extents = [min(n, side) for n, side in zip(shape, sides, strict=True)]
        axis = 0 if extents[0] >= extents[1] else 1
        half = geometry.ceil_to(-(-extents[axis] // 2), period)
        if half < MIN_TILE_SHARE or half >= extents[axis]:  # a period may be as long as the tile
            break
        if margin is not None and (half + 2 * margin) ** 2 > MAX_MARGINS * half**2:
            break
        sides[axis] = half
    return sides[0], sides[1]
