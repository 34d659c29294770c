"""A graph prepared for float16 layers on a GPU's tensor cores, with float32 input and output.

float16 keeps eleven bits, so it is eight times finer than bfloat16, but its range ends at 65,504. Tensor
cores multiply it exactly and sum in float32, so a layer rounds its input, its weights and, once, its output.
A network that is added to bicubic rounds only the detail.

Convolutions become float16, and the nodes that only move or map their samples. All other nodes stay.

Weights are rounded together (`rounding.round_together`), so that filters that sum to zero still do.

Nothing overflows. Values are bounded by interval arithmetic for images somewhat beyond the model's range, or
measured on synthetic images. If they come near the largest float16, the image and all biases are divided by a
power of two, and the result is multiplied by it. That is exact for the usual layers, which are homogeneous.
Networks with other layers are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError, ProviderError
from ..optimize.graph_edit import Conv, Edit, channels
from ..optimize.node_builder import NodeBuilder
from ..optimize.value_bounds import Bounds
from .float16_casts import Float16Partition
from .loss import Run, output_errors, psnr_loss, synthetic_image
from .rounding import round_together, to_float16
from .scaling import divide

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..prepare import Program

LIMIT_DB = 0.01  # PSNR that precision fast may lose
_MAX_VALUE = 2.0**15  # half of the largest float16, because rounding makes some values larger
_MARGIN = 1.0  # of the input range on either side, in units of the range, for which bounds are computed
_HEADROOM = 8.0  # factor on values that were only measured
_MAX_POWER = 10  # power of two by which values may be divided: float16 has full precision down to 2⁻¹⁴
_SIDE = 64  # LR pixels of the windows that are measured, without margins
_PHOTOS = 2  # synthetic images among them


RunModel = Callable[["ModelProto", NDArray[np.float32]], NDArray[np.float32]]
"""Runs a graph in float32 on one window."""


@dataclass(frozen=True, slots=True)
class Float16Model:
    """A graph for float16.

    Attributes
    ----------
    model : ModelProto
        float32 in and out, like the file's.
    layers : int
        Number of nodes that compute in float16; 0 if none can, or if the file's own graph is float16.
    power : int
        Values inside are divided by 2 to this power.
    proven : bool
        Whether bounds prove that nothing overflows; else it was measured on synthetic images.
    """

    model: ModelProto
    layers: int
    power: int
    proven: bool


def for_float16(
    model: ModelProto, black: float = 0.0, white: float = 1.0, run: RunModel | None = None
) -> Float16Model:
    """Prepare an optimised model. The function stays the same except for rounding.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    black, white : float
        Range of values of its input.
    run : callable, optional
        Runs graphs on the CPU, to measure values that have no bound.

    Returns
    -------
    Float16Model
        The graph.

    Raises
    ------
    ProviderError
        If values could overflow float16 and cannot be divided exactly, or if neither bounds nor `run` tell
        how large they are.
    """
    edit = Edit(model)
    part = Float16Partition(model)
    if len(edit.inputs) != 1 or not part.nodes:
        return Float16Model(edit.model(), 0, 0, True)
    largest, proven = _largest(model, part.tensors, (black, white), run)
    power = max(0, math.ceil(math.log2(largest / _MAX_VALUE))) if largest > 0 else 0
    if power > _MAX_POWER or (power and not divide(edit, power)):
        raise ProviderError(
            f"precision fast cannot be used: values up to {largest:.3g} are too large for float16"
        )
    _round_layers(edit)
    part = Float16Partition(edit.model())
    return Float16Model(_framed(part.convert(), 2.0**power), len(part.nodes), power, proven)


def float16_loss(program: Program, run: Run, exact: Run) -> float:
    """Return the PSNR in dB that a model loses in float16, estimated; NaN or infinity if values overflow.

    Parameters
    ----------
    program : Program
        The model.
    run : callable
        Runs the graph of `for_float16` on the device.
    exact : callable
        Runs ``program.data`` in float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return psnr_loss(program.spec, output_errors(program, run, exact))


