"""Render one chunk of an image: read its samples, compute its windows, return the finished samples.

A chunk depends on the plan and the source alone. Chunks can therefore be rendered in any order, by any
thread or process, and written by another. `render_chunk` does all three steps at once; the executor calls
the steps separately so that reading, computing and writing overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import ChunkArrays
from ..image import nodata
from ..io.protocols import Source
from ..tiling.geometry import Chunk, Plan, Span
from .normalization import Normalization
from .workers import Workers

Read = Callable[[Span, Span], NDArray[Any]]


@dataclass(slots=True)
class ChunkInput:
    """What the windows of a chunk are cut from.

    Attributes
    ----------
    samples : ndarray, shape (h, w, C)
        Normalised LR samples of the chunk and the margin around it, with nodata filled.
    at : (int, int)
        Row and column of ``samples[0, 0]`` in the image.
    mask : ndarray of bool, optional
        Valid pixels of the chunk itself, where the image has a mask.
    original : ndarray, optional
        Samples of the chunk itself as they were read, where some are invalid.
    invalid : ndarray of bool, optional
        Which of `original` are invalid.
    """

    samples: NDArray[Any]
    at: tuple[int, int]
    mask: NDArray[np.bool_] | None = None
    original: NDArray[Any] | None = None
    invalid: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """The finished part of the HR image.

    Attributes
    ----------
    samples : ndarray, shape (s·h, s·w, C)
        In the type of the image.
    mask : ndarray of bool, shape (s·h, s·w), optional
        Valid pixels, where the image has a mask.
    """

    samples: NDArray[Any]
    mask: NDArray[np.bool_] | None


def render_chunk(
    plan: Plan,
    chunk: Chunk,
    source: Source,
    *,
    values: Normalization,
    workers: Workers,
    pool: ThreadPoolExecutor,
) -> ChunkResult:
    """Read, compute and finish one chunk.

    Parameters
    ----------
    plan : Plan
        How the image is cut.
    chunk : Chunk
        Any chunk of the plan.
    source : Source
        The image.
    values : Normalization
        Of the whole image, so that every chunk is normalised alike.
    workers : Workers
        Made for the same plan.
    pool : ThreadPoolExecutor
        Runs the workers.

    Returns
    -------
    ChunkResult
        Bit for bit the same in every process that uses the same model, provider and plan.
    """
    part = read_chunk(plan, chunk, source, values)
    made = buffer_for(chunk, values)
    for future in compute_chunk(chunk, part, made, workers, pool):
        future.result()
    return finish_chunk(part, made, values)


def read_chunk(
    plan: Plan, chunk: Chunk, source: Source, values: Normalization, read: Read | None = None
) -> ChunkInput:
    """Read what the windows of a chunk need, normalise it and fill invalid samples.

    Parameters
    ----------
    plan, chunk, source, values
        As for `render_chunk`.
    read : callable, optional
        Reads rows and columns in place of ``source.read``, for example from a cache of strips.

    Returns
    -------
    ChunkInput
    """
    info, read = values.source_info, read or source.read
    radius = _fill_radius(plan, values)
    spans = chunk.source_spans(plan.tile, plan.margin, info.shape)
    y, x = (
        Span(max(0, span.start - radius), min(length, span.stop + radius))
        for span, length in zip(spans, info.shape, strict=True)
    )
    samples = read(y, x)
    part = ChunkInput(values.normalize(samples), (y.start, x.start))
    if not values.has_invalid:
        return part
    inner = np.s_[
        chunk.y.start - y.start : chunk.y.stop - y.start, chunk.x.start - x.start : chunk.x.stop - x.start
    ]
    mask = source.read_mask(y, x) if info.masked else None
    invalid = nodata.invalid(samples, info, mask)
    if mask is not None:
        part.mask = mask[inner].copy()
    if invalid is not None:
        if invalid[inner].any():
            part.original, part.invalid = samples[inner].copy(), invalid[inner].copy()
        part.samples = nodata.fill(part.samples, invalid, values.info, radius)
    return part


def columns_read(plan: Plan, values: Normalization) -> Span:
    """Return the columns of the image that `read_chunk` reads for all chunks."""
    length, radius = values.source_info.shape[1], _fill_radius(plan, values)
    spans = [chunk.source_spans(plan.tile, plan.margin, plan.shape)[1] for chunk in plan.first_row()]
    start, stop = min(span.start for span in spans), max(span.stop for span in spans)
    return Span(max(0, start - radius), min(length, stop + radius))


def _fill_radius(plan: Plan, values: Normalization) -> int:
    """Return how far filling looks at the samples around: as far as the network does."""
    return max(plan.margin - plan.extra, 1) if values.has_invalid else 0


def compute_chunk(
    chunk: Chunk, part: ChunkInput, out: NDArray[Any], workers: Workers, pool: ThreadPoolExecutor
) -> list[Future[int]]:
    """Start the network on the windows of a chunk, unless all of its samples are invalid.

    Returns
    -------
    list of Future
        Each gives the number of HR pixels of `out` that it filled.
    """
    if part.invalid is not None and part.invalid.all():
        future: Future[int] = Future()
        future.set_result(out.shape[0] * out.shape[1])
        return [future]
    arrays = ChunkArrays(part.samples, part.at, out, (chunk.y.start, chunk.x.start))
    return workers.submit(pool, chunk.tiles, arrays)


def buffer_for(chunk: Chunk, values: Normalization) -> NDArray[Any]:
    """Return an array for the output of the network on a chunk.

    It is zero where no window is computed because all samples are invalid; `finish_chunk` replaces those.
    """
    s = values.scale
    return np.zeros((chunk.y.size * s, chunk.x.size * s, values.info.layout.channels), values.info.dtype)


def finish_chunk(
    part: ChunkInput, made: NDArray[Any], values: Normalization, out: NDArray[Any] | None = None
) -> ChunkResult:
    """Turn the network's output into samples of the image's type and restore invalid samples.

    Parameters
    ----------
    part : ChunkInput
        As returned by `read_chunk`.
    made : ndarray, shape (s·h, s·w, C)
        What the workers filled.
    values : Normalization
    out : ndarray, optional
        Takes the result. By default it is `made` itself where the types are equal.

    Returns
    -------
    ChunkResult
    """
    if out is None:
        out = made if values.native else np.empty(made.shape, values.dtype)
    values.denormalize(made, out)
    if values.has_invalid:
        original = part.original if part.original is not None else out[:0, :0]
        nodata.put_back(out, original, part.invalid, values.source_info, values.scale)
    mask = nodata.enlarge(part.mask, values.scale) if part.mask is not None else None
    return ChunkResult(out, mask)
