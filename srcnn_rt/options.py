"""What users may set, validated once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypedDict, get_args

from ._system import arguments
from ._system.cpu import available_threads
from .errors import ArgumentError
from .image.info import Nodata
from .tiling.geometry import MIN_TILE

Provider = Literal["auto", "cpu", "cuda", "native", "openvino"]
Precision = Literal["exact", "fast"]
Compression = Literal["deflate", "zstd", "lzw", "none"]
ChannelOrder = Literal["rgb", "bgr"]
ArrayLayout = Literal["HWC", "CHW", "NHWC", "NCHW", "HW"]
Tile = int | Literal["auto"] | None
Range = str | tuple[float, float]

MAX_THREADS = 4096
PROVIDERS: tuple[str, ...] = get_args(Provider)
PRECISIONS: tuple[str, ...] = get_args(Precision)
ARRAY_LAYOUTS: tuple[str, ...] = get_args(ArrayLayout)
TIFF_COMPRESSIONS: tuple[str, ...] = get_args(Compression)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model runs.

    Attributes
    ----------
    provider : {"auto", "cpu", "cuda", "native", "openvino"}
    precision : {"exact", "fast"}
    tile : int, "auto" or None
        Side of a tile in LR pixels; None runs whole images.
    threads : int
        CPU threads in total.
    devices : tuple of int
        Indices of the GPUs.
    gpu_memory : int, optional
        Bytes that activations may take on each GPU; no limit if None.
    """

    provider: Provider
    precision: Precision
    tile: Tile
    threads: int
    devices: tuple[int, ...]
    gpu_memory: int | None

    @classmethod
    def of(
        cls,
        provider: Provider,
        precision: Precision,
        tile: Tile,
        threads: int | None,
        device: int | str | Sequence[int] | None,
        gpu_memory: int | str | None,
    ) -> Self:
        """Validate the arguments of `Engine`.

        Raises
        ------
        ArgumentError
            Naming the option, the rule and the value.
        """
        arguments.texts(provider=provider, precision=precision)
        arguments.integers(threads=threads, optional=True)
        for name, value, known in (("provider", provider, PROVIDERS), ("precision", precision, PRECISIONS)):
            if value not in known:
                raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be at least 1, got {threads}")
        if threads is not None and threads > MAX_THREADS:
            raise ArgumentError(f"threads must be at most {MAX_THREADS}, got {threads}")
        if tile is not None and not (isinstance(tile, str) and tile == "auto"):
            if isinstance(tile, bool) or not isinstance(tile, int):
                raise ArgumentError(
                    f"tile must be an integer number of LR pixels, 'auto' or None, got {tile!r}"
                )
            if tile < MIN_TILE:
                raise ArgumentError(f"tile must be at least {MIN_TILE} LR pixels, got {tile}")
        devices = (0,) if device is None else parse_devices(device)
        memory = None if gpu_memory is None else parse_memory(gpu_memory)
        if device is not None:
            if provider not in ("auto", "cuda"):
                raise ArgumentError(f"device goes with provider cuda, got {provider}")
            provider = "cuda"
        return cls(provider, precision, tile, threads or available_threads(), devices, memory)


