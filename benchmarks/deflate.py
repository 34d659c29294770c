"""Compare TIFF's deflate with libdeflate's: .venv/bin/python benchmarks/deflate.py IMAGE [IMAGE ...]

The upper left 256 x 256 pixels of each image are upscaled by compact-m4c16-x2, and the tile of 512 x 512 is
coded with the predictor. Times are CPU milliseconds per megapixel of one thread, medians of 15.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from _peers_report import grid
from PIL import Image

from srcnn_rt import Engine
from srcnn_rt.io.tiff.writer import coded_tile

SIDE = 256  # LR pixels


def milliseconds(work: Callable[[], object], pixels: int) -> float:
    """Return the time of some work per megapixel."""
    times = []
    for _ in range(15):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return float(np.median(times)) * 1e9 / pixels


def main() -> None:
    """Print a row per image."""
    rows = []
    with Engine("compact-m4c16-x2") as engine:
        for name in sys.argv[1:]:
            image = np.atleast_3d(np.asarray(Image.open(name)))[:SIDE, :SIDE]
            lacking = [(0, SIDE - n) for n in image.shape[:2]]
            tile = np.atleast_3d(engine.upscale(np.pad(image, [*lacking, (0, 0)], "edge").squeeze()))
            tile, pixels = np.ascontiguousarray(tile), tile.shape[0] * tile.shape[1]

            def other(tile: np.ndarray = tile) -> bytes:
                return bytes(imagecodecs.deflate_encode(imagecodecs.delta_encode(tile, axis=-2).tobytes(), 1))

            ratio = len(coded_tile(tile, "deflate")) / len(other())
            ours = milliseconds(lambda tile=tile: coded_tile(tile, "deflate"), pixels)
            rows.append(
                (Path(name).name, f"{ratio:.3f}", f"{ours:.1f}", f"{milliseconds(other, pixels):.1f}")
            )
    print(grid(("image", "bytes / libdeflate's", "ms per Mpx", "libdeflate, ms per Mpx"), rows))


if __name__ == "__main__":
    main()
