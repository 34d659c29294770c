"""The proof for one model: tiled equals whole, and the margin is neither short nor long.

Four checks, each on the model as the runtime runs it:

- *real weights*: tiled against whole, within the tolerance of the promise;
- *integer weights*: the same graph with weights of -1, 0, 1, bitwise (where the sums stay
  exact in float32: the largest activation is bounded by a run with absolute weights);
- *outside*: whatever lies just outside the margin is replaced; the core must not change;
- *inside*: the outermost samples inside it are replaced; the core must change.

Of a network that is added to bicubic the first check is of the sum, and the others are of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..backends.onnxruntime import Session
from ..engine import Engine
from ..errors import ModelError
from ..execution.self_check import whole
from ..models import prepare, spec
from ..models.margins import rules_for
from ..models.spec import ModelSpec
from ..tiling.geometry import MIN_TILE, Rules, ceil_to

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..models.analysis import Shaping

TOLERANCE = 1e-5  # of full scale
EXACT = 2**24  # float32 counts this far
_CLASSES = 3  # of sizes modulo the period that are tried beside those around tiles
_TILES = (MIN_TILE, MIN_TILE + 5, 3 * MIN_TILE)
_WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "MatMul": 1}
# Operators that keep whole numbers whole; after any other, sums are rounded.
_WHOLE = frozenset(
    ("Add", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Gather", "Identity", "Max", "MaxPool",
     "Min", "Neg", "Pad", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub",
     "Transpose", "Unsqueeze")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """One check: whether it held (None: it does not apply), and what was seen."""

    name: str
    passed: bool | None
    detail: str


def verify(model: str | Path, shaping: Shaping | None = None) -> list[Check]:
    """Prove the promise for one model.

    Parameters
    ----------
    model, shaping : as for `spec.load`

    Raises
    ------
    SourceMissingError, ModelError
        If the model cannot be tiled at all.
    """
    data, described = spec.load(model, shaping)
    inner = prepare.network(data, described)
    data, described = _fed_as_is(data, described.name)
    first = _tiled_equals_whole(data, described)
    if described.equivariant:
        data, described = _fed_as_is(inner, described.name)
    return [first, _integers(data, described), _outside(data, described), _inside(data, described)]


def _fed_as_is(data: bytes, name: str) -> tuple[bytes, ModelSpec]:
    """Return a model whose range is [0, 1] whatever its file says: it is fed the samples themselves."""
    proto = _parse(data)
    key = f"{spec.PREFIX}range"
    kept = {p.key: p.value for p in proto.metadata_props}
    del proto.metadata_props[:]
    for k, value in {**kept, key: "0..1"}.items():
        proto.metadata_props.add(key=k, value=value)
    data = bytes(proto.SerializeToString())
    return data, spec.describe(data, name)


def _shapes(described: ModelSpec) -> Iterator[tuple[int, int]]:
    """Yield image shapes around every edge case of the geometry for the tiles of `_TILES`."""
    rules = rules_for(described)
    tile = MIN_TILE + 2 * described.margin
    minimum = max(1, *(r.minimum for r in rules))
    yield minimum, minimum + 1
    yield tile, tile + 1
    yield tile - 1, 2 * tile
    yield 2 * tile + 3, tile + MIN_TILE + 1
    yield 3 * tile + 5, 3 * tile + 2
    # Sizes that the model takes in every class modulo the period: it may round in each otherwise.
    y, x = rules
    for k in range(1, _CLASSES + 1):
        rows, columns = (ceil_to(2 * tile, r.period) + k * r.multiple for r in (y, x))
        yield rows, columns


def _compare(engines: list[Engine], session: Session, described: ModelSpec, values: str) -> tuple[float, int]:
    """Return the largest difference, relative to the largest output, and how many were compared."""
    rng = np.random.default_rng(0)
    worst, count = 0.0, 0
    for shape in _shapes(described):
        size = (*shape, described.channels)
        image = (
            rng.random(size, np.float32) if values == "real" else rng.integers(0, 3, size).astype(np.float32)
        )
        expected = whole(session, described, image)
        top = max(1.0, float(np.abs(expected).max()))
        for engine in engines:
            got = engine.upscale(image, bands=described.channels > 4, data_range=(0, 1))
            worst = max(worst, float(np.abs(got - expected).max()) / top)
            count += 1
    return worst, count


def _is_fixed(described: ModelSpec) -> bool:
    """Return whether no larger image can be run whole, so that there is nothing to compare with."""
    return any(r.fixed is not None for r in rules_for(described))


def _tiled_equals_whole(data: bytes, described: ModelSpec) -> Check:
    if _is_fixed(described):
        return Check("real weights", None, "a model of fixed size cannot run a larger image whole")
    if described.facts.types[0] == "uint8":
        return Check("real weights", None, "not run on models of bytes")
    engines = [Engine(data, "cpu", tile) for tile in _TILES]
    worst, count = _compare(engines, Session(data), described, "real")
    limit = TOLERANCE if described.facts.types[0] == "float32" else 2e-3
    text = f"largest difference {worst:.2g} of full scale in {count} images, allowed {limit:g}"
    return Check("real weights", worst <= limit, text)


def _integers(data: bytes, described: ModelSpec) -> Check:
    name = "integer weights"
    if _is_fixed(described):
        return Check(name, None, "a model of fixed size cannot run a larger image whole")
    if described.facts.types != ("float32", "float32"):
        return Check(name, None, f"not for {described.facts.types[0]} models")
    proto = _parse(data)
    rounding = sorted({n.op_type for n in _nodes_on_samples(proto)} - _WHOLE)
    if rounding:
        return Check(name, None, f"sums are not exact after {', '.join(rounding)}")
    for taps in (4, 2, 1):
        made = _with_integers(proto, taps)
        top = _largest_activation(made, described)
        if top < EXACT:
            break
    else:
        return Check(name, None, f"activations reach {top:.2g}, over 2^24, where float32 stops being exact")
    exact = made.SerializeToString()
    engines = [Engine(exact, "cpu", tile) for tile in _TILES]
    worst, count = _compare(engines, Session(exact), described, "integer")
    return Check(name, worst == 0, f"largest difference {worst:g} in {count} images, must be 0")


def _outside(data: bytes, described: ModelSpec) -> Check:
    name = "outside the margin"
    checked = 0
    for axis, before, after, size, core in _places(described):
        session = Session(_randomised(data, 0))
        image = _image(described, size, 1)
        changed = image.copy()
        other = _image(described, size, 2)
        rows = np.arange(size[axis])
        out = (rows < core[0] - before) | (rows >= core[1] + after)
        index: list[Any] = [slice(None)] * 4
        index[2 + axis] = out
        changed[tuple(index)] = other[tuple(index)]
        checked += int(out.sum())
        a, b = (_core(session.run(p), described, axis, core) for p in (image, changed))
        if not np.array_equal(a, b):
            return Check(name, False, f"the core changes with samples beyond {before} and {after} LR samples")
    if not checked:
        return Check(name, None, "the model's fixed size leaves nothing outside")
    return Check(name, True, f"{checked} rows and columns replaced, no core sample changes")


def _inside(data: bytes, described: ModelSpec) -> Check:
    name = "inside the margin"
    checked = 0
    for axis, before, after, size, core in _places(described):
        for row, extent in ((core[0] - before, before), (core[1] + after - 1, after)):
            if extent == 0 or not 0 <= row < size[axis]:
                continue
            checked += 1
            if not any(_changes(data, described, axis, row, size, core, seed) for seed in range(8)):
                side = "before" if row < core[0] else "after"
                axis_name = "rows" if axis == 0 else "columns"
                return Check(name, False, f"{extent} {axis_name} {side} the core are more than it reads")
    if not checked:
        return Check(name, None, "there is no margin, or it lies outside the model's fixed size")
    return Check(name, True, f"the outermost samples of {checked} margins are read")


def _changes(
    data: bytes,
    described: ModelSpec,
    axis: int,
    row: int,
    size: tuple[int, int],
    core: tuple[int, int],
    seed: int,
) -> bool:
    session = Session(_randomised(data, seed))
    image = _image(described, size, seed)
    changed = image.copy()
    index: list[Any] = [slice(None)] * 4
    index[2 + axis] = row
    changed[tuple(index)] += np.float32(3)
    a, b = (_core(session.run(p), described, axis, core) for p in (image, changed))
    return not np.array_equal(a, b)


def _places(
    described: ModelSpec,
) -> Iterator[tuple[int, int, int, tuple[int, int], tuple[int, int]]]:
    """Yield (axis, before, after, window size, core): a core of one period amid a window."""
    rules = rules_for(described)
    facts = (described.facts.y, described.facts.x)
    for axis in (0, 1):
        a, p, m = facts[axis], facts[axis].period, described.margin
        size = [_window(rules[k], m, described.padded) for k in (0, 1)]
        start = m + (size[axis] - 2 * m) // 2 // p * p if not described.padded else size[axis] // 2 // p * p
        yield axis, a.before, a.after, (size[0], size[1]), (start, start + p)


def _window(rule: Rules, margin: int, padded: bool) -> int:
    """Return a window size with room for a core amid two margins and something outside."""
    if rule.fixed is not None:
        return rule.fixed if padded else rule.fixed + 2 * margin
    core = 4 * rule.period + 2 * margin + 8
    if padded:
        return rule.extended(core + 2 * margin + 8)
    return -(-core // rule.period) * rule.period + 2 * margin


def _image(described: ModelSpec, size: tuple[int, int], seed: int) -> NDArray[np.float32]:
    shape = (described.batch or 1, described.channels, *size)
    top = 255 if described.facts.types[0] == "uint8" else 1
    return np.random.default_rng(seed).random(shape, np.float32) * np.float32(top)


def _core(out: NDArray[np.float32], described: ModelSpec, axis: int, core: tuple[int, int]) -> NDArray[Any]:
    s, lead = described.scale, 0 if described.padded else described.margin
    span = slice((core[0] - lead) * s, (core[1] - lead) * s)
    return out[:, :, span] if axis == 0 else out[:, :, :, span]


def _parse(data: bytes) -> ModelProto:
    import onnx

    return onnx.load_model_from_string(data)


def _nodes_on_samples(proto: ModelProto) -> list[Any]:
    """Return the nodes whose inputs depend on the image's samples, not on shapes alone."""
    weights = {t.name for t in proto.graph.initializer}
    flowing = {v.name for v in proto.graph.input if v.name not in weights}
    found = []
    for node in proto.graph.node:
        if node.op_type not in ("Shape", "Size") and flowing.intersection(node.input):
            flowing.update(node.output)
            found.append(node)
    return found


