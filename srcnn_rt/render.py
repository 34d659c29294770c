"""From windows to cores: extract, run, stitch, for every layout of picture and kind of model.

The layout of the picture and the channels of the model decide the steps:

============== ======================== =================================
picture        luminance model          colour model
============== ======================== =================================
gray, bands    each channel             gray as R = G = B, then the mean
RGB            luminance, then recolor  as it is
alpha          bicubic; the colour beside it as `color.fill` says
============== ======================== =================================

A model of another number of channels takes pictures of just as many, as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bicubic, color, tiles
from .errors import PictureError
from .geometry import Chunk, Plan, Rules, Tile
from .picture import Layout, PictureInfo
from .session import Session
from .spec import ModelSpec

# Small windows go through the network together, up to this many HR samples a run.
BATCH_SAMPLES = 512**2

Windows = NDArray[np.float32]


def margin_for(model: ModelSpec, layout: Layout) -> int:
    """Return the LR margin that pictures of a layout need with a model."""
    around = _lead(model) + _spare(model, layout)
    return around + _blur(model) if _has_plain_alpha(model, layout) else around


def check_layout(model: ModelSpec, layout: Layout) -> None:
    """Refuse pictures whose channels a model has no use for.

    Raises
    ------
    PictureError
        Naming both.
    """
    if model.channels in (1, layout.channels):
        return
    if model.channels == 3:
        if layout.color == "bands":
            raise PictureError(f"a colour model takes gray or RGB pictures, got {layout}")
        return
    raise PictureError(f"{model.name} takes pictures of {model.channels} channels, got {layout}")


def rules_for(model: ModelSpec) -> tuple[Rules, Rules]:
    """Return what a model asks of its windows on either axis."""
    return tuple(  # type: ignore[return-value]
        Rules(
            axis.period,
            model.padded,
            model.margin if model.padded else 0,
            axis.multiple,
            axis.minimum if model.padded else 1,
            axis.fixed if axis.fixed is None or model.padded else axis.fixed - 2 * model.margin,
        )
        for axis in (model.facts.y, model.facts.x)
    )


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
        # Margin of the windows that colour comes in, and how much of it only bicubic wants.
        self._spare = _spare(model, info.layout)
        self._cut = (_lead(model) + self._spare - bicubic.REACH) * s
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
        if _has_plain_alpha(self._model, self._layout):
            windows, cut = self._with_alpha(self._windows), 0
        else:
            windows, cut = self._colors(self._windows)
        tiles.stitch(windows, batch, self._model.scale, out, cut=cut, origin=(chunk.y.start, chunk.x.start))

    def _colors(self, windows: Windows) -> tuple[Windows, int]:
        """Return HR windows of all channels and the HR border around their tiles."""
        if self._layout.color == "rgb" and self._model.channels == 1:
            out = self._enlarge(windows)
            y = self._run(color.luma_windows(windows, self._spare))
            color.recolor(out, self._cut, y)
            return out, self._cut
        inner = _trim(windows, self._spare)
        count = windows.shape[1]
        if self._model.channels == count:
            return self._run(inner), 0
        if self._model.channels == 3 and count == 1:
            return self._run(np.repeat(inner, 3, axis=1)).mean(axis=1, keepdims=True), 0
        # One channel at a time: one window shape, and activations of one channel only.
        runs = [self._run(inner[:, c : c + 1]) for c in range(count)]
        return np.concatenate(runs, axis=1), 0

    def _run(self, windows: Windows) -> Windows:
        """Run the network on windows in [0, 1], in its own range of values."""
        values = self._model.range
        if values.plain:
            return self._network.run(np.ascontiguousarray(windows))
        gain, offset = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (values.gain, values.offset))
        out = self._network.run(np.ascontiguousarray(windows * gain + offset))
        return (out - offset) / gain

    def _with_alpha(self, windows: Windows) -> Windows:
        """Return HR tiles of colour and alpha.

        Colour is bicubic of the premultiplied colour, divided by bicubic of the alpha, plus
        what the network adds to bicubic where colour goes on under the transparent parts.
        """
        blur = _blur(self._model)
        inner = np.ascontiguousarray(_trim(windows, blur))
        alpha = inner[:, -1:]
        if (windows[:, -1] == 1).all():
            sharp, cut = self._colors(np.ascontiguousarray(inner[:, :-1]))
            sharp = _trim(sharp, cut)
            return np.concatenate([sharp, np.ones_like(sharp[:, :1])], axis=1)
        filled = color.fill(windows, blur)
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


def _has_plain_alpha(model: ModelSpec, layout: Layout) -> bool:
    """Return whether there is an alpha that is not one of the model's own channels."""
    return layout.alpha and model.channels != layout.channels


def _lead(model: ModelSpec) -> int:
    """Return the margin around a tile that the network itself reads: none if it pads."""
    return 0 if model.padded else model.margin


def _spare(model: ModelSpec, layout: Layout) -> int:
    """Return what bicubic reads beyond that, where the picture wants bicubic too."""
    plain = _has_plain_alpha(model, layout) or (layout.color == "rgb" and model.channels == 1)
    return max(0, bicubic.REACH - _lead(model)) if plain else 0


def _blur(model: ModelSpec) -> int:
    """Return how far colour is looked for under an alpha: as far as the network sees."""
    return max(model.margin, bicubic.REACH)


def _trim(windows: Windows, cut: int) -> Windows:
    """Return a view without `cut` samples on each side."""
    return windows[:, :, cut : windows.shape[2] - cut, cut : windows.shape[3] - cut]
