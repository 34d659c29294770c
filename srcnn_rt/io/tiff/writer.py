"""A TIFF that grows: tiles are appended as they come, so that a killed job can go on.

The head, all directories with GDAL's fields, is written first, with no tile in it yet; tiles follow in the
order in which they are made; where each is goes into the head when all are there. Nothing that was
written is ever written again, so the file up to any tile is good whatever happens after it.
Compression runs in threads of its own.
"""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what some calls let through as it is
from rasterio.enums import Resampling
from rasterio.errors import RasterioError, StatisticsError
from rasterio.windows import Window

from ..._system.safe_files import clear_workspace, interruptible, open_own, wait_for
from ...errors import OutputError
from ...image.info import ImageInfo
from ...tiling.geometry import Span
from ..protocols import Closing, Record
from . import cog, directory
from . import ifd as tiff_head
from . import photometric as tiff_kinds
from .reader import open_quietly, reason

BLOCK = 512  # widest output block, HR pixels
# What one write holds, about: the last one is not overlapped by anything, so it should be small.
CHUNK_BYTES = 2 * 2**20
# A tile of all channels of more than this has them one by one.
_INTERLEAVED_BYTES = 8 * 2**20
# Classic TIFF counts bytes in 32 bits; a compressed tile may be a little larger than a plain one.
_CLASSIC_BYTES = 2 * 10**9
_COPY_BYTES = 2**20


def block_side(scale: int) -> int:
    """Return the output block's side: a multiple of `scale` and of 16, at most ``BLOCK``.

    A power of two in LR pixels, so that tiles of 128, 256, 512 … hold whole blocks.
    """
    side = BLOCK
    while side * scale > BLOCK and side > 16:
        side //= 2
    return side * scale


