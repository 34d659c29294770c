"""Rendering on a GPU: copy windows to the device, run the graph, and copy the cores to their place.

The graph includes the whole image path (`models.image_graph`), so no sample is computed here, and copies
between host and device have the sample type of the image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...image.info import ImageInfo
from ...models.spec import ModelSpec
from ...tiling import kernels
from ...tiling.geometry import Plan, Tile
from ..base import ChunkArrays

if TYPE_CHECKING:
    from .streams import GpuNetwork, Input

# HR samples per run and multiprocessor, so that kernels take much longer to run than to launch. Where memory
# does not suffice the batch is halved (`execution.executor`).
MAX_BATCH_SAMPLES = 2**15


class _SlotRenderer:
    """The parts that both renderers share: a slot, and buffers that are taken from it."""

    def __init__(
        self, model: ModelSpec, network: GpuNetwork, info: ImageInfo, plan: Plan, source: Input
    ) -> None:
        self._scale, self._plan, self._network = model.scale, plan, network
        self._slot = network.acquire(info.layout, info.dtype, source)
        # Of the output of the graph for one window.
        h, w = plan.tile
        self._tile_shape = (h * model.scale, w * model.scale, info.layout.channels)

    def interrupt(self) -> None:
        """End the run of the slot; see `base.Renderer.interrupt`."""
        self._slot.interrupt()

    def close(self) -> None:
        """Release the slot."""
        self._network.release(self._slot)


class WindowRenderer(_SlotRenderer):
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
        super().__init__(model, network, info, plan, "windows")
        source, target = (batch, *plan.window, info.layout.channels), (batch, *self._tile_shape)
        with network.recording_failure(self._slot):
            network.check_size(math.prod(target[:3]))
            self._source, self._windows = self._slot.buffers("image", source, info.dtype)
            self._target, self._results = self._slot.buffers("result", target, info.dtype)
            self._slot.bind([(info.dtype, source, self._source)], (info.dtype, target, self._target))

    def render(self, tiles: tuple[Tile, ...], chunk: ChunkArrays) -> None:
        """Fill the cores of `tiles`; see `base.Renderer.render`."""
        slot, gpu = self._slot, self._slot.gpu
        kernels.cut(
            chunk.samples, tiles, self._plan.margin, self._windows, shape=self._plan.shape, origin=chunk.at
        )
        with self._network.recording_failure():
            gpu.copy_to_device(self._source, self._windows, slot.stream)
            slot.run()
            # Not the results of unused windows of the batch.
            results = self._results[: len(tiles)]
            gpu.copy_to_host(results, self._target, slot.stream)
            gpu.synchronize(slot.stream)
        kernels.place(results, tiles, self._scale, chunk.out, origin=chunk.origin)


class DeviceRenderer(_SlotRenderer):
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
        super().__init__(model, network, info, plan, "gather")
        self._info = info
        with network.recording_failure(self._slot):
            network.check_size(math.prod(self._tile_shape[:2]))
            self._rows, self._columns = (
                self._slot.buffers(name, (size,), np.int64)
                for name, size in zip(("rows", "columns"), plan.window, strict=True)
            )
            self._target, _ = self._slot.buffers("result", self._tile_shape, info.dtype)

    def render(self, tiles: tuple[Tile, ...], chunk: ChunkArrays) -> None:
        """Fill the core of one tile; the arrays are the whole images. See `base.Renderer.render`."""
        (tile,), image, out = tiles, chunk.samples, chunk.out
        slot, gpu, info, margin = self._slot, self._slot.gpu, self._info, self._plan.margin
        corner = (tile.y.origin - margin, tile.x.origin - margin)
        pixel = info.layout.channels * info.dtype.itemsize
        inputs = [(info.dtype, image.shape, image.pointer)]
        with self._network.recording_failure():
            for (pointer, indices), start, size, length in zip(
                (self._rows, self._columns), corner, self._plan.window, self._plan.shape, strict=True
            ):
                indices[:] = kernels.mirrored(start, size, length)
                gpu.copy_to_device(pointer, indices, slot.stream)
                inputs.append((indices.dtype, indices.shape, pointer))
            slot.bind(inputs, (info.dtype, self._tile_shape, self._target))
            slot.run()
            (core,) = kernels.cores_of(tiles, self._scale, self._tile_shape[:2], out.shape, (0, 0)).tolist()
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
