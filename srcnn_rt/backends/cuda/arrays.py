"""Images in a GPU's memory: taken and given by DLPack, without a trip through the host."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError
from ...image.info import ImageInfo, Layout
from ...io.protocols import Closing, Record
from ...tiling.geometry import Span
from ..onnxruntime import failure, runtime
from .devices import Gpu

_CPU, _PINNED = 1, 3  # kDLCPU and kDLCUDAHost of dlpack.h
_TYPES = {"tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(float)": np.float32}


class DeviceArray:
    """A contiguous (H, W, C) array on a GPU.

    Attributes
    ----------
    pointer : its address
    shape, dtype
    value : ONNX Runtime's tensor, which holds the memory
    """

    def __init__(self, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.value, self.shape, self.dtype = value, shape, dtype
        self.pointer: int = value.data_ptr()

    @classmethod
    def empty(cls, gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """Return a new one; its content is undefined."""
        make = runtime().OrtValue.ortvalue_from_shape_and_type
        try:
            with gpu.current():
                return cls(make(shape, dtype.type, gpu.kind, gpu.index), shape, dtype)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", shape, error) from error


class DeviceSource(Closing):
    """An image on a GPU as a source: every read gives the whole of it.

    NaN and infinity of float32 are not looked for: they reach as far as the network sees.
    """

    by_rows = False
    in_memory = True

    def __init__(self, array: DeviceArray, gpu: Gpu, layout: Layout) -> None:
        h, w = array.shape[:2]
        self.info = ImageInfo((h, w), layout, array.dtype)
        self.array, self.gpu = array, gpu

    def read(self, y: Span, x: Span) -> Any:
        return self.array

    def read_mask(self, y: Span, x: Span) -> NDArray[np.bool_]:
        return np.ones((y.size, x.size), np.bool_)

    def close(self) -> None:
        pass


class DeviceSink(Closing):
    """A new image on a GPU, filled in place."""

    block = (1, 1)
    max_bytes: int | None = None
    in_memory = True

    def __init__(self, gpu: Gpu, info: ImageInfo) -> None:
        self.array = DeviceArray.empty(gpu, (*info.shape, info.layout.channels), info.dtype)

    def buffer(self, y: Span, x: Span) -> Any:
        return self.array

    def write(self, y: Span, x: Span, block: Any, mask: NDArray[np.bool_] | None = None) -> Record:
        return {}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return False

    def close(self) -> None:
        pass


def take(image: Any, gpu: Gpu, stream: int, *, bands: bool, alpha: bool | None = None) -> DeviceSource:
    """Take an array of another library that lies on `card`, when it is ready.

    Parameters
    ----------
    stream : of the GPU, on which the array's owner is told to have it ready
    bands, alpha : as in `Layout.of`

    Raises
    ------
    ArgumentError
        If its shape, type or order is another one.
    """
    try:
        with gpu.current():  # torch asks for it
            value = runtime().OrtValue.from_dlpack(_Ordered(_contiguous(image), stream))
    except Exception as error:  # libraries raise what they like
        raise ArgumentError(
            f"the array must be of uint8, uint16 or float32, without a gradient: {error}"
        ) from error
    gpu.wait(stream)
    shape = tuple(int(n) for n in value.shape())
    if value.data_type() not in _TYPES:
        raise ArgumentError(f"an image must be uint8, uint16 or float32, got {value.data_type()}")
    if len(shape) not in (2, 3) or 0 in shape:
        raise ArgumentError(f"an image must be (H, W) or (H, W, C) and not empty, got {shape}")
    whole = shape if len(shape) == 3 else (*shape, 1)
    array = DeviceArray(value, whole, np.dtype(_TYPES[value.data_type()]))
    return DeviceSource(array, gpu, Layout.of(whole[2], bands=bands, alpha=alpha))


def _contiguous(image: Any) -> Any:
    """Return an array, turned or cut out of another, as one that is in order, by its own library."""
    if hasattr(image, "contiguous"):  # torch; the same tensor where it is so already
        return image.contiguous()
    library = sys.modules.get(type(image).__module__.partition(".")[0])
    ordered = getattr(library, "ascontiguousarray", None)
    return image if ordered is None else ordered(image)


def on_host(image: Any, provider: str) -> NDArray[Any]:
    """Return an array of another library in host memory as NumPy's; nothing is copied.

    Raises
    ------
    ArgumentError
        If it lies elsewhere, or its owner does not hand it out.
    """
    kind, index = (int(n) for n in image.__dlpack_device__())
    if kind not in (_CPU, _PINNED):
        raise ArgumentError(
            f"the array lies on device {index} of DLPack's kind {kind}, which this engine (provider "
            f"{provider}) does not run on; copy it to the host, or make the engine there"
        )
    try:
        return np.from_dlpack(image)
    except Exception as error:  # libraries raise what they like
        raise ArgumentError(f"{type(image).__name__} does not give its samples: {error}") from error


def give(array: DeviceArray, image: Any, gpu: Gpu) -> Any:
    """Return `array` as the library of `image` has them, (H, W) if `image` is; nothing is copied."""
    with gpu.current():
        made = like(image)(array.value)
    return made if len(image.shape) == 3 else made[:, :, 0]


def like(image: Any) -> Any:
    """Return the ``from_dlpack`` of the library that an array is of.

    Raises
    ------
    ArgumentError
        If it has none.
    """
    library = sys.modules.get(type(image).__module__.partition(".")[0])
    if not hasattr(library, "from_dlpack") and hasattr(image, "__array_namespace__"):
        library = image.__array_namespace__()
    function = getattr(library, "from_dlpack", None)
    if function is None:
        raise ArgumentError(f"{type(image).__module__} has no from_dlpack; give a NumPy array")
    return function


class _Ordered:
    """An array whose owner is asked to have it ready for one stream."""

    def __init__(self, image: Any, stream: int) -> None:
        self._image, self._stream = image, stream

    def __dlpack__(self, **words: Any) -> Any:
        # The host has no streams, and None is all that its libraries take.
        kind, _ = self._image.__dlpack_device__()
        return self._image.__dlpack__(stream=None if int(kind) == _CPU else self._stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._image.__dlpack_device__()
        return int(kind), int(index)
