"""Runs tests with another build of the extension: ``pytest -p tests.sanitized`` (`make sanitize`).

The environment variable SRCNN_RT_TILES is the path of its .so, which takes the place of the
installed one before anything imports that.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

PATH = Path(os.environ["SRCNN_RT_TILES"]).resolve()
_spec = importlib.util.spec_from_file_location("srcnn_rt._tiles", PATH)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["srcnn_rt._tiles"] = _module
_spec.loader.exec_module(_module)


def pytest_report_header() -> str:
    """Say which build is tested."""
    return f"extension: {PATH}"


def pytest_sessionstart() -> None:
    """Stop where the package did not take it: nothing would be tested."""
    from srcnn_rt.image import color
    from srcnn_rt.tiling import kernels

    if not (kernels._tiles is color._tiles is _module) or b"__asan_init" not in PATH.read_bytes():
        pytest.exit(f"{PATH} is not what is tested, or was built without sanitizers", returncode=1)
