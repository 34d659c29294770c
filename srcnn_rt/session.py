"""ONNX Runtime: which providers really load, a session's options, one run.

onnxruntime is imported when first needed: it is an extra (``cpu`` or ``gpu``), and
importing this package must stay cheap.
"""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError, ModelError, OutOfMemoryError, ProviderError, RuntimeMissingError

PROVIDERS = ("auto", "cpu", "cuda", "openvino")
PRECISIONS = ("exact", "fast")
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}
# What runtimes say where memory did not suffice; they have no type of error for it.
_NO_MEMORY = re.compile(r"bad.?alloc|failed to allocate|out of memory|alloc_failed|not enough memory", re.I)
_GPU_EXTRA = 'pip uninstall -y onnxruntime && pip install "srcnn-rt[gpu]"'


def runtime() -> ModuleType:
    """Import ONNX Runtime.

    Raises
    ------
    RuntimeMissingError
        With the line to type, if neither wheel is installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissingError(
            f'ONNX Runtime does not import ({error}); type: pip install "srcnn-rt[cpu]" '
            '(or "srcnn-rt[gpu]" with an NVIDIA card)'
        ) from error
    # Two wheels in one environment overwrite each other and can leave an empty shell.
    if not hasattr(onnxruntime, "InferenceSession"):
        raise RuntimeMissingError(
            "ONNX Runtime is damaged (were onnxruntime and onnxruntime-gpu both installed?); type: "
            'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "srcnn-rt[cpu]"'
        )
    module: ModuleType = onnxruntime
    return module


def available_threads() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def cuda_missing() -> str | None:
    """Return why CUDA cannot be used here, or None if a session may be tried."""
    if _CUDA not in runtime().get_available_providers():
        return f"the installed ONNX Runtime has no CUDA; type: {_GPU_EXTRA}"
    try:
        driver = ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return "no NVIDIA driver is installed (libcuda does not load)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no device"
    return None


class Network(Protocol):
    """A model loaded into a runtime.

    Attributes
    ----------
    provider : the one really active
    threads : of one run
    """

    provider: str
    threads: int

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return buffers for windows of one shape and the run between them."""

    def interrupted(self) -> AbstractContextManager[None]:
        """While in it, runs end as soon as they can, with an error; those of all threads."""


