"""Receptive fields: the input interval that an output interval of a node reads, on one axis, exactly.

A *link* maps an interval [lo, hi) of a node's output to the hull of the input samples that it depends on.
Positions may lie outside the tensor, where a layer pads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Strided:
    """Link of a convolution, pool, crop, pad, pixel shuffle or pixel unshuffle.

    The input is enlarged `up` times; then output i reads `kernel` samples from ``i·stride + start`` on.

    Attributes
    ----------
    up, kernel, stride : int
        Factor of enlargement, size of the kernel with its dilation, and stride.
    start : int
        First sample that output 0 reads.
    """

    up: int = 1
    kernel: int = 1
    stride: int = 1
    start: int = 0

    @property
    def rate(self) -> Fraction:
        """Output samples per input sample."""
        return Fraction(self.up, self.stride)

    def input_interval(self, lo: int, hi: int) -> Interval:
        """Return the hull of the input samples that outputs lo … hi - 1 read."""
        first = lo * self.stride + self.start
        last = (hi - 1) * self.stride + self.start + self.kernel - 1
        return first // self.up, last // self.up + 1


IDENTITY = Strided()


@dataclass(frozen=True, slots=True)
class Transposed:
    """Link of a transposed convolution: input i contributes to outputs from i·stride - pad on.

    Attributes
    ----------
    kernel, stride : int
        Size of the kernel with its dilation, and stride.
    pad : int
        Output samples cut off at the start.
    """

    kernel: int
    stride: int
    pad: int

    @property
    def rate(self) -> Fraction:
        """Output samples per input sample."""
        return Fraction(self.stride)

    def input_interval(self, lo: int, hi: int) -> Interval:
        """Return the hull of the input samples that outputs lo … hi - 1 read."""
        first = -((self.kernel - 1 - lo - self.pad) // self.stride)
        last = (hi - 1 + self.pad) // self.stride
        # With a stride larger than the kernel some outputs read nothing: keep the hull non-empty.
        return min(first, last), max(first, last) + 1


@dataclass(frozen=True, slots=True)
class Interpolated:
    """Link of an interpolation: output i reads the input around ``position(i)``.

    Attributes
    ----------
    position : callable
        Exact input coordinate of output i.
    ratio : Fraction
        Input samples per output sample.
    taps : tuple of int
        First and last offset from the position rounded down, for positions between samples.
    whole : tuple of int
        The same for positions on a sample, where most kernels are 0 at the other samples.
    nearest : callable, optional
        Rounding of the position, for nearest-neighbour interpolation instead of taps.
    """

    position: Callable[[int], Fraction]
    ratio: Fraction
    taps: tuple[int, int] = (0, 0)
    whole: tuple[int, int] = (0, 0)
    nearest: Callable[[Fraction], int] | None = None

    @property
    def rate(self) -> Fraction:
        """Output samples per input sample."""
        return 1 / self.ratio

    def input_interval(self, lo: int, hi: int) -> Interval:
        """Return the hull of the input samples that outputs lo … hi - 1 read."""
        # The outermost outputs do not always read the outermost samples, because an output that falls on a
        # sample reads fewer than its neighbour. Outputs within one input sample of the ends are enough.
        count = math.ceil(1 / self.ratio) + 1
        ends = [*range(lo, min(lo + count, hi)), *range(max(lo, hi - count), hi)]
        reads = [self._read_by(i) for i in ends]
        return min(r[0] for r in reads), max(r[1] for r in reads) + 1

    def _read_by(self, i: int) -> Interval:
        """Return the first and the last input sample that output i reads."""
        x = self.position(i)
        if self.nearest is not None:
            return (self.nearest(x),) * 2
        k = math.floor(x)
        a, b = self.whole if x == k else self.taps
        return k + a, k + b


Link = Strided | Transposed | Interpolated
"""Map from an output interval to an input interval, both half-open."""
