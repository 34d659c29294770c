"""A model file for other runtimes: interleaved images in, interleaved images out.

The graph is `pixels.image_graph` of whole images. A file gets its name after ONNX Runtime has run it
and what came out is what `Engine` makes of the same images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..backends import onnxruntime
from ..backends.untiled import load_whole
from ..engine import Engine
from ..errors import ArgumentError, ModelError, OutputError
from ..image.info import Layout
from ..models import image_graph, prepare, spec
from ..models.margins import has_plain_alpha, rules_for
from ..models.spec import ModelSpec
from ..tiling import kernels

if TYPE_CHECKING:
    from onnx import ModelProto

TYPES: dict[str, np.dtype[Any]] = {
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "f32": np.dtype(np.float32),
}
LAYOUTS = {"gray": Layout.of(1), "graya": Layout.of(2), "rgb": Layout.of(3), "rgba": Layout.of(4)}
# Images (n, h, w) on which file and engine must agree: one pixel, odd, long.
_CHECKED = ((1, 1, 1), (2, 7, 5), (1, 33, 18), (1, 3, 61))
# Of full scale, by the type that the model computes its ends in: what a last bit there makes of an image.
_TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "uint8": 1.2 / 255}


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes
    ----------
    spec : of the network inside
    size : bytes of the file
    largest : difference from `Engine` on the images that were tried, of full scale
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
) -> Written:
    """Write a model that takes images (N, h, w, C) of any size and gives (N, s·h, s·w, C).

    Parameters
    ----------
    model : a bundled name, ``"bicubic-x2"`` … ``"bicubic-x8"``, or the path of an ONNX file
    target : written as a whole or not at all
    io : "u8", "u16" or "f32", the type of samples
    layout : "gray", "graya", "rgb" or "rgba"
    model_range : as for `Engine`

    Raises
    ------
    SourceMissingError, ModelError, ImageError, ArgumentError, OutputError
        ModelError too where the file does not give what `Engine` gives.
    """
    if io not in TYPES:
        raise ArgumentError(f"io must be one of {', '.join(TYPES)}, got {io!r}")
    if layout not in LAYOUTS:
        raise ArgumentError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; overwriting must be asked for")
    data, found = load_whole(model)
    with Engine(model, "cpu", tile=None, model_range=model_range) as engine:
        inside = engine.spec
        if not math.isnan(found.facts.macs):
            ready = prepare.prepare(data, found)
            data, inside = ready.data, replace(ready.spec, range=engine.spec.range)
        proto = image_graph.image_graph(spec.parse(data), inside, LAYOUTS[layout], TYPES[io], source="whole")
        _describe(proto, engine.spec, io, layout)
        try:
            largest = _compare(proto.SerializeToString(), engine, io, layout)
        except ModelError as error:
            raise ModelError(f"{target}: not written: {error}") from error
        _describe(proto, engine.spec, io, layout, largest)
        size = _write(target, proto.SerializeToString())
        return Written(engine.spec, size, largest)


def _describe(
    proto: ModelProto, model: ModelSpec, io: str, layout: str, largest: float | None = None
) -> None:
    """Say in the metadata what the file takes; what the network inside takes is no longer true of it."""
    kept = {p.key: p.value for p in proto.metadata_props if not p.key.startswith(spec.PREFIX)}
    check = {"against": "srcnn_rt.Engine", "images": _CHECKED, "largest": largest}
    own = {
        "format": spec.FORMAT,
        "io": io,
        "layout": layout,
        "model": model.name,
        "architecture": model.architecture,
        "scale": str(model.scale),
        "training": json.dumps(dict(model.training)),
        "check": json.dumps({} if largest is None else check),
    }
    del proto.metadata_props[:]
    for key, value in {**kept, **{spec.PREFIX + k: v for k, v in own.items()}}.items():
        proto.metadata_props.add(key=key, value=value)


def _compare(data: bytes, engine: Engine, io: str, layout: str) -> float:
    """Run file and engine on random images and return the largest difference, of full scale.

    Colour that was divided by an alpha is compared times that alpha: where next to nothing is left of it, the
    last bit of float32 is divided by next to nothing.
    """
    ort = onnxruntime.runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures come as exceptions
    try:
        network = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no other base class
        raise ModelError(f"ONNX Runtime cannot load what was made: {error}") from error
    model, kind, white = engine.spec, TYPES[io], kernels.white(TYPES[io])
    allowed = max(_TOLERANCE[t] for t in model.facts.types)
    worst = 0.0
    for images in _images(model, kind, LAYOUTS[layout].channels):
        try:
            (got,) = network.run(None, {"image": images})
        except Exception as error:
            raise onnxruntime.failure("ONNX Runtime", images.shape, error) from error
        expected = np.stack([engine.upscale(p) for p in images])
        if (got.shape, got.dtype) != (expected.shape, expected.dtype):
            raise ModelError(
                f"what was made gives {got.dtype} {got.shape}, not {expected.dtype} {expected.shape}"
            )
        weight = np.ones(expected.shape)
        if has_plain_alpha(model, LAYOUTS[layout]):
            weight[..., :-1] = np.clip(expected[..., -1:] / white, 0, 1)
        apart = np.abs(got.astype(np.float64) - expected) * weight / white
        if kind.kind == "f":
            apart /= max(1.0, float((np.abs(expected) * weight).max()))
        worst = max(worst, float(apart.max()))
    maximum = allowed if kind.kind == "f" else max(1, math.ceil(allowed * white)) / white
    if not worst <= maximum * (1 + 1e-9):
        raise ModelError(
            f"what was made differs from the engine by {worst:.2g} of full scale, over {maximum:.2g}"
        )
    return worst


def _images(model: ModelSpec, kind: np.dtype[Any], channels: int) -> Iterator[NDArray[Any]]:
    """Yield random images (N, h, w, C), of the model's own batch and size where those are fixed."""
    rng = np.random.default_rng(0)
    fixed = [rule.fixed for rule in rules_for(model)]
    shapes = {(model.batch or n, fixed[0] or h, fixed[1] or w, channels) for n, h, w in _CHECKED}
    for shape in sorted(shapes):
        if kind.kind == "f":
            yield rng.random(shape, dtype=np.float32)
        else:
            yield rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def _write(target: Path, data: bytes) -> int:
    partial = target.with_name(target.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(data)
