"""How the samples of an image become float32 for a network, and samples again.

A network that is equivariant to gain and offset needs no value range. Integers of up to 16 bits are fed
unchanged. From 32-bit integers and floats an offset is subtracted, the median of samples spread over the
image, and the difference is multiplied by a power of two. float32 then rounds the distance from the median
instead of the value: a count of 10⁹ + 3 keeps its last digit, and a constant image comes back exactly.
The offset belongs to the image, not to a window, so that all windows agree.

Any other network is fed values from 0 to 1. `DataRange` says which samples are 0 and 1, and the model's
own range (`models.spec.ValueRange`) maps them to the values it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, RangeError
from ..image import nodata
from ..image.info import ImageInfo
from ..io.protocols import Source
from ..models.spec import ModelSpec
from ..tiling.geometry import Span
from ..tiling.kernels import DTYPES, white

Floats = NDArray[np.float64]
Sampled = tuple[NDArray[Any], NDArray[np.bool_]]

# Places per axis at which an image is sampled, and the LR pixels of each. Few rows, because striped files
# decode whole rows. The places do not depend on how a file is stored, so neither does the offset.
_PLACES, _ROWS, _COLUMNS = 4, 16, 64
_MAX_EXPONENT = 120  # of the power of two that multiplies float32 samples
# Samples clearly do not use their type's range where they fill less than this part of it, or, for floats,
# where the 1st or 99th percentile lies this far below black or above white.
_MIN_FILLED = 1 / 16
_BELOW, _ABOVE = 0.25, 1.5


@dataclass(frozen=True, slots=True)
class DataRange:
    """Which samples are black and white, for models that need a value range.

    Attributes
    ----------
    kind : {"auto", "dtype", "given"}
        ``"auto"`` takes the range that the file declares, else the type's range for integers and [0, 1] for
        floats, and refuses samples that clearly use another range. ``"dtype"`` does not look at the samples.
    low, high : float
        The range, where `kind` is ``"given"``.
    """

    kind: str = "auto"
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, value: str | tuple[float, float]) -> Self:
        """Parse ``"auto"``, ``"dtype"``, ``"LOW..HIGH"`` or (low, high).

        Raises
        ------
        ArgumentError
            For anything else.
        """
        if isinstance(value, str) and value in ("auto", "dtype"):
            return cls(str(value))
        try:
            low, high = (float(v) for v in (value.split("..") if isinstance(value, str) else value))
        except (TypeError, ValueError):
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ArgumentError(f"a data range is LOW..HIGH, auto or dtype, got {value!r}")
        return cls("given", low, high)

    def __str__(self) -> str:
        return self.kind if self.kind != "given" else f"{self.low!r}..{self.high!r}"


@dataclass(frozen=True, slots=True)
class Normalization:
    """The map between the samples of one image and the values that its windows hold.

    Attributes
    ----------
    source_info : ImageInfo
        The image as it is read.
    info : ImageInfo
        The image in the type from which windows are cut: uint8 and uint16 unchanged, else float32.
    gain, offset : ndarray of float64, shape (C,)
        A sample v is fed as ``gain * (v - offset)``.
    top : float, optional
        Largest integer of the result; None for floats.
    scale : int
        Of the model.
    on_device : bool
        Whether the image lies on a GPU, where its samples are not inspected.
    """

    source_info: ImageInfo
    info: ImageInfo
    gain: Floats
    offset: Floats
    top: float | None
    scale: int
    on_device: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the image's samples."""
        return self.source_info.dtype

    @property
    def native(self) -> bool:
        """Whether windows hold the samples unchanged."""
        return self.info.dtype == self.dtype and not self.offset.any() and bool((self.gain == 1).all())

    @property
    def has_invalid(self) -> bool:
        """Whether the image may hold nodata, masked, NaN or infinite samples."""
        return not self.on_device and nodata.concerns(self.source_info)

    def normalize(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return (h, w, C) samples as windows hold them. Invalid samples may become anything."""
        if self.native:
            return part
        with np.errstate(over="ignore", invalid="ignore"):
            if part.dtype == np.float32:
                made = part - self.offset.astype(np.float32)
                made *= self.gain.astype(np.float32)
                return made
            return np.asarray((part - self.offset) * self.gain, np.float32)

    def denormalize(self, block: NDArray[Any], out: NDArray[Any]) -> None:
        """Fill `out` with samples made from the network's output `block`; `out` may be `block`."""
        if self.native:
            if self.top is not None and self.top < np.iinfo(self.dtype).max:
                np.minimum(block, self.dtype.type(self.top), out=out)
            elif out is not block:
                np.copyto(out, block)
            return
        # Invalid samples are restored afterwards and may overflow here.
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


def for_image(source: Source, model: ModelSpec, data_range: DataRange) -> Normalization:
    """Return how an image's samples are normalised for a model.

    Raises
    ------
    RangeError
        If the model needs a range and the samples clearly use another one than their type's, or if a
        range is given for an image on a GPU.
    """
    info, on_device = source.info, source.on_device
    dtype, count = info.dtype, info.layout.channels
    colors = count - info.layout.alpha
    if not on_device and _exceeds_declared_top(source):
        info = replace(info, top=None)
    top = None if dtype.kind == "f" else min(info.top or math.inf, float(np.iinfo(dtype).max))
    gain, offset = np.ones(count), np.zeros(count)
    plain = Normalization(source.info, info, gain, offset, top, model.scale, on_device)
    if info.layout.color == "classes":  # copied without a network
        return plain
    if on_device:
        if not model.equivariant and data_range.kind == "given":
            asked = (data_range.low, data_range.high)
            if asked != (0, white(dtype)):
                raise RangeError(
                    f"this model takes images on a GPU from 0 to {white(dtype):g}, not from {asked[0]:g} to "
                    f"{asked[1]:g}; copy the image to host memory, or use a model that needs no range, such "
                    "as srcnn-915-x2"
                )
        return plain
    opaque = top if info.top is not None and top is not None else white(dtype)
    usual_alpha = not info.layout.alpha or opaque == white(dtype)
    if model.equivariant:
        if dtype in DTYPES and dtype.kind != "f" and usual_alpha:
            return plain
        if not info.layout.alpha and (dtype.kind == "f" or dtype.itemsize > 2):
            sampled = _sample(source)
            offset = _medians(sampled, info)
            gain[:] = _power_of_two(sampled, offset, dtype)
    else:
        low, high = _black_and_white(source, info, data_range)
        if dtype in DTYPES and (low, high) == (0, white(dtype)) and usual_alpha:
            return plain
        gain[:colors], offset[:colors] = 1 / (high - low), low
    if info.layout.alpha:
        gain[-1], offset[-1] = 1 / opaque, 0.0
    return replace(plain, info=replace(info, dtype=np.dtype(np.float32)), gain=gain, offset=offset)


def _exceeds_declared_top(source: Source) -> bool:
    """Return whether samples exceed the largest value that the file declares.

    Some programs write a display limit or too few bits there. Clipping to it would lose samples.
    """
    info = source.info
    if info.top is None or info.dtype.kind == "f" or info.layout.color == "classes":
        return False
    if info.top >= np.iinfo(info.dtype).max:
        return False
    return any(bool((part[valid] > info.top).any()) for part, valid in _sample(source))


def _black_and_white(source: Source, info: ImageInfo, asked: DataRange) -> tuple[float, float]:
    """Return the samples that the model takes for black and white.

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
    seen = np.concatenate([part[valid] for part, valid in _sample(source)])
    if not seen.size or seen.min() == seen.max():
        return low, high
    first, last = np.percentile(seen, (1, 99)) if not integer else (seen.min(), seen.max())
    span = high - low
    if integer:
        wrong = last - first < _MIN_FILLED * span or first < low
    else:
        wrong = first < low - _BELOW * span or last > high + (_ABOVE - 1) * span
    if wrong:
        raise RangeError(
            f"samples range from {first:g} to {last:g}, but this model takes {info.dtype} from {low:g} to "
            f"{high:g}; give --data-range LOW..HIGH (dtype for the type's range), or use a model that needs "
            "no range, such as srcnn-915-x2"
        )
    return low, high


def _medians(sampled: Sequence[Sampled], info: ImageInfo) -> Floats:
    """Return the offset of each channel. Bands have one each; the channels of a colour share one."""
    count = info.layout.channels
    seen = [np.concatenate([part[:, :, c][valid[:, :, c]] for part, valid in sampled]) for c in range(count)]
    if info.layout.color != "bands":
        seen = [np.concatenate(seen)] * count
    # A sample itself rather than a mean of two, so that a constant image equals its offset exactly.
    return np.array([float(np.sort(samples)[samples.size // 2]) if samples.size else 0.0 for samples in seen])


def _power_of_two(sampled: Sequence[Sampled], offset: Floats, dtype: np.dtype[Any]) -> float:
    """Return the power of two that brings distances from the offset to about 1.

    float16 and float32 then hold samples of any unit, and multiplying by it rounds nothing.
    """
    maximum = 0.0
    for part, valid in sampled:
        distance = np.abs(np.where(valid, part, offset) - offset)
        maximum = max(maximum, float(distance.max(initial=0)))
    exponent = math.frexp(maximum)[1] if maximum > 0 and math.isfinite(maximum) else 0
    if dtype.itemsize <= 4:  # float32 has to hold the power and its inverse
        exponent = max(-_MAX_EXPONENT, min(_MAX_EXPONENT, exponent))
    return math.ldexp(1.0, -exponent)


# Regions of an image that stays open share them.
_sampled: WeakKeyDictionary[Source, list[Sampled]] = WeakKeyDictionary()


def _sample(source: Source) -> list[Sampled]:
    """Return samples spread over the image, and which of them are valid: (h, w, C) each."""
    known = _sampled.get(source)
    if known is None:
        _sampled[source] = known = _read_sample(source)
    return known


def _read_sample(source: Source) -> list[Sampled]:
    info, found = source.info, []
    rows, columns = _spread(info.shape[0], _ROWS), _spread(info.shape[1], _COLUMNS)
    for y in rows:
        for x in [Span(0, info.shape[1])] if source.by_rows else columns:
            part = source.read(y, x)
            mask = source.read_mask(y, x) if info.masked else None
            invalid = nodata.invalid(part, info, mask) if nodata.concerns(info) else None
            valid = np.ones(part.shape, np.bool_) if invalid is None else ~invalid
            kept = columns if source.by_rows else [Span(0, x.size)]
            found += [(part[:, k.start : k.stop].copy(), valid[:, k.start : k.stop]) for k in kept]
    return found


def _spread(length: int, size: int) -> list[Span]:
    """Return spans of a size spread evenly over an axis; all of a short axis."""
    if length <= _PLACES * size:
        return [Span(0, length)]
    starts = [k * (length - size) // (_PLACES - 1) for k in range(_PLACES)]
    return [Span(start, start + size) for start in starts]
