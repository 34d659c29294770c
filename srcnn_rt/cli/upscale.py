"""``srcnn-rt upscale``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ArgumentError, SrcnnError
from .interface_options import shaping_options
from .runtime_options import Runs, run_options

if TYPE_CHECKING:
    from ..engine import Engine
    from ..jobs.report import Report

# Holds the source tiles that two rows of chunks share, up to some 50,000 pixels of width.
GDAL_CACHE_MB = "32"
# Of jobs of so many seconds people are told what they will take; only of files of so many bytes it is asked.
LONG_SECONDS = 60
LARGE_BYTES = 50e6
FORMATS = ("tif", "png", "jpg", "webp", "avif", "jxl", "bmp", "zarr")


class TileType(click.ParamType):  # type: ignore[type-arg]
    """A whole number, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto":
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'auto'", param, ctx)


class NodataType(click.ParamType):  # type: ignore[type-arg]
    """A number, or ``none``."""

    name = "VALUE|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from ..io.metadata import nodata_tag

        try:
            return nodata_tag.parse(str(value))
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", metavar="FILE|DIR", help="Where to write; beside the input by default.")
@click.option("--model", metavar="NAME|PATH", help="A bundled model or an ONNX file.")
@click.option("--scale", type=click.IntRange(2, 8), help="Take the bundled model of this scale (2).")
@click.option("--best", is_flag=True, help="Take the 9-5-5 model of the scale: closer, several times slower.")
@click.option("--tile", type=TileType(), default="auto", show_default=True, help="Tile side, input pixels.")
@run_options
@click.option(
    "--data-range", metavar="LOW..HIGH", default="auto", show_default=True,
    help="Samples that are black and white, for models that need to know; dtype: the type's range.",
)  # fmt: skip
@click.option(
    "--model-range", metavar="LOW..HIGH",
    help="What the model calls so, e.g. 0..255 or 'mean=A,B,C std=D,E,F', where its file does not say.",
)  # fmt: skip
@click.option(
    "--compress", type=click.Choice(["deflate", "zstd", "lzw", "none"]), default="deflate", show_default=True,
    help="Compression of TIFFs, all without loss; zstd is faster, deflate is read everywhere.",
)  # fmt: skip
@click.option("--cog", is_flag=True, help="Make Cloud-Optimised GeoTIFFs, with overviews.")
@click.option(
    "--format", "format_", type=click.Choice(FORMATS),
    help="Format of the results; that of the inputs by default.",
)  # fmt: skip
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG (95), WebP, AVIF, JPEG XL (lossless).")
@click.option(
    "--page", type=click.IntRange(1), help="Take this page of TIFFs of several pages; all by default."
)
@click.option(
    "--max-pixels", type=click.IntRange(1), metavar="N",
    help="Refuse larger images. By default 2^30 where an image has to be in memory whole.",
)  # fmt: skip
@click.option(
    "--bands", is_flag=True, help="Take every channel for a band of its own, alpha and colours too."
)
@click.option(
    "--nodata", type=NodataType(), metavar="VALUE|none",
    help="Samples of this value are no data, whatever the file says.",
)  # fmt: skip
@click.option(
    "--classes", is_flag=True, help="Pixels are numbers of classes (land cover): copy them, never blend."
)
@shaping_options
@click.option(
    "--trust", is_flag=True, help="Do not try another's model on a drawn image, tiled and whole, first."
)
@click.option("--no-tiling", is_flag=True, help="Run the model once on each whole image, untiled.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of the same job ended.")
@click.option(
    "--overwrite", is_flag=True, help="Replace results that exist, and begin interrupted ones again."
)
@click.option("--dry-run", is_flag=True, help="Only print what it will take: bytes, memory, time.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an image to stdout.")
def upscale(
    inputs: tuple[str, ...],
    output: str | None,
    model: str | None,
    scale: int | None,
    best: bool,
    tile: Any,
    runs: Runs,
    data_range: str,
    model_range: str | None,
    compress: str,
    cog: bool,
    format_: str | None,
    quality: int | None,
    page: int | None,
    max_pixels: int | None,
    bands: bool,
    nodata: Any,
    classes: bool,
    shape: dict[str, Any],
    trust: bool,
    no_tiling: bool,
    resume: bool,
    dry_run: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Upscale images: files, folders or quoted patterns.

    The result of big.tif is big_x2.tif beside it, in the same format and depth. TIFF is
    streamed, whatever its size; PNG, JPEG, WebP, AVIF, JPEG XL and BMP are read whole.

    \b
    srcnn-rt upscale big.tif --tile 512
    srcnn-rt upscale big.tif --resume
    srcnn-rt upscale scans/ -o larger/ --scale 3 --json

    What a long job will take is printed before it begins, and one that cannot fit is refused; --dry-run
    only prints it.

    Nothing is lost when a run ends early: NAME.partial is gone on with by --resume. Of several
    images, a manifest beside the results knows those that are done, and a second run does the rest.

    Exit status: 0 all done, 1 some failed (the others are done), 2 wrong usage, 130 interrupted.
    """
    # Before GDAL is loaded: its block cache would take 5% of the machine's memory.
    os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE_MB)
    from ..engine import Engine
    from ..io import is_image, make_folder
    from ..jobs import sampling
    from ..jobs.estimate_text import lines
    from ..models import spec
    from .inputs import Queue, expand, output_folder, targets

    if best and model is not None:
        raise click.UsageError("--best chooses a bundled model, and --model names one; give one of them")
    try:
        with (
            _terminable(),
            Engine(
                model or spec.default_model(scale, best=best),
                tile=None if no_tiling else tile,
                data_range=data_range,
                model_range=model_range,
                trust=trust,
                **shape,
                **runs.words(),
            ) as engine,
        ):
            if scale is not None and engine.scale != scale:
                raise click.UsageError(f"--scale {scale}, but the model {model} has scale {engine.scale}")
            if data_range != "auto" and engine.spec.equivariant and not quiet:
                click.echo(f"--data-range changes nothing: {engine.spec.name} needs no range", err=True)
            sources, errors = expand(inputs, engine.scale)
            try:
                named = targets(sources, output, engine.scale, format_)
            except ArgumentError as error:
                raise click.UsageError(str(error)) from error
            if sources and (folder := output_folder(output)) is not None:
                make_folder(folder)
            for missing in errors:
                _fail(missing, as_json, None)
            several = len(sources) > 1 or any(Path(n).is_dir() and not is_image(Path(n)) for n in inputs)
            queue = Queue(named, several=several, overwrite=overwrite)
            settings: dict[str, Any] = {
                "overwrite": overwrite, "resume": resume or (several and not overwrite), "page": page,
                "compress": compress, "cog": cog, "quality": quality, "max_pixels": max_pixels,
                "bands": bands, "nodata": nodata, "classes": classes,
            }  # fmt: skip
            failed = len(errors)
            if dry_run:
                failed += _tell(engine, sources, named, settings, as_json)
                sys.exit(1 if failed else 0)
            for source, target in zip(sources, named, strict=True):
                try:
                    job = engine.job(source, target, **settings)
                    if queue.is_done(job):
                        continue
                    for line in () if quiet else sampling.doubts(job):
                        click.echo(f"warning: {line}", err=True)
                    if not (quiet or as_json) and _is_large(source):
                        expected = engine.estimate(source, target, **settings)
                        if (expected.seconds or 0) >= LONG_SECONDS:
                            click.echo("\n".join(lines(expected)), err=True)
                    with _progress(str(source), hidden=quiet or as_json) as progress:
                        report = engine.upscale_file(source, target, **settings, progress=progress)
                    queue.finished(job)
                except (SrcnnError, MemoryError) as error:
                    failed += 1
                    queue.failed(source, target, error)
                    _fail(error, as_json, str(source))
                    continue
                if as_json:
                    click.echo(json.dumps(asdict(report)))
                elif not quiet:
                    click.echo(_line(report))
            if several and not (quiet or as_json):
                click.echo(f"{queue.summary()}, {failed} failed")
    except SrcnnError as error:
        _fail(error, as_json, None)
        failed = 1
    except KeyboardInterrupt as error:
        _fail(_Interrupted(*error.args), as_json, None)
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))
    sys.exit(1 if failed else 0)


class _Interrupted(Exception):  # noqa: N818
    def __str__(self) -> str:
        return "interrupted; what is done is kept, and the same command with --resume goes on"


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, end the run as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(
    engine: Engine, sources: Sequence[Path], targets: Sequence[Path], settings: dict[str, Any], as_json: bool
) -> int:
    """Print what images will take; return how many cannot be done."""
    from ..jobs import estimate_text, sampling

    found, failed = [], 0
    for source, target in zip(sources, targets, strict=True):
        try:
            expected = engine.estimate(source, target, **settings)
            found.append(expected)
            click.echo(json.dumps(asdict(expected)) if as_json else "\n".join(estimate_text.lines(expected)))
            for line in sampling.doubts(engine.job(source, target, **settings)):
                click.echo(f"warning: {line}", err=True)
            estimate_text.refuse(expected)
        except (SrcnnError, MemoryError) as error:
            failed += 1
            _fail(error, as_json, str(source))
    if len(found) > 1:
        try:
            if not as_json:
                click.echo("\n".join(estimate_text.total_lines(estimate_text.total(found))))
            estimate_text.check_total(found)
        except SrcnnError as error:
            failed += 1
            _fail(error, as_json, None)
    return failed


def _is_large(source: Path) -> bool:
    """Return whether an image may take so long that people want to know how long."""
    return source.is_dir() or (source.exists() and source.stat().st_size >= LARGE_BYTES)


def _line(report: Report) -> str:
    (w, h), (hr_w, hr_h) = report.source_size, report.target_size
    how = report.provider + (", fast" if report.precision == "fast" else "")
    by = "copied" if report.layout.endswith("classes") else f"{report.model} on {how}"
    return (
        f"{report.target}: {w} x {h} → {hr_w} x {hr_h}, {report.layout} {report.dtype}, "
        f"{by}, {report.seconds:.1f} s, {report.mpx_per_s:.1f} Mpx/s"
    )


def _fail(error: BaseException, as_json: bool, source: str | None) -> None:
    text = str(error) or "not enough memory"
    if isinstance(error, MemoryError):
        text = f"{source}: not enough memory ({error})"
    if as_json:
        click.echo(json.dumps({"source": source, "error": text}))
    click.echo(f"error: {text}", err=True)


@contextmanager
def _progress(label: str, *, hidden: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback that draws a bar with Mpx/s and time left; None unless on a terminal."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    start = time.perf_counter()
    with click.progressbar(
        length=1, label=label, file=sys.stderr, show_pos=False, item_show_func=lambda text: text or ""
    ) as bar:

        def advance(done: int, total: int) -> None:
            bar.length = total
            rate = done / 1e6 / max(time.perf_counter() - start, 1e-9)
            bar.update(done - bar.pos, f"{rate:.1f} Mpx/s")

        yield advance
