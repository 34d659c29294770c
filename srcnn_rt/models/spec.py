"""`ModelSpec`: what a model is. The graph is the truth; metadata must agree with it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import ArgumentError, ModelError, SourceMissingError
from ..image import bicubic
from ..image.color import STUDIO_BLACK, STUDIO_WHITE
from .bundled import SUFFIX, bundled

if TYPE_CHECKING:
    from onnx import ModelProto

    from .analysis import GraphFacts, Interface, Shaping

PREFIX = "srcnn_rt."
FORMAT = "1"
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".pkl", ".safetensors")
LARGEST = 2**31 - 1  # bytes, protobuf's own limit
_LOOK = 2**24  # bytes; a larger file is looked at before it is read
DEFAULT_SCALE = 2
MAX_SCALE = 16
_ALIKE = 0.8  # of two names, from which one is taken for the other misspelt
_MIN, _MAX = 1e-30, 1e30  # of a value range, so that float32 holds it and its inverse
# What networks of luminance learnt, the field's (MATLAB's) 16 to 235 of 255.
STUDIO = f"{STUDIO_BLACK!r}..{STUDIO_WHITE!r}"
ANY_RANGE = "any"  # of a model that is equivariant
_IR_FREE = 4  # the version of ONNX's format from which weights need not be among the inputs
_BICUBIC = re.compile(r"bicubic-x([2-8])")


@dataclass(frozen=True, slots=True)
class ValueRange:
    """What a model calls black and white: it is fed ``gain · v + offset`` for v in [0, 1].

    Attributes
    ----------
    gain, offset : one number, or one a channel; the output is read by the inverse
    """

    gain: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"0..255"``, ``"-1..1"`` or ``"mean=0.45,0.44,0.40 std=0.23,0.22,0.22"``.

        Raises
        ------
        ArgumentError
            If it is none of these.
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
            if not all(_MIN < abs(v) < _MAX for v in found.gain) or any(abs(v) > _MAX for v in found.offset):
                raise ValueError  # 0 or infinite in float32
        except (ValueError, KeyError, OverflowError) as error:
            raise ArgumentError(
                f"a value range is LOW..HIGH or 'mean=A,B,C std=D,E,F', got {text!r}"
            ) from error
        return found

    @property
    def plain(self) -> bool:
        """Whether values are fed as they are."""
        return self == type(self)()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's name, geometry and history.

    Attributes
    ----------
    name : bundled name or file name without suffix
    architecture : e.g. ``"9-1-5"``, or ``"unknown"``
    scale : HR pixels an LR pixel
    margin : LR pixels a core needs around it, derived from the graph
    facts : all that the graph says: kind, margins per side, period, sizes, types
    channels : 1 (luminance or any band), 3 (RGB), 4 (RGBA), or a number of bands
    range : what it calls black and white: as its metadata say (`range_told`) or its types; else luminance is
        16/255 to 235/255, as the field has it, and colour 0 to 1
    equivariant : whether ``f(a·x + b) = a·f(x) + b`` for all a > 0 and b, so that no range of values matters
    adds_bicubic : whether the graph that runs gives what is added to the bicubic image (`program.prepare`);
        False of every file as it is
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
    facts: GraphFacts
    channels: int
    range: ValueRange
    equivariant: bool
    batch: int | None
    parameters: int
    size: int
    training: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    range_told: bool = False
    adds_bicubic: bool = False

    def summary(self) -> dict[str, Any]:
        """Return the analysis as plain values, in LR pixels where nothing else is said."""
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
        """LR step that window origins keep."""
        return self.facts.period


def default_model(scale: int | None, *, best: bool = False) -> str:
    """Return the name of the bundled model for a scale (2 if None).

    Parameters
    ----------
    scale : HR pixels an LR pixel
    best : 9-5-5, which is closer to the truth and several times slower, rather than 9-1-5

    Raises
    ------
    ModelError
        If none is bundled for it.
    """
    scale = DEFAULT_SCALE if scale is None else scale
    name = f"srcnn-{'955' if best else '915'}-x{scale}"
    if name not in bundled():
        raise ModelError(f"no bundled model for scale {scale}; bundled: {', '.join(bundled())}")
    return name


def load(model: str | Path | bytes, shaping: Shaping | None = None) -> tuple[bytes, ModelSpec]:
    """Find a model, read it and analyse its graph.

    Parameters
    ----------
    model : a bundled name, ``"bicubic-x2"`` … ``"bicubic-x8"``, the path of an ONNX file, or
        its bytes
    shaping : of its inputs and outputs

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
    data, name = shaped(model, shaping)
    try:
        return data, describe(data, name)
    except ModelError as error:
        if isinstance(model, bytes):
            raise
        raise ModelError(f"{model}: {error}") from error


