"""OpenVINO on the CPU: float32, or bfloat16 where the CPU supports it.

It is an optional dependency (extra ``openvino``) beside ONNX Runtime, which is still needed. It runs models
for ``provider="openvino"`` and, on the CPU, for ``precision="fast"``.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from .._system.cpu import available_threads
from .._system.forking import NoForkWithin
from ..errors import ModelError, OutOfMemoryError, ProviderError
from ..models.low_precision.loss import check_loss, output_errors, psnr_loss, trial_shapes
from .base import Bound, failure
from .host_renderer import HostNetwork
from .onnxruntime import Session

if TYPE_CHECKING:
    from ..models.prepare import Program

LIMIT_DB = 0.02  # PSNR that bfloat16 may cost


def missing(*, bfloat16: bool) -> str | None:
    """Return why OpenVINO cannot be used on this machine, or None if it can.

    Parameters
    ----------
    bfloat16 : bool
        Whether the CPU must support bfloat16.
    """
    try:
        core = _core()
    except ImportError as error:
        return f'OpenVINO cannot be imported ({error}); type: pip install "srcnn-rt[openvino]"'
    if bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU does not support bfloat16"
    return None


class OpenVinoSession(HostNetwork):
    """One model in OpenVINO. Safe to use from several threads.

    Parameters
    ----------
    program : Program
        A float32 model.
    threads : int, optional
        Threads per run; all available CPUs if None.
    fast : bool
        Compute in bfloat16 instead of float32.

    Attributes
    ----------
    ending : bool
        Whether runs end early.

    Raises
    ------
    ProviderError
        If OpenVINO or bfloat16 is missing, or bfloat16 would cost more than `LIMIT_DB` of PSNR.
    ModelError
        If OpenVINO cannot load the model.
    """

    provider = "openvino"

    def __init__(self, program: Program, threads: int | None = None, *, fast: bool = False) -> None:
        reason = missing(bfloat16=fast)
        if reason is not None:
            option = "precision fast" if fast else "provider openvino"
            raise ProviderError(f"{option} cannot be used: {reason}")
        if program.spec.facts.types != ("float32", "float32"):
            raise ProviderError(f"provider openvino needs a float32 model, got {program.spec.facts.types[0]}")
        self.threads = threads or available_threads()
        self._precision = "bf16" if fast else "f32"
        self.ending = False
        try:
            self._model = _core().read_model(program.data)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot load the model: {error}") from error
        self._compiled: dict[tuple[tuple[int, ...], tuple[int, ...]], Any] = {}
        self._compiling, self._requesting = threading.Lock(), threading.Lock()
        self._requests: WeakSet[_Request] = WeakSet()
        if fast:
            self._check_loss(program)

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return buffers for windows of one shape; see `HostNetwork.bind`."""
        with self._compiling, _calling():
            if (source, target) not in self._compiled:
                self._compiled[source, target] = self._compile(source)
            infer_request = self._compiled[source, target].create_infer_request()
        request = _Request(self, infer_request, source, target)
        with self._requesting:
            self._requests.add(request)
        return request

    def apart(self) -> Self:
        """Return the network with requests of its own; see `HostNetwork.apart`."""
        made = super().apart()
        made._requesting, made._requests = threading.Lock(), WeakSet()
        return made

    def _interrupt(self, ending: bool) -> None:
        self.ending = ending
        with self._requesting:
            requests = list(self._requests) if ending else []
        for request in requests:
            request.cancel()

    def _compile(self, source: tuple[int, ...]) -> Any:
        model = self._model.clone()
        shapes = {model.inputs[0].get_any_name(): list(source)}
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

    def _check_loss(self, program: Program) -> None:
        """Raise `ProviderError` if bfloat16 costs more than `LIMIT_DB` of PSNR on synthetic images."""
        run = self.runner(*trial_shapes(program))
        error = output_errors(program, run, Session(program.data, self.threads).run)
        check_loss(program.spec, psnr_loss(program.spec, error), LIMIT_DB, "bfloat16")


class _Request(Bound):
    """An inference request that reads and writes the buffers directly."""

    def __init__(
        self, network: OpenVinoSession, request: Any, source: tuple[int, ...], target: tuple[int, ...]
    ) -> None:
        import openvino

        super().__init__(lambda windows: windows, source, target)
        self._network, self._request = network, request
        request.set_input_tensor(0, openvino.Tensor(self.input, shared_memory=True))
        request.set_output_tensor(0, openvino.Tensor(self.output, shared_memory=True))

    def run(self) -> None:
        if self._network.ending:
            raise ModelError("OpenVINO was interrupted")
        try:
            with _calling():
                # Not infer(): with one thread it cannot be cancelled.
                self._request.start_async()
                self._request.wait()
        except RuntimeError as error:
            raise failure("OpenVINO", self.input.shape, error) from error

    def cancel(self) -> None:
        """End a run between two layers, with an error."""
        self._request.cancel()


@cache
def _calling() -> NoForkWithin:
    """Return what calls of the runtime are within: a child that was forked during one hangs in its own."""
    return NoForkWithin()


@cache
def _core() -> Any:
    """Return OpenVINO's core; creating it enumerates the devices."""
    import openvino

    return openvino.Core()
