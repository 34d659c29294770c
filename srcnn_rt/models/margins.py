"""Margins of a tile, and the sizes of its window, for a model and an image layout.

From the edge of a window to its tile::

    ├─ alpha_radius ─┤  colour is looked for here, to fill transparent pixels
                     ├─ bicubic_margin ─┤  bicubic reads this, beyond the network
                                        ├─ network_margin ─┤  the network reads this; 0 if it pads
                                                           ├── tile ──
"""

from __future__ import annotations

from ..errors import ImageError
from ..image import bicubic
from ..image.info import Layout
from ..tiling.geometry import Rules
from .spec import ModelSpec


def margin_for(model: ModelSpec, layout: Layout) -> int:
    """Return the margin in LR pixels of tiles of a layout."""
    if layout.color == "classes":
        return 0
    around = network_margin(model) + bicubic_margin(model, layout)
    return around + alpha_radius(model) if has_plain_alpha(model, layout) else around


def check_layout(model: ModelSpec, layout: Layout) -> None:
    """Refuse images whose channels do not fit a model.

    Raises
    ------
    ImageError
        Naming both.
    """
    if layout.color == "classes" or model.channels == 1:
        return  # classes do not go through the model
    bands = layout.color == "bands"
    if model.channels == (layout.colors if bands and layout.alpha else layout.channels):
        return
    if model.channels != 3:
        raise ImageError(f"{model.name} takes images of {model.channels} channels, got {layout}")
    if bands:
        raise ImageError(f"a colour model takes gray or RGB images, got {layout}")


def rules_for(model: ModelSpec, layout: Layout | None = None) -> tuple[Rules, Rules]:
    """Return the rules for windows on the y and the x axis. For classes there are none."""
    if layout is not None and layout.color == "classes":
        return Rules(), Rules()
    return tuple(  # type: ignore[return-value]
        Rules(
            axis.period,
            model.padded,
            model.margin + extra if model.padded else 0,
            axis.multiple,
            axis.minimum if model.padded else 1,
            axis.fixed if axis.fixed is None or model.padded else axis.fixed - 2 * model.margin,
        )
        for axis, extra in zip((model.facts.y, model.facts.x), model.extra_margin, strict=True)
    )


def network_margin(model: ModelSpec) -> int:
    """Return the margin in LR pixels of the windows of the network itself, 0 if it pads."""
    return 0 if model.padded else model.margin + max(model.extra_margin)


def bicubic_margin(model: ModelSpec, layout: Layout) -> int:
    """Return the LR pixels that bicubic reads beyond the network, 0 if the layout needs no bicubic."""
    needed = has_plain_alpha(model, layout) or recolors(model, layout) or model.adds_bicubic
    return max(0, bicubic.RADIUS - network_margin(model)) if needed else 0


def alpha_radius(model: ModelSpec) -> int:
    """Return the radius in LR pixels within which colour is looked for, to fill transparent pixels."""
    return max(model.margin, bicubic.RADIUS)


def has_plain_alpha(model: ModelSpec, layout: Layout) -> bool:
    """Return whether a layout has an alpha that is not one of the model's own channels.

    Alpha beside bands never is one, because a model of as many channels was trained on bands.
    """
    return layout.alpha and (layout.color == "bands" or model.channels != layout.channels)


def recolors(model: ModelSpec, layout: Layout) -> bool:
    """Return whether only the luminance of RGB goes through the network."""
    return layout.color == "rgb" and model.channels == 1
