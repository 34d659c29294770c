"""PNG, JPEG, WebP, BMP, AVIF and JPEG XL: the whole image is in memory."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, OutputError
from ...image.info import SAMPLE_TYPES, ImageInfo, Layout, Metadata
from ..in_memory import ArraySource
from ..metadata import exif, xmp
from ..metadata.header import DamagedError
from . import bmp, jpeg, libraries, png
from .formats import AVIF, BMP, FORMATS, PNG, Format, recognise
from .integrity import MAX_PIXELS, check_declared, declared

__all__ = [
    "CODED_SUFFIXES",
    "FORMATS",
    "MAX_PIXELS",
    "Format",
    "check_coded",
    "encode",
    "read_coded",
    "recognise",
]

CODED_SUFFIXES = tuple(FORMATS)
_SRGB = b"\1\x0d"  # primaries and transfer in a cICP chunk
_EXIF_DATE = re.compile(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")
_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d:\d\d:\d\d)")


def read_coded(path: Path, format_: Format, max_pixels: int = MAX_PIXELS) -> ArraySource:
    """Decode a whole image: RGB order, upright, palettes expanded, ink as sRGB.

    Parameters
    ----------
    path : the file
    format_ : as recognised by its first bytes
    max_pixels : refuse more, before anything is decoded

    Raises
    ------
    ImageError
        If the file is truncated, damaged, animated or too large.
    """
    size = path.stat().st_size
    try:
        # Of a file that is too large for memory only the beginning is read.
        said = declared(path, format_)
    except ImageError:
        if format_.truncated(path.read_bytes()):
            raise ImageError(f"{path}: truncated or damaged {format_.name}, {size} bytes") from None
        raise
    check_declared(path, format_, said, size, 0, max_pixels)
    data = path.read_bytes()
    if format_.truncated(data):
        raise ImageError(f"{path}: truncated {format_.name}, {len(data)} bytes")
    check_declared(path, format_, said, len(data), format_.min_bytes(data), max_pixels)
    if format_.animated(data):
        raise ImageError(f"{path}: an animated {format_.name}; only images of one frame are read")
    found = format_.read(data)
    try:
        array, icc = libraries.decode(data, format_, found.icc)
    except DamagedError as error:
        raise ImageError(f"{path}: damaged {format_.name}: {error}") from error
    if array.dtype.name not in SAMPLE_TYPES:
        raise ImageError(f"{path}: samples must be {', '.join(SAMPLE_TYPES)}, got {array.dtype}")
    turned = found.orientation or exif.orientation(found.exif)
    image = exif.turn(array, turned)
    upright = exif.upright(found.exif, turned)
    dpi = found.dpi and (found.dpi[::-1] if turned >= 5 else found.dpi)
    metadata = Metadata(
        icc=icc,
        exif=upright,
        xmp=xmp.upright(found.xmp, turned),
        dpi=dpi or exif.dpi(upright),
        texts={**exif.texts(upright), **found.texts},
        raster={"color": found.color} if found.color and icc == found.icc else {},
    )
    shape = image.shape[0], image.shape[1]
    # The others' samples are spread over their type by `samples.decode`, as their formats mean them.
    top = png.top(found.color.get("sBIT", b""), image) if format_ is PNG else None
    return ArraySource(image, ImageInfo(shape, Layout.of(image.shape[2]), image.dtype, metadata, top=top))


def check_coded(path: Path, format_: Format, info: ImageInfo, quality: int | None = None) -> None:
    """Refuse, before any work, a result that the format cannot hold.

    Parameters
    ----------
    path : the final name
    format_ : that its suffix asks for
    info : of the result
    quality : 1 to 100, None for the format's default

    Raises
    ------
    OutputError
        Naming the file and the limit.
    """
    layout, name, (h, w) = info.layout, format_.name, info.shape
    if info.nodata is not None or info.masked:
        kept = "a mask" if info.masked else "a nodata value"
        raise OutputError(f"{path}: {name} does not hold {kept}; write a TIFF instead")
    if layout.color not in ("gray", "rgb"):
        raise OutputError(f"{path}: {name} holds gray or RGB, got {layout}; write a TIFF instead")
    depths = (1, 2) if name == "AVIF" and quality is not None else format_.depths
    if info.dtype.kind != "u" or info.dtype.itemsize not in depths:
        names = " or ".join(f"uint{8 * size}" for size in format_.depths)
        more = " (12 bits with a quality)" if name == "AVIF" and info.dtype == np.uint16 else ""
        others = "TIFF or Zarr" if info.dtype.kind != "u" or info.dtype.itemsize > 2 else "TIFF, Zarr or PNG"
        raise OutputError(
            f"{path}: {name} holds {names} samples{more}, got {info.dtype}; write a {others} instead"
        )
    if layout.alpha and not format_.alpha:
        raise OutputError(f"{path}: {name} holds no alpha; write a PNG, WebP or TIFF instead")
    if max(h, w) > format_.max_side:
        raise OutputError(f"{path}: {name} sides are at most {format_.max_side} pixels, got {w} x {h}")
    if h * w > format_.max_pixels:
        raise OutputError(f"{path}: {name} images have at most {format_.max_pixels} pixels, got {w} x {h}")
    if format_ is BMP and h * (w + 4) * layout.channels > bmp.MAX_SIDE:
        raise OutputError(
            f"{path}: BMP files have at most {bmp.MAX_SIDE} bytes, too few for {w} x {h} pixels"
        )
    if quality is not None and not format_.lossy:
        raise OutputError(f"{path}: {name} is lossless and takes no quality, got {quality}")
    if quality is not None and not 1 <= quality <= 100:
        raise OutputError(f"{path}: quality is 1 to 100, got {quality}")
    _warn_of_losses(path, format_, info.metadata)


def encode(
    array: NDArray[Any],
    format_: Format,
    info: ImageInfo,
    scale: int,
    quality: int | None,
    path: Path,
) -> bytes:
    """Encode a whole image with what its metadata become at the new scale.

    Parameters
    ----------
    array : (H, W, C), of ``info.dtype``; any array, also one that lies in a file
    format_ : to write
    info : of `array`; its metadata are those of the image before
    scale : pixels of `array` a pixel of the image before
    quality : 1 to 100; None for lossless, and 95 for JPEG
    path : for messages

    Raises
    ------
    OutputError
        If the library refuses.
    """
    h, w = info.shape
    metadata = outgoing(info.metadata, format_, scale, (w, h), info.layout.color)
    try:
        return libraries.encode(array, format_, metadata, quality, info.top)
    except DamagedError as error:
        raise OutputError(f"{path}: {format_.name} does not encode: {error}") from error


def outgoing(metadata: Metadata, format_: Format, scale: int, size: tuple[int, int], color: str) -> Metadata:
    """Return the metadata of the image `scale` times larger, as `format_` holds them.

    Parameters
    ----------
    metadata : of the image before
    format_ : to write; what it has no place for goes into EXIF
    scale : how many times larger
    size : (width, height) of the result
    color : "gray" or "rgb"
    """
    x, y = metadata.dpi or (0.0, 0.0)
    dpi = (x * scale, y * scale) if x > 0 and y > 0 else None
    block = exif.scaled(metadata.exif, scale, size)
    texts = dict(metadata.texts)
    if format_.exif and not format_.texts:
        tagged, comment = _for_exif(texts, exif.texts(block))
        if format_.density:  # JPEG has comments of its own too
            more = exif.completed(block, tagged)
            if more is not None and len(more) > jpeg.MAX_EXIF:  # a segment would not hold it
                comment = "\n".join(f"{key}: {text}" for key, text in texts.items())
            else:
                block = more
            texts = {"Comment": comment} if comment else {}
        else:
            block = exif.completed(block, tagged, dpi, comment)
    # In formats without gray the samples are RGB, and a profile of gray would be one of nothing.
    stored = "rgb" if format_.name == "WebP" else color
    icc = metadata.icc
    if icc is not None and icc[16:20] != (b"GRAY" if stored == "gray" else b"RGB "):
        warnings.warn(
            f"{format_.name} holds this image as {stored}, which its color profile"
            f" ({icc[16:20].decode('latin-1').strip()}) does not describe; it is left out",
            RuntimeWarning,
            stacklevel=2,
        )
        icc = None
    return replace(
        metadata, icc=icc, exif=block, xmp=xmp.scaled(metadata.xmp, scale, size), dpi=dpi, texts=texts
    )


def _for_exif(texts: Mapping[str, str], said: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Split texts into those that EXIF has tags for, and one comment that holds the others.

    The tags in which `said` says something else already count as taken.
    """
    tagged: dict[str, str] = {}
    rest: list[str] = []
    for key, text in texts.items():
        value = _exif_date(text) if key == "Creation Time" else text
        if key == "Comment":
            rest.insert(0, text)
        elif key in exif.TEXT_TAGS and value and said.get(key, value) == value:
            tagged[key] = value
        else:
            rest.append(f"{key}: {text}")
    return tagged, "\n".join(rest)


