"""Decoding and encoding of samples by libraries.

imagecodecs decodes and encodes most formats: it has no limit on the number of pixels, supports gray with
alpha and 16 bits, and loads each library when it is first used. The exceptions: Pillow decodes BMP (more
variants) and CMYK, and encodes WebP (up to its largest size). OpenCV encodes AVIF (with metadata). opencodecs
encodes JPEG XL with a color profile.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._system.cpu import available_threads
from ...image.info import Metadata
from ..metadata.header import DamagedError
from . import avif, bmp, cmyk, jpeg, jxl, png, webp
from .formats import AVIF, BMP, JPEG, JXL, PNG, WEBP, Format

JPEG_QUALITY = 95  # with full-resolution chroma, so that editing the result again shows no blocks
_JXL_EFFORT = 3  # 5 saves 1% of the size and takes ten times as long
_WEBP_METHOD = 4  # 6 saves nothing and takes four times as long
_PNG_FAST = {"level": 1, "strategy": 3, "filter": 16}  # run-length encoding of differences, as in OpenCV


def decode(data: bytes, format_: Format, icc: bytes | None) -> tuple[NDArray[Any], bytes | None]:
    """Decode a file.

    Parameters
    ----------
    data : bytes
        Its content.
    format_ : Format
        Its format.
    icc : bytes, optional
        Its profile.

    Returns
    -------
    ndarray, shape (H, W, C)
        Gray or RGB, alpha last.
    bytes or None
        Profile of the result.

    Raises
    ------
    Exception
        If the library cannot decode it; each library has its own exceptions, some undocumented.
    """
    if format_ is JPEG and jpeg.frame(data)[4] == 4:  # components
        return cmyk.decode(data, icc)
    return np.atleast_3d(_decode(data, format_)), icc


def _decode(data: bytes, format_: Format) -> NDArray[Any]:
    import imagecodecs

    if format_ is PNG:
        return imagecodecs.png_decode(png.samples_only(data))
    if format_ is JPEG:
        return _full_range(imagecodecs.jpeg8_decode(data), jpeg.frame(data)[1])
    if format_ is WEBP:
        return imagecodecs.webp_decode(data, hasalpha=webp.declared(data).channels == 4)
    if format_ is AVIF:
        return _full_range(imagecodecs.avif_decode(data, numthreads=available_threads()), avif.bits(data))
    if format_ is JXL:
        array = imagecodecs.jpegxl_decode(data, numthreads=available_threads())
        return array if array.dtype.kind == "f" else _full_range(array, jxl.header(data).bits)
    from PIL.BmpImagePlugin import BmpImageFile

    # Image.open has its own limit on the number of pixels.
    with BmpImageFile(io.BytesIO(data)) as image:
        mode = {"1": "L", "P": "RGB"}.get(image.mode, image.mode)
        return np.asarray(image if mode == image.mode else image.convert(mode))


def encode(
    array: NDArray[Any], format_: Format, metadata: Metadata, quality: int | None, top: float | None = None
) -> bytes:
    """Encode an image.

    Parameters
    ----------
    array : ndarray, shape (H, W, C)
        uint8, or uint16 where the format supports it (AVIF stores 12 bits); C is 1 to 4.
    format_ : Format
        Format to write.
    metadata : Metadata
        Metadata of this image, already scaled.
    quality : int, optional
        1 to 100. None means lossless, or `JPEG_QUALITY` for JPEG.
    top : float, optional
        Largest value of the samples if that is not the largest of their type. PNG and JPEG XL store it; AVIF
        maps it to 12 bits.

    Raises
    ------
    Exception
        If the library cannot encode it; each library has its own exceptions, some undocumented.
    """
    import imagecodecs

    if format_ is PNG:
        coded = imagecodecs.png_encode(_flat(array), **_PNG_FAST)
        return png.insert(bytes(coded), metadata, array.dtype, top)
    if format_ is JPEG:
        coded = imagecodecs.jpeg8_encode(_flat(array), level=quality or JPEG_QUALITY, subsampling="444")
        return jpeg.insert(bytes(coded), metadata)
    if format_ is WEBP:
        return _webp(array, metadata, quality)
    if format_ is BMP:
        return bmp.encode(array, metadata)
    if format_ is AVIF:
        return _avif(array, metadata, quality, top)
    return jxl.insert(_jxl(array, metadata.icc, quality, top), metadata)


def _webp(array: NDArray[Any], metadata: Metadata, quality: int | None) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    blocks = {"icc_profile": metadata.icc, "exif": metadata.exif or b"", "xmp": metadata.xmp or b""}
    # In lossless mode, quality is the effort. exact keeps the color of transparent pixels.
    Image.fromarray(_colored(array)).save(
        out, "WEBP", lossless=quality is None, quality=quality or 0, method=_WEBP_METHOD, exact=True, **blocks
    )
    return out.getvalue()


def _avif(array: NDArray[Any], metadata: Metadata, quality: int | None, top: float | None) -> bytes:
    import cv2

    color = array if array.shape[2] == 1 else _colored(array)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[color.shape[2]]
    depth = 8
    if array.dtype == np.uint16:
        maximum = int(top or 65535)
        color = (np.minimum(color, maximum).astype(np.uint32) * 4095 + maximum // 2) // maximum
        depth, color = 12, color.astype(np.uint16)
    blobs = {
        cv2.IMAGE_METADATA_EXIF: metadata.exif,
        cv2.IMAGE_METADATA_XMP: metadata.xmp,
        cv2.IMAGE_METADATA_ICCP: metadata.icc,
    }
    given = {kind: np.frombuffer(blob, np.uint8) for kind, blob in blobs.items() if blob}
    options = [cv2.IMWRITE_AVIF_QUALITY, quality or 100, cv2.IMWRITE_AVIF_DEPTH, depth]
    done, coded = cv2.imencodeWithMetadata(
        ".avif", np.ascontiguousarray(color[..., order]), list(given), list(given.values()), options
    )
    if not done:
        raise DamagedError("OpenCV cannot encode it")
    cicp = metadata.color.get("cICP")
    return avif.with_color(coded.tobytes(), cicp) if cicp and not metadata.icc else coded.tobytes()


def _jxl(array: NDArray[Any], icc: bytes | None, quality: int | None, top: float | None) -> bytes:
    import imagecodecs

    bits = 8 * array.dtype.itemsize if top is None else int(top).bit_length()
    distance = _distance(quality)
    options: dict[str, Any] = {
        "lossless": distance == 0,
        "distance": distance,
        "effort": _JXL_EFFORT,
        "numthreads": available_threads(),
    }
    if icc:  # imagecodecs cannot embed a profile, and opencodecs cannot declare fewer bits
        samples = _full_range(_flat(array), bits)
        return bytes(jxl.profile_library().encode(samples, icc_profile=icc, **options))
    return bytes(imagecodecs.jpegxl_encode(_flat(array), bitspersample=bits, usecontainer=False, **options))


def _distance(quality: int | None) -> float:
    """Return the distance of libjxl for a JPEG-like quality (JxlEncoderDistanceFromQuality)."""
    if quality is None or quality >= 100:
        return 0.0
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality * quality - 23 / 20 * quality + 25


def _full_range(array: NDArray[Any], bits: int) -> NDArray[Any]:
    """Scale samples of `bits` bits to the full range of uint8 or uint16."""
    if bits in (8, 16):
        return array
    top, full = 2**bits - 1, 255 if bits < 8 else 65535
    table = (np.arange(top + 1, dtype=np.uint32) * full + top // 2) // top
    return np.take(table.astype(np.uint8 if bits < 8 else np.uint16), array, mode="clip")


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous array without the axis of a single channel, as libraries expect gray."""
    return np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)


def _colored(array: NDArray[Any]) -> NDArray[Any]:
    """Return gray as RGB, for formats without gray; alpha is kept."""
    order = {1: [0, 0, 0], 2: [0, 0, 0, 1]}.get(array.shape[2])
    return np.ascontiguousarray(array if order is None else array[..., order])
