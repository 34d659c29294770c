"""OME-Zarr metadata: axes, pixel positions and channels, as plain dictionaries.

OME-Zarr (ome-ngff) 0.4 and 0.5, https://ngff.openmicroscopy.org/0.5/. On each axis the centre of pixel i is
at ``scale * i + translation``. An enlarged image covers the same area, so the centre of its first pixel is
closer to the edge::

    LR    |       0       |       1       |       first centre at t, pixel size a
    HR    |   0   |   1   |   2   |   3   |       first centre at t - a/2 + a/2s
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..._version import __version__
from ...errors import ImageError
from ...image.info import Layout, top_of_value

LETTERS = "tczyx"
_ALPHA = "alpha"
_WHITE = "FFFFFF"
_PRIMARIES = ("FF0000", "00FF00", "0000FF")
_RGB_LABELS = (("red", "green", "blue"), ("r", "g", "b"))


@dataclass(frozen=True, slots=True)
class Image:
    """A multiscale image.

    Attributes
    ----------
    axes : tuple of dict
        Name, type and unit of each axis, as in the file.
    path : str
        Array of level 0 within the group.
    scale, translation : tuple of float
        Pixel size and first pixel centre of level 0, by axis.
    common : list
        Transformations that follow those of every level, as in the file.
    name : str, optional
        Name of the image.
    omero : dict, optional
        Display settings of the channels, as in the file.
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
        """Letters of the axes, such as ``"tczyx"``."""
        return "".join(str(axis["name"]).lower() for axis in self.axes)


def parse(attributes: dict[str, Any], where: str) -> Image:
    """Read the first of the ``multiscales``, and ``omero``.

    Parameters
    ----------
    attributes : dict
        Attributes of the group (0.4), or their ``ome`` object (0.5).
    where : str
        Name of the image in error messages.

    Raises
    ------
    ImageError
        If the metadata are invalid.
    """

    def require(valid: bool, rule: str) -> None:
        if not valid:
            raise ImageError(f"{where}: OME-Zarr metadata: {rule}")

    def is_list(value: Any) -> bool:
        return isinstance(value, list) and len(value) > 0

    multiscales: Any = attributes.get("multiscales")
    require(is_list(multiscales), "multiscales must be a non-empty list")
    first = multiscales[0]
    require(isinstance(first, dict), "multiscales[0] must be an object")
    axes = first.get("axes")
    require(
        isinstance(axes, list) and all(isinstance(a, dict) and isinstance(a.get("name"), str) for a in axes),
        "axes must be a list of objects with a name (0.4 or 0.5)",
    )
    names = [a["name"].lower() for a in axes]
    require(
        len(set(names)) == len(names) and set(names) <= set(LETTERS) and {"y", "x"} <= set(names),
        f"axes must be y and x, and optionally t, c and z, each once, got {', '.join(names)[:80]}",
    )
    levels = first.get("datasets")
    require(is_list(levels) and isinstance(levels[0], dict), "datasets must be a non-empty list of objects")
    path, steps = levels[0].get("path"), levels[0].get("coordinateTransformations")
    require(isinstance(path, str), f"path must be a string, got {path!r:.80}")
    require(is_list(steps), "coordinateTransformations must be a non-empty list")
    scale, translation = [1.0] * len(names), [0.0] * len(names)
    for step in steps:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "identity":
            continue
        require(
            kind in ("scale", "translation"),
            f"a transformation must be scale or translation, got {kind!r:.80}",
        )
        values: Any = _vector(step.get(kind), len(names))
        require(bool(values), f"{kind} must be {len(names)} numbers, got {step.get(kind)!r:.80}")
        if kind == "scale":  # transformations are applied in the order of the list
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            translation = [a * b for a, b in zip(translation, values, strict=True)]
        else:
            translation = [a + b for a, b in zip(translation, values, strict=True)]
    common, name, omero = first.get("coordinateTransformations"), first.get("name"), attributes.get("omero")
    return Image(
        axes=tuple(axes),
        path=path,
        scale=tuple(scale),
        translation=tuple(translation),
        common=common if isinstance(common, list) else [],
        name=name if isinstance(name, str) else None,
        omero=omero if isinstance(omero, dict) else None,
    )