class TiffTarget(Closing):
    """A tiled, compressed TIFF of one page or several; BigTIFF when it may need to be.

    Parameters
    ----------
    path : created or replaced; or gone on with, if `resume`
    infos : of every page of the result, with the source's metadata
    scale : HR pixels an LR pixel; georeference and print resolution are scaled by it
    compress : ``"deflate"``, ``"zstd"``, ``"lzw"`` or ``"none"``
    as_cog : make it a Cloud-Optimised GeoTIFF when complete
    threads : that compress
    """

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
        self._path, self._infos, self._cog, self._compress = path, infos, as_cog, compress
        side = block_side(scale)
        wait_for(path)  # GDAL goes on for a while after Ctrl-C
        # Of whole tiles: of an image one pixel wide they are many times more.
        raw = sum(
            math.prod(-(-n // side) * side for n in i.shape) * i.layout.channels * i.dtype.itemsize
            for i in infos
        )
        self.big = raw > _CLASSIC_BYTES
        with writing(path):
            self._pages = [_Page(self, info, scale, side, compress) for info in infos]
            head, places = tiff_head.lay_out(
                [d for page in self._pages for d in page.directories(self.big, len(infos))], big=self.big
            )
            for page in self._pages:
                page.places = [places.pop(0) for _ in range(1 + page.info.masked)]
            self._file = open_own(path)
        self._pool = ThreadPoolExecutor(max(1, threads), "srcnn-encode")
        # What a former run may have left: nothing beyond it can be gone on with.
        self.size = os.fstat(self._file).st_size if resume else 0
        clear_workspace(path)
        try:
            with writing(path):
                if self.size < len(head):
                    os.ftruncate(self._file, 0)
                    _write(self._file, head, 0)
                elif os.pread(self._file, len(head), 0) != head:
                    # The last step writes into the head: all tiles are there then, and it does so again.
                    _write(self._file, head, 0)
        except BaseException:
            self.abort()
            raise
        self.end = len(head)
        self._measured = False  # whether the result has statistics of its own
        self._lock = threading.Lock()

    def page(self, index: int) -> _Page:
        """Return the sink of a page, from 0."""
        return self._pages[index]

    def append(self, data: bytes) -> int:
        """Write bytes at the end; return where they are."""
        with self._lock:
            at = self.end
            _write(self._file, data, at)
            self.end += len(data)
        return at

    def crc(self, start: int, size: int) -> int:
        """Return the checksum of bytes in the file; of fewer, if it ends before."""
        value = 0
        for at in range(start, start + size, _COPY_BYTES):
            value = zlib.crc32(os.pread(self._file, min(_COPY_BYTES, start + size - at), at), value)
        return value

    def map(self, fn: Callable[[Any], bytes], items: Sequence[Any]) -> Iterator[bytes]:
        """Run `fn` on every item, in the order of the items."""
        return self._pool.map(fn, items)

    def rewind(self) -> None:
        """Forget what the file holds beyond what was restored."""
        with writing(self._path):
            os.ftruncate(self._file, self.end)

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        with writing(self._path):
            os.fsync(self._file)

    def finish(self) -> Path:
        """Complete the file; return where it is."""
        with writing(self._path):
            for page in self._pages:
                for place, index in zip(page.places, page.indexes, strict=True):
                    _write(self._file, index.offsets.tobytes(), place[tiff_head.TILE_OFFSETS])
                    _write(self._file, index.counts.tobytes(), place[tiff_head.TILE_COUNTS])
            os.fsync(self._file)
        self.abort()
        try:
            return interruptible(self._path, self._complete)
        except Exception:
            clear_workspace(self._path)
            raise

    def _complete(self) -> Path:
        with writing(self._path):
            self._read_back(self._path)
            made = self._rebuild()
            if made is None:
                return self._path
            # GDAL says nothing of what it could not write while closing.
            self._read_back(made, rebuilt=True)
            handle = os.open(made, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            return made

    def abort(self) -> None:
        """Let go of the file; never raises."""
        self._pool.shutdown(cancel_futures=True)
        file, self._file = self._file, -1
        with suppress(OSError):
            os.close(file)

    def close(self) -> None:
        self.abort()

    def _read_back(self, made: Path, *, rebuilt: bool = False) -> None:
        """Read the last pixel, and that of every overview, as everybody will."""
        h, w = self._infos[0].shape
        with open_quietly(made, driver="GTiff") as back:
            if (back.height, back.width) != (h, w):
                raise OutputError(f"{made}: reads back as {back.width} x {back.height}, not {w} x {h}")
            back.read(window=Window(w - 1, h - 1, 1, 1))
            levels = range(len(back.overviews(1)))
            meta = self._infos[0].metadata.raster if rebuilt and len(self._infos) == 1 else {}
            lacks = (self._measured and "STATISTICS_MEAN" not in back.tags(1)) or (
                meta.get("overviews") and not self._cog and len(levels) != len(_levels((h, w)))
            )
        if lacks or not tiff_head.is_whole(made):
            raise OutputError(f"{made}: cannot be written: not all of it reached the disk")
        for level in levels:
            with open_quietly(made, driver="GTiff", overview_level=level) as back:
                back.read(window=Window(back.width - 1, back.height - 1, 1, 1))

    def _rebuild(self) -> Path | None:
        """Make what the source had of the result anew: statistics, overviews; None if it had neither."""
        meta = self._infos[0].metadata.raster
        if len(self._infos) > 1:
            return None
        if meta.get("statistics"):
            with suppress(StatisticsError), self._reopen() as file:  # an error where no sample is data
                file.update_stats(approx=False)
                self._measured = True
        # An average of samples whose sign stands apart would be none.
        resampling = Resampling.nearest if meta.get("signed") else Resampling.average
        if self._infos[0].layout.color == "classes":
            resampling = Resampling.mode  # what most of the pixels are
        if self._cog:
            return cog.make(self._path, self._compress, resampling)
        if meta.get("overviews"):
            with self._reopen() as file:
                file.build_overviews(_levels(self._infos[0].shape), resampling)
            return self._path
        return self._path if meta.get("statistics") else None

    def _reopen(self) -> Any:
        return open_quietly(f"GTIFF_RAW:{self._path}", mode="r+", driver="GTiff")


class _Index:
    """Where the tiles of one directory are."""

    def __init__(self, count: int, big: bool) -> None:
        self.offsets = np.zeros(count, "<u8" if big else "<u4")
        self.counts = np.zeros(count, "<u4")


class _Page(Closing):
    """A page as a sink, in whole tiles."""

    max_bytes: int | None = CHUNK_BYTES
    in_memory = False
    places: list[dict[int, int]]

    def __init__(self, target: TiffTarget, info: ImageInfo, scale: int, side: int, compress: str) -> None:
        self._target, self.info, self._scale, self._compress = target, info, scale, compress
        self.block = (side, side)
        self._grid = tuple(-(-n // side) for n in info.shape)
        size = side * side * info.layout.channels * info.dtype.itemsize
        planar = bool(info.metadata.raster.get("planar")) and info.layout.color in ("bands", "classes")
        self._planar = info.layout.channels > 1 and (planar or size > _INTERLEAVED_BYTES)
        self._tiles = math.prod(self._grid)
        self.indexes: list[_Index] = []
        # One is filled while the other is written. New ones for every chunk would fragment
        # the heap, and memory would grow with the number of chunks.
        self._buffers: list[NDArray[Any]] = [np.empty(0, info.dtype)] * 2

    def directories(self, big: bool, pages: int) -> list[tiff_head.Directory]:
        """Return the page's directory, and that of its mask, with room for where the tiles are."""
        several = pages > 1
        made = [directory.directory(self.info, self._scale, self.block, self._compress, self._planar, pages)]
        counts = [self._tiles * (self.info.layout.channels if self._planar else 1)]
        if several:  # or readers would take the pages for one another's overviews
            made[0] = made[0].with_fields([tiff_head.numbers(254, tiff_head.LONG, 2)])
        if self.info.masked:
            made.append(directory.mask_directory(self.info.shape, self.block))
            if several:
                made[1] = made[1].with_fields([tiff_head.numbers(254, tiff_head.LONG, 6)])
            counts.append(self._tiles)
        self.indexes = [_Index(count, big) for count in counts]
        pointer = tiff_head.LONG8 if big else tiff_head.LONG
        return [
            d.with_fields([
                tiff_head.Field(tiff_head.TILE_OFFSETS, pointer, index.offsets.tobytes()),
                tiff_head.Field(tiff_head.TILE_COUNTS, tiff_head.LONG, index.counts.tobytes()),
            ])
            for d, index in zip(made, self.indexes, strict=True)
        ]  # fmt: skip

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        channels = self.info.layout.channels
        size = channels * y.size * x.size
        free = self._buffers.pop(0)
        if free.size < size:
            free = np.empty(size, self.info.dtype)
        self._buffers.append(free)
        return free[:size].reshape(y.size, x.size, channels)

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        if signed := self.info.metadata.raster.get("signed"):
            tiff_kinds.turn_signs(block, signed)
        pieces = self._pieces(y, x)
        jobs: list[tuple[NDArray[Any], bool]] = []
        for index, _, rows, columns, channels in pieces:
            whole = mask if index else block[:, :, channels]
            jobs.append((_fit(whole[rows, columns], self.block), bool(index)))  # type: ignore[index]
        sizes, crc, start = [], 0, self._target.end
        try:
            with writing(self._target._path):
                for piece, data in zip(pieces, self._target.map(self._encode, jobs), strict=True):
                    self._note(piece, self._target.append(data), len(data))
                    sizes.append(len(data))
                    crc = zlib.crc32(data, crc)
        except BaseException:
            self._target.end = start  # half a chunk is none, should it be tried again
            raise
        return {"at": start, "sizes": sizes, "crc": crc}

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        """Take what a former run wrote of a chunk; return whether it is all there."""
        pieces, at, sizes = self._pieces(y, x), record.get("at"), record.get("sizes")
        if at != self._target.end or not isinstance(sizes, list) or len(sizes) != len(pieces):
            return False
        if not all(type(size) is int and 0 < size < 2**32 for size in sizes):
            return False
        if at + sum(sizes) > self._target.size:
            return False
        if check and self._target.crc(at, sum(sizes)) != record.get("crc"):
            return False
        for piece, size in zip(pieces, sizes, strict=True):
            self._note(piece, self._target.end, size)
            self._target.end += size
        return True

    def close(self) -> None:
        pass

    def _note(self, piece: tuple[int, int, slice, slice, slice], at: int, size: int) -> None:
        index, tile, *_ = piece
        self.indexes[index].offsets[tile] = at
        self.indexes[index].counts[tile] = size

    def _pieces(self, y: Span, x: Span) -> list[tuple[int, int, slice, slice, slice]]:
        """Return the tiles of a place: directory, number, rows, columns and channels of the place."""
        side = self.block[0]
        channels = self.info.layout.channels
        groups = [slice(c, c + 1) for c in range(channels)] if self._planar else [slice(0, channels)]
        pieces = []
        for top in range(y.start, y.stop, side):
            for left in range(x.start, x.stop, side):
                rows, columns = (
                    slice(top - y.start, top - y.start + side),
                    slice(left - x.start, left - x.start + side),
                )
                tile = top // side * self._grid[1] + left // side
                pieces += [(0, k * self._tiles + tile, rows, columns, g) for k, g in enumerate(groups)]
                if self.info.masked:
                    pieces.append((1, tile, rows, columns, slice(0, 1)))
        return pieces

    def _encode(self, job: tuple[NDArray[Any], bool]) -> bytes:
        samples, is_mask = job
        if is_mask:
            return bytes(imagecodecs.deflate_encode(np.packbits(samples, axis=1).tobytes(), 6))
        return coded_tile(samples, self._compress)


def coded_tile(samples: NDArray[Any], compress: str) -> bytes:
    """Return a tile's samples, (h, w, C), as they stand in a file."""
    if compress != "none":
        if samples.dtype.kind == "f":
            samples = imagecodecs.floatpred_encode(samples, axis=-2)
        else:
            samples = imagecodecs.delta_encode(samples, axis=-2)
    return _CODECS[compress](np.ascontiguousarray(samples).tobytes())


# Levels at which speed is high and files are nearly as small as they get; ZSTD is five times faster, but not
# every reader has it. ISA-L's deflate is three times faster than libdeflate, and its bytes are not always the
# same for the same samples (one tile in ten thousand), which a resumed file must be.
_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "deflate": lambda data: bytes(imagecodecs.deflate_encode(data, 1)),
    "zstd": lambda data: bytes(imagecodecs.zstd_encode(data, 1)),
    "lzw": lambda data: bytes(imagecodecs.lzw_encode(data)),
    "none": lambda data: data,
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what GDAL and the system say into `OutputError`, naming the file."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError) as error:
        if isinstance(error, OutputError):
            raise
        words = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        raise OutputError(f"{path}: cannot be written: {words}") from error


def _fit(samples: NDArray[Any], block: tuple[int, int]) -> NDArray[Any]:
    """Return a whole tile: beyond the image the edge goes on, which costs least."""
    h, w = samples.shape[:2]
    if (h, w) == block:
        return samples
    extra = [(0, block[0] - h), (0, block[1] - w)] + [(0, 0)] * (samples.ndim - 2)
    return np.pad(samples, extra, mode="edge")


def _write(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


def _levels(shape: tuple[int, int]) -> list[int]:
    """Return the factors of overviews: halves, until one tile holds the image."""
    levels, factor = [], 2
    while max(shape) // factor >= BLOCK // 2:
        levels.append(factor)
        factor *= 2
    return levels or [2]
