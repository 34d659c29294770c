"""Compare files and tiles with the network alone: .venv/bin/python benchmarks/end_to_end.py

TIFF to TIFF: a tiled, deflated TIFF is upscaled into a tiled, compressed one. This is compared with the
*pure network*: the same workers, windows and runs as the engine uses for that file, where each worker only
calls `Bound.run` on its own buffers. Both take turns, and the share is the median of the shares within a
round. Every result is first compared with an array upscale of one corner.

The time of the file beyond the network is broken down into CPU time per HR megapixel: decoding, extraction
and stitching (with a network that does nothing) and encoding, each measured alone in one thread. "other" is
the CPU time of the whole run beyond their sum and the network, such as interpreter overhead and shared
caches. "idle" is the time in which CPU cores waited.

Tiling: an array in tiles of 512 LR pixels, and in tiles of ``tile="auto"``, is compared with the same array
in one run of the network, on all threads.

Writes end_to_end.json into ``--out``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from _images import make_image, write_tiled
from _peers_report import grid, verdict
from numpy.typing import NDArray
from peers import busy, machine, save

from srcnn_rt import Engine
from srcnn_rt._system.cpu import available_threads
from srcnn_rt.backends.base import Bound, ChunkArrays
from srcnn_rt.backends.host_renderer import HostRenderer, batch_size
from srcnn_rt.errors import ProviderError
from srcnn_rt.execution.planner import plan_for
from srcnn_rt.image import bicubic
from srcnn_rt.io.protocols import Source, StripCache
from srcnn_rt.io.registry import create_target, open_source
from srcnn_rt.options import TIFF_COMPRESSIONS, OutputOptions
from srcnn_rt.tiling.geometry import Plan, Span

# Share of the network's throughput, by architecture and channels.
WANTED = {("9-1-5", 1): 0.90, ("9-1-5", 3): 0.80, ("9-5-5", 1): 0.97, ("9-5-5", 3): 0.94}
WANTED_TILING = 1.05  # largest time relative to one run of the whole image
SIDES = {"9-1-5": 12288, "9-5-5": 6144}  # HR pixels
SIDE_OTHERS = 2048
TILING_SIDE = 1024  # LR pixels
TILES: tuple[Any, ...] = (512, "auto")
PROVIDERS = {"exact": "native", "fast": "openvino"}
IMAGES = {1: "gray", 3: "RGB"}
CORNER = 256  # LR pixels
REDUCED_RMS = 1.5  # code values; "fast" is not bitwise the same in windows of another shape
GDAL_CACHE_MB = "64"  # what the command line sets


@dataclass(frozen=True)
class Job:
    """One file to upscale, and its plan."""

    engine: Engine
    source: Path
    target: Path
    image: NDArray[np.uint8]
    plan: Plan

    @property
    def channels(self) -> int:
        return 1 if self.image.ndim == 2 else self.image.shape[2]

    @property
    def mpx(self) -> float:
        """HR megapixels."""
        return math.prod(self.image.shape[:2]) * self.engine.scale**2 / 1e6


@dataclass(frozen=True)
class Cost:
    """Wall seconds, and CPU seconds of all threads."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Cost:
    """Run `work` once and return its cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def prepare(engine: Engine, folder: Path, side: int, channels: int) -> tuple[Job, str]:
    """Write a source and plan it as the engine does; return the job and a description of the image."""
    image, words = make_image(side, channels)
    source, target = folder / f"{channels}.tif", folder / f"{channels}-hr.tif"
    write_tiled(source, image)
    with open_source(source) as opened:
        info = opened.info
    made = create_target(target, target, [info.scaled(engine.scale)], engine.scale, OutputOptions())
    plan = plan_for(engine._setup, info, made.page(0))
    made.abort()
    return Job(engine, source, target, image, plan), words


def check(job: Job, compress: str) -> int:
    """Compare a corner of the file's result with an array upscale of that corner; return the file's size.

    Raises
    ------
    SystemExit
        If it differs.
    """
    engine, n = job.engine, min(CORNER, len(job.image))
    engine.upscale_file(job.source, job.target, overwrite=True, compress=compress)
    part = n + engine.margin + bicubic.RADIUS
    expected = engine.upscale(np.ascontiguousarray(job.image[:part, :part]))
    n *= engine.scale
    with open_source(job.target) as result:
        got = result.read(Span(0, n), Span(0, n))
    delta = got.astype(int) - expected[:n, :n].reshape(got.shape)
    check_delta(delta, engine.precision, f"{job.source.name}, {compress}")
    return job.target.stat().st_size


def check_delta(delta: NDArray[np.int64], precision: str, what: str) -> None:
    """Raise SystemExit if images differ by more than rounding or reduced precision allows."""
    worst, rms = int(np.abs(delta).max()), float(np.sqrt(np.mean(delta.astype(float) ** 2)))
    if rms > REDUCED_RMS or (worst > 1 and precision == "exact"):
        raise SystemExit(f"{what}: differs from the array upscale by {worst}, rms {rms:.2f}")


def pure_network(job: Job) -> Callable[[], None]:
    """Return a function that only runs the network as often as the file needs, on buffers of workers."""
    setup = job.engine._setup
    with open_source(job.source) as source:
        info = source.info
    each = batch_size(setup.model, info, job.plan)
    layers = job.channels if info.layout.color == "bands" else 1
    runs = layers * sum(math.ceil(len(chunk.tiles) / each) for chunk in job.plan)
    bounds = [
        HostRenderer(setup.model, setup.networks[0], info, job.plan)._bound for _ in range(setup.workers)
    ]
    gray = job.image if job.image.ndim == 2 else job.image[:, :, 1]
    for bound in bounds:
        window = np.resize(gray, bound.input.shape[2:]).astype(np.float32) / 255
        bound.input[...] = window
    kept = bounds[0].input.copy()

    def work(bound: Bound, turns: Iterator[int]) -> None:
        for _ in turns:
            bound.run()
            # Some runtimes overwrite their input, and values would grow without bound.
            if bound.input.flat[0] != kept.flat[0]:
                np.copyto(bound.input, kept)

    def run() -> None:
        turns = iter(range(runs))  # shared by the threads; next() is atomic
        threads = [threading.Thread(target=work, args=(bound, turns)) for bound in bounds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run()
    return run


class Still:
    """A network that leaves its output as it is."""

    provider, threads = "cpu", 1

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        bound = Bound(lambda windows: out, source, target)
        bound.run = lambda: None
        out = bound.output
        out[...] = 0.5
        return bound


def decode(job: Job) -> float:
    """Return the CPU seconds of reading the source of all chunks."""
    with open_source(job.source) as source:
        strips: Source | StripCache = StripCache(source) if source.by_rows else source

        def read() -> None:
            for chunk in job.plan:
                strips.read(*chunk.source_spans(job.plan.tile, job.plan.margin, job.plan.shape))

        return timed(read).cpu


def move(job: Job) -> float:
    """Return the CPU seconds of extraction and stitching."""
    s, cpu = job.engine.scale, 0.0
    with open_source(job.source) as source, _target(job, source, "none") as target:
        sink = target.page(0)
        model = job.engine._setup.model
        batch = batch_size(model, source.info, job.plan)
        renderer = HostRenderer(model, Still(), source.info, job.plan, batch)
        for chunk in job.plan:
            y, x = chunk.source_spans(job.plan.tile, job.plan.margin, job.plan.shape)
            part, corner = source.read(y, x), (y.start, x.start)
            out = sink.buffer(_hr(chunk.y, s), _hr(chunk.x, s))
            arrays = ChunkArrays(part, corner, out, (chunk.y.start, chunk.x.start))
            start = time.process_time()
            for at in range(0, len(chunk.tiles), batch):
                renderer.render(chunk.tiles[at : at + batch], arrays)
            cpu += time.process_time() - start
    return cpu


def encode(job: Job, compress: str) -> float:
    """Return the CPU seconds of writing the result, which is first read back from its file."""
    s, cpu = job.engine.scale, 0.0
    with open_source(job.target) as finished:
        h, w = finished.info.shape
        pixels = finished.read(Span(0, h), Span(0, w))
    with open_source(job.source) as source, _target(job, source, compress) as target:
        sink = target.page(0)
        for chunk in job.plan:
            y, x = _hr(chunk.y, s), _hr(chunk.x, s)
            out = sink.buffer(y, x)
            out[...] = pixels[y.start : y.stop, x.start : x.stop]
            start = time.process_time()
            sink.write(y, x, out)
            cpu += time.process_time() - start
        cpu += timed(target.finish).cpu
    return cpu


@contextmanager
def _target(job: Job, source: Source, compress: str) -> Iterator[Any]:
    """Create a temporary target beside the file's target; it is deleted afterwards."""
    path = job.target.with_suffix(".trial.tif")
    scale = job.engine.scale
    output = OutputOptions(compress, threads=job.engine._options.threads)
    target = create_target(path, path, [source.info.scaled(scale)], scale, output)
    try:
        yield target
    finally:
        target.abort()
        path.unlink(missing_ok=True)


