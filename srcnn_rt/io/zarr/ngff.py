"""What OME-Zarr says of an image: axes, where its pixels lie, channels. Plain dictionaries, no files.

OME-Zarr (ome-ngff) 0.4 and 0.5, https://ngff.openmicroscopy.org/0.5/. On one axis the centre of pixel i
lies at ``scale * i + translation``. An enlarged image covers the same area, so its first pixel's centre
lies nearer to the edge::

    LR    |       0       |       1       |       first centre at t, pixels of size a
    HR    |   0   |   1   |   2   |   3   |       first centre at t - a/2 + a/2s
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..._version import __version__
from ...errors import ImageError
from ...image.info import Layout, top_of_value

LETTERS = "tczyx"
_ALPHA = "alpha"
_PRIMARY = ("FF0000", "00FF00", "0000FF")
_RGB_LABELS = (("red", "green", "blue"), ("r", "g", "b"))
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


@dataclass(frozen=True, slots=True)
class Image:
    """One image of several levels.

    Attributes
    ----------
    axes : as the file has them: name, type, unit
    path : of level 0, within the group
    scale, translation : of level 0, for every axis
    common : transformations that follow those of every level, as the file has them
    name : None if it has none
    omero : how channels are to be shown, as the file has it; None if it does not say
    """

    axes: tuple[dict[str, Any], ...]
    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    common: list[Any] = field(default_factory=list)
    name: str | None = None
    omero: dict[str, Any] | None = None

    @property
    def letters(self) -> str:
        """The axes by their letters, such as ``"tczyx"``."""
        return "".join(str(axis["name"]).lower() for axis in self.axes)


def parse(attributes: dict[str, Any], where: str) -> Image:
    """Read ``multiscales``, the first of them, and ``omero``.

    Parameters
    ----------
    attributes : of the group (0.4), or what they have under ``ome`` (0.5)
    where : what errors call the image

    Raises
    ------
    ImageError
        Naming the rule that the metadata break.
    """

    def need(right: bool, rule: str) -> None:
        if not right:
            raise ImageError(f"{where}: OME-Zarr metadata: {rule}")

    several = attributes.get("multiscales")
    need(isinstance(several, list) and len(several) > 0, "multiscales must be a list of at least one")
    first = several[0] if isinstance(several, list) else None
    if not isinstance(first, dict):
        raise ImageError(f"{where}: OME-Zarr metadata: multiscales[0] must be an object")
    axes = first.get("axes")
    need(
        isinstance(axes, list) and all(isinstance(a, dict) and isinstance(a.get("name"), str) for a in axes),
        "axes must be a list of objects with a name (0.4 or 0.5)",
    )
    names = [a["name"].lower() for a in axes or ()]
    need(
        len(set(names)) == len(names) and set(names) <= set(LETTERS) and {"y", "x"} <= set(names),
        f"axes must be y, x and others of t, c, z, once each, got {', '.join(names)[:80]}",
    )
    levels = first.get("datasets")
    need(
        isinstance(levels, list) and len(levels) > 0 and isinstance(levels[0], dict),
        "datasets must be a list of at least one object",
    )
    level = levels[0] if levels else {}
    path = level.get("path")
    need(isinstance(path, str), f"path must be a text, got {path!r:.80}")
    listed = level.get("coordinateTransformations")
    need(isinstance(listed, list) and len(listed) > 0, "coordinateTransformations must be a list")
    scale, translation = [1.0] * len(names), [0.0] * len(names)
    for step in listed or ():
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "identity":
            continue
        need(
            kind in ("scale", "translation"),
            f"a transformation must be scale or translation, got {kind!r:.80}",
        )
        values = _vector(step.get(kind), len(names))
        if values is None:
            raise ImageError(
                f"{where}: OME-Zarr metadata: {kind} must be {len(names)} numbers, got {step.get(kind)!r:.80}"
            )
        if kind == "scale":  # in the order in which they are listed
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            translation = [a * b for a, b in zip(translation, values, strict=True)]
        else:
            translation = [a + b for a, b in zip(translation, values, strict=True)]
    common, name, omero = (first.get("coordinateTransformations"), first.get("name"), attributes.get("omero"))
    return Image(
        axes=tuple(axes or ()),
        path=str(path),
        scale=tuple(scale),
        translation=tuple(translation),
        common=common if isinstance(common, list) else [],
        name=name if isinstance(name, str) else None,
        omero=omero if isinstance(omero, dict) else None,
    )


def describe(image: Image, scale: int, levels: int) -> dict[str, Any]:
    """Return what stands under ``ome`` of the enlarged image (0.5).

    Parameters
    ----------
    image : what the LR image's file says
    scale : HR pixels an LR pixel
    levels : of the pyramid; level k is the group's array ``str(k)``, its pixels 2^k times larger
    """
    datasets = []
    for level in range(levels):
        sizes, places = list(image.scale), list(image.translation)
        for k, letter in enumerate(image.letters):
            if letter in "yx":
                sizes[k] = image.scale[k] * 2**level / scale
                places[k] += (sizes[k] - image.scale[k]) / 2
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": sizes},
                    {"type": "translation", "translation": places},
                ],
            }
        )
    multiscale: dict[str, Any] = {
        "axes": [dict(axis) for axis in image.axes],
        "datasets": datasets,
        "type": "mean",
        "metadata": {"method": "srcnn_rt", "version": __version__, "description": "mean of 2 x 2 pixels"},
    }
    if image.name is not None:
        multiscale["name"] = image.name
    if image.common:
        multiscale["coordinateTransformations"] = image.common
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if image.omero is not None:
        ome["omero"] = image.omero
    return ome


def layout(omero: dict[str, Any] | None, channels: int, dtype: str) -> Layout:
    """Return what channels mean: bands, each on its own, unless they say that they are RGB.

    Three that are shown in red, green and blue are not enough, fluorescence is too. They must also be
    labelled so, or be 8-bit and all shown over the full range, as files made from photographs are.
    A last channel labelled alpha is.
    """
    if channels == 1:
        return Layout("gray", 1)
    listed = (omero or {}).get("channels")
    bands = Layout("bands", channels)
    if not isinstance(listed, list) or len(listed) != channels:
        return bands
    if not all(isinstance(c, dict) for c in listed):
        return bands
    labels = [str(c.get("label", "")).strip().lower() for c in listed]
    alpha = labels[-1] == _ALPHA
    bands = Layout("bands", channels, alpha)
    color = listed[: channels - alpha]
    if len(color) == 1:
        return Layout("gray", channels, alpha)
    if [str(c.get("color", "")).upper() for c in color] != list(_PRIMARY):
        return bands
    named = tuple(labels[:3]) in _RGB_LABELS
    full = dtype == "uint8" and all(_window(c) == (0, 255) for c in color)
    return Layout("rgb", channels, alpha) if named or full else bands


def top(omero: dict[str, Any] | None, dtype: np.dtype[Any]) -> float | None:
    """Return the largest value that channels may have, where all are said to have the same; else None.

    Of a window, ``min`` and ``max`` are how far it can be moved, ``start`` and ``end`` where it stands.
    Programs write what the samples can be, or what they happen to be, there: see `image.top_of_value`.
    """
    listed = (omero or {}).get("channels")
    if not isinstance(listed, list) or not listed:
        return None
    found = set()
    for channel in listed:
        window = channel.get("window") if isinstance(channel, dict) else None
        limits = _vector([window.get("min"), window.get("max")], 2) if isinstance(window, dict) else None
        if limits is None or limits[0] not in (0, -limits[1] - 1):
            return None
        found.add(top_of_value(limits[1], dtype))
    return found.pop() if len(found) == 1 else None


def plain(meaning: Layout, dtype: np.dtype[Any], top: float | None = None) -> Image:
    """Return what is said of an image that comes from no OME-Zarr: pixels of size 1, without a unit.

    Parameters
    ----------
    top : the largest value that its samples may have, None for that of the type, or 1 of floats
    """
    letters = "yx" if meaning.channels == 1 else "cyx"
    names: list[tuple[str, str]] = []
    if meaning.color == "rgb":
        names = list(zip(("red", "green", "blue"), _PRIMARY, strict=True))
    elif meaning.alpha:
        names = [
            (f"band {k + 1}" if meaning.color == "bands" else "gray", "FFFFFF") for k in range(meaning.colors)
        ]
    if meaning.alpha:
        names.append((_ALPHA, "FFFFFF"))
    if top is not None and not names:  # it would stand nowhere else
        names = [("", "FFFFFF")] * meaning.channels
    white = int(top if top is not None else 1 if dtype.kind == "f" else np.iinfo(dtype).max)
    black = -white - 1 if dtype.kind == "i" else 0
    shown = [
        {
            "label": label,
            "color": color,
            "active": label != _ALPHA,
            "window": {"min": black, "max": white, "start": black, "end": white},
        }
        for label, color in names
    ]
    return Image(
        axes=tuple({"name": a, "type": _TYPES[a]} for a in letters),
        path="0",
        scale=(1.0,) * len(letters),
        translation=(0.0,) * len(letters),
        omero={"channels": shown} if shown else None,
    )


def _vector(values: Any, count: int) -> list[float] | None:
    """Return `count` finite numbers as they are, or None if `values` are not."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return None
    try:
        found = [float(v) for v in values]
    except OverflowError:
        return None
    return found if all(math.isfinite(v) for v in found) else None


def _window(channel: dict[str, Any]) -> tuple[Any, Any] | None:
    window = channel.get("window")
    return (window.get("start"), window.get("end")) if isinstance(window, dict) else None
