"""Checks of a file's header against its size and the limits, before anything is decoded."""

from __future__ import annotations

from pathlib import Path

from ...errors import ImageError
from ..metadata.header import DamagedError, Declared
from .formats import Format

MAX_PIXELS = 2**30  # default limit of images that are decoded whole
_HEAD = 2**20  # bytes that nearly always contain the header


def declared(source: bytes | Path, format_: Format) -> Declared:
    """Return the size and sample type from the header.

    Parameters
    ----------
    source : bytes or Path
        Content of a file, or the file, of which as little as possible is read.
    format_ : Format
        Its format.

    Raises
    ------
    ImageError
        If the header is damaged.
    """
    if isinstance(source, bytes):
        try:
            return format_.declared(source)
        except DamagedError as error:
            raise ImageError(f"damaged {format_.name}: {error}") from error
    with source.open("rb") as file:
        head = file.read(_HEAD)
        try:
            return format_.declared(head)
        except DamagedError:
            head += file.read()  # profiles and thumbnails may precede it
    try:
        return format_.declared(head)
    except DamagedError as error:
        raise ImageError(f"{source}: damaged {format_.name}: {error}") from error


def check_declared(
    path: Path, format_: Format, said: Declared, size: int, minimum: int, max_pixels: int = MAX_PIXELS
) -> None:
    """Refuse an image that is too large, and a file that is too small for the size it declares.

    Parameters
    ----------
    path : Path
        Name of the file in messages.
    format_ : Format
        Its format.
    said : Declared
        Its header.
    size : int
        Its size in bytes.
    minimum : int
        Smallest size in bytes of a file with this header, 0 if unknown.
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
    if size < minimum:
        raise ImageError(
            f"{path}: truncated {format_.name}: declares {w} x {h} pixels, which take at least {minimum}"
            f" bytes, and has {size}"
        )
