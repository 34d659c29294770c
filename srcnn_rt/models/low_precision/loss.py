"""PSNR that a graph loses in lower precision, measured on synthetic images when a session is created.

Rounding errors are noise on a result that has an error itself, so their cost depends on the model's own PSNR
(`loss_db`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ProviderError
from ..margins import network_margin

if TYPE_CHECKING:
    from ..prepare import Program
    from ..spec import ModelSpec

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Runs a graph on one window, (N, C, h, w)."""
Draw = Callable[[int, int], NDArray[np.float32]]

SIDE = 96  # LR pixels
_IMAGES = 2
# PSNR of a model without metadata: a high one, for which less noise is allowed.
_DEFAULT_PSNR = 38.0


def loss_db(rms: float, psnr: float) -> float:
    """Return the PSNR in dB that an image of `psnr` dB loses by noise of an RMS `rms` (full scale is 1)."""
    return 10 * math.log10(1 + rms * rms / 10 ** (-psnr / 10))


def synthetic_image(side: int, seed: int) -> NDArray[np.float32]:
    """Return a (side, side) image in [0, 1] with the statistics of photographs, rounded to 8-bit codes.

    It is noise whose spectrum falls with frequency, with sharp-edged discs on it.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side]
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / frequency**1.2, (side, side))
    image = (noise - noise.min()) / np.ptp(noise)
    for _ in range(12):
        cy, cx, radius = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(2, side / 5)
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = rng.uniform()
    return np.asarray(np.rint(image * 255) / 255, np.float32)


def noise_image(side: int, seed: int) -> NDArray[np.float32]:
    """Return a (side, side) image of white noise in [0, 1).

    Every weight of a network has a part in every result. Around flat areas, as `synthetic_image` has, deep
    networks amplify the rounding error of their first layer, so two right results in float32 differ more.
    """
    return np.random.default_rng(seed).random((side, side), np.float32)


def trial_shapes(program: Program, side: int = SIDE) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes (N, C, h, w) of a test window of about `side` LR pixels, and of its result."""
    spec = program.spec
    s, p = spec.scale, spec.period
    margins = 2 * network_margin(spec)
    h, w = (axis.fixed or -(-side // p) * p + margins for axis in (spec.facts.y, spec.facts.x))
    n, c = spec.batch or 1, spec.channels
    return (n, c, h, w), (n, c, s * (h - margins), s * (w - margins))


def output_errors(
    program: Program, run: Run, exact: Run, side: int = SIDE, draw: Draw = synthetic_image
) -> NDArray[np.float32]:
    """Return the difference of two runs of a model on synthetic images.

    Parameters
    ----------
    program : Program
        The model.
    run, exact : callable
        The graph in lower precision, and in float32.
    side : int
        As for `trial_shapes`.
    draw : callable
        Returns an image in [0, 1] from its side and a seed.

    Returns
    -------
    ndarray, shape (images, N, C, H, W)
        Results of `run` minus those of `exact`.
    """
    shape, _ = trial_shapes(program, side)
    gain, offset = (
        np.array(v, np.float32)[:, None, None] for v in (program.spec.range.gain, program.spec.range.offset)
    )
    found = []
    for seed in range(_IMAGES):
        lr = draw(max(shape[2:]), seed)[: shape[2], : shape[3]]
        image = np.ascontiguousarray(np.broadcast_to(gain * lr + offset, shape))
        found.append(run(image) - exact(image))
    return np.stack(found)


def psnr_loss(spec: ModelSpec, error: NDArray[np.float32]) -> float:
    """Return the PSNR in dB that a model loses by errors of its results; NaN or infinity if they are."""
    gain = np.array(spec.range.gain, np.float32)[:, None, None]
    rms = float(np.sqrt(np.mean((error / gain) ** 2)))
    psnr = spec.training.get("psnr", {})
    known = [v for k, v in psnr.items() if "set5" in k.lower()] if isinstance(psnr, dict) else []
    return loss_db(rms, float(known[0]) if known else _DEFAULT_PSNR)


def check_loss(spec: ModelSpec, loss: float, limit: float, kind: str) -> None:
    """Refuse a precision that loses too much.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    loss, limit : float
        PSNR in dB that it loses, and that it may lose.
    kind : str
        Name of the precision.

    Raises
    ------
    ProviderError
        If `loss` is above `limit`, or NaN because values overflowed.
    """
    if not loss <= limit:
        raise ProviderError(
            f"precision fast cannot be used: {spec.name} would lose about {loss:.2f} dB in {kind}, "
            f"{limit} are allowed"
        )