class Session:
    """One model in ONNX Runtime on one provider; ``run`` may be called from several threads at once.

    Parameters
    ----------
    model : bytes
        A serialized ONNX model with one float32 input and one output.
    provider : {"auto", "cpu", "cuda"}
        ``"auto"`` takes CUDA where it works, else the CPU. A provider asked for by name
        is used or an error is raised.
    threads : int, optional
        Threads inside one run; all available processors if None.

    Attributes
    ----------
    provider : "cpu" or "cuda", the one really active
    threads : int
    """

    def __init__(self, model: bytes, provider: str = "auto", threads: int | None = None) -> None:
        if provider not in ("auto", "cpu", "cuda"):
            raise ArgumentError(f"ONNX Runtime's provider must be auto, cpu or cuda, got {provider!r}")
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be at least 1, got {threads}")
        ort = runtime()
        self.threads = threads or available_threads()
        self._session: Any = None
        if provider != "cpu":
            reason = cuda_missing()
            if reason is None:
                self._session = _create(ort, model, _cuda_options(), self.threads)
                if _CUDA not in self._session.get_providers():
                    self._session, reason = None, _why_cuda_failed(ort)
                    if provider == "auto":  # a card is there, so silence would hide a fault
                        warnings.warn(f"running on the CPU: {reason}", RuntimeWarning, stacklevel=3)
            if self._session is None and provider == "cuda":
                raise ProviderError(f"provider cuda does not load: {reason}")
        self.provider = "cpu" if self._session is None else "cuda"
        if self._session is None:
            self._session = _create(ort, model, [_CPU], self.threads)
        (source, *_), (target, *_) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = source.name, target.name
        self._running = ort.RunOptions()
        self._running.log_severity_level = 4  # failures come as exceptions
        self._dtype: np.dtype[Any] = _DTYPES.get(source.type, np.dtype(np.float32))

    def run(self, windows: NDArray[Any]) -> NDArray[np.float32]:
        """Run the model on (N, C, h, w) windows and return its (N, C, H, W) output.

        Models of other types are fed and read in theirs: float16 is converted, uint8 stands
        for [0, 255], rounded half to even.

        Raises
        ------
        OutOfMemoryError
        ModelError
            If the runtime fails otherwise; the message is the runtime's.
        """
        if self._dtype == np.uint8:
            windows = np.rint(np.clip(windows, 0, 255))
        windows = windows.astype(self._dtype, copy=False)
        try:
            (out,) = self._session.run([self._output], {self._input: windows}, self._running)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", windows.shape, error) from error
        return np.ascontiguousarray(out, dtype=np.float32)

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return buffers for windows of one shape and the run between them.

        Parameters
        ----------
        source, target : (N, C, h, w) of the windows and of what the model makes of them
        """
        if self.provider == "cpu" and self._dtype == np.float32:
            return _InPlace(self._session, self._running, self._input, self._output, source, target)
        return Bound(self.run, source, target)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """While in it, runs end as soon as they can, with an error."""
        self._running.terminate = True
        try:
            yield
        finally:
            self._running.terminate = False


class Bound:
    """A model with one window shape: buffers allocated once, and the run between them.

    Not safe for several threads at once; different ones of the same session are.

    Attributes
    ----------
    input : float32, filled by the caller
    output : float32, what `run` made of it; overwritten by the next
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        source: tuple[int, ...],
        target: tuple[int, ...],
    ) -> None:
        self.input = np.zeros(source, np.float32)
        self.output = np.empty(target, np.float32)
        self._run = run

    def run(self) -> None:
        """Fill `output` from `input`.

        Raises
        ------
        ModelError
            If the runtime fails, or the model gives another shape than it was bound to.
        """
        out = self._run(self.input)
        if out.shape != self.output.shape:
            raise ModelError(f"the model gives {out.shape} for {self.input.shape}, not {self.output.shape}")
        np.copyto(self.output, out)


class _InPlace(Bound):
    """ONNX Runtime reads and writes the buffers themselves."""

    def __init__(
        self,
        session: Any,
        running: Any,
        source_name: str,
        target_name: str,
        source: tuple[int, ...],
        target: tuple[int, ...],
    ) -> None:
        super().__init__(lambda windows: windows, source, target)
        self._session, self._running = session, running
        self._binding = session.io_binding()
        for bind, name, array in (
            (self._binding.bind_input, source_name, self.input),
            (self._binding.bind_output, target_name, self.output),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._running)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", self.input.shape, error) from error


def failure(runtime: str, shape: tuple[int, ...], error: Exception) -> OutOfMemoryError | ModelError:
    """Return what to raise where a runtime failed: out of memory, or whatever it says."""
    text = f"{runtime} failed on windows of shape {shape}: {error}"
    return OutOfMemoryError(text) if _NO_MEMORY.search(str(error)) else ModelError(text)


def _create(ort: ModuleType, model: bytes, providers: list[Any], threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # this session's; failures come as exceptions or are asked for
    # Spinning workers would take the cores from reading and writing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # the runtime's errors share no other base class
        raise ModelError(f"ONNX Runtime cannot load the model: {error}") from error


def _cuda_options() -> list[Any]:
    ort = runtime()
    if hasattr(ort, "preload_dlls"):  # finds CUDA and cuDNN among the pip-installed packages
        ort.preload_dlls()
    # One shape only, so an exhaustive search for the fastest algorithm is not worth its time
    # and memory; TF32 would cost accuracy.
    return [(_CUDA, {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}), _CPU]


def _why_cuda_failed(ort: ModuleType) -> str:
    """Load the provider's library by hand: the loader's message says what is missing."""
    library = Path(str(ort.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"{error}; CUDA 13 and cuDNN 9 come with: {_GPU_EXTRA}"
    return "ONNX Runtime's CUDA provider did not start; check the driver's version with nvidia-smi"
