"""``srcnn-rt filters``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import click

from ..errors import SrcnnError
from .extras import missing


@click.command()
@click.argument("model", metavar="NAME|PATH")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The image, PNG or SVG; NAME_filters.png."
)
@click.option("--plain", is_flag=True, help="The weights as they are in the file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a filter.")
def filters(model: str, output: Path | None, plain: bool, as_json: bool) -> None:
    """Draw the first layer's filters, sorted by variance, and say what each looks like.

    They are drawn as images see them: of an enlarged image neighbouring samples are alike, and most of
    a filter's weights is about what it does not hold. --plain draws the weights.

    Gaussian-like (smooths), Laplacian-like (a centre against its ring), an edge and its
    direction, texture, or dead. Needs the extra "plot".

    \b
    srcnn-rt filters srcnn-915-x3 -o filters.png
    """
    try:
        from ..plotting.figures import draw_filters
    except ImportError as error:
        missing("filters", "matplotlib", error, "plot")
    from ..plotting.filters import first_layer

    try:
        name, found = first_layer(model, plain=plain)
        target = output or Path(f"{name}_filters.png")
        draw_filters(name, found, target)
    except SrcnnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if as_json:
        for f in found:
            click.echo(
                json.dumps({"filter": f.index, "kind": f.kind, "variance": f.variance, "angle": f.angle})
            )
        return
    counts = Counter(f.kind for f in found)
    click.echo(f"{target}: {len(found)} filters: " + ", ".join(f"{n} {k}" for k, n in counts.most_common()))
