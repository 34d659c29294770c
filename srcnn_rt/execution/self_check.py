"""Check once per machine that a model gives the same result in tiles and whole.

A small test image with odd sides goes whole through the graph of the file, and through the engine in the
smallest possible tiles. It takes under a second, and the tuning cache remembers it. `evaluation.seam_check`
proves more and takes longer.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..backends.onnxruntime import Session
from ..errors import ModelError
from ..io.in_memory import ArraySink, array_source
from ..models.low_precision.loss import synthetic_image
from ..models.margins import rules_for
from ..tiling import geometry
from . import executor
from .normalization import DataRange

if TYPE_CHECKING:
    from ..backends.loader import Setup
    from ..models.spec import ModelSpec

# Largest differences, relative to the largest sample.
LIMIT = 1e-4  # ten times what float32 sums in another order differ by
LIMIT_FLOAT16 = 1e-2
LIMIT_FAST = 2e-2  # bfloat16; a misplaced seam differs by ten times as much
MAX_MACS = 2e10  # of the whole test image, about half a second; heavier models are not checked


def check(
    data: bytes, described: ModelSpec, setup: Setup, pool: ThreadPoolExecutor, *, fast: bool = False
) -> bool:
    """Compare the result in tiles with that of the whole image.

    Parameters
    ----------
    data : bytes
        The model file.
    described : ModelSpec
        Of the same file.
    setup : Setup
        What the engine runs for it.
    pool : ThreadPoolExecutor
    fast : bool
        Allow for the rounding of precision ``"fast"``.

    Returns
    -------
    bool
        False if the model is too heavy, of a fixed size or of a type that cannot be checked.

    Raises
    ------
    ModelError
        If the results differ.
    """
    shape = _shape(described, setup)
    kinds = described.facts.types
    if shape is None or kinds not in (("float32", "float32"), ("float16", "float16")):
        return False
    image = np.stack([synthetic_image(max(shape), seed) for seed in range(described.channels)], axis=2)
    image = np.ascontiguousarray(image[: shape[0], : shape[1]])
    gain, offset = (np.array(v, np.float32) for v in (described.range.gain, described.range.offset))
    expected = (whole(Session(data), described, gain * image + offset) - offset) / gain
    source = array_source(image, "HWC", bands=described.channels != 3, nodata=None)
    sink = ArraySink(source.info.scaled(described.scale))
    small = replace(setup, tile=geometry.ceil_to(geometry.MIN_TILE, setup.model.period))
    executor.process(source, sink, small, pool, data_range=DataRange("given", 0.0, 1.0))
    worst = float(np.abs(sink.array - expected).max()) / max(1e-6, float(np.abs(expected).max()))
    if not worst <= (LIMIT_FAST if fast else LIMIT if kinds[0] == "float32" else LIMIT_FLOAT16):
        raise ModelError(
            f"the result in tiles differs from that of the whole image by {worst:.2g} of its largest sample; "
            "srcnn-rt inspect --verify shows where, and --trust runs the model without this check"
        )
    return True


def whole(session: Session, described: ModelSpec, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a model on a whole (H, W, C) image without the tiler, as the reference.

    The image is mirrored by the margin (valid models) or up to a size that the model accepts (padded models).
    """
    m, s = described.margin, described.scale
    h, w, _ = image.shape
    if described.padded:
        y, x = rules_for(described)
        pads = [(0, y.extended(h) - h), (0, x.extended(w) - w), (0, 0)]
    else:
        p = described.period
        pads = [(m, m - n % -p) for n in (h, w)] + [(0, 0)]
    mirrored = np.pad(image, pads, mode="symmetric").transpose(2, 0, 1)[None]
    windows = np.ascontiguousarray(np.repeat(mirrored, described.batch or 1, axis=0))
    return session.run(windows)[0, :, : h * s, : w * s].transpose(1, 2, 0)


def _shape(described: ModelSpec, setup: Setup) -> tuple[int, int] | None:
    """Return an odd size with several windows on both axes; None if the model cannot be checked."""
    rules = rules_for(described)
    if any(rule.fixed is not None for rule in rules) or not described.facts.tiled:
        return None
    tile = geometry.ceil_to(geometry.MIN_TILE, setup.model.period)
    sides = []
    for k, rule in enumerate(rules):
        around = 2 * max(described.margin, setup.model.margin)
        side = max(around + 2 * tile + geometry.MIN_TILE, rule.minimum) + 4 * k
        sides.append(side + 1 - side % 2)
    work = described.facts.macs * math.prod(sides) * described.scale**2
    return (sides[0], sides[1]) if work <= MAX_MACS else None
