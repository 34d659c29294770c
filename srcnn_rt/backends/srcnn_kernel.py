"""Weights and geometry of ``_ext/srcnn.h``."""

from __future__ import annotations

from math import gcd, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.srcnn_chain import SrcnnChain
from .aligned import aligned, filled, vectors

FFT, TILE = 16, 12  # samples and outputs of a transform per side
MAX_SECOND = FFT - TILE + 1  # largest kernel of the second layer
LAST_KERNELS = (1, 3, 5)
MAX_FIRST = 256  # filters, for the memory that spectra take

Array = NDArray[np.float64]


def why_not(chain: SrcnnChain, max_filters: int) -> str | None:
    """Return why the kernels cannot compute a network, None if they can."""
    second, last = chain.second.kernel[0], chain.last.kernel[0]
    if second > MAX_SECOND:
        return f"its second layer is {second}x{second}, more than {MAX_SECOND}x{MAX_SECOND}"
    if last not in LAST_KERNELS:
        return f"its last layer is {last}x{last}, not one of {', '.join(f'{k}x{k}' for k in LAST_KERNELS)}"
    if (first := chain.first.shape[2]) > MAX_FIRST:
        return f"its first layer has {first} filters, more than {MAX_FIRST}"
    if len(chain.second.weight) > max_filters:
        return f"its second layer has {len(chain.second.weight)} filters, more than {max_filters}"
    return None


def period(chain: SrcnnChain) -> int:
    """Return the LR pixels at whose multiples windows must start, so that they agree bit for bit.

    The first layer computes pixels two by two, and tiles of the transform are 12 HR pixels apart.
    """
    return 2 if chain.second.kernel[0] == 1 else lcm(2, TILE // gcd(TILE, chain.scale))


def extra_margin(chain: SrcnnChain, margin: int) -> int:
    """Return the LR pixels that windows need beyond the margin of the network.

    These have no part in the result but for rounding: transforms read whole tiles, and kernels of odd size
    are filled up with a zero.
    """
    s, tile = chain.scale, period(chain)
    rows = tile * s + chain.last.kernel[0] - 1  # of the second layer, for a tile of one period
    if chain.second.kernel[0] > 1:
        rows = -(-rows // TILE) * TILE + FFT - TILE  # of the first layer
    ends = (chain.low + 2 * _halves(chain)).max(axis=0)
    reach = max(row // s + int(ends[row % s]) for row in range(rows - s, rows))
    return max(0, reach - tile - 2 * margin)


def packed(chain: SrcnnChain, extra: int, lanes: int) -> tuple[Any, ...]:
    """Return the arguments of `_conv.Srcnn` after its margin.

    Parameters
    ----------
    chain : SrcnnChain
    extra : int
        LR pixels before the window that the network needs.
    lanes : int
        Floats in a vector.
    """
    first, bias = (filled(a, 2, lanes) for a in (chain.first, chain.bias))
    halves = _halves(chain)
    nine = [
        _first(first[y, x], (int(halves[0, y]), int(halves[1, x])), lanes)
        for y, x in np.ndindex(*first.shape[:2])
    ]
    second = filled(filled(chain.second.weight, 0, lanes), 1, lanes)
    last = filled(chain.last.weight, 1, lanes)
    return (
        first.shape[3],
        np.ascontiguousarray(chain.low + extra, np.int32),
        np.ascontiguousarray(halves, np.int32),
        aligned(np.concatenate([kernels.ravel() for kernels in nine])),
        aligned(bias.reshape(-1, bias.shape[2])),
        aligned(_second(second, lanes)),
        aligned(filled(chain.second.bias, 0, lanes)),
        aligned(_last(last, lanes)),
        aligned(chain.last.bias),
    )


def _halves(chain: SrcnnChain) -> NDArray[np.int64]:
    """Return half of the sides of the first layer's kernels, rounded up: (2, s)."""
    return -(-chain.sides // 2)


def _first(kernels: Array, halves: tuple[int, int], lanes: int) -> Array:
    """Return the nine kernels of the nested F(2,2) of a phase: (v, 9, inputs, *halves, lanes)."""
    side = kernels.shape[2]
    full = np.pad(kernels, [(0, 0), (0, 0), (0, 1), (0, 1)]) if side % 2 else kernels
    full = full[:, :, : 2 * halves[0], : 2 * halves[1]]
    a, c = full[..., 0::2, :], full[..., 1::2, :]
    (aa, ab, ac), (ba, bb, bc), (ca, cb, cc) = (
        (k[..., 0::2], k[..., 0::2] + k[..., 1::2], k[..., 1::2]) for k in (a, a + c, c)
    )
    nine = np.stack([bb, ba, -bc, ab, aa, -ac, -cb, -ca, cc], axis=1)  # (n1, 9, inputs, *halves)
    return vectors(nine, 0, lanes)


def _second(weight: Array, lanes: int) -> Array:
    """Return the weights of the second layer, or of the places of its spectrum: (places, v, n1, lanes)."""
    if weight.shape[2] == 1:
        return vectors(weight[None, :, :, 0, 0], 1, lanes)
    # A correlation is a product with the conjugate spectrum.
    spectrum = np.conj(np.fft.fft2(weight, (FFT, FFT))) / FFT**2  # (n2, n1, ky, kx)
    real, imaginary = spectrum.real, spectrum.imag
    places: list[Array] = []

    def add(y: int, x: int) -> None:
        re, im = real[..., y, x], imaginary[..., y, x]
        places.extend([im - re, re + im, re])

    for x in (0, FFT // 2):
        places += [real[..., 0, x], real[..., FFT // 2, x]]
        for y in range(1, FFT // 2):
            add(y, x)
    for x in range(1, FFT // 2):
        for y in range(FFT):
            add(y, x)
    return vectors(np.stack(places), 1, lanes)


def _last(weight: Array, lanes: int) -> Array:
    """Return the weights of the last layer: (outputs, k, v, k, lanes)."""
    return vectors(weight, 1, lanes).transpose(0, 2, 1, 3, 4)
