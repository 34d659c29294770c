"""Kill jobs at random moments and resume them: is the result identical, and how much is computed twice?

    python tools/kill_test.py [--kills 200] [--seed 1] [--folder DIR]

Jobs on five kinds of files are killed (SIGKILL) once or twice each. Three quarters of the kills are spread
evenly over the life of the process, one quarter fall into its last tenth, where the file is finished and
gets its name. After every kill the same command resumes the job. At the end the time that a job takes to
stop after SIGINT and SIGTERM is printed. All moments are drawn from the seed; what the job is doing at a
moment depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile

ROOT = Path(__file__).resolve().parent.parent
RNG = np.random.default_rng(20)


def noise(h: int, w: int, channels: int, dtype: str) -> Any:
    """Return smooth samples with a little noise, which compress as photographs do."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    plane = 0.5 + 0.4 * np.sin(x / 97) * np.cos(y / 61)
    out = np.empty((h, w, channels), dtype)
    for c in range(channels):
        value = np.clip(plane + RNG.normal(0, 0.01, plane.shape).astype(np.float32), 0, 1)
        maximum = 1 if out.dtype.kind == "f" else np.iinfo(out.dtype).max
        out[..., c] = value * maximum if out.dtype.kind == "f" else np.rint(value * maximum)
    return out


def write_gray(path: Path) -> None:
    tifffile.imwrite(path, noise(4600, 6000, 1, "uint8")[..., 0], tile=(256, 256))


def write_masked(path: Path) -> None:
    image = noise(4000, 4600, 3, "uint16")
    kind = {"driver": "GTiff", "width": 4600, "height": 4000, "count": 3, "dtype": "uint16", "tiled": True}
    env = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
    with env, rasterio.open(path, "w", **kind, transform=rasterio.Affine.scale(2)) as file:
        file.write(image.transpose(2, 0, 1))
        y, x = np.ogrid[0:4000, 0:4600]
        file.write_mask((y - 1800) ** 2 + (x - 2600) ** 2 < 2_800_000)


def write_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        for h, w in [(2500, 3000), (300, 200), (4000, 3600)]:
            file.write(noise(h, w, 1, "uint16")[..., 0], tile=(256, 256))


def write_rgb(path: Path) -> None:
    tifffile.imwrite(path, noise(2600, 3000, 3, "uint8"), photometric="rgb", rowsperstrip=16)


def write_float(path: Path) -> None:
    image = noise(4000, 4200, 1, "float32")[..., 0]
    image[300:400, 500:900] = np.nan
    tifffile.imwrite(path, image, tile=(256, 256))


@dataclass
class Kind:
    """A kind of job, and the results of its runs.

    Attributes
    ----------
    write : callable
        Writes the source file.
    target : str
        Name of the result.
    options : dict
        Options of `Engine.upscale_file`.
    jobs, kills : int
        Finished jobs, and kills that hit a running process.
    late : int
        Kills drawn in the last tenth.
    resumed : int
        Kills that left a partial file.
    wrong : int
        Times that the result's name held other bytes.
    same : int
        Jobs whose result was identical.
    chunks, windows : int
        Size of one uninterrupted run.
    rendered : int
        Windows computed in all runs.
    seconds : float
        Time of one uninterrupted run.
    """

    name: str
    write: Callable[[Path], None]
    target: str
    options: dict[str, Any] = field(default_factory=dict)
    jobs: int = 0
    kills: int = 0
    late: int = 0
    resumed: int = 0
    wrong: int = 0
    same: int = 0
    chunks: int = 0
    windows: int = 0
    rendered: int = 0
    seconds: float = 0.0


KINDS = [
    Kind("gray, tiled, deflate", write_gray, "b.tif"),
    Kind("RGB, 16 bits, mask, zstd", write_masked, "b.tif", {"compress": "zstd"}),
    Kind("three pages, 16 bits", write_pages, "b.tif"),
    Kind("float32 with NaN, COG", write_float, "b.tif", {"cog": True}),
    Kind("PNG", write_rgb, "b.png"),
]
CHUNK_BYTES = 2**18  # small, so that jobs of seconds have as many chunks as jobs of hours

CHILD = """
import json, os, signal, sys
from pathlib import Path
folder, target, options, log = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
for name in (signal.SIGINT, signal.SIGTERM):  # shells make background jobs ignore SIGINT
    signal.signal(name, signal.default_int_handler)
from srcnn_rt import Engine
from srcnn_rt.backends.host_renderer import HostRenderer
from srcnn_rt.io import spool
from srcnn_rt.io.tiff import writer as tiff
from srcnn_rt.jobs.journal import Journal
tiff._Page.max_bytes = spool.SpoolTarget.max_bytes = {bytes}
log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
add = Journal.add
def count(*arguments):
    os.write(log, b"0\\n")
    add(*arguments)
Journal.add = count
os.write(log, b"0\\n")
compute = HostRenderer.render
def logged(self, batch, *arguments):
    os.write(log, b"%d\\n" % len(batch))
    compute(self, batch, *arguments)
HostRenderer.render = logged
with Engine("bicubic-x2", provider="cpu", tile=32, threads=1) as engine:
    engine.upscale_file(folder / "a.tif", folder / target, resume=True, **options)
""".replace("{bytes}", str(CHUNK_BYTES))


def start(folder: Path, kind: Kind, log: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        CHILD,
        folder,
        kind.target,
        json.dumps(kind.options),
        log,
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GDAL_CACHEMAX": "32"}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def rendered(log: Path) -> int:
    """Return how many windows were started in all runs."""
    return sum(int(line) for line in log.read_bytes().splitlines()) if log.exists() else 0


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=600)
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the job failed: {errors}")


