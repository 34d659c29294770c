"""Checks of a file's header against its size and the limits, before anything is decoded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ...errors import ImageError
from ..foreign_errors import foreign_errors
from ..metadata.header import DamagedError, Declared
from .formats import Format

MAX_PIXELS = 2**30  # default limit of images that are decoded whole
_HEAD = 2**20  # bytes that nearly always contain the header


def declared(path: Path, format_: Format) -> Declared:
    """Return the size and sample type from the header.

    Parameters
    ----------
    path : Path
        The file, of which as little as possible is read.
    format_ : Format
        Its format.

    Raises
    ------
    ImageError
        If the header is damaged.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        with suppress(DamagedError):
            return format_.declared(head)
        head += file.read()  # profiles and thumbnails may precede it
    if format_.truncated(head):
        raise ImageError(f"{path}: truncated or damaged {format_.name}, {len(head)} bytes")
    with foreign_errors(ImageError, f"{path}: damaged {format_.name}"):
        return format_.declared(head)


def checked_bytes(path: Path, format_: Format, max_pixels: int) -> bytes:
    """Return the content of a file that can be decoded, as far as its structure tells.

    Parameters
    ----------
    path : Path
        The file.
    format_ : Format
        Its format.
    max_pixels : int
        Limit of pixels, which is checked before more than the header is read.

    Raises
    ------
    ImageError
        If the image is too large, ends early, is too small for the size that it declares, or is animated.
    """
    # Only the beginning is read, because the file may be larger than memory.
    said = declared(path, format_)
    w, h = said.width, said.height
    if w * h > max_pixels:
        raise ImageError(
            f"{path}: declares {w} x {h} = {w * h} pixels; a {format_.name} is decoded whole, with at most"
            f" {max_pixels} pixels; use --max-pixels {w * h} to allow it"
        )
    if max(w, h) > format_.max_side or w * h > format_.max_pixels:
        raise ImageError(
            f"{path}: declares {w} x {h} pixels; {format_.name} sides of at most {format_.max_side}"
            f" and {format_.max_pixels} pixels are read"
        )
    data = path.read_bytes()
    if format_.truncated(data):
        raise ImageError(f"{path}: truncated {format_.name}, {len(data)} bytes")
    minimum = format_.min_bytes(data)
    if len(data) < minimum:
        raise ImageError(
            f"{path}: truncated {format_.name}: declares {w} x {h} pixels, which take at"
            f" least {minimum} bytes, and has {len(data)}"
        )
    if format_.animated(data):
        raise ImageError(f"{path}: an animated {format_.name}; only images of one frame are supported")
    return data
