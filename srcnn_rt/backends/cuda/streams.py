"""ONNX Runtime on a GPU, with several CUDA streams so that copies and kernels overlap.

A slot is one session with its own CUDA stream and pinned buffers at fixed addresses. It queues everything on
its stream: the copy of windows to the device, the graph that computes finished samples
(`models.image_graph`), and the copy back. While one slot computes, another copies, and the CPU extracts and
places the windows of a third. A session per slot is what gives it a stream of its own; the weights are small.

The device is only used through `devices.Gpu`, so tests can replace it by one in host memory.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError, ModelError, OutOfMemoryError, SrcnnError
from ...image.info import ImageInfo, Layout
from ...io.protocols import Source
from ...models.image_graph import build_image_graph
from ...models.optimize.tensor_core_cost import largest_activation
from ...models.prepare import Program
from ...models.spec import ModelSpec, parse
from ...tiling.geometry import Plan
from ..base import Network, Renderer, failure, warn_once
from ..host_renderer import batch_size
from ..onnxruntime import create, runtime
from .arrays import DeviceSource
from .devices import Buffer, Gpu, Stream
from .renderer import MAX_BATCH_SAMPLES, DeviceRenderer, WindowRenderer

Input = Literal["windows", "gather"]
Key = tuple[Layout, np.dtype[Any], Input]

# What ONNX Runtime says when a node can only run on the CPU and must not.
_CPU_FALLBACK = "fallback to CPU EP has been explicitly disabled"
# cuDNN chooses algorithms by heuristics: windows have one shape, and an exhaustive search takes seconds and
# memory. The arena grows by the requested size, not to a power of two, to keep within --gpu-memory.
OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": "1",
    "prefer_nhwc": "1",  # the layout of tensor cores
    "arena_extend_strategy": "kSameAsRequested",
}
_MAX_SAMPLES = 2**31 - 1  # ONNX Runtime's elementwise kernels use 32-bit indices
# Slots of GPUs that failed. They are never released: that would raise, or abort the process.
_abandoned: list[StreamSlot] = []
_log = logging.getLogger("srcnn_rt")


class GpuNetwork(Network):
    """One model on one GPU, with a pool of slots.

    Parameters
    ----------
    gpu : Gpu
    program : Program
        The graph for float32 windows.
    half : bool
        Whether the layers of the graph compute in float16.
    memory : int, optional
        Bytes of device memory for the activations of all slots; no limit if None.
    streams : int
        Number of slots used at once.

    Attributes
    ----------
    threads : int
        1: a slot keeps one CPU thread busy.
    failed : str or None
        The error message, once the GPU has failed.
    """

    provider = "cuda"
    threads = 1

    def __init__(
        self, gpu: Gpu, program: Program, *, half: bool = False, memory: int | None = None, streams: int = 1
    ) -> None:
        self.gpu: Gpu = gpu
        self._program, self._half = program, half
        # Without TF32 ONNX Runtime disables tensor cores in cuDNN, for float16 too. What stays in float32
        # around a float16 network is written so that TF32 does not harm it (`optimize.node_builder`).
        self._options = {**OPTIONS, "use_tf32": "1" if half else "0"}
        if memory is not None:
            self._options["gpu_mem_limit"] = str(memory // streams)
        self._graphs: dict[Key, bytes] = {}
        self._idle: dict[Key, list[StreamSlot]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._dlpack_stream: Stream | None = None
        try:
            self._largest_activation = largest_activation(parse(program.data))
        except ModelError:  # the model could not be analysed
            self._largest_activation = 1.0

    @property
    def dlpack_stream(self) -> int:
        """The handle of a stream for importing arrays by DLPack."""
        with self._lock:
            if self._dlpack_stream is None:
                self._dlpack_stream = self.gpu.stream()
            return self._dlpack_stream.handle

    def accepts(self, source: Source) -> bool:
        """Return whether the image is in host memory or on this GPU."""
        return not isinstance(source, DeviceSource) or source.gpu is self.gpu

    def batch_size(self, model: ModelSpec, source: Source, plan: Plan) -> int:
        """Return the number of windows per run."""
        if isinstance(source, DeviceSource):
            return 1
        return batch_size(model, source.info, plan, MAX_BATCH_SAMPLES * self.gpu.multiprocessors)

    def renderer(self, model: ModelSpec, source: Source, info: ImageInfo, plan: Plan, batch: int) -> Renderer:
        """Return a renderer; see `base.Network.renderer`."""
        if isinstance(source, DeviceSource):
            return DeviceRenderer(model, self, info, plan)
        return WindowRenderer(model, self, info, plan, batch)

    def acquire(self, layout: Layout, dtype: np.dtype[Any], source: Input) -> StreamSlot:
        """Take a slot from the pool, or create one. Return it with `release`.

        Parameters
        ----------
        layout : Layout
        dtype : dtype
            Sample type of the images.
        source : {"windows", "gather"}
            Whether the graph reads windows, or gathers them from an image on the device.

        Raises
        ------
        ProviderError, DeviceError, OutOfMemoryError, ModelError
        """
        key = layout, dtype, source
        with self._lock:
            if self._idle.get(key):
                return self._idle[key].pop()
            if key not in self._graphs:
                self._graphs[key] = self._graph(*key)
            graph = self._graphs[key]
        with self.recording_failure(), self.gpu.current():
            return StreamSlot(self, key, graph, self._options)

    def release(self, slot: StreamSlot) -> None:
        """Return a slot to the pool once its stream is idle; destroy it after `close`."""
        if self.failed is None:
            with suppress(SrcnnError):  # after an error its copies may still be under way
                self.gpu.synchronize(slot.stream)
        slot.interrupt(False)
        with self._lock:
            if self.failed is None and not self._closed:
                self._idle.setdefault(slot.key, []).append(slot)
                return
        self._destroy(slot)

    def empty_cache(self) -> None:
        """Destroy the idle slots, which releases their memory."""
        with self._lock:
            slots = [slot for idle in self._idle.values() for slot in idle]
            self._idle.clear()
        for slot in slots:
            self._destroy(slot)

    def close(self) -> None:
        """Destroy all slots: idle ones now, others when they are released."""
        self._closed = True
        self.empty_cache()

    @contextmanager
    def recording_failure(self, slot: StreamSlot | None = None) -> Iterator[None]:
        """Set `failed` if a `DeviceError` is raised, and release `slot` after any error."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, DeviceError):
                if self.failed is None:
                    _log.warning("GPU %d failed and is not used any more: %s", self.gpu.index, error)
                self.failed = str(error)
            if slot is not None:
                self.release(slot)
            raise

    @contextmanager
    def runner(self) -> Iterator[Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
        """Give a function that runs the graph on float32 windows in host memory, without overlap.

        Raises
        ------
        ProviderError, DeviceError, OutOfMemoryError, ModelError
        """
        stream = self.gpu.stream()
        with self.gpu.current():
            held = [_create_session(self.gpu, stream.handle, self._program.data, self._options)]
            name = held[0].get_inputs()[0].name

            def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
                try:
                    (out,) = held[0].run(None, {name: windows})
                except Exception as error:  # the runtime's errors share no other base class
                    raise failure("ONNX Runtime", windows.shape, error) from error
                return np.ascontiguousarray(out, dtype=np.float32)

            try:
                yield run
            finally:
                held.clear()  # the session must go before its stream

    def check_size(self, pixels: int) -> None:
        """Raise `OutOfMemoryError` if a layer has too many samples for a run of so many HR pixels."""
        if pixels * self._largest_activation > _MAX_SAMPLES:
            raise OutOfMemoryError(f"{pixels} pixels per run exceed the 32-bit indices of ONNX Runtime")

    def _destroy(self, slot: StreamSlot) -> None:
        if self.failed is None:
            slot.destroy()
        else:
            _abandoned.append(slot)

    def _graph(self, layout: Layout, dtype: np.dtype[Any], source: Input) -> bytes:
        # 8-bit samples are exact in TF32, and rounding their weights to it costs a tenth of a code value.
        split = self._half and dtype != np.uint8
        model = parse(self._program.data)
        graph = build_image_graph(model, self._program.spec, layout, dtype, source=source, split=split)
        return bytes(graph.SerializeToString())


class StreamSlot:
    """A slot: one session with its own CUDA stream and pinned buffers. Not thread-safe.

    Parameters
    ----------
    network : GpuNetwork
    key : (Layout, dtype, str)
        Layout, sample type and input of the images it is for.
    graph : bytes
        A serialized ONNX model.
    options : dict of str to str
        Options of ONNX Runtime's CUDA provider.

    Attributes
    ----------
    stream : int
        Handle of the CUDA stream.
    run_options : onnxruntime.RunOptions
    """

    def __init__(self, network: GpuNetwork, key: Key, graph: bytes, options: dict[str, str]) -> None:
        self.key, self._network = key, network
        self.gpu = network.gpu
        self._stream: Stream | None = self.gpu.stream()
        self.stream = self._stream.handle
        self._session = _create_session(self.gpu, self.stream, graph, options)
        self._inputs = [v.name for v in self._session.get_inputs()]
        self._output = self._session.get_outputs()[0].name
        self.run_options = runtime().RunOptions()
        self.run_options.log_severity_level = 4  # errors are raised as exceptions
        # The renderer synchronises once, after the copy of the result.
        self.run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._ending = False
        self._bound: Any = None
        self._binding: Any = None
        self._buffers: dict[str, tuple[Buffer, NDArray[np.uint8]]] = {}

    def buffers(self, name: str, shape: tuple[int, ...], dtype: Any) -> tuple[int, NDArray[Any]]:
        """Return the address of a device buffer and a pinned host array of the same size.

        Buffers are reused for a name while they are large enough.

        Raises
        ------
        OutOfMemoryError, DeviceError
        """
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        held = self._buffers.get(name)
        if held is None or held[0].size < size:
            self._buffers.pop(name, None)
            self._buffers[name] = held = (self.gpu.allocate(size), self.gpu.allocate_pinned(size))
        return held[0].pointer, held[1][:size].view(dtype).reshape(shape)

    def bind(
        self, inputs: list[tuple[Any, tuple[int, ...], int]], output: tuple[Any, tuple[int, ...], int]
    ) -> None:
        """Bind the inputs, in the order of the graph, and the output, as (dtype, shape, device address)."""
        if self._bound == (inputs, output):
            return
        binding = self._session.io_binding()
        for name, (dtype, shape, pointer) in zip(self._inputs, inputs, strict=True):
            binding.bind_input(name, self.gpu.kind, self.gpu.index, np.dtype(dtype).type, shape, pointer)
        dtype, shape, pointer = output
        binding.bind_output(self._output, self.gpu.kind, self.gpu.index, np.dtype(dtype).type, shape, pointer)
        self._binding, self._bound = binding, (list(inputs), output)

    def run(self) -> None:
        """Queue the graph on the stream.

        Raises
        ------
        OutOfMemoryError, DeviceError, ModelError
        """
        if self._ending:
            raise ModelError("the run was interrupted")
        try:
            self._session.run_with_iobinding(self._binding, self.run_options)
        except Exception as error:  # the runtime's errors share no other base class
            # Its traceback would keep the session alive, which must go before its stream.
            raise failure("ONNX Runtime", self._bound[1][1], error) from error.with_traceback(None)

    def interrupt(self, ending: bool = True) -> None:
        """Make runs end early from now on, or no longer. Called from any thread."""
        self._ending = self.run_options.terminate = ending

    def destroy(self) -> None:
        """Release the session, then the buffers, then the stream that both used."""
        with self.gpu.current():
            self._binding = self._bound = None
            self._session = None
            self._buffers.clear()
            self._stream = None

    def __del__(self) -> None:
        # If an engine was not closed: the order of garbage collection could destroy the stream first.
        if not sys.is_finalizing() and getattr(self, "_session", None) is not None:
            with suppress(SrcnnError):
                self.destroy()


def _create_session(gpu: Gpu, stream: int, model: bytes, options: dict[str, str]) -> Any:
    """Return a session on a GPU. If some nodes can only run on the CPU, allow that and warn."""
    try:
        session, partly = create(model, gpu.providers(stream, options), 1, gpu.strict), False
    except ModelError as error:
        if _CPU_FALLBACK not in str(error):
            raise
        session, partly = create(model, gpu.providers(stream, options), 1), True
    gpu.check(session)  # the message is the same if the whole provider did not start
    if partly:
        warn_once("part of the model cannot run on the GPU and runs on the CPU, which is slow")
    return session
