"""Types of ``_ext/_conv.pyx``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LAYERS: int

def instruction_sets() -> dict[str, int]: ...

class Chain:
    def __init__(self, isa: str, layers: list[tuple[Any, ...]], scale: int) -> None: ...
    def samples(self, width: int) -> int: ...
    def run(
        self,
        source: NDArray[np.float32],
        target: NDArray[np.float32],
        top: int,
        rows: int,
        memory: NDArray[np.float32],
        stop: NDArray[np.int32],
    ) -> bool: ...
