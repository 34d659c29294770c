"""``srcnn-rt train``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ArgumentError, SrcnnError
from .extras import missing

if TYPE_CHECKING:
    from ..training.loop import Status
    from ..training.recipe import TrainConfig

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C
LINE_EVERY = 30.0  # seconds between lines where there is no terminal
# What may differ in a resumed run: it changes neither the network nor what it sees.
_FREE = {"steps", "minutes", "device", "threads", "validate"}


@click.command()
@click.option(
    "--data",
    multiple=True,
    metavar="DIR",
    help="A folder of training images; more folders, or the same again to weigh it.",
)
@click.option("--out", required=True, metavar="RUN_DIR", help="The run folder; made by the run.")
@click.option("--scale", type=click.IntRange(1, 8), help="HR pixels an LR pixel; 1 restores only.")
@click.option("--arch", metavar="F1-F2-F3", help="Kernel sizes, 9-1-5 by default.")
@click.option(
    "--recipe", type=click.Choice(["best", "paper"]), help="Where the rest of the values come from."
)
@click.option(
    "--form", type=click.Choice(["equivariant", "paper"]),
    help="equivariant: right in every unit; paper: with biases, and nothing added.",
)  # fmt: skip
@click.option("--channels", type=click.Choice(["y", "rgb"]), help="Luminance, or three channels at once.")
@click.option("--loss", type=click.Choice(["mse", "l1", "charbonnier"]), help="What is made small.")
@click.option(
    "--degrade", metavar="HOW",
    help="How an LR image is made: bicubic, blur:SIGMA, noise:SIGMA, jpeg:QUALITY or jpeg:LOW..HIGH, or "
    "several joined by +.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="Length of the run.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Length in time instead.")
@click.option("--batch", type=click.IntRange(1), help="Crops a step.")
@click.option("--patch", type=click.IntRange(1), help="Side of a crop, HR pixels.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate at the start.")
@click.option(
    "--weight-decay", type=click.FloatRange(0), help="Weight decay of the first layer; 0 by default."
)
@click.option(
    "--sampling", type=click.Choice(["uniform", "detail", "grid"]),
    help="Where crops come from: anywhere, where bicubic loses most, or the paper's grid.",
)  # fmt: skip
@click.option("--init-from", metavar="CHECKPOINT", help="Start from these weights, of any scale.")
@click.option("--seed", type=click.IntRange(0), help="Of weights, crops and noise; 0 by default.")
@click.option("--validate", metavar="DIR", help="Images whose PSNR is shown; some training ones by default.")
@click.option("--hold-out", type=click.IntRange(0), help="How many training images that are; 4 by default.")
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "mixed"]),
    help="mixed computes in bfloat16 except at the end; auto does where the machine has it.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="What computes.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch.")
@click.option("--resume", is_flag=True, help="Go on with the run in RUN_DIR.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def train(out: str, resume: bool, quiet: bool, **given: Any) -> None:
    """Train an SRCNN and leave a checkpoint that `srcnn-rt export` reads.

    A checkpoint is saved every minute, and when Ctrl-C is pressed; --resume goes on from
    it, bit for bit on the CPU where the length is given in steps. run.json in the run
    folder holds everything needed to repeat the run; `srcnn-rt curves` draws its log, and
    TensorBoard reads it too. Needs the extra "train".

    \b
    srcnn-rt train --data t91 --arch 9-5-5 --scale 3 --out runs/955-x3 --minutes 30
    srcnn-rt train --out runs/955-x3 --resume
    srcnn-rt train --data photos --scale 1 --degrade blur:1.6 --out runs/deblur

    Exit status: 0 done, 1 failed (the last good checkpoint is kept), 2 wrong usage, 130
    stopped by Ctrl-C with everything saved.
    """
    try:
        from ..training.loop import train as run
    except ImportError as error:
        missing("train", "torch", error)
    values = {k: v for k, v in given.items() if v not in (None, ())}
    printer = _Printer(quiet)
    try:
        config = _resumed(Path(out), values) if resume else _configured(out, values)
        with _interrupts() as asked:
            outcome = run(
                config,
                resume=resume,
                log=printer.line,
                progress=printer.status,
                stop=lambda: bool(asked),
            )
    except SrcnnError as error:
        printer.end()
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except ImportError as error:
        missing("train", "more packages", error)
    printer.end()
    score = "" if outcome.psnr is None else f", PSNR {outcome.psnr:.2f} dB on the validation images"
    if not outcome.finished:
        click.echo(
            f"stopped after step {outcome.step}, saved{score}; "
            f"go on with: srcnn-rt train --out {out} --resume",
            err=True,
        )
        sys.exit(INTERRUPTED)
    if not quiet:
        click.echo(f"{outcome.checkpoint}: {outcome.step} steps{score}")


def _configured(out: str, values: dict[str, Any]) -> TrainConfig:
    """Put the recipe's values and the ones that were given together."""
    from ..training.recipe import RECIPES, TrainConfig

    for name in ("data", "scale"):
        if name not in values:
            raise click.UsageError(f"--{name} is needed for a new run")
    recipe = RECIPES[values.get("recipe", "best")]
    return TrainConfig(**{**recipe, **values, "out": out})


def _resumed(out: Path, values: dict[str, Any]) -> TrainConfig:
    """Return the configuration of the run in a folder; only what is harmless may be changed."""
    from ..training.run_folder import RunFolder

    config: TrainConfig = RunFolder(out).read()["config"]
    for name, value in values.items():
        if name not in _FREE and getattr(config, name) != value:
            was = getattr(config, name)
            raise ArgumentError(f"{out}: the run was started with {name} {was}, not {value}")
    return replace(config, out=str(out), **{k: v for k, v in values.items() if k in _FREE})


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM; a second one ends the program at once."""
    asked: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        asked.append(number)
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, note)
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


class _Printer:
    """One line that is rewritten on a terminal, a line every half minute elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._live = quiet, sys.stderr.isatty()
        self._last, self._width = -LINE_EVERY, 0
        self._psnr: float | None = None

    def line(self, text: str) -> None:
        self.end()
        if not self._quiet or text.startswith("skipped"):
            click.echo(text, err=True)

    def status(self, s: Status) -> None:
        self._psnr = self._psnr if s.psnr is None else s.psnr
        now = time.monotonic()
        if self._quiet or (not self._live and s.psnr is None and now - self._last < LINE_EVERY):
            return
        self._last = now
        score = "" if self._psnr is None else f", PSNR {self._psnr:.2f} dB"
        text = (
            f"{s.part:4.0%} step {s.step}: loss {s.loss:.6f}{score}, {s.crops_per_s:.0f} crops/s, "
            f"{_clock(s.seconds)} done, {_clock(s.left)} left"
        )
        click.echo(f"\r{text:<{self._width}}" if self._live else text, err=True, nl=not self._live)
        self._width = len(text)

    def end(self) -> None:
        if self._live and self._width:
            click.echo("", err=True)
            self._width = 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
