"""Derivation of a model's scale, margins, period and kind from its ONNX graph.

The model is not run and the user need not describe it. The graph is traced on shapes alone at a large size
(`trace`), then read backward: which LR samples does one output period depend on? Every node has an exact
answer (`ops`, `receptive_field`). A graph may behave differently in each class of sizes modulo its period: it
may pad, round or resize by the remainder. So every class is traced, at two sizes each. If a tensor is scaled
differently than at the first size, the model does not take that size, and images are mirrored up to one that
it takes.

Two kinds of models can be tiled. *Valid* ones return s·(n - 2m) samples for n: nothing pads. *Padded* ones
return s·n: layers pad, so windows are clipped at the image's edges, and the margin is needed on inner sides
only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from ...errors import ModelError
from . import ops
from .tensors import Flow, Known
from .trace import Interface, Trace, computed, constants

if TYPE_CHECKING:
    from onnx import ModelProto

Kind = Literal["valid", "padded"]
Rates = dict[str, Fraction]  # samples per LR sample, of every tensor
# LR samples of a trace: far more than any margin, and a multiple of every usual period.
_SIZE = 6720
_MAX_PERIOD = 64
_MAX_MINIMUM = 256
_MAX_STEPS = 500_000  # nodes at all traced sizes: some seconds
_MAX_EXCESS = 4096  # samples of an axis beyond its share of the image: padding that is cropped later
_MIN_TILE = 8  # LR samples, `tiling.geometry.MIN_TILE`
_MAX_WINDOW = 2**30  # bytes of the largest tensor of the smallest window


@dataclass(frozen=True, slots=True)
class AxisFacts:
    """Facts of one spatial axis.

    Attributes
    ----------
    scale : Fraction
        HR samples per LR sample.
    before, after : int
        Margin on either side, in LR samples.
    period : int
        LR step that window origins must keep.
    multiple, minimum : int
        The model takes sizes from `minimum` on that are multiples of `multiple`.
    fixed : int or None
        The only size that the model takes.
    """

    scale: Fraction
    before: int
    after: int
    period: int
    multiple: int
    minimum: int
    fixed: int | None


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """Result of the analysis.

    Attributes
    ----------
    kind : {"valid", "padded"}
        Whether layers pad.
    y, x : AxisFacts
        The two axes.
    channels, channels_out : int
        Channels of the input and the output.
    batch : int or None
        Windows per run, None for any number.
    types : tuple of str
        Element types of input and output, e.g. ``("float32", "float32")``.
    parameters : int
        Number of weights.
    macs : float
        Multiply-accumulates per output pixel, NaN for a model that cannot be tiled.
    """

    kind: Kind
    y: AxisFacts
    x: AxisFacts
    channels: int
    channels_out: int
    batch: int | None
    types: tuple[str, str]
    parameters: int
    macs: float

    @property
    def tiled(self) -> bool:
        """Whether the receptive field is bounded, so that windows give the same as the whole image."""
        return not math.isnan(self.macs)

    @property
    def margin(self) -> int:
        """The largest of the four margins."""
        return max(self.y.before, self.y.after, self.x.before, self.x.after)

    @property
    def scale(self) -> Fraction:
        """Scale factor, the same on both axes."""
        return self.y.scale

    @property
    def period(self) -> int:
        """LR step that window origins must keep on both axes."""
        return math.lcm(self.y.period, self.x.period)


def analyse(model: ModelProto) -> GraphFacts:
    """Derive scale, margins, period and kind of a super-resolution graph.

    Parameters
    ----------
    model : ModelProto
        With one image (N, C, H, W) in and one out.

    Returns
    -------
    GraphFacts
        The facts.

    Raises
    ------
    ModelError
        If the graph has another form, or holds a node whose receptive field is unknown or unbounded. The
        message names the node and its operator.
    """
    return _Analysis(model).facts()


def untiled_facts(model: ModelProto, scale: int) -> GraphFacts:
    """Return the facts of a model that cannot be tiled, for runs on whole images."""
    face = Interface.of(model)
    y, x = (
        AxisFacts(Fraction(scale), 0, 0, 1, fixed or 1, fixed or 1, fixed)
        for fixed in (face.height, face.width)
    )
    parameters = _parameters(constants(model))
    return GraphFacts(
        "padded", y, x, face.channels, face.channels, face.batch, face.types, parameters, math.nan
    )


def _parameters(weights: dict[str, Known]) -> int:
    return sum(k.value.size for k in weights.values() if k.value.ndim > 0)


class _Analysis:
    """Traces of one model, each made once."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._interface = Interface.of(model)
        weights = constants(model)
        self._parameters = _parameters(weights)
        self._known = computed(model, weights)
        self._steps = 0
        self._traces: dict[tuple[int, int], Trace] = {}
        self._fixed = (self._interface.height, self._interface.width)
        self._size = (self._fixed[0] or _SIZE, self._fixed[1] or _SIZE)

    def facts(self) -> GraphFacts:
        face = self._interface
        base = self._trace(*self._size)
        (kind_y, y), (kind_x, x) = (self._axis(axis) for axis in (0, 1))
        if y.scale != x.scale:
            raise ModelError(f"the scale must be the same on both axes, got {y.scale} and {x.scale}")
        if kind_y != kind_x:
            raise ModelError(f"pads on one axis only: {kind_y} rows, {kind_x} columns")
        if kind_y == "valid" or None not in self._fixed:
            self._check_window(base, y, x)
        return GraphFacts(
            kind=kind_y,
            y=y,
            x=x,
            channels=face.channels,
            channels_out=base.output.shape[1],
            batch=face.batch or self._any_batch(base),
            types=face.types,
            parameters=self._parameters,
            macs=base.macs / math.prod(base.output.spatial),
        )

    def _any_batch(self, base: Trace) -> int | None:
        """Return None if the model takes a batch of images, else 1.

        A graph with a free batch axis may still hold a reshape to the size of one image, which would mix
        them.
        """
        if all(node.op_type in ops.BATCHWISE for node in self._model.graph.node):
            return None
        try:
            two = Trace(self._model, replace(self._interface, batch=2), self._known, *self._size)
        except ModelError:
            return 1
        return None if two.output.shape == (2, *base.output.shape[1:]) else 1

    def _check_window(self, base: Trace, y: AxisFacts, x: AxisFacts) -> None:
        """Refuse a model if one tensor of its smallest window would not fit into memory.

        This is not called for padded models of any size: their windows end with the image, which may be
        small.
        """
        samples = max(math.prod(s.shape) for s in base.states.values() if isinstance(s, Flow))
        maximum = samples / math.prod(self._size)
        rows, columns = (a.fixed or max(_MIN_TILE + a.before + a.after, a.minimum) for a in (y, x))
        need = int(maximum * rows * columns * 4)
        if need > _MAX_WINDOW:
            raise ModelError(
                f"its smallest window, {rows} x {columns} LR pixels, needs {need} bytes for one tensor; at "
                f"most {_MAX_WINDOW} are allowed"
            )

    def _trace(self, height: int, width: int) -> Trace:
        if (height, width) not in self._traces:
            self._steps += len(self._model.graph.node)
            if self._steps > _MAX_STEPS:
                count = len(self._model.graph.node)
                raise ModelError(f"too large to be analysed: {count} nodes, which depend on the image's size")
            self._traces[height, width] = Trace(self._model, self._interface, self._known, height, width)
        return self._traces[height, width]

    def _at(self, axis: int, n: int) -> Trace:
        """Return the trace whose size on `axis` is n; the other axis is n too, unless fixed."""
        other = self._fixed[1 - axis] or n
        return self._trace(n, other) if axis == 0 else self._trace(other, n)

    def _axis(self, axis: int) -> tuple[Kind, AxisFacts]:
        n = self._fixed[axis] or _SIZE
        trace = self._at(axis, n)
        rates = trace.rates(axis)
        scale = rates[self._interface.target]
        period = math.lcm(*(r.denominator for r in rates.values()))
        if period > _MAX_PERIOD:
            raise ModelError(f"the period must be at most {_MAX_PERIOD} LR samples, got {period}")
        for name, rate in rates.items():
            state = trace.states[name]
            if isinstance(state, Flow) and state.spatial[axis] > rate * n + _MAX_EXCESS:
                raise ModelError(
                    f"{name!r} has {state.spatial[axis]} samples for {n}, more than its scale explains"
                )
        missing = math.floor(scale * n) - trace.output.spatial[axis]
        if missing < 0:
            raise ModelError(f"the output is {-missing} samples larger than {scale} times the input")
        if missing == 0:
            return "padded", self._padded(axis, rates, scale, period)
        return "valid", self._valid(axis, rates, scale, period)

    def _padded(self, axis: int, rates: Rates, scale: Fraction, period: int) -> AxisFacts:
        """Find the margins over all classes of sizes that the model takes."""
        fixed = self._fixed[axis]
        if fixed is not None:
            before, after = self._margins(axis, fixed, scale, period)
            return AxisFacts(scale, before, after, period, fixed, fixed, fixed)

        def takes(n: int) -> bool:
            return self._same(axis, n, rates) and self._at(axis, n).output.spatial[axis] == scale * n

        legal = {r for r in range(period) if takes(_SIZE + r) and takes(2 * _SIZE + r)}
        if 0 not in legal:
            raise ModelError(self._other_scale(axis, rates))
        divisors = (d for d in range(1, period + 1) if period % d == 0)
        multiple = next(d for d in divisors if legal.issuperset(range(0, period, d)))
        sides = set()
        for r in range(0, period, multiple):
            near, far = (self._margins(axis, n + r, scale, period) for n in (_SIZE, 2 * _SIZE))
            if near != far:
                raise ModelError(
                    f"its receptive field depends on the image's size: {near} and {far} LR samples"
                )
            sides.add(near)
        # All sizes of one period from the minimum on are taken. Smaller ones may reflect more than there is.
        sizes = range(multiple, _MAX_MINIMUM + 1, multiple)
        minimum = next(
            (n for n in sizes if all(takes(k) for k in range(n, n + period, multiple))), _MAX_MINIMUM
        )
        before, after = (max(s[k] for s in sides) for k in (0, 1))
        return AxisFacts(scale, before, after, period, multiple, minimum, None)

    def _same(self, axis: int, n: int, rates: Rates) -> bool:
        """Return whether every tensor has the same samples per LR sample at another size."""
        try:
            return self._at(axis, n).rates(axis) == rates
        except ModelError:
            return False

    def _other_scale(self, axis: int, rates: Rates) -> str:
        """Return a message that names the tensor which is scaled differently in an image twice as large."""
        try:
            found = self._at(axis, 2 * _SIZE).rates(axis)
        except ModelError as error:
            return str(error)
        name = next((k for k in rates if found.get(k) != rates[k]), "the output")
        return f"{name!r} is scaled by a factor that depends on the image's size"

    def _valid(self, axis: int, rates: Rates, scale: Fraction, period: int) -> AxisFacts:
        """Find the smallest margin of a window, which must be the same on both sides."""
        fixed = self._fixed[axis]
        step = int(scale * period)
        found = []
        for n in [fixed] if fixed is not None else range(_SIZE, _SIZE + period):
            if not self._same(axis, n, rates) or (fixed is None and not self._same(axis, n + _SIZE, rates)):
                continue
            out = self._at(axis, n).output.spatial[axis]
            if out % step == 0:
                found.append((n - int(out / scale), n, out))
        if not found:
            raise ModelError("the output size is not a whole multiple of the input size for any window size")
        total, n, out = min(found)
        if total < 0 or total % 2:
            raise ModelError(f"the margin must be the same on both sides, got {total} LR pixels in all")
        lo, hi = self._at(axis, n).input_interval(axis, 0, out)
        if lo < 0 or hi > n:
            raise ModelError(f"outputs read LR samples {lo}..{hi} of a window of {n}")
        m = total // 2
        return AxisFacts(scale, m, m, period, 1, fixed or period + total, fixed)

    def _margins(self, axis: int, n: int, scale: Fraction, period: int) -> tuple[int, int]:
        """Return the LR samples that one output period in the middle needs before and after its own."""
        trace = self._at(axis, n)
        core = n // 2 // period * period
        lo, hi = trace.input_interval(axis, int(scale * core), int(scale * (core + period)))
        return max(core - lo, 0), max(hi - core - period, 0)
