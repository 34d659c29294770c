"""Input images of a command line, the paths of their outputs, and which of them are finished."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ..errors import ArgumentError, ImageError, SourceMissingError
from ..io.registry import is_image, is_image_name
from ..jobs.job import Job
from ..jobs.manifest import Manifest

_SUFFIXES = {"tif": (".tif", ".tiff"), "jpg": (".jpg", ".jpeg")}


def find_images(names: Sequence[str], scale: int) -> tuple[list[Path], list[Exception]]:
    """Expand files, folders and glob patterns into images, without duplicates, in order.

    A folder stands for the images directly in it, except outputs of earlier runs beside their sources
    (``a_x2.png`` where there is an ``a.*``). An existing path is never treated as a pattern.

    Parameters
    ----------
    names : sequence of str
        Files, folders or patterns.
    scale : int
        Scale factor in the names of earlier outputs.

    Returns
    -------
    images : list of Path
    errors : list of Exception
        One for each name that yields no image.
    """
    found: dict[Path, None] = {}
    errors: list[Exception] = []
    for name in names:
        path = Path(name)
        if path.is_dir() and not is_image(path):
            images = _images_in(path, scale)
            if not images:
                errors.append(ImageError(f"{name}: no images in this folder"))
        elif path.exists() or not glob.has_magic(name):
            images = [path]
        else:
            matches = glob.glob(name, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
            images = sorted(p for m in matches if (p := Path(m)).is_file() or is_image(p))
            if not images:
                errors.append(SourceMissingError(f"{name}: no file matches"))
        found.update(dict.fromkeys(images))
    return list(found), errors


def _images_in(folder: Path, scale: int) -> list[Path]:
    images = sorted(p for p in folder.iterdir() if is_image(p))
    suffix = f"_x{scale}"
    stems = {p.stem for p in images}
    return [p for p in images if not (p.stem.endswith(suffix) and p.stem.removesuffix(suffix) in stems)]


def output_paths(
    sources: Sequence[Path], output: str | None, scale: int, format_: str | None = None
) -> list[Path]:
    """Return the output path of every source: ``NAME_xS.EXT`` beside it or in the folder `output`.

    Parameters
    ----------
    sources : sequence of Path
    output : str or None
        A folder, or a file for a single source. None writes beside the sources.
    scale : int
        Scale factor.
    format_ : str, optional
        Suffix of all outputs without its dot. By default that of each source.

    Raises
    ------
    ArgumentError
        If two outputs have the same path, if `output` is a file for several sources, or if its suffix
        contradicts `format_`.
    """
    folder = output_folder(output)
    if output is not None and folder is None:
        if len(sources) > 1:
            raise ArgumentError(f"{output}: is one file, but there are {len(sources)} inputs; give a folder")
        suffix = Path(output).suffix.lower()
        if format_ is not None and suffix not in _SUFFIXES.get(format_, (f".{format_}",)):
            raise ArgumentError(f"{output}: the suffix {suffix!r} does not match --format {format_}")
        return [Path(output)]
    found: dict[Path, Path] = {}
    for source in sources:
        suffix = f".{format_}" if format_ else source.suffix if is_image_name(source) else ".tif"
        target = (folder or source.parent) / f"{source.stem}_x{scale}{suffix}"
        if target in found:
            raise ArgumentError(f"{target}: would be the output of both {found[target]} and {source}")
        found[target] = source
    return list(found)


def output_folder(output: str | None) -> Path | None:
    """Return `output` if it denotes a folder: it is one, ends in a slash, or has no suffix."""
    if output is None:
        return None
    path = Path(output)
    if (path.is_dir() and not is_image(path)) or output.endswith(("/", "\\")):
        return path
    return None if path.suffix or path.exists() else path


class Batch:
    """Records which of several images are finished, in a manifest per output folder.

    Parameters
    ----------
    targets : sequence of Path
        Outputs of all images.
    several : bool
        Whether to keep manifests. A single image has none.
    overwrite : bool
        Whether finished images are processed again.
    """

    def __init__(self, targets: Sequence[Path], *, several: bool, overwrite: bool) -> None:
        folders = {t.parent for t in targets} if several else set[Path]()
        self._manifests = {f: Manifest(f) for f in folders}
        self._overwrite = overwrite
        self._done = self._done_before = 0

    def is_done(self, job: Job) -> bool:
        """Return whether an earlier run finished a job, and count it."""
        manifest = self._manifests.get(job.target.parent)
        if manifest is None or self._overwrite or not job.source.exists():
            return False
        done = manifest.is_done(job.target, job.facts())
        self._done_before += done
        return done

    def finished(self, job: Job) -> None:
        """Record a finished image."""
        self._done += 1
        if manifest := self._manifests.get(job.target.parent):
            manifest.add(job.source, job.target, job.facts())

    def failed(self, source: Path, target: Path, error: BaseException) -> None:
        """Record an image that failed."""
        if (manifest := self._manifests.get(target.parent)) and target.parent.is_dir():
            manifest.add_error(source, target, str(error))

    def summary(self) -> str:
        """Return the numbers of finished images as text."""
        return f"{self._done} done" + (f", {self._done_before} done before" if self._done_before else "")
