"""The one EXIF item that changes what a picture looks like: its orientation."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

_ORIENTATION = 0x0112
_SHORT = 3


def orientation(exif: bytes | None) -> int:
    """Return the orientation 1 … 8 of an EXIF block (a TIFF header and its first folder).

    1, as displayed, if there is none or it is not legal.
    """
    place = _find(exif or b"")
    if place is None:
        return 1
    offset, order = place
    value = int.from_bytes((exif or b"")[offset : offset + 2], order)
    return value if 1 <= value <= 8 else 1


def upright(exif: bytes | None) -> bytes | None:
    """Return the same EXIF block saying orientation 1, for a picture already turned."""
    place = _find(exif or b"")
    if exif is None or place is None:
        return exif
    offset, order = place
    return exif[:offset] + (1).to_bytes(2, order) + exif[offset + 2 :]


def turn(picture: NDArray[Any], value: int) -> NDArray[Any]:
    """Return a view of an (H, W, C) picture turned and flipped as orientation `value` asks."""
    if value >= 5:
        picture = picture.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        picture = picture[::-1]
    if value in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture


def _find(exif: bytes) -> tuple[int, Any] | None:
    """Return the byte offset of the orientation's value and the byte order."""
    orders = {b"II*\0": "little", b"MM\0*": "big"}
    order: Any = orders.get(exif[:4])
    if order is None:
        return None

    def number(offset: int, size: int) -> int:
        return int.from_bytes(exif[offset : offset + size], order)

    folder = number(4, 4)
    for k in range(number(folder, 2)):
        entry = folder + 2 + 12 * k
        if entry + 12 > len(exif):
            return None
        if number(entry, 2) == _ORIENTATION and number(entry + 2, 2) == _SHORT:
            return entry + 8, order
    return None