def shaped(model: str | Path | bytes, shaping: Shaping | None = None) -> tuple[bytes, str]:
    """Return a model's bytes, with one image (N, C, H, W) in and one out if that is clear, and its name.

    Raises
    ------
    SourceMissingError, ModelError, ArgumentError
    """
    import onnx
    from google.protobuf.message import DecodeError

    from .analysis import Shaping, adapt, needs_shaping

    data, name = (model, "model") if isinstance(model, bytes) else read(model)
    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError):
        return data, name  # `parse` says so
    shaping = shaping or Shaping()
    if not needs_shaping(proto, shaping):
        return data, name
    try:
        parse(data)  # what must not be looked at any closer
        return bytes(adapt(proto, shaping).SerializeToString()), name
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from error
    except ModelError as error:
        raise ModelError(str(error) if isinstance(model, bytes) else f"{model}: {error}") from error


def read(model: str | Path) -> tuple[bytes, str]:
    """Return a model's bytes and its name, without looking into it.

    Raises
    ------
    SourceMissingError, ModelError
    """
    text = str(model)
    if match := _BICUBIC.fullmatch(text):
        proto = bicubic.model(int(match[1]))
        set_metadata(proto, architecture="bicubic", scale=int(match[1]), channels=1)
        return proto.SerializeToString(), text
    if text in bundled():
        return bundled()[text].read_bytes(), text
    path = Path(model)
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero in it
        there = False
    if not there:
        names = [*bundled(), *(f"bicubic-x{s}" for s in range(2, 9))]
        close = difflib.get_close_matches(text, names, 1, _ALIKE)
        known = f"; did you mean {close[0]}?" if close else f", nor a bundled model ({', '.join(bundled())})"
        raise SourceMissingError(f"{text}: no such file{'' if path.suffix == SUFFIX else known}")
    if path.is_dir():
        raise ModelError(f"{text}: a folder, not an ONNX file")
    if not path.is_file():  # a pipe or a device, which may never end
        raise ModelError(f"{text}: not a file, but a device or a pipe")
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ModelError(f"{text}: {size} bytes, an ONNX file holds at most {LARGEST}")
        with path.open("rb") as file:
            # A large file of something else is not read into memory first.
            if size > _LOOK and not _begins_like_onnx(file.read(1)):
                raise ModelError(f"{text}: not an ONNX model")
            file.seek(0)
            data = file.read(size)
    except OSError as error:
        raise ModelError(f"{text}: cannot be read: {error.strerror}") from error
    if path.suffix.lower() in CHECKPOINTS and not data[:1] == b"\x08":
        raise ModelError(f"{text}: a checkpoint, not an ONNX model; srcnn-rt export makes one of it")
    try:
        return _with_weights(data, path.parent), path.stem
    except ModelError as error:
        raise ModelError(f"{text}: {error}") from error


def _with_weights(data: bytes, folder: Path) -> bytes:
    """Return a model's bytes with the weights that it keeps in files beside it."""
    if b"location" not in data:
        return data
    import onnx
    from google.protobuf.message import DecodeError

    from .analysis import inline

    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError):
        return data  # `parse` says so
    return bytes(proto.SerializeToString()) if inline(proto, folder, LARGEST - len(data)) else data


def with_range(model: ModelSpec, told: str) -> ModelSpec:
    """Return a model's spec with the range of values that somebody says it has.

    Raises
    ------
    ArgumentError
        If it is not readable, has numbers for other channels, or contradicts the model.
    """
    values = ValueRange.parse(told)
    if len(values.gain) not in (1, model.channels):
        raise ArgumentError(f"a value range needs 1 or {model.channels} numbers, got {len(values.gain)}")
    if model.equivariant:
        raise ArgumentError(f"{model.name} needs no range of values: it is equivariant; leave {told} away")
    if model.range_told and values != model.range:
        known = ", ".join(
            f"{b:g}..{b + a:g}" for a, b in zip(model.range.gain, model.range.offset, strict=True)
        )
        raise ArgumentError(f"{model.name}: its file says that black and white are {known}, got {told}")
    return replace(model, range=values)


def interface(data: bytes) -> Interface:
    """Return what a model's bytes declare of its input and output."""
    from .analysis import Interface, check_sizes  # when a model is there: importing the package is lean

    proto = parse(data)
    declared = Interface.of(proto)
    check_sizes(proto, declared)  # what is asked for here is then run without an analysis
    return declared


def unbounded(data: bytes, name: str, scale: int) -> ModelSpec:
    """Describe a model that runs on whole images only, at a scale that was tried out."""
    from .analysis import unbounded as facts_of

    proto = parse(data)
    return _describe(proto, data, name, facts_of(proto, scale))


def describe(data: bytes, name: str) -> ModelSpec:
    """Analyse a model's bytes; errors do not name the file."""
    from .analysis import analyse

    proto = parse(data)
    return _describe(proto, data, name, analyse(proto))


