"""What users may set, validated once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypedDict

from ._system.cpu import available_threads
from .errors import ArgumentError
from .image.info import Nodata
from .tiling.geometry import MIN_TILE

PROVIDERS = ("auto", "cpu", "cuda", "native", "openvino")
PRECISIONS = ("exact", "fast")
TIFF_COMPRESSIONS = ("deflate", "zstd", "lzw", "none")

Range = str | tuple[float, float]


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

    provider: str
    precision: str
    tile: int | Literal["auto"] | None
    threads: int
    devices: tuple[int, ...]
    gpu_memory: int | None

    @classmethod
    def of(
        cls,
        provider: str,
        precision: str,
        tile: int | Literal["auto"] | None,
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
        for name, value, known in (("provider", provider, PROVIDERS), ("precision", precision, PRECISIONS)):
            if value not in known:
                raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if threads is not None and threads < 1:
            raise ArgumentError(f"threads must be at least 1, got {threads}")
        if tile is not None and tile != "auto":
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

    compress: str = "deflate"
    cog: bool = False
    quality: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.compress not in TIFF_COMPRESSIONS:
            raise ArgumentError(
                f"compress must be one of {', '.join(TIFF_COMPRESSIONS)}, got {self.compress!r}"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ArgumentError(f"quality must be from 1 to 100, got {self.quality}")


class ArrayOptions(TypedDict, total=False):
    """Keyword arguments of `Engine.upscale` and `Engine.upscale_into`: how samples are interpreted.

    Attributes
    ----------
    bands : bool
        Upscale each channel on its own, whatever C is.
    alpha : bool, optional
        Whether the last channel is alpha, also beside bands. By default C decides, and with `bands` it is
        not. Alpha is enlarged by bicubic interpolation, without the network.
    nodata : float, optional
        Samples of this value are nodata; in RGB, pixels whose three samples are. They do not enter the
        network, and each is copied to s × s pixels. NaN, infinity and floats from 2¹²⁰ on always are.
    classes : bool
        Samples are category numbers, of any integer type: each is copied to s × s pixels, without the
        network.
    """

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
    compress: str
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
    except ValueError:
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
