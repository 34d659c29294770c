"""JPEG XL: the header of a codestream, and the boxes with EXIF and XMP around one.

The header (SizeHeader and ImageMetadata of ISO/IEC 18181-1) is parsed here, because no Python binding of
libjxl reports extra channels and premultiplied alpha without decoding the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from ...errors import RuntimeMissingError
from ...image.info import Metadata
from ..metadata.header import MAX_BLOCK, DamagedError, Declared, Found
from . import isobmff

BARE = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_FILE_TYPE = isobmff.box(b"ftyp", b"jxl \0\0\0\0jxl ")
_MAX_HEADER = 4096  # bytes; the longest field is a channel's name, of at most 1,071
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width : height
_ALPHA = 0  # a type of extra channels
_GRAY, _XYB = 1, 2  # color spaces
_D65, _SRGB_PRIMARIES, _SRGB_TRANSFER = 1, 1, 13


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a codestream.

    Attributes
    ----------
    width, height : int
        Size after the orientation is applied, as libjxl decodes it.
    bits : int
        Bits per sample.
    channels : int
        Number of color channels and alpha.
    animated : bool
        Whether there may be more than one frame.
    srgb : bool
        Whether the color space is sRGB, or gray with sRGB's transfer function.
    """

    width: int
    height: int
    bits: int = 8
    channels: int = 3
    animated: bool = False
    srgb: bool = True


class _Bits:
    """Numbers of a codestream, from the least significant bit on."""

    def __init__(self, data: bytes) -> None:
        self._rest, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def number(self, bits: int) -> int:
        if bits > self._left:
            raise DamagedError("the header ends too early")
        value = self._rest & ((1 << bits) - 1)
        self._rest >>= bits
        self._left -= bits
        return value

    def choice(self, *options: int | tuple[int, int]) -> int:
        """Read two bits that select a constant, or an offset and how many bits are added to it."""
        option = options[self.number(2)]
        return option if isinstance(option, int) else option[0] + self.number(option[1])

    def enum(self) -> int:
        return self.choice(0, 1, (2, 4), (18, 6))

    def size(self, eighths: Callable[[], int], pixels: Callable[[], int]) -> tuple[int, int]:
        """Read (width, height), both in pixels or in units of eight."""
        unit, side = (8, eighths) if self.number(1) else (1, pixels)
        height = unit * side()
        if ratio := self.number(3):
            above, below = _RATIOS[ratio - 1]
            return height * above // below, height
        return unit * side(), height

    def image_size(self) -> tuple[int, int]:
        return self.size(lambda: 1 + self.number(5), lambda: self.choice((1, 9), (1, 13), (1, 18), (1, 30)))

    def depth(self) -> int:
        """Read the bits per sample."""
        if not self.number(1):
            return self.choice(8, 10, 12, (1, 6))
        bits = self.choice(32, 16, 24, (1, 6))
        self.number(4)  # of the exponent
        return bits


def header(data: bytes) -> Header:
    """Parse the header of a file; `data` may end after it.

    Raises
    ------
    DamagedError
        If it is cut short, or the image has other channels than color and straight alpha.
    """
    bits = _Bits(_codestream(data))
    if bits.number(16).to_bytes(2, "little") != BARE:
        raise DamagedError("no codestream")
    width, height = bits.image_size()
    if bits.number(1):  # all other fields have their defaults
        return Header(width, height)
    if bits.number(1):
        if bits.number(3) >= 4:  # orientation - 1: these exchange the sides
            width, height = height, width
        if bits.number(1):
            bits.image_size()  # intrinsic size
        if bits.number(1):  # preview
            bits.size(
                lambda: bits.choice(16, 32, (1, 5), (33, 9)),
                lambda: bits.choice((1, 6), (65, 8), (321, 10), (1345, 12)),
            )
        if bits.number(1):  # animations are refused, whatever follows
            return Header(width, height, animated=True)
    depth = bits.depth()
    bits.number(1)  # whether 16-bit buffers suffice
    extra = bits.choice(0, 1, (2, 4), (1, 12))
    if extra > 1 or (extra and not _is_alpha(bits)):
        raise DamagedError("has channels beside color and alpha; only these are supported")
    bits.number(1)  # whether samples are stored as XYB
    colors, srgb = _color(bits)
    return Header(width, height, depth, colors + extra, srgb=srgb)


def _is_alpha(bits: _Bits) -> bool:
    """Read the fields of an extra channel."""
    if bits.number(1):  # all fields have their defaults, which are those of alpha
        return True
    if bits.enum() != _ALPHA:
        return False
    bits.depth()
    bits.choice(0, 3, 4, (1, 3))  # subsampling
    bits.number(8 * bits.choice(0, (0, 4), (16, 5), (48, 10)))  # name
    if bits.number(1):
        raise DamagedError("its color is multiplied by its alpha; only straight alpha is supported")
    return True


