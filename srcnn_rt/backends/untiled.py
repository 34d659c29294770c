"""Models that run on whole images only: what the analysis refuses is tried out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..models import spec
from ..models.spec import ModelSpec
from .onnxruntime import Session

if TYPE_CHECKING:
    from ..models.analysis import Shaping

_TRIAL = 64  # side of the image that tells an unbounded model's scale


def load_whole(model: str | Path | bytes, shaping: Shaping | None = None) -> tuple[bytes, ModelSpec]:
    """Load a model that runs on whole images only: what cannot be analysed is tried out."""
    try:
        return spec.load(model, shaping)
    except ModelError:
        data, name = spec.shaped(model, shaping)
    try:
        declared = spec.interface(data)
        size = (declared.height or _TRIAL, declared.width or _TRIAL)
        trial = np.zeros((declared.batch or 1, declared.channels, *size), np.float32)
        shape = Session(data).run(trial).shape
        if len(shape) != 4:
            raise ModelError(f"gives {shape} for {trial.shape}: an image (N, C, H, W) is needed")
        out = shape[2:]
        if out[0] % size[0] or out[1] % size[1] or out[0] // size[0] != out[1] // size[1]:
            raise ModelError(f"gives {out} for {size}: the scale must be a whole number")
        return data, spec.unbounded(data, name, out[0] // size[0])
    except ModelError as error:
        raise ModelError(f"{name if isinstance(model, bytes) else model}: {error}") from error
