"""What a coded file says of itself, before and beside its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_TEXT = 2**20  # bytes of one text, after inflating
MAX_TEXTS = 2**22  # of all texts of a file together
MAX_BLOCK = 2**24  # bytes of a profile, an EXIF or an XMP block, after inflating


class DamagedError(Exception):
    """A header that cannot be; readers turn it into an `ImageError` that names the file."""


class Declared(NamedTuple):
    """What a header says, nothing decoded.

    Attributes
    ----------
    width, height : stored pixels, before any orientation is applied
    channels : of the decoded image: a palette counts as what it expands to
    sample_bytes : 1, 2 or 4, of the decoded image
    """

    width: int
    height: int
    channels: int
    sample_bytes: int


@dataclass(slots=True)
class Found:
    """The metadata of one file, as it stands there.

    Attributes
    ----------
    icc, exif, xmp : raw bytes; EXIF begins with its TIFF header
    dpi : (x, y) pixels an inch, as the container (not EXIF) says
    texts : by PNG's keywords, as the container says
    orientation : 1 … 8 where the container has its own, which then overrules EXIF's
    color : PNG's color chunks by name, ``sBIT`` among them; ``cICP`` also stands for AVIF's nclx
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    orientation: int | None = None
    color: dict[str, bytes] = field(default_factory=dict)


Walker = Callable[[bytes], Found]


def without_prefix(exif: bytes) -> bytes | None:
    """Return an EXIF block from its TIFF header on, or None if it has none."""
    if exif.startswith(b"Exif\0"):
        exif = exif[6:]
    return exif if exif[:4] in (b"II*\0", b"MM\0*") else None


def decode_text(data: bytes) -> str:
    """Return a text as UTF-8 if it is, else as Latin-1, up to its first zero byte."""
    data = data.split(b"\0", 1)[0]
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
