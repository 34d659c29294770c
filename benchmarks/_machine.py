"""The machine of a measurement, and the file of its results. Needs only the dependencies of srcnn-rt."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from srcnn_rt._system.cpu import available_threads

PACKAGES = (
    "srcnn-rt", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "opencv-python-headless",
    "ncnn",
)  # fmt: skip
FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16")


def machine() -> dict[str, Any]:
    """Return the CPU with its relevant flags, package versions and the revision."""
    cpu, flags = platform.processor() or platform.machine(), []
    if (path := Path("/proc/cpuinfo")).exists():
        lines = [line.partition(":") for line in path.read_text().splitlines()]
        info = {key.strip(): value.strip() for key, _, value in lines}
        cpu = info.get("model name", cpu)
        has = info.get("flags", "").split()
        flags = [flag for flag in FLAGS if flag in has]
    return {
        "cpu": cpu,
        "processors": available_threads(),
        "flags": flags,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "revision": _revision(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):  # git is missing, or this is not a clone
        return "unknown"


def save(document: dict[str, Any], target: Path) -> None:
    """Write a document atomically."""
    partial = target.with_name(target.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(target)
