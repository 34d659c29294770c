"""A finished TIFF made a Cloud-Optimised GeoTIFF, with all that its directory says.

GDAL orders tiles and makes the overviews, but drops EXIF, IPTC, private domains and all fields that it does
not know. They are put back into the head, for which GDAL is made to leave room.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.shutil import copy

from ..._system.safe_files import workspace
from ...errors import OutputError
from . import ifd as tiff_head
from .ifd import TILE_OFFSETS, Directory
from .reader import open_quietly

BLOCK = 512
_PADDING = "SRCNN_RT_PADDING"
# How samples are stored: GDAL's word counts.
_STRUCTURE = (254, 256, 257, 258, 259, 277, 284, 317, 322, 323, TILE_OFFSETS, tiff_head.TILE_COUNTS, 339)
# What samples are: the source's word counts, for overviews too.
_COLOUR = (262, 320, 332, 333, 334, 336, 338)
# GDAL notes before the first directory how tiles are ordered, and before each tile its size.
_NOTE, _LEADER = b"GDAL_STRUCTURAL_METADATA_SIZE=", 4


def make(path: Path, compress: str, resampling: Resampling) -> Path:
    """Copy a finished TIFF into a Cloud-Optimised GeoTIFF with overviews; return where it is.

    Raises
    ------
    OutputError, OSError, RasterioError
    """
    with path.open("rb") as file:
        ours = tiff_head.Reader(file).page().without(TILE_OFFSETS, tiff_head.TILE_COUNTS)
    room = len(tiff_head.lay_out([ours], big=True)[0])
    with open_quietly(f"GTIFF_RAW:{path}", mode="r+", driver="GTiff") as file:
        file.update_tags(**{_PADDING: "x" * room})
    made = workspace(path) / "cog.tif"
    options: dict[str, Any] = {"compress": compress.upper(), "blocksize": BLOCK, "bigtiff": "IF_SAFER"}
    if compress in ("deflate", "zstd"):
        options["level"] = 1
    if compress != "none":
        options["predictor"] = "YES"
    copy(f"GTIFF_RAW:{path}", made, driver="COG", overview_resampling=resampling.name.upper(), **options)
    _complete(made, ours)
    return made


def _complete(path: Path, ours: Directory) -> None:
    """Put a directory's fields into the head of a finished file, whose tiles stay where they are."""
    with path.open("r+b") as file:
        reader = tiff_head.Reader(file)
        directories = reader.chain()
        starts = [int(n) for d in directories for n in _offsets(d) if n]
        start = min(starts, default=path.stat().st_size) - _LEADER
        file.seek(0)
        head = file.read(start)
        note = head.find(_NOTE, 0, 64)
        first = reader.first
        colour = [f for f in ours.fields if f.tag in _COLOUR]
        whole = [_with_colour(d, colour) for d in directories]
        stored = [f for f in directories[0].fields if f.tag in _STRUCTURE]
        whole[0] = ours.without(*_STRUCTURE).with_fields(stored)
        data, _ = tiff_head.lay_out(
            whole, big=head[2:3] == b"+", after_header=head[note:first] if note >= 0 else b""
        )
        if len(data) > start:
            raise OutputError(f"{path}: cannot be written: its head needs {len(data)} bytes of {start}")
        file.seek(0)
        file.write(data + bytes(start - len(data)))
        file.flush()
        os.fsync(file.fileno())


def _with_colour(directory: Directory, colour: list[tiff_head.Field]) -> Directory:
    mask = directory.get(254)
    if mask is not None and mask.numbers() and mask.numbers()[0] & 4:
        return directory
    return directory.without(*_COLOUR).with_fields(colour)


def _offsets(directory: Directory) -> Any:
    field = directory.get(TILE_OFFSETS)
    return np.array(field.numbers() if field else ())
