"""Checks of a file's header against its size and the limits, before anything is decoded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ...errors import ImageError
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
    try:
        return format_.declared(head)
    except DamagedError as error:
        raise ImageError(f"{path}: damaged {format_.name}: {error}") from error


def check_declared(path: Path, format_: Format, said: Declared, max_pixels: int) -> None:
    """Refuse an image that is too large.

    Parameters
    ----------
    path : Path
        Name of the file in messages.
    format_ : Format
        Its format.
    said : Declared
        Its header.
    max_pixels : int
        Limit of pixels.

    Raises
    ------
    ImageError
        Naming the file and the limit.
    """
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


def check_bytes(path: Path, format_: Format, said: Declared, data: bytes) -> None:
    """Refuse a file that ends early, or is too small for the size that it declares.

    Parameters
    ----------
    path : Path
        Name of the file in messages.
    format_ : Format
        Its format.
    said : Declared
        Its header.
    data : bytes
        Its content.

    Raises
    ------
    ImageError
        Naming the file.
    """
    if format_.truncated(data):
        raise ImageError(f"{path}: truncated {format_.name}, {len(data)} bytes")
    minimum = format_.min_bytes(data)
    if len(data) < minimum:
        raise ImageError(
            f"{path}: truncated {format_.name}: declares {said.width} x {said.height} pixels, which take at"
            f" least {minimum} bytes, and has {len(data)}"
        )
