"""Choose the tile and the number of workers: defaults, and short measurements of what is fastest."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.loader import Loader, Setup
from ..backends.tuning_cache import Choice
from ..image.info import ImageInfo, Layout
from ..io.in_memory import ArraySink, ArraySource
from ..models.spec import ModelSpec
from ..tiling import geometry
from .ending import Ending
from .executor import process

# Default tiles, HR pixels. On a CPU activations should stay in the caches, and margins should not matter.
DEFAULT_TILE_HR = 256
# Models with more multiply-accumulates per pixel are bound by arithmetic: computing margins twice costs them
# more than leaving the caches does. The native backend keeps only a few rows at a time.
HEAVY_MACS = 30_000
LARGE_TILE_HR = 512
NATIVE_TILE_MARGINS = 8  # margins in a tile of the native backend, at least
GPU_TILE_HR = 1024  # fewer margins, larger kernels, and no cache to stay in
DEVICE_TILE_HR = 2048  # of images in GPU memory, whose windows are computed one at a time

# Tiles that `tune` tries, HR pixels. Memory grows with the tile and the number of workers.
TILES_HR = (96, 128, 192, 256, 384, 512, 768)
GPU_TILES_HR = (512, 768, 1024, 1536, 2048)
MAX_PIXELS_AT_ONCE = 2 * 768**2
# Sides of the images that are timed, HR pixels.
TRIAL_HR = 1024
GPU_TRIAL_HR = 6144
TRIAL_ROUNDS = 4  # the first plans and allocates
RATE_SECONDS = 0.4  # for one setup; a window that takes longer is run once
# Larger tiles, and whole images, are timed with a smaller tile instead, LR pixels.
MAX_SIDE = 1024
SMALLER_SIDE = 256

_log = logging.getLogger("srcnn_rt")


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of `Engine.tune`.

    Attributes
    ----------
    tile : int
        Side in LR pixels.
    workers : int
        Windows computed at once.
    threads : int
        Of each worker.
    mpx_per_s : float
        HR megapixels per second.
    variant : str
        The graph that ran, on a GPU.
    """

    tile: int
    workers: int
    threads: int
    mpx_per_s: float
    variant: str = ""


