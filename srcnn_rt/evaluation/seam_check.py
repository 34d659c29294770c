"""Verification that a model's tiled output equals its untiled output, and that its margin is exact.

`verify` runs four checks on the graph that the engine executes:

- *real weights*: the tiled and the untiled output agree within a rounding tolerance.
- *integer weights*: with weights of -1, 0 and 1 they are bit-identical. The check applies if all sums
  are exact in float32, which a run with absolute weights establishes.
- *outside the margin*: replacing all samples beyond the margin of a core does not change the core.
- *inside the margin*: replacing the outermost samples of the margin changes the core.

If the engine adds the output of a network to a bicubic image, the first check covers the sum and the
other three cover the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .._system.cpu import available_threads
from ..backends.onnxruntime import Session, create
from ..engine import Engine
from ..errors import ModelError
from ..execution.self_check import whole
from ..models import prepare, spec
from ..models.analysis import InterfaceOptions
from ..models.margins import rules_for
from ..models.spec import ModelSpec
from ..tiling.geometry import MIN_TILE, Rules, ceil_to

Outcome = tuple[bool | None, str]  # of a check: whether it passed, and the detail

TOLERANCE = 1e-5  # of full scale, for models in float32
TOLERANCE_FLOAT16 = 2e-3
MAX_EXACT = 2**24  # float32 represents all integers up to here
_TILES = (MIN_TILE, MIN_TILE + 5, 3 * MIN_TILE)
_SIZE_CLASSES = 3  # image sizes tried modulo the period
_FIXED_SIZE = None, "a model of fixed size cannot process a larger image untiled"
_SEEDS = 8  # random weights tried until a core responds to a sample
_LINEAR = frozenset(("Conv", "ConvTranspose", "MatMul"))  # input 1 holds the weights, input 2 the bias
# Operators whose output is integer if their inputs are.
_INTEGER_OPS = _LINEAR - {"MatMul"} | frozenset(
    ("Add", "Clip", "Concat", "DepthToSpace", "Gather", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad",
     "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check.

    Attributes
    ----------
    name : str
    passed : bool or None
        None if the check does not apply to the model.
    detail : str
        What was measured, or why the check does not apply.
    """

    name: str
    passed: bool | None
    detail: str


def verify(model: str | Path, interface_options: InterfaceOptions | None = None) -> list[Check]:
    """Verify that a model can be tiled without seams.

    Parameters
    ----------
    model : str or Path
        As for `spec.load`.
    interface_options : InterfaceOptions, optional

    Returns
    -------
    list of Check
        Real weights, integer weights, outside the margin, inside the margin.

    Raises
    ------
    SourceMissingError, ModelError
        If the model cannot be tiled at all.
    """
    data, described = spec.load(model, interface_options)
    full = network = _Model.from_bytes(data, described.name)
    if full.spec.equivariant:
        network = _Model.from_bytes(prepare.network_program(data, described).data, described.name)
    checks = {
        "real weights": _check_real_weights(full),
        "integer weights": _check_integer_weights(network),
        "outside the margin": _check_outside_margin(network),
        "inside the margin": _check_inside_margin(network),
    }
    return [Check(name, passed, detail) for name, (passed, detail) in checks.items()]


@dataclass(frozen=True, slots=True)
class _Model:
    """A model under test. Its input range is [0, 1], so that it is fed the samples themselves."""

    data: bytes
    spec: ModelSpec

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> _Model:
        proto = spec.parse(data)
        metadata = {p.key: p.value for p in proto.metadata_props}
        helper.set_model_props(proto, metadata | {f"{spec.PREFIX}range": "0..1"})
        data = bytes(proto.SerializeToString())
        return cls(data, spec.describe(data, name))

    @property
    def has_fixed_size(self) -> bool:
        """Whether the model takes one size only, so that no larger image has an untiled output."""
        return any(r.fixed is not None for r in rules_for(self.spec))


# Tiled against untiled


def _check_real_weights(model: _Model) -> Outcome:
    kind = model.spec.facts.types[0]
    if model.has_fixed_size:
        return _FIXED_SIZE
    if kind == "uint8":
        return None, "not applicable to uint8 models"
    rng = np.random.default_rng(0)
    images = [rng.random(shape, np.float32) for shape in _image_shapes(model.spec)]
    worst, count = _largest_difference(model.data, model.spec, images)
    limit = TOLERANCE if kind == "float32" else TOLERANCE_FLOAT16
    text = f"largest difference {worst:.2g} of full scale in {count} images, allowed {limit:g}"
    return worst <= limit, text