def uninterrupted(folder: Path, kind: Kind) -> bytes:
    """Run twice without a kill, record chunks, windows and seconds, and return the bytes of the result."""
    kind.write(folder / "a.tif")
    times = []
    for _ in range(2):
        log, begin = folder / "log", time.monotonic()
        finish(start(folder, kind, log))
        times.append(time.monotonic() - begin)
        kind.windows = rendered(log)
        kind.chunks = log.read_bytes().splitlines().count(b"0") - 1
        expected = (folder / kind.target).read_bytes()
        (folder / kind.target).unlink()
        log.unlink()
    kind.seconds = min(times)
    return expected


def leave(folder: Path) -> None:
    """Remove everything but the source."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "a.tif":
            path.unlink()


def one_job(folder: Path, kind: Kind, expected: bytes, kills: int, rng: random.Random) -> int:
    """Kill a job up to `kills` times, let it finish, and return how many kills hit a running process."""
    log, met, left = folder / "log", 0, kind.seconds
    target = folder / kind.target
    while met < kills:
        process = start(folder, kind, log)
        late = rng.random() < 0.25
        time.sleep(left * rng.uniform(0.9, 1.02) if late else left * rng.uniform(0, 1))
        process.kill()
        finish(process)
        if process.returncode == 0:
            break  # it finished before the kill
        met += 1
        kind.late += late
        kind.resumed += (folder / f"{kind.target}.partial").exists()
        if target.exists() and target.read_bytes() != expected:
            kind.wrong += 1
        # The next run only has to start and to do what is left.
        done = (folder / f"{kind.target}.partial.journal").exists() and rendered(log) / kind.windows
        left = max(0.8, kind.seconds * (1 - (done or 0)) + 0.7)
        if target.exists():
            break  # the result has its name
    finish(start(folder, kind, log)) if not target.exists() or _leftovers(folder, kind) else None
    kind.jobs += 1
    kind.kills += met
    kind.same += target.read_bytes() == expected and not _leftovers(folder, kind)
    kind.wrong += target.read_bytes() != expected
    kind.rendered += rendered(log)
    leave(folder)
    return met


def _leftovers(folder: Path, kind: Kind) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name not in ("a.tif", kind.target, "log")]


def signals(
    folder: Path, kind: Kind, expected: bytes, count: int, rng: random.Random
) -> dict[str, list[float]]:
    """Return the seconds that jobs take to end after SIGINT and SIGTERM; each job is then resumed."""
    found: dict[str, list[float]] = {"SIGINT": [], "SIGTERM": []}
    for number in range(2 * count):
        name = ["SIGINT", "SIGTERM"][number % 2]
        process = start(folder, kind, folder / "log")
        while not (folder / "log").exists() and process.poll() is None:  # before that Python has not started
            time.sleep(0.01)
        time.sleep(rng.uniform(0.2, 1) * kind.seconds * 0.9)
        if process.poll() is None:
            process.send_signal(getattr(signal, name))
            begin = time.monotonic()
            process.communicate(timeout=600)
            # While Python shuts down, signals have their default action; the file has its name by then.
            late = process.returncode == -signal.SIGTERM and (folder / kind.target).exists()
            if not late and process.returncode not in (
                0,
                1,
                -signal.SIGINT,
            ):  # exit statuses of Python after Ctrl-C
                raise SystemExit(f"{kind.name}: {name} ended the process with {process.returncode}")
            if process.returncode != 0 and not late:
                found[name].append(time.monotonic() - begin)
        if not (folder / kind.target).exists():
            finish(start(folder, kind, folder / "log"))
        assert (folder / kind.target).read_bytes() == expected
        leave(folder)
    return found


def run(kills: int, seed: int, folder: Path, stops: int = 6, kinds: list[Kind] | None = None) -> list[Kind]:
    """Run all kills and signals, print a row for each kind, and return the kinds."""
    rng, kinds = random.Random(seed), KINDS if kinds is None else kinds
    times: dict[str, list[float]] = {"SIGINT": [], "SIGTERM": []}
    for number, kind in enumerate(kinds):
        here = folder / str(number)
        here.mkdir()
        expected = uninterrupted(here, kind)
        share = kills // len(kinds) + (number < kills % len(kinds))
        while kind.kills < share:
            one_job(here, kind, expected, min(rng.choice((1, 2)), share - kind.kills), rng)
        print(row(kind), flush=True)
        for name, values in signals(here, kind, expected, stops, rng).items():
            times[name] += values
    for name, values in times.items():
        if values:
            middle, maximum = statistics.median(values), max(values)
            print(f"{name}: {len(values)} times, ended in {middle:.2f} s (median), {maximum:.2f} s (longest)")
    return kinds


def again(kind: Kind) -> float:
    """Return the percentage of windows that were computed a second time."""
    return 100 * (kind.rendered / max(1, kind.windows * kind.jobs) - 1)


HEAD = (
    "| file | chunks | jobs | kills | drawn late | left to resume | wrong | same bytes | done twice |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def row(kind: Kind) -> str:
    return (
        f"| {kind.name} | {kind.chunks} | {kind.jobs} | {kind.kills} | {kind.late} | {kind.resumed} | "
        f"{kind.wrong} | {kind.same} of {kind.jobs} | {again(kind):.2f}% |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where images are made; by default a temporary folder")
    args = parser.parse_args()
    begin = time.monotonic()
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        kinds = run(args.kills, args.seed, Path(folder))
    print(f"{sum(k.kills for k in kinds)} kills in {time.monotonic() - begin:.0f} s, seed {args.seed}")
    bad = [k.name for k in kinds if k.wrong or k.same != k.jobs]
    slow = [k.name for k in kinds if again(k) > 2]
    if bad or slow:
        sys.exit(f"wrong: {bad}; more than 2% done twice: {slow}")


if __name__ == "__main__":
    main()
