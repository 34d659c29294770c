"""Workers that compute the windows of an image: one renderer per network, shared by all threads."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from ..backends.base import ChunkArrays, Renderer
from ..backends.class_renderer import NearestRenderer
from ..backends.loader import Setup
from ..errors import CancelledError, DeviceError
from ..image.info import ImageInfo
from ..io.protocols import Closing, Source
from ..tiling.geometry import Plan, Tile
from .overlap import stop, submit


class Workers(Closing):
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
        self._interrupted = False
        self._idle: SimpleQueue[Renderer | None] = SimpleQueue()
        self._renderers: list[Renderer] = []
        self._failure, self._counting = "", threading.Lock()
        failed: DeviceError | None = None
        try:
            for network in setup.networks_for(source):
                try:
                    made: Renderer
                    if info.layout.color == "classes":
                        made = NearestRenderer(setup.model.scale)
                    else:
                        made = network.renderer(setup.model, source, info, plan, batch)
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
        self, pool: ThreadPoolExecutor, tiles: tuple[Tile, ...], chunk: ChunkArrays
    ) -> list[Future[int]]:
        """Start computing all windows of a chunk.

        Parameters
        ----------
        pool : ThreadPoolExecutor
        tiles : tuple of Tile
            Of the chunk.
        chunk : ChunkArrays
            Its output is filled by the workers.

        Returns
        -------
        list of Future
            Each gives the number of HR pixels it filled.
        """
        futures: list[Future[int]] = []
        try:
            for k in range(0, len(tiles), self.batch):
                futures.append(submit(pool, self._compute, tiles[k : k + self.batch], chunk))
        except BaseException:  # Ctrl-C: no one else knows these futures
            stop(futures)
            raise
        return futures

    def interrupt(self) -> None:
        """End the runs of all threads as soon as possible, with an error, and let none begin."""
        self._interrupted = True
        for made in self._renderers:
            made.interrupt()

    def close(self) -> None:
        """Release the buffers of all renderers."""
        for made in self._renderers:
            made.close()

    def _compute(self, tiles: tuple[Tile, ...], chunk: ChunkArrays) -> int:
        while True:
            work = self._idle.get()
            if work is None:  # no renderer is left; wake the next waiting thread too
                self._idle.put(None)
                raise DeviceError(self._failure)
            try:
                if self._interrupted:
                    raise CancelledError("the run was interrupted")
                work.render(tiles, chunk)
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
