"""ONNX Runtime on the CPU: a session's options, one run.

onnxruntime is imported when first needed: it is an extra (``cpu`` or ``gpu``), and
importing this package must stay cheap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType, ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DeviceError, ModelError, OutOfMemoryError, RuntimeMissingError

PROVIDERS = ("auto", "cpu", "cuda", "openvino")
PRECISIONS = ("exact", "fast")
NONE: Mapping[str, str] = MappingProxyType({})
_CPU = "CPUExecutionProvider"
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}
# What runtimes say where memory did not suffice, or a GPU broke; they have no types of error for it.
_NO_MEMORY = re.compile(
    r"bad.?alloc|failed to allocate|out of memory|alloc_failed|not enough memory"
    r"|smaller than requested bytes|free memory block",  # of an arena that has a limit
    re.I,
)
_BROKEN = re.compile(r"\b(cuda|cudnn|cublas) (failure|error)|cuda_error|device.{0,20} lost", re.I)


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
            '(or "srcnn-rt[gpu]" with an NVIDIA GPU)'
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
    """One model in ONNX Runtime on the CPU; ``run`` may be called from several threads at once.

    Parameters
    ----------
    model : bytes
        A serialized ONNX model with one float32 input and one output.
    threads : int, optional
        Threads inside one run; all available processors if None.

    Attributes
    ----------
    provider : "cpu"
    threads : int
    """

    provider = "cpu"

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be at least 1, got {threads}")
        self.threads = threads or available_threads()
        self._session = create(model, [_CPU], self.threads)
        (source, *_), (target, *_) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = source.name, target.name
        self._running = runtime().RunOptions()
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
        if self._dtype == np.float32:
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


def failure(
    runtime: str, shape: tuple[int, ...], error: Exception
) -> OutOfMemoryError | DeviceError | ModelError:
    """Return what to raise where a runtime failed: out of memory, a broken GPU, or whatever it says."""
    return _told(f"{runtime} failed on windows of shape {shape}: {error}")


def _told(text: str) -> OutOfMemoryError | DeviceError | ModelError:
    if _NO_MEMORY.search(text):
        return OutOfMemoryError(text)
    return DeviceError(text) if _BROKEN.search(text) else ModelError(text)


def create(model: bytes, providers: list[Any], threads: int, config: Mapping[str, str] = NONE) -> Any:
    """Return ONNX Runtime's own session of a model.

    Parameters
    ----------
    config : further entries of the session's configuration

    Raises
    ------
    ModelError, OutOfMemoryError, DeviceError
        If the runtime does not take it.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # this session's; failures come as exceptions or are asked for
    # Spinning workers would take the cores from reading and writing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    try:
        # A fallback would print to stdout, and run on the CPU.
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # the runtime's errors share no other base class
        raise _told(f"ONNX Runtime cannot load the model: {error}") from error
