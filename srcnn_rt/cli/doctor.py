"""``srcnn-rt doctor``."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

_PACKAGES = (
    "srcnn-rt",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "cuda-bindings",
    "nvidia-cuda-runtime",
    "nvidia-cublas",
    "nvidia-cudnn-cu13",
    "openvino",
    "opencv-python-headless",
    "rasterio",
    "torch",
)
_SIMD = (
    "sse4_2",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "neon",
    "asimd",
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Show what this machine offers: versions, providers, threads, instructions, memory.

    Exit status 1 if no provider works, so that no image could be upscaled.

    \b
    srcnn-rt doctor
    """
    report = examine()
    if as_json:
        click.echo(json.dumps(report))
    else:
        for key, value in report.items():
            items = value.items() if isinstance(value, dict) else [("", value)]
            for k, v in items:
                click.echo(f"{key:<12} {k:<24} {v}" if k else f"{key:<12} {v}")
    sys.exit(0 if "works" in report["providers"].values() else 1)


def examine() -> dict[str, Any]:
    """Collect what `doctor` prints. A provider ``"works"`` or the value says why it does not."""
    from ..backends.onnxruntime import available_threads

    memory = {}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE")
        memory["total"] = f"{page * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            memory["free"] = f"{page * os.sysconf('SC_AVPHYS_PAGES') / 2**30:.1f} GiB"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "providers": {name: _try_provider(name) for name in ("cpu", "cuda", "openvino")},
        "cuda": _gpus(),
        "precision": {"fast": _try_fast()},
        "threads": available_threads(),
        "instructions": " ".join(_instructions()) or "unknown",
        "memory": memory or "unknown",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> dict[str, str]:
    """Say what the driver is for, what ONNX Runtime was built for, and which GPUs there are."""
    from ..backends.cuda import devices
    from ..backends.onnxruntime import runtime
    from ..errors import SrcnnError

    found = {"driver": f"for CUDA {version}" if (version := devices.driver_version()) else "none"}
    try:
        built = getattr(runtime(), "cuda_version", "")
        found["onnxruntime"] = f"built for CUDA {built}" if built else "built without CUDA"
    except SrcnnError as error:
        found["onnxruntime"] = str(error)
    for gpu in devices.devices():
        found[f"device {gpu.index}"] = (
            f"{gpu.name}, {gpu.memory / 2**30:.1f} GiB, compute capability {gpu.capability}, "
            f"{gpu.processors} multiprocessors"
        )
    return found


def _try_provider(name: str) -> str:
    """Run a real session: what a wheel lists is not what loads."""
    import numpy as np

    from ..engine import Engine
    from ..errors import SrcnnError

    try:
        with Engine("bicubic-x2", name, threads=1) as engine:
            out = engine.upscale(np.ones((8, 8), np.float32))
    except SrcnnError as error:
        return str(error)
    return "works" if np.allclose(out, 1, atol=1e-5) else f"gives {out.mean()} instead of 1"


def _try_fast() -> str:
    """Say whether precision fast is offered here, or why not."""
    from ..backends.openvino import missing

    return missing(bfloat16=True) or "works"


def _instructions() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.machine()]
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return [flag for flag in _SIMD if flag in flags.split()]