class EngineArguments(TypedDict, total=False):
    """All arguments of `Engine` but the model; see there."""

    provider: Provider
    tile: Tile
    threads: int | None
    model_range: str | None
    precision: Precision
    device: int | str | Sequence[int] | None
    gpu_memory: int | str | None
    data_range: Range
    trust: bool
    inputs: Mapping[str, float] | None
    output: str | None
    channel_order: ChannelOrder


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a result is written.

    Attributes
    ----------
    compress : {"deflate", "zstd", "lzw", "none"}
        Lossless compression of a TIFF. Every reader supports ``"deflate"``; ``"zstd"`` is written
        twice as fast.
    cog : bool
        Make a TIFF a Cloud-Optimised GeoTIFF, with overviews.
    quality : int, optional
        1 to 100, for formats that can be lossy. None means 95 for JPEG and lossless for the others.
    threads : int
        Threads that compress.

    Raises
    ------
    ArgumentError
    """

    compress: Compression = "deflate"
    cog: bool = False
    quality: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        arguments.texts(compress=self.compress)
        arguments.flags(cog=self.cog)
        arguments.integers(quality=self.quality, optional=True)
        if self.compress not in TIFF_COMPRESSIONS:
            raise ArgumentError(
                f"compress must be one of {', '.join(TIFF_COMPRESSIONS)}, got {self.compress!r}"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ArgumentError(f"quality must be from 1 to 100, got {self.quality}")


class ArrayOptions(TypedDict, total=False):
    """Keyword arguments of `Engine.upscale` and `Engine.upscale_into`: how an array is interpreted.

    Attributes
    ----------
    layout : {"HWC", "CHW", "NHWC", "NCHW", "HW"}, optional
        The axes: N images, H rows, W columns, C channels. By default named axes say it themselves (those of
        xarray, torch and Zarr, such as ``("band", "y", "x")``), and others are HW or HWC. Where that is
        unlikely, such as for the shape (3, 480, 640), it must be said.
    bands : bool
        Upscale each channel on its own, whatever C is.
    alpha : bool, optional
        Whether the last channel is alpha, also beside bands. By default C decides, with a warning if the
        channel does not look like alpha, and with `bands` it is not. Alpha is enlarged by bicubic
        interpolation, without the network.
    nodata : float, optional
        Samples of this value are nodata, which their type must be able to hold; in RGB, pixels whose three
        samples are. They do not enter the network, and each is copied to s × s pixels. So are masked samples
        of NumPy's masked arrays. NaN, infinity and floats from 2¹²⁰ on always are nodata.
    classes : bool
        Samples are category numbers, of any integer type: each is copied to s × s pixels, without the
        network.
    """

    layout: ArrayLayout | None
    bands: bool
    alpha: bool | None
    nodata: float | None
    classes: bool


class FileOptions(TypedDict, total=False):
    """Keyword arguments of `Engine.upscale_file`, `Engine.estimate` and `Engine.job`.

    Attributes
    ----------
    overwrite : bool
        Replace the target if it exists, and the partial file of an interrupted run.
    resume : bool
        Continue an interrupted run. Source, model and settings must be the same.
    page : int, optional
        Upscale only this page of a TIFF or Zarr, from 1.
    compress, cog, quality
        As in `OutputOptions`.
    max_pixels : int, optional
        Refuse larger images. By default 2³⁰ for formats that are decoded whole.
    bands : bool
        Upscale each channel on its own, whatever the file calls it.
    nodata : float, "none" or None
        Samples of this value are nodata, in place of the file's own value; ``"none"`` if all are valid.
    classes : bool
        Samples are category numbers: copy each to s × s pixels without a network.
    data_range : str or (float, float), optional
        As in `Engine`, whose range is the default.
    """

    overwrite: bool
    resume: bool
    page: int | None
    compress: Compression
    cog: bool
    quality: int | None
    max_pixels: int | None
    bands: bool
    nodata: Nodata
    classes: bool
    data_range: Range | None


def parse_devices(text: str | int | Sequence[int]) -> tuple[int, ...]:
    """Parse indices of GPUs: ``0``, ``"0,1"`` or ``(0, 1)``.

    Raises
    ------
    ArgumentError
        If one is negative, repeated or not an integer.
    """
    try:
        if isinstance(text, str):
            indices = tuple(int(word) for word in text.split(","))
        else:
            indices = (text,) if isinstance(text, int) else tuple(text)
    except (TypeError, ValueError):
        indices = ()
    valid = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in indices)
    if not indices or not valid or len(set(indices)) < len(indices):
        raise ArgumentError(f"devices must be different indices of GPUs, such as 0 or 0,1, got {text!r}")
    return indices


def parse_memory(text: str | int) -> int:
    """Parse a size in bytes: ``8000000000``, ``"8GB"``, ``"500 MB"`` or ``"7.5GiB"``.

    Raises
    ------
    ArgumentError
        If it is not a size, or not above 64 MB.
    """
    units = {"": 1, "b": 1, "mb": 10**6, "gb": 10**9, "mib": 2**20, "gib": 2**30}
    words = str(text).strip().lower()
    number = words.rstrip("bgim ")
    try:
        size = float(number) * units[words[len(number) :].strip()]
        good = math.isfinite(size) and size > 64e6
    except (ValueError, KeyError):
        good = False
    if not good:
        raise ArgumentError(f"memory must be a size above 64 MB such as 8GB, got {str(text)!r}")
    return int(size)
