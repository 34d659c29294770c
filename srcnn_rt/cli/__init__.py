"""The command line. Each command parses its options, calls the library and prints the result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .._version import __version__
from ..errors import SrcnnError
from .doctor import doctor
from .eval import evaluate
from .export import export
from .inspect import inspect
from .models import models
from .research import research
from .train import train
from .tune import tune
from .upscale import upscale


class _MainGroup(click.Group):
    """Lists commands in the order they were added and prints the package's errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SrcnnError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=_MainGroup, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="srcnn-rt")
@click.option("-v", "--verbose", is_flag=True, help="Print the log to stderr.")
@click.pass_context
def main(ctx: click.Context, verbose: bool) -> None:
    """Upscale images of any size without seams, in bounded memory."""
    ctx.with_resource(_diagnostics(verbose))


@contextmanager
def _diagnostics(verbose: bool) -> Iterator[None]:
    """Print warnings and the package's log to stderr, one line each, while a command runs."""
    logger = logging.getLogger("srcnn_rt")
    level = logger.level
    handler = logging.StreamHandler()
    handler.setFormatter(_LogFormatter())
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        if verbose:
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)


class _LogFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {message}", err=True)


for command in (upscale, export, train, evaluate, inspect, models, tune, doctor, research):
    main.add_command(command)
