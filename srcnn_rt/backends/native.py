"""The package's own convolutions on the CPU, for networks that are one chain of unpadded 3x3 convolutions.

ONNX Runtime and OpenVINO compute one layer after the other over a whole window. Here a window is computed
row by row through all layers, so that their activations stay in the caches (``_ext/conv_chain.h``). A sample
is the same sum in the same order wherever its window starts: tiled and whole images agree bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._system.cpu import available_threads
from ..errors import ModelError, OutOfMemoryError, ProviderError
from ..models import conv_chain
from ..models.low_precision.loss import output_errors, trial_shapes
from .base import Bound
from .host_renderer import HostNetwork
from .onnxruntime import Session

if TYPE_CHECKING:
    from ..models.prepare import Program

KERNEL = 3  # larger kernels and 1x1 layers are as fast in ONNX Runtime
MAX_ERROR = 1e-5  # of full scale, against ONNX Runtime; another order of float32 sums gives 1e-6
ISA_VARIABLE = "SRCNN_RT_ISA"  # restricts the instruction set, for tests and measurements
_LINEAR, _RELU, _PRELU = range(3)
_MIN_STRIP = 64  # rows, because every strip computes its margins again


def instruction_set() -> tuple[str, int]:
    """Return the name of the instruction set and the number of output channels that it computes at once.

    Raises
    ------
    ProviderError
        If this build has no native backend, or ``SRCNN_RT_ISA`` names what it or the CPU does not have.
    """
    try:
        from .. import _conv
    except ImportError as error:
        raise ProviderError(f"provider native cannot be used: this build has no kernels ({error})") from error
    known: dict[str, int] = _conv.instruction_sets()
    name = os.environ.get(ISA_VARIABLE) or next(iter(known))
    if name not in known:
        raise ProviderError(f"{ISA_VARIABLE} must be one of {', '.join(known)} on this CPU, got {name!r}")
    return name, known[name]


class NativeSession(HostNetwork):
    """One network in the native backend. Safe to use from several threads.

    Parameters
    ----------
    program : Program
        A float32 model.
    threads : int, optional
        Threads per run; all available CPUs if None.

    Raises
    ------
    ProviderError
        If the network is not a chain of 3x3 convolutions, or the result is not that of ONNX Runtime.
    """

    provider = "native"

    def __init__(self, program: Program, threads: int | None = None) -> None:
        from ..models.spec import parse

        isa, block = instruction_set()
        from .. import _conv

        self._name = program.spec.name
        chain = conv_chain.find(parse(program.data))
        if isinstance(chain, str):
            raise self._refusal(chain)
        sizes = {layer.weight.shape[2] for layer in chain.layers}
        if sizes != {KERNEL}:
            found = ", ".join(f"{k}x{k}" for k in sorted(sizes))
            raise self._refusal(f"kernels must be 3x3, got {found}")
        if len(chain.layers) > _conv.MAX_LAYERS:
            raise self._refusal(f"it has {len(chain.layers)} layers, more than {_conv.MAX_LAYERS}")
        self.threads = threads or available_threads()
        self.isa = isa
        self._shrink = 2 * len(chain.layers)
        self._chain = _conv.Chain(isa, [_packed(layer, block) for layer in chain.layers], chain.scale)
        self._stop = np.zeros(1, np.int32)
        self._check(program)

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return buffers for windows of one shape; see `HostNetwork.bind`."""
        return _Buffers(self._chain, self._shrink, self.threads, self._stop, source, target)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Make the runs of all threads end early, with an error, while the context is active."""
        self._stop[0] = 1
        try:
            yield
        finally:
            self._stop[0] = 0

    def _check(self, program: Program) -> None:
        """Raise `ProviderError` if results on synthetic images differ from those of ONNX Runtime."""
        run = self.runner(*trial_shapes(program))
        gain = np.array(program.spec.range.gain, np.float32)[:, None, None]
        error = float(np.abs(output_errors(program, run, Session(program.data, 1).run) / gain).max())
        if not error <= MAX_ERROR:
            raise self._refusal(
                f"it differs from ONNX Runtime by {error:.1e} of full scale, allowed {MAX_ERROR:.0e}"
            )

    def _refusal(self, why: str) -> ProviderError:
        return ProviderError(f"provider native cannot run {self._name}: {why}")


class _Buffers(Bound):
    """Buffers that the kernels read and write, and their scratch memory, one per strip of rows."""

    def __init__(
        self,
        chain: Any,
        shrink: int,
        threads: int,
        stop: NDArray[np.int32],
        source: tuple[int, ...],
        target: tuple[int, ...],
    ) -> None:
        super().__init__(lambda windows: windows, source, target)
        self._chain, self._stop = chain, stop
        rows = source[2] - shrink
        strips = max(1, min(threads, rows // _MIN_STRIP))
        edges = [rows * k // strips for k in range(strips + 1)]
        try:
            self._strips = [
                (top, bottom - top + shrink, np.zeros(chain.samples(source[3]), np.float32))
                for top, bottom in pairwise(edges)
            ]
        except MemoryError as error:
            raise OutOfMemoryError(f"not enough memory for windows of shape {source}") from error
        self._pool = ThreadPoolExecutor(strips) if strips > 1 else None

    def run(self) -> None:
        for window, result in zip(self.input, self.output, strict=True):
            calls = [(window, result, top, rows, memory, self._stop) for top, rows, memory in self._strips]
            if self._pool is None:
                ended = self._chain.run(*calls[0])
            else:
                ended = any(list(self._pool.map(lambda call: self._chain.run(*call), calls)))
            if ended:
                raise ModelError("the native backend was interrupted")


def _packed(layer: conv_chain.Layer, block: int) -> tuple[Any, ...]:
    """Return a layer as `_conv.Chain` takes it: output channels in blocks, filled up with zeros."""
    outputs, inputs, k, _ = layer.weight.shape
    full = -outputs % block
    weight = np.pad(layer.weight, ((0, full), (0, 0), (0, 0), (0, 0)))
    blocks = weight.reshape(-1, block, inputs, k, k).transpose(0, 2, 3, 4, 1)
    slope = np.zeros(outputs, np.float32) if layer.slope is None else layer.slope
    activation = _LINEAR if layer.slope is None else _PRELU if slope.any() else _RELU
    bias, slope = (np.ascontiguousarray(np.pad(v, (0, full)), np.float32) for v in (layer.bias, slope))
    return np.ascontiguousarray(blocks, np.float32).reshape(-1), bias, slope, inputs, outputs, k, activation
