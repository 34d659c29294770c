"""What a GPU allows: arithmetic, memory and bus, from measured rates; pure arithmetic.

The roofline is Williams, Waterman and Patterson's (CACM 52(4), 2009): no program ends before its
arithmetic is done at the GPU's rate, nor before its bytes have gone through the memory, and the two
can at best overlap fully. So the larger of both times is the floor, and a program's share of the
roofline is that floor over the time it took. Rates are measured on the GPU the program runs on
(`_gpu_ceilings`), not those of a data sheet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ceilings:
    """Rates of one GPU, measured.

    Attributes
    ----------
    matrix : operations a second of a large dense product, by data type; a multiply-accumulate is two
    copy : bytes a second of the GPU's memory, those read and those written
    up, down : bytes a second from and to pinned host memory, one direction at a time
    both : bytes a second of both directions together, while both are busy
    """

    matrix: dict[str, float] = field(default_factory=dict)
    copy: float = 0.0
    up: float = 0.0
    down: float = 0.0
    both: float = 0.0


@dataclass(frozen=True)
class Task:
    """What is to be done, whoever does it.

    Attributes
    ----------
    pixels : of the result
    scale : HR pixels an LR pixel, a side
    useful : multiply-accumulates an HR pixel that the file's graph asks for
    executed : the same of the graph as srcnn-rt runs it, lanes that compute for nothing included
        (`rewrite.cost`)
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
    """Seconds below which a task cannot be done.

    Attributes
    ----------
    arithmetic : the useful multiply-accumulates at the GPU's matrix rate
    executed : the executed ones; for information, a better program may execute fewer
    memory : the image read once and the result written once
    bus : the image up and the result down
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
        """Seconds from host bytes to host bytes: transfers can overlap with all else."""
        return max(self.device, self.bus)

    @property
    def bound(self) -> str:
        """What the GPU-to-GPU floor is made of."""
        return "arithmetic" if self.arithmetic >= self.memory else "memory"


def arithmetic_seconds(macs: float, pixels: float, rate: float) -> float:
    """Return ``2 · macs · pixels / rate``: a multiply-accumulate is two operations, as in the rate."""
    return 2 * macs * pixels / rate


def memory_seconds(task: Task, bandwidth: float) -> float:
    """Return ``pixels · (1 + 1/s²) / bandwidth``: every byte once; activations need not leave the chip."""
    return (task.read + task.written) / bandwidth


def bus_seconds(task: Task, ceilings: Ceilings) -> float:
    """Return the longest of: the image up, the result down, and all bytes through both directions.

    The directions of PCI Express have lanes of their own, but what is behind them is shared; so none
    of the three measured rates may be exceeded.
    """
    total = (task.read + task.written) / ceilings.both
    return max(task.read / ceilings.up, task.written / ceilings.down, total)


def floor(task: Task, ceilings: Ceilings, precision: str) -> Floor | None:
    """Return what a GPU allows, or None where its rate in that data type was not measured."""
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
    """Return a floor as plain values: milliseconds, and Mpx/s of the result."""
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
