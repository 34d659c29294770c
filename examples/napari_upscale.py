"""Upscale the selected image layer of napari into a new layer at the same place.

    pip install "srcnn-rt[cpu]" "napari[all]"
    python examples/napari_upscale.py IMAGE

The last two axes, before colours, are rows and columns. Every other index is upscaled on its own.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from srcnn_rt import Engine

LayerData = tuple[np.ndarray, dict[str, Any], str]


def upscaled_layer(engine: Engine, layer: LayerData) -> LayerData:
    """Return the layer data of an enlarged image layer.

    `layer` is what ``Layer.as_layer_data_tuple()`` gives. napari places the centres of pixels at whole
    numbers, so the first of the smaller pixels lies outside of the first centre.
    """
    data, described, kind = layer
    if kind != "image":
        raise ValueError(f"an image layer is needed, got {kind}")
    data = np.asarray(data)
    colours = bool(described.get("rgb"))
    axes = data.ndim - colours
    images = data.reshape(-1, *data.shape[axes - 2 :])
    made = np.stack([engine.upscale(image) for image in images])
    made = made.reshape(*data.shape[: axes - 2], *made.shape[1:])

    scale = np.array(described.get("scale", np.ones(axes)), float)
    translate = np.array(described.get("translate", np.zeros(axes)), float)
    translate[-2:] += scale[-2:] * (1 / engine.scale - 1) / 2
    scale[-2:] /= engine.scale
    kept = {k: described[k] for k in ("rgb", "colormap", "contrast_limits", "units") if k in described}
    name = f"{described.get('name', 'image')} x{engine.scale}"
    return made, {**kept, "name": name, "scale": scale, "translate": translate}, kind


def main() -> None:
    import napari
    from magicgui import magicgui

    viewer = napari.Viewer()
    viewer.open(sys.argv[1])

    @magicgui(call_button="Upscale", model={"choices": ["srcnn-915-x2", "srcnn-915-x3", "compact-m10c32-x4"]})
    def upscale(layer: napari.layers.Image, model: str = "srcnn-915-x2") -> napari.types.LayerDataTuple:
        with Engine(model) as engine:
            return upscaled_layer(engine, layer.as_layer_data_tuple())

    viewer.window.add_dock_widget(upscale, name="srcnn-rt")
    napari.run()


if __name__ == "__main__":
    main()
