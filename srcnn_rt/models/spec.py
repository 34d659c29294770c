"""`ModelSpec`: a model's facts. They are derived from its graph, and its metadata must agree with them."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import ArgumentError, ModelError, SourceMissingError
from ..image import bicubic
from ..image.color import STUDIO_BLACK, STUDIO_WHITE
from .bundled import SUFFIX, bundled
from .onnx_helpers import MIN_IR_WITHOUT_WEIGHT_INPUTS

if TYPE_CHECKING:
    from onnx import ModelProto

    from .analysis import GraphFacts, Interface, InterfaceOptions

PREFIX = "srcnn_rt."  # of metadata keys
FORMAT = "1"
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".pkl", ".safetensors")
LARGEST = 2**31 - 1  # bytes, the limit of protobuf
DEFAULT_SCALE = 2
MAX_SCALE = 16
# Usual range of networks of luminance: MATLAB's YCbCr, 16 to 235 of 255.
STUDIO_RANGE = f"{STUDIO_BLACK!r}..{STUDIO_WHITE!r}"
ANY_RANGE = "any"  # of an equivariant model
_SNIFF_SIZE = 2**24  # bytes; the first byte of a larger file is checked before the file is read
_MIN_NAME_SIMILARITY = 0.8  # from which on a name is suggested for a misspelt one
_MIN_VALUE, _MAX_VALUE = 1e-30, 1e30  # of a value range, so that float32 holds it and its inverse
_BICUBIC_SCALES = range(2, 9)
_BICUBIC = re.compile(r"bicubic-x([2-8])")
# First bytes of a ModelProto: the tags of its fields.
_FIRST_BYTES = frozenset((0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA, 0xD2))


@dataclass(frozen=True, slots=True)
class ValueRange:
    """Range of values of a model: a sample v in [0, 1] is fed as ``gain · v + offset``.

    The output is converted back by the inverse.

    Attributes
    ----------
    gain, offset : tuple of float
        One value, or one per channel.
    """

    gain: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``"0..255"``, ``"-1..1"`` or ``"mean=0.45,0.44,0.40 std=0.23,0.22,0.22"``.

        Raises
        ------
        ArgumentError
            If the text has none of these forms.
        """
        try:
            if ".." in text:
                low, high = (float(part) for part in text.split(".."))
                if not high > low:
                    raise ValueError
                found = cls((high - low,), (low,))
            else:
                parts = dict(part.split("=") for part in text.split())
                mean, std = (tuple(float(v) for v in parts[k].split(",")) for k in ("mean", "std"))
                if len(parts) != 2 or len(mean) != len(std) or min(std) <= 0:
                    raise ValueError
                found = cls(tuple(1 / s for s in std), tuple(-m / s for m, s in zip(mean, std, strict=True)))
            valid = all(_MIN_VALUE < abs(v) < _MAX_VALUE for v in found.gain)
            if not valid or any(abs(v) > _MAX_VALUE for v in found.offset):
                raise ValueError  # 0 or infinite in float32
        except (ValueError, KeyError, OverflowError) as error:
            raise ArgumentError(
                f"a value range is LOW..HIGH or 'mean=A,B,C std=D,E,F', got {text!r}"
            ) from error
        return found

    @property
    def is_identity(self) -> bool:
        """Whether samples are fed unchanged."""
        return self == type(self)()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Name, geometry, range of values and training of a model.

    Attributes
    ----------
    name : str
        Bundled name, or file name without suffix.
    architecture : str
        E.g. ``"9-1-5"``, or ``"unknown"``.
    scale : int
        Scale factor.
    margin : int
        LR pixels needed around a tile, derived from the graph.
    facts : GraphFacts
        Result of the analysis: kind, margins per side, period, sizes, types.
    channels : int
        1 (luminance or any band), 3 (RGB), 4 (RGBA), or a number of bands.
    range : ValueRange
        Range of values, from the metadata (`range_declared`) or the element types. By default luminance is
        16/255 to 235/255, and colour 0 to 1.
    equivariant : bool
        Whether ``f(a·x + b) = a·f(x) + b`` for all a > 0 and b, so that every range of values will do.
    batch : int or None
        Windows per run, None for any number.
    parameters : int
        Number of weights.
    size : int
        Bytes of the file.
    training : mapping
        Metadata on the training; PSNR in dB under ``"psnr"``.
    check : mapping
        Metadata on how the export was checked.
    range_declared : bool
        Whether the metadata declare the range.
    adds_bicubic : bool
        Whether the graph that runs returns the difference to the bicubic image (`prepare.build_program`);
        False for the model of a file.
    extra_margin : (int, int)
        LR rows and columns that windows need around the margin where a backend computes in blocks; 0 for the
        model of a file.
    """

    name: str
    architecture: str
    scale: int
    margin: int
    facts: GraphFacts
    channels: int
    range: ValueRange
    equivariant: bool
    batch: int | None
    parameters: int
    size: int
    training: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    range_declared: bool = False
    adds_bicubic: bool = False
    extra_margin: tuple[int, int] = (0, 0)

    def summary(self) -> dict[str, Any]:
        """Return the facts as plain values for JSON, lengths in LR pixels."""
        facts = self.facts
        axes = {"rows": facts.y, "columns": facts.x}
        return {
            "kind": facts.kind,
            "architecture": self.architecture,
            "scale": self.scale,
            "margins": {
                f"{k} {side}": getattr(a, side) for k, a in axes.items() for side in ("before", "after")
            },
            "period": {k: a.period for k, a in axes.items()},
            "sizes": {
                k: f"only {a.fixed}" if a.fixed else f"multiples of {a.multiple} from {a.minimum}"
                for k, a in axes.items()
            },
            "channels": facts.channels,
            "equivariant": self.equivariant,
            "batch": facts.batch or "any",
            "types": list(facts.types),
            "parameters": facts.parameters,
            "macs_per_pixel": round(facts.macs, 1),
            "bytes": self.size,
        }

    @property
    def padded(self) -> bool:
        """Whether layers pad inside the model, so that windows end at the image's edges."""
        return self.facts.kind == "padded"

    @property
    def period(self) -> int:
        """LR step that window origins must keep."""
        return self.facts.period


