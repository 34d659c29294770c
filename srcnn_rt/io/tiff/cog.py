"""Converts a finished TIFF to a Cloud-Optimised GeoTIFF with all its metadata.

GDAL arranges the tiles and builds the overviews, but drops EXIF, IPTC, private domains and unknown fields.
They are restored in the head of the file, where GDAL is made to leave room for them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rasterio.enums import Resampling
from rasterio.shutil import copy

from ..._system.safe_files import workspace
from ...errors import OutputError
from .gdal import open_quietly
from .ifd import SUBFILE_TYPE, TILE_COUNTS, TILE_OFFSETS, Directory, Reader, encode
from .photometric import COLOR_MAP, EXTRA_SAMPLES, PHOTOMETRIC

BLOCK = 512
_PADDING = "SRCNN_RT_PADDING"
# How samples are stored: GDAL's fields are kept.
_STRUCTURE = (SUBFILE_TYPE, 256, 257, 258, 259, 277, 284, 317, 322, 323, TILE_OFFSETS, TILE_COUNTS, 339)
# What samples mean: the fields of the finished TIFF are kept, for overviews too.
_COLOR = (PHOTOMETRIC, COLOR_MAP, 332, 333, 334, 336, EXTRA_SAMPLES)
# GDAL describes the order of the tiles before the first directory, and stores 4 bytes before each tile.
_NOTE, _LEADER = b"GDAL_STRUCTURAL_METADATA_SIZE=", 4


def make(path: Path, compress: str, resampling: Resampling) -> Path:
    """Copy a finished TIFF to a Cloud-Optimised GeoTIFF with overviews; return its path.

    Parameters
    ----------
    path : Path
        The finished TIFF.
    compress : str
        A key of `COMPRESSIONS`.
    resampling : Resampling
        How overviews are computed.

    Raises
    ------
    OutputError
        If the metadata do not fit.
    OSError, RasterioError
        If a file cannot be written.
    """
    with path.open("rb") as file:
        finished = Reader(file).page().without(TILE_OFFSETS, TILE_COUNTS)
    room = len(encode([finished], big=True))
    with open_quietly(f"GTIFF_RAW:{path}", mode="r+") as file:
        file.update_tags(**{_PADDING: "x" * room})
    made = workspace(path) / "cog.tif"
    options: dict[str, Any] = {"compress": compress.upper(), "blocksize": BLOCK, "bigtiff": "IF_SAFER"}
    if compress in ("deflate", "zstd"):
        options["level"] = 1
    if compress != "none":
        options["predictor"] = "YES"
    copy(f"GTIFF_RAW:{path}", made, driver="COG", overview_resampling=resampling.name.upper(), **options)
    _restore(made, finished)
    return made


def _restore(path: Path, finished: Directory) -> None:
    """Write the fields of the finished TIFF into the head of a COG without moving its tiles."""
    with path.open("r+b") as file:
        reader = Reader(file)
        directories = reader.chain()
        starts = [n for d in directories for n in d.numbers(TILE_OFFSETS) if n]
        start = min(starts, default=path.stat().st_size) - _LEADER
        file.seek(0)
        head = file.read(start)
        note = head.find(_NOTE, 0, 64)
        color = [f for f in finished.fields if f.tag in _COLOR]
        stored = [f for f in directories[0].fields if f.tag in _STRUCTURE]
        overviews = [  # masks have no colors
            d if d.number(SUBFILE_TYPE, 0) & 4 else d.without(*_COLOR).with_fields(color)
            for d in directories[1:]
        ]
        data = encode(
            [finished.without(*_STRUCTURE).with_fields(stored), *overviews],
            big=head[2:3] == b"+",
            after_header=head[note : reader.first] if note >= 0 else b"",
        )
        if len(data) > start:
            raise OutputError(f"{path}: cannot be written: its head needs {len(data)} bytes of {start}")
        file.seek(0)
        file.write(data + bytes(start - len(data)))
        file.flush()
        os.fsync(file.fileno())
