"""PNG, JPEG, WebP and BMP by OpenCV: the whole picture is in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError, PictureError
from ..picture import Layout, Metadata, PictureInfo
from . import exif, integrity
from .memory import ArraySource

JPEG_QUALITY = 95  # with full-resolution chroma: the next editor should see no blocks


@dataclass(frozen=True, slots=True)
class Format:
    """What one coded format holds, and how OpenCV is asked to write it."""

    name: str
    signature: bytes
    truncated: Callable[[bytes], bool]
    animated: Callable[[bytes], bool]
    depths: tuple[type, ...]
    alpha: bool
    max_side: int
    options: Sequence[int] = ()


PNG = Format(
    "PNG",
    b"\x89PNG\r\n\x1a\n",
    integrity.truncated_png,
    integrity.animated_png,
    (np.uint8, np.uint16),
    True,
    2**31 - 1,
)
JPEG = Format(
    "JPEG",
    b"\xff\xd8\xff",
    integrity.truncated_jpeg,
    integrity.never_animated,
    (np.uint8,),
    False,
    65_535,
    (
        cv2.IMWRITE_JPEG_QUALITY,
        JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ),
)
# A quality above 100 is WebP's lossless mode.
WEBP = Format(
    "WebP",
    b"RIFF",
    integrity.truncated_webp,
    integrity.animated_webp,
    (np.uint8,),
    True,
    16_383,
    (cv2.IMWRITE_WEBP_QUALITY, 101),
)
BMP = Format("BMP", b"BM", integrity.truncated_bmp, integrity.never_animated, (np.uint8,), False, 2**31 - 1)
FORMATS = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".bmp": BMP}


def recognise(head: bytes) -> Format | None:
    """Return the coded format a file's first 16 bytes announce, whatever its name is."""
    for format_ in (PNG, JPEG, BMP):
        if head.startswith(format_.signature):
            return format_
    return WEBP if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


MAX_PIXELS = 2**30


def read_coded(path: Path, format_: Format, max_pixels: int = MAX_PIXELS) -> ArraySource:
    """Decode a whole picture: RGB order, EXIF orientation applied, palette expanded.

    Raises
    ------
    PictureError
        If the file is truncated or does not decode.
    """
    data = path.read_bytes()
    if format_.truncated(data):
        raise PictureError(f"{path}: truncated {format_.name}, {len(data)} bytes")
    if format_.animated(data):
        raise PictureError(f"{path}: an animated {format_.name}; only pictures of one frame are read")
    try:
        array, kinds, blobs = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8), flags=cv2.IMREAD_UNCHANGED
        )
    except cv2.error as error:
        raise PictureError(f"{path}: damaged {format_.name}: {error.err}") from error
    if array is None:
        raise PictureError(f"{path}: damaged {format_.name}, it does not decode")
    if array.dtype not in (np.uint8, np.uint16):
        raise PictureError(f"{path}: samples must be uint8 or uint16, got {array.dtype}")
    found = {int(k): bytes(np.asarray(b)) for k, b in zip(kinds, blobs, strict=True)}
    tags = found.get(cv2.IMAGE_METADATA_EXIF)
    picture = exif.turn(_swap(array.reshape(*array.shape[:2], -1)), exif.orientation(tags))
    metadata = Metadata(
        icc=found.get(cv2.IMAGE_METADATA_ICCP), exif=exif.upright(tags), xmp=found.get(cv2.IMAGE_METADATA_XMP)
    )
    info = PictureInfo(
        (picture.shape[0], picture.shape[1]), Layout.of(picture.shape[2]), picture.dtype, metadata
    )
    return ArraySource(picture, info)


def encode(
    array: NDArray[Any], format_: Format, info: PictureInfo, scale: int, quality: int | None, path: Path
) -> Any:
    """Encode a picture."""
    kinds = {
        cv2.IMAGE_METADATA_EXIF: info.metadata.exif,
        cv2.IMAGE_METADATA_XMP: info.metadata.xmp,
        cv2.IMAGE_METADATA_ICCP: info.metadata.icc,
    }
    blobs = {k: np.frombuffer(v, np.uint8) for k, v in kinds.items() if v}
    suffix = next(s for s, f in FORMATS.items() if f is format_)
    try:
        done, coded = cv2.imencodeWithMetadata(
            suffix, np.ascontiguousarray(_swap(array)), list(blobs), list(blobs.values()), format_.options
        )
    except cv2.error as error:
        raise OutputError(f"{path}: {format_.name} does not encode: {error.err}") from error
    if not done:
        raise OutputError(f"{path}: {format_.name} does not encode")
    return coded.data


def check_coded(path: Path, format_: Format, info: PictureInfo, quality: int | None) -> None:
    """Refuse, before any work, a result that the format cannot hold.

    Raises
    ------
    OutputError
        Naming the file and the limit.
    """
    layout = info.layout
    if layout.color == "bands":
        raise OutputError(f"{path}: {format_.name} holds gray or RGB, got {layout}; write a TIFF instead")
    if info.dtype not in [np.dtype(d) for d in format_.depths]:
        names = " or ".join(np.dtype(d).name for d in format_.depths)
        raise OutputError(f"{path}: {format_.name} holds {names} samples, got {info.dtype}")
    if layout.alpha and not format_.alpha:
        raise OutputError(f"{path}: {format_.name} holds no alpha; write a PNG, WebP or TIFF instead")
    if max(info.shape) > format_.max_side:
        h, w = info.shape
        raise OutputError(
            f"{path}: {format_.name} sides are at most {format_.max_side} pixels, got {w} x {h}"
        )
    if info.metadata.raster.get("crs"):
        warnings.warn(f"{path}: {format_.name} does not keep the georeference", RuntimeWarning, stacklevel=2)


def _swap(array: NDArray[Any]) -> NDArray[Any]:
    """Turn OpenCV's BGR(A) into RGB(A) or back, as a view where that is enough."""
    channels = array.shape[2]
    if channels == 3:
        return array[..., ::-1]
    if channels == 4:
        return array[..., [2, 1, 0, 3]]
    if channels == 2:  # gray + alpha has no OpenCV form of its own
        return array[..., [0, 0, 0, 1]]
    return array
