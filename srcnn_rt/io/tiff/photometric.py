"""Photometric interpretation of a TIFF page: what its samples mean and how they are decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from ...errors import ArgumentError, ImageError
from ...image.info import SAMPLE_TYPES, Layout, top_of_bits, top_of_value
from .gdal import OpenPage
from .ifd import SHORT, Directory, Field

PHOTOMETRIC, COLOR_MAP, EXTRA_SAMPLES = 262, 320, 338
PALETTE = 3
MAX_SAMPLE_VALUE, S_MAX_SAMPLE_VALUE, _SAMPLE_FORMAT, _SIGNED = 281, 341, 339, 2
_PREMULTIPLIED, _STRAIGHT = 1, 2
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _SEPARATED, _CIELAB, _ICCLAB, _ITULAB = 0, 1, 5, 8, 9, 10
# Color spaces other than gray and RGB. Their channels are kept as bands.
_OTHER_COLORS = (_SEPARATED, _CIELAB, _ICCLAB, _ITULAB)
# Fields that name such channels: photometric, ink set, ink names, number of inks, dot range, extra samples.
_INK_FIELDS = (PHOTOMETRIC, 332, 333, 334, 336, EXTRA_SAMPLES)


@dataclass(frozen=True, slots=True)
class Interpretation:
    """How stored samples are decoded into those that the network gets.

    Attributes
    ----------
    layout : Layout
        Meaning of the decoded channels.
    dtype : numpy.dtype
        Type of the decoded samples.
    roles : tuple of ColorInterp or None
        GDAL's color interpretation of the channels; None for the usual one of `layout`.
    bits : int
        Bits per stored sample.
    palette : ndarray, shape (2**n, C), optional
        Colors by stored value.
    table : ndarray, shape (256,), optional
        Gray values by stored value, for 1 to 7 bits.
    white : int, optional
        Stored value of black where white is zero.
    short_signed : bool
        Whether the samples are signed and have fewer bits than their type.
    top : float, optional
        Declared maximum where it is smaller than that of the type.
    premultiplied : bool
        Whether the stored colors are multiplied by alpha.
    signed : slice, optional
        Channels that are signed although their type is unsigned: a* and b* of CIELab.
    fields : tuple of int
        Tags of the source that remain valid for the result.
    colormap : Field, optional
        Colors of category numbers, as a field of the result.
    """

    layout: Layout
    dtype: np.dtype[Any]
    roles: tuple[ColorInterp, ...] | None
    bits: int
    palette: NDArray[Any] | None = None
    table: NDArray[Any] | None = None
    white: int | None = None
    short_signed: bool = False
    top: float | None = None
    premultiplied: bool = False
    signed: slice | None = None
    fields: tuple[int, ...] = ()
    colormap: Field | None = None

    @property
    def values_kept(self) -> bool:
        """Whether decoded samples have the stored values."""
        return self.palette is None and self.table is None and self.white is None

    def decode(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Return decoded (h, w, C) samples without changing the stored ones."""
        if self.palette is not None:
            return np.asarray(self.palette[samples[:, :, 0]])
        if self.short_signed:
            samples = _extend_signs(samples, self.bits)
        if self.dtype == np.float16:  # GDAL returns float32
            samples = samples.astype(np.float16)
        if self.table is not None or self.white is not None:
            gray = self._gray(samples[:, :, :1] if self.layout.alpha else samples)
            samples = np.concatenate([gray, samples[:, :, 1:]], axis=2) if self.layout.alpha else gray
        if self.premultiplied:
            samples = unpremultiply(samples, self.top)
        if self.signed is not None:
            samples = samples.copy()
            flip_sign_bit(samples, self.signed)
        return samples

    def nodata(self, value: float | None) -> float | None:
        """Return the decoded nodata value; None if no sample can have it."""
        if value is None or self.palette is not None or self.signed is not None:
            return None  # in a palette the nodata value is a transparent color
        if self.dtype.kind == "f":
            return float(value)
        minimum = -(2 ** (self.bits - 1)) if self.dtype.kind == "i" else 0
        if not (minimum <= value < minimum + 2**self.bits and value == int(value)):
            return None
        return float(self._gray(np.array([int(value)], self.dtype))[0])

    def _gray(self, stored: NDArray[Any]) -> NDArray[Any]:
        if self.table is not None:
            return np.asarray(self.table[stored])
        return stored if self.white is None else self.white - np.minimum(stored, self.white)


def needs_raw(ifd: Directory) -> bool:
    """Return whether the page must be opened as GTIFF_RAW, lest GDAL convert its colors to RGB."""
    return ifd.number(PHOTOMETRIC, -1) in _OTHER_COLORS


