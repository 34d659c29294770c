"""Compare srcnn-rt with its peers on a GPU: .venv/bin/python benchmarks/gpu.py

All contestants run in one process on the same ONNX file and the same gray 8-bit image: from tensor to tensor
on the GPU, from array to array in host memory, and from TIFF to TIFF. The report also has the roofline, from
rates measured in the same run (`_gpu_roofline`), and profiles. gpu.json is written into ``--out`` after
every step, so a run that is killed leaves its results; Markdown goes to standard output.

- **srcnn-rt**, fast (float16) and exact (float32), through its public API; from arrays also into an existing
  result, and from float32.
- **torch** in float16 and channels_last, eager and compiled (`_gpu_torch`), from uint8 to uint8 as ours. On
  the host route its arrays are in pinned memory; ours are not.
- **ONNX Runtime** with every option at its default: ``session.run`` of float32 host arrays. Windows are cut
  before the clock starts, and results are not rounded to 8 bits.
- **OpenCV DNN** likewise, on the GPU if the build supports it.

Peers choose the fastest of a few window sizes (``--windows``) before they are timed. A contestant is timed
only if its image is right. The reference is ONNX Runtime's float32 on the CPU: float32 may differ by 1 code
value, reduced precision by an rms of `_gpu_race.LIMITS`. A contestant that is wrong or cannot run has its
reason in its row. All contestants of a model take turns, in a new random order each round. Every run ends
when the whole GPU is idle. The speed of a contestant is that of the median run of its median round.

Without a GPU the exit status is 2. ``--provider cpu`` runs all of it on a CPU with a tiny image: mechanics
only, not a GPU figure.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import _gpu_ours
import _gpu_peers
import _gpu_torch
import numpy as np
from _drawing import photo_like
from _gpu_case import Case, Contestant, as_codes
from _gpu_place import Place, ceilings, free, why_no_gpu
from _gpu_race import Deadline, WrongImageError, key, race, verify
from _gpu_report import markdown, results_table
from _gpu_roofline import Ceilings, Task, described, floor
from _gpu_targets import ARRAY, COMPILED, DEVICE, ONNX, OURS, judge
from _gpu_tiff import write_tiff
from _gpu_trace import onnx_traced, traced
from _machine import machine, save
from _peers_contestants import OnnxRuntime
from numpy.typing import NDArray

from srcnn_rt import ModelSpec
from srcnn_rt._system.cpu import available_threads
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.optimize.cpu_cost import work

SIDES = {"cuda": 4096, "cpu": 96}  # of the image, LR pixels
WINDOWS = {"cuda": (512, 1024, 2048), "cpu": (64, 192)}  # HR pixels
SECONDS = {"cuda": 0.5, "cpu": 0.02}
LATE = "the run's time was used up"


class Run:
    """One run: its settings, results and deadline.

    Attributes
    ----------
    document : dict
        All results; saved after every step.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.place = args, Place(args.provider, args.device)
        self.deadline = Deadline(args.limit)
        settings = ("models", "provider", "side", "windows", "rounds", "seconds", "limit", "tune", "profile")
        self.document: dict[str, Any] = {
            "label": self.place.label,
            "measured": date.today().isoformat(),
            "complete": False,
            "machine": machine(),
            "device": self.place.about(),
            "settings": {name: getattr(args, name) for name in settings},
            "ceilings": None,
            "models": [],
            "results": [],
            "profiles": [],
            "targets": [],
        }
        self._start, self._cut = time.perf_counter(), False

    def save(self) -> None:
        """Judge the results so far and write the document."""
        self.document["targets"] = judge(self.document)
        self.document["took_s"] = time.perf_counter() - self._start
        save(self.document, self.args.out / "gpu.json")

    def say(self, text: str) -> None:
        label = f" [{self.place.label}]" if self.place.label else ""
        print(f"{time.perf_counter() - self._start:6.1f} s{label} {text}", flush=True)

    def in_time(self) -> None:
        """Raise TimeoutError if the deadline has passed."""
        if self.deadline.over:
            self._cut = True
            raise TimeoutError(LATE)

    def measure(self) -> None:
        """Measure the GPU, then every model."""
        self.save()
        loaded = [load_model(name) for name in self.args.models]  # a wrong name ends the run at once
        found = ceilings(self.place, self.args.seconds)
        self.document["ceilings"] = asdict(found)
        self.say("the GPU's rates are measured")
        self.save()
        for data, model in loaded:
            with tempfile.TemporaryDirectory(dir=self.args.folder) as folder:
                self.model(self.case(data, model, Path(folder)), found)
            gc.collect()  # frees runtimes in reference cycles
            free(self.place)
        self.document["complete"] = not self._cut
        self.save()

    def case(self, data: bytes, model: ModelSpec, folder: Path) -> Case:
        """Make the image and write it as a file."""
        side = self.args.side
        image = photo_like(np.random.default_rng(0), side, side, 1)[:, :, 0]
        write_tiff(folder / "lr.tif", image)
        return Case(self.place, data, model, image, folder / "lr.tif", tuple(self.args.windows))

    def model(self, case: Case, rates: Ceilings) -> None:
        """Check, time and profile all contestants on one model."""
        self.document["models"].append(about(case, rates))
        reference = truth(case)
        self.say(f"{case.model.name}: the reference is computed")
        _gpu_torch.forget()
        fit = [c for c in contestants(self.place, self.args.tune) if self.admit(c, case, reference)]
        if fit:
            self.time(fit, case, reference.size)
        if self.args.profile:
            self.profile(fit, case)

    def admit(self, contestant: Contestant, case: Case, reference: NDArray[np.uint8]) -> bool:
        """Load a contestant and check its image; return whether it may be timed."""
        row = entry(contestant, case.model)
        self.document["results"].append(row)
        try:
            self.in_time()
            contestant.load(case)
            row["rms"], row["max"] = verify(contestant, case, reference)
            contestant.ready = True
            row.update(status="checked", reason="not timed yet", notes=contestant.notes)
        except Exception as error:  # the runtimes' errors share no other base class
            row.update(status="failed" if isinstance(error, WrongImageError) else "skipped")
            row["reason"] = line(error)
        self.say(f"{case.model.name}, {key(contestant)}: {row['status']}: {row.get('reason')}")
        self.save()
        return contestant.ready

    def time(self, fit: list[Contestant], case: Case, pixels: int) -> None:
        """Time the contestants whose image is right, in turns; rows are updated after every round."""
        own = [r for r in self.document["results"] if r["model"] == case.model.name]
        rows = {f"{r['contestant']}, {r['route']}": r for r in own}

        def done(found: dict[str, dict[str, Any]], fallen: dict[str, Exception]) -> None:
            for name, times in found.items():
                rows[name].update(status="timed", reason=None, **times)
            for name, error in fallen.items():
                rows[name].update(status="failed", reason=line(error))
            self.save()
            rounds = max((len(t["rounds"]) for t in found.values()), default=0)
            self.say(f"{case.model.name}: round {rounds} of {self.args.rounds}")

        rounds, seconds = self.args.rounds, self.args.seconds
        if not race(fit, self.place.wait, pixels, rounds, seconds, self.deadline, done):
            self._cut = True
        print(f"\n{results_table(self.document, case.model.name)}\n", flush=True)

    def profile(self, fit: list[Contestant], case: Case) -> None:
        """Trace srcnn-rt, the peers in the targets, and the nodes of ONNX Runtime."""
        wanted = ((DEVICE, OURS), (DEVICE, COMPILED), (ARRAY, OURS), (ARRAY, ONNX))
        for contestant in (c for c in fit if (c.route, c.role) in wanted):
            self.trace(traced, contestant, case)
            if isinstance(contestant, _gpu_peers.OnnxRuntime):
                self.trace(onnx_traced, contestant, case)

    def trace(self, tracer: Any, contestant: Contestant, case: Case) -> None:
        """Store one profile, or the reason why there is none."""
        try:
            self.in_time()
            found = tracer(contestant, case)
        except Exception as error:  # a profiler may lack the permissions it needs
            found = {"contestant": contestant.name, "route": contestant.route, "reason": line(error)}
        self.document["profiles"].append({**found, "model": case.model.name})
        self.say(f"{case.model.name}, {key(contestant)}: {'no ' if 'reason' in found else ''}profile")
        self.save()


