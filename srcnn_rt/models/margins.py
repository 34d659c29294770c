"""What a model and a layout of image ask of windows: which steps, how many pixels around a tile.

From the outside of a window to its tile::

    ├─ blur ─┤  colour is looked for under an alpha
             ├─ spare ─┤  bicubic reads beyond what the network reads
                       ├─ lead ─┤  the network reads; none if it pads
                                ├── tile ──
"""

from __future__ import annotations

from ..errors import ImageError
from ..image import bicubic
from ..image.info import Layout
from ..tiling.geometry import Rules
from .spec import ModelSpec


def margin_for(model: ModelSpec, layout: Layout) -> int:
    """Return the LR margin that images of a layout need with a model."""
    if layout.color == "classes":
        return 0
    around = lead(model) + spare(model, layout)
    return around + blur(model) if has_plain_alpha(model, layout) else around


def check_layout(model: ModelSpec, layout: Layout) -> None:
    """Refuse images whose channels a model has no use for.

    Raises
    ------
    ImageError
        Naming both.
    """
    if layout.color == "classes" or model.channels == 1:
        return  # classes go through no model
    if layout.color == "bands" and layout.alpha:
        if model.channels == layout.colors:
            return
    elif model.channels == layout.channels:
        return
    if model.channels == 3:
        if layout.color == "bands":
            raise ImageError(f"a colour model takes gray or RGB images, got {layout}")
        return
    raise ImageError(f"{model.name} takes images of {model.channels} channels, got {layout}")


def rules_for(model: ModelSpec, layout: Layout | None = None) -> tuple[Rules, Rules]:
    """Return what a model asks of its windows on either axis: of classes nothing."""
    if layout is not None and layout.color == "classes":
        return Rules(), Rules()
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


def lead(model: ModelSpec) -> int:
    """Return the margin around a tile that the network itself reads: none if it pads."""
    return 0 if model.padded else model.margin


def spare(model: ModelSpec, layout: Layout) -> int:
    """Return what bicubic reads beyond that, where the image wants bicubic too."""
    plain = has_plain_alpha(model, layout) or recolors(model, layout) or model.adds_bicubic
    return max(0, bicubic.RADIUS - lead(model)) if plain else 0


def blur(model: ModelSpec) -> int:
    """Return how far colour is looked for under an alpha: as far as the network sees."""
    return max(model.margin, bicubic.RADIUS)


def has_plain_alpha(model: ModelSpec, layout: Layout) -> bool:
    """Return whether there is an alpha that is not one of the model's own channels.

    Beside bands it never is: a model of as many channels was made for bands.
    """
    return layout.alpha and (layout.color == "bands" or model.channels != layout.channels)


def recolors(model: ModelSpec, layout: Layout) -> bool:
    """Return whether only the luminance of RGB goes through the network."""
    return layout.color == "rgb" and model.channels == 1
