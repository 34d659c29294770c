"""What an image is, apart from its samples: size, layout, sample type, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from ..errors import ArgumentError

Color = Literal["gray", "rgb", "bands", "classes"]
Nodata = float | Literal["none"] | None
SAMPLE_TYPES: tuple[str, ...] = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64",
)  # fmt: skip
"""The types of samples that are read and written, by NumPy's names.

Integers of 64 bits are none: no float holds them, and so the network could not compute with them.
"""
_USUAL: dict[int, tuple[Color, bool]] = {
    1: ("gray", False),
    2: ("gray", True),
    3: ("rgb", False),
    4: ("rgb", True),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What the channels mean: ``color`` channels first, alpha (not premultiplied) last.

    ``"bands"`` are channels without a common meaning (multispectral), or with one in another
    order; each is upscaled on its own. ``"classes"`` are numbers that name things, such as land
    cover: there is nothing between two of them, so they are copied and never blended.
    """

    color: Color
    channels: int
    alpha: bool = False

    @classmethod
    def of(
        cls, channels: int, *, bands: bool = False, alpha: bool | None = None, classes: bool = False
    ) -> Self:
        """Return the usual meaning of a channel count: gray, gray+alpha, RGB, RGBA, bands.

        Parameters
        ----------
        bands : no channel has a common meaning
        alpha : whether the last channel is alpha, beside bands too; None for what the count means, and
            with `bands` that it is not
        classes : all channels are numbers of classes
        """
        if channels < 1:
            raise ArgumentError(f"an image has at least one channel, got {channels}")
        if classes:
            return cls("classes", channels)
        if alpha and channels < 2:
            raise ArgumentError(f"alpha goes with at least one other channel, got {channels} in all")
        none: tuple[Color, bool] = ("bands", False)
        color, usual = none if bands else _USUAL.get(channels, none)
        if alpha is None or alpha == usual:
            return cls(color, channels, usual)
        color, more = none if bands else _USUAL.get(channels - alpha, none)
        return cls("bands" if more else color, channels, alpha)  # two channels or four are bands beside it

    @property
    def colors(self) -> int:
        """How many channels there are beside alpha."""
        return self.channels - self.alpha

    def __str__(self) -> str:
        if self.color == "classes":
            return "classes" if self.channels == 1 else f"{self.channels} channels of classes"
        name = f"{self.colors} bands" if self.color == "bands" else self.color
        return f"{name} + alpha" if self.alpha else name


@dataclass(frozen=True, slots=True)
class Reading:
    """What the samples of a file are taken for, where somebody knows better than the file.

    Attributes
    ----------
    bands : every channel is a band, whatever it is called
    nodata : samples of this value are no data, ``"none"`` for no value at all; None for the file's own
    classes : samples are numbers of classes, enlarged by copying
    """

    bands: bool = False
    nodata: Nodata = None
    classes: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.nodata, np.generic):  # a number of NumPy's
            object.__setattr__(self, "nodata", self.nodata.item())
        value = self.nodata
        if isinstance(value, bool) or not (
            value is None or value == "none" or isinstance(value, int | float)
        ):
            raise ArgumentError(f"nodata must be a number, 'none' or None, got {value!r}")

    def meaning(self, found: Layout) -> Layout:
        """Return what channels mean, of which a file says `found`."""
        if self.classes:
            return Layout("classes", found.channels)
        # One band is gray, which every format holds.
        return Layout("bands", found.channels) if self.bands and found.channels > 1 else found

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON has it, in which NaN would not be equal to itself, and 7.0 not to 7."""
        value = self.nodata
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
            value = int(value)
        text = value if value is None else str(value)
        return {"bands": self.bands, "nodata": text, "classes": self.classes}


AS_SAID = Reading()


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
class ImageInfo:
    """An image without its samples.

    Attributes
    ----------
    shape : (H, W)
    layout : what the channels mean
    dtype : one of ``SAMPLE_TYPES``, in native byte order
    metadata : what travels along
    nodata : samples of this value are not data (NaN and infinity never are); None if all are
    nodata_within : neither are floats so near to it, of which its text does not tell it
    masked : whether the image has a mask beside its samples that says which are data
    top : the largest value that the file declares for its integer samples, where that is less than
        their type's: 4095 of 12 bits in 16. None if it declares nothing
    """

    shape: tuple[int, int]
    layout: Layout
    dtype: np.dtype[Any]
    metadata: Metadata = field(default_factory=Metadata)
    nodata: float | None = None
    masked: bool = False
    nodata_within: float = 0.0
    top: float | None = None

    def scaled(self, scale: int) -> Self:
        """Return the info of the image `scale` times larger (metadata as they are)."""
        return replace(self, shape=(self.shape[0] * scale, self.shape[1] * scale))


def top_of_bits(bits: int, dtype: np.dtype[Any]) -> float | None:
    """Return the largest value of so many bits, the sign's among them; None where the type has no more."""
    if dtype.kind not in "iu":
        return None
    value = 2 ** (bits - (dtype.kind == "i")) - 1 if 0 < bits <= 8 * dtype.itemsize else 0
    return float(value) if 0 < value < np.iinfo(dtype).max else None


def top_of_value(value: float, dtype: np.dtype[Any]) -> float | None:
    """Return a value that files name as their largest, None where it does not tell the range of samples.

    Files name the brightest sample that they happen to hold in the same place (TIFF 6.0 calls
    MaxSampleValue a statistic). What a sensor gives at most is all ones, of eight bits or more.
    """
    if dtype.kind not in "iu" or value != int(value) or not 255 <= value < np.iinfo(dtype).max:
        return None
    return float(value) if (int(value) + 1).bit_count() == 1 else None
