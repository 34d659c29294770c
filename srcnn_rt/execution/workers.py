"""Workers that compute the windows of an image: one renderer per network, shared by all threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from ..backends.base import Renderer
from ..backends.loader import Setup, networks_for, renderer
from ..errors import DeviceError
from ..image.info import ImageInfo
from ..io import Source
from ..tiling.geometry import Chunk, Plan, Tile
from .overlap import stop


class Interruptible(Protocol):
    """A network whose runs can be ended early."""

    def interrupted(self) -> AbstractContextManager[None]: ...


class Workers:
    """Renderers of one plan. A GPU that fails gets no more windows; the others compute its share.

    Use it as a context manager: leaving it releases the buffers of all renderers.

    Parameters
    ----------
    setup : Setup
        Model, networks and devices.
    source : Source
        The image, which decides on which devices its windows can be computed.
    info : ImageInfo
        The image in the type from which windows are cut.
    plan : Plan
    batch : int
        Windows per run of a network.

    Raises
    ------
    DeviceError
        If no device can allocate the buffers.
    """

    def __init__(self, setup: Setup, source: Source, info: ImageInfo, plan: Plan, batch: int) -> None:
        self.batch = batch
        self._pixels_per_sample = setup.model.scale**2
        networks = networks_for(setup, source)
        self._networks: list[Interruptible] = list(networks)
        self._idle: SimpleQueue[Renderer | None] = SimpleQueue()
        self._renderers: list[Renderer] = []
        self._failure, self._counting = "", threading.Lock()
        failed: DeviceError | None = None
        try:
            for network in networks:
                try:
                    made = renderer(setup, network, source, info, plan, batch)
                except DeviceError as error:
                    failed = error
                    continue
                self._renderers.append(made)
                self._idle.put(made)
            if failed is not None and not self._renderers:
                raise failed
        except BaseException:
            self.close()
            raise
        self._alive = len(self._renderers)

    def submit(
        self,
        pool: ThreadPoolExecutor,
        chunk: Chunk,
        samples: NDArray[Any],
        at: tuple[int, int],
        out: NDArray[Any],
    ) -> list[Future[int]]:
        """Start computing all windows of a chunk.

        Parameters
        ----------
        pool : ThreadPoolExecutor
        chunk : Chunk
        samples : ndarray, shape (h, w, C)
            The LR samples that the windows read.
        at : (int, int)
            Row and column of ``samples[0, 0]`` in the image.
        out : ndarray, shape (s·h, s·w, C)
            Filled by the workers.

        Returns
        -------
        list of Future
            Each gives the number of HR pixels it filled.
        """
        futures: list[Future[int]] = []
        try:
            for k in range(0, len(chunk.tiles), self.batch):
                tiles = chunk.tiles[k : k + self.batch]
                futures.append(pool.submit(self._compute, chunk, tiles, samples, at, out))
        except BaseException:  # Ctrl-C: no one else knows these futures
            stop(futures)
            raise
        return futures

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """End all runs as soon as possible while the context is active."""
        with ExitStack() as stack:
            for network in {id(n): n for n in self._networks}.values():
                stack.enter_context(network.interrupted())
            yield

    def close(self) -> None:
        """Release the buffers of all renderers."""
        for made in self._renderers:
            made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _compute(
        self,
        chunk: Chunk,
        tiles: tuple[Tile, ...],
        samples: NDArray[Any],
        at: tuple[int, int],
        out: NDArray[Any],
    ) -> int:
        while True:
            work = self._idle.get()
            if work is None:  # no renderer is left; wake the next waiting thread too
                self._idle.put(None)
                raise DeviceError(self._failure)
            try:
                work.render(tiles, samples, at, out, (chunk.y.start, chunk.x.start))
            except DeviceError as error:
                with self._counting:
                    self._alive, self._failure = self._alive - 1, str(error)
                    last = self._alive == 0
                if last:
                    self._idle.put(None)
                    raise
                continue
            except BaseException:
                self._idle.put(work)
                raise
            self._idle.put(work)
            return sum(t.y.core.size * t.x.core.size for t in tiles) * self._pixels_per_sample


def finished(value: int) -> Future[int]:
    """Return a future that already has its result."""
    future: Future[int] = Future()
    future.set_result(value)
    return future
