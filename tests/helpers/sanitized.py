"""Runs tests with another build of the extensions: ``pytest -p tests.helpers.sanitized`` (`make sanitize`).

The environment variable SRCNN_RT_EXTENSIONS is the folder of that build, whose modules take the place of the
installed ones before anything imports them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(os.environ["SRCNN_RT_EXTENSIONS"]).resolve()
MODULES: dict[str, ModuleType] = {}
for _name in ("_tiles", "_conv", "_deflate"):
    _path = next(FOLDER.glob(f"{_name}.*.so"))
    _spec = importlib.util.spec_from_file_location(f"srcnn_rt.{_name}", _path)
    assert _spec is not None
    assert _spec.loader is not None
    MODULES[_name] = sys.modules[f"srcnn_rt.{_name}"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(MODULES[_name])


def pytest_report_header() -> str:
    """Say which build is tested."""
    return f"extensions: {FOLDER}"


def pytest_sessionstart() -> None:
    """Stop where the package did not take it: nothing would be tested."""
    from srcnn_rt import _conv
    from srcnn_rt.image import color
    from srcnn_rt.tiling import kernels

    used = kernels._tiles is color._tiles is MODULES["_tiles"] and _conv is MODULES["_conv"]
    built = all(b"__asan_init" in Path(str(m.__file__)).read_bytes() for m in MODULES.values())
    if not (used and built):
        pytest.exit(f"{FOLDER} is not what is tested, or was built without sanitizers", returncode=1)
