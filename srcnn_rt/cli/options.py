"""Types of options, and groups of options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
CHANNELS = click.Choice(["y", "rgb"])
COUNT = click.IntRange(1)
SCALE = click.IntRange(1, 8)


def _named_numbers(
    ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, float] | None:
    """Parse the values of an option ``NAME=VALUE``."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise click.UsageError(f"--input is NAME=VALUE, got {text!r}")
    return found or None


_RUNTIME = (
    click.option(
        "--provider", type=click.Choice(["auto", "cpu", "cuda", "native", "openvino"]), default="auto",
        help="Execution provider. Fails if the given provider is not available.",
    ),
    click.option(
        "--precision", type=click.Choice(["exact", "fast"]), default="exact",
        help="'fast' computes in float16 (GPU), or in bfloat16 where the native backend does not run. "
        "Fails if that costs more than 0.01 dB (GPU) or 0.02 dB (CPU) of PSNR.",
    ),
    click.option("--threads", type=COUNT, help="CPU threads.  [default: all]"),
    click.option("--device", metavar="N[,N]", help="Index of the GPU, or of several GPUs.  [default: 0]"),
    click.option(
        "--gpu-memory", metavar="SIZE", help="Memory limit per GPU, for example 8GB.  [default: no limit]"
    ),
)  # fmt: skip
_INTERFACE = (
    click.option(
        "--input", "inputs", multiple=True, metavar="NAME=VALUE", callback=_named_numbers,
        help="Set an input of the model to a constant, for example a noise level. Can be repeated.",
    ),
    click.option(
        "--output-name", "output", metavar="NAME", help="Use this output of a model with several outputs."
    ),
    click.option(
        "--channel-order", type=click.Choice(["rgb", "bgr"]), default="rgb",
        help="Channel order of a colour model.",
    ),
)  # fmt: skip


def runtime_options(command: Command) -> Command:
    """Add the options that choose provider, precision and resources, named as the arguments of `Engine`."""
    return reduce(lambda decorated, option: option(decorated), reversed(_RUNTIME), command)


def interface_options(command: Command) -> Command:
    """Add the options that describe inputs and outputs of a model, named as the arguments of `Engine`."""
    return reduce(lambda decorated, option: option(decorated), reversed(_INTERFACE), command)
