"""Which runtime runs a program, on what, and by how many workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, ModelError, OutOfMemoryError, ProviderError
from ..image.info import ImageInfo, Layout
from ..io import Source
from ..models import prepare, spec
from ..models.prepare import Program
from ..models.spec import ModelSpec
from ..tiling.geometry import Plan, Tile
from .class_renderer import Copier
from .host_renderer import Renderer
from .onnxruntime import Network, Session
from .tuning_cache import Choice

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..models.low_precision.loss import Run
    from .cuda import devices as cuda
    from .cuda.streams import GpuNetwork

EXACT = 5e-5  # of full scale; float32 in another order is off by 1e-6, TF32 by 1e-3
STREAMS = 3  # of a GPU: one cuts and places, one is on the bus, one computes


@dataclass(frozen=True, slots=True)
class Setup:
    """A model ready to run.

    Attributes
    ----------
    model : facts of the graph that runs, by which windows are cut
    networks : one for every worker; the same for all of them but where there are several GPUs
    threads : of each of their runs
    tile : LR pixels
    variant : which graph of `program.candidates` runs on a GPU
    """

    model: ModelSpec
    networks: tuple[Network | GpuNetwork, ...]
    threads: int
    tile: int = 0
    variant: str = ""

    @property
    def workers(self) -> int:
        """How many windows, or batches of them, are computed at once."""
        return len(self.networks)

    @property
    def provider(self) -> str:
        """The provider really active."""
        return self.networks[0].provider

    @property
    def gpus(self) -> tuple[cuda.Gpu, ...]:
        """What it runs on; none is the CPU."""
        return tuple({id(n): n.gpu for n in self.networks if _is_gpu(n)}.values())

    @property
    def devices(self) -> int:
        """On how many GPUs it runs."""
        return len(self.gpus)

    def arrival(self, gpu: cuda.Gpu) -> int:
        """Return a stream of a GPU on which the owners of arrays have them ready."""
        return next(n.arrival for n in self.networks if _is_gpu(n) and n.gpu is gpu)


class Work(Protocol):
    """What a worker has on one image: see `render.Renderer`."""

    batch: int

    def render(
        self, batch: tuple[Tile, ...], part: Any, at: tuple[int, int], out: Any, origin: tuple[int, int]
    ) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads a model into a runtime.

    Attributes
    ----------
    file : the model as its file has it
    provider, precision : as asked for; see `Engine`
    threads : in all
    whole : whether there is only ever one window
    devices : numbers of the GPUs to run on
    memory : bytes of each GPU that may be taken, or None
    made, graphs : what was prepared for the CPU and for GPUs, once
    """

    file: Program
    provider: str
    precision: str
    threads: int
    whole: bool
    devices: tuple[int, ...] = (0,)
    memory: int | None = None
    made: dict[str, Program] = field(default_factory=dict, repr=False, compare=False)
    graphs: dict[str, Program] = field(default_factory=dict, repr=False, compare=False)

    def open(self, layout: tuple[int, int] | None = None, variant: str = "") -> Setup:
        """Load it; the tile is still open.

        Parameters
        ----------
        layout : (workers, threads of each), workers of each GPU; what suits the runtime if None
        variant : of a GPU, see `Setup`

        Raises
        ------
        ProviderError, ModelError, RuntimeMissingError
        """
        fast = self.precision == "fast"
        if self.provider in ("cuda", "auto"):
            # Imported where a GPU may be: the CPU's way needs little of it.
            from .cuda import devices as cuda

            try:
                return self._on_gpus(layout, variant)
            except (ProviderError, ModelError) as error:
                if self.provider == "cuda":
                    raise
                if cuda.present():  # silence would hide a fault
                    from .cuda.streams import say_once

                    say_once(f"running on the CPU: {error}")
        ready = self._ready
        if self.provider == "openvino" or (fast and self.provider == "auto"):
            # Imported when asked for: it is an extra, and costs 0.3 s.
            from .openvino import OpenVinoSession

            # All threads compute one window while the other worker stitches the last and cuts the next.
            openvino = OpenVinoSession(ready, self.threads, fast=fast)
            return Setup(ready.spec, (openvino,) * (1 if self.whole else 2), self.threads)
        if fast:
            raise ProviderError("precision fast is offered by providers cuda and openvino, not by cpu")
        # One thread a worker: each computes a window of its own, and none waits for another.
        workers, each = layout or ((1, self.threads) if self.whole else (self.threads, 1))
        try:
            session = Session(ready.data, each)
        except ModelError as error:
            raise ModelError(f"{self.file.spec.name}: {error}") from error
        return Setup(ready.spec, (session,) * workers, each)

    def chosen(self, choice: Choice, present: Setup) -> Setup:
        """Load it as it was measured to be fastest; `present` if that is how it is loaded."""
        workers = choice.workers * max(1, present.devices)
        if (workers, choice.threads, choice.variant) == (present.workers, present.threads, present.variant):
            return present
        return self.open((choice.workers, choice.threads), choice.variant)

    def layouts(self, present: Setup) -> list[Setup]:
        """Return the ways to run it that `Engine.tune` should try, tiles aside."""
        if present.devices:
            names = list(self._candidates())
            ways = [(STREAMS, name) for name in names] + [(streams, names[0]) for streams in (1, 2, 4)]
            return [self.open((streams, 1), name) for streams, name in ways]
        found = {(present.workers, present.threads)}
        if present.provider == "cpu":
            found |= {(self.threads, 1), (1, self.threads)}
        return [self.open(layout) for layout in sorted(found)]

    @property
    def _understood(self) -> bool:
        return not math.isnan(self.file.spec.facts.macs)

    @property
    def _ready(self) -> Program:
        """What runs; a graph that was not understood runs as it is."""
        if not self._understood:
            return self.file
        if not self.made:
            self.made[""] = prepare.prepare(self.file.data, self.file.spec)
        return self.made[""]

    def _on_gpus(self, layout: tuple[int, int] | None, variant: str) -> Setup:
        from .cuda import devices as cuda

        try:
            return self._loaded(cuda.open_gpus(self.devices), layout, variant)
        except (DeviceError, OutOfMemoryError) as error:
            raise ProviderError(f"provider cuda does not load: {error}") from error

    def _loaded(self, gpus: Sequence[cuda.Gpu], layout: tuple[int, int] | None, variant: str) -> Setup:
        from .cuda.streams import GpuNetwork

        streams = 1 if self.whole else layout[0] if layout else STREAMS
        variant, ready = self._variant(variant)
        half = self.precision == "fast"
        runs = _halved(ready, lambda made: GpuNetwork(gpus[0], made, half=True).opened()) if half else ready
        networks = [GpuNetwork(gpu, runs, half=half, memory=self.memory, streams=streams) for gpu in gpus]
        # A session tells whether CUDA really runs; it is kept for the first image.
        channels = 3 if ready.spec.channels == 1 else ready.spec.channels
        kind = Layout.of(channels, bands=channels != 3)
        for network in networks:
            try:
                network.slot(kind, np.dtype(np.uint8), "windows").close()
            except ModelError as error:
                raise ModelError(f"{self.file.spec.name}: {error}") from error
            if not half and self._understood:
                with network.opened() as run:
                    _check_exact(ready, run)
        # GPUs take turns in the list, so that the first windows go to all of them.
        return Setup(ready.spec, tuple(networks) * streams, 1, 0, variant)

    def _variant(self, name: str) -> tuple[str, Program]:
        """Return a graph for a GPU by its name; the one that should be fastest if there is none of it."""
        found = self._candidates()
        name = name if name in found else next(iter(found))
        return name, found[name]

    def _candidates(self) -> dict[str, Program]:
        if not self._understood:
            return {"file": self.file}
        if not self.graphs:
            half = self.precision == "fast"
            self.graphs.update(prepare.candidates(self.file.data, self.file.spec, half=half))
        return self.graphs