def _check_integer_weights(model: _Model) -> Outcome:
    types = model.spec.facts.types
    if model.has_fixed_size:
        return _FIXED_SIZE
    if types != ("float32", "float32"):
        return None, f"not applicable to {types[0]} models"
    proto = spec.parse(model.data)
    inexact = sorted({n.op_type for n in _sample_nodes(proto)} - _INTEGER_OPS)
    if inexact:
        return None, f"sums are not exact after {', '.join(inexact)}"
    for taps in (4, 2, 1):
        integer = _with_integer_weights(proto, taps)
        if (largest := _largest_activation(integer, model.spec)) < MAX_EXACT:
            break
    else:
        return None, f"activations reach {largest:.2g}; float32 sums are exact up to 2^24 only"
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 3, shape).astype(np.float32) for shape in _image_shapes(model.spec)]
    worst, count = _largest_difference(integer.SerializeToString(), model.spec, images)
    return worst == 0, f"largest difference {worst:g} in {count} images, must be 0"


def _image_shapes(described: ModelSpec) -> Iterator[tuple[int, int, int]]:
    """Yield shapes (H, W, C) around every edge case of tiling with `_TILES`."""
    y, x = rules_for(described)
    tile = MIN_TILE + 2 * described.margin
    minimum = max(1, y.minimum, x.minimum)
    sizes = [
        (minimum, minimum + 1),
        (tile, tile + 1),
        (tile - 1, 2 * tile),
        (2 * tile + 3, tile + MIN_TILE + 1),
        (3 * tile + 5, 3 * tile + 2),
    ]
    # A model may round differently for each size modulo its period.
    for k in range(1, _SIZE_CLASSES + 1):
        sizes.append(tuple(ceil_to(2 * tile, r.period) + k * r.multiple for r in (y, x)))  # type: ignore[arg-type]
    for h, w in sizes:
        yield h, w, described.channels


def _largest_difference(
    data: bytes, described: ModelSpec, images: list[NDArray[np.float32]]
) -> tuple[float, int]:
    """Compare tiled with untiled outputs.

    Returns
    -------
    worst : float
        Largest difference, relative to the largest output sample (at least 1).
    count : int
        Number of comparisons.
    """
    session, engines = Session(data), [Engine(data, provider="cpu", tile=tile) for tile in _TILES]
    worst, channels = 0.0, described.channels
    for image in images:
        expected = whole(session, described, image)
        largest = max(1.0, float(np.abs(expected).max()))
        for engine in engines:
            got = engine.upscale(
                image, layout="HWC", bands=channels > 4, alpha=channels in (2, 4), data_range=(0, 1)
            )
            worst = max(worst, float(np.abs(got - expected).max()) / largest)
    return worst, len(images) * len(engines)


# The margin


@dataclass(frozen=True, slots=True)
class _Core:
    """A core of one period in the middle of a window, along one axis.

    Attributes
    ----------
    axis : int
        0 for rows, 1 for columns.
    start, stop : int
        The core, in LR samples from the start of the window.
    before, after : int
        LR samples that the core depends on, on either side.
    window : tuple of int
        Height and width of the window.
    """

    axis: int
    start: int
    stop: int
    before: int
    after: int
    window: tuple[int, int]

    def index(self, rows: Any) -> tuple[Any, ...]:
        """Return the index of rows (or columns) into an array (N, C, H, W)."""
        return (slice(None),) * (2 + self.axis) + (rows,)

    def differs(
        self, session: Session, described: ModelSpec, a: NDArray[np.float32], b: NDArray[np.float32]
    ) -> bool:
        """Return whether two windows give different cores."""
        cut = 0 if described.padded else described.margin
        index = self.index(slice((self.start - cut) * described.scale, (self.stop - cut) * described.scale))
        return not np.array_equal(session.run(a)[index], session.run(b)[index])


def _check_outside_margin(model: _Model) -> Outcome:
    replaced = 0
    session = Session(_with_random_weights(model.data, 0))
    for core in _cores(model.spec):
        rows = np.arange(core.window[core.axis])
        outside = core.index((rows < core.start - core.before) | (rows >= core.stop + core.after))
        image, other = (_random_windows(model.spec, core.window, seed) for seed in (1, 2))
        changed = image.copy()
        changed[outside] = other[outside]
        if core.differs(session, model.spec, image, changed):
            return False, f"the core depends on samples beyond {core.before} and {core.after} LR samples"
        replaced += int(outside[-1].sum())
    if not replaced:
        return None, "the model's fixed size leaves nothing outside the margin"
    return True, f"{replaced} rows and columns replaced, no core sample changes"


def _check_inside_margin(model: _Model) -> Outcome:
    checked = 0
    for core in _cores(model.spec):
        for side, extent, row in (
            ("before", core.before, core.start - core.before),
            ("after", core.after, core.stop + core.after - 1),
        ):
            if extent == 0 or not 0 <= row < core.window[core.axis]:
                continue
            checked += 1
            if not any(_responds(model, core, row, seed) for seed in range(_SEEDS)):
                lines = "rows" if core.axis == 0 else "columns"
                return False, f"the core does not depend on all {extent} {lines} {side} it"
    if not checked:
        return None, "there is no margin, or it lies outside the model's fixed size"
    return True, f"cores depend on the outermost samples of {checked} margins"


