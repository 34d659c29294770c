"""``srcnn-rt sparse``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import OutputError, SrcnnError
from .extras import missing


@click.command()
@click.option("--data", multiple=True, required=True, metavar="DIR", help="A folder of training images.")
@click.option("--scale", type=click.IntRange(2, 8), required=True, help="HR pixels an LR pixel.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The dictionaries, .npz."
)
@click.option("--dictionary", type=click.IntRange(1), default=512, show_default=True, help="Atoms in it.")
@click.option(
    "--atoms", type=click.IntRange(1), default=3, show_default=True, help="Atoms a patch is coded by."
)
@click.option(
    "--patch", type=click.IntRange(2), default=9, show_default=True, help="Side of a patch, HR pixels."
)
@click.option(
    "--samples", type=click.IntRange(1), default=60_000, show_default=True, help="Patches to learn from."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sample and the solver."
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def sparse(
    data: tuple[str, ...],
    scale: int,
    output: Path,
    dictionary: int,
    atoms: int,
    patch: int,
    samples: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Learn the sparse-coding baseline: coupled dictionaries for `srcnn-rt eval`.

    The method SRCNN reinterprets and is compared with (paper §2.1, §3.2). Needs the
    extra "train".

    \b
    srcnn-rt sparse --data t91 --scale 3 -o sparse-x3.npz
    srcnn-rt eval --data set5 --model sparse-x3.npz --model srcnn-915-x3
    """
    try:
        from ..training.sparse_coding import learn
    except ImportError as error:
        missing("sparse", "scikit-learn", error)
    from ..evaluation.protocol import list_images

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        if output.suffix != ".npz":
            raise OutputError(f"{output}: dictionaries are written as .npz")
        if output.exists() and not overwrite:
            raise OutputError(f"{output}: exists already; overwriting must be asked for")
        paths = [p for folder in data for p in list_images(folder)]
        coder = learn(
            paths,
            scale,
            patch=patch,
            dictionary=dictionary,
            atoms=atoms,
            samples=samples,
            seed=seed,
            log=say,
        )
        coder.save(output)
    except SrcnnError as error:
        say(f"error: {error}")
        sys.exit(1)
    click.echo(f"{output}: {len(coder.lr)} atoms for scale {scale}, patches of {patch} x {patch}")
