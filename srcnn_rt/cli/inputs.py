"""Which pictures a command line names, and where their results go."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ..errors import ArgumentError, PictureError, SourceMissingError
from ..io import is_picture_name


def expand(names: Sequence[str], scale: int) -> tuple[list[Path], list[Exception]]:
    """Turn files, folders and patterns into pictures, each once, in order.

    A folder gives the pictures directly in it, less earlier results beside their sources
    (``a_x2.png`` where there is an ``a.*``). A name that exists is never a pattern.

    Returns
    -------
    The pictures, and one error for each name that gives none.
    """
    found: dict[Path, None] = {}
    errors: list[Exception] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            pictures = _in_folder(path, scale)
            if not pictures:
                errors.append(PictureError(f"{name}: no pictures in this folder"))
        elif path.exists() or not glob.has_magic(name):
            pictures = [path]
        else:
            matches = glob.glob(name, recursive=True)  # noqa: PTH207 (it may be absolute)
            pictures = sorted(p for m in matches if (p := Path(m)).is_file())
            if not pictures:
                errors.append(SourceMissingError(f"{name}: no file matches"))
        found.update(dict.fromkeys(pictures))
    return list(found), errors


def targets(sources: Sequence[Path], output: str | None, scale: int) -> list[Path]:
    """Name the result of every source: ``NAME_xS.EXT`` beside it or in the folder `output`.

    Raises
    ------
    ArgumentError
        If several results would get one name, or `output` is a file for several sources.
    """
    folder = output_folder(output)
    if output is not None and folder is None:
        if len(sources) > 1:
            raise ArgumentError(f"{output}: is one file, but there are {len(sources)} inputs; name a folder")
        return [Path(output)]
    named = [(folder or s.parent) / f"{s.stem}_x{scale}{_suffix(s)}" for s in sources]
    seen: dict[Path, Path] = {}
    for source, target in zip(sources, named, strict=True):
        if target in seen:
            raise ArgumentError(f"{target}: would be the result of both {seen[target]} and {source}")
        seen[target] = source
    return named


def output_folder(output: str | None) -> Path | None:
    """Return `output` if it means a folder: it is one, ends in a slash, or has no suffix."""
    if output is None:
        return None
    path = Path(output)
    if path.is_dir() or output.endswith(("/", "\\")):
        return path
    return None if path.suffix or path.exists() else path


def _in_folder(folder: Path, scale: int) -> list[Path]:
    pictures = sorted(p for p in folder.iterdir() if p.is_file() and is_picture_name(p))
    ending = f"_x{scale}"
    stems = {p.stem for p in pictures}
    return [p for p in pictures if not (p.stem.endswith(ending) and p.stem.removesuffix(ending) in stems)]


def _suffix(source: Path) -> str:
    """Return the source's own suffix, or ``.tif`` where it has none of a picture."""
    return source.suffix if is_picture_name(source) else ".tif"
