"""Uses that mypy --strict and pyright refuse: every line that ends with ``# wrong``, and no other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import srcnn_rt
from srcnn_rt import Engine
from srcnn_rt.options import ArrayLayout

Engine("srcnn-915-x2", "cpu")  # wrong
Engine("srcnn-915-x2", provider="gpu")  # wrong
Engine("srcnn-915-x2", precision="half")  # wrong
Engine("srcnn-915-x2", tile="big")  # wrong
Engine("srcnn-915-x2", tiles=256)  # wrong
Engine(42)  # wrong


def uses(engine: Engine, rgb: NDArray[np.uint8]) -> None:
    engine.upscale("a.png")  # wrong
    engine.upscale(rgb, layout="CWH")  # wrong
    engine.upscale(rgb, alpha="yes")  # wrong
    engine.upscale(rgb, quality=9)  # wrong
    wider: NDArray[np.uint16] = engine.upscale(rgb)  # wrong
    engine.upscale_file("a.tif", "b.tif", compress="jpeg")  # wrong
    engine.upscale_file("a.tif", "b.tif", progress=lambda done: None)  # wrong
    engine.upscale_file("a.tif")  # wrong
    engine.job("a.tif", "b.tif", bands=3)  # wrong
    engine.stream("a.tif", slice(0, 9))  # wrong
    engine.scale = 3  # wrong
    layout: ArrayLayout = "WH"  # wrong
    print(wider, layout, srcnn_rt.Engin)  # wrong
    srcnn_rt.upscale(rgb, "srcnn-915-x2", provider="gpu")  # wrong
