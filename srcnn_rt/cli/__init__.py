"""The command line: one command a module; parse, call one function, translate errors."""

from __future__ import annotations

import warnings

import click

from .._version import __version__
from .curves import curves
from .doctor import doctor
from .eval import evaluate
from .export import export
from .filters import filters
from .inspect import inspect
from .models import models
from .sparse import sparse
from .train import train
from .tune import tune
from .upscale import upscale


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="srcnn-rt")
def main() -> None:
    """Super-resolution of images of any size: seam-free, in bounded memory."""
    warnings.showwarning = _show


def _show(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line; this process is the command's own."""
    click.echo(f"warning: {message}", err=True)


for command in (upscale, inspect, export, models, doctor, tune, train, evaluate, filters, curves, sparse):
    main.add_command(command)
