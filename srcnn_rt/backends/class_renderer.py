"""Nearest-neighbour enlargement of class rasters: each pixel becomes s x s copies, without a network."""

from __future__ import annotations

from ..tiling.geometry import Tile
from .base import ChunkArrays


class NearestRenderer:
    """A `base.Renderer` that repeats pixels; samples may be of any type.

    Parameters
    ----------
    scale : int
    """

    def __init__(self, scale: int) -> None:
        self._scale = scale

    def render(self, tiles: tuple[Tile, ...], chunk: ChunkArrays) -> None:
        """Fill the cores of `tiles`; see `base.Renderer.render`."""
        s = self._scale
        for tile in tiles:
            read, write = (
                tuple(
                    slice((axis.core.start - start) * by, (axis.core.stop - start) * by)
                    for axis, start in zip((tile.y, tile.x), corner, strict=True)
                )
                for corner, by in ((chunk.at, 1), (chunk.origin, s))
            )
            core, place = chunk.samples[read], chunk.out[write]
            for k in range(s * s):
                place[k // s :: s, k % s :: s] = core

    def interrupt(self) -> None:
        """Do nothing; a window takes no time."""

    def close(self) -> None:
        """Do nothing; there are no buffers."""
