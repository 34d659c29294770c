"""``srcnn-rt inspect``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..errors import SrcnnError

if TYPE_CHECKING:
    from ..verify import Check


@click.command()
@click.argument("model", metavar="NAME|PATH")
@click.option("--verify", "prove", is_flag=True, help="Run the model tiled and whole and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(model: str, prove: bool, as_json: bool) -> None:
    """Show what a model's graph says: scale, margins, period, work; prove it seam-free.

    Exit status 1 if the model cannot be tiled (the node is named), or the proof fails.

    \b
    srcnn-rt inspect srcnn-915-x3
    srcnn-rt inspect model.onnx --verify --json
    """
    from .. import spec

    try:
        _, described = spec.load(model)
        checks = _prove(model) if prove else []
    except SrcnnError as error:
        if as_json:
            click.echo(json.dumps({"model": model, "error": str(error)}))
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if as_json:
        report = {"model": model, **described.summary(), "checks": [asdict(c) for c in checks]}
        click.echo(json.dumps(report))
    else:
        for key, value in described.summary().items():
            click.echo(f"{key:<24} {_text(value)}")
        for check in checks:
            verdict = {True: "holds", False: "FAILS", None: "does not apply"}[check.passed]
            click.echo(f"{check.name:<24} {verdict}: {check.detail}")
    sys.exit(1 if any(c.passed is False for c in checks) else 0)


def _prove(model: str) -> list[Check]:
    from ..verify import verify

    return verify(model)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return " to ".join(value) if isinstance(value, list) else str(value)
