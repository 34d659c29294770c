"""``srcnn-rt tune``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .extras import errors_as_json
from .options import runtime_options

if TYPE_CHECKING:
    from ..execution.autotune import Trial


@click.command()
@click.argument("models", nargs=-1, metavar="[NAME|PATH]...")
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per model.")
def tune(models: tuple[str, ...], as_json: bool, **runtime: Any) -> None:
    """Find the fastest tile size and thread count.

    Measures models on this machine, which should be idle: without an argument, the default model. On a
    GPU, also measures variants of the model and the number of windows in flight. Results are stored in
    the user's cache folder, or in SRCNN_RT_CACHE, and used by --tile auto. They affect only the speed.

    \b
    srcnn-rt tune
    srcnn-rt tune srcnn-955-x2 --precision fast
    srcnn-rt tune --provider cuda --device 1
    """
    from ..backends import tuning_cache
    from ..engine import Engine
    from ..models import spec

    for model in models or (spec.default_model(None),):
        with errors_as_json(model, as_json), Engine(model, tile="auto", **runtime) as engine:
            scale = engine.scale

            def show(trial: Trial, scale: int = scale) -> None:
                click.echo(f"  {_text(trial, scale)}")

            if not as_json:
                click.echo(f"{engine.spec.name} on {engine.provider}, {runtime['precision']}")
            trials = engine.tune(None if as_json else show)
        best = trials[-1]
        if as_json:
            click.echo(
                json.dumps({"model": model, "best": asdict(best), "trials": [asdict(t) for t in trials]})
            )
        else:
            click.echo(f"fastest: {_text(best, scale)}; stored in {tuning_cache.folder()}")


def _text(trial: Trial, scale: int) -> str:
    variant = f", {trial.variant}" if trial.variant else ""
    return (
        f"tile {trial.tile:>4} ({trial.tile * scale} HR pixels), {trial.workers} at once, "
        f"{trial.threads} threads each{variant}: {trial.mpx_per_s:6.1f} Mpx/s"
    )
