"""Memory that starts at a multiple of a vector, and weights in it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]
Float = TypeVar("Float", bound=np.floating)


def aligned_zeros(shape: int | tuple[int, ...]) -> Weights:
    """Return an array of zeros at an address that is a multiple of 64 bytes."""
    size = int(np.prod(shape))
    store = np.zeros(size + 16, np.float32)
    start = -store.ctypes.data % 64 // 4
    return store[start : start + size].reshape(shape)


def aligned(array: NDArray[np.floating]) -> Weights:
    """Return a copy at such an address."""
    found = aligned_zeros(array.shape)
    found[...] = array
    return found


def filled(array: NDArray[Float], axis: int, multiple: int) -> NDArray[Float]:
    """Fill an axis up with zeros to a multiple."""
    return np.pad(array, [(0, -n % multiple if k == axis else 0) for k, n in enumerate(array.shape)])


def vectors(array: NDArray[Float], axis: int, lanes: int) -> NDArray[Float]:
    """Split an axis of output channels into vectors, in its place, and lanes, at the end."""
    shape = array.shape
    split = array.reshape(*shape[:axis], shape[axis] // lanes, lanes, *shape[axis + 1 :])
    return np.moveaxis(split, axis + 1, -1)
