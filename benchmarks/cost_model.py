"""Compare the formulas of docs/cost.md with measurements: python benchmarks/cost_model.py

Two constants of the machine are fitted on two models at the default tile: R, executed multiply-accumulates
per second, and β, bytes of activations moved per second. Everything else is predicted from the graph and the
plan, and then measured. Each line gives the error of the formula; the last line says whether all errors are
within 15%.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from srcnn_rt import Engine
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.optimize.cpu_cost import work

LIMIT = 0.15
RUNTIME = 52e6  # bytes of ONNX Runtime, onnx and a session, beyond the earlier imports
ARENA = 1.5  # ONNX Runtime's arena grows by powers of two
PEAK = """
import sys, numpy as np
from srcnn_rt import Engine
from srcnn_rt.jobs.report import peak_memory
import cv2, rasterio
base = peak_memory()
with Engine(sys.argv[1], provider="cpu", tile=int(sys.argv[2]), threads=2) as engine:
    image = np.zeros((2 * engine.tile, 4 * engine.tile), np.uint8)
    engine.upscale(image)
    print(base, peak_memory(), image.size * (1 + engine.scale**2))
"""


@dataclass(frozen=True)
class Line:
    """A predicted and a measured quantity."""

    what: str
    predicted: float
    measured: float
    unit: str

    @property
    def error(self) -> float:
        return self.measured / self.predicted - 1


def executed(model: str) -> float:
    """Return E, the executed multiply-accumulates per HR pixel of the optimised graph."""
    data, described = spec.load(model)
    ready = prepare.build_program(data, described)
    return work(spec.parse(ready.data)).executed


def enlarged(model: str, tile: int) -> float:
    """Return (1 + a/c)², the cost of a window of c = `tile` HR pixels per side relative to its pixels alone.

    a is the number of HR samples that the last layer reads beyond its block, which the layers before it
    compute.
    """
    last = int(spec.load(model)[1].architecture.split("-")[-1])
    scale = spec.load(model)[1].scale
    # The phases of an LR pixel are computed together.
    return float((1 + -(-(last - 1) // scale) * scale / tile) ** 2)


def activations(model: str, tile: int) -> float:
    """Return A(c), bytes of the two largest adjacent activations of a window in float32."""
    described = spec.load(model)[1]
    first, second = (64, 32)
    by_phase = described.architecture.split("-")[1] == "1"
    side = tile / described.scale if by_phase else tile
    return 4 * (first + second) * (side + 4) ** 2


def speed(model: str, tile: int | str, seconds: float) -> float:
    """Return HR Mpx/s on a gray array, the median of runs."""
    with Engine(model, provider="cpu", tile=tile, threads=2) as engine:
        side = max(1024 // engine.scale, 2 * engine.tile)
        image = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
        whole = engine.upscale(image)
        assert (
            np.abs(engine.upscale(image[:200, :200])[:300, :300].astype(int) - whole[:300, :300]).max() <= 1
        )
        taken: list[float] = []
        while len(taken) < 3 or sum(taken) < seconds:
            start = time.perf_counter()
            engine.upscale(image)
            taken.append(time.perf_counter() - start)
        return whole.size / 1e6 / statistics.median(taken)


def moved(model: str) -> float:
    """Return B, bytes of activations written and read again per HR pixel: 64 and 32 channels of float32."""
    del model  # the same for every SRCNN
    return 2 * 4 * (64 + 32)


def times(seconds: float) -> tuple[tuple[float, float], list[Line]]:
    """Fit the two rates of the machine on two models; predict and measure other models and tiles."""
    light, heavy = "srcnn-915-x2", "srcnn-955-x2"
    rows = [[executed(m) * enlarged(m, 256), moved(m) * enlarged(m, 256)] for m in (light, heavy)]
    taken = [1 / speed(m, 128, seconds) for m in (light, heavy)]  # microseconds per HR pixel
    per_mac, per_byte = np.linalg.solve(np.array(rows), np.array(taken))
    cases = [(light, hr) for hr in (96, 128, 192, 384)]
    cases += [(heavy, hr) for hr in (128, 512)]
    cases += [("srcnn-915-x3", 258), ("srcnn-915-x4", 256), ("srcnn-955-x3", 258), ("srcnn-955-x4", 256)]
    lines = []
    for model, hr in cases:
        once = executed(model) * per_mac + moved(model) * per_byte
        predicted = 1 / (once * enlarged(model, hr))
        lines.append(
            Line(
                f"{model}, tile {hr}",
                predicted,
                speed(model, hr // spec.load(model)[1].scale, seconds),
                "Mpx/s",
            )
        )
    return (1e-3 / per_mac, 1e-3 / per_byte), lines


def memory() -> list[Line]:
    """Predict and measure the peak memory of a run: activations of two workers, and arrays."""
    lines = []
    for model, hr in (
        ("srcnn-955-x2", 256),
        ("srcnn-955-x2", 512),
        ("srcnn-915-x2", 512),
        ("srcnn-915-x2", 1024),
    ):
        scale = spec.load(model)[1].scale
        done = subprocess.run(
            [sys.executable, "-c", PEAK, model, str(hr // scale)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        base, peak, arrays = map(int, done.stdout.split())
        predicted = base + RUNTIME + 2 * ARENA * activations(model, hr) + arrays
        lines.append(Line(f"{model}, tile {hr}, peak", predicted / 1e6, peak / 1e6, "MB"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    (rate, stream), lines = times(args.seconds)
    lines += memory()
    print(f"R = {rate:.0f} G executed multiply-accumulates per second, β = {stream:.0f} GB/s")
    print("| what | formula | measured | off |")
    print("|---|---:|---:|---:|")
    for line in lines:
        print(f"| {line.what} | {line.predicted:.1f} | {line.measured:.1f} {line.unit} | {line.error:+.0%} |")
    worst = max(lines, key=lambda line: abs(line.error))
    verdict = "within" if abs(worst.error) <= LIMIT else "NOT within"
    print(f"{verdict} {LIMIT:.0%}; worst: {worst.what}, {worst.error:+.0%}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**asdict(line), "error": line.error} for line in lines]
        args.json.write_text(json.dumps({"rate_gmacs": rate, "stream_gb": stream, "lines": rows}, indent=1))


if __name__ == "__main__":
    main()