def default_model(scale: int | None, *, best: bool = False) -> str:
    """Return the name of the bundled model for a scale factor.

    Parameters
    ----------
    scale : int or None
        Scale factor; None is 2.
    best : bool
        Return compact-m10c32, which is more accurate and several times slower, instead of 9-1-5.

    Raises
    ------
    ModelError
        If no model is bundled for the scale.
    """
    scale = DEFAULT_SCALE if scale is None else scale
    name = f"{'compact-m10c32' if best else 'srcnn-915'}-x{scale}"
    if name not in bundled():
        raise ModelError(f"no bundled model for scale {scale}; bundled: {', '.join(bundled())}")
    return name


def load(model: str | Path | bytes, options: InterfaceOptions | None = None) -> tuple[bytes, ModelSpec]:
    """Find a model, read it and analyse its graph.

    Parameters
    ----------
    model : str, Path or bytes
        A bundled name, ``"bicubic-x2"`` … ``"bicubic-x8"``, the path of an ONNX file, or its content.
    options : InterfaceOptions, optional
        Adaptation of its inputs and outputs.

    Returns
    -------
    data : bytes
        The ONNX model.
    spec : ModelSpec
        Its facts.

    Raises
    ------
    SourceMissingError
        If there is no such name or file.
    ModelError
        If it is not ONNX, cannot be tiled, or its metadata contradict its graph.
    """
    data, name = read_adapted(model, options)
    try:
        return data, describe(data, name)
    except ModelError as error:
        if isinstance(model, bytes):
            raise
        raise ModelError(f"{model}: {error}") from error


