"""What a picture is, apart from its samples: size, layout, sample type, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from .errors import ArgumentError

SAMPLE_TYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64",
)  # fmt: skip
Color = Literal["gray", "rgb", "bands"]
_USUAL: dict[int, tuple[Color, bool]] = {
    1: ("gray", False),
    2: ("gray", True),
    3: ("rgb", False),
    4: ("rgb", True),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What the channels mean: ``color`` channels first, alpha (not premultiplied) last.

    ``"bands"`` are channels without a common meaning (multispectral); each is upscaled
    on its own.
    """

    color: Color
    channels: int
    alpha: bool = False

    @classmethod
    def of(cls, channels: int, *, bands: bool = False) -> Self:
        """Return the usual meaning of a channel count: gray, gray+alpha, RGB, RGBA, bands."""
        if channels < 1:
            raise ArgumentError(f"a picture has at least one channel, got {channels}")
        if bands or channels not in _USUAL:
            return cls("bands", channels)
        color, alpha = _USUAL[channels]
        return cls(color, channels, alpha)

    def __str__(self) -> str:
        name = f"{self.channels} bands" if self.color == "bands" else self.color
        return f"{name} + alpha" if self.alpha else name


@dataclass(frozen=True, slots=True)
class Metadata:
    """What travels with the samples. Readers fill what they find, writers keep what they can.

    Attributes
    ----------
    icc, exif, xmp : raw bytes; EXIF orientation is applied by the reader and reset to 1
    dpi : (x, y) pixels an inch; writers multiply it by the scale, so that prints keep their size
    texts : what people wrote, by PNG's keywords: Title, Author, Description, Copyright, Creation Time,
        Software, Comment …
    raster : GeoTIFF items by rasterio's names: crs, transform, nodata, tags, descriptions,
        colorinterp
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    raster: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """A picture without its samples.

    Attributes
    ----------
    shape : (H, W)
    layout : what the channels mean
    dtype : one of `SAMPLE_TYPES`, in native byte order
    metadata : what travels along
    nodata : samples of this value are not data (NaN and infinity never are); None if all are
    masked : whether the picture has a mask beside its samples that says which are data
    top : the largest value that the file declares for its integers, where that is less than their type's
    """

    shape: tuple[int, int]
    layout: Layout
    dtype: np.dtype[Any]
    metadata: Metadata = field(default_factory=Metadata)
    nodata: float | None = None
    masked: bool = False
    top: float | None = None

    def scaled(self, scale: int) -> Self:
        """Return the info of the picture `scale` times larger (metadata as they are)."""
        return replace(self, shape=(self.shape[0] * scale, self.shape[1] * scale))
