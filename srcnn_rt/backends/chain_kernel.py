"""Weights of ``_ext/conv_chain.h``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.conv_chain import Chain, Layer
from .aligned import aligned, filled, vectors

TILE = 4  # columns of outputs of the fast filters; they have 2 rows
KERNEL = 3
DOWN = (0, 1, -1)  # points of F(2,3) along columns, beside infinity
ACROSS = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)  # of F(4,3) along rows
_LINEAR, _RELU, _PRELU = range(3)

Array = NDArray[np.floating]


def packed(chain: Chain, lanes: int) -> list[tuple[Any, ...]]:
    """Return the layers as `_conv.Chain` takes them.

    Parameters
    ----------
    chain : Chain
    lanes : int
        Floats in a vector.
    """
    return [_layer(layer, lanes, k == 0) for k, layer in enumerate(chain.layers)]


def extra_margin(chain: Chain) -> tuple[int, int]:
    """Return the LR rows and columns that windows need beyond the margin, so that they agree bit for bit.

    The tiles of a layer start two columns before those of the next one, except for the first, which has none.
    """
    count = len(chain.layers)
    return 0, max(0, count - 1 if chain.padded else count - 2)


def _layer(layer: Layer, lanes: int, direct: bool) -> tuple[Any, ...]:
    outputs, inputs, _, _ = layer.weight.shape
    weight = filled(layer.weight.astype(np.float64), 0, lanes)
    slope = np.zeros(outputs) if layer.slope is None else layer.slope
    activation = _LINEAR if layer.slope is None else _PRELU if slope.any() else _RELU
    bias, slopes = (aligned(filled(values, 0, lanes)) for values in (layer.bias, slope))
    weights = aligned((_direct if direct else _fast)(weight, lanes).ravel())
    return weights, bias, slopes, inputs, outputs, activation


def _direct(weight: Array, lanes: int) -> Array:
    """Return the weights of differences to the central sample, and of its own: (v, inputs, 9, lanes)."""
    taps = weight.reshape(*weight.shape[:2], KERNEL**2).copy()
    taps[..., KERNEL**2 // 2] = taps.sum(axis=2)
    return vectors(taps, 0, lanes)


def _fast(weight: Array, lanes: int) -> Array:
    """Return the weights of the 24 products of a tile: (24, v / b, inputs, b, lanes)."""
    places = np.einsum("iy,ocyx,jx->ijoc", fast_filter(DOWN), weight, fast_filter(ACROSS))
    split = vectors(places.reshape(-1, *weight.shape[:2]), 1, lanes)  # (24, v, inputs, lanes)
    both = 1 + (split.shape[1] + 1) % 2
    return split.reshape(len(split), -1, both, *split.shape[2:]).swapaxes(2, 3)


def fast_filter(points: tuple[float, ...]) -> Array:
    """Return G of a fast filter for kernels of three taps.

    These are the values of the kernel as a polynomial at all points, each over the product of the point's
    differences to the others (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016,
    section 4).

    Parameters
    ----------
    points : tuple of float
        All but infinity.

    Returns
    -------
    ndarray, shape (points + 1, 3)
    """
    at = np.array(points)
    differences = at[:, None] - at
    np.fill_diagonal(differences, 1)
    finite = at[:, None] ** np.arange(KERNEL) / differences.prod(axis=1)[:, None]
    return np.vstack([finite, [0, 0, 1]])
