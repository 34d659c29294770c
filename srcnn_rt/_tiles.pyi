"""Type stubs of the compiled loops in ``_ext/_tiles.pyx``."""

from typing import Any

from numpy.typing import NDArray

def extract(
    image: NDArray[Any],
    height: int,
    width: int,
    top: int,
    left: int,
    corners: NDArray[Any],
    gain: float,
    out: NDArray[Any],
) -> None: ...
def stitch(windows: NDArray[Any], cores: NDArray[Any], gain: float, out: NDArray[Any]) -> None: ...
def luma(
    rgb: NDArray[Any], cut: int, wr: float, wg: float, wb: float, offset: float, out: NDArray[Any]
) -> None: ...
def enlarge(
    windows: NDArray[Any], scale: int, taps: NDArray[Any], ring: NDArray[Any], out: NDArray[Any]
) -> None: ...
def stitch_sum(
    windows: NDArray[Any],
    detail: NDArray[Any],
    cores: NDArray[Any],
    first: int,
    spare: int,
    scale: int,
    taps: NDArray[Any],
    ring: NDArray[Any],
    gain: float,
    out: NDArray[Any],
) -> None: ...
