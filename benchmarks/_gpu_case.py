"""The base class of the contestants of gpu.py, and the case that all of them run."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _gpu_place import Place
from _gpu_targets import ARRAY
from numpy.typing import NDArray

from srcnn_rt import ModelSpec

TRIALS = 2  # timed runs per window size when a peer's window is chosen


@dataclass(frozen=True)
class Case:
    """One model and one image, the same for all contestants.

    Attributes
    ----------
    place : Place
        Where the contestants run.
    data : bytes
        The model file.
    model : ModelSpec
        Its spec.
    image : ndarray of uint8, shape (H, W)
        The LR image.
    source : Path
        The image as a TIFF in deflated tiles.
    sides : tuple of int
        Window sides that peers may choose from, in HR pixels.
    """

    place: Place
    data: bytes
    model: ModelSpec
    image: NDArray[np.uint8]
    source: Path
    sides: tuple[int, ...]


class Contestant(ABC):
    """Something that upscales the image of a case on one route.

    Attributes
    ----------
    name : str
        Name in tables; unique on its route.
    route : str
        "device → device", "array → array" or "file → file".
    precision : str
        "float32", "tf32", "float16" or "bfloat16".
    role : str
        Role in the verdicts; empty if it has none.
    ours : bool
        Whether it is srcnn-rt.
    ready : bool
        Whether it is loaded and its image was right. Other contestants may depend on it.
    notes : dict
        Remarks for its row, such as the window that it chose.
    """

    route = ARRAY
    ours = False
    role = ""
    ready = False

    def __init__(self, name: str, precision: str) -> None:
        self.name, self.precision = name, precision
        self.notes: dict[str, Any] = {}

    @abstractmethod
    def load(self, case: Case) -> None:
        """Prepare to run. Any exception means that the contestant cannot run here."""

    @abstractmethod
    def run(self) -> None:
        """Upscale the image once. On a GPU it may return before the GPU has finished; the caller waits."""

    @abstractmethod
    def result(self) -> NDArray[np.uint8]:
        """Return the (s·H, s·W) result of the last run; not timed."""


def choose(sides: tuple[int, ...], take: Callable[[int], None], run: Callable[[], None], place: Place) -> int:
    """Select and return the window side whose runs are fastest; sides that fail are skipped.

    Raises
    ------
    Exception
        The error of the last side, if all sides fail.
    """
    found: dict[int, float] = {}
    failed: Exception | None = None
    for side in sides:
        try:
            take(side)
            run()  # allocates, selects algorithms, compiles
            place.wait()
            start = time.perf_counter()
            for _ in range(TRIALS):
                run()
            place.wait()
            found[side] = time.perf_counter() - start
        except Exception as error:  # every runtime has its own out-of-memory error
            failed = error
    if not found:
        assert failed is not None
        raise failed
    best = min(found, key=lambda side: found[side])
    take(best)
    return best


def as_codes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return values in [0, 1] as rounded uint8 code values."""
    return np.rint(np.clip(values * np.float32(255), 0, 255)).astype(np.uint8)
