"""What the samples of a TIFF's page mean, and what they become: upright values of 8, 16 or 32 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from ...errors import ArgumentError, PictureError
from ...picture import Layout, Reading
from .head import SHORT, Directory, Field

DTYPES = ("uint8", "uint16", "float32")
PHOTOMETRIC, COLOR_MAP, EXTRA = 262, 320, 338
PALETTE = 3
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
    table : (2**n,) values of gray by stored value: of 1 to 7 bits, or with white as zero
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
    premultiplied: bool = False
    signed: slice | None = None
    fields: tuple[int, ...] = ()
    colormap: Field | None = None

    @property
    def values_kept(self) -> bool:
        """Whether a sample's value is the stored one."""
        return self.palette is None and self.table is None

    def expand(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Return (h, w, C) samples of the result from those stored; never changes them."""
        if self.palette is not None:
            return np.asarray(self.palette[samples[:, :, 0]])
        if self.table is not None:
            gray = self.table[samples[:, :, :1]] if self.layout.alpha else self.table[samples]
            samples = np.concatenate([gray, samples[:, :, 1:]], axis=2) if self.layout.alpha else gray
        if self.premultiplied:
            samples = straight(samples)
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
        if not (0 <= value < 2**self.bits and value == int(value)):
            return None
        return float(value if self.table is None else self.table[int(value)])


def needs_raw(head: Directory) -> bool:
    """Return whether GDAL would make RGB of the page's colours, and must not."""
    return _photometric(head) in _OTHER_COLOURS


def kind_of(path: Path, file: Any, head: Directory, reading: Reading, *, placed: bool) -> Kind:
    """Tell what a page's samples are.

    The directory is asked rather than GDAL for what decides about white and black: GDAL gives some such
    pictures a palette, and others none.

    Parameters
    ----------
    file : the page, open in rasterio
    head : its directory
    reading : what its samples are taken for
    placed : whether it has a place on the ground

    Raises
    ------
    PictureError, ArgumentError
    """
    if file.count == 0 or file.width < 1 or file.height < 1:
        raise PictureError(
            f"{path}: a picture needs samples, got {file.width} x {file.height} x {file.count}"
        )
    if len(set(file.dtypes)) > 1 or file.dtypes[0] not in DTYPES:
        kinds = ", ".join(sorted(set(file.dtypes)))
        raise PictureError(f"{path}: samples must be {', '.join(DTYPES)}, got {kinds}")
    dtype = np.dtype(file.dtypes[0])
    bits = (
        32 if dtype.kind == "f" else int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", dtype.itemsize * 8))
    )
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
        return Kind(layout, dtype, None, bits, signed=signed, fields=_INK_FIELDS)
    if indexed:
        if placed:
            raise PictureError(
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
    table = _table(dtype, bits, inverted)
    premultiplied = bool(layout.alpha and extra and extra.numbers()[-1:] == (1,))
    return Kind(
        layout,
        dtype,
        None if inverted else roles,
        bits,
        table=table,
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


def straight(samples: NDArray[Any]) -> NDArray[Any]:
    """Divide colour by the alpha that was multiplied into it."""
    alpha = samples[:, :, -1:].astype(np.float32)
    most = np.float32(1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)
    color = np.divide(
        samples[:, :, :-1] * most, alpha, out=np.zeros_like(samples[:, :, :-1], np.float32), where=alpha > 0
    )
    out = samples.copy()
    if samples.dtype.kind == "f":
        out[:, :, :-1] = color
    else:
        out[:, :, :-1] = np.rint(np.minimum(color, most)).astype(samples.dtype)
    return out


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


def _table(dtype: np.dtype[Any], bits: int, inverted: bool) -> NDArray[Any] | None:
    """Return what stored integers mean, or None if that is themselves.

    Fewer than 8 bits are spread over 8. 9 to 15 bits stay the numbers they are: they are a sensor's.
    """
    if dtype.kind == "f" or not (bits < 8 or inverted):
        return None
    most = 2**bits - 1
    values = np.minimum(np.arange(2 ** (8 * dtype.itemsize)), most)
    if inverted:
        values = most - values
    return np.asarray(np.rint(values * (255 / most)) if bits < 8 else values).astype(dtype)


def _layout(roles: tuple[ColorInterp, ...]) -> Layout:
    """Read bands as gray, RGB or with alpha only where the file says so."""
    alpha = roles[-1] is ColorInterp.alpha and len(roles) > 1
    color = roles[:-1] if alpha else roles
    if color == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
        return Layout("rgb", len(roles), alpha)
    if len(color) == 1:
        return Layout("gray", len(roles), alpha)
    return Layout("bands", len(roles), alpha)
