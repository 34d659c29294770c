"""The networks that can be trained: SRCNN and the compact network."""

from __future__ import annotations

from . import compact, srcnn
from .compact import Compact
from .srcnn import SRCNN

Network = SRCNN | Compact


def is_compact(arch: str) -> bool:
    """Return whether an architecture is meant to be a `Compact`, and an SRCNN otherwise."""
    return arch.startswith("compact")


def check_name(arch: str) -> None:
    """Raise `ValueError` if there is no architecture of this name."""
    if is_compact(arch):
        compact.parse(arch)
    else:
        srcnn.kernel_sizes(arch)
