"""Commands that need an optional dependency (an "extra") say how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RuntimeMissingError


@contextmanager
def requires(packages: str, extra: str = "train") -> Iterator[None]:
    """Turn an `ImportError` in the block into an error that names the extra to install.

    Raises
    ------
    RuntimeMissingError
        If an import in the block fails.
    """
    try:
        yield
    except RuntimeMissingError:
        raise
    except ImportError as error:
        raise RuntimeMissingError(
            f'this command needs {packages} ({error}); run: pip install "srcnn-rt[{extra}]"'
        ) from error
