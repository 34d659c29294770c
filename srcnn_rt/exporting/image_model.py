"""Export of models that take and return whole images, for ONNX Runtime in other programs.

The graph is that of `models.image_graph`. A file is written only if its output equals that of `Engine`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from .._system.cpu import available_threads
from .._system.safe_files import atomic_write
from ..backends import onnxruntime
from ..backends.base import failure
from ..backends.untiled import load_whole
from ..engine import Engine
from ..errors import ArgumentError, ModelError, OutputError
from ..image.info import Layout
from ..models import image_graph, prepare, spec
from ..models.margins import has_plain_alpha, rules_for
from ..models.spec import ModelSpec
from ..options import ArrayOptions
from ..tiling import kernels

TYPES: dict[str, np.dtype[Any]] = {
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "f32": np.dtype(np.float32),
}
LAYOUTS = {"gray": Layout.of(1), "graya": Layout.of(2), "rgb": Layout.of(3), "rgba": Layout.of(4)}
# Images (n, h, w) that are compared with the engine: one pixel, odd, elongated.
_COMPARED = ((1, 1, 1), (2, 7, 5), (1, 33, 18), (1, 3, 61))
# Relative to full scale, by the type of the model's input and output: the effect of their last bit.
_TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "uint8": 1.2 / 255}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """An exported model.

    Attributes
    ----------
    spec : ModelSpec
        Of the network inside.
    size : int
        Size of the file in bytes.
    largest : float
        Largest difference from `Engine`, relative to full scale.
    """

    spec: ModelSpec
    size: int
    largest: float


def export(
    model: str | Path,
    target: Path,
    io: str,
    layout: str,
    *,
    model_range: str | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Export a model that maps images (N, h, w, C) of any size to (N, s·h, s·w, C).

    Parameters
    ----------
    model : str or Path
        A bundled name, ``"bicubic-x2"`` … ``"bicubic-x8"``, or an ONNX file.
    target : Path
        Written atomically.
    io : {"u8", "u16", "f32"}
        Type of the samples.
    layout : {"gray", "graya", "rgb", "rgba"}
        Channels of the images.
    model_range : str, optional
        As for `Engine`.
    overwrite : bool
        Whether to replace an existing file.

    Raises
    ------
    SourceMissingError, ModelError, ImageError, ArgumentError, OutputError
        ModelError also if the exported model does not compute the same as `Engine`.
    """
    for name, value, known in (("io", io, TYPES), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: already exists; use --overwrite to replace it")
    data, found = load_whole(model)
    with Engine(model, provider="cpu", tile=None, model_range=model_range) as engine:
        network = engine.spec
        if not math.isnan(found.facts.macs):
            program = prepare.build_program(data, found)
            data, network = program.data, replace(program.spec, range=engine.spec.range)
        proto = image_graph.build_image_graph(
            spec.parse(data), network, LAYOUTS[layout], TYPES[io], source="whole"
        )
        try:
            largest = _compare_with_engine(proto.SerializeToString(), engine, io, layout)
        except ModelError as error:
            raise ModelError(f"{target}: not written: {error}") from error
        _set_metadata(proto, engine.spec, io, layout, largest)
    with atomic_write(target) as file:
        size = file.write(proto.SerializeToString())
    return ExportResult(engine.spec, size, largest)


def _set_metadata(proto: ModelProto, model: ModelSpec, io: str, layout: str, largest: float) -> None:
    """Replace this package's metadata, which describe the network inside, by those of the exported model."""
    others = {p.key: p.value for p in proto.metadata_props if not p.key.startswith(spec.PREFIX)}
    own = {
        "format": spec.FORMAT,
        "io": io,
        "layout": layout,
        "model": model.name,
        "architecture": model.architecture,
        "scale": str(model.scale),
        "training": json.dumps(dict(model.training)),
        "check": json.dumps({"against": "srcnn_rt.Engine", "images": _COMPARED, "largest": largest}),
    }
    helper.set_model_props(proto, others | {spec.PREFIX + k: v for k, v in own.items()})


def _compare_with_engine(data: bytes, engine: Engine, io: str, layout: str) -> float:
    """Compare a model with the engine on random images.

    Colour that is divided by alpha is compared after multiplication with alpha, because the division
    magnifies rounding errors without bound.

    Returns
    -------
    float
        Largest difference, relative to full scale.

    Raises
    ------
    ModelError
        If the outputs differ by more than rounding.
    """
    network = onnxruntime.create(data, ["CPUExecutionProvider"], available_threads())
    model, kind, white = engine.spec, TYPES[io], kernels.white(TYPES[io])
    allowed = max(_TOLERANCE[t] for t in model.facts.types)
    worst = 0.0
    of_image: ArrayOptions = {"alpha": LAYOUTS[layout].alpha}
    for images in _random_images(model, kind, LAYOUTS[layout].channels):
        of_image["layout"] = "HW" if images.ndim == 3 else "HWC"
        try:
            (got,) = network.run(None, {"image": images})
        except Exception as error:
            raise failure("ONNX Runtime", images.shape, error) from error
        expected = np.stack([engine.upscale(p, **of_image) for p in images])
        if (got.shape, got.dtype) != (expected.shape, expected.dtype):
            raise ModelError(
                f"the exported model returns {got.dtype} {got.shape}, "
                f"the engine {expected.dtype} {expected.shape}"
            )
        weight = np.ones(expected.shape)
        if has_plain_alpha(model, LAYOUTS[layout]):
            weight[..., :-1] = np.clip(expected[..., -1:] / white, 0, 1)
        difference = np.abs(got.astype(np.float64) - expected) * weight / white
        if kind.kind == "f":
            difference /= max(1.0, float((np.abs(expected) * weight).max()))
        worst = max(worst, float(difference.max()))
    limit = allowed if kind.kind == "f" else max(1, math.ceil(allowed * white)) / white
    if not worst <= limit * (1 + 1e-9):
        raise ModelError(
            f"the exported model differs from the engine by {worst:.2g} of full scale, allowed {limit:.2g}"
        )
    return worst


def _random_images(model: ModelSpec, kind: np.dtype[Any], channels: int) -> Iterator[NDArray[Any]]:
    """Yield random images (N, h, w, C) that respect a fixed batch or size of the model."""
    rng = np.random.default_rng(0)
    fixed = [rule.fixed for rule in rules_for(model)]
    shapes = {(model.batch or n, fixed[0] or h, fixed[1] or w, channels) for n, h, w in _COMPARED}
    for shape in sorted(shapes):
        if kind.kind == "f":
            yield rng.random(shape, dtype=np.float32)
        else:
            yield rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