def read_adapted(model: str | Path | bytes, options: InterfaceOptions | None = None) -> tuple[bytes, str]:
    """Return a model's bytes and its name, after its inputs and outputs were adapted by `adapt`.

    Raises
    ------
    SourceMissingError
        If there is no such name or file.
    ModelError
        If the file cannot be read, or is refused by `validate`.
    ArgumentError
        If the model has no such input or output.
    """
    from .analysis import InterfaceOptions, adapt, needs_adapting

    data, name = (model, "model") if isinstance(model, bytes) else read(model)
    proto, options = _decoded(data), options or InterfaceOptions()
    if proto is None or not needs_adapting(proto, options):  # `parse` refuses None
        return data, name
    try:
        parse(data)  # validates it first
        return bytes(adapt(proto, options).SerializeToString()), name
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from error
    except ModelError as error:
        raise ModelError(str(error) if isinstance(model, bytes) else f"{model}: {error}") from error


def read(model: str | Path) -> tuple[bytes, str]:
    """Return a model's bytes and its name without parsing it.

    Raises
    ------
    SourceMissingError
        If there is no such name or file.
    ModelError
        If it is not a regular file, too large, or cannot be read.
    """
    text = str(model)
    if match := _BICUBIC.fullmatch(text):
        proto = bicubic.model(int(match[1]))
        set_metadata(proto, architecture="bicubic", scale=int(match[1]), channels=1)
        return proto.SerializeToString(), text
    if text in bundled():
        return bundled()[text].read_bytes(), text
    path = Path(model)
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises an error for a name that is too long)
        names = [*bundled(), *(f"bicubic-x{s}" for s in _BICUBIC_SCALES)]
        close = difflib.get_close_matches(text, names, 1, _MIN_NAME_SIMILARITY)
        known = (
            f"; did you mean {close[0]}?" if close else ", nor a bundled model; srcnn-rt models lists them"
        )
        raise SourceMissingError(f"{text}: no such file{'' if path.suffix == SUFFIX else known}")
    if path.is_dir():
        raise ModelError(f"{text}: a folder, not an ONNX file")
    if not path.is_file():  # reading a pipe or a device may never end
        raise ModelError(f"{text}: not a file, but a device or a pipe")
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ModelError(f"{text}: {size} bytes, an ONNX file holds at most {LARGEST}")
        with path.open("rb") as file:
            if size > _SNIFF_SIZE and file.read(1)[0] not in _FIRST_BYTES:
                raise ModelError(f"{text}: not an ONNX model")
            file.seek(0)
            data = file.read(size)
    except OSError as error:
        raise ModelError(f"{text}: cannot be read: {error.strerror}") from error
    if path.suffix.lower() in CHECKPOINTS and not data[:1] == b"\x08":
        raise ModelError(f"{text}: a checkpoint, not an ONNX model; convert it with srcnn-rt export")
    try:
        return _with_weights(data, path.parent), path.stem
    except ModelError as error:
        raise ModelError(f"{text}: {error}") from error


def _with_weights(data: bytes, folder: Path) -> bytes:
    """Return a model's bytes, with weights from files beside it moved into it."""
    if b"location" not in data:
        return data
    from .analysis import inline_external_data

    proto = _decoded(data)
    if proto is None or not inline_external_data(proto, folder, LARGEST - len(data)):  # `parse` refuses None
        return data
    return bytes(proto.SerializeToString())


