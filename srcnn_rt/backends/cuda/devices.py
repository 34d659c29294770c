"""NVIDIA GPUs: their properties, why they cannot be used, and memory, streams and copies.

Properties are queried from the driver with ctypes, so that ``doctor`` works on any machine. Memory, streams
and copies use NVIDIA's Python bindings, which the extra ``gpu`` installs.
"""

from __future__ import annotations

import ctypes
import io
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError, OutOfMemoryError, ProviderError
from ..onnxruntime import runtime

PROVIDER = "CUDAExecutionProvider"
INSTALL = 'pip uninstall -y onnxruntime && pip install "srcnn-rt[gpu]"'
DLPACK_CUDA = 2  # kDLCUDA of dlpack.h; ONNX Runtime does not import managed memory
FORKED = (
    "CUDA cannot be used in a process that was forked after CUDA was started; "
    "start processes by the method 'spawn' or 'forkserver'"
)
_NOT_INITIALIZED = 3  # CUresult of cuInit in such a process
# Oldest driver for each major version of CUDA (NVIDIA's CUDA compatibility table).
_MIN_DRIVERS = {12: 525, 13: 580}
_NAME_SIZE = 256  # of the buffer for a device's name
# Values of CUdevice_attribute.
_MULTIPROCESSOR_COUNT, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 16, 75, 76


@dataclass(frozen=True, slots=True)
class Device:
    """Properties of a GPU.

    Attributes
    ----------
    index : int
    name : str
    capability : str
        Compute capability, such as ``"9.0"``.
    multiprocessors : int
    memory : int
        Bytes.
    """

    index: int
    name: str
    capability: str
    multiprocessors: int
    memory: int


def missing() -> str | None:
    """Return why no GPU can be used on this machine, or None if nothing is known to be missing."""
    ort = runtime()
    if PROVIDER not in ort.get_available_providers():
        return f"the installed ONNX Runtime has no CUDA provider; type: {INSTALL}"
    driver = _driver()
    if driver is None:
        return "no NVIDIA driver is installed (libcuda does not load)"
    if driver.cuInit(0) == _NOT_INITIALIZED:
        return FORKED
    if _device_count(driver) == 0:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES is {hidden!r})" if hidden is not None else ""
        return f"the NVIDIA driver finds no device{why}"
    version, needed = _version(driver), str(getattr(ort, "cuda_version", "") or "")
    major = needed.partition(".")[0]
    if version is not None and major.isdigit() and version[0] < int(major):
        minimum = _MIN_DRIVERS.get(int(major))
        return (
            f"the NVIDIA driver is for CUDA {version[0]}.{version[1]} and ONNX Runtime {ort.__version__} "
            f"needs CUDA {needed}; install a newer driver" + (f" ({minimum} or later)" if minimum else "")
        )
    if _bindings() is None:
        return f"NVIDIA's Python bindings are not installed; type: {INSTALL}"
    return None


