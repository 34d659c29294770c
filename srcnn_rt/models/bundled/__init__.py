"""The bundled models: one ``.onnx`` file and one model card (``.md``) each."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

SUFFIX = ".onnx"


def bundled() -> dict[str, Traversable]:
    """Return name → file of every bundled model, sorted by name."""
    found = {f.name.removesuffix(SUFFIX): f for f in files(__name__).iterdir() if f.name.endswith(SUFFIX)}
    return dict(sorted(found.items()))
