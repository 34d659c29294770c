"""``srcnn-rt tune``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..errors import SrcnnError

if TYPE_CHECKING:
    from ..trials import Trial


@click.command()
@click.argument("models", nargs=-1, metavar="[NAME|PATH]...")
@click.option(
    "--provider", type=click.Choice(["auto", "cpu", "cuda", "openvino"]), default="auto", show_default=True,
    help="What runs the network.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["exact", "fast"]), default="exact", show_default=True,
    help="As for upscale; each has its own measurement.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Threads of the network; all by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model.")
def tune(models: tuple[str, ...], provider: str, precision: str, threads: int | None, as_json: bool) -> None:
    """Measure which tile and threads are fastest on this machine, and keep it for --tile auto.

    Without a name, the default model. Run it while nothing else does. The measurement is kept in the
    user's cache folder, or where SRCNN_RT_CACHE says; it changes speed only.

    \b
    srcnn-rt tune
    srcnn-rt tune srcnn-955-x2 --precision fast
    """
    from .. import spec, tuning
    from ..engine import Engine

    for model in models or (spec.default_model(None),):
        try:
            with Engine(model, provider, "auto", threads, precision=precision) as engine:
                scale = engine.scale

                def show(trial: Trial, scale: int = scale) -> None:
                    if not as_json:
                        click.echo(_line(trial, scale))

                if not as_json:
                    click.echo(f"{engine.spec.name} on {engine.provider}, {precision}")
                trials = engine.tune(show)
        except SrcnnError as error:
            if as_json:
                click.echo(json.dumps({"model": model, "error": str(error)}))
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        best = trials[-1]
        if as_json:
            click.echo(
                json.dumps({"model": model, "best": asdict(best), "trials": [asdict(t) for t in trials]})
            )
        else:
            click.echo(f"{_line(best, scale).strip()}: the fastest, kept in {tuning.folder()}")


def _line(trial: Trial, scale: int) -> str:
    return (
        f"  tile {trial.tile:>4} ({trial.tile * scale} HR pixels), {trial.workers} at once, "
        f"{trial.threads} threads each: {trial.mpx_per_s:6.1f} Mpx/s"
    )
