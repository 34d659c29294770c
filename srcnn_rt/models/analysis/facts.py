"""What an ONNX graph says of itself: scale, margins, period, kind.

Nothing is probed and nothing is typed in by a user. The graph is traced on shapes alone at a
large size (`trace`), then read backward: which LR samples does one output period depend on?
Every node answers exactly (`ops`, `reach`). A graph may behave otherwise in each class of sizes modulo its
period: it may pad, round or resize by what is left over. So every class is looked at, at two sizes each.
Where a tensor is scaled otherwise than at the first size looked at, a size is none that the model takes: a
image of it is mirrored up to one that is.

Two kinds of models can be tiled. *Valid* ones give s·(n - 2m) samples for n: nothing pads.
*Padded* ones give s·n: layers pad, so windows are clipped at the image's true edges, and
the margin is dropped on inner sides only.
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
Rates = dict[str, Fraction]  # samples an LR sample, of every tensor
# LR samples of a trace: far more than any margin, and a multiple of every usual period.
_SIZE = 6720
_MAX_PERIOD = 64
_MAX_MINIMUM = 256
_MAX_STEPS = 500_000  # nodes at all sizes looked at: some seconds
_MAX_SPARE = 4096  # samples on an axis of a tensor beyond what the image makes there: pads that are cut off
_MIN_TILE = 8  # LR samples, `geometry.MIN_TILE`
_MAX_WINDOW = 2**30  # bytes of the largest tensor of the smallest window


@dataclass(frozen=True, slots=True)
class AxisFacts:
    """One spatial axis.

    Attributes
    ----------
    scale : HR samples an LR sample
    before, after : LR samples a core needs on either side
    period : LR step that window origins must keep
    multiple : sizes the model takes are multiples of this
    minimum : smallest size the model takes
    fixed : the only size the model takes, or None
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
    """What the analysis found.

    Attributes
    ----------
    kind : "valid" or "padded"
    y, x : the two axes
    channels, channels_out : of input and output
    batch : windows a run takes, or None for any number
    types : element types in and out, e.g. ``("float32", "float32")``
    parameters : numbers in the weights
    macs : multiply-accumulates an output pixel
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
        """Whether windows of an image give the same as the whole of it: the reach is bounded."""
        return not math.isnan(self.macs)

    @property
    def margin(self) -> int:
        """The largest of the four margins."""
        return max(self.y.before, self.y.after, self.x.before, self.x.after)

    @property
    def scale(self) -> Fraction:
        """HR pixels an LR pixel, the same on both axes."""
        return self.y.scale

    @property
    def period(self) -> int:
        """LR step that window origins must keep on both axes."""
        return math.lcm(self.y.period, self.x.period)


def analyse(model: ModelProto) -> GraphFacts:
    """Derive scale, margins, period and kind of a super-resolution graph.

    Parameters
    ----------
    model : with one image (N, C, H, W) in and one out

    Raises
    ------
    ModelError
        If the graph is of another form, or holds a node whose reach is unknown or
        unbounded; the message names the node and its op.
    """
    return _Analysis(model).facts()


def unbounded(model: ModelProto, scale: int) -> GraphFacts:
    """Return the facts of a model that cannot be tiled, for runs on whole images."""
    face = Interface.of(model)
    y, x = (
        AxisFacts(Fraction(scale), 0, 0, 1, fixed or 1, fixed or 1, fixed)
        for fixed in (face.height, face.width)
    )
    parameters = sum(k.value.size for k in constants(model).values() if k.value.ndim > 0)
    return GraphFacts(
        "padded", y, x, face.channels, face.channels, face.batch, face.types, parameters, math.nan
    )


class _Analysis:
    """The traces of one model, each made once."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._interface = Interface.of(model)
        self._weights: dict[str, Known] = constants(model)
        self._known = computed(model, self._weights)
        self._steps = 0
        self._traces: dict[tuple[int, int], Trace] = {}
        self._fixed = (self._interface.height, self._interface.width)

    def facts(self) -> GraphFacts:
        face = self._interface
        size = (self._fixed[0] or _SIZE, self._fixed[1] or _SIZE)
        base = self._trace(*size)
        (kind_y, y), (kind_x, x) = (self._axis(axis) for axis in (0, 1))
        if y.scale != x.scale:
            raise ModelError(f"the scale must be the same on both axes, got {y.scale} and {x.scale}")
        if kind_y != kind_x:
            raise ModelError(f"pads on one axis only: {kind_y} rows, {kind_x} columns")
        if kind_y == "valid" or None not in self._fixed:
            self._check_window(base, y, x)
        parameters = sum(k.value.size for k in self._weights.values() if k.value.ndim > 0)
        return GraphFacts(
            kind=kind_y,
            y=y,
            x=x,
            channels=face.channels,
            channels_out=base.output.shape[1],
            batch=face.batch or self._any_batch(base),
            types=face.types,
            parameters=parameters,
            macs=base.macs / math.prod(base.output.spatial),
        )

    def _any_batch(self, base: Trace) -> int | None:
        """Return None if several images go through side by side, else 1.

        A reshape to one image's size, written where the batch was called free, would mix them.
        """
        if all(node.op_type in ops.BATCHWISE for node in self._model.graph.node):
            return None
        try:
            two = Trace(
                self._model,
                replace(self._interface, batch=2),
                self._known,
                *(side or _SIZE for side in self._fixed),
            )
        except ModelError:
            return 1
        return None if two.output.shape == (2, *base.output.shape[1:]) else 1

    def _check_window(self, base: Trace, y: AxisFacts, x: AxisFacts) -> None:
        """Refuse models whose smallest window does not fit into memory: one tensor of it alone.

        Windows of models that pad end with the image, which may be small, if they take any size.
        """
        pixels = math.prod((self._fixed[0] or _SIZE, self._fixed[1] or _SIZE))
        maximum = max(math.prod(s.shape) for s in base.states.values() if isinstance(s, Flow)) / pixels
        rows, columns = (a.fixed or max(_MIN_TILE + a.before + a.after, a.minimum) for a in (y, x))
        need = int(maximum * rows * columns * 4)
        if need > _MAX_WINDOW:
            raise ModelError(
                f"its least window, {rows} x {columns} LR pixels, needs {need} bytes for one tensor; at most "
                f"{_MAX_WINDOW} are given"
            )

    def _trace(self, height: int, width: int) -> Trace:
        if (height, width) not in self._traces:
            self._steps += len(self._model.graph.node)
            if self._steps > _MAX_STEPS:
                raise ModelError(
                    f"too large to be analysed: {len(self._model.graph.node)} nodes, which differ by the "
                    "image's size"
                )
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
            if isinstance(state, Flow) and state.spatial[axis] > rate * n + _MAX_SPARE:
                raise ModelError(
                    f"{name!r} has {state.spatial[axis]} samples for {n}: more than it is enlarged by"
                )
        missing = math.floor(scale * n) - trace.output.spatial[axis]
        if missing < 0:
            raise ModelError(f"the output is {-missing} samples larger than {scale} times the input")
        if missing == 0:
            return "padded", self._padded(axis, rates, scale, period)
        return "valid", self._valid(axis, rates, scale, period)

    def _padded(self, axis: int, rates: Rates, scale: Fraction, period: int) -> AxisFacts:
        """Find the margins, over all sizes modulo the period that the model takes."""
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
                raise ModelError(f"its reach depends on the image's size: {near} and {far} LR samples")
            sides.add(near)
        # From there on all of one period are taken; what is smaller may reflect more than there is.
        sizes = range(multiple, _MAX_MINIMUM + 1, multiple)
        minimum = next(
            (n for n in sizes if all(takes(k) for k in range(n, n + period, multiple))), _MAX_MINIMUM
        )
        before, after = (max(s[k] for s in sides) for k in (0, 1))
        return AxisFacts(scale, before, after, period, multiple, minimum, None)

    def _same(self, axis: int, n: int, rates: Rates) -> bool:
        """Return whether every tensor has the same samples an LR sample at another size."""
        try:
            return self._at(axis, n).rates(axis) == rates
        except ModelError:
            return False

    def _other_scale(self, axis: int, rates: Rates) -> str:
        """Say which tensor is scaled otherwise in an image twice as large."""
        try:
            found = self._at(axis, 2 * _SIZE).rates(axis)
        except ModelError as error:
            return str(error)
        name = next((k for k in rates if found.get(k) != rates[k]), "the output")
        return f"{name!r} is scaled by a factor that depends on the image's size"

    def _valid(self, axis: int, rates: Rates, scale: Fraction, period: int) -> AxisFacts:
        """Find the smallest window in excess of its core; it must be the same on both sides."""
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
            raise ModelError("the output size is no whole multiple of the input's for any window size")
        total, n, out = min(found)
        if total < 0 or total % 2:
            raise ModelError(f"the margin must be the same on both sides, got {total} LR pixels in all")
        lo, hi = self._at(axis, n).need(axis, 0, out)
        if lo < 0 or hi > n:
            raise ModelError(f"outputs read LR samples {lo}..{hi} of a window of {n}")
        m = total // 2
        return AxisFacts(scale, m, m, period, 1, fixed or period + total, fixed)

    def _margins(self, axis: int, n: int, scale: Fraction, period: int) -> tuple[int, int]:
        """Return what one output period in the middle needs before and after its own LR samples."""
        trace = self._at(axis, n)
        core = n // 2 // period * period
        lo, hi = trace.need(axis, int(scale * core), int(scale * (core + period)))
        return max(core - lo, 0), max(hi - core - period, 0)
