"""Operators that read between samples: interpolation by a factor, to a size, or at a grid of positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .receptive_field import IDENTITY, Interpolated, Link
from .tensors import UNTILED, Call, Flow, Known, Results

_MAX_FACTOR = 64
_MAX_PHASES = 64  # denominator of a grid's spacing: positions repeat after as many outputs
_MAX_GRID_ERROR = 1e-2  # distance in samples from an even grid that float32 positions may have
_HALF = Fraction(1, 2)
_ROUNDING: dict[bytes, Callable[[Fraction], int]] = {
    b"round_prefer_floor": lambda x: math.ceil(x - _HALF),
    b"round_prefer_ceil": lambda x: math.floor(x + _HALF),
    b"floor": math.floor,
    b"ceil": math.ceil,
}


def resize(call: Call) -> Results:
    """Trace Resize or Upsample."""
    flow = call.flow
    mode = call.attribute("mode", b"nearest").decode()
    old = call.op == "Upsample"
    how = "asymmetric" if old else call.attribute("coordinate_transformation_mode", b"half_pixel").decode()
    if how not in ("half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric"):
        raise call.refusal(f"{how} ties every sample to the image's size")
    if call.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise call.refusal("keep_aspect_ratio_policy ties the scale to the image's size")
    rank = len(flow.shape)
    axes = [call.axis(a, rank) for a in call.attribute("axes", list(range(rank)))]
    factors = [Fraction(1)] * rank
    shape = list(flow.shape)
    scales = call.known(1 if old else 2)
    if old and call.attribute("scales") is not None:
        scales = Known(np.array(call.attribute("scales"), np.float32))
    if scales is not None and scales.value.size:
        if scales.value.size > rank:
            raise call.refusal(f"{scales.value.size} scales for {rank} axes")
        for axis, factor in zip(axes, scales.value.tolist(), strict=True):
            factors[axis] = Fraction(factor).limit_denominator(1000)
            shape[axis] = math.floor(flow.shape[axis] * factors[axis])
    else:
        for axis, size in zip(axes, call.numbers(3), strict=True):
            factors[axis] = Fraction(int(size), flow.shape[axis])
            shape[axis] = int(size)
    links: list[Link] = [IDENTITY, IDENTITY]
    for axis, role in enumerate(flow.roles):
        if factors[axis] == 1:
            continue
        if role not in "yx":
            raise call.refusal("resizes channels")
        if not 0 < factors[axis] <= _MAX_FACTOR:
            raise call.refusal(f"a factor must be over 0 and at most {_MAX_FACTOR}, got {factors[axis]}")
        links["yx".index(role)] = _interpolation(call, mode, how, factors[axis])
    return [(replace(flow, shape=tuple(shape)), links[0], links[1], 0)]


def _interpolation(call: Call, mode: str, how: str, factor: Fraction) -> Link:
    """Return the link of one resized axis; `factor` is output size over input size."""
    ratio = 1 / factor
    shift = Fraction(0) if how == "asymmetric" else _HALF

    def position(i: int) -> Fraction:
        return (i + shift) * ratio - shift

    if mode == "nearest":
        name = b"floor" if call.op == "Upsample" else call.attribute("nearest_mode", b"round_prefer_floor")
        return Interpolated(position, ratio, nearest=_ROUNDING[name])
    if mode not in ("linear", "cubic"):
        raise call.refusal(f"the receptive field of resize mode {mode} is not known")
    taps = 1 if mode == "linear" else 2
    if call.attribute("antialias", 0) and factor < 1:
        # The kernel is widened by the ratio: |distance| < taps · ratio.
        support = math.ceil(taps * ratio)
        return Interpolated(position, ratio, (1 - support, support), (1 - support, support - 1))
    return Interpolated(position, ratio, (1 - taps, taps))


def grid_sample(call: Call) -> Results:
    """Trace GridSample at constant, evenly spaced positions, which is an interpolation by a factor."""
    if isinstance(call.inputs[1], Flow):
        raise call.refusal(
            f"samples at positions computed from the image, so its receptive field is unbounded, {UNTILED}"
        )
    if call.attribute("align_corners", 0):
        raise call.refusal("align_corners ties every sample to the image's size")
    flow, grid = call.image, call.value(1)
    if grid.ndim != 4 or grid.shape[3] != 2 or grid.shape[0] not in (1, flow.shape[0]):
        raise call.refusal(f"a grid (n, h, w, 2) is needed, got {grid.shape}")
    mode = call.attribute("mode", b"linear")
    taps = {b"nearest": 1, b"linear": 1, b"bilinear": 1, b"cubic": 2, b"bicubic": 2}.get(mode)
    if taps is None:
        raise call.refusal(f"the receptive field of mode {mode.decode()} is not known")
    links: list[Link] = []
    for k, size in enumerate(flow.spatial):
        places = np.asarray(grid[..., 1 - k], np.float64)
        row = places[0, :, 0] if k == 0 else places[0, 0]
        if np.abs(places - (row[:, None] if k == 0 else row)).max() * size > _MAX_GRID_ERROR:
            raise call.refusal(f"its grid is bent or rotated, {UNTILED}")
        links.append(_even(call, ((row + 1) * size - 1) / 2, taps))
    return [(replace(flow, shape=(*flow.shape[:2], *grid.shape[1:3])), links[0], links[1], 0)]


def _even(call: Call, places: NDArray[np.float64], taps: int) -> Link:
    """Return the link of evenly spaced positions, with one more sample on either side than their taps."""
    count = len(places)
    ratio = Fraction((places[-1] - places[0]) / max(count - 1, 1)).limit_denominator(_MAX_PHASES)
    if not Fraction(1, _MAX_FACTOR) <= ratio <= _MAX_FACTOR:
        raise call.refusal(f"a factor must be over 0 and at most {_MAX_FACTOR}")
    start = Fraction(places[0]).limit_denominator(2**10)
    if np.abs(places - (float(start) + float(ratio) * np.arange(count))).max() > _MAX_GRID_ERROR:
        raise call.refusal(f"its grid is not even, {UNTILED}")
    around = (-taps, taps + 1)
    return Interpolated(lambda i: start + i * ratio, ratio, around, around)
