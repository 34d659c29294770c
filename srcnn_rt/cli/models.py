"""``srcnn-rt models``."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model.")
def models(as_json: bool) -> None:
    """List the bundled models: scale, architecture, size, what they undo, test PSNR.

    \b
    srcnn-rt models
    srcnn-rt models --json
    """
    from ..models import spec
    from ..models.bundled import bundled

    specs = [spec.load(name)[1] for name in bundled()]
    if as_json:
        for described in specs:
            click.echo(
                json.dumps(
                    {"name": described.name, **described.summary(), "training": dict(described.training)}
                )
            )
        return
    row = "{:<20} {:>5}  {:<12} {:>6}  {:<8}  {:>10}  {:>8}  {:<10}  {}"
    click.echo(
        row.format(
            "name", "scale", "architecture", "margin", "channels", "parameters", "size", "undoes", "PSNR, dB"
        )
    )
    for s in specs:
        scores = ", ".join(f"{k} {v:.2f}" for k, v in s.training.get("psnr", {}).items())
        click.echo(
            row.format(
                s.name,
                f"x{s.scale}",
                s.architecture,
                s.margin,
                "y" if s.channels == 1 else "rgb",
                s.parameters,
                f"{s.size / 1024:.0f} KiB",
                s.training.get("degrade", ""),
                scores,
            )
        )