def describe(image: Image, scale: int, levels: int) -> dict[str, Any]:
    """Return the ``ome`` object of the enlarged image (0.5).

    Parameters
    ----------
    image : Image
        The LR image.
    scale : int
        Scale factor.
    levels : int
        Number of levels. Level k is the array ``str(k)`` of the group, with pixels 2**k times larger.
    """
    datasets = []
    for level in range(levels):
        sizes, centres = list(image.scale), list(image.translation)
        for k, letter in enumerate(image.letters):
            if letter in "yx":
                sizes[k] = image.scale[k] * 2**level / scale
                centres[k] += (sizes[k] - image.scale[k]) / 2
        steps = [{"type": "scale", "scale": sizes}, {"type": "translation", "translation": centres}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
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
    """Return the meaning of the channels: bands, unless they are declared as RGB.

    Display in red, green and blue is not enough, because fluorescence channels are displayed so too. The
    channels must also be labelled red, green and blue, or be 8-bit and displayed over the full range, as
    converted photographs are. A last channel labelled alpha is alpha.

    Parameters
    ----------
    omero : dict, optional
        Display settings of the channels.
    channels : int
        Number of channels, at least 2.
    dtype : str
        NumPy name of the sample type.
    """
    listed = _channels(omero)
    if len(listed) != channels or not all(isinstance(c, dict) for c in listed):
        return Layout("bands", channels)
    labels = [str(c.get("label", "")).strip().lower() for c in listed]
    alpha = labels[-1] == _ALPHA
    color = listed[: channels - alpha]
    if len(color) == 1:
        return Layout("gray", channels, alpha)
    rgb = [str(c.get("color", "")).upper() for c in color] == list(_PRIMARIES)
    named = tuple(labels[:3]) in _RGB_LABELS
    full = dtype == "uint8" and all(_window(c, "start", "end") == [0, 255] for c in color)
    return Layout("rgb" if rgb and (named or full) else "bands", channels, alpha)


def top(omero: dict[str, Any] | None, dtype: np.dtype[Any]) -> float | None:
    """Return the declared maximum of the samples if it is the same for all channels, else None.

    The ``min`` and ``max`` of a display window limit its ``start`` and ``end``. Programs write either the
    possible or the actual range of the samples there, which `top_of_value` distinguishes.
    """
    found = set()
    for channel in _channels(omero):
        limits = _vector(_window(channel, "min", "max"), 2)
        if limits is None or limits[0] not in (0, -limits[1] - 1):
            return None
        found.add(top_of_value(limits[1], dtype))
    return found.pop() if len(found) == 1 else None


def plain(meaning: Layout, dtype: np.dtype[Any], top: float | None = None) -> Image:
    """Return the metadata of an image from another format: pixels of size 1 without a unit.

    Parameters
    ----------
    meaning : Layout
        Layout of the image.
    dtype : numpy.dtype
        Type of its samples.
    top : float, optional
        Declared maximum of its samples. By default that of the type, or 1 for floats.
    """
    letters = "yx" if meaning.channels == 1 else "cyx"
    labels: list[tuple[str, str]] = []
    if meaning.color == "rgb":
        labels = list(zip(("red", "green", "blue"), _PRIMARIES, strict=True))
    elif meaning.alpha:
        bands = meaning.color == "bands"
        labels = [(f"band {k + 1}" if bands else "gray", _WHITE) for k in range(meaning.colors)]
    if meaning.alpha:
        labels.append((_ALPHA, _WHITE))
    if top is not None and not labels:  # the display window is the only place for `top`
        labels = [("", _WHITE)] * meaning.channels
    white = int(top if top is not None else 1 if dtype.kind == "f" else np.iinfo(dtype).max)
    black = -white - 1 if dtype.kind == "i" else 0
    window = {"min": black, "max": white, "start": black, "end": white}
    channels = [
        {"label": label, "color": color, "active": label != _ALPHA, "window": dict(window)}
        for label, color in labels
    ]
    return Image(
        axes=tuple({"name": a, "type": "channel" if a == "c" else "space"} for a in letters),
        path="0",
        scale=(1.0,) * len(letters),
        translation=(0.0,) * len(letters),
        omero={"channels": channels} if channels else None,
    )


def _channels(omero: dict[str, Any] | None) -> list[Any]:
    found = (omero or {}).get("channels")
    return found if isinstance(found, list) else []


def _vector(values: Any, count: int) -> list[float] | None:
    """Return `count` finite numbers; None if `values` are anything else."""
    valid = isinstance(values, list) and all(type(v) in (int, float) for v in values)
    if not valid or len(values) != count:
        return None
    try:
        found = [float(v) for v in values]
    except OverflowError:
        return None
    return found if all(math.isfinite(v) for v in found) else None


def _window(channel: Any, low: str, high: str) -> list[Any] | None:
    """Return two values of a channel's display window."""
    window = channel.get("window") if isinstance(channel, dict) else None
    return [window.get(low), window.get(high)] if isinstance(window, dict) else None