def _weights(proto: ModelProto) -> Iterator[tuple[Any, NDArray[Any], bool]]:
    """Yield (tensor, array, whether it is a kernel) of every float weight of a linear node."""
    from onnx import numpy_helper

    kernels = {n.input[_WEIGHTED[n.op_type]] for n in proto.graph.node if n.op_type in _WEIGHTED}
    biases = {n.input[2] for n in proto.graph.node if n.op_type in _WEIGHTED and len(n.input) > 2}
    for tensor in proto.graph.initializer:
        if tensor.name in kernels | biases:
            yield tensor, numpy_helper.to_array(tensor), tensor.name in kernels


def _with_integers(proto: ModelProto, taps: int) -> ModelProto:
    """Give every linear node weights of -1, 0, 1 with `taps` of them a filter, corners among them."""
    from onnx import numpy_helper

    made = type(proto)()
    made.CopyFrom(proto)
    rng = np.random.default_rng(0)
    for tensor, array, kernel in _weights(made):
        new = np.zeros(array.shape, np.float32)
        if kernel:
            flat = new.reshape(array.shape[0], -1)
            last = flat.shape[1] - 1
            for k, row in enumerate(flat):
                places = rng.integers(0, last + 1, taps)
                places[0] = (0, last)[k % 2]  # the corners: what a margin one short would miss
                row[places] = rng.choice([-1, 1], taps)
        else:
            new[...] = rng.integers(-1, 2, array.shape)
        tensor.CopyFrom(numpy_helper.from_array(new.astype(array.dtype), tensor.name))
    return made


