"""``srcnn-rt inspect``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..errors import SrcnnError
from .interface_options import shaping_options

if TYPE_CHECKING:
    from ..evaluation.seam_check import Check
    from ..models.analysis import Shaping
    from ..models.spec import ModelSpec


@click.command()
@click.argument("model", metavar="NAME|PATH")
@click.option("--verify", "prove", is_flag=True, help="Run the model tiled and whole and compare.")
@shaping_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(model: str, prove: bool, shape: dict[str, Any], as_json: bool) -> None:
    """Show what a model's graph says: scale, margins, period, work; prove it seam-free.

    Exit status 1 if the model cannot be tiled (the node is named), or the proof fails.

    \b
    srcnn-rt inspect srcnn-915-x3
    srcnn-rt inspect model.onnx --verify --json
    """
    from ..models import spec
    from ..models.analysis import Shaping

    try:
        shaping = Shaping.of(shape["inputs"], shape["output"], shape["channel_order"])
        data, described = spec.load(model, shaping)
        summary = {**described.summary(), "run_as": _run_as(data, described)}
        checks = _prove(model, shaping) if prove else []
    except SrcnnError as error:
        if as_json:
            click.echo(json.dumps({"model": model, "error": str(error)}))
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if as_json:
        report = {"model": model, **summary, "checks": [asdict(c) for c in checks]}
        click.echo(json.dumps(report))
    else:
        for key, value in summary.items():
            click.echo(f"{key:<24} {_text(value)}")
        for check in checks:
            verdict = {True: "holds", False: "FAILS", None: "does not apply"}[check.passed]
            click.echo(f"{check.name:<24} {verdict}: {check.detail}")
    sys.exit(1 if any(c.passed is False for c in checks) else 0)


def _run_as(data: bytes, described: ModelSpec) -> dict[str, Any]:
    """Return what the graph costs an output pixel as it is in the file and as it is run.

    Executed multiply-accumulates count the lanes of a vector unit that compute for nothing.
    """
    from ..models import prepare
    from ..models.optimize.cpu_cost import work
    from ..models.spec import parse

    ready = prepare.prepare(data, described)
    before, after = work(parse(data)), work(parse(ready.data))
    return {
        "rewritten": ready.rewritten,
        "useful_macs": [round(before.useful, 1), round(after.useful, 1)],
        "executed_macs": [round(before.executed, 1), round(after.executed, 1)],
        "period": ready.spec.period,
    }


def _prove(model: str, shaping: Shaping) -> list[Check]:
    from ..evaluation.seam_check import verify

    return verify(model, shaping)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " to ".join(map(str, value))
    return str(value)