def interpret(page: OpenPage) -> Interpretation:
    """Determine how to decode the samples of a page.

    Which value is white is taken from the directory: GDAL reports some white-is-zero images as palettes.

    Raises
    ------
    ImageError
        If the page has no samples, samples of an unsupported type, or a palette and a georeference.
    ArgumentError
        If ``page.reading`` asks for classes and the samples are floats.
    """
    path, file, ifd, reading = page.path, page.file, page.ifd, page.reading
    if file.count == 0 or file.width < 1 or file.height < 1:
        raise ImageError(f"{path}: an image needs samples, got {file.width} x {file.height} x {file.count}")
    if len(set(file.dtypes)) > 1 or file.dtypes[0] not in SAMPLE_TYPES:
        found = ", ".join(sorted(set(file.dtypes)))
        raise ImageError(f"{path}: samples must be {', '.join(SAMPLE_TYPES)}, got {found}")
    dtype = np.dtype(file.dtypes[0])
    bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", dtype.itemsize * 8))
    if dtype.kind == "f":
        dtype = np.dtype(np.float16) if bits == 16 else dtype
        bits = dtype.itemsize * 8
    # GDAL reports signed samples of fewer bits than their type as unsigned.
    short_signed = (
        dtype.kind == "u" and bits < 8 * dtype.itemsize and ifd.number(_SAMPLE_FORMAT, 0) == _SIGNED
    )
    if short_signed:
        dtype = np.dtype(f"int{8 * dtype.itemsize}")
    roles: tuple[ColorInterp, ...] = file.colorinterp
    photometric, last_extra = ifd.number(PHOTOMETRIC, -1), ifd.numbers(EXTRA_SAMPLES)[-1:]
    drawn = photometric == PALETTE or (photometric == _BLACK_IS_ZERO and bits == 8)
    indexed = file.count == 1 and roles[0] is ColorInterp.palette and dtype.kind == "u" and drawn
    if reading.classes:
        return _interpret_classes(page, dtype, bits, indexed)
    top = _declared_top(page, dtype, bits)
    stored = Interpretation(_layout(roles), dtype, None, bits, short_signed=short_signed, top=top)
    if photometric in _OTHER_COLORS:
        # Inks are not divided by a premultiplied alpha, which then is a band like the others.
        layout = reading.meaning(Layout("bands", file.count, file.count > 1 and last_extra == (_STRAIGHT,)))
        stored = replace(stored, layout=layout, fields=_INK_FIELDS)
        signed = photometric == _CIELAB and dtype.kind == "u"
        return replace(stored, top=None, signed=slice(1, 3)) if signed else stored
    if indexed and dtype.itemsize <= 2:
        if page.georeference:
            raise ImageError(
                f"{path}: a georeferenced image with a palette holds classes, which cannot be blended; "
                "use --classes to enlarge them by copying, or convert a drawn map to RGB first"
            )
        nodata = file.nodata if reading.nodata is None else reading.nodata
        palette = _palette(file, 2 ** (8 * dtype.itemsize), nodata)
        return Interpretation(Layout.of(palette.shape[1]), palette.dtype, None, bits, palette=palette)
    layout = reading.meaning(stored.layout)
    # Bands are measurements: there white-is-zero only says how to display them.
    inverted = photometric == _WHITE_IS_ZERO and layout.color == "gray" and dtype.kind == "u"
    if dtype.kind == "u" and bits < 8:
        stored = replace(stored, table=_gray_table(bits, inverted), top=None)
    elif inverted:
        stored = replace(stored, white=2**bits - 1, top=top_of_bits(bits, dtype))
    premultiplied = bool(layout.alpha and last_extra == (_PREMULTIPLIED,))
    fields = (PHOTOMETRIC,) if photometric == _WHITE_IS_ZERO and not inverted else ()
    if layout.color == "bands" and photometric in (0, 1, 2) and not premultiplied:
        fields = (*fields, EXTRA_SAMPLES)
    shown = None if inverted else _without_palette(roles)
    return replace(stored, layout=layout, roles=shown, premultiplied=premultiplied, fields=fields)


def _interpret_classes(page: OpenPage, dtype: np.dtype[Any], bits: int, indexed: bool) -> Interpretation:
    """Return the interpretation that keeps category numbers and their colors."""
    if dtype.kind not in "iu":
        raise ArgumentError(f"{page.path}: classes are whole numbers, got {dtype}")
    file, ifd = page.file, page.ifd
    fields = (EXTRA_SAMPLES, *[PHOTOMETRIC] * (ifd.number(PHOTOMETRIC, -1) == _WHITE_IS_ZERO))
    colormap = _colormap(file, ifd, bits, dtype) if indexed else None
    roles = None if indexed else _without_palette(file.colorinterp)
    return Interpretation(Layout("classes", file.count), dtype, roles, bits, fields=fields, colormap=colormap)


def _without_palette(roles: tuple[ColorInterp, ...]) -> tuple[ColorInterp, ...]:
    """Replace a palette, which GDAL also reports for white-is-zero, by gray."""
    return (ColorInterp.gray, *roles[1:]) if roles[0] is ColorInterp.palette else roles


