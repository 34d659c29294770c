"""What was measured to be fastest, and found to be right, kept in the user's cache folder.

``tuning.json`` has an entry for every model, provider, precision, number of threads
and machine. It only ever changes speed: the result does not depend on the tile. ``checked.json`` has one for
every model whose tiles were compared with a whole image (`selfcheck`). A file that cannot
be read is as good as none, and one that cannot be written is left out.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .._version import __version__

ENVIRONMENT = "SRCNN_RT_CACHE"
_TUNING, _CHECKED = "tuning.json", "checked.json"


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is run.

    Attributes
    ----------
    tile : side of a tile in HR pixels
    workers : windows computed at once, of each GPU where there are GPUs
    threads : of each
    variant : which graph a GPU runs
    """

    tile: int
    workers: int
    threads: int
    variant: str = ""


def folder() -> Path:
    """Return the cache folder: `SRCNN_RT_CACHE`, or what the system has for it."""
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        return Path(chosen)
    import platformdirs

    return platformdirs.user_cache_path("srcnn-rt")


def key_for(model: bytes, provider: str, precision: str, threads: int, gpus: str = "") -> str:
    """Return the name of an entry; another processor, GPU, version or model has another."""
    import hashlib  # this and platform take milliseconds that importing the package should not

    digest = hashlib.sha256(model).hexdigest()[:16]
    return " | ".join(
        (digest, provider, precision, f"{threads} threads", machine(), *filter(None, [gpus]), __version__)
    )


def machine() -> str:
    """Return the CPU's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()


def recall(key: str) -> Choice | None:
    """Return what was measured, or None."""
    found = _read(_TUNING).get(key)
    try:
        choice = Choice(**found) if isinstance(found, dict) else None
    except TypeError:
        return None
    if choice is None or type(choice.variant) is not str:
        return None
    good = all(type(n) is int and n > 0 for n in (choice.tile, choice.workers, choice.threads))
    return choice if good else None


def remember(key: str, choice: Choice) -> Path | None:
    """Keep what was measured; return the file, or None where it could not be written."""
    return _keep(_TUNING, key, asdict(choice))


def is_checked(key: str) -> bool:
    """Return whether a model's tiles were found to be right, by the same program."""
    return _read(_CHECKED).get(key) is True


def note_checked(key: str) -> None:
    """Keep that they were."""
    _keep(_CHECKED, key, True)


def _keep(name: str, key: str, value: object) -> Path | None:
    path = folder() / name
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**_read(name), key: value}, indent=1))
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return None
    return path


def _read(name: str) -> dict[str, object]:
    try:
        table = json.loads((folder() / name).read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
