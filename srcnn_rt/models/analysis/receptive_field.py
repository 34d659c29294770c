"""What one output interval of a node reads, on one axis, in exact numbers.

A *link* maps an interval [lo, hi) of a node's output to the hull of the input samples that
it depends on. Positions may lie outside the tensor: what a layer pads is not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

Interval = tuple[int, int]


class Link(Protocol):
    """Output interval → input interval, both half-open."""

    @property
    def rate(self) -> Fraction:
        """Output samples an input sample."""

    def need(self, lo: int, hi: int) -> Interval: ...


@dataclass(frozen=True, slots=True)
class Step:
    """Enlarged `up` times, then each output reads `kernel` samples, `stride` apart, from `start` on.

    Convolutions, pools, crops, pads and pixel shuffles are all of this form.
    """

    up: int = 1
    kernel: int = 1
    stride: int = 1
    start: int = 0

    @property
    def rate(self) -> Fraction:
        return Fraction(self.up, self.stride)

    def need(self, lo: int, hi: int) -> Interval:
        first = lo * self.stride + self.start
        last = (hi - 1) * self.stride + self.start + self.kernel - 1
        return first // self.up, last // self.up + 1


SAME = Step()


@dataclass(frozen=True, slots=True)
class Transposed:
    """A transposed convolution: input i reaches outputs i·stride - pad … i·stride - pad + kernel - 1."""

    kernel: int
    stride: int
    pad: int

    @property
    def rate(self) -> Fraction:
        return Fraction(self.stride)

    def need(self, lo: int, hi: int) -> Interval:
        first = -((self.kernel - 1 - lo - self.pad) // self.stride)
        last = (hi - 1 + self.pad) // self.stride
        # With a stride over the kernel some outputs read nothing: keep the hull non-empty.
        return min(first, last), max(first, last) + 1


@dataclass(frozen=True, slots=True)
class Sampled:
    """An interpolation: output i reads the input around ``position(i)``.

    Attributes
    ----------
    position : exact input coordinate of output i
    taps : offsets (first, last) from the position rounded down, where it is no whole number
    whole : the same where it is one: most kernels are 0 at other whole numbers
    nearest : rounding of the position for nearest-neighbour, instead of taps
    ratio : input samples an output sample
    """

    position: Callable[[int], Fraction]
    ratio: Fraction
    taps: tuple[int, int] = (0, 0)
    whole: tuple[int, int] = (0, 0)
    nearest: Callable[[Fraction], int] | None = None

    @property
    def rate(self) -> Fraction:
        return 1 / self.ratio

    def need(self, lo: int, hi: int) -> Interval:
        # The ends are not always read by the outermost outputs: one that falls on a sample
        # reads less than its neighbour. One step of the input is far enough to look.
        look = math.ceil(1 / self.ratio) + 1
        ends = [*range(lo, min(lo + look, hi)), *range(max(lo, hi - look), hi)]
        reads = [self._one(i) for i in ends]
        return min(r[0] for r in reads), max(r[1] for r in reads) + 1

    def _one(self, i: int) -> Interval:
        x = self.position(i)
        if self.nearest is not None:
            k = self.nearest(x)
            return k, k
        k = math.floor(x)
        a, b = self.whole if x == k else self.taps
        return k + a, k + b
