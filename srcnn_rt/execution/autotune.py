"""Which tile and which threads are fastest: short measurements that take turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backends.loader import Setup, forget
from ..image.info import ImageInfo, Layout
from ..io import ArraySink, ArraySource
from ..models.spec import ModelSpec
from ..tiling import geometry
from .executor import process

# What `tune` tries, HR pixels; at most so many at once, for memory grows with them.
TILES_HR = (96, 128, 192, 256, 384, 512, 768)
GPU_TILES_HR = (512, 768, 1024, 1536, 2048)
MAX_AT_ONCE = 2 * 768**2
TRIAL_HR = 1024  # about the side of the image it is tried on
GPU_TRIAL_HR = 6144
TRIAL_ROUNDS = 4  # the first plans and allocates
# What a measurement of one setup may take, seconds; a window that takes longer is run once.
RATE_SECONDS = 0.4
MAX_SIDE = 1024  # larger tiles, and images that are run whole, are stood for by a smaller one, LR pixels
_SMALLER = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of `Engine.tune`: a tile in LR pixels, workers, threads of each, HR Mpx/s.

    On a GPU also which graph ran.
    """

    tile: int
    workers: int
    threads: int
    mpx_per_s: float
    variant: str = ""


def fastest(
    layouts: Iterable[Setup],
    lr: Callable[[int, ModelSpec], int],
    pool: ThreadPoolExecutor,
    progress: Callable[[Trial], None] | None,
) -> tuple[Setup, list[Trial]]:
    """Try setups of one tile, then other tiles for the best of them.

    Parameters
    ----------
    layouts : setups that differ in workers and threads, or in the graph that a GPU runs
    lr : gives the tile in LR pixels for one in HR pixels and a model
    progress : called with every trial

    Returns
    -------
    The fastest setup, and all trials, the fastest last.
    """
    trials: list[tuple[Trial, Setup]] = []

    def measure(setups: list[Setup]) -> None:
        for setup, speed in zip(setups, _speeds(setups, pool), strict=True):
            trial = Trial(setup.tile, setup.workers, setup.threads, speed, setup.variant)
            trials.append((trial, setup))
            if progress is not None:
                progress(trial)

    measure(list(layouts))
    best = max(trials, key=lambda t: t[0].mpx_per_s)[1]
    sides, maximum = (GPU_TILES_HR, math.inf) if best.devices else (TILES_HR, MAX_AT_ONCE)
    tiles = {lr(hr, best.model) for hr in sides if hr * hr * best.workers <= maximum} - {best.tile}
    measure([replace(best, tile=side) for side in sorted(tiles)])
    trials.sort(key=lambda t: t[0].mpx_per_s)
    return trials[-1][1], [trial for trial, _ in trials]


def rate(setup: Setup, pool: ThreadPoolExecutor, layout: Layout, dtype: np.dtype[Any]) -> float:
    """Return HR pixels a second of arrays of a kind: a few windows of the setup's own size.

    The median of some runs, because what else the machine does slows the image as well.
    """
    model = setup.model
    side = setup.tile if setup.tile <= MAX_SIDE else geometry.ceil_to(_SMALLER, model.period)
    setup = replace(setup, tile=side)
    shape = (side, side * setup.workers * 2)
    image = np.random.default_rng(0).random((*shape, layout.channels), np.float32)
    if dtype.kind != "f":
        image = (image * np.iinfo(dtype).max).astype(dtype)
    info = ImageInfo(shape, layout, image.dtype)
    source, sink = ArraySource(image, info), ArraySink(info.scaled(model.scale))
    taken: list[float] = []
    while not taken or sum(taken) + statistics.median(taken) <= RATE_SECONDS:
        start = time.perf_counter()
        process(source, sink, setup, pool)
        taken.append(time.perf_counter() - start)
    # The first plans and allocates.
    return math.prod(shape) * model.scale**2 / statistics.median(taken[1:] or taken)


def _speeds(setups: list[Setup], pool: ThreadPoolExecutor) -> list[float]:
    """Return HR Mpx/s on a drawn image of each setup, the best of some rounds.

    On the CPU they take turns, and the best counts, because what else the machine does only ever slows.
    """
    channels = setups[0].model.channels
    layout = Layout.of(channels, bands=channels not in (1, 3))
    rng = np.random.default_rng(0)

    def once(setup: Setup) -> float:
        model = setup.model
        # Whole windows, as many for every worker.
        trial = GPU_TRIAL_HR if setup.devices else TRIAL_HR
        side = setup.tile * max(2, round(trial / (setup.tile * model.scale)))
        image = rng.integers(0, 256, (side, side, channels), np.uint8)
        info = ImageInfo((side, side), layout, image.dtype)
        source, sink = ArraySource(image, info), ArraySink(info.scaled(model.scale))
        start = time.perf_counter()
        process(source, sink, setup, pool)
        return (side * model.scale) ** 2 / 1e6 / (time.perf_counter() - start)

    best = [0.0] * len(setups)
    if setups[0].devices:
        # One after the other: the buffers of all at once would fill a GPU, which would halve the windows.
        for k, setup in enumerate(setups):
            best[k] = max(once(setup) for _ in range(TRIAL_ROUNDS))
            forget(setup)
        return best
    for _ in range(TRIAL_ROUNDS):
        for k, setup in enumerate(setups):
            best[k] = max(best[k], once(setup))
    return best
