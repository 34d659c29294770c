"""Pickled engines: they are opened again from their arguments, in another process or on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..models import spec
from ..options import EngineArguments

if TYPE_CHECKING:
    from ..engine import Engine


def portable(model: str | Path | bytes) -> str | Path | bytes:
    """Return a model as another process finds it: a path becomes absolute, all else stays what it is."""
    return model if isinstance(model, bytes) or spec.is_builtin(model) else Path(model).absolute()


def rebuild(kind: type[Engine], model: str | Path | bytes, options: EngineArguments, digest: str) -> Engine:
    """Open an engine again.

    Parameters
    ----------
    kind : type
        `Engine`, or a class derived from it.
    model : str, Path or bytes
        As `portable` returns it.
    options : EngineArguments
        Arguments of the engine.
    digest : str
        Hash of the model's content.

    Raises
    ------
    ModelError
        If the model's content is not that of the pickled engine.
    SrcnnError
        As `Engine`.
    """
    engine = kind(model, **options)
    if engine.model_hash != digest:
        engine.close()
        name = engine.spec.name if isinstance(model, bytes) else model
        raise ModelError(
            f"{name}: its content (hash {engine.model_hash}) is not that of the pickled engine ({digest}); "
            "pickle an engine of this model, or give Engine the model's bytes"
        )
    return engine
