"""``srcnn-rt eval``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._system.safe_files import atomic_write
from ..errors import ArgumentError, OutputError
from .extras import requires
from .options import CHANNELS, FILE, SCALE, runtime_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation.protocol import Channels
    from ..evaluation.runner import Method, Protocol, Result


@click.command("eval")
@click.option(
    "--data", multiple=True, required=True, metavar="DIR", help="Folder of test images. Can be repeated."
)
@click.option(
    "--model", "models", multiple=True, metavar="NAME|PATH",
    help="Bundled model, ONNX file or sparse-coding dictionary (.npz). Can be repeated.  "
    "[default: all bundled models]",
)  # fmt: skip
@click.option(
    "--scale", type=SCALE,
    help="Evaluate only models of this scale factor, or bicubic alone if there is none.",
)  # fmt: skip
@click.option("--channels", type=CHANNELS, default="y", help="Compare luminance, or R, G and B together.")
@click.option(
    "--degrade", metavar="SPEC",
    help="How LR images are made: bicubic, blur:SIGMA, noise:SIGMA, jpeg:QUALITY, or several joined by +.  "
    "[default: the degradation of each model's training]",
)  # fmt: skip
@click.option(
    "--crop-border", type=click.IntRange(0), metavar="N",
    help="Crop N pixels from each side before measuring.  [default: the scale factor]",
)  # fmt: skip
@click.option(
    "--contact-sheet", type=FILE, metavar="PNG", help="Write an image that compares crops of all methods."
)
@click.option("--summary", is_flag=True, help="Print only the mean of each folder.")
@click.option(
    "--speed", is_flag=True, help="Also measure the speed of every method; takes about a minute each."
)
@click.option(
    "-o", "--output", "figure", type=FILE, metavar="PNG|SVG|PDF",
    help="With --speed: draw PSNR of the first folder over speed. Requires the extra \"train\".",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per folder and protocol.")
@runtime_options
def evaluate(
    data: tuple[str, ...],
    models: tuple[str, ...],
    scale: int | None,
    channels: Channels,
    degrade: str | None,
    crop_border: int | None,
    contact_sheet: Path | None,
    summary: bool,
    speed: bool,
    figure: Path | None,
    as_json: bool,
    **runtime: Any,
) -> None:
    """Measure PSNR, SSIM and MS-SSIM of models on test images.

    Follows the usual protocol: luminance as MATLAB computes it, rounded to 8 bits; sides cropped to
    multiples of the scale factor; bicubic downscaling as MATLAB's imresize; output rounded to 8 bits;
    a border of as many pixels as the scale factor cropped. Bicubic upscaling is measured for comparison.

    \b
    srcnn-rt eval --data set5 --scale 3
    srcnn-rt eval --data set5 --data set14 --model my.onnx --contact-sheet crops.png
    srcnn-rt eval --data set5 --scale 2 --summary --speed -o front.png

    Exit status: 0 success (skipped files are listed), 1 no image could be measured, 2 usage error.
    """
    from ..evaluation import runner, tables

    if figure is not None and not speed:
        raise click.UsageError("-o needs --speed")
    log = partial(click.echo, err=True)
    sheet = tables.Sheet()
    results = []
    speeds: dict[Protocol, dict[str, float]] = {}
    with ExitStack() as stack:
        groups = _by_protocol(models, scale, (channels, degrade, crop_border), runtime)
        for protocol, methods in groups.items():
            columns = [*runner.baselines(protocol), *methods]
            for method in columns:
                stack.enter_context(method.closing)
            if speed:
                log(f"measuring the speed of {len(columns)} methods at ×{protocol.scale}")
                speeds[protocol] = runner.speeds(columns, protocol)
            for folder in data:
                keep = sheet.add if contact_sheet is not None else None
                result = runner.evaluate(folder, columns, protocol, log=log, keep=keep)
                results.append(result)
                if as_json:
                    measured = {"mpx_per_s": speeds[protocol]} if speed else {}
                    click.echo(json.dumps(result.as_json() | measured))
                elif not summary:
                    click.echo(tables.per_image(result) + "\n")
    if not as_json and (summary or speed or len(results) > 1):
        click.echo(tables.summary(results, speeds))
    if figure is not None:
        _draw(figure, results, speeds)
        log(f"figure: {figure}")
    if contact_sheet is not None:
        _write_png(contact_sheet, sheet.image())
        log(f"contact sheet: {contact_sheet}")


def _by_protocol(
    models: tuple[str, ...],
    scale: int | None,
    conditions: tuple[Channels, str | None, int | None],
    runtime: dict[str, Any],
) -> dict[Protocol, list[Method]]:
    """Group models by the protocol that they are measured in, in the order they were given.

    `conditions` are channels, degradation and border, as for `runner.protocol_for`.
    """
    from ..evaluation import runner
    from ..models import spec
    from ..models.bundled import bundled

    groups: dict[Protocol, list[Method]] = {}
    for name in models or bundled():
        method = None
        if name.endswith(".npz"):
            if conditions[0] == "rgb":
                raise ArgumentError(f"{name}: a dictionary works on luminance; use --channels y")
            with requires("scikit-learn"):
                from ..training.sparse_coding import SparseCoder
            coder = SparseCoder.load(Path(name))
            method = runner.Method(Path(name).stem, coder.upscale)
            protocol = runner.protocol_for(coder.scale, *conditions)
        else:
            described = spec.load(name)[1]
            if described.channels not in (1, 3):
                raise ArgumentError(f"{name}: has {described.channels} channels; 1 or 3 can be evaluated")
            protocol = runner.protocol_for(described, *conditions)
        if scale is not None and protocol.scale != scale:
            if not models:
                continue
            raise ArgumentError(f"{name}: has scale {protocol.scale}, not --scale {scale}")
        if protocol.scale == 1 and str(protocol.degradation) == "bicubic":
            raise ArgumentError(f"{name}: has scale 1 and does not state its degradation; use --degrade")
        groups.setdefault(protocol, []).append(method or runner.model_method(name, **runtime))
    if not groups and scale is not None:
        groups[runner.protocol_for(scale, *conditions)] = []
    return groups


def _draw(figure: Path, results: list[Result], speeds: dict[Protocol, dict[str, float]]) -> None:
    """Draw PSNR on the first folder over speed, a panel per protocol."""
    with requires("matplotlib"):
        from ..plotting.figures import draw_front
    folder = results[0].folder
    draw_front(
        {
            str(r.protocol): {m: (speeds[r.protocol][m], r.mean(m).psnr) for m in r.scores}
            for r in results
            if r.folder == folder
        },
        figure,
        quality=f"PSNR on {folder}, dB",
    )


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    import cv2

    encoded, data = cv2.imencode(".png", image)
    if not encoded:
        raise OutputError(f"{path}: cannot be written: cannot be encoded")
    with atomic_write(path) as file:
        file.write(data.tobytes())
