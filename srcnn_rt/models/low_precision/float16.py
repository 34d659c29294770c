"""A graph whose layers compute in float16, for a GPU's tensor cores: float32 in, float32 out.

float16 keeps eleven bits, eight times finer than bfloat16, but ends at 65,504. Tensor cores multiply it
exactly and sum in float32, so a layer rounds its input, its weights and, once, its output. A network that
is added to bicubic rounds only what it adds.

Weights are rounded together (`rounding.round_together`): filters that sum to zero still do.

Nothing overflows: where bounds of every value, for images up to a range beyond black and white,
or values measured on drawn images, come near the largest float16, the image and all biases are
divided by a power of two and the result is multiplied by it. That is exact, for the layers that are
common here are homogeneous. Other networks are refused.

Convolutions become float16, and what only moves or maps the samples of those; all else stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError, ProviderError
from ..optimize.graph_edit import Conv, Edit, channels
from ..optimize.value_bounds import Bounds
from .float16_casts import Halves
from .loss import Run, drawn, errors, lost
from .rounding import round_together, to_float16
from .scaling import divide

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..prepare import Program

LIMIT_DB = 0.01  # what fast may lose at most
_MAX = 2.0**15  # half of the largest float16: rounding makes some values larger
_BEYOND = 1.0  # ranges beyond black and white for which bounds are taken
_HEADROOM = 8.0  # of values that were only measured
_FINE = 10  # power of two by which values may be divided: float16 has full precision down to 2⁻¹⁴
_SIDE = 64  # LR pixels of the windows on which is measured, and margins
_DRAWN = 2

RunModel = Callable[["ModelProto", NDArray[np.float32]], NDArray[np.float32]]
"""Runs a graph in float32 on one window."""


@dataclass(frozen=True, slots=True)
class Half:
    """A graph for float16.

    Attributes
    ----------
    model : float32 in and out, as the file's
    layers : how many nodes compute in float16; 0 where the file has none that could, or has its own
    power : values inside are 2 to the power of minus this times what they were
    proven : whether bounds show that nothing overflows; else it was measured on drawn images
    """

    model: ModelProto
    layers: int
    power: int
    proven: bool


def for_float16(
    model: ModelProto, black: float = 0.0, white: float = 1.0, run: RunModel | None = None
) -> Half:
    """Prepare a rewritten model; the function stays the same but for rounding.

    Parameters
    ----------
    model : never changed
    black, white : what its input calls so
    run : runs graphs on the CPU, to measure values that no bound is known for

    Raises
    ------
    ProviderError
        If values could be too large for float16 and dividing them is not exact; or neither bounds nor
        `run` say how large they are.
    """
    edit = Edit(model)
    halves = Halves(model)
    if len(edit.inputs) != 1 or not halves.nodes:
        return Half(edit.model(), 0, 0, True)
    largest, proven = _largest(model, halves.tensors, (black, white), run)
    power = max(0, math.ceil(math.log2(largest / _MAX))) if largest > 0 else 0
    if power > _FINE or (power and not divide(edit, power)):
        raise ProviderError(
            f"precision fast cannot be used: values up to {largest:.3g} are too large for float16"
        )
    _round_layers(edit)
    halves = Halves(edit.model())
    return Half(_framed(halves.convert(), 2.0**power), len(halves.nodes), power, proven)


def float16_loss(program: Program, run: Run, exact: Run) -> float:
    """Return about how much PSNR a model loses in float16, dB; not a number where values overflow.

    Parameters
    ----------
    program : what is run
    run : runs the graph that `for_float16` made, where it is to be used
    exact : runs ``program.data`` in float32
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return lost(program.spec, errors(program, run, exact))


def _round_layers(edit: Edit) -> None:
    for node in list(edit.nodes):
        conv = Conv.of(edit, node)
        if conv is not None and conv.kernel != (1, 1):
            edit.replace([node], [conv.make(edit, weight=round_together(conv.weight, to_float16))])


