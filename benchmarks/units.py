"""Upscale one photograph in many units: python benchmarks/units.py

scikit-image's camera image is downscaled by two, mapped to many ranges and types, upscaled, and compared
with the truth in the same range. The exit status is 1 if a row differs from the first by more than 0.02 dB,
or if a constant image does not come back as itself.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
from numpy.typing import NDArray
from skimage.data import camera

from srcnn_rt import Engine
from srcnn_rt.evaluation.protocol import imresize

ROWS: list[tuple[str, float, float, str]] = [
    ("uint16, full range", 0, 65535, "uint16"),
    ("uint16 0..10000", 0, 10000, "uint16"),
    ("12 bits in uint16", 0, 4095, "uint16"),
    ("uint16 0..3000", 0, 3000, "uint16"),
    ("uint16 0..600", 0, 600, "uint16"),
    ("int16 -9000..9000", -9000, 9000, "int16"),
    ("int32 around 10^9", 1e9, 1e9 + 5000, "int32"),
    ("float32 1000..1100 (metres)", 1000, 1100, "float32"),
    ("float32 -1..1", -1, 1, "float32"),
    ("float32 250..310 (kelvins)", 250, 310, "float32"),
    ("float64 -1e-9..1e-9", -1e-9, 1e-9, "float64"),
]
CONSTANTS: list[tuple[str, float]] = [
    ("uint8", 0), ("uint8", 255), ("uint16", 0), ("uint16", 300), ("int16", -350), ("int32", 1_000_000_003),
    ("float32", -350), ("float32", 286.5), ("float32", 1500), ("float64", 4000.123),
]  # fmt: skip
ALLOWED = 0.02  # dB


def psnr(got: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    # Clip to the range of the photograph, because integers are clipped to their type, which ends there.
    error = (got.clip(0, 1) - truth)[2:-2, 2:-2]
    return -10 * math.log10(float(np.mean(error * error)))


def row(
    engine: Engine, small: NDArray[np.float64], truth: NDArray[np.float64], unit: tuple[float, float, str]
) -> float:
    low, high, dtype = unit
    samples = low + (high - low) * small
    samples = (samples if np.dtype(dtype).kind == "f" else np.rint(samples)).astype(dtype)
    got = engine.upscale(samples)
    assert got.dtype == dtype
    return psnr((got.astype(np.float64) - low) / (high - low), truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bicubic-x2", "srcnn-915-x2", "srcnn-955-x2"])
    args = parser.parse_args()
    truth = camera() / 255.0
    small = imresize(truth, 2, down=True).clip(0, 1)
    engines = {name: Engine(name, provider="cpu", tile="auto") for name in args.models}
    wrong = 0
    print("| samples | " + " | ".join(args.models) + " |\n|---|" + "--:|" * len(args.models))
    first: dict[str, float] = {}
    for label, *unit in ROWS:
        scores = {name: row(e, small, truth, (unit[0], unit[1], unit[2])) for name, e in engines.items()}
        first = first or scores
        wrong += sum(abs(scores[name] - first[name]) > ALLOWED for name in scores)
        print(f"| {label} | " + " | ".join(f"{scores[name]:.2f}" for name in args.models) + " |")
    print("\n| constant in | " + " | ".join(f"{name}, out" for name in args.models) + " |")
    print("|---|" + "--:|" * len(args.models))
    for dtype, value in CONSTANTS:
        outs = [np.unique(e.upscale(np.full((40, 50), value, dtype))) for e in engines.values()]
        wrong += sum(out.size != 1 or out[0] != np.dtype(dtype).type(value) for out in outs)
        print(
            f"| {dtype} {value!r} | "
            + " | ".join(", ".join(f"{v!r}" for v in out.tolist()) for out in outs)
            + " |"
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
