"""``srcnn-rt export``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import SrcnnError

if TYPE_CHECKING:
    from ..models.spec import ModelSpec

IO = ("u8", "u16", "f32")
LAYOUTS = ("gray", "graya", "rgb", "rgba")


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="CHECKPOINT|MODEL")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="The model file; CHECKPOINT with the suffix .onnx by default.",
)  # fmt: skip
@click.option("--scale", type=click.IntRange(1, 8), help="Needed where the checkpoint does not say it.")
@click.option("--overwrite", is_flag=True, help="Replace the model file if it exists.")
@click.option(
    "--io-dtype", type=click.Choice(IO),
    help="Put the image path into the file: whole images (N, H, W, C) of this type in and out.",
)  # fmt: skip
@click.option("--layout", type=click.Choice(LAYOUTS), help="With --io-dtype: what the channels mean (rgb).")
@click.option(
    "--model-range",
    "model_range",
    metavar="LOW..HIGH",
    help="With --io-dtype: the model's range, as for upscale.",
)
def export(
    source: Path,
    output: Path | None,
    scale: int | None,
    overwrite: bool,
    io_dtype: str | None,
    layout: str | None,
    model_range: str | None,
) -> None:
    """Turn a torch checkpoint into an ONNX model, checked against torch.

    Takes what this package trains and the state dicts people have: SRCNN (conv1, conv2,
    conv3), ESPCN, FSRCNN, VDSR, SRVGG, EDSR, SRResNet, DnCNN and IRCNN, also wrapped; with the
    extra "spandrel" what spandrel knows: ESRGAN, SPAN, PLKSR, DRUNet and others. Needs the extra "train".

    With --io-dtype also a bundled model or an ONNX file, without torch: what is written takes
    images and gives images, mirrored, converted, recoloured and rounded inside, for ONNX
    Runtime in programs of your own. It is checked against what `srcnn-rt upscale` gives.

    \b
    srcnn-rt export runs/srcnn-915-x3/last.pt -o model.onnx
    srcnn-rt export srcnn_x3.pth --scale 3
    srcnn-rt export srcnn-915-x2 --io-dtype u8 --layout rgba -o bytes.onnx
    """
    from ..exporting import image_model
    from ..models import spec

    ready = spec.is_model(str(source))
    if io_dtype is None and (layout or model_range):
        raise click.UsageError("--layout and --model-range go with --io-dtype")
    if ready and scale is not None:
        raise click.UsageError(f"--scale goes with checkpoints; {source} has its own")
    if io_dtype is None and ready:
        raise click.UsageError(
            f"{source} is an ONNX model already; --io-dtype u8 puts the image path into it"
        )
    try:
        if io_dtype is None:
            target = output or source.with_suffix(".onnx")
            made = _checkpoint(source, target, scale, overwrite)
            click.echo(
                f"{target}: {_what(made)}, {made.size} bytes; "
                f"agrees with torch to {made.check['largest']:.1g} of full scale"
            )
            if not made.facts.tiled:
                click.echo(f"note: {_why_whole(target)}", err=True)
            return
        layout = layout or "rgb"
        target = output or source.with_name(f"{source.stem}-{layout}-{io_dtype}.onnx")
        with tempfile.TemporaryDirectory() as folder:
            model = source
            if not ready:
                model = Path(folder) / f"{source.stem}.onnx"
                _checkpoint(source, model, scale, overwrite=False)
            done = image_model.export(
                str(model), target, io_dtype, layout, model_range=model_range, overwrite=overwrite
            )
        click.echo(
            f"{target}: {layout} images in {io_dtype}, {_what(done.spec)}, {done.size} bytes; "
            f"agrees with the engine to {done.largest:.1g} of full scale"
        )
    except SrcnnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _checkpoint(source: Path, target: Path, scale: int | None, overwrite: bool) -> ModelSpec:
    try:
        from ..exporting.checkpoint import export as export_checkpoint
    except ImportError as error:
        click.echo(f'error: export needs torch ({error}); type: pip install "srcnn-rt[train]"', err=True)
        sys.exit(1)
    return export_checkpoint(source, target, scale=scale, overwrite=overwrite)


def _what(spec: ModelSpec) -> str:
    tiling = f"margin {spec.margin} LR pixels" if spec.facts.tiled else "whole images only"
    return f"{spec.architecture}, scale {spec.scale}, {tiling}"


def _why_whole(model: Path) -> str:
    """Return why a model that was just written cannot be tiled."""
    from ..models import spec

    try:
        spec.load(model)
    except SrcnnError as error:
        return str(error)
    return ""