def _hr(span: Span, scale: int) -> Span:
    return Span(span.start * scale, span.stop * scale)


def take_turns(works: Sequence[Callable[[], object]], rounds: int) -> list[list[Cost]]:
    """Time several functions in turn; each round begins with another one."""
    costs: list[list[Cost]] = [[] for _ in works]
    for first in range(rounds):
        for k in (*range(first % len(works), len(works)), *range(first % len(works))):
            costs[k].append(timed(works[k]))
    return costs


def ratio(over: Sequence[Cost], under: Sequence[Cost]) -> list[float]:
    """Return the wall time of `over` divided by that of `under`, for each round."""
    return [a.wall / b.wall for a, b in zip(over, under, strict=True)]


def measure_file(job: Job, compresses: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Check the file in every compression, then time network and files in turns."""
    sizes = [check(job, compress) for compress in compresses]

    def upscale(compress: str) -> Callable[[], object]:
        return lambda: job.engine.upscale_file(job.source, job.target, overwrite=True, compress=compress)

    network, *files = take_turns([pure_network(job), *map(upscale, compresses)], rounds)
    shared = {"decode": decode(job), "extract and stitch": move(job)}
    results = []
    for compress, size, costs in zip(compresses, sizes, files, strict=True):
        alone = {**shared, "encode": encode(job, compress)}
        about = {"compress": compress, "bytes_of_raw": size / (job.mpx * 1e6 * job.channels)}
        results.append({**describe(job.engine), **about, **_shares(job, network, costs, alone)})
    return results


def describe(engine: Engine) -> dict[str, Any]:
    """Return the fields that all results of an engine have in common."""
    setup = engine._setup
    return {
        "model": engine.spec.name,
        "architecture": engine.spec.architecture,
        "scale": engine.scale,
        "precision": engine.precision,
        "provider": engine.provider,
        "workers": setup.workers,
        "threads": setup.threads,
    }


def _shares(
    job: Job, network: Sequence[Cost], costs: Sequence[Cost], alone: dict[str, float]
) -> dict[str, Any]:
    """Return the file's share of the network's throughput, and where the rest of the time went."""
    setup = job.engine._setup
    shares = ratio(network, costs)
    share, wanted = float(np.median(shares)), WANTED.get((job.engine.spec.architecture, job.channels))
    wall, cpu = _median(c.wall for c in costs), _median(c.cpu for c in costs)
    spent = {"network": _median(c.cpu for c in network), **alone}
    spent["other"] = cpu - sum(spent.values())
    spent["idle"] = wall * max(setup.workers, setup.threads) - cpu
    return {
        "image": IMAGES[job.channels],
        "side": len(job.image),
        "hr_mpx": job.mpx,
        "tile": job.plan.tile,
        "network_mpx_per_s": job.mpx / _median(c.wall for c in network),
        "mpx_per_s": job.mpx / wall,
        "rounds": shares,
        "share": share,
        "wanted": wanted,
        "verdict": "–" if wanted is None else verdict(share, wanted),
        "cpu_ms_per_mpx": {name: seconds * 1e3 / job.mpx for name, seconds in spent.items()},
    }


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def measure_tiling(model: str, precision: str, threads: int, side: int, rounds: int) -> list[dict[str, Any]]:
    """Time an array in tiles and the same array in one run, in turns."""
    image, _ = make_image(side, 1)
    with ExitStack() as stack:

        def engine(**options: Any) -> Engine:
            return stack.enter_context(
                Engine(model, provider=PROVIDERS[precision], threads=threads, precision=precision, **options)
            )

        whole, engines = engine(tile=None), {tile: engine(tile=tile) for tile in TILES}
        expected = whole.upscale(image).astype(int)
        for tile, tiled in engines.items():
            delta = tiled.upscale(image) - expected
            check_delta(delta, precision, f"{model} in tiles of {tile}")
        works = [lambda e=e: e.upscale(image) for e in (whole, *engines.values())]
        base, *costs = take_turns(works, rounds)
        mpx = (side * whole.scale) ** 2 / 1e6
        return [
            {
                **describe(tiled),
                "asked": tile,
                "tile": tiled.tile,
                "side": side,
                "whole_mpx_per_s": mpx / _median(c.wall for c in base),
                "mpx_per_s": mpx / _median(c.wall for c in own),
                "rounds": ratio(own, base),
                "ratio": (found := _median(ratio(own, base))),
                "wanted": WANTED_TILING,
                "verdict": verdict(found, WANTED_TILING, at_most=True),
            }
            for (tile, tiled), own in zip(engines.items(), costs, strict=True)
        ]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all models; the document is saved after each model."""
    settings = ("models", "precision", "compress", "threads", "rounds", "side", "tiling_side")
    document: dict[str, Any] = {
        "measured": date.today().isoformat(),
        "machine": machine(),
        "settings": {name: getattr(args, name) for name in settings},
        "image": "",
        "files": [],
        "tiling": [],
    }
    start, before = time.perf_counter(), busy()
    for model, precision in itertools.product(args.models, args.precision):
        try:
            files, document["image"] = measure_files(model, precision, args)
            document["files"] += files
            document["tiling"] += measure_tiling(
                model, precision, args.threads, args.tiling_side, args.rounds
            )
        except ProviderError as error:
            print(f"{model}, {precision}: skipped: {error}", flush=True)
            continue
        all_of_it, own = np.subtract(busy(), before)
        others = (all_of_it - own) / (time.perf_counter() - start)
        document["others"] = None if math.isnan(others) else max(0.0, others)
        save(document, args.out / "end_to_end.json")
    return document


def measure_files(model: str, precision: str, args: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Measure gray and RGB files with one model; return the results and a description of the image."""
    results, words = [], ""
    with (
        Engine(
            model, provider=PROVIDERS[precision], tile="auto", threads=args.threads, precision=precision
        ) as engine,
        tempfile.TemporaryDirectory(dir=args.folder) as folder,
    ):
        side = (args.side or SIDES.get(engine.spec.architecture, SIDE_OTHERS)) // engine.scale
        for channels in IMAGES:
            job, words = prepare(engine, Path(folder), side, channels)
            found = measure_file(job, args.compress, args.rounds)
            print(files_table(found), flush=True)
            results += found
    return results, words


def markdown(document: dict[str, Any]) -> str:
    """Return the tables of files, of their CPU time, and of tiling."""
    settings, files = document["settings"], document["files"]
    parts = [
        "## TIFF to TIFF",
        f"{settings['threads']} threads; {document['image']}. Mpx/s of output, medians of "
        f"{settings['rounds']} rounds; the share is the median of the shares within a round.",
        files_table(files),
        "CPU milliseconds per HR megapixel:",
        spent_table(files),
        "## Tiling",
        f"A gray array of {settings['tiling_side']}² LR pixels; seconds in tiles over seconds in one run.",
        tiling_table(document["tiling"]),
    ]
    if document.get("others") is not None:
        parts.append(f"Other processes used {document['others']:.2f} CPU cores.")
    return "\n\n".join(parts) + "\n"


def _name(result: dict[str, Any]) -> str:
    return result["model"] if result["precision"] == "exact" else f"{result['model']}, {result['precision']}"


def _about(result: dict[str, Any]) -> tuple[str, str]:
    return _name(result), f"{result['image']}, {result['hr_mpx']:.0f} Mpx, {result['compress']}"


def files_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of files: throughput, share of the network's, target and verdict."""
    rows = [
        (
            *_about(r),
            f"{r['network_mpx_per_s']:.1f}",
            f"{r['mpx_per_s']:.1f}",
            f"{r['share']:.3f}",
            "–" if r["wanted"] is None else f"{r['wanted']:.2f}",
            r["verdict"],
        )
        for r in results
    ]
    return grid(("model", "file", "network, Mpx/s", "file, Mpx/s", "share", "wanted", ""), rows, left=2)


def spent_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of CPU time by stage."""
    stages = list(results[0]["cpu_ms_per_mpx"]) if results else []
    rows = [(*_about(r), *(f"{r['cpu_ms_per_mpx'][stage]:.1f}" for stage in stages)) for r in results]
    return grid(("model", "file", *stages), rows, left=2)


def tiling_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of tiling: time in tiles over time of one run."""
    rows = [
        (
            _name(r),
            f"{r['asked']}" if r["asked"] == r["tile"] else f"{r['asked']} ({r['tile']})",
            f"{r['whole_mpx_per_s']:.1f}",
            f"{r['mpx_per_s']:.1f}",
            f"{r['ratio']:.3f}",
            f"≤ {r['wanted']:.2f}",
            r["verdict"],
        )
        for r in results
    ]
    return grid(("model", "tile", "whole, Mpx/s", "tiled, Mpx/s", "ratio", "wanted", ""), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["srcnn-915-x2", "srcnn-955-x2"])
    parser.add_argument("--precision", nargs="+", choices=list(PROVIDERS), default=["exact"])
    parser.add_argument("--compress", nargs="+", choices=TIFF_COMPRESSIONS, default=["deflate", "zstd"])
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--side", type=int, help="side of the files, HR pixels; by default it depends on the model"
    )
    parser.add_argument("--tiling-side", type=int, default=TILING_SIDE, help="side of the array, LR pixels")
    parser.add_argument("--folder", type=Path, help="folder for the files; by default a temporary folder")
    parser.add_argument("--out", type=Path, default=Path(".benchmarks"), help="folder of the results")
    args = parser.parse_args()
    if min(args.threads, args.rounds, args.tiling_side) < 1 or (args.side is not None and args.side < 64):
        parser.error("threads, rounds and sides must be positive, a file's side at least 64")
    os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE_MB)
    args.out.mkdir(parents=True, exist_ok=True)
    document = measure(args)
    if not document["files"]:
        raise SystemExit("nothing could be measured")
    print(markdown(document))


if __name__ == "__main__":
    main()
