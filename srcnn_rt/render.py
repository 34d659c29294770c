"""From windows to cores: extract, run, stitch, for every layout of picture and kind of model.

The layout of the picture and the channels of the model decide the steps:

============== ======================== =================================
picture        luminance model          colour model
============== ======================== =================================
gray, bands    each channel             gray as R = G = B, then the mean
RGB            luminance, then recolor  as it is
alpha          bicubic; the colour beside it as `color.fill` says
============== ======================== =================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bicubic, color, tiles
from .geometry import Chunk, Plan, Tile
from .picture import Layout, PictureInfo
from .session import Session
from .spec import ModelSpec

# Small windows go through the network together, up to this many HR samples a run.
BATCH_SAMPLES = 512**2

Windows = NDArray[np.float32]


def margin_for(model: ModelSpec, layout: Layout) -> int:
    """Return the LR margin that pictures of a layout need with a model."""
    reach = _network_margin(model, layout)
    return 2 * reach if layout.alpha else reach  # `fill` looks around what the network reads


class Renderer:
    """The buffers of one picture and the steps between its windows and its cores.

    Not safe for several threads at once; each picture has its own.

    Attributes
    ----------
    batch : how many windows `render` takes at most
    """

    def __init__(
        self, model: ModelSpec, network: Session, plain: Session, info: PictureInfo, plan: Plan
    ) -> None:
        self._model, self._layout, self._plan = model, info.layout, plan
        self._network, self._plain = network, plain
        s, (h, w) = model.scale, plan.tile
        if model.batch is None:
            most = -(-info.shape[0] // h) * -(-info.shape[1] // w)
            self.batch = min(max(1, BATCH_SAMPLES // (h * w * s * s)), most)
        else:
            self.batch = model.batch
        self._windows = np.zeros((self.batch, info.layout.channels, *plan.window), np.float32)
        # What is left of the margin when colour goes to the network, and what bicubic makes of it.
        self._reach = _network_margin(model, info.layout)
        self._spare = self._reach - model.margin
        self._cut = (self._reach - bicubic.REACH) * s
        # Alpha below this is stored as 0.
        self._least_alpha = 0.5 / tiles.white(info.dtype) if info.dtype.kind != "f" else 1e-6

    def render(self, batch: tuple[Tile, ...], chunk: Chunk, part: NDArray[Any], out: NDArray[Any]) -> None:
        """Fill the cores of `batch` in the chunk `out` from the picture's `part`.

        Parameters
        ----------
        batch : tiles of `chunk`, at most `self.batch`
        part : (h, w, C), what `chunk` reaches
        out : (h, w, C) of the chunk, HR
        """
        reach = chunk.reach(self._plan.tile, self._plan.margin, self._plan.shape)
        tiles.extract(
            part,
            batch,
            self._plan.margin,
            self._windows,
            shape=self._plan.shape,
            origin=(reach[0].start, reach[1].start),
        )
        if self._layout.alpha:
            windows, cut = self._with_alpha(self._windows), 0
        else:
            windows, cut = self._colors(self._windows)
        tiles.stitch(windows, batch, self._model.scale, out, cut=cut, origin=(chunk.y.start, chunk.x.start))

    def _colors(self, windows: Windows) -> tuple[Windows, int]:
        """Return HR windows of all channels and the HR border around their tiles."""
        if self._layout.color == "rgb" and self._model.channels == 1:
            out = self._enlarge(windows)
            y = self._network.run(color.luma_windows(windows, self._spare))
            color.recolor(out, self._cut, y)
            return out, self._cut
        inner = _trim(windows, self._spare)
        count = windows.shape[1]
        if self._model.channels == 3 and count == 1:
            three = self._network.run(np.repeat(inner, 3, axis=1))
            return three.mean(axis=1, keepdims=True), 0
        if self._model.channels == 3:
            return self._network.run(np.ascontiguousarray(inner)), 0
        # One channel at a time: one window shape, and activations of one channel only.
        runs = [self._network.run(np.ascontiguousarray(inner[:, c : c + 1])) for c in range(count)]
        return (runs[0] if count == 1 else np.concatenate(runs, axis=1)), 0

    def _with_alpha(self, windows: Windows) -> Windows:
        """Return HR tiles of colour and alpha.

        Colour is bicubic of the premultiplied colour, divided by bicubic of the alpha, plus
        what the network adds to bicubic where colour goes on under the transparent parts.
        """
        inner = np.ascontiguousarray(_trim(windows, self._reach))
        alpha = inner[:, -1:]
        if (windows[:, -1] == 1).all():
            sharp, cut = self._colors(np.ascontiguousarray(inner[:, :-1]))
            sharp = _trim(sharp, cut)
            return np.concatenate([sharp, np.ones_like(sharp[:, :1])], axis=1)
        filled = color.fill(windows, self._reach)
        sharp, cut = self._colors(filled)
        detail = _trim(sharp, cut) - _trim(self._enlarge(filled), self._cut)
        inner[:, :-1] *= alpha
        plain = np.ascontiguousarray(_trim(self._enlarge(inner), self._cut))
        color.unpremultiply(plain[:, :-1], plain[:, -1:], detail, self._least_alpha)
        return plain

    def _enlarge(self, windows: Windows) -> Windows:
        """Enlarge every channel by bicubic."""
        n, c, h, w = windows.shape
        out = self._plain.run(windows.reshape(n * c, 1, h, w))
        return out.reshape(n, c, *out.shape[2:])


def _network_margin(model: ModelSpec, layout: Layout) -> int:
    """Return the model's margin, or bicubic's where that is wanted too and is larger."""
    plain = layout.alpha or (layout.color == "rgb" and model.channels == 1)
    return max(model.margin, bicubic.REACH if plain else 0)


def _trim(windows: Windows, cut: int) -> Windows:
    """Return a view without `cut` samples on each side."""
    return windows[:, :, cut : windows.shape[2] - cut, cut : windows.shape[3] - cut]
