"""Everything about an image except its samples: size, channel layout, sample type and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from .._system import arguments
from ..errors import ArgumentError

if TYPE_CHECKING:  # rasterio is slow to import, and only GeoTIFFs need it
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.rpc import RPC
    from rasterio.transform import Affine

Color = Literal["gray", "rgb", "bands", "classes"]
Nodata = float | Literal["none"] | None
SAMPLE_TYPES: tuple[str, ...] = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64",
)  # fmt: skip
"""NumPy names of the sample types that can be read and written.

64-bit integers are not supported, because the network computes in floats, which cannot hold them exactly.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Meaning of the channels: the color channels come first, a straight (not premultiplied) alpha last.

    Attributes
    ----------
    color : {"gray", "rgb", "bands", "classes"}
        ``"bands"`` are channels without a common meaning (multispectral data) or in an unusual order.
        Each band is upscaled on its own. ``"classes"`` are category numbers such as land cover. They are
        enlarged by copying, because the mean of two category numbers has no meaning.
    channels : int
        Number of channels, including alpha.
    alpha : bool
        Whether the last channel is alpha.
    """

    color: Color
    channels: int
    alpha: bool = False

    @classmethod
    def of(
        cls, channels: int, *, bands: bool = False, alpha: bool | None = None, classes: bool = False
    ) -> Self:
        """Return the usual layout for a channel count: gray, gray + alpha, RGB, RGBA, else bands.

        Parameters
        ----------
        channels : int
            Number of channels, at least 1.
        bands : bool
            Treat every channel as a band.
        alpha : bool, optional
            Whether the last channel is alpha. By default two or four channels end with alpha, unless they
            are `bands`.
        classes : bool
            Treat every channel as category numbers.
        """
        arguments.flags(bands=bands, classes=classes)
        arguments.flags(alpha=alpha, optional=True)
        if channels < 1:
            raise ArgumentError(f"an image needs at least one channel, got {channels}")
        if classes:
            return cls("classes", channels)
        if alpha and channels < 2:
            raise ArgumentError(f"alpha goes with at least one other channel, got {channels} in all")
        if alpha is None:
            alpha = not bands and channels in (2, 4)
        usual: dict[int, Color] = {} if bands else {1: "gray", 3: "rgb"}
        return cls(usual.get(channels - alpha, "bands"), channels, alpha)

    @property
    def colors(self) -> int:
        """Number of channels without alpha."""
        return self.channels - self.alpha

    def __str__(self) -> str:
        if self.color == "classes":
            return "classes" if self.channels == 1 else f"{self.channels} channels of classes"
        name = f"{self.colors} bands" if self.color == "bands" else self.color
        return f"{name} + alpha" if self.alpha else name


@dataclass(frozen=True, slots=True)
class Reading:
    """How to interpret the samples of a file where its own metadata should be overridden.

    Attributes
    ----------
    bands : bool
        Treat every channel as a band, whatever the file calls it.
    nodata : float or "none", optional
        Samples of this value are nodata; ``"none"`` ignores the file's nodata value. None uses the file's.
    classes : bool
        Samples are category numbers and are enlarged by copying.
    """

    bands: bool = False
    nodata: Nodata = None
    classes: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.nodata, np.generic):
            object.__setattr__(self, "nodata", self.nodata.item())
        value = self.nodata
        arguments.flags(bands=self.bands, classes=self.classes)
        said = isinstance(value, int | float) and not isinstance(value, bool)
        if not (said or value is None or (isinstance(value, str) and value == "none")):
            raise ArgumentError(f"nodata must be a number, 'none' or None, got {value!r}")

    def meaning(self, found: Layout) -> Layout:
        """Return the layout to use for channels that the file describes as `found`."""
        if self.classes:
            return Layout("classes", found.channels)
        # A single band is gray, which every format can store.
        return Layout("bands", found.channels) if self.bands and found.channels > 1 else found

    def facts(self) -> dict[str, Any]:
        """Return the fields as JSON values that compare equal when their meaning is equal.

        The nodata value becomes text, because NaN differs from itself and 7.0 is written unlike 7.
        """
        value = self.nodata
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
            value = int(value)
        text = value if value is None else str(value)
        return {"bands": self.bands, "nodata": text, "classes": self.classes}


AS_SAID = Reading()
"""Interpret every sample as the file describes it."""


@dataclass(frozen=True, slots=True)
class Georeference:
    """Position of an image on the ground, in rasterio's types; every field is None for a plain image.

    Attributes
    ----------
    crs : rasterio.crs.CRS, optional
        Coordinate reference system.
    transform : Affine, optional
        Maps (column, row) in pixels to coordinates in `crs`; pixel (0, 0) begins at (0, 0).
    gcps : tuple of (list of GroundControlPoint, CRS or None), optional
        Ground control points and their reference system.
    rpcs : rasterio.rpc.RPC, optional
        Rational polynomial camera model.
    """

    crs: CRS | None = None
    transform: Affine | None = None
    gcps: tuple[list[GroundControlPoint], CRS | None] | None = None
    rpcs: RPC | None = None

    def __bool__(self) -> bool:
        return any((self.crs, self.transform, self.gcps, self.rpcs))


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of an image. Readers fill in what they find, writers keep what their format can hold.

    Attributes
    ----------
    icc, exif, xmp : bytes, optional
        Raw profile, EXIF block and XMP packet. The reader applies the EXIF orientation and resets it to 1.
    dpi : tuple of (float, float), optional
        Pixels per inch in x and y. Writers multiply them by the scale, which keeps the print size.
    texts : mapping of str to str
        Texts by PNG keyword: Title, Author, Description, Copyright, Creation Time, Software, Comment etc.
    georeference : Georeference
        Position on the ground.
    color : mapping of str to bytes
        PNG color chunks by name, such as cICP, cHRM or sBIT. cICP also stands for AVIF's nclx values.
    overviews : bool
        Whether the source has overviews, which the result then gets too.
    colormap : bool
        Whether colors are assigned to the category numbers.
    private : object, optional
        Data that only one format reads and writes: `TiffMetadata` of a TIFF.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    georeference: Georeference = Georeference()
    color: Mapping[str, bytes] = field(default_factory=dict)
    overviews: bool = False
    colormap: bool = False
    private: object = None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Description of an image without its samples.

    Attributes
    ----------
    shape : tuple of (int, int)
        Height and width in pixels.
    layout : Layout
        Meaning of the channels.
    dtype : numpy.dtype
        One of `SAMPLE_TYPES`, in native byte order.
    metadata : Metadata
        Metadata of the source.
    nodata : float, optional
        Samples of this value are nodata; NaN and infinity always are. None if the image has no such value.
    nodata_within : float
        Float samples that differ from `nodata` by at most this are nodata too: the file's decimal text of
        the value cannot tell them apart.
    masked : bool
        Whether the image has a separate validity mask.
    top : float, optional
        Largest value of the integer samples where the file declares a smaller one than the type allows,
        such as 4095 for 12 bits stored in 16.
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
        """Return the info of an image `scale` times larger; the metadata are not changed."""
        return replace(self, shape=(self.shape[0] * scale, self.shape[1] * scale))


def top_of_bits(bits: int, dtype: np.dtype[Any]) -> float | None:
    """Return the largest integer of `bits` bits, sign included; None if `dtype` has no more than these."""
    if dtype.kind not in "iu":
        return None
    value = 2 ** (bits - (dtype.kind == "i")) - 1 if 0 < bits <= 8 * dtype.itemsize else 0
    return float(value) if 0 < value < np.iinfo(dtype).max else None


def top_of_value(value: float, dtype: np.dtype[Any]) -> float | None:
    """Return a declared maximum if it plausibly is the range of a sensor, else None.

    Many files declare the brightest sample that they happen to contain; TIFF 6.0 calls MaxSampleValue
    "for statistical use only". A sensor's maximum has all bits set, and at least eight of them.
    """
    if dtype.kind not in "iu" or value != int(value) or not 255 <= value < np.iinfo(dtype).max:
        return None
    return float(value) if (int(value) + 1).bit_count() == 1 else None
