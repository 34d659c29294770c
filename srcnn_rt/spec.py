"""`ModelSpec`: what a model is. The graph is the truth; metadata must agree with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import bicubic, graph
from .errors import ModelError, SourceMissingError
from .models import SUFFIX, bundled

if TYPE_CHECKING:
    from onnx import ModelProto

PREFIX = "srcnn_rt."
FORMAT = "1"
DEFAULT_SCALE = 2
_BICUBIC = re.compile(r"bicubic-x([2-8])")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's name, geometry and history.

    Attributes
    ----------
    name : bundled name or file name without suffix
    architecture : e.g. ``"9-1-5"``, or ``"unknown"``
    scale : HR pixels an LR pixel
    margin : LR pixels a core needs around it, derived from the graph
    period : LR step that window origins keep
    channels : 1 (luminance) or 3 (RGB)
    batch : windows a run takes, None for any number
    parameters : numbers in the weights
    size : bytes of the file
    training : what the file says of its training; PSNR in dB under ``"psnr"``
    check : how the export was checked
    """

    name: str
    architecture: str
    scale: int
    margin: int
    period: int
    channels: int
    batch: int | None
    parameters: int
    size: int
    training: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)


def default_model(scale: int | None) -> str:
    """Return the name of the bundled model for a scale (2 if None).

    Raises
    ------
    ModelError
        If none is bundled for it.
    """
    scale = DEFAULT_SCALE if scale is None else scale
    name = f"srcnn-915-x{scale}"
    if name not in bundled():
        raise ModelError(f"no bundled model for scale {scale}; bundled: {', '.join(bundled())}")
    return name


def load(model: str | Path) -> tuple[bytes, ModelSpec]:
    """Find a model, read it and analyse its graph.

    Parameters
    ----------
    model : a bundled name, ``"bicubic-x2"`` … ``"bicubic-x8"``, or the path of an ONNX file

    Returns
    -------
    The file's bytes and its spec.

    Raises
    ------
    SourceMissingError
        If there is no such name or file.
    ModelError
        If it is not ONNX, cannot be tiled, or its metadata contradict its graph.
    """
    text = str(model)
    if match := _BICUBIC.fullmatch(text):
        proto = bicubic.model(int(match[1]))
        set_metadata(proto, architecture="bicubic", scale=int(match[1]), channels=1)
        data, name = proto.SerializeToString(), text
    elif text in bundled():
        data, name = bundled()[text].read_bytes(), text
    else:
        path = Path(model)
        if not path.exists():
            known = "" if path.suffix == SUFFIX else f", nor a bundled model ({', '.join(bundled())})"
            raise SourceMissingError(f"{text}: no such file{known}")
        if path.is_dir():
            raise ModelError(f"{text}: a folder, not an ONNX file")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{text}: cannot be read: {error.strerror}") from error
        name = path.stem
    try:
        return data, describe(data, name)
    except ModelError as error:
        raise ModelError(f"{text}: {error}") from error


def describe(data: bytes, name: str) -> ModelSpec:
    """Analyse a model's bytes; errors do not name the file."""
    proto = _parse(data)
    facts = graph.analyse(proto)
    meta = {p.key.removeprefix(PREFIX): p.value for p in proto.metadata_props if p.key.startswith(PREFIX)}
    found = {"scale": facts.scale, "channels": facts.channels}
    for key, value in found.items():
        if key in meta and meta[key] != str(value):
            raise ModelError(f"metadata say {key} {meta[key]}, the graph says {value}")
    if meta.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"metadata format must be {FORMAT}, got {meta['format']}: written by a newer version"
        )
    return ModelSpec(
        name=name,
        architecture=meta.get("architecture", "unknown"),
        scale=facts.scale,
        margin=facts.margin,
        period=facts.period,
        channels=facts.channels,
        batch=facts.batch,
        parameters=facts.parameters,
        size=len(data),
        training=_table(meta, "training"),
        check=_table(meta, "check"),
    )


def set_metadata(
    proto: ModelProto,
    *,
    architecture: str,
    scale: int,
    channels: int,
    training: Mapping[str, Any] | None = None,
    check: Mapping[str, Any] | None = None,
) -> None:
    """Replace the ``srcnn_rt.*`` keys of a model; values are [0, 1] in and out."""
    values = {
        "format": FORMAT,
        "architecture": architecture,
        "scale": str(scale),
        "channels": str(channels),
        "color": "y" if channels == 1 else "rgb",
        "range": "0..1",
        "training": json.dumps(dict(training or {})),
        "check": json.dumps(dict(check or {})),
    }
    kept = {p.key: p.value for p in proto.metadata_props if not p.key.startswith(PREFIX)}
    del proto.metadata_props[:]
    for key, value in {**kept, **{PREFIX + k: v for k, v in values.items()}}.items():
        proto.metadata_props.add(key=key, value=value)


def _parse(data: bytes) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError("not an ONNX model") from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError("not an ONNX model: no graph in it")
    return proto


def _table(meta: Mapping[str, str], key: str) -> Mapping[str, Any]:
    try:
        table = json.loads(meta.get(key, "{}"))
    except json.JSONDecodeError as error:
        raise ModelError(f"metadata {PREFIX}{key} is not JSON") from error
    if not isinstance(table, dict):
        raise ModelError(f"metadata {PREFIX}{key} is not a JSON object")
    return table
