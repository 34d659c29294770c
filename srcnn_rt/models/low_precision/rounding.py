"""Rounding to fewer bits, of single values and of whole filters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rounding = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_ADJUSTED_TAPS = 8  # smallest taps of a filter, which absorb the error of its sum
_CORRELATION = 0.95  # of neighbouring samples, the usual value in image coding


def to_float16(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Round to the nearest float16, half to even; beyond 65,504 to infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float64)


def round_together(weight: NDArray[np.float64], rounding: Rounding) -> NDArray[np.float64]:
    """Round kernels with the least change to their response to an image.

    For the errors e of a filter it minimises eᵀ R e, greedily in the order of taps. R is the covariance of
    samples with a correlation of `_CORRELATION` between neighbours, and channels are taken as independent.
    Zeros stay, because rewrites pad kernels with them.

    Parameters
    ----------
    weight : ndarray, shape (out, in, kh, kw)
        Kernels.
    rounding : callable
        Rounding of single values.

    Returns
    -------
    ndarray, shape (out, in, kh, kw)
        Rounded kernels.
    """
    out, inner, kh, kw = weight.shape
    rows, cols = (_CORRELATION ** np.abs(np.subtract.outer(np.arange(k), np.arange(k))) for k in (kh, kw))
    covariance = np.kron(rows, cols) + 1e-4 * np.eye(kh * kw)
    # Row i of the upper Cholesky factor of the inverse is the best distribution of an error at tap i over the
    # taps after it.
    share = np.linalg.cholesky(np.linalg.inv(covariance)).T
    left = weight.reshape(out * inner, kh * kw).copy()
    zero, made = left == 0, np.zeros_like(left)
    for k in range(kh * kw):
        rounded = rounding(left[:, k])
        rounded = np.where(np.isfinite(rounded), rounded, left[:, k])  # values that overflow stay
        made[:, k] = np.where(zero[:, k], 0, rounded)
        error = (left[:, k] - made[:, k]) / share[k, k]
        left[:, k:] -= error[:, None] * share[k, k:]
    _keep_sums(weight.reshape(made.shape), made, rounding)
    return made.reshape(weight.shape)


def _keep_sums(exact: NDArray[np.float64], made: NDArray[np.float64], rounding: Rounding) -> None:
    """Restore the sum of each row of `made`, in place, as far as its smallest values can absorb the error.

    A filter that sums to zero must not respond to the mean of an image.
    """
    size = np.where(exact == 0, np.inf, np.abs(exact))
    order = np.argsort(size, axis=1)[:, : min(_ADJUSTED_TAPS, size.shape[1])][:, ::-1]
    each = np.arange(len(made))
    for k in range(order.shape[1]):  # the smallest last, because its rounding is finest
        at = order[:, k]
        wanted = made[each, at] + exact.sum(axis=1) - made.sum(axis=1)
        usable = np.isfinite(size[each, at]) & np.isfinite(wanted)
        made[each, at] = np.where(usable, rounding(wanted), made[each, at])
