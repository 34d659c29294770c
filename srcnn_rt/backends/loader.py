"""Selection of the runtime, its devices, the graph that runs there, and the number of workers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, ModelError, OutOfMemoryError, ProviderError
from ..image.info import Layout
from ..io.protocols import Source
from ..models import prepare, spec
from ..models.prepare import Program
from ..models.spec import ModelSpec
from ..options import EngineOptions
from .base import Network, warn_once
from .host_renderer import HostNetwork
from .onnxruntime import Session, largest_error
from .tuning_cache import Choice

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..models.low_precision.loss import Run
    from .cuda.devices import Gpu
    from .native import NativeSession

MAX_FLOAT32_ERROR = 5e-5  # of full scale; another order of float32 sums gives 1e-6, TF32 gives 1e-3
STREAMS = 3  # per GPU: while one computes, another copies, and the CPU works for a third
_log = logging.getLogger("srcnn_rt")


@dataclass(frozen=True, slots=True)
class Setup:
    """A model that is ready to run.

    Attributes
    ----------
    model : ModelSpec
        Facts of the graph that runs, which decide how windows are cut.
    networks : tuple of Network
        One per worker; workers on the same device share one object.
    threads : int
        CPU threads per run.
    tile : int
        Side of a tile in LR pixels.
    variant : str
        Which of the graphs of `prepare.candidates` runs on a GPU.
    """

    model: ModelSpec
    networks: tuple[Network, ...]
    threads: int
    tile: int = 0
    variant: str = ""

    @property
    def workers(self) -> int:
        """The number of windows, or batches of them, computed at once."""
        return len(self.networks)

    @property
    def provider(self) -> str:
        """The active provider."""
        return self.networks[0].provider

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs it runs on; empty on the CPU."""
        return tuple(dict.fromkeys(n.gpu for n in self.networks if n.gpu is not None))

    @property
    def devices(self) -> int:
        """The number of GPUs it runs on; 0 on the CPU."""
        return len(self.gpus)

    def dlpack_stream(self, gpu: Gpu) -> int:
        """Return the handle of the stream of a GPU on which arrays are imported by DLPack."""
        from .cuda.streams import GpuNetwork

        return next(n.dlpack_stream for n in self.networks if isinstance(n, GpuNetwork) and n.gpu is gpu)

    def networks_for(self, source: Source) -> list[Network]:
        """Return the networks that can work on an image: those of its device that have not failed.

        Raises
        ------
        DeviceError
            If there are none.
        """
        networks = [network for network in self.networks if network.accepts(source)]
        working = [network for network in networks if network.failed is None]
        if not working:
            raise DeviceError(next((n.failed for n in networks if n.failed), "no GPU holds the image"))
        return working

    def empty_cache(self) -> None:
        """Release GPU memory that is kept for the next image."""
        for network in self.networks:
            network.empty_cache()

    def close(self) -> None:
        """Release all GPU memory."""
        for network in self.networks:
            network.close()


