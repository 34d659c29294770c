"""Interfaces that all runtimes share: networks, renderers, input and output buffers, and errors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, ModelError, OutOfMemoryError

if TYPE_CHECKING:
    from ..image.info import ImageInfo
    from ..io.protocols import Source
    from ..models.spec import ModelSpec
    from ..tiling.geometry import Plan, Tile
    from .cuda.devices import Gpu

# Runtimes have no error types for these cases, only messages.
_OUT_OF_MEMORY = re.compile(
    r"bad.?alloc|failed to allocate|out of memory|alloc_failed|not enough memory"
    r"|smaller than requested bytes|free memory block",  # from an arena that has a limit
    re.I,
)
_DEVICE_FAILED = re.compile(r"\b(cuda|cudnn|cublas) (failure|error)|cuda_error|device.{0,20} lost", re.I)


@dataclass(frozen=True, slots=True)
class ChunkArrays:
    """What the windows of one chunk are cut from, and what their cores are stitched into.

    Attributes
    ----------
    samples : ndarray, shape (h, w, C)
        The LR samples that the windows read. An image on a GPU is always given whole.
    at : (int, int)
        Row and column of ``samples[0, 0]`` in the image, LR pixels.
    out : ndarray, shape (s·h, s·w, C)
        The HR chunk, changed in place.
    origin : (int, int)
        Row and column of the chunk in the image, LR pixels.
    """

    samples: Any
    at: tuple[int, int]
    out: Any
    origin: tuple[int, int]


class Renderer(Protocol):
    """Turns windows of one image into finished pixels, with the buffers of one worker.

    Not thread-safe; every worker has its own.
    """

    def render(self, tiles: tuple[Tile, ...], chunk: ChunkArrays) -> None:
        """Compute the cores of some tiles.

        Parameters
        ----------
        tiles : tuple of Tile
            Of one chunk, at most as many as the renderer was created for.
        chunk : ChunkArrays
            The output is changed in place.

        Raises
        ------
        OutOfMemoryError, DeviceError, ModelError
        """

    def interrupt(self) -> None:
        """Make `render` end early, with an error, now and from now on. Called from any thread."""

    def close(self) -> None:
        """Release the buffers."""


class Network:
    """Base class of models loaded into a runtime, on the CPU or on one GPU. Safe to use from several threads.

    Attributes
    ----------
    provider : str
        The active provider: ``"cpu"``, ``"cuda"``, ``"native"`` or ``"openvino"``.
    threads : int
        CPU threads per run.
    gpu : Gpu, optional
        The GPU it runs on; None for the CPU.
    failed : str, optional
        The error message of a GPU that failed.
    """

    provider: str
    threads: int
    gpu: Gpu | None = None
    failed: str | None = None

    def accepts(self, source: Source) -> bool:
        """Return whether it can read the image where it lies: in host memory or on its own GPU."""
        return not source.on_device

    def batch_size(self, model: ModelSpec, source: Source, plan: Plan) -> int:
        """Return the number of windows per run for an image."""
        raise NotImplementedError

    def renderer(self, model: ModelSpec, source: Source, info: ImageInfo, plan: Plan, batch: int) -> Renderer:
        """Return a renderer for an image.

        Parameters
        ----------
        model : ModelSpec
        source : Source
        info : ImageInfo
            The image in the type from which windows are cut.
        plan : Plan
        batch : int
            Windows per run.

        Raises
        ------
        OutOfMemoryError, DeviceError, ModelError
        """
        raise NotImplementedError

    def empty_cache(self) -> None:
        """Release GPU memory that is kept for the next image."""

    def close(self) -> None:
        """Release all GPU memory."""


class Bound:
    """A model with one window shape and its preallocated input and output buffers.

    Not thread-safe; use one object per thread.

    Parameters
    ----------
    run : callable
        Takes the input array and returns the output.
    source, target : tuple of int
        Shapes (N, C, h, w) of input and output.

    Attributes
    ----------
    input : ndarray of float32
        Filled by the caller.
    output : ndarray of float32
        The result of `run`; the next run overwrites it.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        source: tuple[int, ...],
        target: tuple[int, ...],
    ) -> None:
        self.input = np.zeros(source, np.float32)
        self.output = np.empty(target, np.float32)
        self._run = run

    def run(self) -> None:
        """Compute `output` from `input`.

        Raises
        ------
        OutOfMemoryError, DeviceError, ModelError
            If the runtime fails, or the model returns another shape than `output` has.
        """
        out = self._run(self.input)
        if out.shape != self.output.shape:
            raise ModelError(f"the model returns {out.shape} for {self.input.shape}, not {self.output.shape}")
        np.copyto(self.output, out)


def failure(
    runtime: str, shape: tuple[int, ...], error: Exception
) -> OutOfMemoryError | DeviceError | ModelError:
    """Return the exception to raise when a runtime failed on windows of a shape."""
    return classified(f"{runtime} failed on windows of shape {shape}: {error}")


def classified(message: str) -> OutOfMemoryError | DeviceError | ModelError:
    """Return the exception that a runtime's error message stands for."""
    if _OUT_OF_MEMORY.search(message):
        return OutOfMemoryError(message)
    return DeviceError(message) if _DEVICE_FAILED.search(message) else ModelError(message)


@cache
def warn_once(text: str) -> None:
    """Issue a `RuntimeWarning`, unless this process has issued the same one before."""
    warnings.warn(text, RuntimeWarning, stacklevel=3)
