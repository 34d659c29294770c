"""``srcnn-rt models``."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per model.")
def models(as_json: bool) -> None:
    """List the bundled models.

    Shows the degradation that a model was trained to undo and its PSNR on test sets.

    \b
    srcnn-rt models
    srcnn-rt models --json
    """
    from ..models import spec
    from ..models.bundled import bundled

    specs = [spec.load(name)[1] for name in bundled()]
    if as_json:
        for s in specs:
            click.echo(json.dumps({"name": s.name, **s.summary(), "training": dict(s.training)}))
        return
    row = "{:<20} {:>5}  {:<12} {:>6}  {:<8}  {:>10}  {:>8}  {:<11}  {}"
    titles = ("name", "scale", "architecture", "margin", "channels", "parameters", "size", "degradation")
    click.echo(row.format(*titles, "PSNR, dB"))
    for s in specs:
        channels = "y" if s.channels == 1 else "rgb"
        scores = ", ".join(f"{k} {v:.2f}" for k, v in s.training.get("psnr", {}).items())
        size, degradation = f"{s.size / 1024:.0f} KiB", s.training.get("degrade", "")
        values = (s.name, f"x{s.scale}", s.architecture, s.margin, channels, s.parameters, size, degradation)
        click.echo(row.format(*values, scores))
