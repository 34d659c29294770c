"""Images that are not files under a name: bytes, file-like objects, rasterio datasets and URLs.

Readers open a file by its path, several times and from several threads. So each of these becomes a private
file first. In messages a name takes the place of its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeGuard, runtime_checkable

from .._system.private_files import is_plain_file, path_of, private_file, private_folder, tell_apart
from ..errors import ArgumentError, ImageError, OutputError, SrcnnError
from . import remote
from .foreign_errors import foreign_errors

THE_DATA, THE_FILE, THE_DATASET = "the data", "the file object", "the dataset"
CHUNK_BYTES = 2**20


@runtime_checkable
class Readable(Protocol):
    """A file-like object to read, open in binary mode."""

    def read(self, size: int = -1, /) -> Any: ...


@runtime_checkable
class Writable(Protocol):
    """A file-like object to write, open in binary mode."""

    def write(self, data: Any, /) -> Any: ...


class LocalImage(NamedTuple):
    """A source as a file of this machine, and what messages call it."""

    path: Path
    name: str

    def named(self) -> AbstractContextManager[None]:
        """Return a context in whose errors the name takes the place of the path."""
        return renamed({self.path: self.name})


def is_path(place: object) -> TypeGuard[str | Path]:
    """Return whether a source or target is the path of a local file."""
    return isinstance(place, Path) or (isinstance(place, str) and not remote.is_url(place))


@contextmanager
def local_image(source: Any, name: str | None = None) -> Iterator[LocalImage]:
    """Yield a source as a local file. If that is a copy, it is removed at the end.

    Parameters
    ----------
    source : str, Path, bytes-like, file-like or rasterio dataset
        A path; a URL of fsspec; the content of a file; an object with ``read``, which is read from where it
        is to its end; or a dataset that is open for reading, with its georeference, masks and tags.
    name : str, optional
        What messages call it. Errors that leave the block have this name in place of the copy's path.

    Raises
    ------
    ArgumentError
        If `source` is none of these.
    ImageError, SourceMissingError
        If it cannot be read.
    OutputError
        If there is no room for the copy.
    RuntimeMissingError
        If its URL needs a package that is not installed.
    """
    with ExitStack() as stack:
        if is_path(source):
            yield LocalImage(Path(source), str(source))
            return
        if is_plain_file(source):
            path, usual = path_of(source), THE_FILE
        elif _is_dataset(source):
            path, usual = _dataset_file(source, stack, name or THE_DATASET), THE_DATASET
        else:
            path, usual = _copied(source, stack, name)
        local = LocalImage(path, name or usual)
        with local.named():
            yield local


@contextmanager
def renamed(names: dict[Path, str]) -> Iterator[None]:
    """Replace paths by names in the messages of this package's errors that leave the block."""
    try:
        yield
    except SrcnnError as error:
        if error.args:
            error.args = (with_names(str(error.args[0]), names), *error.args[1:])
        raise


def with_names(text: str, names: dict[Path, str]) -> str:
    """Return a message with names in place of paths."""
    for path, name in names.items():
        text = name.join(re.split(rf"{re.escape(str(path))}(?!\d)", text))
    return text


def copy_out(file: BinaryIO, target: Writable, name: str) -> None:
    """Write a file to a file-like object.

    Raises
    ------
    OutputError
        If that fails.
    """
    with foreign_errors(OutputError, f"{name}: cannot be written"):
        while chunk := file.read(CHUNK_BYTES):
            _write(target, chunk)  # bytes: rasterio's MemoryFile takes a memoryview and stores something else
        if callable(flush := getattr(target, "flush", None)):
            flush()


def _copied(source: Any, stack: ExitStack, name: str | None) -> tuple[Path, str]:
    """Return the path of a copy of bytes, of the rest of a file-like object, or of what a URL names."""
    size: int | None = None
    chunks: AbstractContextManager[Iterator[Any]]
    if isinstance(source, bytes | bytearray | memoryview):
        usual, chunks, size = THE_DATA, nullcontext(iter([source])), memoryview(source).nbytes
    elif isinstance(source, str):
        usual = remote.shown(source)
        chunks = remote.chunks(source, CHUNK_BYTES)
    elif isinstance(source, Readable):
        usual, chunks = THE_FILE, nullcontext(iter(lambda: source.read(CHUNK_BYTES), b""))
    else:
        raise ArgumentError(
            "a source must be a path, a URL, bytes, a binary file object or a rasterio dataset, got "
            f"{type(source).__name__}"
        )
    name = name or usual
    full = f"{name}: no room for a temporary copy"
    with foreign_errors(OutputError, full):
        file = stack.enter_context(private_file(size))
    with chunks as parts:
        while True:
            with foreign_errors(ImageError, f"{name}: cannot be read"):
                part = next(parts, b"")
            if isinstance(part, str):
                raise ArgumentError(f"{name}: must be open in binary mode, got text")
            if not len(part):
                break
            with foreign_errors(OutputError, full):
                _write(file, memoryview(part).cast("B"))
    tell_apart(file)
    return path_of(file), usual


def _write(file: Any, data: bytes | memoryview) -> None:
    """Write all of `data`, also to a file that takes fewer bytes at once."""
    while data:
        done = file.write(data)
        data = data[len(data) if done is None else done :]


def _is_dataset(source: object) -> bool:
    """Return whether this is a dataset of rasterio, which is not imported for the answer."""
    return type(source).__module__.partition(".")[0] == "rasterio" and hasattr(source, "driver")


def _dataset_file(dataset: Any, stack: ExitStack, name: str) -> Path:
    """Return the TIFF of an open dataset: its own file, a copy of that, or for other formats a conversion."""
    if dataset.closed or dataset.mode != "r":
        state = "closed" if dataset.closed else f"mode {dataset.mode!r}"
        raise ArgumentError(f"{name}: must be open for reading, got {state}")
    # Options such as overview_level make it another image than the file.
    is_tiff, where = dataset.driver == "GTiff" and not dataset.options, str(dataset.name)
    if is_tiff and Path(where).is_file():
        return Path(where)
    from rasterio import Env
    from rasterio.shutil import copy, copyfiles

    with foreign_errors(ImageError, f"{name}: cannot be read"):
        path = stack.enter_context(private_folder()) / "data.tif"
        with Env(GDAL_TIFF_INTERNAL_MASK=True):
            if is_tiff and where.startswith("/vsi"):  # with all that GDAL does not read of a TIFF
                copyfiles(where, path)
            else:
                copy(dataset, path, driver="GTiff", tiled=True, bigtiff="IF_SAFER")
    return path
