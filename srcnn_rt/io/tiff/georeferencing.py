"""What a TIFF says beside its pixels, made true for an image `scale` times larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

_RESOLUTION = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION")


def transform(t: Affine, scale: int) -> Affine:
    """Return the geotransform of the same corner and smaller pixels."""
    return Affine(t.a / scale, t.b / scale, t.c, t.d / scale, t.e / scale, t.f)


def gcps(points: Sequence[GroundControlPoint], scale: int) -> list[GroundControlPoint]:
    """Return ground control points at the same places of the ground; (0, 0) is the image's corner."""
    return [
        GroundControlPoint(row=p.row * scale, col=p.col * scale, x=p.x, y=p.y, z=p.z, id=p.id, info=p.info)
        for p in points
    ]


def rpcs(model: RPC, scale: int) -> RPC:
    """Return the rational camera model of the larger image.

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


def tags(items: Mapping[str, str], scale: int) -> dict[str, str]:
    """Return TIFF's tags by GDAL's names: the print size stays, so there are more pixels an inch."""
    out = dict(items)
    for key in _RESOLUTION:
        if key in out:
            try:
                out[key] = repr(float(out[key]) * scale)
            except ValueError:  # GDAL would write 0
                del out[key]
    return out
