"""The options of every command that runs models: on what, how exactly, with how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Runs:
    """What the options say, as keyword arguments of `Engine`."""

    provider: str
    precision: str
    threads: int | None
    device: str | None
    gpu_memory: str | None

    def words(self) -> dict[str, Any]:
        """Return them by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as one argument `runs`."""

    @click.option(
        "--provider", type=click.Choice(["auto", "cpu", "cuda", "openvino"]), default="auto",
        show_default=True, help="What runs networks. One asked for by name is used or the command fails.",
    )  # fmt: skip
    @click.option(
        "--precision", type=click.Choice(["exact", "fast"]), default="exact", show_default=True,
        help="fast: float16 on a GPU, bfloat16 where the CPU has it; refused where it loses more than "
        "0.01 or 0.02 dB.",
    )  # fmt: skip
    @click.option("--threads", type=click.IntRange(1), help="Threads of the network; all by default.")
    @click.option(
        "--device", metavar="N[,N]", help="The GPU to run on, or several that share the work (0).",
    )  # fmt: skip
    @click.option(
        "--gpu-memory", metavar="SIZE",
        help="What may be taken of each GPU, e.g. 8GB; all of it by default.",
    )  # fmt: skip
    @wraps(command)
    def with_runs(
        *args: Any,
        provider: str,
        precision: str,
        threads: int | None,
        device: str | None,
        gpu_memory: str | None,
        **words: Any,
    ) -> None:
        command(*args, runs=Runs(provider, precision, threads, device, gpu_memory), **words)

    return with_runs