def _largest(
    model: ModelProto, names: list[str], span: tuple[float, float], run: RunModel | None
) -> tuple[float, bool]:
    """Return the largest magnitude that any of these tensors can have, and whether that is proven."""
    beyond = _BEYOND * abs(span[1] - span[0])
    bounds = Bounds(Edit(model), channels(model), min(span) - beyond, max(span) + beyond)
    found = [bounds.of(name) for name in names]
    proven = float(np.max([np.inf if pair is None else np.abs(pair).max() for pair in found]))
    if proven <= _MAX * 2**_FINE:
        return proven, True
    if run is None:
        raise ProviderError("precision fast cannot be used: nothing bounds the values, float16 ends at 65504")
    probe = _probe(model, names)
    try:
        measured = max(float(run(probe, _in_range(x, span)).max()) for x in _images(model))
    except ModelError as error:
        raise ProviderError(f"precision fast cannot be used: {error}") from error
    if not math.isfinite(measured):
        raise ProviderError("precision fast cannot be used: values are no numbers")
    return _HEADROOM * measured, False


def _in_range(image: NDArray[np.float32], span: tuple[float, float]) -> NDArray[np.float32]:
    return np.asarray(span[0] + (span[1] - span[0]) * image, np.float32)


def _images(model: ModelProto) -> list[NDArray[np.float32]]:
    """Return windows from black (0) to white (1): `_DRAWN` like photographs, and extreme ones.

    Raises
    ------
    ModelError
        If it cannot be said which sizes the model takes.
    """
    from ..analysis import analyse

    facts = analyse(model)
    sides = []
    for axis in (facts.y, facts.x):
        step = math.lcm(axis.period, axis.multiple)
        # A valid model takes sizes from its least one on, others multiples.
        minimum = axis.minimum if facts.kind == "valid" else 0
        more = max(_SIDE, axis.minimum - minimum)
        sides.append(axis.fixed or minimum + -(-more // step) * step)
    rng = np.random.default_rng(0)
    images = [drawn(max(sides), seed)[: sides[0], : sides[1]] for seed in range(_DRAWN)]
    images += [np.full(sides, v, np.float32) for v in (0, 1)]
    images += [rng.integers(0, 2, sides).astype(np.float32), rng.random(sides, np.float32)]
    shape = (facts.batch or 1, facts.channels, *sides)
    return [np.ascontiguousarray(np.broadcast_to(x, shape)) for x in images]


def _probe(model: ModelProto, names: list[str]) -> ModelProto:
    """Return the graph whose only output is the largest magnitude in these tensors."""
    from onnx import ModelProto, TensorProto, helper

    probe, target = ModelProto(), Edit(model).fresh("largest")
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, [1] * 4))
    edit, tops = Edit(probe), []
    for name in names:
        size = edit.node("Abs", [name], "size")
        top = edit.node("ReduceMax", size.output, "top", keepdims=0)
        edit.nodes += [size, top]
        tops.append(top.output[0])
    maximum = edit.node("Max", tops, "most")
    shape = edit.weight("most.shape", np.array([1, 1, 1, 1], np.int64))
    edit.nodes += [maximum, edit.node("Reshape", [maximum.output[0], shape], "most.shaped", target)]
    return edit.model()


def _framed(model: ModelProto, factor: float) -> ModelProto:
    """Return the graph whose input is divided by `factor` first and whose output is multiplied by it."""
    if factor == 1:
        return model
    edit = Edit(model)
    (source,) = edit.inputs
    (target,) = edit.outputs
    divided = edit.node("Mul", [source, edit.weight("share", np.array(1 / factor))], "share")
    edit.rename(source, divided.output[0])
    inside = edit.fresh(f"{target}.inside")
    for node in edit.nodes:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = inside if name == target else name
    back = edit.node("Mul", [inside, edit.weight("factor", np.array(factor))], "factor", target)
    edit.nodes = [divided, *edit.nodes, back]
    return edit.model()