def _colormap(file: Any, ifd: Directory, bits: int, dtype: np.dtype[Any]) -> Field:
    """Return a color map for all values of a type; undefined entries are black."""
    size = 2 ** (8 * dtype.itemsize)
    table = np.zeros((3, size), "<u2")
    field = ifd.get(COLOR_MAP)
    if field is not None and field.type == SHORT and field.count == 3 * 2**bits:
        table[:, : 2**bits] = np.frombuffer(field.data, "<u2").reshape(3, -1)
    else:  # the colors are in the auxiliary file
        for index, color in file.colormap(1).items():
            if index < size:
                table[:, index] = np.array(color[:3], "<u2") * 257
    return Field(COLOR_MAP, SHORT, table.tobytes())


def unpremultiply(samples: NDArray[Any], top: float | None = None) -> NDArray[Any]:
    """Return samples with the colors divided by alpha, the last channel.

    Parameters
    ----------
    samples : ndarray, shape (h, w, C)
        Premultiplied colors and alpha.
    top : float, optional
        Alpha of opaque pixels. By default the maximum of an integer type, 1 for floats.
    """
    # A float32 cannot hold every 32-bit integer.
    wide = np.dtype(np.float32 if samples.dtype.itemsize < 4 or samples.dtype == np.float32 else np.float64)
    floats = samples.dtype.kind == "f"
    maximum = wide.type(top or (1 if floats else np.iinfo(samples.dtype).max))
    alpha, color = samples[:, :, -1:].astype(wide), samples[:, :, :-1].astype(wide)
    color = np.divide(color * maximum, alpha, out=np.zeros_like(color), where=alpha > 0)
    out = samples.copy()
    if floats:
        with np.errstate(over="ignore"):  # values above the range of float16 become infinite
            out[:, :, :-1] = color
    else:
        minimum = wide.type(np.iinfo(samples.dtype).min)
        out[:, :, :-1] = np.rint(np.clip(color, minimum, maximum)).astype(samples.dtype)
    return out


def _extend_signs(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return unsigned samples with a two's complement in their lowest `bits` bits as signed integers."""
    room = samples.dtype.itemsize * 8 - bits
    return (samples << room).view(f"i{samples.dtype.itemsize}") >> room


def flip_sign_bit(samples: NDArray[Any], channels: slice) -> None:
    """Convert channels from two's complement to offset binary or back, in place.

    In offset binary -1 is next to 0, which makes interpolation possible.
    """
    samples[:, :, channels] ^= samples.dtype.type(1 << (samples.dtype.itemsize * 8 - 1))


def _palette(file: Any, size: int, nodata: Any) -> NDArray[np.uint8]:
    """Return the colors of a palette as gray, RGB or RGBA, whichever is the smallest that holds them."""
    table = np.zeros((size, 4), np.uint8)
    table[:, 3] = 255  # undefined entries are opaque black
    for index, color in file.colormap(1).items():
        table[index] = color
    if isinstance(nodata, int | float) and 0 <= nodata < size and nodata == int(nodata):
        table[int(nodata), 3] = 0
    opaque = bool((table[:, 3] == 255).all())
    gray = bool((table[:, :1] == table[:, 1:3]).all())
    return np.asarray(table[:, : 1 if opaque and gray else 3 if opaque else 4])


def _gray_table(bits: int, inverted: bool) -> NDArray[np.uint8]:
    """Return the 8-bit gray of each stored value of fewer than 8 bits.

    Samples of 9 to 15 and 17 to 31 bits are not stretched, because they usually are measurements.
    """
    maximum = 2**bits - 1
    values = np.minimum(np.arange(256), maximum)
    return np.asarray(np.rint((maximum - values if inverted else values) * (255 / maximum)), np.uint8)


def _declared_top(page: OpenPage, dtype: np.dtype[Any], bits: int) -> float | None:
    """Return the smallest declared maximum: by stored bits, by significant bits or as a value; else None."""
    found = [top_of_bits(bits, dtype)]
    if page.significant_bits is not None:
        found.append(top_of_bits(page.significant_bits, dtype))
    for tag in (MAX_SAMPLE_VALUE, S_MAX_SAMPLE_VALUE):
        values = set(page.ifd.numbers(tag))
        if len(values) == 1:
            found.append(top_of_value(values.pop(), dtype))
    return min((top for top in found if top is not None), default=None)


def _layout(roles: tuple[ColorInterp, ...]) -> Layout:
    """Return the layout of channels: gray, RGB or alpha only where the file says so."""
    alpha = roles[-1] is ColorInterp.alpha and len(roles) > 1
    color = roles[:-1] if alpha else roles
    if color == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
        return Layout("rgb", len(roles), alpha)
    return Layout("gray" if len(color) == 1 else "bands", len(roles), alpha)