def _decoded(data: bytes) -> ModelProto | None:
    """Return an ONNX model without validating it, None if the bytes are not one."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError):
        return None


def with_range(model: ModelSpec, text: str) -> ModelSpec:
    """Return a model's spec with a range of values given by the user.

    Parameters
    ----------
    model : ModelSpec
        The model.
    text : str
        As for `ValueRange.parse`.

    Raises
    ------
    ArgumentError
        If the text cannot be parsed, has values for another number of channels, or contradicts the model.
    """
    values = ValueRange.parse(text)
    if len(values.gain) not in (1, model.channels):
        raise ArgumentError(f"a value range needs 1 or {model.channels} numbers, got {len(values.gain)}")
    if model.equivariant:
        raise ArgumentError(f"{model.name} takes every range of values: it is equivariant; omit {text}")
    if model.range_declared and values != model.range:
        known = ", ".join(
            f"{b:g}..{b + a:g}" for a, b in zip(model.range.gain, model.range.offset, strict=True)
        )
        raise ArgumentError(f"{model.name}: its metadata declare the range {known}, got {text}")
    return replace(model, range=values)


def interface(data: bytes) -> Interface:
    """Return the declarations of a model's input and output, for a model that runs without an analysis.

    Raises
    ------
    ModelError
        If the model is refused by `validate` or `check_sizes`.
    """
    from .analysis import Interface, check_sizes  # here, because importing the package must not import onnx

    proto = parse(data)
    declared = Interface.of(proto)
    check_sizes(proto, declared)
    return declared


def describe_untiled(data: bytes, name: str, scale: int) -> ModelSpec:
    """Describe a model that runs on whole images only, at a scale factor found by running it."""
    from .analysis import untiled_facts

    proto = parse(data)
    return _describe(proto, data, name, untiled_facts(proto, scale))


def describe(data: bytes, name: str) -> ModelSpec:
    """Analyse a model's bytes. Errors do not name the file."""
    from .analysis import analyse

    proto = parse(data)
    return _describe(proto, data, name, analyse(proto))


def _metadata(proto: ModelProto) -> dict[str, str]:
    """Return the ``srcnn_rt.*`` metadata without their prefix."""
    return {p.key.removeprefix(PREFIX): p.value for p in proto.metadata_props if p.key.startswith(PREFIX)}


def _describe(proto: ModelProto, data: bytes, name: str, facts: GraphFacts) -> ModelSpec:
    from .analysis import is_equivariant

    meta = _metadata(proto)
    if facts.channels != facts.channels_out:
        raise ModelError(f"returns {facts.channels_out} channels for {facts.channels}; they must be as many")
    if facts.scale.denominator != 1:
        raise ModelError(f"the scale must be an integer, got {facts.scale}")
    if facts.scale > MAX_SCALE:
        raise ModelError(f"the scale must be at most {MAX_SCALE}, got {facts.scale}")
    for key, value in (("scale", facts.scale), ("channels", facts.channels)):
        if key in meta and meta[key] != str(value):
            raise ModelError(f"metadata {PREFIX}{key} must match the graph's, {value}, got {meta[key]}")
    if meta.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"metadata format must be {FORMAT}, got {meta['format']}: written by a newer version"
        )
    equivariant = facts.types == ("float32", "float32") and is_equivariant(proto)
    if meta.get("range") == ANY_RANGE and not equivariant:
        raise ModelError(f"metadata {PREFIX}range is {ANY_RANGE}, but its graph is not equivariant")
    return ModelSpec(
        name=name,
        architecture=meta.get("architecture", "unknown"),
        scale=int(facts.scale),
        margin=facts.margin,
        facts=facts,
        channels=facts.channels,
        range=ValueRange() if equivariant else _range(meta, facts),
        range_declared="range" in meta,
        equivariant=equivariant,
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
    values: str | None = None,
) -> None:
    """Replace the ``srcnn_rt.*`` metadata of a model for luminance or RGB.

    Parameters
    ----------
    proto : ModelProto
        Changed in place.
    architecture : str
        E.g. ``"9-1-5"``.
    scale, channels : int
        Scale factor and channels of the model.
    training, check : mapping, optional
        JSON values on its training, and on how the export was checked.
    values : str, optional
        Range of values, as for `ValueRange.parse`. By default 16/255 to 235/255 for luminance, and 0 to 1
        for RGB.
    """
    from onnx import helper

    from .analysis import is_equivariant

    usual = values or (STUDIO_RANGE if channels == 1 else "0..1")
    own = {
        "format": FORMAT,
        "architecture": architecture,
        "scale": str(scale),
        "channels": str(channels),
        "color": "y" if channels == 1 else "rgb",
        "range": ANY_RANGE if is_equivariant(proto) else usual,
        "training": json.dumps(dict(training or {})),
        "check": json.dumps(dict(check or {})),
    }
    kept = {p.key: p.value for p in proto.metadata_props if not p.key.startswith(PREFIX)}
    helper.set_model_props(proto, {**kept, **{PREFIX + k: v for k, v in own.items()}})


