"""Images in the memory of a GPU, imported and exported by DLPack without a copy to the host."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError
from ...image.info import ImageInfo, Layout
from ...io.protocols import Closing, Record
from ...tiling.geometry import Span
from ..base import failure
from ..onnxruntime import runtime
from .devices import Gpu

_CPU, _PINNED = 1, 3  # kDLCPU and kDLCUDAHost of dlpack.h
_TYPES = {"tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(float)": np.float32}


class DeviceArray:
    """A contiguous (H, W, C) array on a GPU.

    Parameters
    ----------
    value : onnxruntime.OrtValue
        Owns the memory.
    shape : tuple of int
    dtype : dtype

    Attributes
    ----------
    pointer : int
        Its address.
    """

    def __init__(self, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.value, self.shape, self.dtype = value, shape, dtype
        self.pointer: int = value.data_ptr()

    @classmethod
    def empty(cls, gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Return a new array; its content is undefined.

        Raises
        ------
        OutOfMemoryError, DeviceError, ModelError
        """
        make = runtime().OrtValue.ortvalue_from_shape_and_type
        try:
            with gpu.current():
                return cls(make(shape, dtype.type, gpu.kind, gpu.index), shape, dtype)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", shape, error) from error


class DeviceSource(Closing):
    """A `Source` for an image on a GPU; every read returns the whole image.

    NaN and infinity are not masked: they spread as far as the receptive field.

    Parameters
    ----------
    array : DeviceArray
    gpu : Gpu
    layout : Layout
    """

    by_rows = False
    in_memory = on_device = True

    def __init__(self, array: DeviceArray, gpu: Gpu, layout: Layout) -> None:
        h, w = array.shape[:2]
        self.info = ImageInfo((h, w), layout, array.dtype)
        self.array, self.gpu = array, gpu

    def read(self, y: Span, x: Span) -> Any:
        """Return the whole image."""
        return self.array

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        """Return a mask without nodata."""
        return np.ones((y.size, x.size), np.bool_)


class DeviceSink(Closing):
    """A `Sink` that fills a new image on a GPU in place.

    Parameters
    ----------
    gpu : Gpu
    info : ImageInfo
        Of the HR image.
    """

    block = (1, 1)
    max_bytes: int | None = None
    in_memory = True

    def __init__(self, gpu: Gpu, info: ImageInfo) -> None:
        self.array = DeviceArray.empty(gpu, (*info.shape, info.layout.channels), info.dtype)

    def buffer(self, y: Span, x: Span) -> Any:
        """Return the whole image."""
        return self.array

    def write(self, y: Span, x: Span, block: Any, mask: NDArray[np.bool_] | None = None) -> Record:
        """Do nothing; the block is in the image already."""
        return {}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Return False; a job in memory cannot be resumed."""
        return False


def from_dlpack(
    image: Any,
    gpu: Gpu,
    stream: int,
    *,
    bands: bool = False,
    alpha: bool | None = None,
    nodata: float | None = None,
    classes: bool = False,
) -> DeviceSource:
    """Import an array of another library that is on a GPU.

    Parameters
    ----------
    image : array
        Supports ``__dlpack__``. It is copied on the device if it is not contiguous.
    gpu : Gpu
        The GPU that holds it.
    stream : int
        A stream of the GPU, with which the owner of the array synchronises.
    bands, alpha, nodata, classes
        As in `Engine.upscale`.

    Raises
    ------
    ArgumentError
        If its shape or type is not supported, it needs a gradient, or nodata or classes are asked for.
    """
    if nodata is not None or classes:
        name = "classes" if classes else "nodata"
        raise ArgumentError(f"{name} is not supported for arrays on a GPU; copy the array to host memory")
    try:
        with gpu.current():  # torch requires it
            value = runtime().OrtValue.from_dlpack(_OnStream(contiguous(image), stream))
    except Exception as error:  # any class, by library
        raise ArgumentError(
            f"the array must be of uint8, uint16 or float32, without a gradient: {error}"
        ) from error
    gpu.synchronize(stream)
    shape = tuple(int(n) for n in value.shape())
    if value.data_type() not in _TYPES:
        raise ArgumentError(f"an image must be uint8, uint16 or float32, got {value.data_type()}")
    if len(shape) not in (2, 3) or 0 in shape:
        raise ArgumentError(f"an image must be (H, W) or (H, W, C) and not empty, got {shape}")
    if len(shape) == 2:
        shape = (*shape, 1)
    array = DeviceArray(value, shape, np.dtype(_TYPES[value.data_type()]))
    return DeviceSource(array, gpu, Layout.of(shape[2], bands=bands, alpha=alpha))


def to_dlpack(array: DeviceArray, image: Any, gpu: Gpu) -> Any:
    """Export an array to the library of `image`, with as many axes as `image`, without a copy.

    Raises
    ------
    ArgumentError
        If the library does not support DLPack.
    """
    with gpu.current():
        exported = importer(image)(array.value)
    return exported if len(image.shape) == 3 else exported[:, :, 0]


def image_by_image(image: Any, axes: str, upscale: Callable[[Any, int, int], Any]) -> Any:
    """Upscale the images of an array of another library, and return a contiguous array with the same axes.

    Parameters
    ----------
    image : array
    axes : str
        As `axes_of` returns them.
    upscale : callable
        Takes an (H, W) or (H, W, C) array, the number of the image, and how many there are.
    """
    order = [axes.index(a) for a in "nyxc" if a in axes]
    turned = _transposed(image, order)
    if "n" in axes:
        count = len(turned)
        made = [upscale(turned[k], k, count) for k in range(count)]
        result = _namespace(image).stack(made)
    else:
        result = upscale(turned, 0, 1)
    return contiguous(_transposed(result, np.argsort(order).tolist()))


def _transposed(image: Any, order: Sequence[int]) -> Any:
    turn = getattr(image, "permute", None) or image.transpose  # torch's transpose swaps two axes
    return turn(tuple(order))


def contiguous(image: Any) -> Any:
    """Return a C-contiguous array, made by the array's own library."""
    if hasattr(image, "contiguous"):  # torch; returns the same tensor if it is contiguous
        return image.contiguous()
    ascontiguousarray = getattr(_library(image), "ascontiguousarray", None)
    return image if ascontiguousarray is None else ascontiguousarray(image)