def _responds(model: _Model, core: _Core, row: int, seed: int) -> bool:
    """Return whether a core changes with one row (or column), for random weights."""
    image = _random_windows(model.spec, core.window, seed)
    changed = image.copy()
    changed[core.index(row)] += np.float32(3)
    return core.differs(Session(_with_random_weights(model.data, seed)), model.spec, image, changed)


def _cores(described: ModelSpec) -> Iterator[_Core]:
    """Yield a core for either axis."""
    rules = rules_for(described)
    margin = 0 if described.padded else described.margin
    for axis, facts in enumerate((described.facts.y, described.facts.x)):
        height, width = (_window_size(rule, described) for rule in rules)
        room = (height, width)[axis] - 2 * margin
        start = margin + room // 2 // facts.period * facts.period
        yield _Core(axis, start, start + facts.period, facts.before, facts.after, (height, width))


def _window_size(rule: Rules, described: ModelSpec) -> int:
    """Return a window size with room for a core, two margins and samples outside them."""
    margin = described.margin
    if rule.fixed is not None:
        return rule.fixed if described.padded else rule.fixed + 2 * margin
    core = 4 * rule.period + 2 * margin + 8
    if described.padded:
        return rule.extended(core + 2 * margin + 8)
    return ceil_to(core, rule.period) + 2 * margin


def _random_windows(described: ModelSpec, size: tuple[int, int], seed: int) -> NDArray[np.float32]:
    shape = (described.batch or 1, described.channels, *size)
    white = 255 if described.facts.types[0] == "uint8" else 1
    return np.random.default_rng(seed).random(shape, np.float32) * np.float32(white)


# Models with other weights


def _sample_nodes(proto: ModelProto) -> list[NodeProto]:
    """Return the nodes whose inputs depend on samples, not on shapes alone."""
    weights = {t.name for t in proto.graph.initializer}
    dependent = {v.name for v in proto.graph.input if v.name not in weights}
    found = []
    for node in proto.graph.node:
        if node.op_type not in ("Shape", "Size") and dependent.intersection(node.input):
            dependent.update(node.output)
            found.append(node)
    return found


def _reweighted(proto: ModelProto, change: Callable[[NDArray[Any], bool], NDArray[Any]]) -> ModelProto:
    """Return a copy with other weights: `change` gets each array, and whether it is a kernel or a bias."""
    made = deepcopy(proto)
    linear = [n for n in made.graph.node if n.op_type in _LINEAR]
    kernels = {n.input[1] for n in linear}
    biases = {n.input[2] for n in linear if len(n.input) > 2}
    for tensor in made.graph.initializer:
        if tensor.name in kernels | biases:
            array = numpy_helper.to_array(tensor)
            new = change(array, tensor.name in kernels).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    return made


def _with_integer_weights(proto: ModelProto, taps: int) -> ModelProto:
    """Return a copy with weights of -1, 0 and 1 and at most `taps` non-zero ones per filter."""
    rng = np.random.default_rng(0)

    def change(array: NDArray[Any], is_kernel: bool) -> NDArray[Any]:
        if not is_kernel:
            return rng.integers(-1, 2, array.shape)
        new = np.zeros(array.shape, np.float32)
        for k, row in enumerate(new.reshape(array.shape[0], -1)):
            places = rng.integers(0, len(row), taps)
            places[0] = (0, -1)[k % 2]  # a corner, which a margin one sample short would miss
            row[places] = rng.choice([-1, 1], taps)
        return new

    return _reweighted(proto, change)


def _with_random_weights(data: bytes, seed: int) -> bytes:
    """Return a model with random weights, in which no tap happens to be zero."""
    rng = np.random.default_rng(seed)

    def change(array: NDArray[Any], is_kernel: bool) -> NDArray[Any]:
        if array.dtype.kind != "f":
            return array
        deviation = 1.4 / np.sqrt(max(1, array[0].size)) if is_kernel else 0.1
        return rng.normal(0, deviation, array.shape)

    return bytes(_reweighted(spec.parse(data), change).SerializeToString())


def _largest_activation(proto: ModelProto, described: ModelSpec) -> float:
    """Return a bound of every partial sum: the largest output with absolute weights and inputs of 2."""
    bound = _reweighted(proto, lambda array, is_kernel: np.abs(array))
    outputs = {o.name for o in bound.graph.output}
    for node in _sample_nodes(bound):
        if (node.op_type in _LINEAR or node.op_type in ("Add", "Sub")) and node.output[0] not in outputs:
            bound.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))
    size = [_window_size(rule, described) for rule in rules_for(described)]
    image = np.full((described.batch or 1, described.channels, *size), 2, np.float32)
    try:
        session = create(bound.SerializeToString(), ["CPUExecutionProvider"], available_threads())
        found = session.run(None, {session.get_inputs()[0].name: image})
    except Exception as error:  # ONNX Runtime's errors have no other common base class
        raise ModelError(f"the model cannot be run for its verification: {error}") from error
    return max(float(np.abs(array).max()) for array in found)