def _round_layers(edit: Edit) -> None:
    for node in list(edit.nodes):
        conv = Conv.of(edit, node)
        if conv is not None and conv.kernel != (1, 1):
            edit.replace([node], [conv.make(edit, weight=round_together(conv.weight, to_float16))])


def _largest(
    model: ModelProto, names: list[str], span: tuple[float, float], run: RunModel | None
) -> tuple[float, bool]:
    """Return the largest magnitude of these tensors, and whether it is proven."""
    beyond = _MARGIN * abs(span[1] - span[0])
    bounds = Bounds(Edit(model), channels(model), min(span) - beyond, max(span) + beyond)
    found = [bounds.of(name) for name in names]
    proven = float(np.max([np.inf if pair is None else np.abs(pair).max() for pair in found]))
    if proven <= _MAX_VALUE * 2**_MAX_POWER:
        return proven, True
    if run is None:
        raise ProviderError("precision fast cannot be used: values have no bound, and float16 ends at 65504")
    probe, low, width = _probe(model, names), span[0], span[1] - span[0]
    try:
        measured = max(float(run(probe, low + width * x).max()) for x in _images(model))
    except ModelError as error:
        raise ProviderError(f"precision fast cannot be used: {error}") from error
    if not math.isfinite(measured):
        raise ProviderError("precision fast cannot be used: values are NaN or infinite")
    return _HEADROOM * measured, False


def _images(model: ModelProto) -> list[NDArray[np.float32]]:
    """Return windows in [0, 1]: `_PHOTOS` synthetic images, and extreme ones.

    Raises
    ------
    ModelError
        If the sizes that the model takes are not known.
    """
    from ..analysis import analyse

    facts = analyse(model)
    sides = []
    for axis in (facts.y, facts.x):
        step = math.lcm(axis.period, axis.multiple)
        # A valid model takes sizes from its minimum on in steps, a padded one takes multiples.
        minimum = axis.minimum if facts.kind == "valid" else 0
        more = max(_SIDE, axis.minimum - minimum)
        sides.append(axis.fixed or minimum + -(-more // step) * step)
    rng = np.random.default_rng(0)
    images = [synthetic_image(max(sides), seed)[: sides[0], : sides[1]] for seed in range(_PHOTOS)]
    images += [np.full(sides, v, np.float32) for v in (0, 1)]
    images += [rng.integers(0, 2, sides).astype(np.float32), rng.random(sides, np.float32)]
    shape = (facts.batch or 1, facts.channels, *sides)
    return [np.ascontiguousarray(np.broadcast_to(x, shape)) for x in images]


def _probe(model: ModelProto, names: list[str]) -> ModelProto:
    """Return a graph whose only output is the largest magnitude of these tensors."""
    from onnx import TensorProto, helper

    probe, target = deepcopy(model), Edit(model).fresh("largest")
    del probe.graph.output[:]
    probe.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, [1] * 4))
    edit = Edit(probe)
    steps = NodeBuilder(edit, "probe")
    tops = [steps.op("ReduceMax", steps.op("Abs", name), keepdims=0) for name in names]
    steps.op("Reshape", steps.op("Max", *tops), steps.ints(1, 1, 1, 1), output=target)
    edit.nodes += steps.nodes
    return edit.model()


def _framed(model: ModelProto, factor: float) -> ModelProto:
    """Return a graph that divides its input by `factor` and multiplies its output by it."""
    if factor == 1:
        return model
    edit = Edit(model)
    (source,), (target,) = edit.inputs, edit.outputs
    maker = edit.maker(target)
    assert maker is not None
    steps = NodeBuilder(edit, "scaled")
    edit.rename(source, steps.times(source, 1 / factor))
    inside = edit.fresh(f"{target}.inside")
    edit.rename(target, inside)
    edit.rename_output(maker, target, inside)
    steps.op("Mul", inside, steps.number(factor), output=target)
    edit.nodes = [steps.nodes[0], *edit.nodes, steps.nodes[1]]
    return edit.model()
