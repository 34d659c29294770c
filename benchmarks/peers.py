"""srcnn-rt against its peers: .venv/bin/python benchmarks/peers.py

One run, one process: the same ONNX models, the same pixels and as many threads for all, in
float32 and in reduced precision. Writes peers.json, peers.md and peers.png into ``--out``;
``--render peers.json`` redoes tables and plot without measuring.

For srcnn-rt everything is timed: an `Engine` takes a uint8 image and gives one back. The
peers are bare runtimes and run at the shape that is kindest to them: the whole image up to
512 x 512 HR pixels, otherwise windows of one constant shape of that size, so that none pays for
memory it need not have. Padding, cutting and the conversion to float32 are done before the
clock starts, the conversion back to uint8 never; only runs and the assembly of their results
into an array that is there already are timed.

A contestant is timed only if its image is right. What it is held against is ONNX Runtime's
float32 result on the graph as exported: float32 may differ by 1 code value of 255 after rounding
to uint8, or by 1e-4 of full scale without; reduced precision by an rms of 1.5 code values. A
contestant that cannot run here, for want of a package, a compiler or an instruction, is skipped
with its reason.

Memory: glibc's malloc gives large blocks back to the system after each run, and every run that
allocates its activations anew pays for their pages again: torch, which keeps none itself, spends
20 to 50% of its time on these page faults. That is what a user gets, so it is what is measured by
default, ``--malloc system``. ``--malloc keep`` shows it without: malloc keeps what is freed, for all
contestants, as torch's tuning guide has it done by another allocator.

Contestants take turns, in an order drawn anew in each round. A turn is as many runs as fill
``--seconds``; its speed is that of its median run, a contestant's that of its median round. Measure on
an idle machine: workers that spin for each other, as OpenMP's do (torch, ncnn), lose several times
their speed to one busy neighbour. What other processes took is reported with the results.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _drawing import photo_like
from _machine import machine, save
from _peers_contestants import WEIGHTS, Contestant, OnnxRuntime, contestants, initialisers
from _peers_report import judge, render, table, targets_table
from numpy.typing import NDArray

from srcnn_rt import ModelSpec
from srcnn_rt.models import spec

WARM_UP = 2
REST = 0.05  # seconds between turns: the workers of the one before may still spin
EXACT_CODES, EXACT_FLOAT, REDUCED_RMS = 1.0, 1e-4 * 255, 1.5  # code values of 255
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


class WrongImageError(Exception):
    """A contestant's image is too far from the reference."""


def keep_memory() -> bool:
    """Tell malloc to keep what is freed rather than give it back; False where it cannot be told."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def compare(got: NDArray[Any], reference: NDArray[np.float32]) -> tuple[float, float]:
    """Return rms and largest difference in code values of 255; uint8 is held against uint8."""
    expected = reference.astype(np.float64) * 255
    if got.dtype == np.uint8:
        expected = np.rint(np.clip(expected, 0, 255))
    else:
        got = got.astype(np.float64) * 255
    delta = got - expected
    return float(np.sqrt(np.mean(delta**2))), float(np.abs(delta).max())


def verify(contestant: Contestant, reference: NDArray[np.float32]) -> tuple[float, float]:
    """Warm a contestant up and check its image.

    Returns
    -------
    rms and largest difference, code values of 255

    Raises
    ------
    WrongImageError
    """
    for _ in range(WARM_UP):
        got = contestant.upscale()
    if got.shape != reference.shape:
        raise WrongImageError(f"gives {got.shape}, not {reference.shape}")
    rms, worst = compare(got, reference)
    if contestant.reduced:
        found, limit, what = rms, REDUCED_RMS, "rms"
    else:
        found, what = worst, "largest difference"
        limit = EXACT_CODES if got.dtype == np.uint8 else EXACT_FLOAT
    if not found <= limit:  # also where it is not a number
        raise WrongImageError(f"{what} {found:.3g} code values, over {limit:.3g}")
    return rms, worst


def turn(contestant: Contestant, seconds: float) -> list[float]:
    """Run until `seconds` are filled, once at least; return the seconds of every run."""
    time.sleep(REST)
    runs: list[float] = []
    end = time.perf_counter() + seconds
    while not runs or time.perf_counter() < end:
        start = time.perf_counter()
        contestant.upscale()
        runs.append(time.perf_counter() - start)
    return runs


def race(team: Sequence[Contestant], pixels: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Let contestants take turns; return speeds and times in milliseconds of each."""
    rng = np.random.default_rng(0)
    turns: list[list[list[float]]] = [[] for _ in team]
    for _ in range(rounds):
        for k in rng.permutation(len(team)):
            turns[k].append(turn(team[k], seconds))
    return [_summary(own, pixels) for own in turns]


def busy() -> tuple[float, float]:
    """Return processor seconds of the whole machine since it started, and of this process; NaN if unknown."""
    own = sum(os.times()[:2])
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):  # not Linux
        return math.nan, own
    user, nice, system, _idle, _waiting, irq, soft, steal = (int(f) for f in fields)
    return (user + nice + system + irq + soft + steal) / ticks, own


def _summary(turns: Sequence[Sequence[float]], pixels: int) -> dict[str, Any]:
    speeds = [pixels / 1e6 / float(np.median(runs)) for runs in turns]
    runs = np.concatenate(turns) * 1e3
    return {
        "mpx_per_s": float(np.median(speeds)),
        "p50": float(np.percentile(runs, 50)),
        "p95": float(np.percentile(runs, 95)),
        "runs": len(runs),
        "rounds": speeds,
    }


