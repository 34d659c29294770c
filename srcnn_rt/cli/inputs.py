"""Which images a command line names, and where their results go."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ..errors import ArgumentError, ImageError, SourceMissingError
from ..io import is_image, is_image_name
from ..jobs.file_job import Job
from ..jobs.manifest import Manifest

_SUFFIXES = {"tif": (".tif", ".tiff"), "jpg": (".jpg", ".jpeg")}


def expand(names: Sequence[str], scale: int) -> tuple[list[Path], list[Exception]]:
    """Turn files, folders and patterns into images, each once, in order.

    A folder gives the images directly in it, less earlier results beside their sources
    (``a_x2.png`` where there is an ``a.*``). A name that exists is never a pattern.

    Returns
    -------
    The images, and one error for each name that gives none.
    """
    found: dict[Path, None] = {}
    errors: list[Exception] = []
    for name in names:
        path = Path(name)
        if path.is_dir() and not is_image(path):
            images = _in_folder(path, scale)
            if not images:
                errors.append(ImageError(f"{name}: no images in this folder"))
        elif path.exists() or not glob.has_magic(name):
            images = [path]
        else:
            matches = glob.glob(name, recursive=True)  # noqa: PTH207 (it may be absolute)
            images = sorted(p for m in matches if (p := Path(m)).is_file() or is_image(p))
            if not images:
                errors.append(SourceMissingError(f"{name}: no file matches"))
        found.update(dict.fromkeys(images))
    return list(found), errors


def targets(
    sources: Sequence[Path], output: str | None, scale: int, format_: str | None = None
) -> list[Path]:
    """Name the result of every source: ``NAME_xS.EXT`` beside it or in the folder `output`.

    `format_` is the suffix of all, without its dot; None for that of each source.

    Raises
    ------
    ArgumentError
        If several results would get one name, or `output` is a file for several sources.
    """
    folder = output_folder(output)
    if output is not None and folder is None:
        if len(sources) > 1:
            raise ArgumentError(f"{output}: is one file, but there are {len(sources)} inputs; name a folder")
        if format_ is not None and Path(output).suffix.lower() not in _SUFFIXES.get(
            format_, (f".{format_}",)
        ):
            raise ArgumentError(f"{output}: its suffix says another format than {format_}")
        return [Path(output)]
    suffixes = [f".{format_}" if format_ else _suffix(s) for s in sources]
    named = [
        (folder or s.parent) / f"{s.stem}_x{scale}{suffix}"
        for s, suffix in zip(sources, suffixes, strict=True)
    ]
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
    if (path.is_dir() and not is_image(path)) or output.endswith(("/", "\\")):
        return path
    return None if path.suffix or path.exists() else path


class Queue:
    """Which of several images are done: by this run, or by one before, as the folders' manifests say.

    Parameters
    ----------
    targets : of all images
    several : whether there is a manifest at all
    overwrite : whether images that are done are done again
    """

    def __init__(self, targets: Sequence[Path], *, several: bool, overwrite: bool) -> None:
        folders = {t.parent for t in targets} if several else set[Path]()
        self._manifests = {f: Manifest(f) for f in folders}
        self._overwrite = overwrite
        self._done = self._before = 0

    def is_done(self, job: Job) -> bool:
        """Return whether a former run did that job, and count it."""
        manifest = self._manifests.get(job.target.parent)
        if manifest is None or self._overwrite or not job.source.exists():
            return False
        done = manifest.is_done(job.target, job.facts())
        self._before += done
        return done

    def finished(self, job: Job) -> None:
        """Note a finished image."""
        self._done += 1
        if job.target.parent in self._manifests:
            self._manifests[job.target.parent].add(job.source, job.target, job.facts())

    def failed(self, source: Path, target: Path, error: BaseException) -> None:
        """Note an image that failed."""
        if target.parent in self._manifests and target.parent.is_dir():
            self._manifests[target.parent].add_error(source, target, str(error))

    def summary(self) -> str:
        return f"{self._done} done" + (f", {self._before} done before" if self._before else "")


def _in_folder(folder: Path, scale: int) -> list[Path]:
    images = sorted(p for p in folder.iterdir() if is_image(p))
    ending = f"_x{scale}"
    stems = {p.stem for p in images}
    return [p for p in images if not (p.stem.endswith(ending) and p.stem.removesuffix(ending) in stems)]


def _suffix(source: Path) -> str:
    """Return the source's own suffix, or ``.tif`` where it has none of an image."""
    return source.suffix if is_image_name(source) else ".tif"
