"""From windows to cores on a GPU: cut, send, compute, fetch, place.

The graph has the whole image path inside (`pixels`), so nothing of a sample is computed here, and what goes
over the bus is what stands in the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError
from ...image.info import ImageInfo
from ...models.spec import ModelSpec
from ...tiling import kernels
from ...tiling.geometry import Plan, Tile
from .arrays import DeviceArray
from .streams import GpuNetwork, StreamSlot

# HR samples of a run for every multiprocessor of a GPU: so that launching kernels is little beside
# computing them. Where the GPU has no memory for it, the batch is halved (`job.process`).
BATCH_SAMPLES = 2**15


class WindowRenderer:
    """A lane on one image in host memory: as `render.Renderer`."""

    def __init__(
        self, model: ModelSpec, network: GpuNetwork, info: ImageInfo, plan: Plan, batch: int
    ) -> None:
        self._scale, self._plan, self.batch = model.scale, plan, batch
        self._network = network
        self._slot = network.slot(info.layout, info.dtype, "windows")
        channels, s = info.layout.channels, model.scale
        source = (batch, *plan.window, channels)
        target = (batch, plan.tile[0] * s, plan.tile[1] * s, channels)
        with _noting(network, self._slot):
            network.check_size(math.prod(target[:3]))
            self._there, self._windows = self._slot.room("image", source, info.dtype)
            self._back, self._results = self._slot.room("result", target, info.dtype)
            self._slot.bind([(info.dtype, source, self._there)], (info.dtype, target, self._back))

    def render(
        self,
        batch: tuple[Tile, ...],
        part: NDArray[Any],
        at: tuple[int, int],
        out: NDArray[Any],
        origin: tuple[int, int],
    ) -> None:
        """As `render.Renderer.render`."""
        slot, gpu = self._slot, self._slot.gpu
        kernels.cut(part, batch, self._plan.margin, self._windows, shape=self._plan.shape, origin=at)
        with _noting(self._network):
            gpu.send(self._there, self._windows, slot.stream)
            slot.compute()
            # Windows that nobody asked for stay there.
            results = self._results[: len(batch)]
            gpu.fetch(results, self._back, slot.stream)
            gpu.wait(slot.stream)
        kernels.place(results, batch, self._scale, out, origin=origin)

    def close(self) -> None:
        """Give the lane back."""
        self._slot.close()


class DeviceRenderer:
    """A lane on one image that lies on the GPU, as the result does; one window at a time.

    Only the places of its rows and columns go over the bus.
    """

    def __init__(self, model: ModelSpec, network: GpuNetwork, info: ImageInfo, plan: Plan) -> None:
        self._scale, self._plan, self._info = model.scale, plan, info
        self._network, self.batch = network, 1
        self._slot: StreamSlot = network.slot(info.layout, info.dtype, "gather")
        channels, s = info.layout.channels, model.scale
        self._target = (plan.tile[0] * s, plan.tile[1] * s, channels)
        with _noting(network, self._slot):
            network.check_size(math.prod(self._target[:2]))
            self._rows, self._columns = (
                self._slot.room(name, (size,), np.int64)
                for name, size in zip(("rows", "columns"), plan.window, strict=True)
            )
            self._back, _ = self._slot.room("result", self._target, info.dtype)

    def render(
        self,
        batch: tuple[Tile, ...],
        part: DeviceArray,
        at: tuple[int, int],
        out: DeviceArray,
        origin: tuple[int, int],
    ) -> None:
        """As `render.Renderer.render`, but `part` and `out` are always the whole images."""
        (tile,) = batch
        slot, gpu, info, margin = self._slot, self._slot.gpu, self._info, self._plan.margin
        corner = (tile.y.origin - margin, tile.x.origin - margin)
        pixel = info.layout.channels * info.dtype.itemsize
        with _noting(self._network):
            for (there, host), start, size, length in zip(
                (self._rows, self._columns), corner, self._plan.window, self._plan.shape, strict=True
            ):
                host[:] = kernels.mirrored(start, size, length)
                gpu.send(there, host, slot.stream)
            slot.bind(
                [
                    (info.dtype, part.shape, part.pointer),
                    *((np.int64, (len(host),), there) for there, host in (self._rows, self._columns)),
                ],
                (info.dtype, self._target, self._back),
            )
            slot.compute()
            (core,) = kernels.cores_of(batch, self._scale, self._target[:2], out.shape, (0, 0)).tolist()
            y, x, to_y, to_x, h, w = core
            pitch, result = self._target[1] * pixel, out.shape[1] * pixel
            gpu.move(
                out.pointer + to_y * result + to_x * pixel,
                result,
                self._back + y * pitch + x * pixel,
                pitch,
                (h, w * pixel),
                slot.stream,
            )
            gpu.wait(slot.stream)

    def close(self) -> None:
        """Give the lane back."""
        self._slot.close()


@contextmanager
def _noting(network: GpuNetwork, opening: StreamSlot | None = None) -> Iterator[None]:
    """Remember that a GPU broke, and give back a lane that does not open."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, DeviceError):
            network.failed = str(error)
        if opening is not None:
            opening.close()
        raise
