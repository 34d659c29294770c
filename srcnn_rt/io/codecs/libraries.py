"""Samples decoded and encoded, format by format: the only place that calls their libraries.

imagecodecs for all of them, because it has no limit on the number of pixels, keeps gray with
alpha and 16 bits, and loads a library only when its format comes. Besides: Pillow reads BMP (of
which it knows more kinds) and CMYK, and writes WebP, to the last pixel that the format allows;
OpenCV writes AVIF, because it writes its metadata.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...image.info import Metadata
from ..metadata.header import DamagedError
from . import avif, bmp, cmyk, jpeg, libjxl, png, webp
from .formats import AVIF, BMP, JPEG, JXL, PNG, WEBP, Format

JPEG_QUALITY = 95  # with full-resolution chroma: the next editor should see no blocks
_JXL_EFFORT = 3  # at 5 ten times slower for 1% of the size
_WEBP_METHOD = 4  # at 6 four times slower for no size at all
_PNG_FAST = {"level": 1, "strategy": 3, "filter": 16}  # run lengths of differences, OpenCV's choice


def decode(data: bytes, format_: Format, icc: bytes | None) -> tuple[NDArray[Any], bytes | None]:
    """Decode a whole file: (H, W, C), gray or RGB order, alpha last, and the profile of the result.

    Raises
    ------
    DamagedError
        In one line, if the library refuses.
    """
    try:
        array, icc = _decode(data, format_, icc)
    except DamagedError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # each library has its own kinds, not all of them documented
        raise DamagedError(" ".join(str(error).split()) or type(error).__name__) from error
    return np.atleast_3d(array), icc


def _decode(data: bytes, format_: Format, icc: bytes | None) -> tuple[NDArray[Any], bytes | None]:
    import imagecodecs

    if format_ is PNG:
        return imagecodecs.png_decode(png.samples_only(data)), icc
    if format_ is JPEG:
        if jpeg.components(data) == 4:
            return cmyk.decode(data, icc)
        return _full_range(imagecodecs.jpeg8_decode(data), jpeg.depth(data)), icc
    if format_ is WEBP:
        return imagecodecs.webp_decode(data, hasalpha=webp.declared(data).channels == 4), icc
    if format_ is AVIF:
        return _full_range(imagecodecs.avif_decode(data, numthreads=libjxl.threads()), avif.bits(data)), icc
    if format_ is JXL:
        array = imagecodecs.jpegxl_decode(data, numthreads=libjxl.threads())
        if array.dtype.kind == "f":
            return array, icc
        return _full_range(array, libjxl.basic_info(data).bits), icc
    from PIL.BmpImagePlugin import BmpImageFile

    # Not Image.open, which has a limit of its own on the number of pixels.
    with BmpImageFile(io.BytesIO(data)) as image:
        mode = {"1": "L", "P": "RGB"}.get(image.mode, image.mode)
        return np.asarray(image if mode == image.mode else image.convert(mode)), icc


def encode(
    array: NDArray[Any], format_: Format, metadata: Metadata, quality: int | None, top: float | None = None
) -> bytes:
    """Encode an (H, W, C) image, 1 to 4 channels, with `metadata` as they are.

    Parameters
    ----------
    array : uint8, or uint16 where the format holds it (AVIF: its upper 12 bits); C contiguous
    format_ : to write
    metadata : already those of this image
    quality : 1 to 100; None for lossless, or ``JPEG_QUALITY``
    top : the largest value that samples may have, None for that of their type. PNG and JPEG XL say so;
        AVIF's 12 bits begin below it

    Raises
    ------
    DamagedError
        In one line, if the library refuses.
    """
    try:
        return _ENCODERS[format_.name](array, metadata, quality, top)
    except DamagedError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise DamagedError(" ".join(str(error).split()) or type(error).__name__) from error


def _png(array: NDArray[Any], metadata: Metadata, quality: int | None, top: float | None) -> bytes:
    import imagecodecs

    coded = bytes(imagecodecs.png_encode(_flat(array), **_PNG_FAST))
    return png.insert(coded, metadata, array.dtype, top)


def _jpeg(array: NDArray[Any], metadata: Metadata, quality: int | None, top: float | None) -> bytes:
    import imagecodecs

    coded = imagecodecs.jpeg8_encode(_flat(array), level=quality or JPEG_QUALITY, subsampling="444")
    return jpeg.insert(bytes(coded), metadata)


def _webp(array: NDArray[Any], metadata: Metadata, quality: int | None, top: float | None) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    # In the lossless mode, quality is effort, and exact keeps the color of what is transparent.
    Image.fromarray(_colored(array)).save(
        out, "WEBP", lossless=quality is None, quality=quality or 0, method=_WEBP_METHOD, exact=True
    )
    return webp.insert(out.getvalue(), metadata)


def _bmp(array: NDArray[Any], metadata: Metadata, quality: int | None, top: float | None) -> bytes:
    return bmp.encode(array, metadata)


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
        raise DamagedError("OpenCV does not write it")
    cicp = metadata.raster.get("color", {}).get("cICP")
    return avif.with_color(coded.tobytes(), cicp) if cicp and not metadata.icc else coded.tobytes()


def _jxl(array: NDArray[Any], metadata: Metadata, quality: int | None, top: float | None) -> bytes:
    named: dict[bytes, bytes] = {}
    if metadata.exif:
        named[b"Exif"] = bytes(4) + metadata.exif
    if metadata.xmp:
        named[b"xml "] = metadata.xmp
    bits = 8 * array.dtype.itemsize if top is None else int(top).bit_length()
    return libjxl.encode(
        np.ascontiguousarray(array), metadata.icc, named, _distance(quality), _JXL_EFFORT, bits
    )


_ENCODERS: Mapping[str, Callable[[NDArray[Any], Metadata, int | None, float | None], bytes]] = {
    PNG.name: _png, JPEG.name: _jpeg, WEBP.name: _webp, BMP.name: _bmp, AVIF.name: _avif, JXL.name: _jxl,
}  # fmt: skip


def _distance(quality: int | None) -> float:
    """Return libjxl's distance for a quality on JPEG's scale (JxlEncoderDistanceFromQuality)."""
    if quality is None or quality >= 100:
        return 0.0
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality * quality - 23 / 20 * quality + 25


def _full_range(array: NDArray[Any], bits: int) -> NDArray[Any]:
    """Spread samples of `bits` bits over all of uint8 or uint16."""
    if bits in (8, 16):
        return array
    top, full = 2**bits - 1, 255 if bits < 8 else 65535
    table = (np.arange(top + 1, dtype=np.uint32) * full + top // 2) // top
    return np.take(table.astype(np.uint8 if bits < 8 else np.uint16), array, mode="clip")


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W) for one channel, which is how libraries know gray."""
    return np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)


def _colored(array: NDArray[Any]) -> NDArray[Any]:
    """Return gray (and alpha) as RGB (and alpha), for formats that have no gray."""
    order = {1: [0, 0, 0], 2: [0, 0, 0, 1]}.get(array.shape[2])
    return np.ascontiguousarray(array if order is None else array[..., order])
