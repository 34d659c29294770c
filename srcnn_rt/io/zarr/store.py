"""Opens Zarr arrays and groups from untrusted folders.

The metadata are read and checked here before the package zarr sees them. Some codecs run arbitrary code
(``pickle``), so only codecs that transform and compress bytes are allowed. Sizes determine what is allocated,
so they are bounded. Names in metadata and links must not lead out of the folder. The size of a decompressed
chunk is not checked: a hostile chunk of a plausible array can expand to more than the chunk size.
"""

from __future__ import annotations

import json
import math
import re
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from ...errors import ImageError, RuntimeMissingError, SourceMissingError
from ...image.info import SAMPLE_TYPES
from ..foreign_errors import foreign_errors

MAX_JSON_BYTES = 16 * 2**20
MAX_SIDE = 2**24
MAX_BANDS = 1024
MAX_PLANES = 2**20  # along t or z
MAX_CHUNK_BYTES = 2**28
# A window of WINDOW x WINDOW pixels may touch at most MAX_TOUCHED chunks, because each chunk is a task.
WINDOW = 512
MAX_TOUCHED = 2**16
# By letter: the largest size of the axis, and how much of it a window covers.
_LIMITS = {
    **dict.fromkeys("yx", (MAX_SIDE, WINDOW)),
    **dict.fromkeys("tz", (MAX_PLANES, 1)),
    "c": (MAX_BANDS, MAX_BANDS),
}
MAX_SHARD_CHUNKS = 2**20
_SHARDING = "sharding_indexed"
# A compressed chunk is never much larger than the raw one. Files of shards are read in parts.
MAX_FILE_BYTES = 2 * MAX_CHUNK_BYTES
_V2_TYPES = {order + np.dtype(name).str[1:] for order in "<>|" for name in SAMPLE_TYPES}
_BYTE_CODECS = (
    "blosc", "bz2", "crc32", "crc32c", "adler32", "fletcher32", "gzip", "lz4", "lzma", "zlib", "zstd",
)  # fmt: skip
_V2_CODECS = {*_BYTE_CODECS, "delta", "shuffle"}
_V3_CODECS = {
    *("blosc", "bytes", "crc32c", "endian", "gzip", "transpose", "zstd"),
    *(f"numcodecs.{name}" for name in _V2_CODECS),
}


@dataclass(frozen=True, slots=True)
class Node:
    """Metadata of an array or group.

    Attributes
    ----------
    kind : {"array", "group"}
        What the folder holds.
    format : {2, 3}
        Version of the Zarr format.
    document : dict
        ``zarr.json``; in format 2 ``.zarray`` or ``.zgroup``.
    attributes : dict
        User attributes.
    """

    kind: Literal["array", "group"]
    format: Literal[2, 3]
    document: dict[str, Any]
    attributes: dict[str, Any]


def package() -> ModuleType:
    """Return the package zarr.

    Raises
    ------
    RuntimeMissingError
        If it is missing or too old; the message has the command that installs it.
    """
    try:
        import zarr
    except ImportError as error:
        why = str(error)
    else:
        version = tuple(int(n) for n in re.findall(r"\d+", zarr.__version__)[:3])
        if version >= (3, 1, 3):  # older versions do not write chunks atomically
            return zarr
        why = f"needs version 3.1.3, got {zarr.__version__}"
    raise RuntimeMissingError(f'Zarr cannot be read or written ({why}); type: pip install "srcnn-rt[zarr]"')


def read_node(folder: Path, root: Path) -> Node:
    """Read the metadata of a folder.

    Parameters
    ----------
    folder : Path
        Folder of the array or group.
    root : Path
        Folder that must contain all files.

    Raises
    ------
    SourceMissingError
        If there is no such folder.
    ImageError
        If it is not a Zarr or its metadata are invalid.
    """
    if not folder.exists():
        raise SourceMissingError(f"{folder}: no such folder")
    if (document := _load(folder / "zarr.json", root)) is not None:
        if document.get("zarr_format") != 3 or document.get("node_type") not in ("array", "group"):
            raise ImageError(f"{folder / 'zarr.json'}: neither an array nor a group of zarr_format 3")
        attributes = document.get("attributes", {})
        if not isinstance(attributes, dict):
            raise ImageError(f"{folder / 'zarr.json'}: attributes must be an object")
        return Node(document["node_type"], 3, document, attributes)
    attributes = _load(folder / ".zattrs", root) or {}
    if (document := _load(folder / ".zarray", root)) is not None:
        return Node("array", 2, document, attributes)
    if (document := _load(folder / ".zgroup", root)) is not None:
        return Node("group", 2, document, attributes)
    raise ImageError(f"{folder}: not a Zarr: it has no zarr.json, .zarray or .zgroup")


def level_folder(root: Path, name: str) -> Path:
    """Return the folder of a path in metadata, which must be inside `root`."""
    if any(p in ("", ".", "..") or set(p) & set("\\:\0") for p in name.split("/")):
        raise ImageError(f"{root}: a path in metadata must be names below the folder, got {name!r:.80}")
    _check_inside(root / name, root)
    return root / name


def open_array(folder: Path, root: Path, node: Node) -> Any:
    """Open an array for reading after `check`.

    Raises
    ------
    ImageError
        If zarr cannot open it.
    RuntimeMissingError
        If zarr is not installed.
    """
    zarr = package()
    with foreign_errors(ImageError, f"{folder}: zarr cannot open it"):
        real = root.resolve()
        inside = folder.resolve().relative_to(real).as_posix()
        store = _guarded_store()(real, read_only=True)
        return zarr.open_array(store, path="" if inside == "." else inside, mode="r", zarr_format=node.format)


