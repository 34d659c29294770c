"""``srcnn-rt export``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import SrcnnError
from .extras import requires
from .options import FILE, SCALE

if TYPE_CHECKING:
    from ..models.spec import ModelSpec


@click.command()
@click.argument("source", type=FILE, metavar="CHECKPOINT|MODEL")
@click.option(
    "-o", "--output", type=FILE, help="ONNX file to write.  [default: CHECKPOINT with the suffix .onnx]"
)
@click.option("--scale", type=SCALE, help="Scale factor. Required if the checkpoint does not determine it.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--io-dtype", type=click.Choice(["u8", "u16", "f32"]),
    help="Write a model that takes and returns whole images (N, H, W, C) of this type.",
)  # fmt: skip
@click.option(
    "--layout",
    type=click.Choice(["gray", "graya", "rgb", "rgba"]),
    help="With --io-dtype: channels of the images.  [default: rgb]",
)
@click.option(
    "--model-range", metavar="LOW..HIGH",
    help="With --io-dtype: input range of a model whose file does not state it.",
)  # fmt: skip
def export(
    source: Path,
    output: Path | None,
    scale: int | None,
    overwrite: bool,
    io_dtype: str | None,
    layout: str | None,
    model_range: str | None,
) -> None:
    """Convert a PyTorch checkpoint to ONNX.

    The exported model is written only if its output equals that of PyTorch.

    Supports checkpoints of this package and state dicts of SRCNN (conv1, conv2, conv3), ESPCN, FSRCNN,
    VDSR, SRVGG, EDSR, SRResNet, DnCNN and IRCNN, also wrapped. The extra "spandrel" adds its
    architectures, such as ESRGAN, SPAN, PLKSR and DRUNet. Requires the extra "train".

    With --io-dtype, writes a model for ONNX Runtime in other programs: it takes whole images and does
    padding, type and colour conversion and rounding itself. The source can then also be a bundled model
    or an ONNX file, which does not require PyTorch. The result is compared with that of
    `srcnn-rt upscale`.

    \b
    srcnn-rt export runs/srcnn-915-x3/last.pt -o model.onnx
    srcnn-rt export srcnn_x3.pth --scale 3
    srcnn-rt export srcnn-915-x2 --io-dtype u8 --layout rgba -o bytes.onnx
    """
    from ..exporting import image_model
    from ..models import spec

    is_onnx = spec.is_model(str(source))
    if io_dtype is None and (layout or model_range):
        raise click.UsageError("--layout and --model-range require --io-dtype")
    if is_onnx and scale is not None:
        raise click.UsageError(f"--scale applies to checkpoints; {source} has its own")
    if io_dtype is None:
        if is_onnx:
            raise click.UsageError(f"{source} is an ONNX model already; use --io-dtype to convert it")
        target = output or source.with_suffix(".onnx")
        made = _export_checkpoint(source, target, scale, overwrite)
        click.echo(
            f"{target}: {_summary(made)}, {made.size} bytes; "
            f"differs from PyTorch by at most {made.check['largest']:.1g} of full scale"
        )
        if not made.facts.tiled:
            try:
                spec.load(target)
            except SrcnnError as error:
                click.echo(f"note: {error}", err=True)
        return
    layout = layout or "rgb"
    target = output or source.with_name(f"{source.stem}-{layout}-{io_dtype}.onnx")
    with tempfile.TemporaryDirectory() as folder:
        model = source
        if not is_onnx:
            model = Path(folder) / f"{source.stem}.onnx"
            _export_checkpoint(source, model, scale, overwrite=False)
        done = image_model.export(
            str(model), target, io_dtype, layout, model_range=model_range, overwrite=overwrite
        )
    click.echo(
        f"{target}: {layout} images in {io_dtype}, {_summary(done.spec)}, {done.size} bytes; "
        f"differs from the engine by at most {done.largest:.1g} of full scale"
    )


def _export_checkpoint(source: Path, target: Path, scale: int | None, overwrite: bool) -> ModelSpec:
    with requires("torch"):
        from ..exporting.checkpoint import export as export_checkpoint
    return export_checkpoint(source, target, scale=scale, overwrite=overwrite)


def _summary(spec: ModelSpec) -> str:
    tiling = f"margin {spec.margin} LR pixels" if spec.facts.tiled else "whole images only"
    return f"{spec.architecture}, scale {spec.scale}, {tiling}"
