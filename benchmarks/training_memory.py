"""Measure the peak memory of training: python benchmarks/training_memory.py --data DIR DIR ...

The script runs ``srcnn-rt train`` for a few steps in a subprocess, and prints its peak resident size and the
number of images and pixels that it kept in memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

from srcnn_rt.evaluation.protocol import list_images, read_image

CODE = """
import sys
from srcnn_rt.cli import main
from srcnn_rt.jobs.report import peak_memory
try:
    main(sys.argv[1:], standalone_mode=False)
finally:
    print(peak_memory())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--arch", default="9-5-5")
    parser.add_argument("--scale", default="3")
    parser.add_argument("--steps", default="50")
    args = parser.parse_args()
    pixels = [read_image(p, "y").size for folder in args.data for p in list_images(folder)]
    with tempfile.TemporaryDirectory() as out:
        words = [word for folder in args.data for word in ("--data", folder)]
        words += ["--arch", args.arch, "--scale", args.scale, "--steps", args.steps, "--out", f"{out}/run"]
        done = subprocess.run(
            [sys.executable, "-c", CODE, "train", *words], stdout=subprocess.PIPE, text=True, check=True
        )
    peak = int(done.stdout.splitlines()[-1]) / 1e6
    print(f"{len(pixels)} images, {sum(pixels) / 1e6:.0f} Mpx, {args.arch}: {peak:.0f} MB at most")


if __name__ == "__main__":
    main()
