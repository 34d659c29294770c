"""What a graph in fewer bits loses, measured on drawn images when a session is made.

Errors of rounding are noise on a result that is itself off the truth, so what they cost is a
matter of the model's own PSNR: `loss_db`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ProviderError

if TYPE_CHECKING:
    from ..prepare import Program
    from ..spec import ModelSpec

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Runs a graph on one window, (N, C, h, w)."""

_SIDE = 96  # LR pixels
_IMAGES = 2
# What a model reaches on Set5 where its file does not say: a high one, for then less noise is allowed.
_PSNR = 38.0


def loss_db(rms: float, psnr: float) -> float:
    """Return the PSNR lost by an image of `psnr` dB when noise of `rms` (of full scale) is added."""
    return 10 * math.log10(1 + rms * rms / 10 ** (-psnr / 10))


def drawn(side: int, seed: int) -> NDArray[np.float32]:
    """Return a (side, side) image of 8-bit codes in [0, 1] with the statistics of photographs.

    Noise whose spectrum falls with frequency, and discs with sharp edges on it.
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


def trial_shapes(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (N, C, h, w) of the window that is tried, and of its result."""
    spec = program.spec
    s, p = spec.scale, spec.period
    lead = 0 if spec.padded else 2 * spec.margin
    h, w = (axis.fixed or -(-_SIDE // p) * p + lead for axis in (spec.facts.y, spec.facts.x))
    lot = (spec.batch or 1, spec.channels)
    return (*lot, h, w), (*lot, s * (h - lead), s * (w - lead))


def errors(program: Program, run: Run, exact: Run) -> NDArray[np.float32]:
    """Return what `run` makes less what `exact` makes of drawn images: (images, N, C, H, W)."""
    shape, _ = trial_shapes(program)
    gain, offset = (
        np.array(v, np.float32)[:, None, None] for v in (program.spec.range.gain, program.spec.range.offset)
    )
    found = []
    for seed in range(_IMAGES):
        lr = drawn(max(shape[2:]), seed)[: shape[2], : shape[3]]
        image = np.ascontiguousarray(np.broadcast_to(gain * lr + offset, shape))
        found.append(run(image) - exact(image))
    return np.stack(found)


def lost(spec: ModelSpec, error: NDArray[np.float32]) -> float:
    """Return the PSNR that errors of results cost a model, dB; not a number where they are not."""
    gain = np.array(spec.range.gain, np.float32)[:, None, None]
    rms = float(np.sqrt(np.mean((error / gain) ** 2)))
    psnr = spec.training.get("psnr", {})
    known = [v for k, v in psnr.items() if "set5" in k.lower()] if isinstance(psnr, dict) else []
    return loss_db(rms, float(known[0]) if known else _PSNR)


def require(spec: ModelSpec, loss: float, limit: float, kind: str) -> None:
    """Refuse what loses too much.

    Raises
    ------
    ProviderError
        With the number, if `loss` is above `limit`, or none at all because values overflowed.
    """
    if not loss <= limit:
        raise ProviderError(
            f"precision fast cannot be used: {spec.name} would lose about {loss:.2f} dB in {kind}, "
            f"{limit} are allowed"
        )