def _check_exact(ready: Program, run: Run) -> None:
    """Refuse a GPU that computes a float32 graph in less: a fallback of ONNX Runtime's takes TF32 unasked.

    Raises
    ------
    ProviderError
        With the number.
    """
    from ..models.low_precision import loss

    gain = np.array(ready.spec.range.gain, np.float32)[:, None, None]
    worst = float(np.abs(loss.errors(ready, run, Session(ready.data).run) / gain).max())
    if not worst <= EXACT:
        raise ProviderError(
            f"precision exact cannot be had on the GPU: it is off by {worst:.1e} of full scale, "
            f"{EXACT:.0e} are allowed; take --precision fast or --provider cpu"
        )


def _halved(exact: Program, opened: Callable[[Program], AbstractContextManager[Run]]) -> Program:
    """Return a program whose layers compute in float16.

    Parameters
    ----------
    opened : gives what runs a program on the GPU

    Raises
    ------
    ProviderError
        If nothing of it can, or it would lose too much.
    """
    from ..models.low_precision import float16, loss

    def on_processor(graph: ModelProto, window: NDArray[np.float32]) -> NDArray[np.float32]:
        return Session(graph.SerializeToString()).run(window)

    values = exact.spec.range
    white = max(a + b for a, b in zip(values.gain, values.offset, strict=True))
    half = float16.for_float16(spec.parse(exact.data), min(values.offset), white, on_processor)
    if half.layers == 0 and exact.spec.facts.types[0] != "float16":
        raise ProviderError("precision fast cannot be used: no layer of the model can compute in float16")
    made = replace(exact, data=half.model.SerializeToString())
    with opened(made) as run:
        lost = float16.float16_loss(exact, run, Session(exact.data).run)
    loss.require(exact.spec, lost, float16.LIMIT_DB, "float16")
    return made


