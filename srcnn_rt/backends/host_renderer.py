"""Rendering on the CPU: extract windows, run the network, and stitch the cores, for every layout and model.

The layout of the image and the channels of the model decide the steps:

============== =================================== =================================
image          luminance model                     colour model
============== =================================== =================================
gray, bands    each channel                        as R = G = B, then the mean
RGB            luminance only, see `image.color`   as it is
alpha          bicubic; colour under it is filled by `image.color.fill`
============== =================================== =================================

A model with another number of channels takes images with just as many, unchanged. Where a network computes
the difference to bicubic (`ModelSpec.adds_bicubic`), the sum is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..image import bicubic, color
from ..image.info import ImageInfo
from ..models.margins import alpha_radius, bicubic_margin, has_plain_alpha, network_margin, recolors
from ..models.spec import ModelSpec
from ..tiling import kernels
from ..tiling.geometry import Plan, Tile
from .base import Bound, ChunkArrays, Network, Renderer

if TYPE_CHECKING:
    from ..io.protocols import Source

MAX_BATCH_SAMPLES = 256**2  # HR samples per run; small windows are batched up to this

Windows = NDArray[np.float32]


class HostNetwork(Network):
    """Base class of networks that run on the CPU and read and write host memory.

    Attributes
    ----------
    stop : ndarray of int32, shape (1,)
        Not 0 while runs of this object end early. Own kernels look at it.
    """

    stop: NDArray[np.int32]

    def bind(self, source: tuple[int, ...], target: tuple[int, ...]) -> Bound:
        """Return input and output buffers for windows of one shape, and the run between them.

        Parameters
        ----------
        source, target : tuple of int
            Shapes (N, C, h, w) of the windows and of the output of the model.
        """
        raise NotImplementedError

    def runner(self, source: tuple[int, ...], target: tuple[int, ...]) -> Callable[[Windows], Windows]:
        """Return a function that runs the network on windows of one shape; see `bind`."""
        bound = self.bind(source, target)

        def run(windows: Windows) -> Windows:
            bound.input[...] = windows
            bound.run()
            return bound.output.copy()

        return run

    def apart(self) -> Self:
        """Return the same network, with the same weights, whose runs can be ended without those of others."""
        made = copy(self)
        made.stop = np.zeros(1, np.int32)
        return made

    def interrupt(self) -> None:
        """Make all runs of this object end early, with an error, from now on."""
        self._interrupt(True)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Do so while the context is active."""
        try:
            self._interrupt(True)
            yield
        finally:
            self._interrupt(False)

    def _interrupt(self, ending: bool) -> None:
        """Make all runs end early from now on, or no longer."""
        self.stop[0] = ending

    def batch_size(self, model: ModelSpec, source: Source, plan: Plan) -> int:
        """Return the number of windows per run."""
        return batch_size(model, source.info, plan)

    def renderer(self, model: ModelSpec, source: Source, info: ImageInfo, plan: Plan, batch: int) -> Renderer:
        """Return a renderer; see `base.Network.renderer`."""
        return HostRenderer(model, self.apart(), info, plan, batch)


