"""``srcnn-rt research``: commands that reproduce the SRCNN paper."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from ..errors import OutputError
from .extras import requires
from .options import COUNT, FILE


@click.group()
def research() -> None:
    """Reproduce figures and baselines of the SRCNN paper."""


@research.command()
@click.option(
    "--data", multiple=True, required=True, metavar="DIR", help="Folder of training images. Can be repeated."
)
@click.option("--scale", type=click.IntRange(2, 8), required=True, help="Scale factor.")
@click.option("-o", "--output", type=FILE, required=True, help="Dictionary file (.npz) to write.")
@click.option("--dictionary", type=COUNT, default=512, help="Atoms per dictionary.")
@click.option("--atoms", type=COUNT, default=3, help="Atoms per patch.")
@click.option("--patch", type=click.IntRange(2), default=9, help="Patch size in HR pixels.")
@click.option("--samples", type=COUNT, default=60_000, help="Number of training patches.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Random seed.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def sparse(data: tuple[str, ...], output: Path, overwrite: bool, **parameters: int) -> None:
    """Train the sparse-coding baseline of the paper (§2.1, §3.2).

    The resulting dictionary can be evaluated with `srcnn-rt eval`. Requires the extra "train".

    \b
    srcnn-rt research sparse --data t91 --scale 3 -o sparse-x3.npz
    srcnn-rt eval --data set5 --model sparse-x3.npz --model srcnn-915-x3
    """
    with requires("scikit-learn"):
        from ..training.sparse_coding import learn
    from ..evaluation.protocol import list_images

    if output.suffix != ".npz":
        raise OutputError(f"{output}: the suffix of a dictionary must be .npz")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: already exists; use --overwrite to replace it")
    paths = [path for folder in data for path in list_images(folder)]
    coder = learn(paths, **parameters, log=lambda line: click.echo(line, err=True))
    coder.save(output)
    click.echo(
        f"{output}: {len(coder.lr)} atoms for scale {coder.scale}, patches of {coder.patch} x {coder.patch}"
    )


@research.command()
@click.argument("model", metavar="NAME|PATH")
@click.option(
    "-o", "--output", type=FILE, help="Image to write: PNG, SVG or PDF.  [default: NAME_filters.png]"
)
@click.option("--plain", is_flag=True, help="Draw the raw weights.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per filter.")
def filters(model: str, output: Path | None, plain: bool, as_json: bool) -> None:
    """Draw and classify the filters of the first layer.

    Filters are sorted by variance and classified as Gaussian, Laplacian, edge (with its direction),
    texture or dead. By default they are drawn as they act on whitened images, which shows what each
    filter responds to. Requires the extra "plot".

    \b
    srcnn-rt research filters srcnn-915-x3 -o filters.png
    """
    with requires("matplotlib", "plot"):
        from ..plotting.figures import draw_filters
    from ..plotting.filters import first_layer

    name, found = first_layer(model, plain=plain)
    target = output or Path(f"{name}_filters.png")
    draw_filters(name, found, target)
    if as_json:
        for f in found:
            click.echo(
                json.dumps({"filter": f.index, "kind": f.kind, "variance": f.variance, "angle": f.angle})
            )
        return
    counts = Counter(f.kind for f in found)
    click.echo(f"{target}: {len(found)} filters: " + ", ".join(f"{n} {k}" for k, n in counts.most_common()))


@research.command()
@click.argument("runs", nargs=-1, required=True, type=FILE, metavar="RUN_DIR...")
@click.option(
    "-o", "--output", type=FILE, default=Path("curves.png"), help="Image to write: PNG, SVG or PDF."
)
def curves(runs: tuple[Path, ...], output: Path) -> None:
    """Plot loss, validation PSNR and learning rate of training runs.

    Requires the extra "train".

    \b
    srcnn-rt research curves runs/955-x3 -o curves.png
    """
    with requires("torch and matplotlib"):
        from ..plotting.figures import draw_curves
        from ..training.run_folder import RunFolder

    rows = {}
    for run in runs:
        RunFolder(run).read()
        rows[run.name] = RunFolder(run).rows()
    draw_curves(rows, output)
    click.echo(f"{output}: {sum(map(len, rows.values()))} points of {len(rows)} runs")
