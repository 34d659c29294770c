"""Measure peak memory by image size: .venv/bin/python benchmarks/memory.py --json .benchmarks/memory.json

The script writes gray uint8 TIFFs of a smooth texture, upscales each with ``srcnn-rt upscale`` in a process
of its own and prints that process's peak resident size. Every result is first compared with an array upscale
of one corner.

By default the results have 1, 100 and 1,000 Mpx. For all results that are larger than the data processed at
once, memory must be the same within 10%, and it must never exceed 600 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from _peers_report import grid, verdict
from peers import machine, save
from rasterio.windows import Window

from srcnn_rt import Engine

STRIP = 512
# Chunks are at most 8 MiB: two are filled or written, one is read ahead, and one is spare.
STEADY = 4 * 8 * 2**20  # HR pixels
WANTED_SPREAD = 1.10  # the largest peak over the smallest, past `STEADY`
WANTED_MB = 600


def texture(rows: int, cols: int, start: int) -> np.ndarray:
    """Return rows of a smooth, non-repeating pattern, gray uint8."""
    y = np.arange(start, start + rows)[:, None] / 37.0
    x = np.arange(cols)[None, :] / 23.0
    return (127.5 + 80 * np.sin(y + np.sin(x / 3)) + 40 * np.cos(x * 1.7 + y / 5)).astype(np.uint8)


def make_image(path: Path, side: int, layout: str) -> None:
    """Write a side x side TIFF: tiled, in strips of 16 rows, or sparse with two stored corners."""
    if layout == "sparse":
        corner = min(STRIP, side)
        with rasterio.open(
            path, "w", driver="GTiff", width=side, height=side, count=1, dtype="uint8", compress="deflate",
            tiled=True, sparse_ok=True, bigtiff="yes", transform=rasterio.Affine.scale(10),
        ) as file:  # fmt: skip
            for at in (0, side - corner):
                file.write(texture(corner, corner, at)[None], window=Window(at, at, corner, corner))
        return
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
    with rasterio.open(source) as lr, rasterio.open(result) as hr, Engine(model, provider="cpu") as engine:
        n, s = min(64, lr.width), engine.scale
        at = lr.width - n
        corner = engine.upscale(lr.read(1, window=Window(at, at, n, n)))
        got = hr.read(1, window=Window(at * s, at * s, n * s, n * s))
        keep = slice(0 if at == 0 else engine.margin * s, None)  # the crop has a new edge
        worst = int(np.abs(corner.astype(int) - got)[keep, keep].max())
        if worst > 1:
            raise SystemExit(f"{result}: differs from the array upscale by {worst}")


def measure(side: int, model: str, tile: str, layout: str) -> dict[str, Any]:
    """Upscale an image of side x side LR pixels in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "lr.tif"), Path(folder, "hr.tif")
        make_image(source, side, layout)
        command = [sys.executable, "-m", "srcnn_rt", "upscale", str(source), "-o", str(result), "--json"]
        done = subprocess.run(
            [*command, "--model", model, "--tile", tile], stdout=subprocess.PIPE, text=True, check=True
        )
        report = json.loads(done.stdout)
        check(source, result, model)
    w, h = report["target_size"]
    return {
        "side": side,
        "hr_mpx": w * h / 1e6,
        "peak_mb": report["peak_memory"] / 1e6,
        "seconds": report["seconds"],
        "mpx_per_s": report["mpx_per_s"],
        "tile": report["tile"],
    }


def judge(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the peaks with the limit and, above `STEADY`, with each other."""
    peaks = [r["peak_mb"] for r in results]
    steady = [r["peak_mb"] for r in results if r["hr_mpx"] * 1e6 > STEADY]
    found = [("largest peak, MB", max(peaks), WANTED_MB)]
    if len(steady) > 1:
        name = f"largest over smallest past {STEADY / 1e6:.0f} Mpx"
        found.append((name, max(steady) / min(steady), WANTED_SPREAD))
    return [
        {"name": name, "measured": value, "wanted": wanted, "verdict": verdict(value, wanted, at_most=True)}
        for name, value, wanted in found
    ]


def markdown(document: dict[str, Any]) -> str:
    """Return the tables of sizes and of targets."""
    settings = document["settings"]
    rows = [
        tuple(f"{value:.{digits}f}" for value, digits in zip(_numbers(r), (0, 0, 0, 0, 1), strict=True))
        for r in document["results"]
    ]
    targets = [
        (t["name"], f"{t['measured']:.4g}", f"≤ {t['wanted']:.4g}", t["verdict"]) for t in document["targets"]
    ]
    parts = [
        "## Memory",
        f"{settings['model']}, tile {settings['tile']}, {settings['layout']} gray uint8 TIFF",
        grid(("LR side", "HR Mpx", "peak memory, MB", "seconds", "Mpx/s"), rows, left=0),
        grid(("", "measured", "wanted", ""), targets),
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(result: dict[str, Any]) -> tuple[float, ...]:
    return tuple(result[name] for name in ("side", "hr_mpx", "peak_mb", "seconds", "mpx_per_s"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[500, 5000, 15811], help="LR pixels")
    parser.add_argument("--model", default="srcnn-915-x2")
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--layout", choices=["tiled", "striped", "sparse"], default="tiled")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results to this file")
    args = parser.parse_args()
    document: dict[str, Any] = {
        "measured": date.today().isoformat(),
        "machine": machine(),
        "settings": {name: getattr(args, name) for name in ("sides", "model", "tile", "layout")},
        "results": [],
    }
    for side in args.sides:
        document["results"].append(measure(side, args.model, args.tile, args.layout))
        print(f"{side}: {document['results'][-1]['peak_mb']:.0f} MB", flush=True)
    document["targets"] = judge(document["results"])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        save(document, args.json)
    print(markdown(document))


if __name__ == "__main__":
    main()
