"""``srcnn-rt tune``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..errors import SrcnnError
from .runtime_options import Runs, run_options

if TYPE_CHECKING:
    from ..execution.autotune import Trial


@click.command()
@click.argument("models", nargs=-1, metavar="[NAME|PATH]...")
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model.")
def tune(models: tuple[str, ...], runs: Runs, as_json: bool) -> None:
    """Measure which tile and threads are fastest on this machine, and keep it for --tile auto.

    On a GPU also which graph of the model, and how many windows at once.

    Without a name, the default model. Run it while nothing else does. The measurement is kept in the
    user's cache folder, or where SRCNN_RT_CACHE says; it changes speed only.

    \b
    srcnn-rt tune
    srcnn-rt tune srcnn-955-x2 --precision fast
    srcnn-rt tune --provider cuda --device 1
    """
    from ..backends import tuning_cache
    from ..engine import Engine
    from ..models import spec

    for model in models or (spec.default_model(None),):
        try:
            with Engine(model, tile="auto", **runs.words()) as engine:
                scale = engine.scale

                def show(trial: Trial, scale: int = scale) -> None:
                    if not as_json:
                        click.echo(_line(trial, scale))

                if not as_json:
                    click.echo(f"{engine.spec.name} on {engine.provider}, {runs.precision}")
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
            click.echo(f"{_line(best, scale).strip()}: the fastest, kept in {tuning_cache.folder()}")


def _line(trial: Trial, scale: int) -> str:
    graph = f", {trial.variant}" if trial.variant else ""
    return (
        f"  tile {trial.tile:>4} ({trial.tile * scale} HR pixels), {trial.workers} at once, "
        f"{trial.threads} threads each{graph}: {trial.mpx_per_s:6.1f} Mpx/s"
    )
