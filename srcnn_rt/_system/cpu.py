"""The CPU: its model, its instruction sets, and how many threads this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_INSTRUCTION_SETS = "sse4_2 avx2 fma avx512f avx512bw avx512_vnni avx512_bf16 amx_tile neon asimd"


def available_threads() -> int:
    """Return the number of logical CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def model_name() -> str:
    """Return the name of the CPU, such as ``"AMD EPYC 7763 64-Core Processor"``."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    import platform  # slow to import

    return platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Return the vector instruction sets of the CPU, or its architecture where they are unknown."""
    lines = _cpuinfo()
    if not lines:
        import platform

        return [platform.machine()]
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split()
    return [name for name in _INSTRUCTION_SETS.split() if name in flags]


def _cpuinfo() -> list[str]:
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text().splitlines()
    return []
