"""The roofline of a GPU: arithmetic, memory and bus times from measured rates.

The roofline is that of Williams, Waterman and Patterson (CACM 52(4), 2009). No program ends before its
arithmetic is done at the GPU's rate, or before its bytes have passed through memory, and the two can at best
overlap fully. So the larger of both times is the floor. A program's share of the roofline is that floor
divided by its measured time. Rates are measured on the GPU that runs the program (`_gpu_place.ceilings`),
not taken from a data sheet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of one GPU.

    Attributes
    ----------
    matrix : dict of str to float
        Operations per second of a large dense product, by data type. A multiply-accumulate is two operations.
    copy : float
        Bytes per second of the GPU's memory, read and written.
    up, down : float
        Bytes per second from and to pinned host memory, one direction at a time.
    both : float
        Bytes per second of both directions together, while both are busy.
    """

    matrix: dict[str, float] = field(default_factory=dict)
    copy: float = 0.0
    up: float = 0.0
    down: float = 0.0
    both: float = 0.0


@dataclass(frozen=True)
class Task:
    """The work to be done, independent of the program.

    Attributes
    ----------
    pixels : int
        Pixels of the result.
    scale : int
        HR pixels per LR pixel, per side.
    useful : float
        Multiply-accumulates per HR pixel of the file's graph.
    executed : float
        Multiply-accumulates per HR pixel of the graph that srcnn-rt runs, including unused vector elements
        (`models.optimize.cpu_cost`).
    """

    pixels: int
    scale: int
    useful: float
    executed: float

    @property
    def read(self) -> float:
        """Bytes of the LR image, one channel of 8 bits."""
        return self.pixels / self.scale**2

    @property
    def written(self) -> float:
        """Bytes of the result."""
        return float(self.pixels)


@dataclass(frozen=True)
class Floor:
    """Lower bounds of the time of a task, in seconds.

    Attributes
    ----------
    arithmetic : float
        Useful multiply-accumulates at the GPU's matrix rate.
    executed : float
        Executed multiply-accumulates, for information; a better program may execute fewer.
    memory : float
        The image read once and the result written once.
    bus : float
        The image to the GPU and the result back.
    """

    arithmetic: float
    executed: float
    memory: float
    bus: float

    @property
    def device(self) -> float:
        """Seconds from GPU to GPU."""
        return max(self.arithmetic, self.memory)

    @property
    def host(self) -> float:
        """Seconds from host bytes to host bytes; transfers can overlap with everything else."""
        return max(self.device, self.bus)

    @property
    def bound(self) -> str:
        """The larger part of the GPU-to-GPU floor."""
        return "arithmetic" if self.arithmetic >= self.memory else "memory"


def arithmetic_seconds(macs: float, pixels: float, rate: float) -> float:
    """Return ``2 · macs · pixels / rate``; a multiply-accumulate is two operations, as in the rate."""
    return 2 * macs * pixels / rate


def memory_seconds(task: Task, bandwidth: float) -> float:
    """Return ``pixels · (1 + 1/s²) / bandwidth``: each byte once; activations need not leave the chip."""
    return (task.read + task.written) / bandwidth


def bus_seconds(task: Task, ceilings: Ceilings) -> float:
    """Return the longest of: the image to the GPU, the result back, and all bytes in both directions.

    The directions of PCI Express are separate, but the memory behind them is shared, so none of the three
    measured rates may be exceeded.
    """
    total = (task.read + task.written) / ceilings.both
    return max(task.read / ceilings.up, task.written / ceilings.down, total)


def floor(task: Task, ceilings: Ceilings, precision: str) -> Floor | None:
    """Return the floor of a task, or None if the rate in that data type was not measured."""
    rate = ceilings.matrix.get(precision)
    if not rate or not all((ceilings.copy, ceilings.up, ceilings.down, ceilings.both)):
        return None
    return Floor(
        arithmetic_seconds(task.useful, task.pixels, rate),
        arithmetic_seconds(task.executed, task.pixels, rate),
        memory_seconds(task, ceilings.copy),
        bus_seconds(task, ceilings),
    )


def described(limits: Floor, pixels: int) -> dict[str, Any]:
    """Return a floor as plain values, in milliseconds and in Mpx/s of the result."""
    return {
        "arithmetic_ms": limits.arithmetic * 1e3,
        "executed_ms": limits.executed * 1e3,
        "memory_ms": limits.memory * 1e3,
        "bus_ms": limits.bus * 1e3,
        "bound": limits.bound,
        "device_mpx_per_s": pixels / 1e6 / limits.device,
        "bus_mpx_per_s": pixels / 1e6 / limits.bus,
        "host_mpx_per_s": pixels / 1e6 / limits.host,
    }
