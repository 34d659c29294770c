"""NVIDIA GPUs: which there are, why one cannot be used, and memory, streams and copies on it.

What a GPU can do is asked of the driver itself, by ctypes, so that ``doctor`` tells it on any machine;
memory, streams and copies go through NVIDIA's own bindings (the extra ``gpu`` brings them).
"""

from __future__ import annotations

import ctypes
import io
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError, DeviceError, OutOfMemoryError, ProviderError
from ..onnxruntime import runtime

PROVIDER = "CUDAExecutionProvider"
EXTRA = 'pip uninstall -y onnxruntime && pip install "srcnn-rt[gpu]"'
DLPACK_CUDA = 2  # kDLCUDA of dlpack.h; ONNX Runtime takes no managed memory
# What a build for a version of CUDA asks of the driver (NVIDIA's CUDA compatibility table).
_DRIVERS = {12: 525, 13: 580}
_NAME, _SMS, _MAJOR, _MINOR = 256, 16, 75, 76  # a buffer's size, and CUdevice_attribute


@dataclass(frozen=True, slots=True)
class Device:
    """What the driver says of a GPU: its number, name, compute capability, processors, memory in bytes."""

    index: int
    name: str
    capability: str
    processors: int
    memory: int


def missing() -> str | None:
    """Return why no GPU can be used here, or None if a session may be tried."""
    ort = runtime()
    if PROVIDER not in ort.get_available_providers():
        return f"the installed ONNX Runtime has no CUDA; type: {EXTRA}"
    driver = _driver()
    if driver is None:
        return "no NVIDIA driver is installed (libcuda does not load)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES is {hidden!r})" if hidden is not None else ""
        return f"the NVIDIA driver finds no device{why}"
    has, needed = _version(driver), str(getattr(ort, "cuda_version", "") or "")
    if has is not None and needed.partition(".")[0].isdigit() and has[0] < int(needed.partition(".")[0]):
        minimum = _DRIVERS.get(int(needed.partition(".")[0]))
        return (
            f"the NVIDIA driver is for CUDA {has[0]}.{has[1]} and ONNX Runtime {ort.__version__} needs CUDA "
            f"{needed}; install a newer driver" + (f" ({minimum} or later)" if minimum else "")
        )
    if _bindings() is None:
        return f"NVIDIA's bindings are not installed; type: {EXTRA}"
    return None


def present() -> bool:
    """Return whether the system has a GPU, and it is not hidden; the driver is not started for it.

    A process that is forked after the driver was started cannot use it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/dxg"))


def devices() -> tuple[Device, ...]:
    """Return the GPUs that the driver shows; none where it is missing."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for index in range(count.value):
        handle, memory, name = ctypes.c_int(0), ctypes.c_size_t(0), ctypes.create_string_buffer(_NAME)
        if driver.cuDeviceGet(ctypes.byref(handle), index) != 0:
            continue
        driver.cuDeviceGetName(name, _NAME, handle)
        getattr(driver, "cuDeviceTotalMem_v2", driver.cuDeviceTotalMem)(ctypes.byref(memory), handle)
        major, minor, processors = (_attribute(driver, key, handle) for key in (_MAJOR, _MINOR, _SMS))
        text = name.value.decode("utf-8", "replace")
        found.append(Device(index, text, f"{major}.{minor}", processors, memory.value))
    return tuple(found)


def driver_version() -> str | None:
    """Return the version of CUDA that the driver is for, such as ``"13.0"``; None without a driver."""
    driver = _driver()
    has = None if driver is None else _version(driver)
    return None if has is None else f"{has[0]}.{has[1]}"


def parse_devices(text: str | int | Sequence[int]) -> tuple[int, ...]:
    """Read the numbers of GPUs: ``0``, ``"0,1"``, ``(0, 1)``.

    Raises
    ------
    ArgumentError
        If one is no whole number, negative, or there twice.
    """
    try:
        if isinstance(text, str):
            numbers = tuple(int(word) for word in text.split(","))
        else:
            numbers = (text,) if isinstance(text, int) else tuple(text)
    except ValueError:
        numbers = ()
    ints = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if not numbers or not ints or len(set(numbers)) < len(numbers):
        raise ArgumentError(f"devices must be numbers of GPUs, each once, such as 0 or 0,1, got {text!r}")
    return numbers


