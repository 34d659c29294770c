"""Header and metadata of an encoded file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

MAX_TEXT = 2**20  # bytes of a decompressed text
MAX_TEXTS = 2**22  # bytes of all texts of a file
MAX_BLOCK = 2**24  # bytes of a decompressed profile, EXIF block or XMP packet

Block = Literal["icc", "exif", "xmp"]


class DamagedError(Exception):
    """A damaged file; readers convert it to an `ImageError` with the name of the file."""


class Declared(NamedTuple):
    """Size and sample type that a header declares.

    Attributes
    ----------
    width, height : int
        Pixels as decoded, before an EXIF orientation is applied.
    channels : int
        Channels of the decoded image; a palette counts as the colors it is expanded to.
    sample_bytes : int
        1, 2 or 4 bytes per sample of the decoded image.
    """

    width: int
    height: int
    channels: int
    sample_bytes: int


@dataclass(slots=True)
class Found:
    """Metadata of a file, unchanged.

    Attributes
    ----------
    icc, exif, xmp : bytes, optional
        Raw profile, EXIF block (from its TIFF header on) and XMP packet.
    dpi : tuple of (float, float), optional
        Pixels per inch in x and y, by the container, not by EXIF.
    texts : dict of str to str
        Texts of the container by PNG keyword.
    orientation : int, optional
        Orientation of the container, 1 to 8, which takes precedence over EXIF's.
    color : dict of str to bytes
        PNG color chunks by name, among them sBIT. cICP also stands for AVIF's nclx values.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    orientation: int | None = None
    color: dict[str, bytes] = field(default_factory=dict)

    def keep(self, block: Block, content: bytes | None) -> None:
        """Store a block, unless it is empty, has no TIFF header (EXIF), or one of its kind is stored."""
        if content and block == "exif":
            content = without_prefix(content)
        if content and getattr(self, block) is None:
            setattr(self, block, content)


def without_prefix(exif: bytes) -> bytes | None:
    """Return an EXIF block without the prefix ``Exif``, None if it has no TIFF header."""
    if exif.startswith(b"Exif\0"):
        exif = exif[6:]
    return exif if exif[:4] in (b"II*\0", b"MM\0*") else None


def decode_text(data: bytes) -> str:
    """Decode a text up to its first zero byte, as UTF-8 or else as Latin-1."""
    data = data.split(b"\0", 1)[0]
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
