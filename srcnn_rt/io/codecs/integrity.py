"""Can the file be what its header says? Asked before a byte is decoded or much memory taken."""

from __future__ import annotations

from pathlib import Path

from ...errors import ImageError
from ..metadata.header import DamagedError, Declared
from .formats import Format

MAX_PIXELS = 2**30  # of an image that is decoded whole into memory
_HEAD = 2**20  # bytes in which a header nearly always stands


def declared(source: bytes | Path, format_: Format) -> Declared:
    """Return what the header says; nothing is decoded.

    Parameters
    ----------
    source : a file's bytes, or the file, of which as little as possible is read
    format_ : as recognised

    Raises
    ------
    ImageError
        If the header is damaged (naming the file, if it is one).
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
            head += file.read()  # color profiles and thumbnails may stand before it
    try:
        return format_.declared(head)
    except DamagedError as error:
        raise ImageError(f"{source}: damaged {format_.name}: {error}") from error


def check_declared(
    path: Path, format_: Format, said: Declared, size: int, minimum: int, max_pixels: int = MAX_PIXELS
) -> None:
    """Refuse a file that is larger than allowed, or cannot hold what it says.

    Parameters
    ----------
    path : for the message
    format_ : as recognised
    said : by the header
    size : bytes of the file
    least : fewest bytes that a file of this header has, 0 if nothing is known
    max_pixels : that are decoded into memory

    Raises
    ------
    ImageError
        Naming the file and the limit.
    """
    w, h = said.width, said.height
    if w * h > max_pixels:
        raise ImageError(
            f"{path}: declares {w} x {h} = {w * h} pixels, and a {format_.name} is decoded whole:"
            f" at most {max_pixels} pixels are read, --max-pixels {w * h} allows it"
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
