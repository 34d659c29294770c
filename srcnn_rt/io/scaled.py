"""What a TIFF says beside its pixels, made true for a picture `scale` times larger."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

# An OME-XML comment's numbers; the text around them stays as it is, byte for byte.
_OME_SIZE = re.compile(r"""(\bSize[XY]\s*=\s*)(["'])(\d{1,18})\2""")
_OME_PHYSICAL = re.compile(r"""(\bPhysicalSize[XY]\s*=\s*)(["'])([0-9.eE+-]{1,40})\2""")
_RESOLUTION = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")


def transform(t: Affine, scale: int) -> Affine:
    """Return the geotransform of the same corner and smaller pixels."""
    return Affine(t.a / scale, t.b / scale, t.c, t.d / scale, t.e / scale, t.f)


def gcps(points: Sequence[GroundControlPoint], scale: int) -> list[GroundControlPoint]:
    """Return ground control points at the same places of the ground; (0, 0) is the picture's corner."""
    return [
        GroundControlPoint(row=p.row * scale, col=p.col * scale, x=p.x, y=p.y, z=p.z, id=p.id, info=p.info)
        for p in points
    ]


def rpcs(model: RPC, scale: int) -> RPC:
    """Return the rational camera model of the larger picture.

    Its lines and samples count from the centre of the first pixel, so a place p becomes
    s·p + (s − 1)/2.
    """
    shift = (scale - 1) / 2
    numbers = model.to_dict() | {
        "line_off": model.line_off * scale + shift,
        "samp_off": model.samp_off * scale + shift,
        "line_scale": model.line_scale * scale,
        "samp_scale": model.samp_scale * scale,
    }
    return RPC(**numbers)


def tags(items: Mapping[str, str], scale: int, shape: tuple[int, int]) -> dict[str, str]:
    """Return TIFF's tags by GDAL's names: resolution times `scale`, sizes in the description with it.

    `shape` is (H, W) of the source.
    """
    out = dict(items)
    for key in _RESOLUTION:  # the print size stays, so there are more pixels an inch
        if key in out:
            try:
                out[key] = str(float(out[key]) * scale)
            except ValueError:  # GDAL would write 0
                del out[key]
    if "TIFFTAG_IMAGEDESCRIPTION" in out:
        out["TIFFTAG_IMAGEDESCRIPTION"] = description(out["TIFFTAG_IMAGEDESCRIPTION"], scale, shape)
    return out


def description(text: str, scale: int, shape: tuple[int, int]) -> str:
    """Return an image description; of OME-XML, with pixels smaller and more of them.

    The shape that tifffile writes is made true as well, or it would warn of the file.
    """
    if text.startswith('{"shape": ['):
        (h, w), end = shape, text.find("]")
        return text[:end].replace(f"{h}, {w}", f"{h * scale}, {w * scale}", 1) + text[end:]
    if "<OME" not in text[:2000]:
        return text

    def larger(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{int(match[3]) * scale}{match[2]}"

    def smaller(match: re.Match[str]) -> str:
        try:
            return f"{match[1]}{match[2]}{float(Fraction(match[3]) / scale)!r}{match[2]}"
        except (ValueError, OverflowError, ZeroDivisionError):
            return match[0]

    return _OME_PHYSICAL.sub(smaller, _OME_SIZE.sub(larger, text))


def affected(raster: Mapping[str, Any]) -> bool:
    """Return whether any item places the picture on the ground."""
    return bool(raster.get("crs") or raster.get("transform") or raster.get("gcps") or raster.get("rpcs"))
