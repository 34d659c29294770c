"""``srcnn-rt upscale``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ArgumentError, SrcnnError
from .options import COUNT, interface_options, runtime_options

if TYPE_CHECKING:
    from ..engine import Engine
    from ..image.info import Nodata
    from ..jobs.report import Report
    from .inputs import Batch

Options = dict[str, Any]
Paths = list[tuple[Path, Path]]  # of source and target

# Holds the source tiles that two rows of chunks share, for images up to some 50,000 pixels wide.
GDAL_CACHE_MB = "32"
# An estimate is made for files of at least LARGE_BYTES, and printed for jobs of at least LONG_SECONDS.
LONG_SECONDS = 60
LARGE_BYTES = 50e6
FORMATS = ("tif", "png", "jpg", "webp", "avif", "jxl", "bmp", "zarr")


def _tile(text: str) -> int | str:
    """Parse an integer, or ``auto``."""
    try:
        return text if text == "auto" else int(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither an integer nor 'auto'") from error


def _nodata(text: str) -> Nodata:
    """Parse a number, or ``none``; integers are exact."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    if text.lower() != "none":
        raise click.BadParameter(f"nodata must be a number or none, got {text!r}")
    return "none"


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--output", "target", metavar="FILE|DIR", help="Output file or folder.  [default: beside the input]"
)
@click.option("--model", metavar="NAME|PATH", help="Bundled model or ONNX file.  [default: srcnn-915-x2]")
@click.option("--scale", type=click.IntRange(2, 8), help="Use the bundled model of this scale factor.")
@click.option(
    "--best", is_flag=True, help="Use the most accurate bundled model, which is several times slower."
)
@click.option(
    "--tile", type=_tile, metavar="N|AUTO", default="auto", help="Tile size in input pixels.  [default: auto]"
)
@runtime_options
@click.option(
    "--data-range", metavar="LOW..HIGH", default="auto",
    help="Sample values of black and white, or 'dtype' for the range of the data type. "
    "Ignored by models that do not depend on the range.",
)  # fmt: skip
@click.option(
    "--model-range", metavar="LOW..HIGH",
    help="Input range of a model whose file does not state it, for example 0..255 or "
    "'mean=A,B,C std=D,E,F'.",
)  # fmt: skip
@click.option(
    "--compress", type=click.Choice(["deflate", "zstd", "lzw", "none"]), default="deflate",
    help="Lossless compression of TIFF output. 'zstd' is faster; 'deflate' can be read by every program.",
)  # fmt: skip
@click.option("--cog", is_flag=True, help="Write Cloud-Optimised GeoTIFFs with overviews.")
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), help="Output format.  [default: as the input]"
)
@click.option(
    "--quality", type=click.IntRange(1, 100),
    help="Quality of JPEG, WebP, AVIF and JPEG XL output.  [default: 95 for JPEG, lossless for the others]",
)  # fmt: skip
@click.option("--page", type=COUNT, help="Process only this page of a multi-page TIFF.  [default: all]")
@click.option(
    "--max-pixels", type=COUNT, metavar="N",
    help="Refuse images of more than N pixels.  [default: 2^30 for formats that are read whole]",
)  # fmt: skip
@click.option(
    "--bands", is_flag=True, help="Process each channel as an independent band, including colours and alpha."
)
@click.option("--nodata", type=_nodata, metavar="VALUE|none", help="Override the nodata value of the input.")
@click.option(
    "--classes",
    is_flag=True,
    help="Treat pixels as class labels, such as land cover: copy, never interpolate.",
)
@interface_options
@click.option(
    "--trust", is_flag=True, help="Skip the check that compares a third-party model tiled and untiled."
)
@click.option("--no-tiling", is_flag=True, help="Run the model once on each whole image.")
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Read TIFFs behind GDAL's virtual file systems (/vsicurl/, /vsizip/).",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run of the same job.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs and restart interrupted ones.")
@click.option("--dry-run", is_flag=True, help="Print the expected size, memory and time, and exit.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
def upscale(
    names: tuple[str, ...],
    target: str | None,
    model: str | None,
    scale: int | None,
    best: bool,
    tile: Any,
    data_range: str,
    no_tiling: bool,
    allow_remote: bool,
    format_: str | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Upscale images.

    INPUT is a file, a folder or a quoted pattern. The output of big.tif is big_x2.tif beside it, in the
    same format and data type. TIFF and Zarr are streamed at any size; other formats are read whole.
    It can also be - (standard input) or, with the extra "remote", a URL; so can the output.

    \b
    srcnn-rt upscale big.tif --tile 512
    srcnn-rt upscale big.tif --resume
    srcnn-rt upscale scans/ -o larger/ --scale 3 --json
    srcnn-rt upscale - -o - --format png < small.jpg > large.png
    srcnn-rt upscale s3://bucket/big.tif -o large.tif

    An interrupted run leaves NAME.partial, which --resume continues. For several images, a manifest in
    the output folder records finished images, and running the same command again processes the rest.
    A job that does not fit into memory or onto the disk is refused before it starts.

    Exit status: 0 success, 1 some images failed, 2 usage error, 130 interrupted.
    """
    # GDAL reads this when it is loaded; its default is 5% of the machine's memory.
    os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE_MB)
    from ..engine import Engine
    from ..io.registry import is_image, make_folder
    from ..models import spec
    from ..options import FileOptions
    from . import streams
    from .inputs import Batch, find_images, output_folder, output_paths

    if best and model is not None:
        raise click.UsageError("--best chooses a bundled model and cannot be combined with --model")
    as_streams = streams.are_streams(names, target)
    if as_streams and (dry_run or resume):
        raise click.UsageError("--dry-run and --resume need files, not pipes or URLs")
    console = _Console(quiet=quiet, as_json=as_json, to_stderr=streams.to_stdout(names, target))
    file_options = {k: options.pop(k) for k in FileOptions.__annotations__ if k in options}
    try:
        with (
            _sigterm_as_interrupt(),
            Engine(
                model or spec.default_model(scale, best=best),
                tile=None if no_tiling else tile,
                data_range=data_range,
                **options,
            ) as engine,
        ):
            if scale is not None and engine.scale != scale:
                raise click.UsageError(f"--scale {scale}, but the model {model} has scale {engine.scale}")
            if data_range != "auto" and engine.spec.equivariant:
                console.note(f"note: --data-range has no effect: {engine.spec.name} works in any range")
            if as_streams:
                file_options["overwrite"] = overwrite
                failed = _upscale_streams(engine, names, target, format_, allow_remote, file_options, console)
                sys.exit(1 if failed else 0)
            sources, errors = find_images(names, engine.scale)
            try:
                targets = output_paths(sources, target, engine.scale, format_)
            except ArgumentError as error:
                raise click.UsageError(str(error)) from error
            if sources and (folder := output_folder(target)) is not None:
                make_folder(folder)
            for missing in errors:
                console.error(missing)
            several = len(sources) > 1 or any(Path(n).is_dir() and not is_image(Path(n)) for n in names)
            file_options |= {"overwrite": overwrite, "resume": resume or (several and not overwrite)}
            paths = list(zip(sources, targets, strict=True))
            if dry_run:
                failed = _print_estimates(engine, paths, file_options, console)
            else:
                batch = Batch(targets, several=several, overwrite=overwrite)
                failed = _upscale_all(engine, paths, batch, file_options, console)
                if several:
                    console.text(f"{batch.summary()}, {failed + len(errors)} failed")
            sys.exit(1 if failed or errors else 0)
    except SrcnnError as error:
        console.error(error)
        sys.exit(1)
    except KeyboardInterrupt as error:
        kept = (
            "" if as_streams else "; finished work is kept, and the same command with --resume continues it"
        )
        console.error(f"interrupted{kept}")
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))


def _upscale_all(engine: Engine, paths: Paths, batch: Batch, options: Options, console: _Console) -> int:
    """Upscale images that are not done yet; return how many failed."""
    from ..jobs import alpha_check
    from .estimates import lines

    failed = 0
    for source, target in paths:
        try:
            job = engine.job(source, target, **options)
            if batch.is_done(job):
                continue
            for line in () if console.quiet else alpha_check.doubts(job):
                console.note(f"warning: {line}")
            if not console.silent and _is_large(source):
                expected = engine.estimate(source, target, **options)
                if (expected.seconds or 0) >= LONG_SECONDS:
                    console.note("\n".join(lines(expected)))
            with _progress_bar(str(source), hidden=console.silent) as progress:
                report = engine.upscale_file(source, target, **options, progress=progress)
            batch.finished(job)
        except (SrcnnError, MemoryError) as error:
            failed += 1
            batch.failed(source, target, error)
            console.error(error, source)
        else:
            console.result(report)
    return failed


def _upscale_streams(
    engine: Engine,
    names: tuple[str, ...],
    output: str | None,
    format_: str | None,
    allow_remote: bool,
    options: Options,
    console: _Console,
) -> int:
    """Upscale images that are no local files, or whose results are none; return how many failed."""
    from ..io.registry import make_folder
    from ..io.remote import is_url
    from . import streams
    from .inputs import output_folder

    try:
        pairs, errors = streams.pairs(names, output, engine.scale, format_, allow_remote=allow_remote)
    except ArgumentError as error:
        raise click.UsageError(str(error)) from error
    local = None if output in (None, streams.PIPE) or is_url(output) else output
    if pairs and (folder := output_folder(local)) is not None:
        make_folder(folder)
    for missing in errors:
        console.error(missing)
    failed = len(errors)
    for source, target in pairs:
        try:
            with _progress_bar(source, hidden=console.silent) as progress:
                report = streams.upscale(engine, source, target, format=format_, progress=progress, **options)
        except (SrcnnError, MemoryError) as error:
            failed += 1
            console.error(error, source)
            continue
        for line in report.warnings:
            console.note(f"warning: {line}")
        console.result(report)
    return failed


def _print_estimates(engine: Engine, paths: Paths, options: Options, console: _Console) -> int:
    """Print what the job is expected to take; return how many images cannot be processed."""
    from ..jobs import alpha_check, estimate, totals
    from .estimates import lines, total_lines

    found, failed = [], 0
    for source, target in paths:
        try:
            expected = engine.estimate(source, target, **options)
            found.append(expected)
            click.echo(json.dumps(asdict(expected)) if console.as_json else "\n".join(lines(expected)))
            for line in alpha_check.doubts(engine.job(source, target, **options)):
                click.echo(f"warning: {line}", err=True)
            estimate.refuse(expected)
        except (SrcnnError, MemoryError) as error:
            failed += 1
            console.error(error, source)
    if len(found) > 1:
        if not console.as_json:
            click.echo("\n".join(total_lines(totals.total(found))))
        try:
            totals.check_total(found)
        except SrcnnError as error:
            failed += 1
            console.error(error)
    return failed


def _is_large(source: Path) -> bool:
    return source.is_dir() or (source.exists() and source.stat().st_size >= LARGE_BYTES)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGTERM, which batch systems send, as on Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Console:
    """Prints results to stdout, as text or JSON, and everything else to stderr; or all to stderr."""

    def __init__(self, *, quiet: bool, as_json: bool, to_stderr: bool = False) -> None:
        self.quiet, self.as_json, self._to_stderr = quiet, as_json, to_stderr

    @property
    def silent(self) -> bool:
        """Whether only errors and JSON are printed."""
        return self.quiet or self.as_json

    def text(self, line: str) -> None:
        if not self.silent:
            click.echo(line, err=self._to_stderr)

    def note(self, line: str) -> None:
        if not self.quiet:
            click.echo(line, err=True)

    def error(self, error: BaseException | str, source: Path | str | None = None) -> None:
        text = str(error) or "not enough memory"
        if isinstance(error, MemoryError):
            text = f"{source}: not enough memory ({error})"
        if self.as_json:
            click.echo(json.dumps({"source": source and str(source), "error": text}), err=self._to_stderr)
        click.echo(f"error: {text}", err=True)

    def result(self, report: Report) -> None:
        if self.as_json:
            click.echo(json.dumps(asdict(report)), err=self._to_stderr)
            return
        (w, h), (hr_w, hr_h) = report.source_size, report.target_size
        fast = ", fast" if report.precision == "fast" else ""
        copied = report.layout.endswith("classes")
        self.text(
            f"{report.target}: {w} x {h} → {hr_w} x {hr_h}, {report.layout} {report.dtype}, "
            + ("copied" if copied else f"{report.model} on {report.provider}{fast}")
            + f", {report.seconds:.1f} s, {report.mpx_per_s:.1f} Mpx/s"
        )


@contextmanager
def _progress_bar(label: str, *, hidden: bool) -> Iterator[Callable[[int, int], None] | None]:
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