class Loader:
    """Loads a model into a runtime.

    Parameters
    ----------
    file : Program
        The model as it is in its file.
    options : EngineOptions
        If the tile is None, images are never tiled, so that there is one window at a time.
    """

    def __init__(self, file: Program, options: EngineOptions) -> None:
        self.file, self.options = file, options
        self._fast, self._whole = options.precision == "fast", options.tile is None
        self._analysed = not math.isnan(file.spec.facts.macs)

    def open(self, layout: tuple[int, int] | None = None, variant: str = "") -> Setup:
        """Load the model; the tile of the setup is not set.

        Parameters
        ----------
        layout : (int, int), optional
            Number of workers (per GPU, if there are GPUs) and threads per worker. By default, what suits the
            runtime.
        variant : str
            Which graph to run on a GPU; see `Setup`.

        Raises
        ------
        ProviderError, ModelError, RuntimeMissingError
        """
        provider, threads = self.options.provider, self.options.threads
        if provider in ("cuda", "auto"):
            try:
                return self._open_on_gpus(layout, variant)
            except (ProviderError, ModelError) as error:
                if provider == "cuda":
                    raise
                from .cuda import devices as cuda

                _log.info("CUDA cannot be used: %s", error)
                if cuda.present():  # else nobody expects a GPU
                    warn_once(f"running on the CPU: {error}")
        # One thread per worker: each computes its own window, and none waits for another.
        workers, each = layout or ((1, threads) if self._whole else (threads, 1))
        if self._fast and provider == "auto" and (native := self._on_fast_kernels(each)) is not None:
            return Setup(native.program.spec, (native,) * workers, each)
        if provider == "openvino" or (self._fast and provider == "auto"):
            # Optional, and it takes 0.3 s to import.
            from .openvino import OpenVinoSession

            # All threads compute one window while the other worker stitches one and extracts the next.
            openvino = OpenVinoSession(self._prepared, threads, fast=self._fast)
            return Setup(self._prepared.spec, (openvino,) * (1 if self._whole else 2), threads)
        if self._fast:
            raise ProviderError(f"precision fast needs provider cuda or openvino, got {provider}")
        program, session = self._on_cpu(each)
        return Setup(program.spec, (session,) * workers, each)

    def chosen(self, choice: Choice, present: Setup) -> Setup:
        """Load the model with tuned settings; return `present` if it has them already."""
        workers = choice.workers * max(1, present.devices)
        if (workers, choice.threads, choice.variant) == (present.workers, present.threads, present.variant):
            return present
        return self.open((choice.workers, choice.threads), choice.variant)

    def again(self, inherited: Setup) -> Setup:
        """Load the model in a forked child, with the settings of the setup that it inherited.

        Raises
        ------
        ProviderError
            If that runs on a GPU.
        """
        if inherited.devices:
            from .cuda import devices as cuda

            raise ProviderError(f"provider cuda does not load: {cuda.FORKED}")
        made = self.open((inherited.workers, inherited.threads), inherited.variant)
        return replace(made, tile=inherited.tile)

    def layouts(self, present: Setup) -> list[Setup]:
        """Return the setups that `Engine.tune` should compare before it compares tiles."""
        if present.devices:
            names = list(self._candidates)
            ways = [(STREAMS, name) for name in names] + [(streams, names[0]) for streams in (1, 2, 4)]
            return [self.open((streams, 1), name) for streams, name in ways]
        found = {(present.workers, present.threads)}
        if present.provider != "openvino":  # which has one layout only
            found |= {(self.options.threads, 1), (1, self.options.threads)}
        return [self.open(layout) for layout in sorted(found)]

    def _on_cpu(self, threads: int) -> tuple[Program, HostNetwork]:
        """Return the program that runs and its network in the native backend, or in ONNX Runtime."""
        provider = self.options.provider
        if provider in ("native", "auto"):
            from .native import NativeSession, is_worthwhile

            try:
                if provider == "auto" and not is_worthwhile():
                    raise ProviderError("the native backend needs AVX2 to be fast")
                # The rewrites are for ONNX Runtime.
                network = prepare.network_program(self.file.data, self.file.spec)
                native = NativeSession(network, threads)
                return native.program, native
            except ProviderError as error:
                if provider == "native":
                    raise
                _log.debug("%s; using ONNX Runtime", error)
        try:
            return self._prepared, Session(self._prepared.data, threads)
        except ModelError as error:
            raise ModelError(f"{self.file.spec.name}: {error}") from error

    def _on_fast_kernels(self, threads: int) -> NativeSession | None:
        """Return the network in the native backend if its float32 is faster than OpenVINO's bfloat16."""
        from .native import NativeSession, is_worthwhile

        try:
            if not is_worthwhile():
                return None
            return NativeSession(prepare.network_program(self.file.data, self.file.spec), threads)
        except ProviderError as error:
            _log.debug("%s; using bfloat16", error)
            return None

    @cached_property
    def _prepared(self) -> Program:
        """The graph to run on the CPU; one that could not be analysed is run unchanged."""
        return prepare.build_program(self.file.data, self.file.spec) if self._analysed else self.file

    @cached_property
    def _candidates(self) -> dict[str, Program]:
        """The graphs to choose from on a GPU, by name; the one expected to be fastest is first."""
        if not self._analysed:
            return {"file": self.file}
        return prepare.candidates(self.file.data, self.file.spec, float16=self._fast)

    def _open_on_gpus(self, layout: tuple[int, int] | None, variant: str) -> Setup:
        from .cuda import devices as cuda

        try:
            gpus = cuda.open_gpus(self.options.devices)
            from .cuda.streams import GpuNetwork  # only where there are GPUs: it imports onnx

            streams = 1 if self._whole else layout[0] if layout else STREAMS
            if variant not in self._candidates:
                variant = next(iter(self._candidates))
            program = self._candidates[variant]
            runs = _in_float16(program, gpus[0]) if self._fast else program
            memory = self.options.gpu_memory
            networks = [
                GpuNetwork(gpu, runs, half=self._fast, memory=memory, streams=streams) for gpu in gpus
            ]
            # A session shows whether CUDA really runs; it is kept for the first image.
            channels = 3 if program.spec.channels == 1 else program.spec.channels
            kind = Layout.of(channels, bands=channels != 3)
            for network in networks:
                try:
                    network.release(network.acquire(kind, np.dtype(np.uint8), "windows"))
                except ModelError as error:
                    raise ModelError(f"{self.file.spec.name}: {error}") from error
                if self._analysed and not self._fast:
                    with network.runner() as run:
                        _check_float32(program, run)
        except (DeviceError, OutOfMemoryError) as error:
            raise ProviderError(f"provider cuda does not load: {error}") from error
        # GPUs alternate, so that the first windows go to all of them.
        return Setup(program.spec, tuple(networks) * streams, 1, 0, variant)


def _check_float32(program: Program, run: Run) -> None:
    """Raise `ProviderError` if a GPU computes a float32 graph in TF32: some kernels do so uninstructed."""
    error = largest_error(program, run)
    if not error <= MAX_FLOAT32_ERROR:
        raise ProviderError(
            f"the GPU does not compute precision exact: its error is {error:.1e} of full scale, more than "
            f"{MAX_FLOAT32_ERROR:.0e}; use --precision fast or --provider cpu"
        )


def _in_float16(exact: Program, gpu: Gpu) -> Program:
    """Return a program whose layers compute in float16.

    Raises
    ------
    ProviderError
        If no layer can, or the loss measured on the GPU is too large.
    """
    from ..models.low_precision import float16, loss
    from .cuda.streams import GpuNetwork

    def run_on_cpu(graph: ModelProto, window: NDArray[np.float32]) -> NDArray[np.float32]:
        return Session(graph.SerializeToString()).run(window)

    values = exact.spec.range
    white = max(a + b for a, b in zip(values.gain, values.offset, strict=True))
    half = float16.for_float16(spec.parse(exact.data), min(values.offset), white, run_on_cpu)
    if half.layers == 0 and exact.spec.facts.types[0] != "float16":
        raise ProviderError("precision fast cannot be used: no layer of the model can compute in float16")
    program = replace(exact, data=half.model.SerializeToString())
    with GpuNetwork(gpu, program, half=True).runner() as run:
        lost = float16.float16_loss(exact, run, Session(exact.data).run)
    loss.check_loss(exact.spec, lost, float16.LIMIT_DB, "float16")
    return program
