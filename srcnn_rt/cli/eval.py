"""``srcnn-rt eval``."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..errors import ArgumentError, OutputError, SrcnnError
from .extras import sparse_method
from .runtime_options import Runs, run_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation.protocol import Channels
    from ..evaluation.runner import Method, Protocol


@click.command("eval")
@click.option("--data", multiple=True, required=True, metavar="DIR", help="A folder of test images.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME|PATH",
    help="A bundled model, an ONNX file, or a dictionary (.npz); every bundled model by default.",
)  # fmt: skip
@click.option("--scale", type=click.IntRange(1, 8), help="Only models of this scale; bicubic needs no model.")
@click.option(
    "--channels", type=click.Choice(["y", "rgb"]), default="y", show_default=True,
    help="Measure luminance, or R, G and B together.",
)  # fmt: skip
@click.option(
    "--degrade", metavar="HOW",
    help="bicubic, blur:SIGMA, noise:SIGMA, jpeg:QUALITY or several joined by +; what each model was "
    "trained for by default.",
)  # fmt: skip
@click.option(
    "--crop-border", type=click.IntRange(0), help="Pixels to crop from every side; the scale by default."
)
@click.option(
    "--contact-sheet", type=click.Path(path_type=Path), metavar="PNG", help="Write a contact sheet of crops."
)
@click.option("--summary", is_flag=True, help="Print the means of each folder only, not every image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a folder and protocol.")
@run_options
def evaluate(
    data: tuple[str, ...],
    models: tuple[str, ...],
    scale: int | None,
    channels: str,
    degrade: str | None,
    crop_border: int | None,
    contact_sheet: Path | None,
    summary: bool,
    as_json: bool,
    runs: Runs,
) -> None:
    """Measure models on test images: PSNR, SSIM, MS-SSIM, bicubic beside them.

    The field's protocol: MATLAB's luminance rounded to 8 bits, sides cut to multiples of
    the scale, shrunk by MATLAB's bicubic, upscaled by the exported model, rounded, a border
    of `scale` pixels shaved.

    \b
    srcnn-rt eval --data set5 --scale 3
    srcnn-rt eval --data set5 --data set14 --model my.onnx --contact-sheet crops.png

    Exit status: 0 done (skipped files are named), 1 nothing could be measured, 2 wrong usage.
    """
    from ..evaluation import runner as measure
    from ..evaluation import tables

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        with ExitStack() as stack:
            groups = _groups(models, scale, cast("Channels", channels), degrade, crop_border, runs)
            drawn = tables.Sheet()
            results = []
            for protocol, methods in groups.items():
                columns = [*measure.baselines(protocol), *methods]
                for method in columns:
                    stack.enter_context(method.closing)
                for folder in data:
                    keep = drawn.add if contact_sheet is not None else None
                    result = measure.evaluate(folder, columns, protocol, log=say, keep=keep)
                    results.append(result)
                    if as_json:
                        click.echo(json.dumps(result.as_json()))
                    elif not summary:
                        click.echo(tables.per_image(result) + "\n")
            if not as_json and (summary or len(results) > 1):
                click.echo(tables.summary(results))
            if contact_sheet is not None:
                _write(contact_sheet, drawn.image())
                say(f"sheet of crops: {contact_sheet}")
    except SrcnnError as error:
        say(f"error: {error}")
        sys.exit(1)


def _groups(
    models: tuple[str, ...],
    scale: int | None,
    channels: Channels,
    degrade: str | None,
    border: int | None,
    runs: Runs,
) -> dict[Protocol, list[Method]]:
    """Put models together that are measured in one protocol, in the order they were named."""
    from ..evaluation import runner as measure
    from ..evaluation.protocol import Degradation
    from ..models import spec
    from ..models.bundled import bundled

    groups: dict[Protocol, list[Method]] = {}
    for name in models or bundled():
        if name.endswith(".npz"):
            method, trained = sparse_method(Path(name))
            known = measure.Protocol(
                trained, Degradation.parse(degrade or "bicubic"), channels, -1 if border is None else border
            )
            if channels == "rgb":
                raise ArgumentError(f"{name}: a dictionary is for luminance; --channels y")
        else:
            described = spec.load(name)[1]
            if described.channels not in (1, 3):
                raise ArgumentError(f"{name}: takes {described.channels} channels; 1 or 3 are measured")
            known = measure.protocol_for(described, channels, degrade, border)
            if scale is not None and known.scale != scale and not models:
                continue
            method = None
        if scale is not None and known.scale != scale:
            raise ArgumentError(f"{name}: has scale {known.scale}, not --scale {scale}")
        if known.scale == 1 and str(known.degradation) == "bicubic":
            raise ArgumentError(f"{name}: has scale 1 and does not say what it restores; give --degrade")
        groups.setdefault(known, []).append(method or measure.model_method(name, **runs.words()))
    if not groups and scale is not None:
        alone = Degradation.parse(degrade or "bicubic")
        groups[measure.Protocol(scale, alone, channels, -1 if border is None else border)] = []
    return groups


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    import cv2

    done, data = cv2.imencode(".png", image)
    try:
        if not done:
            raise OSError(0, "cannot be encoded")
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
