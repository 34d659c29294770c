"""Measure what a region costs: .venv/bin/python benchmarks/regions.py

Regions lie anywhere in a large image. The script counts the LR pixels that windows hold, without and with
margins, and times a region against the time that as many pixels of the whole image take. Both take turns.
Then threads ask one open file for tiles at random places, as a tile server does. Every result is compared
with the whole one.

It writes regions.json into ``--out``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _images import make_image, write_tiled
from _machine import machine, save
from _tables import grid, verdict
from numpy.typing import NDArray

from srcnn_rt import Engine, open_image
from srcnn_rt.backends.host_renderer import HostRenderer

MODELS = ("srcnn-915-x2", "srcnn-955-x2", "compact-m4c16-x2")
THREADS = (1, 16)
WANTED = {256: None, 512: 1.3, 2048: 1.1}  # HR pixels of a side: most pixels computed per pixel
PLACES = ((0, 0), (333, 217), (1001, 1502))  # LR pixels
LARGE = 4096  # LR pixels of a side
TILE, TILES = 256, 200  # HR pixels of a tile, and how many are asked for


class Count:
    """LR pixels of the windows that networks compute while `counting` is active."""

    def __init__(self) -> None:
        self.cores = self.windows = 0
        self._lock = threading.Lock()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the windows of every image in this process."""
        render = HostRenderer.render

        def counted(renderer: Any, tiles: Any, chunk: Any) -> None:
            with self._lock:
                self.cores += len(tiles) * int(np.prod(renderer._plan.tile))
                self.windows += len(tiles) * int(np.prod(renderer._plan.window))
            render(renderer, tiles, chunk)

        with patch.object(HostRenderer, "render", counted):
            yield


def measure(image: NDArray[np.uint8], model: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Count and time regions of every size.

    Raises
    ------
    SystemExit
        If a region differs from that part of the whole result.
    """
    found = []
    with Engine(model, threads=threads) as engine:
        s = engine.scale
        part = image[:2048, :2048]
        expected = engine.upscale(part)
        for side, wanted in WANTED.items():
            lr, seconds, whole, count = side // s, [], [], Count()
            for y, x in PLACES:
                y, x = (min(at, len(part) - lr) for at in (y, x))
                region = np.s_[y : y + lr, x : x + lr]
                out = np.empty((side, side, 3), np.uint8)
                with count.counting():
                    engine.upscale_into(part, out, region=region)
                if not np.array_equal(out, expected[s * y : s * (y + lr), s * x : s * (x + lr)]):
                    raise SystemExit(f"{model}: a region differs from the whole")
                for _ in range(rounds):
                    start = time.perf_counter()
                    engine.upscale_into(part, out, region=region)
                    middle = time.perf_counter()
                    engine.upscale(part[:1024, :1024])
                    seconds.append((middle - start) / side**2)
                    whole.append((time.perf_counter() - middle) / (1024 * s) ** 2)
            pixels = len(PLACES) * lr**2
            found.append({
                "model": model, "provider": engine.provider, "threads": threads, "side": side,
                "wanted": wanted, "cores": count.cores / pixels, "windows": count.windows / pixels,
                "seconds": statistics.median(seconds) * side**2,
                "time": statistics.median(a / b for a, b in zip(seconds, whole, strict=True)),
            })  # fmt: skip
    return found


def serve(image: NDArray[np.uint8], model: str, clients: int) -> dict[str, Any]:
    """Return how many tiles a second one engine and one open file give to some threads."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, Engine(model) as engine:
        path, lr = Path(folder) / "a.tif", TILE // engine.scale
        write_tiled(path, image)
        places = rng.integers(0, len(image) - lr, (TILES, 2)).tolist()

        def tile(place: list[int]) -> float:
            start, (y, x) = time.perf_counter(), place
            out = np.empty((TILE, TILE, 3), np.uint8)
            engine.upscale_into(opened, out, region=np.s_[y : y + lr, x : x + lr])
            return time.perf_counter() - start

        with open_image(path) as opened, ThreadPoolExecutor(clients) as pool:
            tile(places[0])
            start = time.perf_counter()
            waited = sorted(pool.map(tile, places))
            seconds = time.perf_counter() - start
    return {
        "model": model, "clients": clients, "per_second": TILES / seconds,
        "median_ms": 1e3 * waited[TILES // 2], "slowest_ms": 1e3 * waited[-1],
    }  # fmt: skip


def markdown(document: dict[str, Any]) -> str:
    """Return both tables."""
    rows = [
        [
            r["model"], r["provider"], str(r["threads"]), f"{r['side']}²", f"{r['cores']:.2f}",
            f"{r['windows']:.2f}",
            "" if r["wanted"] is None else verdict(r["cores"], r["wanted"], at_most=True),
            f"{1e3 * r['seconds']:.0f} ms", f"{r['time']:.2f}",
        ]
        for r in document["regions"]
    ]  # fmt: skip
    served = [
        [
            r["model"],
            str(r["clients"]),
            f"{r['per_second']:.0f}",
            f"{r['median_ms']:.0f}",
            f"{r['slowest_ms']:.0f}",
        ]
        for r in document["served"]
    ]
    head = [
        "model",
        "provider",
        "threads",
        "region",
        "pixels",
        "with margins",
        "target",
        "time",
        "over whole",
    ]
    tiles = ["model", "clients", "tiles/s", "median, ms", "slowest, ms"]
    return f"{grid(head, rows, 2)}\n\n{grid(tiles, served)}"


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of regions.json")
    parser.add_argument("--rounds", type=int, default=3, help="times that each region is timed")
    args = parser.parse_args()
    image, described = make_image(LARGE, 3)
    document: dict[str, Any] = {"date": date.today().isoformat(), "image": described, **machine()}
    document["regions"] = [
        row for model in MODELS for threads in THREADS for row in measure(image, model, threads, args.rounds)
    ]
    document["served"] = [serve(image, model, clients) for model in MODELS for clients in (1, 4)]
    save(document, args.out / "regions.json")
    print(markdown(document))


if __name__ == "__main__":
    main()
