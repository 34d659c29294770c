"""Reading and writing PNG, JPEG, WebP, BMP, AVIF and JPEG XL, which are in memory as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, OutputError
from ...image.info import SAMPLE_TYPES, ImageInfo, Layout, Metadata
from ..foreign_errors import foreign_errors
from ..in_memory import ArraySource
from ..metadata import exif, xmp
from . import bmp, jpeg, jxl, libraries, png
from .formats import AVIF, BMP, FORMATS, JPEG, JXL, PNG, Format, recognise
from .integrity import MAX_PIXELS, checked_bytes

__all__ = ["FORMATS", "check_coded", "encode", "read_coded", "recognise"]

_SRGB = b"\1\x0d"  # primaries and transfer of sRGB in a cICP chunk


def read_coded(path: Path, format_: Format, max_pixels: int = MAX_PIXELS) -> ArraySource:
    """Decode an image: upright, in RGB order, with palettes expanded and CMYK converted to sRGB.

    Parameters
    ----------
    path : Path
        The file.
    format_ : Format
        Its format.
    max_pixels : int
        Refuse larger images, before they are decoded.

    Raises
    ------
    ImageError
        If the file is truncated, damaged, animated or too large.
    """
    data = checked_bytes(path, format_, max_pixels)
    found = format_.read(data)
    with foreign_errors(ImageError, f"{path}: damaged {format_.name}"):
        array, icc = libraries.decode(data, format_, found.icc)
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
        color=found.color if icc == found.icc else {},
    )
    shape = image.shape[0], image.shape[1]
    # In other formats, samples of fewer bits are scaled to the full range by `libraries.decode`.
    top = png.top(found.color.get("sBIT", b""), image) if format_ is PNG else None
    return ArraySource(image, ImageInfo(shape, Layout.of(image.shape[2]), image.dtype, metadata, top=top))


def check_coded(path: Path, format_: Format, info: ImageInfo, quality: int | None = None) -> None:
    """Refuse, before any work, a result that the format cannot hold, and warn of metadata that it loses.

    Parameters
    ----------
    path : Path
        Name of the result.
    format_ : Format
        Its format.
    info : ImageInfo
        Its description.
    quality : int, optional
        1 to 100; None for the default of the format.

    Raises
    ------
    OutputError
        Naming the file and the limit.
    RuntimeMissingError
        If the profile needs a library that is not installed.
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
    if format_ is JXL and info.metadata.icc:
        jxl.profile_library()
    if format_ is BMP and h * (w + 4) * layout.channels > bmp.MAX_BYTES:
        raise OutputError(
            f"{path}: BMP files have at most {bmp.MAX_BYTES} bytes, too few for {w} x {h} pixels"
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
    """Encode an image, with the metadata of its source updated for the new resolution.

    Parameters
    ----------
    array : ndarray, shape (H, W, C)
        Samples of ``info.dtype``, with any strides; may be memory-mapped.
    format_ : Format
        Format to write.
    info : ImageInfo
        Description of `array`, with the metadata of the source.
    scale : int
        Scale factor.
    quality : int, optional
        1 to 100. None means 95 for JPEG, and lossless for the others.
    path : Path
        Name of the result in messages.

    Raises
    ------
    OutputError
        If the library cannot encode it.
    """
    h, w = info.shape
    metadata = outgoing(info.metadata, format_, scale, (w, h), info.layout.color)
    with foreign_errors(OutputError, f"{path}: cannot be encoded as {format_.name}"):
        return libraries.encode(array, format_, metadata, quality, info.top)


def outgoing(metadata: Metadata, format_: Format, scale: int, size: tuple[int, int], color: str) -> Metadata:
    """Return the metadata of a result in the form that its format can hold.

    Parameters
    ----------
    metadata : Metadata
        Metadata of the source.
    format_ : Format
        Format to write. Texts and the print resolution go into EXIF if it has no fields for them.
    scale : int
        Scale factor.
    size : tuple of (int, int)
        Width and height of the result.
    color : {"gray", "rgb"}
        Colors of the result.
    """
    x, y = metadata.dpi or (0.0, 0.0)
    dpi = (x * scale, y * scale) if x > 0 and y > 0 else None
    block = exif.scaled(metadata.exif, scale, size)
    texts = dict(metadata.texts)
    if format_ not in (PNG, BMP):  # PNG has its own texts, BMP has none
        tagged, comment = _for_exif(texts, exif.texts(block))
        if format_ is JPEG:  # it has its own print resolution and comments
            more = exif.completed(block, tagged)
            if more is not None and len(more) > jpeg.MAX_EXIF:  # too long for a segment
                comment = "\n".join(f"{key}: {text}" for key, text in texts.items())
            else:
                block = more
            texts = {"Comment": comment} if comment else {}
        else:
            block = exif.completed(block, tagged, dpi, comment)
    # WebP has no gray, so a gray profile does not describe its samples.
    stored = "rgb" if format_.name == "WebP" else color
    icc = metadata.icc
    if icc is not None and icc[16:20] != (b"GRAY" if stored == "gray" else b"RGB "):
        warnings.warn(
            f"{format_.name} holds this image as {stored}, which its color profile"
            f" ({icc[16:20].decode('latin-1').strip()}) does not describe; the profile is left out",
            RuntimeWarning,
            stacklevel=2,
        )
        icc = None
    return replace(
        metadata, icc=icc, exif=block, xmp=xmp.scaled(metadata.xmp, scale, size), dpi=dpi, texts=texts
    )


def _for_exif(texts: Mapping[str, str], said: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Split texts into those with an EXIF tag, and one comment of all others.

    Texts that contradict `said`, the texts of the EXIF block, go into the comment too.
    """
    tagged: dict[str, str] = {}
    rest: list[str] = []
    for key, text in texts.items():
        value = exif.date(text) if key == "Creation Time" else text
        if key == "Comment":
            rest.insert(0, text)
        elif key in exif.TEXT_TAGS and value and said.get(key, value) == value:
            tagged[key] = value
        else:
            rest.append(f"{key}: {text}")
    return tagged, "\n".join(rest)


def _warn_of_losses(path: Path, format_: Format, metadata: Metadata) -> None:
    """Warn of metadata that the format cannot hold."""
    lost = []
    if metadata.georeference.crs:
        lost.append("the georeference")
    if not format_.exif:
        lost += [name for name, item in (("EXIF", metadata.exif), ("XMP", metadata.xmp)) if item]
        lost += ["texts"] if metadata.texts else []
    color = metadata.color
    if format_ is not PNG and not metadata.icc:
        if color.get("cICP", _SRGB)[:2] != _SRGB:
            lost += ["its color primaries and transfer (cICP)"] if format_ is not AVIF else []
        elif not _near_srgb(color):
            lost.append("its color primaries (cHRM)")
    for item in lost:
        warnings.warn(f"{path}: {format_.name} does not keep {item}", RuntimeWarning, stacklevel=3)


def _near_srgb(color: Mapping[str, bytes]) -> bool:
    """Return whether primaries and gamma are those of sRGB, which is assumed without them."""
    if "sRGB" in color or "cHRM" not in color:
        return True
    srgb = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    chrm = [int.from_bytes(color["cHRM"][k : k + 4], "big") for k in range(0, 32, 4)]
    gamma = int.from_bytes(color.get("gAMA", (45455).to_bytes(4, "big")), "big")
    return all(abs(a - b) < 200 for a, b in zip(chrm, srgb, strict=True)) and abs(gamma - 45455) < 500
