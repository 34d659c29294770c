"""Sources and targets of a command line that are no local files: pipes, URLs, GDAL's virtual files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError, SourceMissingError
from ..io import remote, streams
from ..io.foreign_errors import foreign_errors
from .inputs import find_images, output_folder, output_paths

if TYPE_CHECKING:
    from ..engine import Engine
    from ..jobs.report import Report

PIPE = "-"
STDIN, STDOUT = "standard input", "standard output"
_VIRTUAL = "/vsi"


def are_streams(names: Sequence[str], output: str | None) -> bool:
    """Return whether a source or the target is no local file."""
    return any(map(_is_stream, names)) or (output is not None and _is_stream(output))


def to_stdout(names: Sequence[str], output: str | None) -> bool:
    """Return whether a result goes to standard output."""
    return output == PIPE or (output is None and PIPE in names)


def pairs(
    names: Sequence[str], output: str | None, scale: int, format_: str | None, *, allow_remote: bool
) -> tuple[list[tuple[str, str]], list[Exception]]:
    """Return sources and targets, where at least one is no local file.

    Parameters
    ----------
    names : sequence of str
        ``-``, URLs, names that begin with ``/vsi``, and what `find_images` takes.
    output : str, optional
        ``-``, a URL, or that of a folder, which ends in a slash, or what `output_paths` takes. By default the
        result of ``-`` goes to ``-``, and that of a URL beside it.
    scale : int
        Scale factor.
    format_ : str, optional
        Suffix of all results without its dot. By default that of each source.
    allow_remote : bool
        Whether GDAL may open its virtual files.

    Returns
    -------
    pairs : list of (str, str)
    errors : list of Exception
        One for each name that yields no image.

    Raises
    ------
    click.UsageError
        If they do not go together.
    """
    found: list[str] = []
    errors: list[Exception] = []
    for name in names:
        if name.startswith(_VIRTUAL) and not allow_remote:
            errors.append(SourceMissingError(f"{name}: GDAL's virtual files need --allow-remote"))
        elif _is_stream(name):
            found.append(name)
        else:
            images, missing = find_images([name], scale)
            found += map(str, images)
            errors += missing
    if output is not None and output.startswith(_VIRTUAL):
        raise click.UsageError(f"{output}: GDAL's virtual files are not written")
    if output is not None and not _is_folder(output) and len(found) > 1:
        raise click.UsageError(f"{output}: is one file, but there are {len(found)} inputs; give a folder")
    return [(name, _target(name, output, scale, format_)) for name in found], errors


def upscale(engine: Engine, source: str, target: str, **options: Any) -> Report:
    """Upscale one source; the other arguments are those of `Engine.upscale_file`.

    Raises
    ------
    SrcnnError
    """
    with _opened(source) as local:
        if target == PIPE:
            with streams.renamed({Path("the result"): STDOUT}):
                report = engine.upscale_file(local.path, _stdout(), **options)
        else:
            report = engine.upscale_file(local.path, target, **{**options, "format": None})
    texts = tuple(streams.with_names(text, {local.path: local.name}) for text in report.warnings)
    named = STDOUT if target == PIPE else report.target
    return replace(report, source=local.name, target=named, warnings=texts)


@contextmanager
def _opened(source: str) -> Iterator[streams.LocalImage]:
    if source.startswith(_VIRTUAL):
        from ..io.tiff.gdal import open_quietly

        with foreign_errors(ImageError, f"{source}: cannot be read"):
            dataset = open_quietly(source)
        with dataset, streams.local_image(dataset, source) as local:
            yield local
        return
    if source == PIPE:
        stdin = sys.stdin.buffer
        if stdin.isatty():
            raise click.UsageError(f"{STDIN} is a terminal; pipe an image into it")
        with streams.local_image(stdin, STDIN) as local:
            yield local
        return
    with streams.local_image(source) as local:
        yield local


def _stdout() -> Any:
    stdout = sys.stdout.buffer
    if stdout.isatty():
        raise click.UsageError(f"{STDOUT} is a terminal; redirect it to a file or a pipe")
    # Without Python's buffer, which would be flushed once more at exit after an error.
    return getattr(stdout, "raw", stdout)


def _is_stream(name: str) -> bool:
    return name == PIPE or name.startswith(_VIRTUAL) or remote.is_url(name)


def _path_of(name: str) -> str:
    return remote.shown(name) if remote.is_url(name) else name


def _is_folder(output: str) -> bool:
    return output != PIPE and output_folder(_path_of(output)) is not None


def _target(name: str, output: str | None, scale: int, format_: str | None) -> str:
    """Return where the result of one source goes."""
    if output == PIPE or (output is None and name == PIPE):
        return PIPE
    if output is not None and not _is_folder(output):
        # Checks that the suffix goes with the format.
        output_paths([Path(name)], Path(_path_of(output)).name, scale, format_)
        return output
    if name == PIPE:
        raise click.UsageError(f"{output}: what comes from {STDIN} has no name; give a file")
    if output is None and name.startswith((_VIRTUAL, "http:", "https:")):
        raise click.UsageError(f"{remote.shown(name)}: nothing can be written beside it; use --output")
    place = Path(_path_of(name))
    (made,) = output_paths([Path(place.name)], None, scale, format_)
    if output is None:
        return remote.beside(name, made.name) if remote.is_url(name) else str(place.with_name(made.name))
    return f"{output.rstrip('/')}/{made.name}" if remote.is_url(output) else str(Path(output) / made.name)
