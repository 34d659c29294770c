"""Whether a channel that is taken for alpha looks like one, from windows spread over the image."""

from __future__ import annotations

import sys
import warnings

import numpy as np

from ..tiling import kernels
from ..tiling.geometry import Span
from .protocols import Source

MAX_WINDOWS = 25
SIDE = 128  # of a window, LR pixels
MAX_SOFT = 0.5  # share of partly transparent pixels among the visible ones that an alpha may have


def why_no_alpha(source: Source) -> str | None:
    """Return why the last channel of an image does not look like alpha, None if it does.

    An alpha is fully transparent or fully opaque nearly everywhere, so other values are counted.
    """
    visible = opaque = 0
    for y, x in windows(*source.info.shape):
        alpha = source.read(y, x)[:, :, -1]
        visible += int(np.count_nonzero(alpha))
        opaque += int(np.count_nonzero(alpha == kernels.white(source.info.dtype)))
    if visible == 0:
        return "hides all that was looked at"
    return "looks like data" if visible - opaque > MAX_SOFT * visible else None


def windows(height: int, width: int) -> list[tuple[Span, Span]]:
    """Return distinct windows that are evenly spread over an image."""
    rows, columns = (max(0, n - SIDE) for n in (height, width))
    # Multiples of these irrational steps modulo 1 fill a square evenly (the R2 sequence).
    corners = {
        tuple(round(n * ((0.5 + k * step) % 1)) for n, step in ((rows, 0.7549), (columns, 0.5698)))
        for k in range(MAX_WINDOWS)
    }
    return [(Span(y, min(height, y + SIDE)), Span(x, min(width, x + SIDE))) for y, x in sorted(corners)]


def warn_of(source: Source) -> None:
    """Warn the caller of this package if the last channel of its array does not look like alpha."""
    why = why_no_alpha(source)
    if why is None:
        return
    depth, package = 1, __name__.partition(".")[0]
    while sys._getframe(depth).f_globals.get("__name__", "").partition(".")[0] == package:
        depth += 1
    warnings.warn(
        f"channel {source.info.layout.channels} of the array is taken for alpha but {why}; "
        "say bands=True if it is a band, or alpha=True",
        UserWarning,
        stacklevel=depth + 1,
    )
