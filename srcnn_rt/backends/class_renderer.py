"""Nearest-neighbour enlargement of class rasters: each pixel becomes s x s copies, without a network."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..tiling.geometry import Tile


class NearestRenderer:
    """A `base.Renderer` that repeats pixels; samples may be of any type.

    Parameters
    ----------
    scale : int
    batch : int
        Largest number of tiles per call of `render`.
    """

    def __init__(self, scale: int, batch: int) -> None:
        self._scale, self.batch = scale, batch

    def render(
        self,
        batch: tuple[Tile, ...],
        part: NDArray[Any],
        at: tuple[int, int],
        out: NDArray[Any],
        origin: tuple[int, int],
    ) -> None:
        """Fill the cores of `batch`; see `base.Renderer.render`."""
        s = self._scale
        for tile in batch:
            read, write = (
                tuple(
                    slice((axis.core.start - start) * by, (axis.core.stop - start) * by)
                    for axis, start in zip((tile.y, tile.x), corner, strict=True)
                )
                for corner, by in ((at, 1), (origin, s))
            )
            core, place = part[read], out[write]
            for k in range(s * s):
                place[k // s :: s, k % s :: s] = core

    def close(self) -> None:
        """Do nothing; there are no buffers."""