def _is_gpu(network: Network | GpuNetwork) -> TypeGuard[GpuNetwork]:
    return network.provider == "cuda"


def renderer(
    setup: Setup, network: Network | GpuNetwork, source: Source, info: ImageInfo, plan: Plan, batch: int
) -> Work:
    """Return what a worker needs on one image, of which windows are cut as `info` says."""
    if source.info.layout.color == "classes":
        return Copier(setup.model.scale, batch)
    if not _is_gpu(network):
        return Renderer(setup.model, cast("Network", network), info, plan, batch)
    from .cuda.arrays import DeviceSource
    from .cuda.renderer import DeviceRenderer, WindowRenderer

    if isinstance(source, DeviceSource):
        return DeviceRenderer(setup.model, network, info, plan)
    return WindowRenderer(setup.model, network, info, plan, batch)


def batch_for(setup: Setup, source: Source, plan: Plan) -> int:
    """Return how many windows go through a network together."""
    network = setup.networks[0]
    if not _is_gpu(network):
        return Renderer.batch_for(setup.model, source.info, plan)
    from .cuda.arrays import DeviceSource
    from .cuda.renderer import BATCH_SAMPLES

    if isinstance(source, DeviceSource):
        return 1
    samples = BATCH_SAMPLES * network.gpu.processors
    return Renderer.batch_for(setup.model, source.info, plan, samples)


def networks_for(setup: Setup, source: Source) -> list[Network | GpuNetwork]:
    """Return the networks that can work on an image: not on GPUs that broke, or that do not hold it.

    Raises
    ------
    DeviceError
        If there are none.
    """
    from_gpu = getattr(source, "GPU", None)
    found, reason = [], ""
    for network in setup.networks:
        if _is_gpu(network):
            if network.failed is not None:
                reason = network.failed
                continue
            if from_gpu is not None and network.gpu is not from_gpu:
                continue
        found.append(network)
    if not found:
        raise DeviceError(reason or "no GPU holds the image")
    return found


def forget(setup: Setup) -> None:
    """Let go of the memory that GPUs keep for the next image."""
    for network in setup.networks:
        if _is_gpu(network):
            network.forget()


def close(setup: Setup) -> None:
    """Let go of what a setup holds of GPUs."""
    for network in setup.networks:
        if _is_gpu(network):
            network.close()
