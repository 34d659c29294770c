"""Peak memory against picture size: python benchmarks/memory.py --sides 5000 10000 20000

Writes gray uint8 TIFFs of noise-like texture, upscales each with ``srcnn-rt upscale`` in
a process of its own and prints that process's peak resident size. Every result is opened
and compared with an array upscale of one corner before its figure counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from srcnn_rt import Engine

STRIP = 512


def texture(rows: int, cols: int, start: int) -> np.ndarray:
    """Return rows of a smooth, non-repeating pattern, gray uint8."""
    y = np.arange(start, start + rows)[:, None] / 37.0
    x = np.arange(cols)[None, :] / 23.0
    return (127.5 + 80 * np.sin(y + np.sin(x / 3)) + 40 * np.cos(x * 1.7 + y / 5)).astype(np.uint8)


def make_picture(path: Path, side: int, layout: str) -> None:
    """Write a side x side TIFF, tiled or in strips of 16 rows."""
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if layout == "striped":
        options = {"blockysize": 16}
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=1, dtype="uint8",
        compress="deflate", zlevel=1, transform=rasterio.Affine.scale(10), **options,
    ) as file:  # fmt: skip
        for y in range(0, side, STRIP):
            rows = min(STRIP, side - y)
            file.write(texture(rows, side, y)[None], window=Window(0, y, side, rows))


def check(source: Path, result: Path, model: str) -> None:
    """Compare the far corner of the result with an array upscale of that corner."""
    with rasterio.open(source) as lr, rasterio.open(result) as hr, Engine(model, "cpu") as engine:
        n, s = min(64, lr.width), engine.scale
        at = lr.width - n
        corner = engine.upscale(lr.read(1, window=Window(at, at, n, n)))
        got = hr.read(1, window=Window(at * s, at * s, n * s, n * s))
        keep = slice(0 if at == 0 else engine.margin * s, None)  # the cut is a new edge
        worst = int(np.abs(corner.astype(int) - got)[keep, keep].max())
        if worst > 1:
            raise SystemExit(f"{result}: differs from the array upscale by {worst}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 10000])
    parser.add_argument("--model", default="srcnn-915-x2")
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--layout", choices=["tiled", "striped"], default="tiled")
    args = parser.parse_args()
    print(f"{args.model}, tile {args.tile}, {args.layout} gray uint8 TIFF")
    print("| LR side | HR Mpx | peak memory, MB | seconds | Mpx/s |")
    print("|---:|---:|---:|---:|---:|")
    for side in args.sides:
        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder, "lr.tif"), Path(folder, "hr.tif")
            make_picture(source, side, args.layout)
            command = [sys.executable, "-m", "srcnn_rt", "upscale", str(source), "-o", str(result), "--json"]
            done = subprocess.run(
                [*command, "--model", args.model, "--tile", args.tile],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            report = json.loads(done.stdout)
            check(source, result, args.model)
        w, h = report["target_size"]
        peak = report["peak_memory"] / 1e6
        speed = f"{report['seconds']:.0f} | {report['mpx_per_s']:.1f}"
        print(f"| {side} | {w * h / 1e6:.0f} | {peak:.0f} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
