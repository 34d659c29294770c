"""``srcnn-rt doctor``."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..options import Provider

_PACKAGES = (
    "srcnn-rt", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "cuda-bindings", "nvidia-cuda-runtime",
    "nvidia-cublas", "nvidia-cudnn-cu13", "openvino", "opencv-python-headless", "rasterio", "torch",
)  # fmt: skip
# The model that is tried on each provider.
_TRIALS: dict[Provider, str] = {
    "cpu": "bicubic-x2",
    "cuda": "bicubic-x2",
    "openvino": "bicubic-x2",
    "native": "compact-m4c16-x2",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Check the installation.

    Shows versions, execution providers, GPUs, CPU features and memory.

    Exit status: 0 success, 1 no execution provider works.

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
    """Return the report that `doctor` prints.

    Returns
    -------
    dict
        ``"providers"`` maps each provider to ``"works"`` or to the reason why it does not.
    """
    from .._system.cpu import available_threads, instruction_sets
    from ..backends import openvino

    memory = {
        name: f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf(pages) / 2**30:.1f} GiB"
        for name, pages in (("total", "SC_PHYS_PAGES"), ("free", "SC_AVPHYS_PAGES"))
        if pages in getattr(os, "sysconf_names", ())
    }
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "providers": {name: _try_provider(name, model) for name, model in _TRIALS.items()},
        "cuda": _gpus(),
        "precision": {"fast": openvino.missing(bfloat16=True) or "works"},
        "threads": available_threads(),
        "instructions": " ".join(instruction_sets()) or "unknown",
        "memory": memory or "unknown",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> dict[str, str]:
    """Return the CUDA versions of driver and ONNX Runtime, and the GPUs."""
    from ..backends.cuda import devices
    from ..backends.onnxruntime import runtime
    from ..errors import SrcnnError

    driver = devices.driver_version()
    found = {"driver": f"for CUDA {driver}" if driver else "none"}
    try:
        built_for = getattr(runtime(), "cuda_version", "")
        found["onnxruntime"] = f"built for CUDA {built_for}" if built_for else "built without CUDA"
    except SrcnnError as error:
        found["onnxruntime"] = str(error)
    for gpu in devices.devices():
        found[f"device {gpu.index}"] = (
            f"{gpu.name}, {gpu.memory / 2**30:.1f} GiB, compute capability {gpu.capability}, "
            f"{gpu.multiprocessors} multiprocessors"
        )
    return found


def _try_provider(name: Provider, model: str) -> str:
    """Return "works" if a model runs on a provider, or why not. A listed provider may fail to load."""
    import numpy as np

    from ..engine import Engine
    from ..errors import SrcnnError

    try:
        with Engine(model, provider=name, threads=1) as engine:
            out = engine.upscale(np.ones((8, 8), np.float32))
    except SrcnnError as error:
        return str(error)
    return "works" if np.allclose(out, 1, atol=1e-5) else f"gives {out.mean()} instead of 1"