def parse(data: bytes) -> ModelProto:
    """Parse and validate a model's bytes.

    Raises
    ------
    ModelError
        If they are not an ONNX model, or one that must not be run (`analysis.validation`).
    """
    from .analysis import validate

    if len(data) > LARGEST:
        raise ModelError(f"{len(data)} bytes, an ONNX file holds at most {LARGEST}")
    proto = _decoded(data)
    if proto is None:
        raise ModelError("not an ONNX model")
    if not proto.graph.node or not proto.graph.output:
        raise ModelError("not an ONNX model: no graph in it")
    old = proto.ir_version < MIN_IR_WITHOUT_WEIGHT_INPUTS
    old = old and len(proto.graph.input) <= 1 and bool(proto.graph.initializer)
    if old:
        # ONNX's checker wants weights among the inputs of such a file. Runtimes do not.
        proto.ir_version = MIN_IR_WITHOUT_WEIGHT_INPUTS
    bare = [v.type.tensor_type for v in proto.graph.output if not v.type.tensor_type.HasField("shape")]
    for kind in bare:  # ONNX's checker wants a shape, which every runtime infers by itself
        kind.shape.SetInParent()
    if old or bare:
        data = proto.SerializeToString()
    validate(proto, data)
    _refuse_image_graph(proto)
    return proto


def is_builtin(model: str | Path | bytes) -> bool:
    """Return whether a model comes with the package."""
    return isinstance(model, str) and (model in bundled() or _BICUBIC.fullmatch(model) is not None)


def is_model(name: str) -> bool:
    """Return whether a name means an ONNX model, bundled or a file, and not a checkpoint."""
    return is_builtin(name) or name.lower().endswith(SUFFIX)


def _refuse_image_graph(proto: ModelProto) -> None:
    """Refuse a file of `exporting.image_model`, which takes images where a network takes planes."""
    meta = _metadata(proto)
    if "io" in meta:
        raise ModelError(
            f"was written by srcnn-rt export --io-dtype {meta['io']} for other runtimes, and takes "
            f"{meta.get('layout', 'whole')} images itself; "
            f"use the model that it was made of instead: {meta.get('model', 'unknown')}"
        )


def _range(meta: Mapping[str, str], facts: GraphFacts) -> ValueRange:
    usual = STUDIO_RANGE if facts.channels == 1 else "0..1"
    if facts.types[0] == "uint8":
        usual = "16..235" if facts.channels == 1 else "0..255"
    try:
        values = ValueRange.parse(meta.get("range", usual))
    except ArgumentError as error:
        raise ModelError(f"metadata {PREFIX}range: {error}") from error
    if len(values.gain) not in (1, facts.channels):
        raise ModelError(
            f"metadata {PREFIX}range needs 1 or {facts.channels} numbers, got {len(values.gain)}"
        )
    return values


def _table(meta: Mapping[str, str], key: str) -> Mapping[str, Any]:
    try:
        table = json.loads(meta.get(key, "{}"))
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, deep nesting
        raise ModelError(f"metadata {PREFIX}{key} is not JSON") from error
    if not isinstance(table, dict):
        raise ModelError(f"metadata {PREFIX}{key} is not a JSON object")
    scores = table.get("psnr", {})
    if not isinstance(scores, dict) or not all(_is_db(v) for v in scores.values()):
        raise ModelError(f"metadata {PREFIX}{key}: psnr must be an object of numbers in dB")
    return table


def _is_db(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1000
