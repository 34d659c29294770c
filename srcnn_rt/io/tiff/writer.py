"""Writes TIFFs by appending tiles, so that an interrupted job can resume.

The head with all directories is written first, without the offsets of any tile. Tiles follow in the order in
which they are computed. When all of them are there, their offsets are written to the head. Nothing is ever
overwritten, so a file is valid up to its last complete tile. Tiles are compressed in separate threads.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import StatisticsError
from rasterio.windows import Window

from ..._system.safe_files import clear_workspace, interruptible, open_own, wait_for
from ...errors import CancelledError, ClosedError, OutputError
from ...image.info import ImageInfo
from ...tiling.geometry import Span
from ..protocols import Record, TwoBuffers
from . import cog
from .deflate import deflated
from .directory import mask_directory, page_directory
from .gdal import open_quietly, writing
from .ifd import LONG, LONG8, SUBFILE_TYPE, TILE_COUNTS, TILE_OFFSETS, Directory, Field, encode, is_complete
from .metadata import TiffMetadata
from .photometric import flip_sign_bit

BLOCK = 512  # largest side of a tile in HR pixels
# Approximate size of one write. Nothing overlaps with the last write, so it should be short.
CHUNK_BYTES = 2 * 2**20
# If a tile with all channels is larger than this, each channel gets its own tiles.
_MAX_INTERLEAVED_BYTES = 8 * 2**20
# Classic TIFF has 32-bit offsets. A compressed tile may be slightly larger than the raw one.
_MAX_CLASSIC_BYTES = 2 * 10**9


def block_side(scale: int) -> int:
    """Return the side of a tile in HR pixels: a multiple of `scale` and 16, and at most `BLOCK`.

    It is a power of two in LR pixels, so that processing tiles of 128, 256, 512 … consist of whole tiles.
    """
    side = BLOCK
    while side * scale > BLOCK and side > 16:
        side //= 2
    return side * scale


class TiffTarget:
    """A tiled, compressed TIFF with one or more pages, as a `Target`; a BigTIFF if it may exceed 4 GB.

    Parameters
    ----------
    path : Path
        Created or replaced, or continued if `resume`.
    infos : sequence of ImageInfo
        The pages of the result, with the metadata of the source.
    scale : int
        Scale factor, by which georeference and resolution are multiplied.
    compress : {"deflate", "zstd", "lzw", "none"}
        Compression of the tiles.
    as_cog : bool
        Whether to convert the finished file to a Cloud-Optimised GeoTIFF.
    threads : int
        Number of threads that compress tiles.
    resume : bool
        Whether to keep what an interrupted run has written.
    """

    append_only = True

    def __init__(
        self,
        path: Path,
        infos: Sequence[ImageInfo],
        scale: int,
        compress: str = "deflate",
        *,
        as_cog: bool = False,
        threads: int = 1,
        resume: bool = False,
    ) -> None:
        self.path, self.infos, self._cog, self.compress = path, infos, as_cog, compress
        side = block_side(scale)
        wait_for(path)  # after Ctrl-C GDAL may still be working on the file
        # Tiles are padded, which multiplies the size of an image that is one pixel wide.
        raw = sum(
            math.prod(-(-n // side) * side for n in i.shape) * i.layout.channels * i.dtype.itemsize
            for i in infos
        )
        self.big = raw > _MAX_CLASSIC_BYTES
        with writing(path):
            self._pages = [_Page(self, info, scale, side) for info in infos]
            head = self._head()
            self._file = open_own(path)
        self.pool = ThreadPoolExecutor(max(1, threads), "srcnn-encode")
        # Size that an interrupted run has left. Nothing beyond it can be restored.
        self.size = os.fstat(self._file).st_size if resume else 0
        clear_workspace(path)
        try:
            with writing(path):
                if self.size < len(head):
                    os.ftruncate(self._file, 0)
                # If the last step had begun to write into the head, it will do so again.
                if os.pread(self._file, len(head), 0) != head:
                    _write(self._file, head, 0)
        except BaseException:
            self.abort()
            raise
        self.end = len(head)
        self._has_statistics = False

    def page(self, index: int) -> _Page:
        """Return the sink of a page, counted from 0."""
        return self._pages[index]

    def append(self, data: bytes) -> int:
        """Append bytes to the file; return their offset."""
        at = self.end
        _write(self._file, data, at)
        self.end += len(data)
        return at

    def crc(self, start: int, size: int) -> int:
        """Return the CRC-32 of bytes in the file, or of fewer if the file ends before."""
        return zlib.crc32(os.pread(self._file, size, start))

    def rewind(self) -> None:
        """Discard everything in the file after the restored chunks."""
        with writing(self.path):
            os.ftruncate(self._file, self.end)

    def sync(self) -> None:
        """Flush everything that was written to the disk."""
        with writing(self.path):
            os.fsync(self._file)

    def finish(self) -> Path:
        """Complete the file; return its path."""
        with writing(self.path):
            _write(self._file, self._head(), 0)
            os.fsync(self._file)
        self.abort()
        try:
            return interruptible(self.path, self._complete)
        except (CancelledError, ClosedError):  # GDAL still works on it, as after Ctrl-C
            raise
        except Exception:
            clear_workspace(self.path)
            raise

    def _head(self) -> bytes:
        return encode([d for page in self._pages for d in page.directories()], big=self.big)

    def _complete(self) -> Path:
        with writing(self.path):
            self._read_back(self.path)
            made = self._rebuild()
            if made is None:
                return self.path
            # GDAL does not report what it failed to write while closing a file.
            self._read_back(made, rebuilt=True)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            return made

    def abort(self) -> None:
        """Release the file; never raises."""
        self.pool.shutdown(cancel_futures=True)
        file, self._file = self._file, -1
        with suppress(OSError):
            os.close(file)

    def _read_back(self, path: Path, *, rebuilt: bool = False) -> None:
        """Check that GDAL can read the last pixel of the image and of each overview."""
        h, w = self.infos[0].shape
        with open_quietly(path) as file:
            if (file.height, file.width) != (h, w):
                raise OutputError(f"{path}: reads back as {file.width} x {file.height}, not {w} x {h}")
            _read_last_pixel(file)
            levels = len(file.overviews(1))
            overviews = rebuilt and self.infos[0].metadata.overviews
            incomplete = (self._has_statistics and "STATISTICS_MEAN" not in file.tags(1)) or (
                overviews and not self._cog and levels != len(_overview_factors((h, w)))
            )
        if incomplete or not is_complete(path):
            raise OutputError(f"{path}: cannot be written: the file on the disk is not complete")
        for level in range(levels):
            with open_quietly(path, overview_level=level) as file:
                _read_last_pixel(file)

    def _rebuild(self) -> Path | None:
        """Recompute the statistics and overviews that the source had; return None if it had neither."""
        if len(self.infos) > 1:
            return None
        info = self.infos[0]
        tiff = TiffMetadata.of(info.metadata)
        if tiff.statistics:
            with suppress(StatisticsError), self._reopen() as file:  # raised if all samples are nodata
                file.update_stats(approx=False)
                self._has_statistics = True
        # Samples whose sign GDAL does not know cannot be averaged.
        resampling = Resampling.nearest if tiff.signed else Resampling.average
        if info.layout.color == "classes":
            resampling = Resampling.mode
        if self._cog:
            return cog.make(self.path, self.compress, resampling)
        if info.metadata.overviews:
            with self._reopen() as file:
                file.build_overviews(_overview_factors(info.shape), resampling)
            return self.path
        return self.path if tiff.statistics else None

    def _reopen(self) -> Any:
        return open_quietly(f"GTIFF_RAW:{self.path}", mode="r+")


class _Tile(NamedTuple):
    """One tile of a chunk.

    Attributes
    ----------
    directory : int
        0 for the image, 1 for its mask.
    number : int
        Index of the tile in the directory.
    key : tuple of slice
        Index of its samples in the chunk or in the chunk's mask.
    """

    directory: int
    number: int
    key: tuple[slice, ...]


class _Page:
    """A page as a `Sink` of whole tiles."""

    max_bytes: int | None = CHUNK_BYTES
    in_memory = False

    def __init__(self, target: TiffTarget, info: ImageInfo, scale: int, side: int) -> None:
        self._target, self.info, self.block = target, info, (side, side)
        self._grid = tuple(-(-n // side) for n in info.shape)
        self._tiles = math.prod(self._grid)
        tiff, layout = TiffMetadata.of(info.metadata), info.layout
        size = side * side * layout.channels * info.dtype.itemsize
        planar = tiff.planar and layout.color in ("bands", "classes")
        self._planar = layout.channels > 1 and (planar or size > _MAX_INTERLEAVED_BYTES)
        self._signed = tiff.signed
        pages = len(target.infos)
        self._directories = [page_directory(info, scale, side, target.compress, self._planar, pages)]
        counts = [self._tiles * (layout.channels if self._planar else 1)]
        if info.masked:
            self._directories.append(mask_directory(info.shape, side))
            counts.append(self._tiles)
        # Offsets and sizes of tiles, by directory.
        self._indexes = [(np.zeros(n, "<u8" if target.big else "<u4"), np.zeros(n, "<u4")) for n in counts]
        if pages > 1:  # otherwise readers would take the pages for overviews of each other
            self._directories = [
                d.with_fields([Field.of(SUBFILE_TYPE, LONG, 2 | d.number(SUBFILE_TYPE, 0))])
                for d in self._directories
            ]
        self._buffers = TwoBuffers(info.dtype)

    def directories(self) -> list[Directory]:
        """Return the directories of the page and its mask, with the index of the tiles written so far."""
        return [
            d.with_fields([
                Field(TILE_OFFSETS, LONG8 if self._target.big else LONG, offsets.tobytes()),
                Field(TILE_COUNTS, LONG, sizes.tobytes()),
            ])
            for d, (offsets, sizes) in zip(self._directories, self._indexes, strict=True)
        ]  # fmt: skip

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        return self._buffers.next((y.size, x.size, self.info.layout.channels))

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        if self._signed:
            flip_sign_bit(block, self._signed)

        def encoded(tile: _Tile) -> bytes:
            part: Any = mask if tile.directory else block
            samples = _pad(part[tile.key], self.block)
            return _coded_mask(samples) if tile.directory else coded_tile(samples, self._target.compress)

        tiles, sizes, crc, start = self._tiles_of(y, x), [], 0, self._target.end
        try:
            with writing(self._target.path):
                for tile, data in zip(tiles, self._target.pool.map(encoded, tiles), strict=True):
                    self._note(tile, self._target.append(data), len(data))
                    sizes.append(len(data))
                    crc = zlib.crc32(data, crc)
        except BaseException:
            self._target.end = start  # discard the incomplete chunk, so that it can be retried
            raise
        return {"at": start, "sizes": sizes, "crc": crc}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Restore a chunk that an interrupted run wrote; return whether all of it is there."""
        tiles, at, sizes = self._tiles_of(y, x), record.get("at"), record.get("sizes")
        if at != self._target.end or not isinstance(sizes, list) or len(sizes) != len(tiles):
            return False
        if not all(type(size) is int and 0 < size < 2**32 for size in sizes):
            return False
        if at + sum(sizes) > self._target.size:
            return False
        if check and self._target.crc(at, sum(sizes)) != record.get("crc"):
            return False
        for tile, size in zip(tiles, sizes, strict=True):
            self._note(tile, self._target.end, size)
            self._target.end += size
        return True

    def _note(self, tile: _Tile, at: int, size: int) -> None:
        offsets, sizes = self._indexes[tile.directory]
        offsets[tile.number], sizes[tile.number] = at, size

    def _tiles_of(self, y: Span, x: Span) -> list[_Tile]:
        """Return the tiles of a chunk in the order in which they are written."""
        side, channels = self.block[0], self.info.layout.channels
        groups = [slice(c, c + 1) for c in range(channels)] if self._planar else [slice(0, channels)]
        found = []
        for top in range(0, y.size, side):
            for left in range(0, x.size, side):
                key = slice(top, top + side), slice(left, left + side)
                number = (y.start + top) // side * self._grid[1] + (x.start + left) // side
                found += [_Tile(0, k * self._tiles + number, (*key, g)) for k, g in enumerate(groups)]
                if self.info.masked:
                    found.append(_Tile(1, number, key))
        return found


