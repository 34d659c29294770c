"""Rendering on a GPU: copy windows to the device, run the graph, and copy the cores to their place.

The graph includes the whole image path (`models.image_graph`), so no sample is computed here, and copies
between host and device have the sample type of the image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...image.info import ImageInfo
from ...models.spec import ModelSpec
from ...tiling import kernels
from ...tiling.geometry import Plan, Tile
from .arrays import DeviceArray

if TYPE_CHECKING:
    from .streams import GpuNetwork

# HR samples per run and multiprocessor, so that kernels take much longer to run than to launch. Where memory
# does not suffice the batch is halved (`execution.executor`).
MAX_BATCH_SAMPLES = 2**15


class WindowRenderer:
    """A `base.Renderer` for an image in host memory.

    Parameters
    ----------
    model : ModelSpec
    network : GpuNetwork
    info : ImageInfo
        The image in the type from which windows are cut.
    plan : Plan
    batch : int
        Windows per run.

    Raises
    ------
    OutOfMemoryError, DeviceError, ProviderError, ModelError
    """

    def __init__(
        self, model: ModelSpec, network: GpuNetwork, info: ImageInfo, plan: Plan, batch: int
    ) -> None:
        self._scale, self._plan, self.batch = model.scale, plan, batch
        self._network = network
        self._slot = network.acquire(info.layout, info.dtype, "windows")
        channels, s = info.layout.channels, model.scale
        source = (batch, *plan.window, channels)
        target = (batch, plan.tile[0] * s, plan.tile[1] * s, channels)
        with network.recording_failure(self._slot):
            network.check_size(math.prod(target[:3]))
            self._source, self._windows = self._slot.buffers("image", source, info.dtype)
            self._target, self._results = self._slot.buffers("result", target, info.dtype)
            self._slot.bind([(info.dtype, source, self._source)], (info.dtype, target, self._target))

    def render(
        self,
        batch: tuple[Tile, ...],
        part: NDArray[Any],
        at: tuple[int, int],
        out: NDArray[Any],
        origin: tuple[int, int],
    ) -> None:
        """Fill the cores of `batch`; see `base.Renderer.render`."""
        slot, gpu = self._slot, self._slot.gpu
        kernels.cut(part, batch, self._plan.margin, self._windows, shape=self._plan.shape, origin=at)
        with self._network.recording_failure():
            gpu.copy_to_device(self._source, self._windows, slot.stream)
            slot.run()
            # Not the results of unused windows of the batch.
            results = self._results[: len(batch)]
            gpu.copy_to_host(results, self._target, slot.stream)
            gpu.synchronize(slot.stream)
        kernels.place(results, batch, self._scale, out, origin=origin)

    def close(self) -> None:
        """Release the slot."""
        self._network.release(self._slot)


class DeviceRenderer:
    """A `base.Renderer` for an image and a result on the GPU, one window at a time.

    Only row and column indices are copied between host and device.

    Parameters
    ----------
    model : ModelSpec
    network : GpuNetwork
    info : ImageInfo
    plan : Plan

    Raises
    ------
    OutOfMemoryError, DeviceError, ProviderError, ModelError
    """

    def __init__(self, model: ModelSpec, network: GpuNetwork, info: ImageInfo, plan: Plan) -> None:
        self._scale, self._plan, self._info = model.scale, plan, info
        self._network, self.batch = network, 1
        self._slot = network.acquire(info.layout, info.dtype, "gather")
        s = model.scale
        self._tile_shape = (plan.tile[0] * s, plan.tile[1] * s, info.layout.channels)
        with network.recording_failure(self._slot):
            network.check_size(math.prod(self._tile_shape[:2]))
            self._rows, self._columns = (
                self._slot.buffers(name, (size,), np.int64)
                for name, size in zip(("rows", "columns"), plan.window, strict=True)
            )
            self._target, _ = self._slot.buffers("result", self._tile_shape, info.dtype)

    def render(
        self,
        batch: tuple[Tile, ...],
        part: DeviceArray,
        at: tuple[int, int],
        out: DeviceArray,
        origin: tuple[int, int],
    ) -> None:
        """Fill the core of one tile; `part` and `out` are the whole images. See `base.Renderer.render`."""
        (tile,) = batch
        slot, gpu, info, margin = self._slot, self._slot.gpu, self._info, self._plan.margin
        corner = (tile.y.origin - margin, tile.x.origin - margin)
        pixel = info.layout.channels * info.dtype.itemsize
        with self._network.recording_failure():
            for (pointer, indices), start, size, length in zip(
                (self._rows, self._columns), corner, self._plan.window, self._plan.shape, strict=True
            ):
                indices[:] = kernels.mirrored(start, size, length)
                gpu.copy_to_device(pointer, indices, slot.stream)
            slot.bind(
                [
                    (info.dtype, part.shape, part.pointer),
                    *(
                        (np.int64, (len(indices),), pointer)
                        for pointer, indices in (self._rows, self._columns)
                    ),
                ],
                (info.dtype, self._tile_shape, self._target),
            )
            slot.run()
            (core,) = kernels.cores_of(batch, self._scale, self._tile_shape[:2], out.shape, (0, 0)).tolist()
            from_y, from_x, to_y, to_x, h, w = core
            source_pitch, pitch = self._tile_shape[1] * pixel, out.shape[1] * pixel
            gpu.copy_2d(
                out.pointer + to_y * pitch + to_x * pixel,
                pitch,
                self._target + from_y * source_pitch + from_x * pixel,
                source_pitch,
                (h, w * pixel),
                slot.stream,
            )
            gpu.synchronize(slot.stream)

    def close(self) -> None:
        """Release the slot."""
        self._network.release(self._slot)
