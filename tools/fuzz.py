"""Feed damaged images and models to the public API: each must be read, or refused in one line.

    make fuzz                                 100,000 cases
    make fuzz N=2000 KINDS="tiff model"
    python tools/fuzz.py --replay tiff:4711   one case again, in this process
    python tools/fuzz.py --files PATH ...     these files

A case is a seed (`tools/_fuzz_seeds.py`) changed at random (`tools/_fuzz_mutate.py`), identified by KIND and
number. This process forks workers after the imports and watches them, so a crash loses only one case. A case
is a finding, and is kept with its traceback, if it raises another error than `SrcnnError`, gives a message
of more than one line, ends by a signal, or takes more than 10 s or more than 1 GiB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import re
import resource
import selectors
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # use this checkout, whatever is installed

import numpy as np  # noqa: E402

from srcnn_rt import Engine, SrcnnError  # noqa: E402
from srcnn_rt.io.protocols import Source  # noqa: E402
from srcnn_rt.io.registry import open_source  # noqa: E402
from srcnn_rt.models import optimize, prepare, spec  # noqa: E402
from srcnn_rt.tiling.geometry import Span  # noqa: E402
from tools import _fuzz_mutate, _fuzz_seeds  # noqa: E402

CACHE = ROOT / "scratch" / "fuzz"
SECONDS = 10.0
BYTES = 2**30
SHARES = {"tiff": 40, "png": 12, "jpeg": 9, "webp": 7, "bmp": 4, "avif": 6, "jxl": 6, "zarr": 2, "model": 10}
KEPT = {"zarr": ".tar"}  # suffixes of findings that are folders
TARGET = "out.tif"
WINDOW, STRIP = 48, 64
MAX_READ = 2**28  # bytes of one read; a wide strip costs the engine as much
MAX_UPSCALED = 2**20  # samples of an image that is upscaled whole
# Messages that do not refuse the file but report that memory was requested and not available. libtiff says
# "out of memory reading of" for counts that no file can hold, without requesting any memory.
_MEMORY = re.compile(
    r"out of memory(?! reading of)|insufficient memory|bad_alloc|cannot allocate|failed to allocate|"
    r"unable to allocate|memoryerror",
    re.IGNORECASE,
)


class Finding(Exception):  # noqa: N818 (not an error of this program)
    """Something that must not happen and raised no exception."""


def build(kind: str, number: int, seeds: dict[str, bytes]) -> bytes:
    """Return the bytes of a case; the same number always gives the same bytes."""
    rng = Random(f"{kind}:{number}")
    names = sorted(seeds)
    return _fuzz_mutate.mutate(kind, seeds[rng.choice(names)], seeds[rng.choice(names)], rng)


def place(data: bytes, path: Path) -> None:
    """Write a case to `path`; a Zarr folder is unpacked."""
    if path.suffix == ".zarr":
        _fuzz_seeds.unpack(data, path)
    else:
        path.write_bytes(data)


def attempt(path: Path, kind: str, number: int = 0) -> str:
    """Run one file through the package and return ``"accepted"`` or ``"refused"``.

    Raises
    ------
    Exception
        Anything that is not allowed, which is a finding.
    """
    try:
        if kind == "model":
            _try_model(path, number)
        else:
            _try_image(path, number)
    except SrcnnError as error:
        line = str(error)
        if "\n" in line or not line or len(line) > 2000 or not line.isprintable():
            raise Finding(f"not one line: {line!r}") from error
        if _MEMORY.search(line):
            raise Finding(f"asks for memory: {line}") from error
        if path.stem not in line and f"{TARGET}:" not in line:
            raise Finding(f"does not name the file: {line}") from error
        return "refused"
    return "accepted"


_engines: dict[str, Engine] = {}


def _bicubic() -> Engine:
    """Return this process's engine. It is made here, because threads do not survive a fork."""
    if "x2" not in _engines:
        _engines["x2"] = Engine("bicubic-x2", provider="cpu", tile=32, threads=1)
    return _engines["x2"]


