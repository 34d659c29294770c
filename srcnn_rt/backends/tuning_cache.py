"""Cache of tuning results and of self-checks, as JSON files in the user's cache folder.

``tuning.json`` has the fastest settings per model, provider, precision, number of threads and machine. They
only change speed: results do not depend on the tile. ``checked.json`` has the models that passed
`execution.self_check`. Unreadable files are ignored, and so are failures to write.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .._system.cpu import model_name
from .._version import __version__
from ..errors import OutputError

ENVIRONMENT = "SRCNN_RT_CACHE"
_TUNING, _CHECKED = "tuning.json", "checked.json"
_log = logging.getLogger("srcnn_rt")


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings to run a model with.

    Attributes
    ----------
    tile : int
        Side of a tile in HR pixels.
    workers : int
        Windows, or batches of them, computed at once; per GPU where there are GPUs.
    threads : int
        CPU threads per worker.
    variant : str
        Name of the graph that runs on a GPU; see `loader.Setup`.
    """

    tile: int
    workers: int
    threads: int
    variant: str = ""


def folder() -> Path:
    """Return the cache folder: the environment variable `SRCNN_RT_CACHE`, or the default of the system."""
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        return Path(chosen)
    import platformdirs

    return platformdirs.user_cache_path("srcnn-rt")


def key_for(model: bytes, provider: str, precision: str, threads: int, gpus: str = "") -> str:
    """Return the key of an entry, which differs between CPUs, GPUs and versions of this package too.

    Parameters
    ----------
    model : bytes
        A serialized ONNX model.
    provider, precision : str
    threads : int
    gpus : str
        Names of the GPUs in use.
    """
    import hashlib  # slow to import

    digest = hashlib.sha256(model).hexdigest()[:16]
    return " | ".join(
        (digest, provider, precision, f"{threads} threads", model_name(), *filter(None, [gpus]), __version__)
    )


def recall(key: str) -> Choice | None:
    """Return the settings stored for a key, or None."""
    found = _read(_TUNING).get(key)
    try:
        choice = Choice(**found) if isinstance(found, dict) else None
    except TypeError:
        return None
    if choice is None or type(choice.variant) is not str:
        return None
    if not all(type(n) is int and n > 0 for n in (choice.tile, choice.workers, choice.threads)):
        return None
    _log.info("using stored tuning %s for %s", choice, key)
    return choice


def remember(key: str, choice: Choice) -> Path | None:
    """Store settings for a key and return the file, or None if it cannot be written."""
    path = _write(_TUNING, key, asdict(choice))
    where = path or "nowhere: the cache cannot be written"
    _log.info("stored tuning %s for %s in %s", choice, key, where)
    return path


def is_checked(key: str) -> bool:
    """Return whether the model of a key has passed the self-check."""
    return _read(_CHECKED).get(key) is True


def note_checked(key: str) -> None:
    """Store that the model of a key has passed the self-check."""
    _write(_CHECKED, key, True)


def _write(name: str, key: str, value: object) -> Path | None:
    from .._system.safe_files import atomic_write  # start-up time counts

    path = folder() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps({**_read(name), key: value}, indent=1).encode())
    except (OSError, OutputError):
        return None
    return path


def _read(name: str) -> dict[str, object]:
    try:
        table = json.loads((folder() / name).read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