def check(node: Node, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check the type, codecs and chunks of an array; return its shape and that of a chunk.

    Parameters
    ----------
    node : Node
        Metadata of the array.
    where : str
        Name of the array in error messages.

    Raises
    ------
    ImageError
        If the array is refused.
    """
    doc = node.document
    dtype = doc.get("dtype" if node.format == 2 else "data_type")
    if not isinstance(dtype, str) or dtype not in (_V2_TYPES if node.format == 2 else SAMPLE_TYPES):
        raise ImageError(f"{where}: samples must be {', '.join(SAMPLE_TYPES)}, got {dtype!r:.80}")
    itemsize = int(dtype[-1]) if node.format == 2 else np.dtype(dtype).itemsize
    shape = _sizes(doc.get("shape"), where, "shape")
    chunk, shard = _chunks(node, where)
    for sizes in (chunk, shard or chunk):
        if len(sizes) != len(shape) or min(sizes, default=1) < 1:
            raise ImageError(f"{where}: chunks must be {len(shape)} sizes of at least 1, got {sizes}")
    if math.prod(chunk) * itemsize > MAX_CHUNK_BYTES:
        raise ImageError(f"{where}: a chunk must hold at most {MAX_CHUNK_BYTES >> 20} MiB, got {chunk}")
    if shard and math.prod(-(-n // c) for n, c in zip(shard, chunk, strict=True)) > MAX_SHARD_CHUNKS:
        raise ImageError(f"{where}: a shard must have at most {MAX_SHARD_CHUNKS} chunks, got {shard}")
    return shape, chunk


def check_axes(letters: str, shape: tuple[int, ...], chunk: tuple[int, ...], where: str) -> None:
    """Refuse axes that are too long, and chunks that are too small for them."""
    touched = 1
    for letter, n, size in zip(letters, shape, chunk, strict=True):
        limit, window = _LIMITS[letter]
        if n > limit:
            raise ImageError(f"{where}: {letter} must be at most {limit}, got {shape}")
        touched *= -(-min(n, window) // size)
    if touched > MAX_TOUCHED:
        raise ImageError(f"{where}: chunks must not be tiny: a window would touch {touched} of {chunk}")


def _chunks(node: Node, where: str) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Check the codecs; return the size of a chunk, and of a shard (a file of several chunks) or None."""
    doc = node.document
    if node.format == 2:
        filters = doc.get("filters") or []
        used = [*(filters if isinstance(filters, list) else [filters]), doc.get("compressor")]
        _check_codecs([c for c in used if c], "id", _V2_CODECS, where)
        return _sizes(doc.get("chunks"), where, "chunks"), None
    grid = doc.get("chunk_grid")
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        raise ImageError(f"{where}: the chunk grid must be regular")
    chunk, shard = _sizes(_option(grid, "chunk_shape"), where, "chunks"), None
    codecs = doc.get("codecs")
    if isinstance(codecs, list) and [_name(c, "name") for c in codecs] == [_SHARDING]:
        sharding = codecs[0]
        shard, chunk = chunk, _sizes(_option(sharding, "chunk_shape"), where, "chunks")
        index = _option(sharding, "index_codecs")
        _check_codecs([] if index is None else index, "name", _V3_CODECS, where)
        codecs = _option(sharding, "codecs")
    _check_codecs(codecs, "name", _V3_CODECS, where)
    return chunk, shard


def _check_codecs(codecs: Any, key: str, known: set[str], where: str) -> None:
    if not isinstance(codecs, list):
        raise ImageError(f"{where}: codecs must be a list, got {codecs!r:.80}")
    for name in (_name(c, key) for c in codecs):
        if not isinstance(name, str) or name not in known:
            raise ImageError(f"{where}: the codec {name!r:.80} is not one of {', '.join(sorted(known))}")


def _name(codec: Any, key: str) -> Any:
    """Return the name of a codec: under "id" in format 2, under "name" in format 3."""
    return codec.get(key) if isinstance(codec, dict) else codec


def _option(entry: Any, key: str) -> Any:
    options = entry.get("configuration") if isinstance(entry, dict) else None
    return options.get(key) if isinstance(options, dict) else None


def _sizes(value: Any, where: str, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        raise ImageError(f"{where}: {what} must be a list of whole numbers, got {value!r:.80}")
    return tuple(value)


def _check_inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise ImageError(f"{path}: leads out of {root}")


def _check_file(path: Path, root: Path, limit: int, what: str) -> None:
    """Refuse what is not a plain file below `root` with at most `limit` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: must be a plain file in {root}")
    _check_inside(path, root)
    if status.st_size > limit:
        raise ImageError(f"{path}: {what} must have at most {limit >> 20} MiB")


def _load(path: Path, root: Path) -> dict[str, Any] | None:
    """Return a JSON object from a file, or None if there is no file."""
    try:
        _check_file(path, root, MAX_JSON_BYTES, "metadata")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ImageError(f"{path}: must hold a JSON object")
    return found


@cache
def _guarded_store() -> Any:
    """Return a LocalStore class that only reads plain files inside its folder.

    Reading a chunk that is a link to a device would never end.
    """
    package()
    from zarr.storage import LocalStore

    class Guarded(LocalStore):
        def _check_key(self, key: str, part: Any) -> None:
            with suppress(OSError):  # the store reports it
                limit = MAX_FILE_BYTES if part is None else sys.maxsize
                _check_file(self.root / key, self.root, limit, "a chunk's file")

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            self._check_key(key, byte_range)
            return await super().get(key, prototype, byte_range)

        def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
            self._check_key(key, byte_range)
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            return [await self.get(key, prototype, part) for key, part in key_ranges]

    return Guarded
