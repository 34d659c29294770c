"""What a contestant of gpu.py is, and the case that all of them are given."""

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

TRIALS = 2  # runs by which a peer's window is chosen


@dataclass(frozen=True)
class Case:
    """One model and one image, the same for all.

    Attributes
    ----------
    data, model : the file's bytes and what they say
    image : (H, W)
    source : the image as a TIFF in deflated tiles
    sides : windows that peers may choose from, HR pixels a side
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
    name : as it stands in tables; unique on its route
    route : "device → device", "array → array" or "file → file"
    precision : "float32", "tf32", "float16" or "bfloat16"
    role : what the verdicts know it by; empty for the others
    ours : whether it is srcnn-rt
    ready : whether it is loaded and its image was right; others may be built on it
    notes : what a reader of its row should know, such as the window it chose
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
        """Make ready to run; any exception means that it cannot be done here."""

    @abstractmethod
    def run(self) -> None:
        """Do all of it once. On a GPU it may return before the GPU is done: the caller waits."""

    @abstractmethod
    def result(self) -> NDArray[np.uint8]:
        """Return what the last run made, (s·H, s·W); not timed."""


def choose(sides: tuple[int, ...], take: Callable[[int], None], run: Callable[[], None], place: Place) -> int:
    """Return the side whose runs are fastest and leave it taken; sides that fail are passed over.

    Raises
    ------
    Exception
        That of the last side, if all fail.
    """
    found: dict[int, float] = {}
    failed: Exception | None = None
    for side in sides:
        try:
            take(side)
            run()  # memory, algorithms, compilation
            place.wait()
            start = time.perf_counter()
            for _ in range(TRIALS):
                run()
            place.wait()
            found[side] = time.perf_counter() - start
        except Exception as error:  # out of memory has another type in every runtime
            failed = error
    if not found:
        assert failed is not None
        raise failed
    best = min(found, key=lambda side: found[side])
    take(best)
    return best


def as_codes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return [0, 1] as rounded code values."""
    return np.rint(np.clip(values * np.float32(255), 0, 255)).astype(np.uint8)