def contestants(place: Place, tune: bool) -> list[Contestant]:
    """Return new contestants in the order in which they load."""
    kinds = (place.reduced,) if place.provider == "cuda" else ("float32", place.reduced)
    by_torch = _gpu_torch.team(place, kinds)
    hosts = [c for c in by_torch if isinstance(c, _gpu_torch.TorchHost)]
    files = [_gpu_peers.Filed(c) for c in hosts if c.compiled and c.precision == place.judged]
    return [*_gpu_ours.team(place, tune), *by_torch, *_gpu_peers.team(place), *files]


def truth(case: Case) -> NDArray[np.uint8]:
    """Return ONNX Runtime's result of the graph as exported, in float32 on the CPU."""
    oracle = OnnxRuntime("reference", "ONNX Runtime")
    oracle.load(case.data, case.model, available_threads())
    oracle.prepare(case.image)
    return as_codes(oracle.upscale())


def about(case: Case, rates: Ceilings) -> dict[str, Any]:
    """Return a model, what it executes, and what the GPU allows for it."""
    model = case.model
    executed = work(spec.parse(prepare.build_program(case.data, model).data)).executed
    task = Task(case.image.size * model.scale**2, model.scale, model.facts.macs, executed)
    limits = floor(task, rates, case.place.judged)
    return {
        "name": model.name,
        "architecture": model.architecture,
        "scale": model.scale,
        "useful_macs": task.useful,
        "executed_macs": task.executed,
        "floor": limits and {"precision": case.place.judged, **described(limits, task.pixels)},
    }


