"""From windows to cores: extract, run, stitch, for every layout of image and kind of model.

The layout of the image and the channels of the model decide the steps:

============== ======================== =================================
image        luminance model          colour model
============== ======================== =================================
gray, bands    each channel             gray as R = G = B, then the mean
RGB            luminance, see `color`    as it is
alpha          bicubic; the colour beside it as `color.fill` says
============== ======================== =================================

A model of another number of channels takes images of just as many, as they are. Of a network that is added
to bicubic (`ModelSpec.adds_bicubic`) the sum is made here, too: of luminance it is the same for R, G and B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..image import bicubic, color
from ..image.info import ImageInfo
from ..models.margins import blur, has_plain_alpha, lead, recolors, spare
from ..models.spec import ModelSpec
from ..tiling import kernels
from ..tiling.geometry import Plan, Tile
from .onnxruntime import Network

# Small windows go through the network together, up to this many HR samples a run.
BATCH_SAMPLES = 256**2

Windows = NDArray[np.float32]


class Renderer:
    """The buffers of one worker on one image, and the steps between windows and cores.

    Not safe for several threads at once; each worker has its own. Nothing of a window's size is
    allocated after the first call, but for images with alpha.

    Attributes
    ----------
    batch : how many windows `render` takes at most
    """

    def __init__(
        self, model: ModelSpec, network: Network, info: ImageInfo, plan: Plan, batch: int | None = None
    ) -> None:
        self._model, self._layout, self._plan = model, info.layout, plan
        s, (h, w) = model.scale, plan.tile
        self.batch = batch or self.batch_for(model, info, plan)
        around = 2 * lead(model)
        self._bound = network.bind(
            (self.batch, model.channels, h + around, w + around), (self.batch, model.channels, h * s, w * s)
        )
        # Margin of the windows that colour comes in, beyond what the network reads.
        self._spare = spare(model, info.layout)
        # An image of the model's own channels is extracted right where the network reads it.
        self._direct = info.layout.channels == model.channels and not self._spare
        size = (self.batch, info.layout.channels, *plan.window)
        self._windows = self._bound.input if self._direct else np.zeros(size, np.float32)
        self._count = self.batch  # windows in use
        self._min_alpha = kernels.min_alpha(info.dtype)

    @staticmethod
    def batch_for(model: ModelSpec, info: ImageInfo, plan: Plan, samples: int = BATCH_SAMPLES) -> int:
        """Return how many windows go through the network together, of at most so many HR samples."""
        if model.batch is not None:
            return model.batch
        # Windows of one chunk only go together.
        (h, w), (rows, cols) = plan.tile, (min(a, b) for a, b in zip(plan.chunk, info.shape, strict=True))
        count = -(-rows // h) * -(-cols // w)
        maximum = min(max(1, samples // (h * w * model.scale**2)), count)
        # A batch that is not full costs as much: as few as it takes, of equal size.
        return -(-count // -(-count // maximum))

    def render(
        self,
        batch: tuple[Tile, ...],
        part: NDArray[Any],
        at: tuple[int, int],
        out: NDArray[Any],
        origin: tuple[int, int],
    ) -> None:
        """Fill the cores of `batch` in the chunk `out` from the image's `part`.

        Parameters
        ----------
        batch : tiles of one chunk, at most `self.batch`
        part : (h, w, C), what the chunk reaches
        at : (y, x) of `part` in the image
        out : (h, w, C) of the chunk, HR
        origin : (y, x) of the chunk in the image, LR
        """
        self._count = len(batch)
        kernels.extract(
            part,
            batch,
            self._plan.margin,
            self._windows,
            shape=self._plan.shape,
            origin=at,
        )
        s = self._model.scale
        if has_plain_alpha(self._model, self._layout):
            kernels.stitch(self._with_alpha(), batch, s, out, origin=origin)
        elif self._model.adds_bicubic or self._recolors:
            self._sum(batch, out, origin)
        elif self._direct:
            kernels.stitch(self._network(), batch, s, out, origin=origin)
        elif self._model.channels == 1:
            # One channel at a time: activations of one channel only.
            for c in range(self._windows.shape[1]):
                np.copyto(self._bound.input[:, 0], _trim(self._windows, self._spare)[:, c])
                kernels.stitch(self._network(), batch, s, out[:, :, c : c + 1], origin=origin)
        else:
            gray = self._sharpen(self._windows)
            kernels.stitch(gray, batch, s, out, origin=origin)

    def _sum(self, batch: tuple[Tile, ...], out: NDArray[Any], origin: tuple[int, int]) -> None:
        """Stitch bicubic and what the network adds to it."""
        s, margin, count = self._model.scale, self._margin, self._layout.channels
        if self._model.channels == 1 and count > 1 and not self._recolors:
            for c in range(count):  # one at a time: activations of one channel only
                np.copyto(self._bound.input[:, 0], _trim(self._windows, self._spare)[:, c])
                made, part = self._network(), out[:, :, c : c + 1]
                kernels.stitch_sum(self._windows, made, batch, s, part, margin=margin, first=c, origin=origin)
            return
        detail = self._network() if self._direct else self._detail(self._windows)
        kernels.stitch_sum(self._windows, detail, batch, s, out, margin=margin, origin=origin)

    def close(self) -> None:
        """Nothing is shared; the buffers go with this object."""

    @property
    def _recolors(self) -> bool:
        """Whether only the luminance of RGB goes through the network."""
        return recolors(self._model, self._layout)

    @property
    def _margin(self) -> int:
        """LR pixels of colour around the area that the network gives."""
        return lead(self._model) + self._spare

    def _network(self) -> Windows:
        """Run the network on its input buffer, in its own range of values; the buffer is spent."""
        values = self._model.range
        if values.plain:
            self._bound.run()
            return self._bound.output
        # Windows left over from a fuller batch would grow with every run.
        source, target = self._bound.input[: self._count], self._bound.output[: self._count]
        gain, offset = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (values.gain, values.offset))
        np.multiply(source, gain, out=source)
        np.add(source, offset, out=source)
        self._bound.run()
        np.subtract(target, offset, out=target)
        np.divide(target, gain, out=target)
        return self._bound.output

    def _luminance(self, windows: Windows) -> Windows:
        """Return what the network adds to bicubic luminance of RGB windows: to R, G and B alike."""
        if self._model.adds_bicubic:
            color.luma_windows(windows, self._spare, out=self._bound.input)
            return self._network()
        luma = np.empty((len(windows), 1, *windows.shape[2:]), np.float32)
        color.luma_windows(windows, 0, out=luma)
        np.copyto(self._bound.input, _trim(luma, self._spare))
        return self._network() - _trim(kernels.enlarge(luma, self._model.scale), self._cut)

    def _sharpen(self, windows: Windows) -> Windows:
        """Return HR tiles of all colour channels; a new array where the network has another count."""
        if self._model.adds_bicubic or self._recolors:
            smooth = _trim(kernels.enlarge(windows, self._model.scale), self._cut)
            return np.ascontiguousarray(smooth + self._detail(windows))
        return self._each(windows)

    def _each(self, windows: Windows) -> Windows:
        """Run the network on all colour channels, together or one by one, and return what it gives."""
        count, channels = windows.shape[1], self._model.channels
        inner = _trim(windows, self._spare)
        if channels == count or (channels == 3 and count == 1):  # a gray image is its three channels
            np.copyto(self._bound.input, inner)
            out = self._network()
            return out if channels == count else out.mean(axis=1, keepdims=True)
        out = np.empty((len(windows), count, *self._bound.output.shape[2:]), np.float32)
        for c in range(count):
            np.copyto(self._bound.input[:, 0], inner[:, c])
            out[:, c] = self._network()[:, 0]
        return out

    def _detail(self, windows: Windows) -> Windows:
        """Return what the network adds to bicubic: of each colour channel, or one for all of them."""
        if self._recolors:
            return self._luminance(windows)
        made = self._each(windows)
        if self._model.adds_bicubic:
            return made
        return made - _trim(kernels.enlarge(windows, self._model.scale), self._cut)

    def _with_alpha(self) -> Windows:
        """Return HR tiles of colour and alpha.

        Colour is bicubic of the premultiplied colour, divided by bicubic of the alpha, plus
        what the network adds to bicubic where colour goes on under the transparent parts.
        """
        windows, radius, s = self._windows, blur(self._model), self._model.scale
        inner = np.ascontiguousarray(_trim(windows, radius))
        alpha = inner[:, -1:]
        if (windows[:, -1] == 1).all():
            sharp = self._sharpen(np.ascontiguousarray(inner[:, :-1]))
            return np.concatenate([sharp, np.ones_like(sharp[:, :1])], axis=1)
        filled = color.fill(windows, radius)
        detail = self._detail(filled)
        inner[:, :-1] *= alpha
        plain = np.ascontiguousarray(_trim(kernels.enlarge(inner, s), self._cut))
        color.unpremultiply(plain[:, :-1], plain[:, -1:], detail, self._min_alpha)
        return plain

    @property
    def _cut(self) -> int:
        """HR border of enlarged colour around the area that the network gives."""
        return (self._margin - bicubic.RADIUS) * self._model.scale


def _trim(windows: Windows, cut: int) -> Windows:
    """Return a view without `cut` samples on each side."""
    return windows[:, :, cut : windows.shape[2] - cut, cut : windows.shape[3] - cut]