def batch_size(model: ModelSpec, info: ImageInfo, plan: Plan, max_samples: int = MAX_BATCH_SAMPLES) -> int:
    """Return the number of windows per run, with at most `max_samples` HR samples."""
    if model.batch is not None:
        return model.batch
    # A batch never spans two chunks.
    (h, w), (rows, cols) = plan.tile, (min(a, b) for a, b in zip(plan.chunk, plan.region.shape, strict=True))
    count = -(-rows // h) * -(-cols // w)
    maximum = min(max(1, max_samples // (h * w * model.scale**2)), count)
    # A partly filled batch costs as much as a full one, so all batches get about the same size.
    return -(-count // -(-count // maximum))


class HostRenderer:
    """A `base.Renderer` for a network in host memory.

    All buffers of the size of a window are allocated here, except for images with alpha.

    Parameters
    ----------
    model : ModelSpec
    network : HostNetwork
    info : ImageInfo
        The image in the type from which windows are cut.
    plan : Plan
    batch : int, optional
        Windows per run; `batch_size` of them by default.
    """

    def __init__(
        self, model: ModelSpec, network: HostNetwork, info: ImageInfo, plan: Plan, batch: int | None = None
    ) -> None:
        self._model, self._layout, self._plan, self._network = model, info.layout, plan, network
        s, (h, w) = model.scale, plan.tile
        batch = batch or batch_size(model, info, plan)
        around = 2 * network_margin(model)
        self._bound = network.bind(
            (batch, model.channels, h + around, w + around), (batch, model.channels, h * s, w * s)
        )
        self._recolors = recolors(model, info.layout)
        # Whether the network computes the difference to bicubic, which stitching then adds.
        self._adds_bicubic = model.adds_bicubic or self._recolors
        # LR border of the extracted windows: what the network does not read, and the whole margin.
        self._bicubic_margin = bicubic_margin(model, info.layout)
        self._margin = network_margin(model) + self._bicubic_margin
        # Images with the channels of the model are extracted straight into its input buffer.
        self._direct = info.layout.channels == model.channels and not self._bicubic_margin
        size = (batch, info.layout.channels, *plan.window)
        self._windows = self._bound.input if self._direct else np.zeros(size, np.float32)
        self._count = batch  # windows in use
        self._min_alpha = kernels.min_alpha(info.dtype)

    def render(self, tiles: tuple[Tile, ...], chunk: ChunkArrays) -> None:
        """Fill the cores of `tiles`; see `base.Renderer.render`."""
        self._count = len(tiles)
        plan, windows, s = self._plan, self._windows, self._model.scale
        out, origin = chunk.out, chunk.origin
        kernels.extract(chunk.samples, tiles, plan.margin, windows, shape=plan.shape, origin=chunk.at)

        def stitch(result: Windows, out: NDArray[Any], first: int = 0) -> None:
            if self._adds_bicubic:
                kernels.stitch_sum(
                    windows, result, tiles, s, out, margin=self._margin, first=first, origin=origin
                )
            else:
                kernels.stitch(result, tiles, s, out, origin=origin)

        if has_plain_alpha(self._model, self._layout):
            kernels.stitch(self._with_alpha(), tiles, s, out, origin=origin)
        elif self._direct:
            stitch(self._run(), out)
        elif self._recolors:
            stitch(self._luminance_detail(windows), out)
        elif self._model.channels == 1:
            # Channels one at a time, so that only the activations of one are in memory.
            for c in range(self._layout.channels):
                np.copyto(self._bound.input[:, 0], _crop(windows, self._bicubic_margin)[:, c])
                stitch(self._run(), out[:, :, c : c + 1], c)
        else:
            stitch(self._run_channels(windows), out)

    def interrupt(self) -> None:
        """End the run of the network; see `base.Renderer.interrupt`."""
        self._network.interrupt()

    def close(self) -> None:
        """Do nothing; the buffers are released with this object."""

    def _run(self) -> Windows:
        """Run the network on its input buffer in the range of the model; the input is overwritten."""
        values = self._model.range
        if values.is_identity:
            self._bound.run()
            return self._bound.output
        # Only windows in use: those left over from a fuller batch would grow with every run.
        source, target = self._bound.input[: self._count], self._bound.output[: self._count]
        gain, offset = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (values.gain, values.offset))
        np.multiply(source, gain, out=source)
        np.add(source, offset, out=source)
        self._bound.run()
        np.subtract(target, offset, out=target)
        np.divide(target, gain, out=target)
        return self._bound.output

    def _run_channels(self, windows: Windows) -> Windows:
        """Run the network on all colour channels, together or one by one."""
        count, channels = windows.shape[1], self._model.channels
        inner = _crop(windows, self._bicubic_margin)
        if channels == count or (channels == 3 and count == 1):  # gray goes in as R = G = B
            np.copyto(self._bound.input, inner)
            out = self._run()
            return out if channels == count else out.mean(axis=1, keepdims=True)
        out = np.empty((len(windows), count, *self._bound.output.shape[2:]), np.float32)
        for c in range(count):
            np.copyto(self._bound.input[:, 0], inner[:, c])
            out[:, c] = self._run()[:, 0]
        return out

    def _luminance_detail(self, windows: Windows) -> Windows:
        """Return the difference to the bicubic luminance of RGB windows, which is that of R, G and B."""
        if self._model.adds_bicubic:
            color.luma_windows(windows, self._bicubic_margin, out=self._bound.input)
            return self._run()
        luma = np.empty((len(windows), 1, *windows.shape[2:]), np.float32)
        color.luma_windows(windows, 0, out=luma)
        np.copyto(self._bound.input, _crop(luma, self._bicubic_margin))
        return self._run() - self._bicubic(luma)

    def _detail(self, windows: Windows) -> Windows:
        """Return the difference to bicubic, of each colour channel or one for all."""
        if self._recolors:
            return self._luminance_detail(windows)
        made = self._run_channels(windows)
        return made if self._model.adds_bicubic else made - self._bicubic(windows)

    def _with_alpha(self) -> Windows:
        """Return HR tiles of colour and alpha.

        Colour is the bicubic of premultiplied colour divided by the bicubic of alpha, plus the network's
        difference to bicubic for colour that `color.fill` extends under transparent pixels.
        """
        windows, radius = self._windows, alpha_radius(self._model)
        inner = np.ascontiguousarray(_crop(windows, radius))
        alpha = inner[:, -1:]
        if (windows[:, -1] == 1).all():
            colors = np.ascontiguousarray(inner[:, :-1])
            if self._adds_bicubic:
                result = np.ascontiguousarray(self._bicubic(colors) + self._detail(colors))
            else:
                result = self._run_channels(colors)
            return np.concatenate([result, np.ones_like(result[:, :1])], axis=1)
        detail = self._detail(color.fill(windows, radius))
        inner[:, :-1] *= alpha
        plain = np.ascontiguousarray(self._bicubic(inner))
        color.unpremultiply(plain[:, :-1], plain[:, -1:], detail, self._min_alpha)
        return plain

    def _bicubic(self, windows: Windows) -> Windows:
        """Return bicubic enlargement of the area that the network's output covers."""
        border = (self._margin - bicubic.RADIUS) * self._model.scale
        return _crop(kernels.enlarge(windows, self._model.scale), border)


def _crop(windows: Windows, border: int) -> Windows:
    """Return a view without `border` samples on each side."""
    return windows[:, :, border : windows.shape[2] - border, border : windows.shape[3] - border]