def _try_image(path: Path, number: int) -> None:
    with open_source(path) as source:
        samples = source.info.shape[0] * source.info.shape[1] * source.info.layout.channels
        if number % 6 or samples > MAX_UPSCALED:
            _read(source)
            return
    target = path.with_name(TARGET)
    try:
        _bicubic().upscale_file(path, target, overwrite=True)
    finally:
        target.unlink(missing_ok=True)


def _read(source: Source) -> None:
    """Read corners and centre as the engine would; striped images by whole rows."""
    (h, w), channels = source.info.shape, source.info.layout.channels
    high = min(STRIP if source.by_rows else WINDOW, h)
    wide = w if source.by_rows else min(WINDOW, w)
    if high * wide * channels * source.info.dtype.itemsize > MAX_READ:
        return
    for y in sorted({0, (h - high) // 2, h - high}):
        for x in sorted({0, (w - wide) // 2, w - wide}):
            part = source.read(Span(y, y + high), Span(x, x + wide))
            if part.shape != (high, wide, channels) or part.dtype != source.info.dtype:
                raise Finding(f"a window of {(high, wide, channels)} was read as {part.shape} {part.dtype}")


def _try_model(path: Path, number: int) -> None:
    whole = number % 4 == 0
    if not whole:
        data, described = spec.load(path)
        if len(spec.parse(data).graph.node) <= prepare.MAX_NODES:
            optimize.optimise(spec.parse(data))  # directly, because `prepare` hides failures
        described.summary()
    with Engine(path, provider="cpu", tile=None if whole else 16, threads=1) as engine:
        image = np.full((13, 17, engine.spec.channels), 0.5, np.float32)
        try:
            out = engine.upscale(image, layout="HWC", bands=True)
        except SrcnnError as error:  # the engine does not know the file's name here
            raise type(error)(f"{path}: {error}") from error
        if out.shape != (13 * engine.scale, 17 * engine.scale, engine.spec.channels):
            raise Finding(f"upscaled to the wrong shape {out.shape}")


@dataclass
class Tally:
    """Results of the cases of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)  # bytes above the start


@dataclass
class Worker:
    """A forked process, its pipe and the unfinished line that came from it."""

    pid: int
    pipe: int
    rest: bytes
    share: int


class Run:
    """Run cases in several processes.

    Parameters
    ----------
    plan : list of (str, int)
        Kind and number of every case.
    make : callable
        Returns the bytes of a case.
    jobs : int
        Number of processes.
    findings : Path, optional
        Folder for findings; they are not kept if None.

    Attributes
    ----------
    results : dict
        Outcome and message of every finished case, by kind and number.
    """

    def __init__(
        self,
        plan: list[tuple[str, int]],
        make: Callable[[str, int], bytes],
        jobs: int,
        findings: Path | None = None,
    ) -> None:
        self.results: dict[tuple[str, int], tuple[str, str]] = {}
        self.tallies = {kind: Tally() for kind, _ in plan}
        self._plan, self._make, self.jobs, self._findings = plan, make, jobs, findings
        # For every process: the index of its case in the plan, and the start time.
        self._board = mmap.mmap(-1, 16 * jobs)
        self._selector = selectors.DefaultSelector()
        self._folder = Path()

    def run(self) -> None:
        """Run all cases and keep findings as they occur."""
        _import_all()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        with tempfile.TemporaryDirectory(prefix="srcnn-rt-fuzz-", dir=memory) as folder:
            self._folder = Path(folder)
            self._run()

    def _run(self) -> None:
        workers = [self._start(share, share) for share in range(self.jobs)]
        live = {w.pipe: w for w in workers}
        while live:
            for key, _ in self._selector.select(timeout=0.2):
                worker = live[key.fd]
                data = os.read(key.fd, 1 << 16)
                if data:
                    *lines, worker.rest = (worker.rest + data).split(b"\n")
                    for line in lines:
                        self._note(json.loads(line))
                    continue
                again = self._ended(worker)
                del live[key.fd]
                if again is not None:
                    live[again.pipe] = again
            now = time.monotonic()
            for worker in live.values():
                _, began = struct.unpack_from("qd", self._board, 16 * worker.share)
                if began and now - began > SECONDS + 2:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)

    def _start(self, share: int, at: int) -> Worker:
        struct.pack_into("qd", self._board, 16 * share, -1, 0.0)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            status = 1
            try:
                self._work(share, at, write)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        self._selector.register(read, selectors.EVENT_READ)
        return Worker(pid, read, b"", share)

    def _ended(self, worker: Worker) -> Worker | None:
        """Record how a process ended; if a case ended it, start a new process after that case."""
        self._selector.unregister(worker.pipe)
        os.close(worker.pipe)
        _, status = os.waitpid(worker.pid, 0)
        index, began = struct.unpack_from("qd", self._board, 16 * worker.share)
        if not os.WIFSIGNALED(status) or index < 0:
            if status:
                raise RuntimeError(f"a process of the fuzzer ended with {status} after case {index}")
            return None
        kind, number = self._plan[index]
        name = signal.Signals(os.WTERMSIG(status)).name
        seconds = time.monotonic() - began
        why = f"over {SECONDS:.0f} s" if name == "SIGKILL" and seconds > SECONDS else f"ended by {name}"
        self._note([kind, number, "finding", seconds, 0, why])
        return self._start(worker.share, index + self.jobs)

    def _note(self, line: list[Any]) -> None:
        kind, number, outcome, seconds, grown, why = line
        tally = self.tallies[kind]
        tally.outcomes[outcome] += 1
        tally.seconds += seconds
        tally.slowest = max(tally.slowest, (seconds, number))
        tally.largest = max(tally.largest, (grown, number))
        self.results[kind, number] = outcome, why
        if outcome == "finding" and self._findings is not None:
            self._findings.mkdir(parents=True, exist_ok=True)
            name = f"{kind}-{number}"
            data = self._make(kind, number)
            (self._findings / f"{name}{KEPT.get(kind, _fuzz_seeds.KINDS[kind])}").write_bytes(data)
            (self._findings / f"{name}.txt").write_text(f"{kind}:{number}\n{why}\n")
            print(f"finding {kind}:{number}: {why.strip().splitlines()[-1][:160]}", flush=True)

    def _work(self, share: int, at: int, pipe: int) -> None:
        """Run every `jobs`-th case of the plan, from index `at`, in this process."""
        silent = os.open(os.devnull, os.O_RDWR)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        base, limit = _limit_memory()
        folder = self._folder / str(share)
        folder.mkdir(exist_ok=True)
        os.environ["SRCNN_RT_CACHE"] = str(folder)
        peak = base
        for index in range(at, len(self._plan), self.jobs):
            kind, number = self._plan[index]
            path = folder / f"fuzzed{_fuzz_seeds.KINDS[kind]}"
            began = time.monotonic()
            struct.pack_into("qd", self._board, 16 * share, index, began)
            try:
                place(self._make(kind, number), path)
                outcome, why = attempt(path, kind, number), ""
            except BaseException:
                outcome, why = "finding", traceback.format_exc()[-6000:]
            seconds = time.monotonic() - began
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            grown, peak = (now - base if now > peak else 0), max(peak, now)
            if outcome != "finding" and seconds > SECONDS:
                outcome, why = "finding", f"took {seconds:.1f} s"
            if outcome != "finding" and grown > limit:
                outcome, why = "finding", f"took {grown} bytes"
            os.write(pipe, json.dumps([kind, number, outcome, seconds, grown, why]).encode() + b"\n")
            struct.pack_into("qd", self._board, 16 * share, -1, 0.0)
        os.close(pipe)


def _import_all() -> None:
    """Import what readers import lazily, so that forked processes have it."""
    import cv2
    import onnx.checker
    import onnx.reference
    import onnx.shape_inference
    import onnxruntime
    import rasterio

    cv2.setNumThreads(1)
    onnxruntime.set_default_logger_severity(4)
    assert onnx.checker and onnx.reference and onnx.shape_inference and rasterio


def _limit_memory() -> tuple[int, int]:
    """Limit this process to 1 GiB more than it has; return its resident bytes and the bytes it may add."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    virtual = int(status["VmSize"].split()[0]) * 1024
    # Threads reserve address space (64 MiB arenas) that they do not use.
    room = virtual + BYTES + 2**29
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, BYTES


def table(run: Run, seconds: float) -> str:
    """Return a table of the outcomes of every kind."""
    head = f"{'kind':<8}{'cases':>9}{'accepted':>10}{'refused':>10}{'findings':>10}{'cases/s':>9}  slowest"
    lines = [head]
    for kind, tally in run.tallies.items():
        n = tally.outcomes
        rate = n.total() / max(tally.seconds, 1e-9) * run.jobs
        lines.append(
            f"{kind:<8}{n.total():>9,}{n['accepted']:>10,}{n['refused']:>10,}{n['finding']:>10,}{rate:>9.0f}"
            f"  {tally.slowest[0]:.2f} s ({kind}:{tally.slowest[1]})"
        )
    total = sum((t.outcomes for t in run.tallies.values()), Counter())
    grown, number, kind = max((*t.largest, k) for k, t in run.tallies.items())
    lines.append(
        f"{total.total():,} cases in {seconds:.0f} s, {total.total() / seconds:.0f} per second; "
        f"most memory {grown / 2**20:.0f} MiB over the start ({kind}:{number})"
    )
    return "\n".join(lines)


def shares(total: int, kinds: list[str]) -> dict[str, int]:
    """Return the number of cases of each kind."""
    weight = sum(SHARES[k] for k in kinds)
    return {k: max(1, total * SHARES[k] // weight) for k in kinds}


def main() -> int:
    """Run the command and return 1 if there are findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=100_000, help="total number of cases")
    parser.add_argument("--kinds", nargs="*", choices=_fuzz_seeds.kinds(), default=_fuzz_seeds.kinds())
    parser.add_argument("--first", type=int, default=0, help="number of the first case of every kind")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--findings", type=Path, default=CACHE / "findings")
    parser.add_argument("--replay", metavar="KIND:NUMBER", help="run one case in this process")
    parser.add_argument("--keep", type=Path, help="with --replay: write the case to this file")
    parser.add_argument(
        "--files", type=Path, nargs="+", help="run these files; prints one line of JSON per file"
    )
    options = parser.parse_args()
    if options.files is not None:
        return run_files(options.files, options.jobs)
    if options.replay is not None:
        kind, _, number = options.replay.partition(":")
        data = build(kind, int(number), _fuzz_seeds.seeds(kind, CACHE))
        with tempfile.TemporaryDirectory() as folder:
            path = options.keep or Path(folder) / f"fuzzed{_fuzz_seeds.KINDS[kind]}"
            place(data, path)
            print(_described(path, kind, int(number)))
        return 0
    seeds = {kind: _fuzz_seeds.seeds(kind, CACHE) for kind in options.kinds}
    counts = shares(options.n, options.kinds)
    plan = [(kind, options.first + n) for kind, count in counts.items() for n in range(count)]
    Random(0).shuffle(plan)  # so that a run that is stopped has covered all kinds
    run = Run(plan, lambda kind, number: build(kind, number, seeds[kind]), options.jobs, options.findings)
    began = time.monotonic()
    run.run()
    print(table(run, time.monotonic() - began))
    return 1 if any(outcome == "finding" for outcome, _ in run.results.values()) else 0


def run_files(paths: list[Path], jobs: int) -> int:
    """Run saved files: images are read window by window and upscaled, models run tiled and whole.

    Prints one line of JSON per file: its name, both outcomes, and the messages.
    """
    suffixes = {KEPT.get(kind, suffix): kind for kind, suffix in _fuzz_seeds.KINDS.items()}
    cases = {(suffixes[p.suffix], 12 * k + how): p for k, p in enumerate(paths) for how in (1, 0)}
    run = Run(list(cases), lambda kind, number: cases[kind, number].read_bytes(), jobs)
    run.run()
    for (kind, number), path in cases.items():
        if number % 12 == 0:
            both = [run.results[kind, n] for n in (number + 1, number)]
            print(
                json.dumps({"file": path.name, "outcomes": [o for o, _ in both], "why": [w for _, w in both]})
            )
    return 1 if any(outcome == "finding" for outcome, _ in run.results.values()) else 0


def _described(path: Path, kind: str, number: int) -> str:
    """Run a case and return its outcome, or the traceback of a finding."""
    try:
        return attempt(path, kind, number)
    except Exception:
        return "finding: " + traceback.format_exc()


if __name__ == "__main__":
    sys.exit(main())
