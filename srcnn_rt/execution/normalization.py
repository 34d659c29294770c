"""What the samples of an image mean: how they become float32 for a network, and samples again.

A network that is equivariant to gain and offset needs no range. Integers of up to 16 bits go in as they
stand. Those of 32 bits, and all floats, are taken less an offset of the image, the middle one of samples
from all over it, and times a power of two. So what float32 rounds is the distance from the middle, not the
value; a count of 10⁹ + 3 keeps its last digit, and a constant image comes back as that constant. The offset
belongs to the image, never to a window, and windows agree.

Any other network is fed from 0 to 1: black and white of the image's range (`DataRange`), which the model's
own range (`spec.ValueRange`) maps to what it learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, RangeError
from ..image import nodata
from ..image.info import ImageInfo
from ..io import Source
from ..models.spec import ModelSpec
from ..tiling.geometry import Span
from ..tiling.kernels import DTYPES, white

Floats = NDArray[np.float64]
Seen = tuple[NDArray[Any], NDArray[np.bool_]]

# Of an image that is looked at: windows a side, and LR pixels of each. Few rows, for strips are decoded
# whole; the same ones of any file, so that an image's offset does not depend on how it is stored.
_PLACES, _ROWS, _COLUMNS = 4, 16, 64
_EXPONENT = 120  # of the power of two by which float32 samples are multiplied, at most
# Of samples that do not live in their type's range: the part of it that they fill, at most, and of floats
# how far the first and the last hundredth lie below black and above white.
_FILLED = 1 / 16
_BELOW, _ABOVE = 0.25, 1.5


@dataclass(frozen=True, slots=True)
class DataRange:
    """Which samples are black and white to a model that needs to know.

    Attributes
    ----------
    kind : ``"auto"``: what the file declares, else the type's range for integers and [0, 1] for floats,
        unless the samples clearly do not live there; ``"dtype"``: the same, whatever the samples are;
        ``"given"``
    low, high : of ``"given"``
    """

    kind: str = "auto"
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, value: str | tuple[float, float] | DataRange) -> Self:
        """Read ``"auto"``, ``"dtype"``, ``"LOW..HIGH"`` or (low, high).

        Raises
        ------
        ArgumentError
            If it is none of these.
        """
        if isinstance(value, cls):
            return value
        if value in ("auto", "dtype"):
            return cls(str(value))
        try:
            low, high = (float(v) for v in (value.split("..") if isinstance(value, str) else value))  # type: ignore[union-attr]
        except (TypeError, ValueError):
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ArgumentError(f"a data range is LOW..HIGH, auto or dtype, got {value!r}")
        return cls("given", low, high)

    def __str__(self) -> str:
        return self.kind if self.kind != "given" else f"{self.low!r}..{self.high!r}"


@dataclass(frozen=True, slots=True)
class Values:
    """The map between the samples of one image and what windows are cut from.

    Attributes
    ----------
    info : of the image, in the type that windows are cut from: uint8 and uint16 as they stand, else float32
    dtype : of the samples
    gain, offset : of each channel: a sample v is fed as ``gain · (v - offset)``
    top : largest integer that may come out; None for floats
    """

    info: ImageInfo
    dtype: np.dtype[Any]
    gain: Floats
    offset: Floats
    top: float | None

    @property
    def native(self) -> bool:
        """Whether samples are what windows are cut from."""
        return self.info.dtype == self.dtype and not self.offset.any() and bool((self.gain == 1).all())

    def encode(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return (h, w, C) samples as windows are cut from them; those that are no data may be anything."""
        if self.native:
            return part
        with np.errstate(over="ignore", invalid="ignore"):
            if part.dtype == np.float32:
                made = part - self.offset.astype(np.float32)
                made *= self.gain.astype(np.float32)
                return made
            return np.asarray((part - self.offset) * self.gain, np.float32)

    def decode(self, block: NDArray[Any], out: NDArray[Any]) -> None:
        """Fill the samples of a result from what the network made; `out` may be `block`."""
        if self.native:
            if self.top is not None and self.top < np.iinfo(self.dtype).max:
                np.minimum(block, self.dtype.type(self.top), out=out)
            elif out is not block:
                np.copyto(out, block)
            return
        # What is put back afterwards, where there are no data, may be anything here.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.dtype == np.float32:
                np.multiply(block, (1 / self.gain).astype(np.float32), out=out)
                out += self.offset.astype(np.float32)
                return
            made = block.astype(np.float64) / self.gain + self.offset
            if self.dtype.kind == "f":
                if self.dtype.itemsize < 8:
                    maximum = float(np.finfo(self.dtype).max)
                    np.clip(made, -maximum, maximum, out=made)
            else:
                low, high = float(np.iinfo(self.dtype).min), self.top
                made = np.clip(np.rint(made), low, high)
                made = np.where(np.isnan(made), 0, made)
            np.copyto(out, made, casting="unsafe")