def _randomised(data: bytes, seed: int) -> bytes:
    """Give every linear node random weights: no tap is zero by training."""
    from onnx import numpy_helper

    proto = _parse(data)
    rng = np.random.default_rng(seed)
    for tensor, array, kernel in _weights(proto):
        if array.dtype.kind != "f":
            continue
        fan = max(1, array[0].size) if kernel else 1
        new = rng.normal(0, 1.4 / np.sqrt(fan), array.shape) if kernel else rng.normal(0, 0.1, array.shape)
        tensor.CopyFrom(numpy_helper.from_array(new.astype(array.dtype), tensor.name))
    return bytes(proto.SerializeToString())


def _largest_activation(proto: ModelProto, described: ModelSpec) -> float:
    """Bound every partial sum: a run with absolute weights on the largest input."""
    from onnx import TensorProto, helper, numpy_helper

    bound = type(proto)()
    bound.CopyFrom(proto)
    for tensor, array, _ in _weights(bound):
        tensor.CopyFrom(numpy_helper.from_array(np.abs(array), tensor.name))
    linear = [
        n.output[0] for n in _nodes_on_samples(bound) if n.op_type in _WEIGHTED or n.op_type in ("Add", "Sub")
    ]
    known = {o.name for o in bound.graph.output}
    from ..backends.onnxruntime import runtime

    ort = runtime()
    bound.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in linear if name not in known
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    size = [_window(rule, described.margin, described.padded) for rule in rules_for(described)]
    feed = np.full((described.batch or 1, described.channels, *size), 2, np.float32)
    try:
        session = ort.InferenceSession(bound.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outs = session.run(None, {session.get_inputs()[0].name: feed})
    except Exception as error:  # the runtime's errors share no other base class
        raise ModelError(f"the proof cannot run the model: {error}") from error
    return max(float(np.abs(o).max()) for o in outs)
