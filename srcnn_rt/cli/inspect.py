"""``srcnn-rt inspect``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .extras import errors_as_json
from .options import interface_options

if TYPE_CHECKING:
    from ..models.spec import ModelSpec


@click.command()
@click.argument("model", metavar="NAME|PATH")
@click.option(
    "--verify", "run_checks", is_flag=True,
    help="Verify on test images that tiled and untiled outputs are the same.",
)  # fmt: skip
@interface_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(model: str, run_checks: bool, as_json: bool, **interface: Any) -> None:
    """Show scale, margins and cost of a model.

    Exit status: 0 success, 1 the model cannot be tiled (the message names the node) or a check failed.

    \b
    srcnn-rt inspect srcnn-915-x3
    srcnn-rt inspect model.onnx --verify --json
    """
    from ..evaluation import seam_check
    from ..models import spec
    from ..models.analysis import InterfaceOptions

    with errors_as_json(model, as_json):
        options = InterfaceOptions.of(interface["inputs"], interface["output"], interface["channel_order"])
        data, described = spec.load(model, options)
        summary = {**described.summary(), "run_as": _optimised_cost(data, described)}
        checks = seam_check.verify(model, options) if run_checks else []
    if as_json:
        click.echo(json.dumps({"model": model, **summary, "checks": [asdict(c) for c in checks]}))
    else:
        for key, value in summary.items():
            click.echo(f"{key:<24} {_text(value)}")
        for check in checks:
            verdict = {True: "holds", False: "FAILS", None: "does not apply"}[check.passed]
            click.echo(f"{check.name:<24} {verdict}: {check.detail}")
    sys.exit(1 if any(c.passed is False for c in checks) else 0)


def _optimised_cost(data: bytes, described: ModelSpec) -> dict[str, Any]:
    """Return multiply-accumulates per output pixel: of the graph in the file, and of the graph that runs.

    Executed ones include those that pad vector registers.
    """
    from ..models.optimize.cpu_cost import work
    from ..models.prepare import build_program
    from ..models.spec import parse

    program = build_program(data, described)
    before, after = work(parse(data)), work(parse(program.data))
    return {
        "rewritten": program.rewritten,
        "useful_macs": [round(before.useful, 1), round(after.useful, 1)],
        "executed_macs": [round(before.executed, 1), round(after.executed, 1)],
        "period": program.spec.period,
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " to ".join(map(str, value))
    return str(value)
