"""Models that only run on whole images: if the analysis refuses a graph, its scale is found by a test run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..models import spec
from ..models.spec import ModelSpec
from .onnxruntime import Session

if TYPE_CHECKING:
    from ..models.analysis import InterfaceOptions

_TEST_SIDE = 64  # LR pixels


def load_whole(
    model: str | Path | bytes, interface_options: InterfaceOptions | None = None
) -> tuple[bytes, ModelSpec]:
    """Load a model for whole images.

    Parameters
    ----------
    model : str, Path or bytes
        A bundled name, an ONNX file or its content.
    interface_options : InterfaceOptions, optional
        How the interface of the model is adapted.

    Returns
    -------
    (bytes, ModelSpec)
        The serialized model, and its facts; a model that cannot be analysed has an unbounded margin.

    Raises
    ------
    SourceMissingError
    ModelError
        If the model cannot run, or its output is not an image at an integer scale.
    """
    try:
        return spec.load(model, interface_options)
    except ModelError:
        data, name = spec.read_adapted(model, interface_options)
    try:
        declared = spec.interface(data)
        size = (declared.height or _TEST_SIDE, declared.width or _TEST_SIDE)
        test = np.zeros((declared.batch or 1, declared.channels, *size), np.float32)
        shape = Session(data).run(test).shape
        if len(shape) != 4:
            raise ModelError(f"returns {shape} for {test.shape}; the output must be an image (N, C, H, W)")
        out = shape[2:]
        if out[0] % size[0] or out[1] % size[1] or out[0] // size[0] != out[1] // size[1]:
            raise ModelError(f"returns {out} for {size}; the scale must be an integer")
        return data, spec.describe_untiled(data, name, out[0] // size[0])
    except ModelError as error:
        raise ModelError(f"{name if isinstance(model, bytes) else model}: {error}") from error