def _exif_date(text: str) -> str | None:
    """Return a date as EXIF writes it, from that, ISO 8601 or RFC 1123 (which PNG recommends)."""
    if _EXIF_DATE.fullmatch(text):
        return text
    if found := _ISO_DATE.match(text):
        return f"{found[1]}:{found[2]}:{found[3]} {found[4]}"
    date = parsedate(text)
    return "{:04}:{:02}:{:02} {:02}:{:02}:{:02}".format(*date[:6]) if date else None


def _warn_of_losses(path: Path, format_: Format, metadata: Metadata) -> None:
    """Say what the format has no place for."""
    lost = []
    if metadata.raster.get("crs"):
        lost.append("the georeference")
    if not format_.exif:
        lost += [name for name, item in (("EXIF", metadata.exif), ("XMP", metadata.xmp)) if item]
        lost += ["texts"] if metadata.texts else []
    color = metadata.raster.get("color", {})
    if format_ is not PNG and not metadata.icc:
        if color.get("cICP", _SRGB)[:2] != _SRGB:
            lost += ["its color primaries and transfer (cICP)"] if format_ is not AVIF else []
        elif not _near_srgb(color):
            lost.append("its color primaries (cHRM)")
    for item in lost:
        warnings.warn(f"{path}: {format_.name} does not keep {item}", RuntimeWarning, stacklevel=3)


def _near_srgb(color: Mapping[str, bytes]) -> bool:
    """Return whether primaries and gamma are sRGB's, which is what they are without a word."""
    if "sRGB" in color or "cHRM" not in color:
        return True
    srgb = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    chrm = [int.from_bytes(color["cHRM"][k : k + 4], "big") for k in range(0, 32, 4)]
    gamma = int.from_bytes(color.get("gAMA", (45455).to_bytes(4, "big")), "big")
    return all(abs(a - b) < 200 for a, b in zip(chrm, srgb, strict=True)) and abs(gamma - 45455) < 500