def lr_tile(hr: int, model: ModelSpec) -> int:
    """Return a tile of about `hr` HR pixels in LR pixels, a multiple of the model's period."""
    return geometry.ceil_to(max(geometry.MIN_TILE, hr // model.scale), model.period)


def default_tile(setup: Setup) -> int:
    """Return the tile in LR pixels where nothing was measured."""
    if setup.devices:
        return lr_tile(GPU_TILE_HR, setup.model)
    model = setup.model
    if setup.provider == "native":  # which keeps only some rows of each layer
        margins = NATIVE_TILE_MARGINS * (model.margin + max(model.extra_margin))
        return geometry.ceil_to(max(lr_tile(LARGE_TILE_HR, model), margins), model.period)
    return lr_tile(LARGE_TILE_HR if model.facts.macs >= HEAVY_MACS else DEFAULT_TILE_HR, model)


def device_tile(setup: Setup) -> int:
    """Return the tile in LR pixels for images in GPU memory."""
    return max(setup.tile, lr_tile(DEVICE_TILE_HR, setup.model))


def gpu_names(setup: Setup) -> str:
    """Return the names of the GPUs in use, joined; empty on a CPU."""
    if not setup.devices:
        return ""
    from ..backends.cuda.devices import devices

    names = {d.index: d.name for d in devices()}
    return " + ".join(names.get(gpu.index, gpu.kind) for gpu in setup.gpus)


def tune(
    loader: Loader,
    setup: Setup,
    pool: ThreadPoolExecutor,
    progress: Callable[[Trial], None] | None,
    ending: Ending | None = None,
) -> tuple[Setup, Choice, list[Trial]]:
    """Find the fastest setup of a model and release the buffers of all others.

    Parameters
    ----------
    loader : Loader
    setup : Setup
        The one in use.
    pool : ThreadPoolExecutor
    progress : callable, optional
        Called with every trial.
    ending : Ending, optional
        Whether to end before all is measured.

    Returns
    -------
    best : Setup
    choice : Choice
        The same, as the tuning cache stores it.
    trials : list of Trial
        All of them, the fastest last.
    """
    trials: list[tuple[Trial, Setup]] = []

    def measure(setups: list[Setup]) -> None:
        for made, speed in zip(setups, _speeds(setups, pool, ending), strict=True):
            trial = Trial(made.tile, made.workers, made.threads, speed, made.variant)
            trials.append((trial, made))
            if progress is not None:
                progress(trial)

    # Several setups with one tile, then other tiles with the fastest of them.
    setups = [replace(made, tile=default_tile(made)) for made in loader.layouts(setup)]
    measure(setups)
    best = max(trials, key=lambda t: t[0].mpx_per_s)[1]
    sides, maximum = (GPU_TILES_HR, math.inf) if best.devices else (TILES_HR, MAX_PIXELS_AT_ONCE)
    tiles = {lr_tile(hr, best.model) for hr in sides if hr * hr * best.workers <= maximum} - {best.tile}
    measure([replace(best, tile=side) for side in sorted(tiles)])
    trials.sort(key=lambda t: t[0].mpx_per_s)
    fastest, best = trials[-1]
    for other in (setup, *setups):
        if other.networks != best.networks:
            other.empty_cache()
    workers = best.workers // max(1, best.devices)
    choice = Choice(best.tile * best.model.scale, workers, best.threads, best.variant)
    _log.info("tuned %s on %s: %s", best.model.name, best.provider, fastest)
    return best, choice, [trial for trial, _ in trials]


def rate(setup: Setup, pool: ThreadPoolExecutor, layout: Layout, dtype: np.dtype[Any]) -> float:
    """Return HR pixels per second for arrays of a layout and type, timed on a few windows of the tile.

    It is the median of some runs: other load on the machine will slow the image down as well.
    """
    model = setup.model
    side = setup.tile if setup.tile <= MAX_SIDE else geometry.ceil_to(SMALLER_SIDE, model.period)
    setup = replace(setup, tile=side)
    image = np.random.default_rng(0).random((side, side * setup.workers * 2, layout.channels), np.float32)
    if dtype.kind != "f":
        image = (image * np.iinfo(dtype).max).astype(dtype)
    taken: list[float] = []
    while not taken or sum(taken) + statistics.median(taken) <= RATE_SECONDS:
        taken.append(_seconds(setup, pool, image, layout))
    # The first plans and allocates.
    return math.prod(image.shape[:2]) * model.scale**2 / statistics.median(taken[1:] or taken)


def _seconds(
    setup: Setup,
    pool: ThreadPoolExecutor,
    image: NDArray[Any],
    layout: Layout,
    ending: Ending | None = None,
) -> float:
    """Return how long it takes to upscale an array."""
    info = ImageInfo((image.shape[0], image.shape[1]), layout, image.dtype)
    source, sink = ArraySource(image, info), ArraySink(info.scaled(setup.model.scale))
    start = time.perf_counter()
    process(source, sink, setup, pool, ending=ending)
    return time.perf_counter() - start


def _speeds(setups: list[Setup], pool: ThreadPoolExecutor, ending: Ending | None) -> list[float]:
    """Return HR Mpx/s of each setup on a random image, the best of some rounds.

    On the CPU setups take turns, and the best round counts: other load on the machine only ever slows down.
    """
    channels = setups[0].model.channels
    layout = Layout.of(channels, bands=channels not in (1, 3))
    rng = np.random.default_rng(0)

    def once(setup: Setup) -> float:
        model = setup.model
        # Whole windows, the same number for every worker.
        trial = GPU_TRIAL_HR if setup.devices else TRIAL_HR
        side = setup.tile * max(2, round(trial / (setup.tile * model.scale)))
        image = rng.integers(0, 256, (side, side, channels), np.uint8)
        return (side * model.scale) ** 2 / 1e6 / _seconds(setup, pool, image, layout, ending)

    best = [0.0] * len(setups)
    if setups[0].devices:
        # One after the other, because the buffers of all would fill a GPU and windows would be halved.
        for k, setup in enumerate(setups):
            best[k] = max(once(setup) for _ in range(TRIAL_ROUNDS))
            setup.empty_cache()
        return best
    for _ in range(TRIAL_ROUNDS):
        for k, setup in enumerate(setups):
            best[k] = max(best[k], once(setup))
    return best
