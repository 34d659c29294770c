"""Groups of options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

Command = Callable[..., None]


def runtime_options(command: Command) -> Command:
    """Add the options that choose provider, precision and resources.

    The command receives them as one argument, `runtime`: a dict of keyword arguments of `Engine`.
    """
    names = ("provider", "precision", "threads", "device", "gpu_memory")

    @click.option(
        "--provider", type=click.Choice(["auto", "cpu", "cuda", "openvino"]), default="auto",
        show_default=True, help="Execution provider. Fails if the given provider is not available.",
    )  # fmt: skip
    @click.option(
        "--precision", type=click.Choice(["exact", "fast"]), default="exact", show_default=True,
        help="'fast' computes in float16 (GPU) or bfloat16 (CPU). Fails if that costs more than 0.01 dB "
        "(GPU) or 0.02 dB (CPU) of PSNR.",
    )  # fmt: skip
    @click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all]")
    @click.option("--device", metavar="N[,N]", help="Index of the GPU, or of several GPUs.  [default: 0]")
    @click.option(
        "--gpu-memory", metavar="SIZE", help="Memory limit per GPU, for example 8GB.  [default: no limit]"
    )
    @wraps(command)
    def with_runtime(*args: Any, **values: Any) -> None:
        command(*args, runtime={name: values.pop(name) for name in names}, **values)

    return with_runtime


def interface_options(command: Command) -> Command:
    """Add the options that describe the inputs and outputs of a model.

    The command receives them as one argument, `interface`: a dict of keyword arguments of `Engine`.
    """

    @click.option(
        "--input", "constants", multiple=True, metavar="NAME=VALUE", callback=_named_numbers,
        help="Set an input of the model to a constant, for example a noise level. Can be repeated.",
    )  # fmt: skip
    @click.option("--output-name", metavar="NAME", help="Use this output of a model with several outputs.")
    @click.option(
        "--channel-order", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True,
        help="Channel order of a colour model.",
    )  # fmt: skip
    @wraps(command)
    def with_interface(
        *args: Any,
        constants: dict[str, float] | None,
        output_name: str | None,
        channel_order: str,
        **values: Any,
    ) -> None:
        interface = {"inputs": constants, "output": output_name, "channel_order": channel_order}
        command(*args, interface=interface, **values)

    return with_interface


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
