"""Types of ``_ext/_conv.pyx``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LAYERS: int
MAX_N2: int

def instruction_sets() -> dict[str, int]: ...

class _Network:
    def samples(self, rows: int, width: int) -> int: ...
    def run(
        self,
        source: NDArray[np.float32],
        target: NDArray[np.float32],
        top: int,
        rows: int,
        memory: NDArray[np.float32],
        stop: NDArray[np.int32],
    ) -> bool: ...

class Chain(_Network):
    margin: int

    def __init__(
        self, isa: str, layers: list[tuple[Any, ...]], scale: int, padded: bool, added: bool
    ) -> None: ...

class Srcnn(_Network):
    def __init__(
        self,
        isa: str,
        margin: int,
        inputs: int,
        low: NDArray[np.int32],
        taps: NDArray[np.int32],
        first: NDArray[np.float32],
        bias1: NDArray[np.float32],
        second: NDArray[np.float32],
        bias2: NDArray[np.float32],
        last: NDArray[np.float32],
        bias3: NDArray[np.float32],
    ) -> None: ...
