"""Compare srcnn-rt with its peers on a CPU: .venv/bin/python benchmarks/peers.py

All contestants run in one process on the same ONNX models and pixels with the same number of threads, in
float32 and in reduced precision. The script writes peers.json, peers.md and peers.png into ``--out``;
``--render peers.json`` repeats tables and plot without measuring.

For srcnn-rt everything is timed: an `Engine` takes a uint8 image and returns one. The peers are bare
runtimes and run at the shape that suits them best: the whole image up to 512 x 512 HR pixels, otherwise
windows of one constant shape of that size, so that they need no extra memory. Padding, cutting and the
conversion to float32 are done before the clock starts, and results are not converted back to uint8. Only the
runs, and the assembly of their results in an existing array, are timed.

A contestant is timed only if its image is right. The reference is ONNX Runtime's float32 result on the graph
as exported. float32 may differ by 1 code value of 255 after rounding to uint8, or by 1e-4 of full scale
without rounding; reduced precision may differ by an rms of 1.5 code values. A contestant that cannot run
here, because a package, a compiler or an instruction is missing, is skipped with its reason.

Memory: glibc's malloc returns large blocks to the system after each run. A run that allocates its
activations again pays for their pages again: torch, which does not cache them, spends 20 to 50% of its time
on these page faults. Users see this too, so it is the default, ``--malloc system``. With ``--malloc keep``
malloc keeps freed memory, for all contestants, as another allocator does in torch's tuning guide.

Contestants take turns, in a new random order each round. A turn lasts ``--seconds``. The speed of a turn is
that of its median run, and the speed of a contestant that of its median round. Measure on an idle machine:
workers that spin while they wait, as OpenMP's do (torch, ncnn), become several times slower if one core is
busy. The CPU time of other processes is reported with the results.
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
from _peers_contestants import Contestant, OnnxRuntime, contestants
from _peers_report import judge, render, table, targets_table
from numpy.typing import NDArray

from srcnn_rt import ModelSpec
from srcnn_rt.models import spec

WARM_UP = 2
REST = 0.05  # seconds between turns, because workers of the previous one may still spin
EXACT_CODES, EXACT_FLOAT, REDUCED_RMS = 1.0, 1e-4 * 255, 1.5  # code values of 255
# Constants of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


class WrongImageError(Exception):
    """A contestant's image is too far from the reference."""


def keep_memory() -> bool:
    """Make malloc keep freed memory; return False if this is not possible."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def compare(got: NDArray[Any], reference: NDArray[np.float32]) -> tuple[float, float]:
    """Return the rms and the largest difference in code values of 255; uint8 is compared with uint8."""
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
    rms, largest : float
        Differences in code values of 255.

    Raises
    ------
    WrongImageError
        If the image differs by more than its precision allows.
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
    if not found <= limit:  # also catches NaN
        raise WrongImageError(f"{what} {found:.3g} code values, over {limit:.3g}")
    return rms, worst


def turn(contestant: Contestant, seconds: float) -> list[float]:
    """Run repeatedly for `seconds`, at least once, and return the seconds of every run."""
    time.sleep(REST)
    runs: list[float] = []
    end = time.perf_counter() + seconds
    while not runs or time.perf_counter() < end:
        start = time.perf_counter()
        contestant.upscale()
        runs.append(time.perf_counter() - start)
    return runs


def race(team: Sequence[Contestant], pixels: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Let contestants take turns; return the speed and the times in milliseconds of each."""
    rng = np.random.default_rng(0)
    turns: list[list[list[float]]] = [[] for _ in team]
    for _ in range(rounds):
        for k in rng.permutation(len(team)):
            turns[k].append(turn(team[k], seconds))
    return [_summary(own, pixels) for own in turns]


def busy() -> tuple[float, float]:
    """Return CPU seconds of the whole machine since boot (NaN if unknown) and of this process."""
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
    """Return one result; its status is "timed", "failed" (wrong image) or "skipped" (cannot run)."""
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
    """Print why a contestant is not timed, and return that as its result."""
    wrong = isinstance(error, WrongImageError)
    # A peer may notice a missing compiler only now. A model that srcnn-rt loads must also run.
    status = "failed" if wrong or (contestant.ours and side is not None) else "skipped"
    line = (str(error).strip().splitlines() or [""])[0][:200]
    reason = line if wrong else f"{type(error).__name__}: {line}"
    print(f"  {contestant.name}: {status}: {reason}", flush=True)
    return entry(contestant, model, side, status=status, reason=reason)


def measure_model(
    data: bytes, model: ModelSpec, sides: Sequence[int], threads: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Measure every contestant on one model, size by size, and free them on return."""
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
    """Check every loaded contestant on one image, and time those that are right."""
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
        except Exception as error:  # as above; a compiler may turn out to be missing only now
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
        print(f"Other processes used {others:.2f} CPU cores.\n", flush=True)
    return results + timed


def load_model(name: str) -> tuple[bytes, ModelSpec]:
    """Load a gray model that enlarges. Contestants that build their own network only run SRCNN.

    Raises
    ------
    SystemExit
        If the model is of another kind.
    """
    data, model = spec.load(name)
    if model.channels != 1 or model.scale < 2:
        raise SystemExit(f"{name}: only gray models that enlarge can be compared")
    return data, model


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all models; the document is saved after each, so that an interrupted run leaves its results."""
    document: dict[str, Any] = {
        "measured": date.today().isoformat(),
        "machine": machine(),
        "settings": {k: getattr(args, k) for k in ("sides", "threads", "rounds", "seconds", "malloc")},
        "models": [],
        "results": [],
    }
    loaded = [load_model(name) for name in args.models]  # a wrong name ends the run at once
    for data, model in loaded:
        print(f"{model.name}: margin {model.margin} LR pixels", flush=True)
        about = {"name": model.name, "architecture": model.architecture, "scale": model.scale}
        document["models"].append(about)
        document["results"] += measure_model(data, model, args.sides, args.threads, args.rounds, args.seconds)
        document["targets"] = judge(document)
        save(document, args.out / "peers.json")
        gc.collect()  # frees runtimes in reference cycles
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["srcnn-915-x2", "srcnn-955-x2"])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 1024], help="LR pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument(
        "--malloc", choices=["keep", "system"], default="system", help="whether malloc keeps freed memory"
    )
    parser.add_argument("--out", type=Path, default=Path(".benchmarks"), help="folder of the results")
    parser.add_argument("--render", type=Path, metavar="FILE.json", help="only repeat tables and plot")
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
