"""ONNX Runtime: import, session options, and a network on the CPU.

onnxruntime is imported on first use: it is an optional dependency (extra ``cpu`` or ``gpu``), and importing
this package must stay fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system.cpu import available_threads
from ..errors import ArgumentError, RuntimeMissingError
from .base import Bound, classified, failure
from .host_renderer import HostNetwork

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}


def runtime() -> ModuleType:
    """Import ONNX Runtime.

    Raises
    ------
    RuntimeMissingError
        If it is not installed or damaged; the message has the command that installs it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissingError(
            f'ONNX Runtime cannot be imported ({error}); type: pip install "srcnn-rt[cpu]" '
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


def create(model: bytes, providers: list[Any], threads: int, config: Mapping[str, str] | None = None) -> Any:
    """Return an ``onnxruntime.InferenceSession``.

    Parameters
    ----------
    model : bytes
        A serialized ONNX model.
    providers : list
        Execution providers, as ``InferenceSession`` takes them.
    threads : int
        Threads per run.
    config : mapping of str to str, optional
        Further entries of the session's configuration.

    Raises
    ------
    ModelError, OutOfMemoryError, DeviceError
        If the runtime cannot load the model.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as exceptions
    # Spinning workers would take the cores from reading and writing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    try:
        # A fallback would print to stdout, and run on the CPU.
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # the runtime's errors share no other base class
        raise classified(f"ONNX Runtime cannot load the model: {error}") from error


class Session(HostNetwork):
    """One model in ONNX Runtime on the CPU. Safe to use from several threads.

    Parameters
    ----------
    model : bytes
        A serialized ONNX model with one float32 input and one output.
    threads : int, optional
        Threads per run; all available CPUs if None.

    Raises
    ------
    ArgumentError, ModelError, RuntimeMissingError
    """

    provider = "cpu"

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be at least 1, got {threads}")
        self.threads = threads or available_threads()
        self._session = create(model, ["CPUExecutionProvider"], self.threads)
        (source, *_), (target, *_) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = source.name, target.name
        self._run_options = runtime().RunOptions()
        self._run_options.log_severity_level = 4  # errors are raised as exceptions
        self._dtype: np.dtype[Any] = _DTYPES.get(source.type, np.dtype(np.float32))

    def run(self, windows: NDArray[Any]) -> NDArray[np.float32]:
        """Run the model once.

        Windows are converted to the input type of the model: float16, or uint8 for values in [0, 255],
        rounded half to even.

        Parameters
        ----------
        windows : ndarray, shape (N, C, h, w)

        Returns
        -------
        ndarray of float32, shape (N, C, H, W)

        Raises
        ------
        OutOfMemoryError
        ModelError
            With the message of the runtime.
        """
        if self._dtype == np.uint8:
            windows = np.rint(np.clip(windows, 0, 255))
        windows = windows.astype(self._dtype, copy=False)
        try:
            (out,) = self._session.run([self._output], {self._input: windows}, self._run_options)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", windows.shape, error) from error
        return np.ascontiguousarray(out, dtype=np.float32)

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return buffers for windows of one shape; see `HostNetwork.bind`."""
        if self._dtype != np.float32:
            return Bound(self.run, source, target)
        return _IoBound(self._session, self._run_options, (self._input, self._output), source, target)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Make the runs of all threads end early, with an error, while the context is active."""
        self._run_options.terminate = True
        try:
            yield
        finally:
            self._run_options.terminate = False


class _IoBound(Bound):
    """Buffers that ONNX Runtime reads and writes directly, without a copy."""

    def __init__(
        self,
        session: Any,
        run_options: Any,
        names: tuple[str, str],
        source: tuple[int, ...],
        target: tuple[int, ...],
    ) -> None:
        super().__init__(lambda windows: windows, source, target)
        self._session, self._run_options = session, run_options
        self._binding = session.io_binding()
        for bind, name, array in (
            (self._binding.bind_input, names[0], self.input),
            (self._binding.bind_output, names[1], self.output),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", self.input.shape, error) from error
