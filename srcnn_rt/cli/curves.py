"""``srcnn-rt curves``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import SrcnnError
from .extras import missing


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("curves.png"), show_default=True,
    help="The image, PNG or SVG.",
)  # fmt: skip
def curves(runs: tuple[Path, ...], output: Path) -> None:
    """Draw loss, validation PSNR and learning rate of training runs, several in one image.

    Needs the extra "train".

    \b
    srcnn-rt curves runs/955-x3 -o curves.png
    """
    try:
        from ..plotting.figures import draw_curves
        from ..training.run_folder import RunFolder
    except ImportError as error:
        missing("curves", "torch and matplotlib", error)
    try:
        rows = {}
        for run in runs:
            RunFolder(run).read()
            rows[run.name] = RunFolder(run).rows()
        draw_curves(rows, output)
    except SrcnnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(f"{output}: {sum(len(r) for r in rows.values())} points of {len(rows)} runs")