def _color(bits: _Bits) -> tuple[int, bool]:
    """Read the number of color channels, and whether they are sRGB."""
    if bits.number(1):  # all fields have their defaults
        return 3, True
    has_profile, space = bits.number(1), bits.enum()
    colors = 1 if space == _GRAY else 3
    if has_profile or space == _XYB or bits.enum() != _D65:
        return colors, False
    if colors == 3 and bits.enum() != _SRGB_PRIMARIES:
        return colors, False
    return colors, not bits.number(1) and bits.enum() == _SRGB_TRANSFER  # the first: a plain gamma


def _codestream(data: bytes) -> bytes:
    """Return the first bytes of the codestream."""
    if data.startswith(BARE):
        return data[:_MAX_HEADER]
    found = b""
    for kind, start, stop in isobmff.walk(data, 0, len(data), cut=True):
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0  # the number of the part
            found += data[start : min(stop, start + _MAX_HEADER)]
            if kind == b"jxlc" or len(found) >= _MAX_HEADER:
                break
    return found[:_MAX_HEADER]


def truncated(data: bytes) -> bool:
    """Return whether a box is not whole; only a decoder knows where a bare codestream ends."""
    return data.startswith(CONTAINER) and isobmff.truncated(data)


def animated(data: bytes) -> bool:
    """Return whether the header announces an animation."""
    try:
        return header(data).animated
    except DamagedError:
        return False


def declared(data: bytes) -> Declared:
    """Return the size and sample type from the header."""
    said = header(data)
    sample_bytes = 4 if said.bits > 16 else 2 if said.bits > 8 else 1
    return Declared(said.width, said.height, said.channels, sample_bytes)


def read(data: bytes) -> Found:
    """Return the metadata. Only the codestream's orientation counts, not EXIF's, and libjxl applies it."""
    found = Found(orientation=1, icc=_profile(data))
    if not data.startswith(CONTAINER):
        return found
    for kind, start, stop in isobmff.walk(data, 0, len(data)):
        content = data[start:stop] if kind in (b"Exif", b"xml ", b"brob") else b""
        if kind == b"brob":
            kind, content = content[:4], _unpacked(content[4:])
        if kind == b"Exif":
            found.keep("exif", isobmff.exif(content))
        elif kind == b"xml ":
            found.keep("xmp", content)
    return found


def insert(coded: bytes, metadata: Metadata) -> bytes:
    """Return a coded image with boxes for EXIF and XMP before its codestream."""
    boxes = [isobmff.box(b"Exif", bytes(4), metadata.exif)] if metadata.exif else []
    boxes += [isobmff.box(b"xml ", metadata.xmp)] if metadata.xmp else []
    if not boxes:
        return coded
    if coded.startswith(BARE):
        return b"".join([CONTAINER, _FILE_TYPE, *boxes, isobmff.box(b"jxlc", coded)])
    at = 0  # behind the boxes that must come first: signature, file type and level
    for kind, _, stop in isobmff.walk(coded, 0, len(coded)):
        if kind not in (b"JXL ", b"ftyp", b"jxll"):
            break
        at = stop
    return b"".join([coded[:at], *boxes, coded[at:]])


def profile_library() -> ModuleType:
    """Import the library that reads and writes colour profiles of JPEG XL, an extra.

    Raises
    ------
    RuntimeMissingError
        With the command that installs it.
    """
    try:
        from opencodecs import jxl
    except ImportError as error:
        raise RuntimeMissingError(
            'JPEG XL with a color profile needs opencodecs; type: pip install "srcnn-rt[jxl]"'
        ) from error
    library: ModuleType = jxl
    return library


def _profile(data: bytes) -> bytes | None:
    """Return the ICC profile of the decoded samples; None for sRGB, or if it is damaged."""
    try:
        if header(data).srgb:
            return None
        with profile_library().JxlReader(data, numthreads=1) as reader:
            icc = reader.icc_profile
    except (DamagedError, ValueError, RuntimeError):
        return None
    return icc if icc and len(icc) <= MAX_BLOCK else None


def _unpacked(content: bytes) -> bytes:
    """Return what brotli holds; empty if it is damaged or too large."""
    import imagecodecs

    try:
        return bytes(imagecodecs.brotli_decode(content, out=MAX_BLOCK))
    except (imagecodecs.BrotliError, ValueError, RuntimeError):
        return b""
