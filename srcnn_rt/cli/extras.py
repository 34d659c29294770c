"""Contexts of commands: errors about optional dependencies ("extras"), and errors as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..errors import RuntimeMissingError, SrcnnError


@contextmanager
def errors_as_json(model: str, as_json: bool) -> Iterator[None]:
    """Also print an error in the block as a JSON object if `as_json` is set."""
    try:
        yield
    except SrcnnError as error:
        if as_json:
            click.echo(json.dumps({"model": model, "error": str(error)}))
        raise


@contextmanager
def requires(packages: str, extra: str = "train") -> Iterator[None]:
    """Turn an `ImportError` in the block into an error that names the extra to install.

    Raises
    ------
    RuntimeMissingError
        If an import in the block fails.
    """
    try:
        yield
    except RuntimeMissingError:
        raise
    except ImportError as error:
        raise RuntimeMissingError(
            f'this command needs {packages} ({error}); run: pip install "srcnn-rt[{extra}]"'
        ) from error
