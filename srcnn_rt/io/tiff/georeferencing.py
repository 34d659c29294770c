"""Georeference of an enlarged image."""

from __future__ import annotations

from collections.abc import Sequence

from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine


def scaled_transform(transform: Affine, scale: int) -> Affine:
    """Return the transform with the same origin and pixels `scale` times smaller."""
    t = transform
    return Affine(t.a / scale, t.b / scale, t.c, t.d / scale, t.e / scale, t.f)


def scaled_gcps(points: Sequence[GroundControlPoint], scale: int) -> list[GroundControlPoint]:
    """Return ground control points at the same ground positions; (0, 0) is the corner of the image."""
    return [
        GroundControlPoint(row=p.row * scale, col=p.col * scale, x=p.x, y=p.y, z=p.z, id=p.id, info=p.info)
        for p in points
    ]


def scaled_rpcs(model: RPC, scale: int) -> RPC:
    """Return the rational polynomial camera model of the enlarged image.

    Lines and samples of an RPC count from the centre of the first pixel, so position p becomes
    scale * p + (scale - 1) / 2.
    """
    shift = (scale - 1) / 2
    values = model.to_dict() | {
        "line_off": model.line_off * scale + shift,
        "samp_off": model.samp_off * scale + shift,
        "line_scale": model.line_scale * scale,
        "samp_scale": model.samp_scale * scale,
    }
    return RPC(**values)
