"""Types of the compiled loops; see ``_ext/_tiles.pyx``."""

from typing import Any

from numpy.typing import NDArray

def extract(
    picture: NDArray[Any],
    rows: NDArray[Any],
    cols: NDArray[Any],
    runs: NDArray[Any],
    gain: float,
    out: NDArray[Any],
) -> None: ...
def stitch(windows: NDArray[Any], cores: NDArray[Any], gain: float, out: NDArray[Any]) -> None: ...
def luma(
    rgb: NDArray[Any], cut: int, wr: float, wg: float, wb: float, offset: float, out: NDArray[Any]
) -> None: ...
def recolor(
    rgb: NDArray[Any], cut: int, y: NDArray[Any], wr: float, wg: float, wb: float, offset: float, gain: float
) -> None: ...
