"""The device on which gpu.py measures (a GPU, or this CPU for the mechanics) and its measured ceilings."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from _gpu_roofline import Ceilings
from _gpu_targets import MECHANICS

# Sides of the matrix product and bytes of the copies. On a GPU they exceed its caches.
CUDA_SIDE, CUDA_COPY, CUDA_BUS = 8192, 2**30, 2**28
CPU_SIDE, CPU_COPY, CPU_BUS = 256, 2**22, 2**22
IN_A_ROW = 5  # launches per timed group


@dataclass(frozen=True)
class Place:
    """A provider and what contestants need to know about it.

    Attributes
    ----------
    provider : {"cuda", "cpu"}
        Where contestants run.
    index : int
        Number of the GPU.
    """

    provider: str
    index: int = 0

    @property
    def device(self) -> str:
        """Device name in torch."""
        return f"cuda:{self.index}" if self.provider == "cuda" else "cpu"

    @property
    def reduced(self) -> str:
        """Data type of reduced precision."""
        # GPUs use float16; CPUs with a reduced precision have bfloat16.
        return "float16" if self.provider == "cuda" else "bfloat16"

    @property
    def judged(self) -> str:
        """Data type that the verdicts judge."""
        return "float16" if self.provider == "cuda" else "float32"

    @property
    def label(self) -> str:
        """Label that every output of a run must carry; empty for a GPU."""
        return "" if self.provider == "cuda" else MECHANICS

    def wait(self) -> None:
        """Wait for all work on the GPU, of any library and any stream."""
        if self.provider == "cuda":
            import torch

            torch.cuda.synchronize(self.index)

    def about(self) -> dict[str, Any]:
        """Return name, compute capability, memory and library versions of the GPU."""
        if self.provider != "cuda":
            return {"name": f"no GPU: {platform.processor() or platform.machine()}"}
        import torch

        found = torch.cuda.get_device_properties(self.index)
        return {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "cuda_of_torch": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }


def why_no_gpu(index: int = 0) -> str | None:
    """Return one line that says why no GPU can be used, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch does not import ({error}); it measures the GPU's rates and is a contestant"
    if torch.version.cuda is None:
        return f"the installed torch ({torch.__version__}) is built without CUDA"
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:
        return (str(error).strip().splitlines() or ["torch finds no GPU"])[0]
    return None if index < count else f"there is no GPU {index}: torch finds {count}"


def rate(place: Place, work: Callable[[], object], amount: float, seconds: float, many: int) -> float:
    """Return `amount` per second, the median over groups of `many` runs.

    A group is launched without waiting and ends with one wait for the GPU, so launch overhead is hidden.
    """
    for _ in range(3):
        work()
    place.wait()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(many):
            work()
        place.wait()
        found.append(many * amount / (time.perf_counter() - start))
    return statistics.median(found)


def matrix_rate(place: Place, precision: str, seconds: float) -> float:
    """Return the operations per second of a dense product of random matrices, 2 · n³ operations each.

    The values are random, because GPUs draw less power on zeros and then run faster. float32 does not use
    TF32, which torch leaves off by default.
    """
    import torch

    n = CUDA_SIDE if place.provider == "cuda" else CPU_SIDE
    kind = getattr(torch, precision)
    a, b = (torch.randn(n, n, device=place.device).to(kind) for _ in range(2))
    out = torch.empty(n, n, device=place.device, dtype=kind)
    return rate(place, lambda: torch.mm(a, b, out=out), 2.0 * n**3, seconds, IN_A_ROW)


def copy_rate(place: Place, seconds: float) -> float:
    """Return the bytes per second of a copy within the memory, counting bytes read and written."""
    import torch

    n = CUDA_COPY if place.provider == "cuda" else CPU_COPY
    source = torch.randint(0, 256, (n,), dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    return rate(place, lambda: target.copy_(source), 2.0 * n, seconds, IN_A_ROW)


def bus_rates(place: Place, seconds: float) -> tuple[float, float, float]:
    """Return bytes per second to the GPU, from the GPU, and in both directions at once, with pinned memory.

    Without a GPU there is no bus, and memcpy is measured instead.
    """
    if place.provider != "cuda":
        source = np.random.default_rng(0).integers(0, 256, CPU_BUS, np.uint8)
        target = np.empty_like(source)
        one = rate(place, lambda: np.copyto(target, source), float(CPU_BUS), seconds, IN_A_ROW)
        return one, one, one
    import torch

    def pair() -> tuple[Any, Any]:
        host = torch.randint(0, 256, (CUDA_BUS,), dtype=torch.uint8).pin_memory()
        return host, host.to(place.device)

    (here, there), (back, origin) = pair(), pair()
    up_stream, down_stream = (torch.cuda.Stream(place.index) for _ in range(2))

    def up() -> None:
        with torch.cuda.stream(up_stream):
            there.copy_(here, non_blocking=True)

    def down() -> None:
        with torch.cuda.stream(down_stream):
            back.copy_(origin, non_blocking=True)

    def both() -> None:
        up()
        down()

    n, each = float(CUDA_BUS), seconds / 3
    return (
        rate(place, up, n, each, IN_A_ROW),
        rate(place, down, n, each, IN_A_ROW),
        rate(place, both, 2 * n, each, IN_A_ROW),
    )


def ceilings(place: Place, seconds: float) -> Ceilings:
    """Measure the rates of a place and free the GPU memory that this took."""
    matrix = {p: matrix_rate(place, p, seconds) for p in (place.reduced, "float32")}
    found = Ceilings(matrix, copy_rate(place, seconds), *bus_rates(place, seconds))
    free(place)
    return found


def free(place: Place) -> None:
    """Free the GPU memory that torch has cached, because other runtimes need it."""
    if place.provider == "cuda":
        import torch

        torch.cuda.empty_cache()