def entry(contestant: Contestant, model: ModelSpec) -> dict[str, Any]:
    """Return an empty row of results."""
    return {
        "model": model.name,
        "route": contestant.route,
        "contestant": contestant.name,
        "precision": contestant.precision,
        "role": contestant.role,
        "ours": contestant.ours,
        "status": "skipped",
        "reason": "not reached",
        "notes": contestant.notes,
    }


def line(error: Exception) -> str:
    """Return an error as one line."""
    text = (str(error).strip().splitlines() or [""])[0][:200]
    plain = isinstance(error, (WrongImageError, TimeoutError))
    return text if plain else f"{type(error).__name__}: {text}"


def load_model(name: str) -> tuple[bytes, ModelSpec]:
    """Load a model that all contestants can run.

    Raises
    ------
    SystemExit
        If the model is of another kind.
    """
    data, model = spec.load(name)
    if model.architecture not in ("9-1-5", "9-3-5", "9-5-5") or model.channels != 1 or model.scale < 2:
        raise SystemExit(f"{name}: only gray SRCNN models that enlarge can be compared")
    return data, model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", choices=["cuda", "cpu"], default="cuda", help="cpu: mechanics only")
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--models", nargs="+", default=["srcnn-955-x2", "srcnn-915-x2"])
    parser.add_argument("--side", type=int, help="side of the image, LR pixels")
    parser.add_argument("--windows", type=int, nargs="+", help="window sides for peers, HR pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="length of a turn and of each measurement of the GPU")
    parser.add_argument("--limit", type=float, default=480.0, help="seconds after which nothing new begins")
    parser.add_argument("--tune", action="store_true", help="let srcnn-rt measure its tile first")
    parser.add_argument("--no-profile", dest="profile", action="store_false")
    parser.add_argument(
        "--folder", type=Path, help="folder for TIFFs; by default the system's temporary folder"
    )
    parser.add_argument("--out", type=Path, default=Path(".benchmarks"), help="folder of the results")
    args = parser.parse_args()
    args.side = args.side or SIDES[args.provider]
    args.windows = args.windows or list(WINDOWS[args.provider])
    args.seconds = SECONDS[args.provider] if args.seconds is None else args.seconds
    if min(args.side, args.rounds, *args.windows) < 1 or args.device < 0:
        parser.error("side, windows and rounds must be at least 1, a GPU's number at least 0")
    return args


def main() -> None:
    args = arguments()
    if args.provider == "cuda" and (reason := why_no_gpu(args.device)):
        print(f"--provider cuda: nothing to measure on: {reason}", file=sys.stderr)
        raise SystemExit(2)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    run.measure()
    print(markdown(run.document), flush=True)


if __name__ == "__main__":
    main()