def _describe(proto: ModelProto, data: bytes, name: str, facts: GraphFacts) -> ModelSpec:
    from .analysis import is_equivariant

    meta = {p.key.removeprefix(PREFIX): p.value for p in proto.metadata_props if p.key.startswith(PREFIX)}
    if facts.channels != facts.channels_out:
        raise ModelError(f"gives {facts.channels_out} channels for {facts.channels}: as many are needed")
    if facts.scale.denominator != 1:
        raise ModelError(f"the scale must be a whole number to be run, got {facts.scale}")
    if facts.scale > MAX_SCALE:
        raise ModelError(f"the scale must be at most {MAX_SCALE}, got {facts.scale}")
    found = {"scale": facts.scale, "channels": facts.channels}
    for key, value in found.items():
        if key in meta and meta[key] != str(value):
            raise ModelError(f"metadata say {key} {meta[key]}, the graph says {value}")
    if meta.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"metadata format must be {FORMAT}, got {meta['format']}: written by a newer version"
        )
    equivariant = facts.types == ("float32", "float32") and is_equivariant(proto)
    if meta.get("range") == ANY_RANGE and not equivariant:
        raise ModelError("metadata say that it is right in any range, but its graph is not equivariant")
    return ModelSpec(
        name=name,
        architecture=meta.get("architecture", "unknown"),
        scale=int(facts.scale),
        margin=facts.margin,
        facts=facts,
        channels=facts.channels,
        range=ValueRange() if equivariant else _range(meta, facts),
        range_told="range" in meta,
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
    """Replace the ``srcnn_rt.*`` keys of a model for luminance in studio swing, or for RGB in [0, 1].

    `values` says otherwise what its black and white are.
    """
    from .analysis import is_equivariant

    plain = values or (STUDIO if channels == 1 else "0..1")
    told = {
        "format": FORMAT,
        "architecture": architecture,
        "scale": str(scale),
        "channels": str(channels),
        "color": "y" if channels == 1 else "rgb",
        "range": ANY_RANGE if is_equivariant(proto) else plain,
        "training": json.dumps(dict(training or {})),
        "check": json.dumps(dict(check or {})),
    }
    kept = {p.key: p.value for p in proto.metadata_props if not p.key.startswith(PREFIX)}
    del proto.metadata_props[:]
    for key, value in {**kept, **{PREFIX + k: v for k, v in told.items()}}.items():
        proto.metadata_props.add(key=key, value=value)


def parse(data: bytes) -> ModelProto:
    """Read a model's bytes.

    Raises
    ------
    ModelError
        If they are no ONNX model, or one that must not be run (`graph.guard`).
    """
    import onnx
    from google.protobuf.message import DecodeError

    from .analysis import check

    if len(data) > LARGEST:
        raise ModelError(f"{len(data)} bytes, an ONNX file holds at most {LARGEST}")
    try:
        proto = onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError("not an ONNX model") from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError("not an ONNX model: no graph in it")
    if proto.ir_version < _IR_FREE and len(proto.graph.input) <= 1 and proto.graph.initializer:
        # Before it weights had to be among the inputs, and every runtime runs them without.
        proto.ir_version = _IR_FREE
        data = proto.SerializeToString()
    bare = [v.type.tensor_type for v in proto.graph.output if not v.type.tensor_type.HasField("shape")]
    if bare:  # ONNX's checker wants one; every runtime finds it by itself
        for kind in bare:
            kind.shape.SetInParent()
        data = proto.SerializeToString()
    check(proto, data)
    _refuse_image_path(proto)
    return proto


def is_own(model: str | Path | bytes) -> bool:
    """Return whether a model came with the package."""
    return isinstance(model, str) and (model in bundled() or _BICUBIC.fullmatch(model) is not None)


def is_model(name: str) -> bool:
    """Return whether a name means an ONNX model, bundled or a file, and not a checkpoint."""
    return name in bundled() or _BICUBIC.fullmatch(name) is not None or name.lower().endswith(SUFFIX)


def _refuse_image_path(proto: ModelProto) -> None:
    """Refuse what `pixelfile` wrote: it takes images where a network takes planes."""
    meta = {p.key.removeprefix(PREFIX): p.value for p in proto.metadata_props if p.key.startswith(PREFIX)}
    if "io" in meta:
        raise ModelError(
            f"was written by srcnn-rt export --io-dtype {meta['io']} for other runtimes, and takes "
            f"{meta.get('layout', 'whole')} images itself; "
            f"here use the model inside, {meta.get('model', 'which it was made of')}"
        )


def _begins_like_onnx(head: bytes) -> bool:
    """Return whether a byte is the tag of a field of ModelProto: its number and wire type."""
    return head[0] in (0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA, 0xD2)


def _range(meta: Mapping[str, str], facts: GraphFacts) -> ValueRange:
    usual = STUDIO if facts.channels == 1 else "0..1"
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
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in brackets
        raise ModelError(f"metadata {PREFIX}{key} is not JSON") from error
    if not isinstance(table, dict):
        raise ModelError(f"metadata {PREFIX}{key} is not a JSON object")
    scores = table.get("psnr", {})
    if not isinstance(scores, dict) or not all(_is_db(v) for v in scores.values()):
        raise ModelError(f"metadata {PREFIX}{key}: psnr must be an object of numbers in dB")
    return table


def _is_db(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1000
