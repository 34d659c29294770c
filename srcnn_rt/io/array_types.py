"""Static types of the arrays that are taken and given back."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Sample = TypeVar("Sample", bound=np.integer[Any] | np.floating[Any])
Masked = TypeVar("Masked", bound="np.ma.MaskedArray[Any, Any]")


class SupportsDLPack(Protocol):
    """An array of torch, CuPy, JAX or another library of the array API standard."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, Any]: ...


class SupportsArray(Protocol):
    """What converts itself to an array of NumPy, such as an array of Zarr or h5py."""

    def __array__(self) -> NDArray[Any]: ...


class HasDimensions(Protocol):
    """A DataArray of xarray."""

    @property
    def dims(self) -> tuple[Hashable, ...]: ...

    @property
    def coords(self) -> Any: ...


Labelled = TypeVar("Labelled", bound=HasDimensions)
Exported = TypeVar("Exported", bound=SupportsDLPack)
