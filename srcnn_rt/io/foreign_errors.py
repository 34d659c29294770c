"""Conversion of the exceptions of libraries and of the system to the package's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SrcnnError


@contextmanager
def foreign_errors(kind: type[SrcnnError], what: str) -> Iterator[None]:
    """Raise exceptions of the block as `kind`, with a message of one line after `what`.

    The package's own exceptions and `MemoryError` stay as they are.
    """
    try:
        yield
    except (MemoryError, SrcnnError):
        raise
    except Exception as error:  # each library has its own exceptions, some undocumented
        reason = str(getattr(error, "strerror", None) or error)
        raise kind(f"{what}: {' '.join(reason.split()) or type(error).__name__}") from error
