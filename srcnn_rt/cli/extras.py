"""What needs an optional package, and the one line that says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from ..errors import RuntimeMissingError

if TYPE_CHECKING:
    from ..evaluation.runner import Method


def missing(command: str, needs: str, error: ImportError, extra: str = "train") -> NoReturn:
    """Print the line that installs what `command` needs, and exit with 1."""
    click.echo(f'error: {command} needs {needs} ({error}); type: pip install "srcnn-rt[{extra}]"', err=True)
    sys.exit(1)


def sparse_method(path: Path) -> tuple[Method, int]:
    """Return a dictionary as a method of `evaluate`, and its scale.

    Raises
    ------
    RuntimeMissingError
        If scikit-learn is not installed.
    SourceMissingError, ModelError
    """
    from ..evaluation.runner import Method

    try:
        from ..training.sparse_coding import SparseCoder
    except ImportError as error:
        raise RuntimeMissingError(
            f'{path}: a dictionary needs scikit-learn ({error}); type: pip install "srcnn-rt[train]"'
        ) from error
    coder = SparseCoder.load(path)
    return Method(path.stem, coder.upscale), coder.scale
