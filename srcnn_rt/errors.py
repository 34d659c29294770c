"""Every error that this package raises on purpose. Each message is one line a user can act on.

::

    SrcnnError
    ├── ArgumentError         (ValueError)         an argument breaks its rule
    │   └── ClosedError       (RuntimeError)       the engine or image was closed
    ├── CancelledError        (RuntimeError)       the caller cancelled the run
    ├── ModelError            (ValueError)         not a model, or one that cannot be tiled
    ├── ImageError            (ValueError)         not an image, damaged, or of an unsupported kind
    │   └── RangeError                             samples outside the range that the model assumes
    ├── SourceMissingError    (FileNotFoundError)  an image, model or checkpoint that does not exist
    ├── OutputError           (OSError)            exists, not writable, disk full, format too small
    ├── OutOfMemoryError      (MemoryError)        not enough memory for the smallest window
    ├── RuntimeMissingError   (ImportError)        an optional package is not installed
    ├── ProviderError         (RuntimeError)       the requested provider does not load
    ├── DeviceError           (RuntimeError)       a GPU failed during a run
    └── TrainingError         (RuntimeError)       a training run diverged
"""

from __future__ import annotations

import errno

__all__ = [
    "ArgumentError",
    "CancelledError",
    "ClosedError",
    "DeviceError",
    "ImageError",
    "ModelError",
    "OutOfMemoryError",
    "OutputError",
    "ProviderError",
    "RangeError",
    "RuntimeMissingError",
    "SourceMissingError",
    "SrcnnError",
    "TrainingError",
]


_MAX_LENGTH = 1000  # characters; names in a file can have millions


class SrcnnError(Exception):
    """Base class of all errors. ``str()`` of any of them is one printable line.

    Messages may quote names from files, so characters that a terminal would interpret are escaped, and long
    messages lose their middle.

    Attributes
    ----------
    errno : int or None
        Number of the system's error that caused it, such as ``errno.ENOSPC``, where there was one.
    """

    _errno: int | None = None

    @property
    def errno(self) -> int | None:
        cause = self.__cause__
        found = cause.errno if isinstance(cause, OSError | SrcnnError) else None
        return self._errno if found is None else found

    @errno.setter
    def errno(self, value: int | None) -> None:
        self._errno = value

    def __reduce__(self) -> tuple[object, ...]:
        # A pickle has no `__cause__`, where the number came from.
        return type(self), self.args, {**self.__dict__, "_errno": self.errno}

    def __str__(self) -> str:
        text = str(self.args[0] if self.args else "")
        if len(text) > 4 * _MAX_LENGTH:  # the loop below is slow
            text = text[: 2 * _MAX_LENGTH] + text[-2 * _MAX_LENGTH :]
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
        half = _MAX_LENGTH // 2
        return line if len(line) <= _MAX_LENGTH else f"{line[:half]} ... {line[-half:]}"


class ArgumentError(SrcnnError, ValueError):
    """An argument breaks its rule; the message gives the rule and the value."""


class ClosedError(ArgumentError, RuntimeError):
    """The engine, or the image, was closed: before the call, or by another thread during it."""


class CancelledError(SrcnnError, RuntimeError):
    """The run ended early because the caller cancelled it."""


class ModelError(SrcnnError, ValueError):
    """The model file cannot be used; the message names the file and the rule."""


class ImageError(SrcnnError, ValueError):
    """The image cannot be read; the message names the file and the rule."""


class RangeError(ImageError):
    """The samples are clearly not in the range that the model assumes, so the range must be given."""


class SourceMissingError(SrcnnError, FileNotFoundError):
    """A file to read does not exist."""

    _errno = errno.ENOENT


class OutputError(SrcnnError, OSError):
    """The result cannot be written; nothing is left under the final name."""


class OutOfMemoryError(SrcnnError, MemoryError):
    """There is not enough memory, even for the smallest window."""


class RuntimeMissingError(SrcnnError, ImportError):
    """An optional package is missing; the message has the command that installs it."""


class ProviderError(SrcnnError, RuntimeError):
    """The requested provider cannot be used. There is no silent fallback."""


class DeviceError(SrcnnError, RuntimeError):
    """A GPU failed during a run, and no other could take over its windows."""


class TrainingError(SrcnnError, RuntimeError):
    """A training run diverged; its last good checkpoint is kept."""
