"""Bundled models: one ``.onnx`` file and one model card (``.md``) each."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

SUFFIX = ".onnx"


def bundled() -> dict[str, Traversable]:
    """Return the file of every bundled model by name, sorted by name."""
    found = {f.name.removesuffix(SUFFIX): f for f in files(__name__).iterdir() if f.name.endswith(SUFFIX)}
    return dict(sorted(found.items()))


def list_models() -> list[str]:
    """Return the names of the bundled models, sorted."""
    return list(bundled())
