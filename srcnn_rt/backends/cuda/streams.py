"""ONNX Runtime on a GPU: lanes of windows that overlap on the bus and the GPU.

A lane is a session with a stream of its own and buffers at fixed addresses: windows are sent as they stand
in the image, the graph makes the finished samples of them (`pixels`), and these are fetched, all queued on
the lane's stream. While one lane computes, another's windows are on the bus and a third's are cut and put in
their place by the CPU. The weights are small, so a session a lane costs little; it is what gives every
lane its stream.

The rest of the package sees a GPU through `devices.Gpu` only, so all of this runs in the tests on a stand-in
whose memory is the host's.
"""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError, ModelError, OutOfMemoryError, SrcnnError
from ...image.info import Layout
from ...models.image_graph import image_graph
from ...models.optimize.tensor_core_cost import widest
from ...models.prepare import Program
from ...models.spec import parse
from ..onnxruntime import create, failure, runtime
from .devices import Buffer, Gpu, Stream

Source = Literal["windows", "gather"]
# What ONNX Runtime says where a node would run on the CPU and must not.
_FALLBACK = "fallback to CPU EP has been explicitly disabled"
Key = tuple[Layout, np.dtype[Any], Source]

# Search by cuDNN's own rules: windows have one shape, and trying everything takes seconds and memory. The
# arena grows by what is asked for, not to the next power of two, so that --gpu-memory means what it says.
OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": "1",
    "prefer_nhwc": "1",  # what tensor cores read
    "arena_extend_strategy": "kSameAsRequested",
}
_LONGEST = 2**31 - 1  # ONNX Runtime's elementwise kernels count samples in 32 bits
_parked: list[Any] = []  # what was on GPUs that broke: to let go of it would fail, or end the process