def _coded_mask(mask: NDArray[np.bool_]) -> bytes:
    """Return the (h, w) validity mask of a tile as it is stored."""
    return bytes(imagecodecs.deflate_encode(np.packbits(mask, axis=1).tobytes(), 6))


def coded_tile(samples: NDArray[Any], compress: str) -> bytes:
    """Return the (h, w, C) samples of a tile as they are stored, with predictor and compression."""
    if compress != "none":
        if samples.dtype.kind == "f":
            samples = imagecodecs.floatpred_encode(samples, axis=-2)
        else:
            differences = np.empty_like(samples, order="C")
            differences[:, 0] = samples[:, 0]
            np.subtract(samples[:, 1:], samples[:, :-1], out=differences[:, 1:])
            samples = differences
    return _CODECS[compress](np.ascontiguousarray(samples).reshape(-1).view(np.uint8).data)


# Not every reader supports ZSTD.
_CODECS: dict[str, Callable[[Any], bytes]] = {
    "deflate": deflated,
    "zstd": lambda data: bytes(imagecodecs.zstd_encode(data, 1)),
    "lzw": lambda data: bytes(imagecodecs.lzw_encode(data)),
    "none": bytes,
}


def _pad(samples: NDArray[Any], block: tuple[int, int]) -> NDArray[Any]:
    """Return a whole tile; the edge pixels are repeated beyond the image, which compresses best."""
    h, w = samples.shape[:2]
    if (h, w) == block:
        return samples
    extra = [(0, block[0] - h), (0, block[1] - w)] + [(0, 0)] * (samples.ndim - 2)
    return np.pad(samples, extra, mode="edge")


def _read_last_pixel(file: Any) -> None:
    file.read(window=Window(file.width - 1, file.height - 1, 1, 1))


def _write(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


def _overview_factors(shape: tuple[int, int]) -> list[int]:
    """Return powers of two, until the overview fits in one tile."""
    factors, factor = [], 2
    while max(shape) // factor >= BLOCK // 2:
        factors.append(factor)
        factor *= 2
    return factors or [2]
