"""Rounding to fewer bits, one number at a time and a filter at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rounding = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_PLACES = 8  # taps, the smallest, among which is shared what is left of a sum
_ALIKE = 0.95  # correlation of neighbouring samples, as image coding takes it


def to_bfloat16(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Round to the nearest bfloat16, half to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded.astype(np.float64)


def to_float16(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Round to the nearest float16, half to even; beyond 65,504 to infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float64)


def round_together(weight: NDArray[np.float64], rounding: Rounding = to_bfloat16) -> NDArray[np.float64]:
    """Round (out, in, kh, kw) with the least change to what an image excites.

    Minimises eᵀ R e of the errors e of a filter, greedily in the order of taps, for the correlation
    R of samples that are `_ALIKE` to their neighbours; channels are taken as independent. Zeros, with
    which rewrites fill kernels up, stay.
    """
    out, inner, kh, kw = weight.shape
    rows, cols = (_ALIKE ** np.abs(np.subtract.outer(np.arange(k), np.arange(k))) for k in (kh, kw))
    alike = np.kron(rows, cols) + 1e-4 * np.eye(kh * kw)
    # Row i of the upper Cholesky factor of the inverse says how an error at tap i is best
    # shared among the taps after it.
    share = np.linalg.cholesky(np.linalg.inv(alike)).T
    left = weight.reshape(out * inner, kh * kw).copy()
    zero, made = left == 0, np.zeros_like(left)
    for k in range(kh * kw):
        rounded = rounding(left[:, k])
        rounded = np.where(np.isfinite(rounded), rounded, left[:, k])  # what is too large stays
        made[:, k] = np.where(zero[:, k], 0, rounded)
        error = (left[:, k] - made[:, k]) / share[k, k]
        left[:, k:] -= error[:, None] * share[k, k:]
    _keep_sums(weight.reshape(made.shape), made, rounding)
    return made.reshape(weight.shape)


def _keep_sums(exact: NDArray[np.float64], made: NDArray[np.float64], rounding: Rounding) -> None:
    """Give the sum of each row of `made` back to it, as far as its smallest numbers can take it, in place.

    A filter that sums to zero must not see how far from zero an image lies.
    """
    size = np.where(exact == 0, np.inf, np.abs(exact))
    order = np.argsort(size, axis=1)[:, : min(_PLACES, size.shape[1])][:, ::-1]
    each = np.arange(len(made))
    for k in range(order.shape[1]):  # the smallest last: it rounds finest
        at = order[:, k]
        wanted = made[each, at] + exact.sum(axis=1) - made.sum(axis=1)
        there = np.isfinite(size[each, at]) & np.isfinite(wanted)
        made[each, at] = np.where(there, rounding(wanted), made[each, at])
