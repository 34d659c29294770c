"""Simulated GPUs: host memory and ONNX Runtime's CPU provider, with faults on demand."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest

from srcnn_rt.backends.cuda import devices
from srcnn_rt.backends.cuda.devices import Buffer, Stream
from srcnn_rt.errors import DeviceError, OutOfMemoryError


class HostGpu:
    """A `devices.Gpu` in host memory.

    Copies are queued and run by `synchronize` or before the graph, as on a GPU, so that reading too early
    gives stale data.

    Parameters
    ----------
    index : int
    maximum : int
        Bytes of device memory.
    breaks : float
        Number of batches after which it fails.

    Attributes
    ----------
    computed : int
        Batches computed so far.
    log : list of (str, int)
        Names of the queued operations and their streams.
    """

    kind = "cpu"
    strict: ClassVar[Mapping[str, str]] = {}
    multiprocessors = 4

    def __init__(self, index: int, maximum: int = 2**40, breaks: float = float("inf")) -> None:
        self.index, self.maximum, self.breaks = index, maximum, breaks
        self.used = self.computed = 0
        self.log: list[tuple[str, int]] = []
        self.options: list[dict[str, str]] = []
        self._streams = 0
        self._queues: dict[int, list[Any]] = {}
        self._sessions: dict[int, weakref.ref[Any]] = {}
        self._lock = threading.Lock()

    def providers(self, stream: int, options: dict[str, str]) -> list[Any]:
        self.options.append(options)
        return ["CPUExecutionProvider"]

    def check(self, session: Any) -> None:
        gpu, run = self, type(session).run_with_iobinding
        stream, own = self._streams, weakref.ref(session)
        self._sessions[stream] = own

        def run_batch(*args: Any) -> None:
            gpu.flush(stream)
            with gpu._lock:
                gpu.computed += 1
                if gpu.computed > gpu.breaks:
                    raise RuntimeError("CUDA failure 719: unspecified launch failure")
            gpu.log.append(("compute", stream))
            run(own(), *args)

        session.run_with_iobinding = run_batch

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def stream(self) -> Stream:
        with self._lock:
            self._streams += 1
            self._queues[self._streams] = []
            return Stream(self._streams, self._destroy)

    @property
    def streams(self) -> int:
        """The number of streams that exist."""
        return len(self._queues)

    def _destroy(self, stream: int) -> None:
        """Destroy a stream: nothing may be queued, and its sessions must be gone."""
        assert not self._queues.pop(stream)
        assert stream not in self._sessions or self._sessions.pop(stream)() is None

    def allocate_pinned(self, size: int) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def allocate(self, size: int) -> Buffer:
        with self._lock:
            if self.used + size > self.maximum:
                raise OutOfMemoryError(f"CUDA device {self.index}: out of memory")
            self.used += size
        held = np.full(size, 0xA5, np.uint8)

        def free(pointer: int) -> None:
            assert held.ctypes.data == pointer
            self.used -= size

        return Buffer(held.ctypes.data, size, free)

    def copy_to_device(self, target: int, source: np.ndarray, stream: int) -> None:
        assert source.flags.c_contiguous
        self._queue("copy_to_device", stream, target, source.ctypes.data, source.nbytes)

    def copy_to_host(self, target: np.ndarray, source: int, stream: int) -> None:
        assert target.flags.c_contiguous
        self._queue("copy_to_host", stream, target.ctypes.data, source, target.nbytes)

    def copy_2d(
        self, target: int, pitch: int, source: int, source_pitch: int, size: tuple[int, int], stream: int
    ) -> None:
        for row in range(size[0]):
            self._queue("copy_2d", stream, target + row * pitch, source + row * source_pitch, size[1])

    def synchronize(self, stream: int) -> None:
        self.flush(stream)
        self.log.append(("synchronize", stream))
        if self.computed > self.breaks:
            raise DeviceError(f"CUDA device {self.index}: unspecified launch failure")

    def holds(self, device: tuple[int, int]) -> bool:
        return int(device[0]) == 1 and self.index == 0

    def flush(self, stream: int) -> None:
        """Run the queued copies of a stream."""
        queue = self._queues[stream]
        while queue:
            ctypes.memmove(*queue.pop(0))

    def _queue(self, operation: str, stream: int, *copy: int) -> None:
        self.log.append((operation, stream))
        self._queues[stream].append(copy)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HostGpu]]:
    """Replace CUDA's devices by simulated GPUs 0 to 3; change the list before creating an engine."""
    made = [HostGpu(k) for k in range(4)]
    monkeypatch.setattr(devices, "open_gpus", lambda indices: tuple(made[n] for n in indices))
    yield made