def present() -> bool:
    """Return whether the system has a visible NVIDIA GPU, without initialising the driver.

    A process that is forked after the driver was initialised cannot use it.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/dxg"))


def devices() -> tuple[Device, ...]:
    """Return the GPUs that the driver reports; none without a driver."""
    driver = _driver()
    found = []
    for index in range(0 if driver is None else _device_count(driver)):
        number = _number(driver.cuDeviceGet, index)
        if number is None:
            continue
        handle = ctypes.c_int(number)
        memory, name = ctypes.c_size_t(0), ctypes.create_string_buffer(_NAME_SIZE)
        driver.cuDeviceGetName(name, _NAME_SIZE, handle)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
        major, minor, multiprocessors = (
            _number(driver.cuDeviceGetAttribute, key, handle) or 0
            for key in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _MULTIPROCESSOR_COUNT)
        )
        text = name.value.decode("utf-8", "replace")
        found.append(Device(index, text, f"{major}.{minor}", multiprocessors, memory.value))
    return tuple(found)


def driver_version() -> str | None:
    """Return the newest CUDA version that the driver supports, such as ``"13.0"``; None without a driver."""
    driver = _driver()
    version = None if driver is None else _version(driver)
    return None if version is None else f"{version[0]}.{version[1]}"


def why_not_active(ort: ModuleType) -> str:
    """Return why ONNX Runtime did not start its CUDA provider, from the error of the dynamic linker."""
    library = Path(str(ort.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        needed = str(getattr(ort, "cuda_version", "") or "13").partition(".")[0]
        return f"{error}; CUDA {needed} and cuDNN 9 come with: {INSTALL}"
    return "ONNX Runtime's CUDA provider did not start; check the version of the driver with nvidia-smi"


class Buffer:
    """Device memory; it is freed with this object.

    Parameters
    ----------
    pointer : int
    size : int
        Bytes.
    free : callable
        Called with the pointer.
    """

    def __init__(self, pointer: int, size: int, free: Callable[[int], object]) -> None:
        self.pointer, self.size = pointer, size
        _finally(self, free, pointer)


class Stream:
    """A CUDA stream, destroyed with this object; release everything that uses it first.

    Parameters
    ----------
    handle : int
    destroy : callable
        Called with the handle.
    """

    def __init__(self, handle: int, destroy: Callable[[int], object]) -> None:
        self.handle = handle
        _finally(self, destroy, handle)


class Gpu:
    """A device that computes windows, through NVIDIA's CUDA runtime.

    Pointers are addresses in its memory, streams are handles. Copies are asynchronous: they are queued on a
    stream.

    Parameters
    ----------
    index : int
        CUDA's device index.

    Attributes
    ----------
    kind : str
        ONNX Runtime's name of its memory.
    strict : mapping of str to str
        Session configuration that refuses graphs with nodes on the CPU.
    multiprocessors : int

    Raises
    ------
    ProviderError
        If the device does not exist or cannot be used; the message says why.
    """

    kind = "cuda"
    strict: Mapping[str, str] = MappingProxyType({"session.disable_cpu_ep_fallback": "1"})

    def __init__(self, index: int) -> None:
        reason = missing()
        if reason is not None:
            raise ProviderError(f"provider cuda does not load: {reason}")
        known = {device.index: device for device in devices()}
        if index not in known:
            raise ProviderError(f"there is no CUDA device {index}; there are: {', '.join(map(str, known))}")
        self.index = index
        self.multiprocessors = known[index].multiprocessors
        self._cuda: Any = _bindings()
        _preload()
        with self.current():
            pass  # starts the CUDA runtime, or raises

    def providers(self, stream: int, options: dict[str, str]) -> list[Any]:
        """Return ONNX Runtime's execution providers for a session that uses a stream of this GPU."""
        own = {
            "device_id": str(self.index),
            "has_user_compute_stream": "1",
            "user_compute_stream": str(stream),  # its address in decimal
        }
        return [(PROVIDER, {**options, **own})]

    def check(self, session: Any) -> None:
        """Raise `ProviderError` unless a session runs on this GPU."""
        if PROVIDER not in session.get_providers():
            raise ProviderError(f"provider cuda does not load: {why_not_active(runtime())}")

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the current device of the calling thread while the context is active."""
        before = self._call(self._cuda.cudaGetDevice)
        self._call(self._cuda.cudaSetDevice, self.index)
        try:
            yield
        finally:  # the caller may use another GPU
            self._call(self._cuda.cudaSetDevice, before)

    def stream(self) -> Stream:
        """Create a stream."""
        # Without synchronisation with the default stream, which other libraries use.
        handle = self._call_here(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)
        return Stream(int(handle), self._cuda.cudaStreamDestroy)

    def allocate(self, size: int) -> Buffer:
        """Allocate `size` bytes of device memory."""
        pointer = int(self._call_here(self._cuda.cudaMalloc, max(1, size)))
        return Buffer(pointer, size, self._cuda.cudaFree)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate `size` bytes of page-locked host memory."""
        flag = self._cuda.cudaHostAllocPortable
        pointer = int(self._call_here(self._cuda.cudaHostAlloc, max(1, size), flag))
        owner = (ctypes.c_uint8 * max(1, size)).from_address(pointer)
        _finally(owner, self._cuda.cudaFreeHost, pointer)  # views of the array keep `owner` alive
        return np.ctypeslib.as_array(owner)[:size]

    def copy_to_device(self, target: int, source: NDArray[Any], stream: int) -> None:
        """Copy contiguous host memory to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call_here(self._cuda.cudaMemcpyAsync, target, source.ctypes.data, source.nbytes, kind, stream)

    def copy_to_host(self, target: NDArray[Any], source: int, stream: int) -> None:
        """Copy device memory to contiguous host memory."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call_here(self._cuda.cudaMemcpyAsync, target.ctypes.data, source, target.nbytes, kind, stream)

    def copy_2d(
        self, target: int, pitch: int, source: int, source_pitch: int, size: tuple[int, int], stream: int
    ) -> None:
        """Copy a rectangle within the device: `size` is (rows, bytes per row), pitches are in bytes."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        (rows, width), copy = size, self._cuda.cudaMemcpy2DAsync
        self._call_here(copy, target, pitch, source, source_pitch, width, rows, kind, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work queued on a stream is done."""
        self._call_here(self._cuda.cudaStreamSynchronize, stream)

    def holds(self, device: tuple[int, int]) -> bool:
        """Return whether memory of a ``__dlpack_device__`` is this GPU's."""
        return int(device[0]) == DLPACK_CUDA and int(device[1]) == self.index

    def _call_here(self, function: Any, *args: Any) -> Any:
        """Call a function of the CUDA runtime while this is the current device."""
        with self.current():
            return self._call(function, *args)

    def _call(self, function: Any, *args: Any) -> Any:
        error, *values = function(*args)
        if int(error) != 0:
            _, text = self._cuda.cudaGetErrorString(error)
            message = f"CUDA device {self.index}: {text.decode() if isinstance(text, bytes) else text}"
            if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
                self._cuda.cudaGetLastError()  # resets it, or the next call would report it again
                raise OutOfMemoryError(message)
            raise DeviceError(message)
        return values[0] if values else None


def open_gpus(indices: tuple[int, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs with these indices.

    Raises
    ------
    ProviderError
    """
    return tuple(Gpu(index) for index in indices)


@cache
def _preload() -> None:
    """Load CUDA and cuDNN from pip-installed packages, where the dynamic linker does not look."""
    with redirect_stdout(io.StringIO()):  # it prints what is missing; `why_not_active` reports that
        runtime().preload_dlls()


def _finally(owner: Any, free: Callable[[int], object], handle: int) -> None:
    """Free a handle with its owner, but not at exit: the driver may be unloaded by then."""
    weakref.finalize(owner, free, handle).atexit = False


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return None


def _device_count(driver: Any) -> int:
    return 0 if driver.cuInit(0) != 0 else _number(driver.cuDeviceGetCount) or 0


def _version(driver: Any) -> tuple[int, int] | None:
    value = _number(driver.cuDriverGetVersion)
    return None if value is None else (value // 1000, value % 1000 // 10)


def _number(function: Any, *args: Any) -> int | None:
    """Return the integer that a function of the driver stores in its first argument, None if it fails."""
    value = ctypes.c_int(0)
    return value.value if function(ctypes.byref(value), *args) == 0 else None


def _bindings() -> Any:
    try:
        from cuda.bindings import runtime as bindings
    except ImportError:
        return None
    return bindings
