"""``srcnn-rt export``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import SrcnnError


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="The model file; CHECKPOINT with the suffix .onnx by default.",
)  # fmt: skip
@click.option("--scale", type=click.IntRange(1, 8), help="Needed where the checkpoint does not say it.")
@click.option("--overwrite", is_flag=True, help="Replace the model file if it exists.")
def export(checkpoint: Path, output: Path | None, scale: int | None, overwrite: bool) -> None:
    """Turn a torch checkpoint into an ONNX model, checked against torch.

    Takes what this package trains and the state dicts people have: SRCNN (conv1, conv2,
    conv3), ESPCN, FSRCNN, VDSR and SRVGG, also wrapped. Needs the extra "train".

    \b
    srcnn-rt export runs/srcnn-915-x3/last.pt -o model.onnx
    srcnn-rt export srcnn_x3.pth --scale 3
    """
    try:
        from ..train.export import export as export_checkpoint
    except ImportError as error:
        click.echo(f'error: export needs torch ({error}); type: pip install "srcnn-rt[train]"', err=True)
        sys.exit(1)
    target = output or checkpoint.with_suffix(".onnx")
    try:
        spec = export_checkpoint(checkpoint, target, scale=scale, overwrite=overwrite)
    except SrcnnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(
        f"{target}: {spec.architecture}, scale {spec.scale}, margin {spec.margin} LR pixels, "
        f"{spec.size} bytes; agrees with torch to {spec.check['largest']:.1g} of full scale"
    )