class GpuNetwork:
    """One model on one GPU; several lanes of it may run at once, each in a thread.

    Parameters
    ----------
    GPU
    program : the graph of float32 windows that is run
    half : whether its layers are in float16
    memory : bytes of the GPU that all lanes together may take for activations; None for no limit
    lanes : how many there will be at once

    Attributes
    ----------
    provider : "cuda"
    threads : 1; a lane keeps one thread of the CPU busy
    GPU
    failed : what the GPU said when it broke, or None
    """

    provider = "cuda"
    threads = 1

    def __init__(
        self,
        gpu: Gpu,
        program: Program,
        *,
        half: bool = False,
        memory: int | None = None,
        streams: int = 1,
    ) -> None:
        self.gpu = gpu
        self.failed: str | None = None
        self._program, self._half = program, half
        # Without TF32 ONNX Runtime has cuDNN leave the tensor cores alone, for float16 too. What stays in
        # float32 around such a network is written so that TF32 does it no harm (`Steps`).
        self._options = {**OPTIONS, "use_tf32": "1" if half else "0"}
        if memory is not None:
            self._options["gpu_mem_limit"] = str(memory // streams)
        self._models: dict[Key, bytes] = {}
        self._idle: dict[Key, list[StreamSlot]] = {}
        self._lock = threading.Lock()
        self._stopping, self._closed = threading.Event(), False
        self._running: list[Any] = []
        self._arrival: Stream | None = None
        try:
            self._widest = widest(parse(program.data))
        except ModelError:  # a model that was not understood
            self._widest = 1.0

    @property
    def arrival(self) -> int:
        """A stream on which the owners of arrays have them ready."""
        with self._lock:
            if self._arrival is None:
                self._arrival = self.gpu.stream()
            return self._arrival.handle

    def slot(self, layout: Layout, dtype: np.dtype[Any], source: Source) -> StreamSlot:
        """Return a lane for images of a kind; it is given back by `Lane.close`.

        Raises
        ------
        ProviderError, DeviceError, OutOfMemoryError, ModelError
        """
        key = layout, dtype, source
        with self._lock:
            if self._idle.get(key):
                return self._idle[key].pop()
            if key not in self._models:
                self._models[key] = self._graph(*key)
            data = self._models[key]
        try:
            with self.gpu.current():
                made = StreamSlot(self, key, data, self._options)
        except DeviceError as error:
            self.failed = str(error)
            raise
        with self._lock:
            self._running.append(made.running)
        return made

    @contextmanager
    def opened(self) -> Iterator[Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
        """Give what runs the network itself on (N, C, h, w) windows from and to host memory, slowly.

        Raises
        ------
        ProviderError, DeviceError, OutOfMemoryError, ModelError
        """
        stream = self.gpu.stream()
        with self.gpu.current():
            held = [_on(self.gpu, stream.handle, self._program.data, self._options)]
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
                held.clear()  # before its stream

    def check_size(self, pixels: int) -> None:
        """Refuse runs of so many output pixels that a layer has more samples than can be counted.

        Raises
        ------
        OutOfMemoryError
        """
        if pixels * self._widest > _LONGEST:
            raise OutOfMemoryError(f"{pixels} pixels at once are more than ONNX Runtime counts on a GPU")

    def give_back(self, slot: StreamSlot) -> None:
        """Keep a lane for the next image of its kind, unless the GPU broke."""
        with self._lock:
            if self.failed is None and not self._closed:
                self._idle.setdefault(slot.key, []).append(slot)
                return
            self._running.remove(slot.running)
        if self.failed is None:
            slot.release()
        else:
            _parked.append(slot)

    def forget(self) -> None:
        """Let go of the lanes that wait for an image, and of the memory they hold."""
        with self._lock:
            streams = [slot for kind in self._idle.values() for slot in kind]
            self._idle.clear()
            for slot in streams:
                self._running.remove(slot.running)
        for slot in streams:
            if self.failed is None:
                slot.release()
            else:
                _parked.append(slot)

    def close(self) -> None:
        """Let go of everything; lanes that still work are let go of when they are given back."""
        self._closed = True
        self.forget()

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """While in it, runs end as soon as they can, with an error."""
        self._stopping.set()
        with self._lock:
            running = list(self._running)
        for options in running:
            options.terminate = True
        try:
            yield
        finally:
            for options in running:
                options.terminate = False
            self._stopping.clear()

    def check_running(self) -> None:
        """Raise `ModelError` while runs are to end."""
        if self._stopping.is_set():
            raise ModelError("the run was interrupted")

    def _graph(self, layout: Layout, dtype: np.dtype[Any], source: Source) -> bytes:
        # Codes of 8 bits are exact in TF32, and what it makes of their weights is a tenth of a code.
        split = self._half and dtype != np.uint8
        model = parse(self._program.data)
        made = image_graph(model, self._program.spec, layout, dtype, source=source, split=split)
        return bytes(made.SerializeToString())


class StreamSlot:
    """A session, its stream, and what is bound to it. Not safe for several threads at once.

    Attributes
    ----------
    key : layout, type and source of the images it is for
    stream : of the GPU
    running : ONNX Runtime's options of its runs
    """

    def __init__(self, network: GpuNetwork, key: Key, data: bytes, options: dict[str, str]) -> None:
        self.key, self._network = key, network
        self.gpu = network.gpu
        self._stream: Stream | None = self.gpu.stream()
        self.stream = self._stream.handle
        self._session = _on(self.gpu, self.stream, data, options)
        self._inputs = [v.name for v in self._session.get_inputs()]
        self._output = self._session.get_outputs()[0].name
        self.running = runtime().RunOptions()
        self.running.log_severity_level = 4  # failures come as exceptions
        # This lane waits for its stream itself, once, after the result is on its way.
        self.running.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._bound: Any = None
        self._binding: Any = None
        self._held: dict[str, tuple[Buffer, NDArray[np.uint8]]] = {}

    def room(self, name: str, shape: tuple[int, ...], dtype: Any) -> tuple[int, NDArray[Any]]:
        """Return an address on the GPU and pinned host memory for an array; the same while it fits."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        held = self._held.get(name)
        if held is None or held[0].size < size:
            self._held.pop(name, None)
            self._held[name] = held = (self.gpu.memory(size), self.gpu.pinned(size))
        return held[0].pointer, held[1][:size].view(dtype).reshape(shape)

    def bind(
        self, inputs: list[tuple[Any, tuple[int, ...], int]], output: tuple[Any, tuple[int, ...], int]
    ) -> None:
        """Tell where inputs, in the graph's order, and the output lie: (dtype, shape, address)."""
        if self._bound == (inputs, output):
            return
        binding = self._session.io_binding()
        for name, (dtype, shape, pointer) in zip(self._inputs, inputs, strict=True):
            binding.bind_input(name, self.gpu.kind, self.gpu.index, np.dtype(dtype).type, shape, pointer)
        dtype, shape, pointer = output
        binding.bind_output(self._output, self.gpu.kind, self.gpu.index, np.dtype(dtype).type, shape, pointer)
        self._binding, self._bound = binding, (list(inputs), output)

    def compute(self) -> None:
        """Queue the graph on the lane's stream.

        Raises
        ------
        OutOfMemoryError, DeviceError, ModelError
        """
        self._network.check_running()
        try:
            self._session.run_with_iobinding(self._binding, self.running)
        except Exception as error:  # the runtime's errors share no other base class
            raise failure("ONNX Runtime", self._bound[1][1], error) from error

    def close(self) -> None:
        """Give it back, with nothing under way; it must not be used any more."""
        if self._network.failed is None:
            with suppress(SrcnnError):  # after an error its copies may still go on
                self.gpu.wait(self.stream)
        self._network.give_back(self)

    def release(self) -> None:
        """Let go of the session, then of the buffers, then of the stream that both used."""
        with self.gpu.current():
            self._binding = self._bound = None
            self._session = None
            self._held.clear()
            self._stream = None

    def __del__(self) -> None:
        # Of an engine that nobody closed: else the stream could go first.
        if not sys.is_finalizing() and getattr(self, "_session", None) is not None:
            with suppress(SrcnnError):
                self.release()


def _on(gpu: Gpu, stream: int, data: bytes, options: dict[str, str]) -> Any:
    """Return a session on a GPU, of all nodes if that can be; else it is said once."""
    try:
        session, partly = create(data, gpu.providers(stream, options), 1, gpu.strict), False
    except ModelError as error:
        if _FALLBACK not in str(error):
            raise
        session, partly = create(data, gpu.providers(stream, options), 1), True
    gpu.check(session)  # the same is said where the whole provider did not start
    if partly:
        say_once("part of the model cannot run on the GPU, and runs on the CPU: expect it to be slow")
    return session


@cache
def say_once(text: str) -> None:
    """Warn, unless it was said before in this process."""
    warnings.warn(text, RuntimeWarning, stacklevel=3)
