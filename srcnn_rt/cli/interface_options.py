"""The options that say what a model's inputs and outputs are."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click


def shaping_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command; its one argument `shape` has them as keyword arguments of `Engine`."""

    @click.option(
        "--input", "fixed", multiple=True, metavar="NAME=VALUE",
        help="A fixed value of a model's input that is no image, such as a noise level.",
    )  # fmt: skip
    @click.option("--output-name", metavar="NAME", help="Which of a model's several outputs is the image.")
    @click.option(
        "--channel-order", type=click.Choice(["rgb", "bgr"]), default="rgb",
        help="Of the channels that a model of three takes and gives.",
    )  # fmt: skip
    @wraps(command)
    def with_shape(
        *args: Any, fixed: tuple[str, ...], output_name: str | None, channel_order: str, **words: Any
    ) -> None:
        shape = {"inputs": _numbers(fixed), "output": output_name, "channel_order": channel_order}
        command(*args, shape=shape, **words)

    return with_shape


def _numbers(texts: tuple[str, ...]) -> dict[str, float] | None:
    """Read ``NAME=VALUE``, several of them.

    Raises
    ------
    click.UsageError
    """
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
