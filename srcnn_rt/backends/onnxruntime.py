"""ONNX Runtime: import, session options, and a network on the CPU.

onnxruntime is imported on first use: it is an optional dependency (extra ``cpu`` or ``gpu``), and importing
this package must stay fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .._system.cpu import available_threads
from ..errors import RuntimeMissingError
from ..models.low_precision.loss import SIDE, Draw, output_errors, synthetic_image
from .base import Bound, classified, failure
from .host_renderer import HostNetwork

if TYPE_CHECKING:
    from ..models.low_precision.loss import Run
    from ..models.prepare import Program

_TELEMETRY = "ORT_DISABLE_TELEMETRY"  # read when it is imported
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
        with _no_telemetry():
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


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Let ONNX Runtime start no telemetry if it is imported meanwhile.

    From 1.29 on the import starts a thread that uploads events. A forked child could not even exit: at its
    end it would wait for that thread, which it does not have.
    """
    if _TELEMETRY in os.environ or "onnxruntime" in sys.modules:
        yield
        return
    os.environ[_TELEMETRY] = "1"
    try:
        yield
    finally:
        os.environ.pop(_TELEMETRY, None)


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


def _run_options() -> Any:
    options = runtime().RunOptions()
    options.log_severity_level = 4  # errors are raised as exceptions
    return options


class Session(HostNetwork):
    """One model in ONNX Runtime on the CPU. Safe to use from several threads.

    Parameters
    ----------
    model : bytes
        A serialized ONNX model with one float32 input and one output.
    threads : int, optional
        Threads per run; all available CPUs if None.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
    names : (str, str)
        Of the input and the output.
    run_options : onnxruntime.RunOptions
        Of all runs of this object.

    Raises
    ------
    ModelError, RuntimeMissingError
    """

    provider = "cpu"

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        self.threads = threads or available_threads()
        self.session = create(model, ["CPUExecutionProvider"], self.threads)
        (source, *_), (target, *_) = self.session.get_inputs(), self.session.get_outputs()
        self.names = source.name, target.name
        self.run_options = _run_options()
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
            (out,) = self.session.run([self.names[1]], {self.names[0]: windows}, self.run_options)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", windows.shape, error) from error
        return np.ascontiguousarray(out, dtype=np.float32)

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return buffers for windows of one shape; see `HostNetwork.bind`."""
        if self._dtype != np.float32:
            return Bound(self.run, source, target)
        return _IoBound(self, source, target)

    def apart(self) -> Self:
        """Return the network with run options of its own; see `HostNetwork.apart`."""
        made = super().apart()
        made.run_options = _run_options()
        return made

    def _interrupt(self, ending: bool) -> None:
        self.run_options.terminate = ending


class _IoBound(Bound):
    """Buffers that ONNX Runtime reads and writes directly, without a copy."""

    def __init__(self, network: Session, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        super().__init__(network.run, source, target)
        self._network, self._binding = network, network.session.io_binding()
        binds = self._binding.bind_input, self._binding.bind_output
        for bind, name, array in zip(binds, network.names, (self.input, self.output), strict=True):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self) -> None:
        try:
            self._network.session.run_with_iobinding(self._binding, self._network.run_options)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", self.input.shape, error) from error


def largest_error(
    program: Program, run: Run, threads: int | None = None, side: int = SIDE, draw: Draw = synthetic_image
) -> float:
    """Return by how much a program on synthetic images differs from ONNX Runtime, relative to full scale.

    `side` is that of `trial_shapes`, to which `run` is bound; `draw` is that of `output_errors`.
    """
    session = Session(program.data, threads)
    extra = 0 if program.spec.padded else max(program.spec.extra_margin)

    def exact(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        h, w = windows.shape[2:]
        return session.run(np.ascontiguousarray(windows[:, :, extra : h - extra, extra : w - extra]))

    gain = np.array(program.spec.range.gain, np.float32)[:, None, None]
    return float(np.abs(output_errors(program, run, exact, side, draw) / gain).max())
