"""Write Zarr folders as other programs do: OME-Zarr 0.4 and 0.5, and plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
TYPES = {"t": "time", "c": "channel"}


def axes_of(letters: str) -> list[dict[str, str]]:
    found = []
    for a in letters:
        found.append({"name": a, "type": TYPES.get(a, "space")})
        if a in UNITS:
            found[-1]["unit"] = UNITS[a]
    return found


def ome_zarr(
    path: Path,
    data: np.ndarray,
    letters: str,
    version: str = "0.4",
    scale: tuple[float, ...] | None = None,
    translation: tuple[float, ...] | None = None,
    **more: Any,
) -> Path:
    """Write an OME-Zarr image; `more` are attributes next to its multiscales."""
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(scale or (1.0,) * data.ndim)}]
    if translation is not None:
        steps.append({"type": "translation", "translation": list(translation)})
    multiscale = {
        "name": "cells",
        "axes": axes_of(letters),
        "datasets": [{"path": "s0", "coordinateTransformations": steps}],
    }
    if version == "0.4":
        group = zarr.create_group(path, zarr_format=2)
        group.attrs.update({"multiscales": [{"version": "0.4", **multiscale}], "_creator": "me", **more})
    else:
        group = zarr.create_group(path, zarr_format=3)
        group.attrs.update({"ome": {"version": "0.5", "multiscales": [multiscale], **more}, "_creator": "me"})
    chunks = tuple(min(40, n) if a in "yx" else 1 for a, n in zip(letters, data.shape, strict=True))
    group.create_array("s0", data=data, chunks=chunks)
    return path


def plain_zarr(path: Path, data: np.ndarray, zarr_format: int = 3, **options: Any) -> Path:
    chunks = tuple(min(40, n) for n in data.shape)
    zarr.create_array(path, data=data, chunks=chunks, zarr_format=zarr_format, **options)
    return path