def why_not_active(ort: ModuleType) -> str:
    """Return why a session that was asked for CUDA has none: the loader's message says what is missing."""
    library = Path(str(ort.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        needed = str(getattr(ort, "cuda_version", "") or "13").partition(".")[0]
        return f"{error}; CUDA {needed} and cuDNN 9 come with: {EXTRA}"
    return "ONNX Runtime's CUDA provider did not start; check the driver's version with nvidia-smi"


class Gpu(Protocol):
    """A device on which windows are computed. Pointers are addresses in its memory.

    Attributes
    ----------
    index : its number
    kind : ONNX Runtime's name for its memory
    strict : configuration of sessions of which every node must run on it
    processors : how many multiprocessors it has
    """

    index: int
    kind: str
    strict: Mapping[str, str]
    processors: int

    def providers(self, stream: int, options: dict[str, str]) -> list[Any]:
        """Return ONNX Runtime's providers for a session that works on a stream of this GPU."""

    def check(self, session: Any) -> None:
        """Raise `ProviderError` unless a session really is on this GPU."""

    def current(self) -> AbstractContextManager[None]:
        """Make this the GPU that the calling thread talks to, while in it."""

    def stream(self) -> Stream:
        """Return a new queue of work."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes of host memory that the bus reads and writes directly."""

    def memory(self, size: int) -> Buffer:
        """Return `size` bytes on the GPU."""

    def send(self, target: int, source: NDArray[Any], stream: int) -> None:
        """Queue a copy of contiguous host memory to the GPU."""

    def fetch(self, target: NDArray[Any], source: int, stream: int) -> None:
        """Queue a copy from the GPU into contiguous host memory."""

    def move(
        self, target: int, pitch: int, source: int, source_pitch: int, size: tuple[int, int], stream: int
    ) -> None:
        """Queue a copy of a rectangle within the GPU: (rows, bytes of each); pitches are bytes a row."""

    def wait(self, stream: int) -> None:
        """Return when all that was queued is done."""

    def holds(self, device: tuple[int, int]) -> bool:
        """Return whether an array whose ``__dlpack_device__`` says so lies in this GPU's memory."""


class Buffer:
    """Memory on a GPU, let go of with this object."""

    def __init__(self, pointer: int, size: int, free: Callable[[int], object]) -> None:
        self.pointer, self.size = pointer, size
        _finally(self, free, pointer)


class Stream:
    """A queue of work on a GPU, let go of with this object: the last of all that use it."""

    def __init__(self, handle: int, destroy: Callable[[int], object]) -> None:
        self.handle = handle
        _finally(self, destroy, handle)


class CudaGpu:
    """A `Gpu` by NVIDIA's CUDA runtime.

    Raises
    ------
    ProviderError
        If there is none of that number, or it cannot be used; the message says why.
    """

    kind = "cuda"
    strict: Mapping[str, str] = MappingProxyType({"session.disable_cpu_ep_fallback": "1"})

    def __init__(self, index: int) -> None:
        reason = missing()
        if reason is not None:
            raise ProviderError(f"provider cuda does not load: {reason}")
        known = devices()
        if index not in {d.index for d in known}:
            there = ", ".join(str(d.index) for d in known)
            raise ProviderError(f"there is no CUDA device {index}; there are: {there}")
        self.index = index
        self.processors = next(d.processors for d in known if d.index == index)
        self._cuda: Any = _bindings()
        _preload()
        with self.current():
            pass  # the runtime starts, or says why not

    def providers(self, stream: int, options: dict[str, str]) -> list[Any]:
        # The address of the stream is taken as a decimal number.
        own = {
            "device_id": str(self.index),
            "has_user_compute_stream": "1",
            "user_compute_stream": str(stream),
        }
        return [(PROVIDER, {**options, **own})]

    def check(self, session: Any) -> None:
        if PROVIDER not in session.get_providers():
            raise ProviderError(f"provider cuda does not load: {why_not_active(runtime())}")

    @contextmanager
    def current(self) -> Iterator[None]:
        before = self._call(self._cuda.cudaGetDevice)
        self._call(self._cuda.cudaSetDevice, self.index)
        try:
            yield
        finally:  # the caller's own work may be on another GPU
            self._call(self._cuda.cudaSetDevice, before)

    def stream(self) -> Stream:
        with self.current():
            # One that does not wait for the default stream, which other libraries of the process use.
            handle = self._call(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)
        return Stream(int(handle), self._cuda.cudaStreamDestroy)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        with self.current():
            pointer = int(
                self._call(self._cuda.cudaHostAlloc, max(1, size), self._cuda.cudaHostAllocPortable)
            )
        held = (ctypes.c_uint8 * max(1, size)).from_address(pointer)
        _finally(held, self._cuda.cudaFreeHost, pointer)  # views of the array keep `held`
        return np.ctypeslib.as_array(held)[:size]

    def memory(self, size: int) -> Buffer:
        with self.current():
            return Buffer(int(self._call(self._cuda.cudaMalloc, max(1, size))), size, self._cuda.cudaFree)

    def send(self, target: int, source: NDArray[Any], stream: int) -> None:
        way = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        with self.current():
            self._call(self._cuda.cudaMemcpyAsync, target, source.ctypes.data, source.nbytes, way, stream)

    def fetch(self, target: NDArray[Any], source: int, stream: int) -> None:
        way = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        with self.current():
            self._call(self._cuda.cudaMemcpyAsync, target.ctypes.data, source, target.nbytes, way, stream)

    def move(
        self, target: int, pitch: int, source: int, source_pitch: int, size: tuple[int, int], stream: int
    ) -> None:
        way = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        rows, width = size
        with self.current():
            self._call(
                self._cuda.cudaMemcpy2DAsync, target, pitch, source, source_pitch, width, rows, way, stream
            )

    def wait(self, stream: int) -> None:
        with self.current():
            self._call(self._cuda.cudaStreamSynchronize, stream)

    def holds(self, device: tuple[int, int]) -> bool:
        return int(device[0]) == DLPACK_CUDA and int(device[1]) == self.index

    def _call(self, function: Any, *words: Any) -> Any:
        error, *values = function(*words)
        if int(error) != 0:
            _, text = self._cuda.cudaGetErrorString(error)
            line = f"CUDA device {self.index}: {text.decode() if isinstance(text, bytes) else text}"
            if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
                self._cuda.cudaGetLastError()  # or the next call would report it again
                raise OutOfMemoryError(line)
            raise DeviceError(line)
        return values[0] if values else None


def open_gpus(numbers: tuple[int, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs of these numbers.

    Raises
    ------
    ProviderError
    """
    return tuple(CudaGpu(number) for number in numbers)


def parse_memory(text: str | int) -> int:
    """Read a number of bytes: ``8000000000``, ``"8GB"``, ``"500 MB"``, ``"7.5GiB"``.

    Raises
    ------
    ArgumentError
        If it is none, or no more than 64 MB.
    """
    units = {"": 1, "b": 1, "mb": 10**6, "gb": 10**9, "mib": 2**20, "gib": 2**30}
    words = str(text).strip().lower()
    number = words.rstrip("bgim ")
    try:
        size = float(number) * units[words[len(number) :].strip()]
        good = math.isfinite(size) and size > 64e6
    except (ValueError, KeyError):
        good = False
    if not good:
        raise ArgumentError(f"memory must be a size above 64 MB such as 8GB, got {str(text)!r}")
    return int(size)


@cache
def _preload() -> None:
    """Load CUDA and cuDNN from the pip-installed packages, where a loader would not look."""
    ort = runtime()
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what is missing; `why_not_active` says it
            ort.preload_dlls()


def _finally(held: Any, free: Callable[[int], object], what: int) -> None:
    """Free something with its owner; not when the process ends, for the driver may be gone before."""
    weakref.finalize(held, free, what).atexit = False


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return None


def _version(driver: Any) -> tuple[int, int] | None:
    value = ctypes.c_int(0)
    if not hasattr(driver, "cuDriverGetVersion") or driver.cuDriverGetVersion(ctypes.byref(value)) != 0:
        return None
    return value.value // 1000, value.value % 1000 // 10


def _attribute(driver: Any, key: int, handle: ctypes.c_int) -> int:
    value = ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), key, handle)
    return value.value


def _bindings() -> Any:
    try:
        from cuda.bindings import runtime as bindings
    except ImportError:
        return None
    return bindings
