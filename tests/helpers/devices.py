"""GPUs that are none: the host's memory and ONNX Runtime's CPU provider, with faults on demand."""

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
    """A `devices.Gpu` whose memory is the host's.

    Copies are queued and done at `wait`, or when the network computes, as on a GPU: who reads too early
    reads what was there before.

    Attributes
    ----------
    most : bytes that a GPU has
    breaks : after how many computed batches it breaks
    computed : batches so far
    log : (what, stream) of everything queued
    """

    kind = "cpu"
    strict: ClassVar[Mapping[str, str]] = {}
    processors = 4

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

        def computing(*words: Any) -> None:
            gpu.flush(stream)
            with gpu._lock:
                gpu.computed += 1
                if gpu.computed > gpu.breaks:
                    raise RuntimeError("CUDA failure 719: unspecified launch failure")
            gpu.log.append(("compute", stream))
            run(own(), *words)

        session.run_with_iobinding = computing

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def stream(self) -> Stream:
        with self._lock:
            self._streams += 1
            self._queues[self._streams] = []
            return Stream(self._streams, self._end)

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._queues)

    def _end(self, stream: int) -> None:
        """A stream may go only after the sessions that use it, with nothing queued."""
        assert not self._queues.pop(stream)
        assert stream not in self._sessions or self._sessions.pop(stream)() is None

    def pinned(self, size: int) -> np.ndarray:
        return np.zeros(size, np.uint8)

    def memory(self, size: int) -> Buffer:
        with self._lock:
            if self.used + size > self.maximum:
                raise OutOfMemoryError(f"CUDA device {self.index}: out of memory")
            self.used += size
        held = np.full(size, 0xA5, np.uint8)

        def free(pointer: int) -> None:
            assert held.ctypes.data == pointer
            self.used -= size

        return Buffer(held.ctypes.data, size, free)

    def send(self, target: int, source: np.ndarray, stream: int) -> None:
        assert source.flags.c_contiguous
        self._queue("send", stream, target, source.ctypes.data, source.nbytes)

    def fetch(self, target: np.ndarray, source: int, stream: int) -> None:
        assert target.flags.c_contiguous
        self._queue("fetch", stream, target.ctypes.data, source, target.nbytes)

    def move(
        self, target: int, pitch: int, source: int, source_pitch: int, size: tuple[int, int], stream: int
    ) -> None:
        for row in range(size[0]):
            self._queue("move", stream, target + row * pitch, source + row * source_pitch, size[1])

    def wait(self, stream: int) -> None:
        self.flush(stream)
        self.log.append(("wait", stream))
        if self.computed > self.breaks:
            raise DeviceError(f"CUDA device {self.index}: unspecified launch failure")

    def holds(self, device: tuple[int, int]) -> bool:
        return int(device[0]) == 1 and self.index == 0

    def flush(self, stream: int) -> None:
        queue = self._queues[stream]
        while queue:
            ctypes.memmove(*queue.pop(0))

    def _queue(self, what: str, stream: int, *copy: int) -> None:
        self.log.append((what, stream))
        self._queues[stream].append(copy)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HostGpu]]:
    """GPUs 0 to 3 in place of CUDA's, in a list that may be changed before an engine is made."""
    made = [HostGpu(k) for k in range(4)]
    monkeypatch.setattr(devices, "open_gpus", lambda numbers: tuple(made[n] for n in numbers))
    yield made