def entry(contestant: Contestant, model: ModelSpec, side: int | None, **found: Any) -> dict[str, Any]:
    """Return one result; its status is "timed", "failed" (a wrong image) or "skipped" (cannot run)."""
    return {
        "model": model.name,
        "side": side,
        "contestant": contestant.name,
        "family": contestant.family,
        "ours": contestant.ours,
        "reduced": contestant.reduced,
        **found,
    }


def excuse(contestant: Contestant, model: ModelSpec, side: int | None, error: Exception) -> dict[str, Any]:
    """Print why a contestant is not timed and return that as its result."""
    wrong = isinstance(error, WrongImageError)
    # A peer may find only now that it lacks a compiler; what we load, we must be able to run.
    status = "failed" if wrong or (contestant.ours and side is not None) else "skipped"
    line = (str(error).strip().splitlines() or [""])[0][:200]
    reason = line if wrong else f"{type(error).__name__}: {line}"
    print(f"  {contestant.name}: {status}: {reason}", flush=True)
    return entry(contestant, model, side, status=status, reason=reason)


def measure_model(
    data: bytes, model: ModelSpec, sides: Sequence[int], threads: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Measure every contestant on one model, size by size; what they hold is freed on return."""
    results, team = [], []
    for contestant in contestants():
        try:
            contestant.load(data, model, threads)
            team.append(contestant)
        except Exception as error:  # the runtimes' errors share no other base class
            results.append(excuse(contestant, model, None, error))
    oracle = OnnxRuntime("reference", "ONNX Runtime")
    oracle.load(data, model, threads)
    for side in sides:
        results += measure_size(team, oracle, model, side, rounds, seconds)
    return results


def measure_size(
    team: Sequence[Contestant], oracle: Contestant, model: ModelSpec, side: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Check every loaded contestant on one image and time those that are right."""
    image = photo_like(np.random.default_rng(side), side, side, 1)[:, :, 0]
    oracle.prepare(image)
    reference = oracle.upscale()
    fit, checks, results = [], [], []
    for contestant in team:
        try:
            contestant.prepare(image)
            rms, worst = verify(contestant, reference)
            fit.append(contestant)
            checks.append({"rms": rms, "max": worst})
        except Exception as error:  # as above; a compiler may be missed only now
            results.append(excuse(contestant, model, side, error))
    start, before = time.perf_counter(), busy()
    times = race(fit, reference.size, rounds, seconds)
    (all_of_it, own), elapsed = np.subtract(busy(), before), time.perf_counter() - start
    others = None if math.isnan(all_of_it) else max(0.0, (all_of_it - own) / elapsed)
    timed = [
        entry(contestant, model, side, status="timed", others=others, **check, **found)
        for contestant, check, found in zip(fit, checks, times, strict=True)
    ]
    print(f"\n{model.name}, gray {side}²\n\n{table(timed)}\n", flush=True)
    if others is not None:
        print(f"Other processes kept {others:.2f} processors busy.\n", flush=True)
    return results + timed


def load_model(name: str) -> tuple[bytes, ModelSpec]:
    """Load a model that all contestants know how to run: a gray SRCNN that enlarges.

    Raises
    ------
    SystemExit
        If it is another.
    """
    data, model = spec.load(name)
    if model.channels != 1 or model.scale < 2 or not {"bicubic.weight", *WEIGHTS} <= set(initialisers(data)):
        raise SystemExit(f"{name}: only gray SRCNN models that enlarge can be compared")
    return data, model


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all models; the document is saved after each, so that a long run leaves something."""
    document: dict[str, Any] = {
        "measured": date.today().isoformat(),
        "machine": machine(),
        "settings": {k: getattr(args, k) for k in ("sides", "threads", "rounds", "seconds", "malloc")},
        "models": [],
        "results": [],
    }
    loaded = [load_model(name) for name in args.models]  # a wrong name ends the run before it starts
    for data, model in loaded:
        print(f"{model.name}: margin {model.margin} LR pixels", flush=True)
        about = {"name": model.name, "architecture": model.architecture, "scale": model.scale}
        document["models"].append(about)
        document["results"] += measure_model(data, model, args.sides, args.threads, args.rounds, args.seconds)
        document["targets"] = judge(document)
        save(document, args.out / "peers.json")
        gc.collect()  # runtimes tied in cycles would keep their memory through the next model
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["srcnn-915-x2", "srcnn-955-x2"])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 1024], help="LR pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--malloc", choices=["keep", "system"], default="system", help="see above")
    parser.add_argument("--out", type=Path, default=Path(".benchmarks"), help="a folder")
    parser.add_argument("--render", type=Path, metavar="FILE.json", help="redo table and plot only")
    args = parser.parse_args()
    if min(*args.sides, args.threads, args.rounds) < 1:
        parser.error("sides, threads and rounds must be at least 1")
    if args.render:
        render(json.loads(args.render.read_text()), args.render.with_suffix(""))
        return
    if args.malloc == "keep" and not keep_memory():
        args.malloc = "system"
    args.out.mkdir(parents=True, exist_ok=True)
    document = measure(args)
    render(document, args.out / "peers")
    print(targets_table(document["targets"]))


if __name__ == "__main__":
    main()
