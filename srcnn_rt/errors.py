"""Every error this package raises on purpose, each one line a user can act on.

::

    SrcnnError
    ├── ArgumentError         (ValueError)         a tile, scale, array ... out of its rule
    ├── ModelError            (ValueError)         not a model, or one that cannot be tiled
    ├── ImageError          (ValueError)         not an image, damaged, or of an unsupported kind
    │   └── RangeError                             samples that do not live where the model would take them to
    ├── SourceMissingError    (FileNotFoundError)  an image, model or checkpoint that is not there
    ├── OutputError           (OSError)            exists, not writable, disk full, format too small
    ├── OutOfMemoryError      (MemoryError)        a window is too large for the memory there is
    ├── RuntimeMissingError   (ImportError)        an optional package is not installed
    ├── ProviderError         (RuntimeError)       a provider asked for by name does not load
    ├── DeviceError           (RuntimeError)       a GPU that failed while it worked
    └── TrainingError         (RuntimeError)       a run that diverged
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
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


_LONGEST = 1000  # characters; names in a file can have millions


class SrcnnError(Exception):
    """Root of the tree above. ``str()`` of any of them is one printable line.

    Files name things as they like: what would move a terminal's cursor is escaped, and what is too long
    loses its middle.
    """

    def __str__(self) -> str:
        text = str(self.args[0] if self.args else "")
        if len(text) > 4 * _LONGEST:  # before it is looked at letter by letter
            text = text[: 2 * _LONGEST] + text[-2 * _LONGEST :]
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
        half = _LONGEST // 2
        return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


class ArgumentError(SrcnnError, ValueError):
    """An argument breaks its rule; the message gives the rule and the value."""


class ModelError(SrcnnError, ValueError):
    """The model file cannot be used; the message names the file and the rule."""


class ImageError(SrcnnError, ValueError):
    """The image cannot be read as one; the message names the file and the rule."""


class RangeError(ImageError):
    """A model needs to know which samples are black and white, and the usual ones cannot be."""


class SourceMissingError(SrcnnError, FileNotFoundError):
    """Something to read is not there."""


class OutputError(SrcnnError, OSError):
    """The result cannot be written; nothing is left under the final name."""


class OutOfMemoryError(SrcnnError, MemoryError):
    """The network found no memory for a window; jobs go on with smaller ones."""


class RuntimeMissingError(SrcnnError, ImportError):
    """An optional package is missing; the message holds the line that installs it."""


class ProviderError(SrcnnError, RuntimeError):
    """A provider asked for by name is not active; never a silent fallback."""


class DeviceError(SrcnnError, RuntimeError):
    """A GPU failed while it worked; where there are others, they take over its windows."""


class TrainingError(SrcnnError, RuntimeError):
    """A training run cannot go on; its last good checkpoint is kept."""
