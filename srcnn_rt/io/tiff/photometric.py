"""What the samples of a TIFF's page mean, and what they become: upright values of whole bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from ...errors import ArgumentError, ImageError
from ...image.info import SAMPLE_TYPES, Layout, Reading, top_of_bits, top_of_value
from .ifd import SHORT, Directory, Field

PHOTOMETRIC, COLOR_MAP, EXTRA = 262, 320, 338
PALETTE = 3
_MAX_VALUE, _S_MAX_VALUE, _SAMPLE_FORMAT, _SIGNED = 281, 341, 339, 2
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _SEPARATED, _CIELAB, _ICCLAB, _ITULAB = 0, 1, 5, 8, 9, 10
# Colours that neither GDAL's RGB nor ours are: kept as the channels they are.
_OTHER_COLOURS = (_SEPARATED, _CIELAB, _ICCLAB, _ITULAB)
# What such channels are called: photometric, inks, their names and number, the range of dots, and what
# channels beyond them are.
_INK_FIELDS = (PHOTOMETRIC, 332, 333, 334, 336, EXTRA)


@dataclass(frozen=True, slots=True)
class Kind:
    """How stored samples become those that the network sees.

    Attributes
    ----------
    layout, dtype : of the result
    roles : of the channels by GDAL's names, None where they are the layout's usual ones
    bits : of a stored sample
    palette : (2**n, C) colours by stored value
    table : (2**n,) values of gray by stored value, of 1 to 7 bits
    white : the value of gray that stands for 0, from which it counts down; None if it counts up
    short_signed : whether fewer bits than the type's hold a sign
    top : the largest value that is declared, where that is less than the type's
    premultiplied : whether colour was multiplied by alpha
    signed : channels whose integers have a sign that their type does not say: a* and b* of CIELab
    fields : tags of the source that say what is kept as it is
    colormap : colours of classes by their numbers, as a field of the result; None if they have none
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
        """Whether a sample's value is the stored one."""
        return self.palette is None and self.table is None and self.white is None

    def expand(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Return (h, w, C) samples of the result from those stored; never changes them."""
        if self.palette is not None:
            return np.asarray(self.palette[samples[:, :, 0]])
        if self.short_signed:
            samples = extend_signs(samples, self.bits)
        if self.dtype == np.float16:  # GDAL gives float32
            samples = samples.astype(np.float16)
        if self.table is not None or self.white is not None:
            gray = self._gray(samples[:, :, :1] if self.layout.alpha else samples)
            samples = np.concatenate([gray, samples[:, :, 1:]], axis=2) if self.layout.alpha else gray
        if self.premultiplied:
            samples = straight(samples, self.top)
        if self.signed is not None:
            samples = samples.copy()
            turn_signs(samples, self.signed)
        return samples

    def nodata(self, value: float | None) -> float | None:
        """Return what a nodata value is among the result's samples; None if no sample can be it."""
        if value is None or self.palette is not None or self.signed is not None:
            return None  # a palette's is transparent
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


def needs_raw(head: Directory) -> bool:
    """Return whether GDAL would make RGB of the page's colours, and must not."""
    return _photometric(head) in _OTHER_COLOURS


def kind_of(
    path: Path,
    file: Any,
    head: Directory,
    reading: Reading,
    *,
    placed: bool,
    significant: int | None = None,
) -> Kind:
    """Tell what a page's samples are.

    The directory is asked rather than GDAL for what decides about white and black: GDAL gives some such
    images a palette, and others none.

    Parameters
    ----------
    file : the page, open in rasterio
    head : its directory
    reading : what its samples are taken for
    placed : whether it has a place on the ground
    significant : bits of a sample, as the file's description says

    Raises
    ------
    ImageError, ArgumentError
    """
    if file.count == 0 or file.width < 1 or file.height < 1:
        raise ImageError(f"{path}: an image needs samples, got {file.width} x {file.height} x {file.count}")
    if len(set(file.dtypes)) > 1 or file.dtypes[0] not in SAMPLE_TYPES:
        kinds = ", ".join(sorted(set(file.dtypes)))
        raise ImageError(f"{path}: samples must be {', '.join(SAMPLE_TYPES)}, got {kinds}")
    dtype = np.dtype(file.dtypes[0])
    bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", dtype.itemsize * 8))
    if dtype.kind == "f":
        dtype = np.dtype(np.float16) if bits == 16 else dtype
        bits = dtype.itemsize * 8
    formats = head.get(_SAMPLE_FORMAT)
    # GDAL does not tell such numbers from unsigned ones.
    short_signed = bool(
        dtype.kind == "u" and bits < 8 * dtype.itemsize and formats and formats.numbers()[:1] == (_SIGNED,)
    )
    if short_signed:
        dtype = np.dtype(f"int{8 * dtype.itemsize}")
    photometric, extra = _photometric(head), head.get(EXTRA)
    roles: tuple[ColorInterp, ...] = file.colorinterp
    drawn = photometric == PALETTE or (photometric == _BLACK_IS_ZERO and bits == 8)
    indexed = file.count == 1 and roles[0] is ColorInterp.palette and dtype.kind == "u" and drawn
    if reading.classes:
        return _classes(path, file, head, dtype, bits, indexed)
    if photometric in _OTHER_COLOURS:
        signed = slice(1, 3) if photometric == _CIELAB and dtype.kind == "u" else None
        # Inks are not divided by an alpha that was multiplied into them: that one is a band like the others.
        alpha = file.count > 1 and extra is not None and extra.numbers()[-1:] == (2,)
        layout = reading.meaning(Layout("bands", file.count, alpha))
        top = None if signed else _top(head, dtype, bits, significant)
        return Kind(
            layout, dtype, None, bits, short_signed=short_signed, top=top, signed=signed, fields=_INK_FIELDS
        )
    if indexed and dtype.itemsize <= 2:
        if placed:
            raise ImageError(
                f"{path}: a palette with a place on the ground is of classes, which must not be blended; "
                "--classes enlarges them as they are (a drawn map has to be made RGB first)"
            )
        nodata = file.nodata if reading.nodata is None else reading.nodata
        palette = _palette(file, 2 ** (8 * dtype.itemsize), nodata)
        return Kind(Layout.of(palette.shape[1]), palette.dtype, None, bits, palette=palette)
    layout = reading.meaning(_layout(roles))
    if roles[0] is ColorInterp.palette:  # GDAL's way to say that white is zero
        roles = (ColorInterp.gray, *roles[1:])
    # Bands are a sensor's numbers, so white-is-zero only says how they are shown.
    inverted = photometric == _WHITE_IS_ZERO and layout.color == "gray" and dtype.kind == "u"
    table = _table(bits, inverted) if dtype.kind == "u" and bits < 8 else None
    white = 2**bits - 1 if inverted and table is None else None
    top = _top(head, dtype, bits, significant) if white is None else top_of_bits(bits, dtype)
    premultiplied = bool(layout.alpha and extra and extra.numbers()[-1:] == (1,))
    return Kind(
        layout,
        dtype,
        None if inverted else roles,
        bits,
        table=table,
        white=white,
        short_signed=short_signed,
        top=top if table is None else None,
        premultiplied=premultiplied,
        fields=_kept_fields(photometric, layout, inverted, premultiplied),
    )


def _classes(path: Path, file: Any, head: Directory, dtype: np.dtype[Any], bits: int, indexed: bool) -> Kind:
    """Tell how numbers of classes are kept: as they are, with their colours."""
    if dtype.kind not in "iu":
        raise ArgumentError(f"{path}: classes are whole numbers, got {dtype}")
    photometric, roles = _photometric(head), tuple(file.colorinterp)
    colormap = _colormap(file, head, bits, dtype) if indexed else None
    if roles[0] is ColorInterp.palette:  # the field of colours says so, where there is one
        roles = (ColorInterp.gray, *roles[1:])
    return Kind(
        Layout("classes", file.count),
        dtype,
        None if indexed else roles,
        bits,
        fields=(PHOTOMETRIC, EXTRA) if photometric == _WHITE_IS_ZERO else (EXTRA,),
        colormap=colormap,
    )


def _colormap(file: Any, head: Directory, bits: int, dtype: np.dtype[Any]) -> Field:
    """Return a table of colours for all numbers of a type: as it stands, the rest black."""
    size = 2 ** (8 * dtype.itemsize)
    table = np.zeros((3, size), "<u2")
    field = head.get(COLOR_MAP)
    if field is not None and field.type == SHORT and field.count == 3 * 2**bits:
        table[:, : 2**bits] = np.frombuffer(field.data, "<u2").reshape(3, -1)
    else:  # beside the file
        for index, color in file.colormap(1).items():
            if index < size:
                table[:, index] = np.array(color[:3], "<u2") * 257
    return Field(COLOR_MAP, SHORT, table.tobytes())


def straight(samples: NDArray[Any], top: float | None = None) -> NDArray[Any]:
    """Divide colour by the alpha that was multiplied into it.

    Parameters
    ----------
    top : the alpha of what is opaque; None for the largest of the type, or 1 of floats
    """
    # A float32 does not hold every integer of 32 bits.
    wide = np.dtype(np.float32 if samples.dtype.itemsize < 4 or samples.dtype == np.float32 else np.float64)
    floats = samples.dtype.kind == "f"
    maximum = wide.type(top or (1 if floats else np.iinfo(samples.dtype).max))
    alpha, color = samples[:, :, -1:].astype(wide), samples[:, :, :-1].astype(wide)
    color = np.divide(color * maximum, alpha, out=np.zeros_like(color), where=alpha > 0)
    out = samples.copy()
    if floats:
        with np.errstate(over="ignore"):  # of float16, what is beyond it is infinite
            out[:, :, :-1] = color
    else:
        minimum = wide.type(np.iinfo(samples.dtype).min)
        out[:, :, :-1] = np.rint(np.clip(color, minimum, maximum)).astype(samples.dtype)
    return out


def extend_signs(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return integers whose lowest `bits` bits are two's complement as the signed type of their size."""
    room = samples.dtype.itemsize * 8 - bits
    return (samples << room).view(f"i{samples.dtype.itemsize}") >> room


def turn_signs(samples: NDArray[Any], channels: slice) -> None:
    """Turn two's complement into an offset of half the range, or back, in place.

    -1 is beside 0 then, as interpolation needs it.
    """
    samples[:, :, channels] ^= samples.dtype.type(1 << (samples.dtype.itemsize * 8 - 1))


def _kept_fields(
    photometric: int | None, layout: Layout, inverted: bool, premultiplied: bool
) -> tuple[int, ...]:
    kept = (PHOTOMETRIC,) if photometric == _WHITE_IS_ZERO and not inverted else ()
    extra = layout.color == "bands" and photometric in (0, 1, 2) and not premultiplied
    return (*kept, EXTRA) if extra else kept


def _photometric(head: Directory) -> int | None:
    field = head.get(PHOTOMETRIC)
    return field.numbers()[0] if field and field.numbers() else None


def _palette(file: Any, size: int, nodata: Any) -> NDArray[np.uint8]:
    """Return a palette's colours as gray, RGB or RGBA, whichever holds them all."""
    table = np.zeros((size, 4), np.uint8)
    table[:, 3] = 255  # entries the file does not define are opaque black
    for index, color in file.colormap(1).items():
        table[index] = color
    if isinstance(nodata, int | float) and 0 <= nodata < size and nodata == int(nodata):
        table[int(nodata), 3] = 0
    opaque = bool((table[:, 3] == 255).all())
    grays = bool((table[:, 0] == table[:, 1]).all() and (table[:, 1] == table[:, 2]).all())
    return np.asarray(table[:, : 1 if opaque and grays else 3 if opaque else 4])


def _table(bits: int, inverted: bool) -> NDArray[np.uint8]:
    """Return what fewer than 8 bits mean when they are spread over 8.

    9 to 15 bits, and 17 to 31, stay the numbers they are: they are a sensor's.
    """
    maximum = 2**bits - 1
    values = np.minimum(np.arange(256), maximum)
    return np.asarray(np.rint((maximum - values if inverted else values) * (255 / maximum)), np.uint8)


def _top(head: Directory, dtype: np.dtype[Any], bits: int, significant: int | None) -> float | None:
    """Return the largest value that a page declares for its samples, None if that is the type's.

    It is said by the bits that are stored, by those of them that are significant, or as a value.
    """
    found = [top_of_bits(bits, dtype)]
    if significant is not None:
        found.append(top_of_bits(significant, dtype))
    for tag in (_MAX_VALUE, _S_MAX_VALUE):
        field = head.get(tag)
        values = set(field.numbers()) if field else set()
        if len(values) == 1:
            found.append(top_of_value(values.pop(), dtype))
    return min((top for top in found if top is not None), default=None)


def _layout(roles: tuple[ColorInterp, ...]) -> Layout:
    """Read bands as gray, RGB or with alpha only where the file says so."""
    alpha = roles[-1] is ColorInterp.alpha and len(roles) > 1
    color = roles[:-1] if alpha else roles
    if color == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
        return Layout("rgb", len(roles), alpha)
    if len(color) == 1:
        return Layout("gray", len(roles), alpha)
    return Layout("bands", len(roles), alpha)
