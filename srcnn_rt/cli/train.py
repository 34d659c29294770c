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

from ..errors import ArgumentError
from .extras import requires
from .options import CHANNELS, COUNT, SCALE

if TYPE_CHECKING:
    from ..training.loop import Status
    from ..training.recipe import TrainConfig

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
LINE_EVERY = 30.0  # seconds between status lines if stderr is not a terminal
# Options that a resumed run may change: they affect neither the network nor its training data.
_RESUMABLE = {"steps", "minutes", "device", "threads", "validate"}
_LOSSES, _DEVICES = ("mse", "l1", "charbonnier"), ("auto", "cpu", "cuda")
_NATURAL, _DECAY, _POSITIVE = click.IntRange(0), click.FloatRange(0), click.FloatRange(0, min_open=True)


@click.command()
@click.option(
    "--data", multiple=True, metavar="DIR",
    help="Folder of training images. Can be repeated; a folder given twice is sampled twice as often.",
)  # fmt: skip
@click.option("--out", required=True, metavar="RUN_DIR", help="Folder of the run, created if missing.")
@click.option("--scale", type=SCALE, help="Scale factor; 1 trains restoration only.")
@click.option(
    "--arch", metavar="NAME",
    help="9-1-5, 9-3-5 or 9-5-5 for an SRCNN with these kernels; compact-mMcC for M layers of C channels "
    "that work on LR pixels, such as compact-m4c16, with PReLU, or compact-m4c16-relu.  [default: 9-1-5]",
)  # fmt: skip
@click.option(
    "--branches/--no-branches",
    default=None,
    help="Train every layer of a compact network as a sum of branches, which export folds into one "
    "convolution.  [default: --branches]",
)
@click.option(
    "--recipe", type=click.Choice(["best", "paper"]),
    help="Defaults of all other options: those of the bundled models, or those of the paper.  "
    "[default: best]",
)  # fmt: skip
@click.option(
    "--form", type=click.Choice(["equivariant", "paper"]),
    help="'equivariant' has no biases, adds its output to bicubic and works in any value range; 'paper' "
    "has biases.  [default: equivariant]",
)  # fmt: skip
@click.option("--channels", type=CHANNELS, help="Train on luminance or on RGB.  [default: y]")
@click.option("--loss", type=click.Choice(_LOSSES), help="Loss function to minimise.  [default: mse]")
@click.option(
    "--degrade", metavar="SPEC",
    help="How LR images are made: bicubic, blur:SIGMA, noise:SIGMA, jpeg:QUALITY, jpeg:LOW..HIGH, or "
    "several joined by +.  [default: bicubic]",
)  # fmt: skip
@click.option("--steps", type=COUNT, help="Number of training steps.  [default: 20000]")
@click.option("--minutes", type=_POSITIVE, help="Training time in minutes, instead of --steps.")
@click.option("--batch", type=COUNT, help="Batch size.  [default: 32]")
@click.option(
    "--patch", type=COUNT,
    help="Size of training crops in pixels of the network's input: HR pixels of an SRCNN, LR pixels of a "
    "compact network.  [default: 40; 24 + 4M for compact-mMcC]",
)  # fmt: skip
@click.option(
    "--augment-scale", "augment_scales", type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True, help="Also train on the images downscaled by this factor. Can be repeated.",
)  # fmt: skip
@click.option("--lr", type=_POSITIVE, help="Initial learning rate.  [default: 0.003]")
@click.option("--weight-decay", type=_DECAY, help="Weight decay of the first layer.  [default: 0]")
@click.option(
    "--sampling", type=click.Choice(["uniform", "detail", "grid"]),
    help="Where crops are taken: uniformly, preferably where bicubic loses detail, or on the paper's "
    "grid.  [default: detail]",
)  # fmt: skip
@click.option(
    "--init-from", metavar="CHECKPOINT|MODEL",
    help="Initialise the weights from a checkpoint or a bundled model, of any scale factor.",
)  # fmt: skip
@click.option("--seed", type=_NATURAL, help="Random seed.  [default: 0]")
@click.option(
    "--validate", metavar="DIR", help="Folder of validation images.  [default: held-out training images]"
)
@click.option("--hold-out", type=_NATURAL, help="Training images held out for validation.  [default: 4]")
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "mixed"]),
    help="'mixed' computes in bfloat16 except at the end; 'auto' does so if the hardware supports it.  "
    "[default: auto]",
)  # fmt: skip
@click.option("--device", type=click.Choice(_DEVICES), help="Device to train on.  [default: auto]")
@click.option("--threads", type=COUNT, help="CPU threads.  [default: PyTorch's default]")
@click.option("--resume", is_flag=True, help="Continue the run in RUN_DIR.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def train(out: str, resume: bool, quiet: bool, **given: Any) -> None:
    """Train an SRCNN or a compact network.

    Saves a checkpoint every minute and on Ctrl-C; --resume continues from it, bit-identically on a CPU
    if the length is given in steps. run.json in RUN_DIR records everything needed to repeat the run.
    Use `srcnn-rt export` to convert the checkpoint to ONNX, and `srcnn-rt research curves` or
    TensorBoard to plot the log. Requires the extra "train".

    \b
    srcnn-rt train --data t91 --arch 9-5-5 --scale 3 --out runs/955-x3 --minutes 30
    srcnn-rt train --out runs/955-x3 --resume
    srcnn-rt train --data photos --scale 1 --degrade blur:1.6 --out runs/deblur

    Exit status: 0 success, 1 failure (the last good checkpoint is kept), 2 usage error, 130 stopped by
    Ctrl-C after saving.
    """
    values = {k: v for k, v in given.items() if v not in (None, ())}
    printer = _Printer(quiet)
    with requires("torch"):
        from ..training.loop import train as run

        config = _resumed(Path(out), values) if resume else _configured(out, values)
        try:
            with _stop_on_signal() as received:
                outcome = run(
                    config,
                    resume=resume,
                    log=printer.line,
                    progress=printer.status,
                    stop=lambda: bool(received),
                )
        finally:
            printer.end()
    score = "" if outcome.psnr is None else f", PSNR {outcome.psnr:.2f} dB on the validation images"
    if not outcome.finished:
        click.echo(
            f"stopped after step {outcome.step} and saved{score}; "
            f"to continue, run: srcnn-rt train --out {out} --resume",
            err=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    if not quiet:
        click.echo(f"{outcome.checkpoint}: {outcome.step} steps{score}")


def _configured(out: str, values: dict[str, Any]) -> TrainConfig:
    """Return the configuration of a new run: the recipe, overridden by the given options."""
    from ..training.recipe import RECIPES, TrainConfig, defaults_of

    for name in ("data", "scale"):
        if name not in values:
            raise click.UsageError(f"--{name} is required for a new run")
    recipe = RECIPES[values.get("recipe", "best")]
    return TrainConfig(**{**recipe, **defaults_of(values.get("arch", "")), **values, "out": out})


def _resumed(out: Path, values: dict[str, Any]) -> TrainConfig:
    """Return the configuration of the run in a folder, with the given options if they may change."""
    from ..training.run_folder import RunFolder

    config: TrainConfig = RunFolder(out).read()["config"]
    for name, value in values.items():
        if name not in _RESUMABLE and (started_with := getattr(config, name)) != value:
            raise ArgumentError(f"{out}: the run was started with {name} {started_with}, not {value}")
    return replace(config, out=str(out), **{k: v for k, v in values.items() if k in _RESUMABLE})


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM; a second one ends the program at once."""
    received: list[int] = []
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for s, handler in handlers.items():
            signal.signal(s, handler)

    def receive(number: int, frame: object) -> None:
        received.append(number)
        restore()

    for s in handlers:
        signal.signal(s, receive)
    try:
        yield received
    finally:
        restore()


class _Printer:
    """Prints status lines: one that is rewritten on a terminal, one per half minute elsewhere."""

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
            f"{_clock(s.seconds)} elapsed, {_clock(s.left)} left"
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
