"""An image of a format that is written in one piece: until it is complete, its samples are a file.

So formats that nobody can write part by part can be gone on with too, and the samples take no memory that
the system could not have back.
"""

from __future__ import annotations

import math
import mmap
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._system.safe_files import clear_workspace, interruptible, open_own, workspace
from ..errors import OutputError
from ..image.info import ImageInfo
from ..tiling.geometry import Span
from .protocols import Record

# Images of fewer bytes are simply kept in memory.
MIN_BYTES = 4 * 2**20
# What one write holds, about: what a killed job has to do again.
CHUNK_BYTES = 4 * 2**20


class SpoolTarget:
    """One image, encoded when complete.

    Parameters
    ----------
    path : of the samples, (H, W, C) row by row in the machine's byte order
    info : of the result
    encode : makes a file's bytes of the samples
    resume : whether `path` is gone on with
    """

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
        self._map: mmap.mmap | None = None
        self.array: NDArray[Any] | None
        file = open_own(path)
        clear_workspace(path)
        try:
            # One that is shorter was not written to its end: what it lacks would be taken for black.
            self._restorable = resume and not self._kept and os.fstat(file).st_size == size
            if not self._restorable:
                os.ftruncate(file, 0)
            if self._kept:
                self.array = np.empty(shape, info.dtype)
                return
            # All of it now: a full disk must be an error here, not a signal later.
            os.posix_fallocate(file, 0, size)
            self._map = mmap.mmap(file, size)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        finally:
            os.close(file)
        self.array = np.frombuffer(self._map, info.dtype).reshape(shape)

    def page(self, index: int) -> SpoolTarget:
        return self

    def buffer(self, y: Span, x: Span) -> NDArray[Any]:
        return self._samples[y.start : y.stop, x.start : x.stop]

    def write(self, y: Span, x: Span, block: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Record:
        return {} if self._kept else {"crc": self._crc(y, x)}  # the buffer is the place itself

    def restore(self, y: Span, x: Span, record: Record, *, check: bool) -> bool:
        return self._restorable and (not check or self._crc(y, x) == record.get("crc"))

    def rewind(self) -> None:
        pass

    def sync(self) -> None:
        if self._map is not None:
            try:
                self._map.flush()
            except OSError as error:
                raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error

    def finish(self) -> Path:
        data = interruptible(self._path, partial(self._encode, self._samples))
        made = workspace(self._path) / "coded"
        try:
            with made.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            clear_workspace(self._path)
            raise OutputError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        self.abort()
        return made

    def abort(self) -> None:
        self.array = None
        if self._map is not None:
            with suppress(BufferError, ValueError):  # somebody still looks at it; it goes with them
                self._map.close()

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
