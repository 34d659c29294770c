"""Measure start-up: .venv/bin/python benchmarks/startup.py

The script measures the wall time of ``srcnn-rt upscale`` on an RGB PNG of 256 x 256 pixels, of
``import srcnn_rt``, and of the bare interpreter, each from the start of a new process to its end. They take
turns. The first runs, which fill the system's file cache, do not count. The image is checked first.

It writes startup.json into ``--out``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _images import make_image
from _peers_report import grid, verdict
from peers import machine, save

from srcnn_rt import Engine

SIDE = 256
WARM_UP = 2
UPSCALE, IMPORT = "`srcnn-rt upscale` of a 256² RGB PNG", "`import srcnn_rt`"
BARE = "`python -c pass`"
WANTED = {UPSCALE: 0.7, IMPORT: 0.15}  # seconds


def seconds(command: Sequence[str]) -> float:
    """Return the wall time of a process.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails.
    """
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def commands(folder: Path) -> dict[str, list[str]]:
    """Write the image, upscale it once and check the result; return the commands to be timed.

    Raises
    ------
    SystemExit
        If the result differs from an array upscale.
    """
    image, _ = make_image(SIDE, 3)
    source, target = folder / "lr.png", folder / "hr.png"
    cv2.imwrite(str(source), image[:, :, ::-1])
    script = Path(sys.executable).with_name("srcnn-rt")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "srcnn_rt"]
    upscale = [*program, "upscale", str(source), "-o", str(target), "--overwrite", "--quiet"]
    seconds(upscale)
    with Engine() as engine:
        expected = engine.upscale(image)
    if np.abs(cv2.imread(str(target))[:, :, ::-1].astype(int) - expected).max() > 1:
        raise SystemExit("srcnn-rt upscale: differs from the array upscale")
    return {
        UPSCALE: upscale,
        IMPORT: [sys.executable, "-c", "import srcnn_rt"],
        BARE: [sys.executable, "-c", "pass"],
    }


def measure(rounds: int) -> list[dict[str, Any]]:
    """Run the commands in turns; return the median and all times of each."""
    with tempfile.TemporaryDirectory() as folder:
        todo = commands(Path(folder))
        turns = [[seconds(command) for command in todo.values()] for _ in range(WARM_UP + rounds)]
    results = []
    for name, found in zip(todo, zip(*turns[WARM_UP:], strict=True), strict=True):
        middle, wanted = float(np.median(found)), WANTED.get(name)
        results.append(
            {
                "name": name,
                "seconds": middle,
                "wanted": wanted,
                "verdict": "–" if wanted is None else verdict(middle, wanted, at_most=True),
                "rounds": found,
            }
        )
    return results


def markdown(document: dict[str, Any]) -> str:
    """Return the table of commands: seconds, target and verdict."""
    rows = [
        (
            r["name"],
            f"{r['seconds']:.3f}",
            "–" if r["wanted"] is None else f"≤ {r['wanted']:.2f}",
            r["verdict"],
        )
        for r in document["results"]
    ]
    head = ("new process", "seconds", "wanted", "")
    return f"## Start-up\n\n{grid(head, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(".benchmarks"), help="folder of the results")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("rounds must be at least 1")
    args.out.mkdir(parents=True, exist_ok=True)
    document = {
        "measured": date.today().isoformat(),
        "machine": machine(),
        "settings": {"rounds": args.rounds, "warm_up": WARM_UP},
        "results": measure(args.rounds),
    }
    save(document, args.out / "startup.json")
    print(markdown(document))


if __name__ == "__main__":
    main()
