"""OpenVINO: float32, or bfloat16 where the CPU computes in it.

A wheel beside ONNX Runtime's, not in its place: the extra ``openvino`` adds it. It is used where it
is asked for, by ``provider="openvino"`` or ``precision="fast"``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, OutOfMemoryError, ProviderError
from ..models.low_precision.bfloat16 import LIMIT_DB, for_bfloat16, halve
from ..models.low_precision.loss import errors, lost, require, trial_shapes
from .onnxruntime import Bound, Session, available_threads, failure

if TYPE_CHECKING:
    from ..models.prepare import Program

_EXTRA = 'type: pip install "srcnn-rt[openvino]"'


def missing(*, bfloat16: bool) -> str | None:
    """Return why OpenVINO cannot be used here, or None.

    Parameters
    ----------
    bfloat16 : whether the CPU must compute in it
    """
    try:
        core = _core()
    except ImportError as error:
        return f"OpenVINO does not import ({error}); {_EXTRA}"
    if bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU does not compute in bfloat16"
    return None


class OpenVinoSession:
    """One model in OpenVINO, with the interface of `session.Session`.

    Parameters
    ----------
    program : what to run
    threads : of one run; all available processors if None
    fast : in bfloat16, as `precision.for_bfloat16` prepares it, else in float32

    Raises
    ------
    ProviderError
        If OpenVINO is missing, or `fast` is and the CPU has no bfloat16, or the model
        would lose more than `LIMIT_DB`.
    ModelError
        If OpenVINO does not take the model.
    """

    provider = "openvino"

    def __init__(self, program: Program, threads: int | None = None, *, fast: bool = False) -> None:
        reason = missing(bfloat16=fast)
        if reason is not None:
            asked = "precision fast" if fast else "provider openvino"
            raise ProviderError(f"{asked} cannot be used: {reason}")
        if program.spec.facts.types != ("float32", "float32"):
            raise ProviderError(f"provider openvino takes float32 models, got {program.spec.facts.types[0]}")
        self.threads = threads or available_threads()
        self._precision = "bf16" if fast else "f32"
        self._halved = False
        data = program.data
        if fast:
            from ..models.spec import parse

            reduced = for_bfloat16(parse(data))
            self._halved, data = reduced.halved, reduced.model.SerializeToString()
        try:
            self._model = _core().read_model(data)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load the model: {error}") from error
        self._compiled: dict[tuple[tuple[int, ...], tuple[int, ...]], Any] = {}
        self._lock = threading.Lock()
        self._stopping, self._adding = threading.Event(), threading.Lock()
        self._requests: WeakSet[_Request] = WeakSet()
        if fast:
            self._require(program)

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """As `Session.bind`."""
        with self._lock:
            if (source, target) not in self._compiled:
                self._compiled[source, target] = self._compile(source)
            request = self._compiled[source, target].create_infer_request()
        made = _Request(request, self._halved, self._stopping, source, target)
        with self._adding:
            self._requests.add(made)
        return made

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """As `Session.interrupted`."""
        self._stopping.set()
        try:
            with self._adding:
                requests = list(self._requests)
            for request in requests:
                request.cancel()
            yield
        finally:
            self._stopping.clear()

    def _compile(self, source: tuple[int, ...]) -> Any:
        model = self._model.clone()
        shapes = {model.inputs[0].get_any_name(): list(_fed(source, self._halved))}
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model.reshape(shapes)
            return _core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            found = failure("OpenVINO", source, error)
            if isinstance(found, OutOfMemoryError):
                raise found from error
            raise ModelError(f"OpenVINO cannot run the model on {source}: {error}") from error

    def _require(self, program: Program) -> None:
        """Measure on drawn images what bfloat16 costs.

        Raises
        ------
        ProviderError
            If that is more than `LIMIT_DB` of PSNR.
        """
        bound = self.bind(*trial_shapes(program))

        def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
            bound.input[...] = image
            bound.run()
            return bound.output.copy()

        error = errors(program, run, Session(program.data, self.threads).run)
        require(program.spec, lost(program.spec, error), LIMIT_DB, "bfloat16")


class _Request(Bound):
    """An inference request that reads and writes the buffers themselves."""

    def __init__(
        self,
        request: Any,
        halved: bool,
        stopping: threading.Event,
        source: tuple[int, ...],
        target: tuple[int, ...],
    ) -> None:
        import openvino

        super().__init__(lambda windows: windows, source, target)
        self._request, self._halved, self._stopping = request, halved, stopping
        self._fed = np.zeros(_fed(source, halved), np.float32) if halved else self.input
        request.set_input_tensor(0, openvino.Tensor(self._fed, shared_memory=True))
        request.set_output_tensor(0, openvino.Tensor(self.output, shared_memory=True))

    def run(self) -> None:
        if self._halved:
            halve(self.input, self._fed)
        if self._stopping.is_set():
            raise ModelError("OpenVINO was interrupted")
        try:
            # Not infer(): with one thread it cannot be cancelled.
            self._request.start_async()
            self._request.wait()
        except RuntimeError as error:
            raise failure("OpenVINO", self.input.shape, error) from error

    def cancel(self) -> None:
        """End a run between two layers, with an error."""
        self._request.cancel()


def _fed(source: tuple[int, ...], halved: bool) -> tuple[int, ...]:
    """Return the shape of what a graph is fed for windows of a shape."""
    return (source[0], (1 + halved) * source[1], *source[2:])


_kept: list[Any] = []


def _core() -> Any:
    """Return OpenVINO's core, made once: it finds the devices."""
    if not _kept:
        module: ModuleType = __import__("openvino")
        _kept.append(module.Core())
    return _kept[0]