def unnamed(image: Any) -> Any:
    """Return an array without the names of its axes, which torch does not export."""
    return image.rename(None) if any(getattr(image, "names", None) or ()) else image


def from_host_dlpack(image: Any, provider: str) -> NDArray[Any]:
    """Import an array of another library in host memory as a NumPy array, without a copy.

    Parameters
    ----------
    image : array
        Supports ``__dlpack__``.
    provider : str
        The active provider, for the error message.

    Raises
    ------
    ArgumentError
        If it is on another device, or its library does not export it.
    """
    kind, index = (int(n) for n in image.__dlpack_device__())
    if kind not in (_CPU, _PINNED):
        raise ArgumentError(
            f"the array is on device {index} of DLPack device type {kind}, and this engine (provider "
            f"{provider}) is not; copy it to the host, or create the engine with that device"
        )
    try:
        return np.from_dlpack(unnamed(image))
    except Exception as error:  # any class, by library
        raise ArgumentError(f"{type(image).__name__} cannot be exported by DLPack: {error}") from error


def importer(image: Any) -> Any:
    """Return the ``from_dlpack`` function of an array's library.

    Raises
    ------
    ArgumentError
        If it has none.
    """
    function = getattr(_namespace(image), "from_dlpack", None)
    if function is None:
        raise ArgumentError(f"{type(image).__module__} has no from_dlpack; pass a NumPy array")
    return function


def _namespace(image: Any) -> Any:
    """Return the package or namespace that has the functions of an array's library."""
    library = _library(image)
    if not hasattr(library, "from_dlpack") and hasattr(image, "__array_namespace__"):
        library = image.__array_namespace__()
    return library


def _library(image: Any) -> Any:
    """Return the package that defines an array's class."""
    return sys.modules.get(type(image).__module__.partition(".")[0])


class _OnStream:
    """An array whose ``__dlpack__`` is called with a stream, as ONNX Runtime does not."""

    def __init__(self, image: Any, stream: int) -> None:
        self._image, self._stream = image, stream

    def __dlpack__(self, **kwargs: Any) -> Any:
        # The stream must be None for host memory.
        kind, _ = self._image.__dlpack_device__()
        return self._image.__dlpack__(stream=None if int(kind) == _CPU else self._stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._image.__dlpack_device__()
        return int(kind), int(index)
