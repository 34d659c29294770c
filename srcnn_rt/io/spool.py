"""Collects the samples of a result that can only be encoded whole.

Large results are collected in a memory-mapped file. So an interrupted run can be resumed, and the system can
reclaim the memory at any time.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system.safe_files import clear_workspace, interruptible, open_own, workspace
from ..errors import OutputError
from ..image.info import ImageInfo
from ..tiling.geometry import Span
from .foreign_errors import foreign_errors
from .protocols import Record

# Smaller images are kept in memory.
MIN_BYTES = 4 * 2**20
# The aimed size of a write, which a killed job has to repeat.
CHUNK_BYTES = 4 * 2**20


class SpoolTarget:
    """A `Target` of one image that is encoded when it is complete.

    Parameters
    ----------
    path : Path
        File of the samples, (H, W, C) in C order and native byte order.
    info : ImageInfo
        Description of the result.
    encode : callable
        Returns the encoded file as bytes, from an (H, W, C) array.
    resume : bool
        Continue with what is in `path`.

    Raises
    ------
    OutputError
        If the file cannot be written, or the disk is full.
    """

    append_only = False
    in_memory = False
    block = (1, 1)
    max_bytes: int | None = CHUNK_BYTES

    def __init__(
        self,
        path: Path,
        info: ImageInfo,
        encode: Callable[[NDArray[Any]], Any],
        *,
        resume: bool = False,
    ) -> None:
        self._path, self._encode = path, encode
        shape = (*info.shape, info.layout.channels)
        size = math.prod(shape) * info.dtype.itemsize
        self._kept = size < MIN_BYTES
        self.array: NDArray[Any] | None
        file = os.fdopen(open_own(path), "r+b")
        clear_workspace(path)
        with file, self._disk_errors():
            # A shorter file was not allocated completely; its missing samples would read as black.
            self._restorable = resume and not self._kept and os.fstat(file.fileno()).st_size == size
            if not self._restorable:
                file.truncate(0)
            if self._kept:
                self.array = np.empty(shape, info.dtype)
            else:
                # Allocated at once: with a full disk, writing to the map later would raise a signal.
                os.posix_fallocate(file.fileno(), 0, size)
                self.array = np.memmap(file, info.dtype, "r+", shape=shape)

    def page(self, index: int) -> SpoolTarget:
        return self

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        return self._samples[y.start : y.stop, x.start : x.stop]

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        return {} if self._kept else {"crc": self._crc(y, x)}  # the buffer is a view of the samples

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return self._restorable and (not check or self._crc(y, x) == record.get("crc"))

    def rewind(self) -> None:
        pass

    def sync(self) -> None:
        if isinstance(self.array, np.memmap):
            with self._disk_errors():
                self.array.flush()

    def encoded(self) -> Any:
        """Return the encoded file as bytes, without writing it."""
        return interruptible(self._path, partial(self._encode, self._samples))

    def finish(self) -> Path:
        data = self.encoded()
        made = workspace(self._path) / "coded"
        try:
            with self._disk_errors(), made.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OutputError:
            clear_workspace(self._path)
            raise
        self.abort()
        return made

    def abort(self) -> None:
        self.array = None  # unmapped with the last view of it

    def _disk_errors(self) -> AbstractContextManager[None]:
        return foreign_errors(OutputError, f"{self._path}: cannot be written")

    @property
    def _samples(self) -> NDArray[Any]:
        if self.array is None:
            raise OutputError(f"{self._path}: cannot be written: it is closed")
        return self.array

    def _crc(self, y: Span, x: Span) -> int:
        crc = 0
        for row in self._samples[y.start : y.stop, x.start : x.stop]:
            crc = zlib.crc32(np.ascontiguousarray(row).data, crc)
        return crc
