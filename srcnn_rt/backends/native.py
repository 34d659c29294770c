"""The package's own convolutions on the CPU, for SRCNN and for chains of unpadded 3x3 convolutions.

ONNX Runtime and OpenVINO compute one layer after the other over a whole window. Here a window is computed
a few rows at a time through all layers, so that their activations stay in the caches, by fast algorithms
(``_ext/conv_chain.h`` and ``_ext/srcnn.h``). A sample is the same sum in the same order wherever its window
starts: tiled and whole images agree bit for bit.
"""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .._system.cpu import available_threads
from ..errors import ModelError, OutOfMemoryError, ProviderError
from ..models import conv_chain, srcnn_chain
from ..models.low_precision.loss import noise_image, trial_shapes
from ..models.margins import network_margin
from ..models.spec import parse
from . import chain_kernel, srcnn_kernel
from .aligned import aligned_zeros
from .base import Bound
from .host_renderer import HostNetwork
from .onnxruntime import largest_error

if TYPE_CHECKING:
    from ..models.prepare import Program

MAX_ERROR = 1e-5  # of full scale, against ONNX Runtime; another order of float32 sums gives 1e-6
CHECK_SIDE = 32  # LR pixels of the images on which it is compared; opening a model should take no time
ISA_VARIABLE = "SRCNN_RT_ISA"  # restricts the instruction set, for tests and measurements
_MIN_STRIP = 64  # rows, because every strip computes its margins again


def instruction_set() -> tuple[str, int]:
    """Return the name of the instruction set, and the floats of its vectors.

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


def is_worthwhile() -> bool:
    """Return whether the kernels are faster than ONNX Runtime: not on x86 without AVX2."""
    return instruction_set()[0] != "generic" or platform.machine().lower() not in ("x86_64", "amd64")


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
        If the kernels do not compute such a network, or the result is not that of ONNX Runtime.

    Attributes
    ----------
    program : Program
        The model, with the period and the margin that its windows need here.
    isa : str
        Name of the instruction set.
    kernels : _conv.Chain or _conv.Srcnn
        The compiled network.
    shrink : int
        Rows by which the output is smaller than the window, LR pixels.
    step : int
        Rows at whose multiples strips of a window may start, LR pixels.
    stop : ndarray of int32, shape (1,)
        Not 0 while runs end early.
    """

    provider = "native"

    def __init__(self, program: Program, threads: int | None = None) -> None:
        self._name = program.spec.name
        self.threads = threads or available_threads()
        self.isa, lanes = instruction_set()
        self.program = program
        facts = program.spec.facts
        if any(axis.fixed for axis in (facts.y, facts.x)):
            raise self._refusal("it takes one size only")
        model = parse(program.data)
        chain = conv_chain.find(model)
        if isinstance(chain, conv_chain.Chain):
            self.kernels = self._open_chain(chain, lanes)
        else:
            srcnn = srcnn_chain.find(model)
            if isinstance(srcnn, str):
                raise self._refusal(f"it is no chain of 3x3 convolutions ({chain}) and no SRCNN ({srcnn})")
            self.kernels = self._open_srcnn(srcnn, lanes)
        self.shrink = 2 * network_margin(self.program.spec)
        self.stop = np.zeros(1, np.int32)
        run = self.runner(*trial_shapes(self.program, CHECK_SIDE))
        error = largest_error(self.program, run, 1, CHECK_SIDE, noise_image)
        if not error <= MAX_ERROR:
            raise self._refusal(
                f"it differs from ONNX Runtime by {error:.1e} of full scale, allowed {MAX_ERROR:.0e}"
            )

    def _open_chain(self, chain: conv_chain.Chain, lanes: int) -> Any:
        from .. import _conv

        if len(chain.layers) > _conv.MAX_LAYERS:
            raise self._refusal(f"it has {len(chain.layers)} layers, more than {_conv.MAX_LAYERS}")
        layers = chain_kernel.packed(chain, lanes)
        self._set_grid(chain_kernel.TILE, chain_kernel.extra_margin(chain))
        return _conv.Chain(self.isa, layers, chain.scale, chain.padded, chain.added)

    def _open_srcnn(self, chain: srcnn_chain.SrcnnChain, lanes: int) -> Any:
        from .. import _conv

        if refused := srcnn_kernel.why_not(chain, _conv.MAX_N2):
            raise self._refusal(refused)
        extra = srcnn_kernel.extra_margin(chain, self.program.spec.margin)
        self._set_grid(srcnn_kernel.period(chain), (extra, extra))
        margin = network_margin(self.program.spec)
        return _conv.Srcnn(self.isa, margin, *srcnn_kernel.packed(chain, extra, lanes))

    def _set_grid(self, period: int, extra: tuple[int, int]) -> None:
        """Let windows start on the grid of the algorithms, with the margin that they read."""
        self.step, spec = period, self.program.spec
        y, x = (replace(axis, period=period) for axis in (spec.facts.y, spec.facts.x))
        spec = replace(spec, facts=replace(spec.facts, y=y, x=x), extra_margin=extra)
        self.program = replace(self.program, spec=spec)

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return buffers for windows of one shape; see `HostNetwork.bind`."""
        return _Buffers(self, source, target)

    def _interrupt(self, ending: bool) -> None:
        self.stop[0] = ending

    def _refusal(self, why: str) -> ProviderError:
        return ProviderError(f"provider native cannot run {self._name}: {why}")


class _Buffers(Bound):
    """Buffers that the kernels read and write, and their scratch memory, one per strip of rows."""

    def __init__(self, network: NativeSession, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        super().__init__(lambda windows: windows, source, target)
        self._kernels, self._stop, step = network.kernels, network.stop, network.step
        rows = source[2] - network.shrink
        strips = max(1, min(network.threads, rows // _MIN_STRIP))
        edges = [*(rows * k // strips // step * step for k in range(strips)), rows]
        sizes = [(top, bottom - top + network.shrink) for top, bottom in pairwise(edges)]
        try:
            self._strips = [
                (top, height, aligned_zeros(self._kernels.samples(height, source[3])))
                for top, height in sizes
            ]
        except MemoryError as error:
            raise OutOfMemoryError(f"not enough memory for windows of shape {source}") from error
        self._pool = ThreadPoolExecutor(strips) if strips > 1 else None

    def run(self) -> None:
        for window, result in zip(self.input, self.output, strict=True):
            calls = [(window, result, top, rows, memory, self._stop) for top, rows, memory in self._strips]
            if self._pool is None:
                ended = self._kernels.run(*calls[0])
            else:
                ended = any(list(self._pool.map(lambda call: self._kernels.run(*call), calls)))
            if ended:
                raise ModelError("the native backend was interrupted")
