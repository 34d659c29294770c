"""Measure how soon control returns: .venv/bin/python benchmarks/ending.py

A large image is upscaled, and after a second the run is ended in each way: an event is set, Ctrl-C is
pressed, a stream is dropped, the engine is closed by another thread. The time counts from there until the
caller has control again, when nothing runs any more.

It writes ending.json into ``--out``.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from _images import make_image
from _machine import machine, save
from _tables import grid, verdict

from srcnn_rt import CancelledError, ClosedError, Engine

SIDE = 4096  # LR pixels
WANTED = 0.5  # seconds
AFTER = 1.0  # seconds of work before it ends


def timed(run: Callable[[], Any], end: Callable[[], Any]) -> float:
    """Return the seconds from a call of `end`, in another thread, until `run` has ended.

    Raises
    ------
    SystemExit
        If the run is complete before.
    """
    began: list[float] = []

    def trigger() -> None:
        began.append(time.perf_counter())
        end()

    timer = threading.Timer(AFTER, trigger)
    timer.start()
    try:
        run()
    except (CancelledError, ClosedError, KeyboardInterrupt):
        return time.perf_counter() - began[0]
    raise SystemExit("the run was complete before it was ended: enlarge SIDE")


def ways(engine: Engine, image: Any) -> dict[str, Callable[[], float]]:
    """Return what measures each way to end a run."""

    def cancelled() -> float:
        event = threading.Event()
        return timed(lambda: engine.upscale(image, cancel=event), event.set)

    def interrupted() -> float:
        return timed(lambda: engine.upscale(image), lambda: os.kill(os.getpid(), signal.SIGINT))

    def streamed() -> float:
        return timed(lambda: list(engine.stream(image)), lambda: os.kill(os.getpid(), signal.SIGINT))

    def closed() -> float:
        parts = engine.stream(image)
        next(parts)
        start = time.perf_counter()
        del parts
        return time.perf_counter() - start

    return {
        "`cancel` is set": cancelled,
        "Ctrl-C in `upscale`": interrupted,
        "Ctrl-C in a loop over `stream`": streamed,
        "a stream is dropped": closed,
        "the engine is closed": lambda: timed(lambda: engine.upscale(image), engine.close),  # the last
    }


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of ending.json")
    parser.add_argument("--model", default="srcnn-955-x2")
    parser.add_argument("--providers", default="native,cpu,openvino")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    image, described = make_image(SIDE, 3)
    rows: list[dict[str, Any]] = []
    for provider in args.providers.split(","):
        with Engine(args.model, provider=provider) as engine:
            for name, measure in ways(engine, image).items():
                rounds = 1 if "engine" in name else args.rounds
                rows.append(
                    {"provider": provider, "way": name, "seconds": [measure() for _ in range(rounds)]}
                )
    document = {"date": date.today().isoformat(), "image": described, "model": args.model, **machine()}
    save({**document, "ended": rows}, args.out / "ending.json")
    table = [
        [
            r["provider"],
            r["way"],
            f"{max(r['seconds']):.2f}",
            verdict(max(r["seconds"]), WANTED, at_most=True),
        ]
        for r in rows
    ]
    print(grid(["provider", "what ends the run", "s, the slowest", f"at most {WANTED} s"], table, 2))


if __name__ == "__main__":
    main()