def for_image(source: Source, model: ModelSpec, data_range: DataRange) -> Values:
    """Return how an image's samples are mapped for a model.

    Raises
    ------
    RangeError
        If the model needs a range, and the samples clearly do not live in that of their type; or another
        one is given for an image that lies on a GPU.
    """
    info = source.info
    dtype, count = info.dtype, info.layout.channels
    colors = count - info.layout.alpha
    if _belied(source):
        info = replace(info, top=None)
    top = None if dtype.kind == "f" else min(info.top or math.inf, float(np.iinfo(dtype).max))
    gain, offset = np.ones(count), np.zeros(count)
    plain = Values(info, dtype, gain, offset, top)
    # Classes are copied, and what lies on a GPU is not looked at on this side of the bus.
    if info.layout.color == "classes":
        return plain
    if hasattr(source, "GPU"):
        if not model.equivariant and data_range.kind == "given":
            asked = (data_range.low, data_range.high)
            if asked != (0, white(dtype)):
                raise RangeError(
                    f"an image that lies on a GPU is taken from 0 to {white(dtype):g} by this model, "
                    f"not from {asked[0]:g} to {asked[1]:g}; bring it into host memory, or take a model "
                    f"that needs no range, such as srcnn-915-x2"
                )
        return plain
    opaque = top if info.top is not None and top is not None else white(dtype)
    usual = not info.layout.alpha or opaque == white(dtype)
    if model.equivariant:
        if dtype in DTYPES and dtype.kind != "f" and usual:
            return plain
        if not info.layout.alpha and (dtype.kind == "f" or dtype.itemsize > 2):
            looked_at = _look_at(source)
            offset = _middles(looked_at, info)
            gain[:] = _power(looked_at, offset, dtype)
    else:
        low, high = _black_and_white(source, info, data_range)
        if dtype in DTYPES and (low, high) == (0, white(dtype)) and usual:
            return plain
        gain[:colors], offset[:colors] = 1 / (high - low), low
    if info.layout.alpha:
        gain[-1], offset[-1] = 1 / opaque, 0.0
    return Values(replace(info, dtype=np.dtype(np.float32)), dtype, gain, offset, top)


def _belied(source: Source) -> bool:
    """Return whether samples are over what the file declares as their largest.

    A declaration is not worth the samples that it would clip: displays' limits and fewer bits than there are
    get into files by programs that do not look.
    """
    info = source.info
    if info.top is None or info.dtype.kind == "f" or hasattr(source, "GPU") or info.layout.color == "classes":
        return False
    if info.top >= np.iinfo(info.dtype).max:
        return False
    return any(bool((part[good] > info.top).any()) for part, good in _look_at(source))


def _black_and_white(source: Source, info: ImageInfo, asked: DataRange) -> tuple[float, float]:
    """Return the samples that a model is to take for black and white.

    Raises
    ------
    RangeError
    """
    if asked.kind == "given":
        return asked.low, asked.high
    integer = info.dtype.kind != "f"
    low = 0.0
    high = float(info.top or np.iinfo(info.dtype).max) if integer else 1.0
    declared = info.top is not None
    if asked.kind == "dtype" or declared or (integer and info.dtype.itemsize == 1):
        return low, high
    seen = np.concatenate([part[good] for part, good in _look_at(source)])
    if not seen.size or seen.min() == seen.max():
        return low, high
    first, last = np.percentile(seen, (1, 99)) if not integer else (seen.min(), seen.max())
    span = high - low
    if integer:
        wrong = last - first < _FILLED * span or first < low
    else:
        wrong = first < low - _BELOW * span or last > high + (_ABOVE - 1) * span
    if wrong:
        raise RangeError(
            f"samples from {first:g} to {last:g} are not what this model takes {info.dtype} for, {low:g} to "
            f"{high:g}; give --data-range LOW..HIGH (dtype for that range), or take a model that needs none, "
            "such as srcnn-915-x2"
        )
    return low, high


def _middles(looked_at: Sequence[Seen], info: ImageInfo) -> Floats:
    """Return the offset of every channel: of bands each its own, of a colour one for all."""
    count = info.layout.channels
    seen = [np.concatenate([part[:, :, c][good[:, :, c]] for part, good in looked_at]) for c in range(count)]
    if info.layout.color != "bands":
        seen = [np.concatenate(seen)] * count
    # A sample itself, so that a constant image is the offset, to the last bit.
    return np.array([float(np.sort(samples)[samples.size // 2]) if samples.size else 0.0 for samples in seen])


def _power(looked_at: Sequence[Seen], offset: Floats, dtype: np.dtype[Any]) -> float:
    """Return the power of two that brings samples to 1 and less, about.

    What float16 and float32 hold is then enough for any unit, and nothing is rounded by it.
    """
    maximum = 0.0
    for part, good in looked_at:
        distance = np.abs(np.where(good, part, offset) - offset)
        maximum = max(maximum, float(distance.max(initial=0)))
    exponent = math.frexp(maximum)[1] if maximum > 0 and math.isfinite(maximum) else 0
    if dtype.itemsize <= 4:  # multiplied in float32, by this and by its inverse
        exponent = max(-_EXPONENT, min(_EXPONENT, exponent))
    return math.ldexp(1.0, -exponent)


def _look_at(source: Source) -> list[Seen]:
    """Return samples from all over an image, and which of them are data: (h, w, C) each."""
    info, found = source.info, []
    rows, columns = _places(info.shape[0], _ROWS), _places(info.shape[1], _COLUMNS)
    for y in rows:
        for x in [Span(0, info.shape[1])] if source.by_rows else columns:
            part = source.read(y, x)
            mask = source.read_mask(y, x) if info.masked else None
            bad = nodata.invalid(part, info, mask) if nodata.concerns(info) else None
            good = np.ones(part.shape, np.bool_) if bad is None else ~bad
            kept = columns if source.by_rows else [Span(0, x.size)]
            found += [(part[:, k.start : k.stop].copy(), good[:, k.start : k.stop]) for k in kept]
    return found


def _places(length: int, size: int) -> list[Span]:
    """Return spans of a size spread evenly over an axis; all of a short one."""
    if length <= _PLACES * size:
        return [Span(0, length)]
    starts = [k * (length - size) // (_PLACES - 1) for k in range(_PLACES)]
    return [Span(start, start + size) for start in starts]
