"""Importing the package is cheap, its public names are documented, and its errors form one tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import srcnn_rt


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_imports_point_one_way() -> None:
    """The contracts stand in pyproject.toml."""
    pytest.importorskip("importlinter", reason="the extra 'lint' is not installed")
    # In a process of its own, because it configures logging.
    root = Path(__file__).parents[1]
    arguments = f"config_filename={str(root / 'pyproject.toml')!r}, no_cache=True"
    code = f"from importlinter.cli import lint_imports; raise SystemExit(lint_imports({arguments}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "cv2", "rasterio", "click", "matplotlib", "sklearn", "zarr"}
    heavy |= {"imagecodecs", "PIL", "tifffile"}
    assert not loaded_by("import srcnn_rt") & heavy


def test_importing_the_package_configures_neither_logging_nor_warnings() -> None:
    code = (
        "import logging, warnings, click, numpy\n"
        "filters, show = list(warnings.filters), warnings.showwarning\n"
        "import srcnn_rt, srcnn_rt.cli, srcnn_rt.io\n"
        "log = logging.getLogger('srcnn_rt')\n"
        "assert warnings.filters == filters and warnings.showwarning is show\n"
        "assert not log.handlers and log.level == logging.NOTSET and log.propagate\n"
        "assert not logging.getLogger().handlers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sources_for_zarr_load_it_when_one_is_opened() -> None:
    assert not loaded_by("import srcnn_rt.io.array_like, srcnn_rt.io.zarr.writer") & {"zarr", "h5py", "dask"}


def test_upscaling_a_png_needs_neither_torch_nor_rasterio(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    paths = f"{str(tmp_path / 'a.png')!r}, {str(tmp_path / 'b.png')!r}"
    used = loaded_by(f"from srcnn_rt import Engine\nEngine(provider='cpu').upscale_file({paths})")
    assert "imagecodecs" in used
    assert not used & {"torch", "rasterio", "cv2", "PIL"}


def test_evaluating_needs_no_torch(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    words = ["eval", "--data", str(tmp_path), "--scale", "2", "--summary"]
    used = loaded_by(f"from srcnn_rt.cli import main\nmain({words!r}, standalone_mode=False)")
    assert "onnxruntime" in used
    assert not used & {"torch", "sklearn", "matplotlib", "rasterio"}


def test_public_names_are_sorted_documented_and_there() -> None:
    assert list(srcnn_rt.__all__) == sorted(srcnn_rt.__all__)
    for name in srcnn_rt.__all__:
        assert getattr(srcnn_rt, name) is not None
        if name not in ("__version__", "Progress"):
            assert getattr(srcnn_rt, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        srcnn_rt.Engin  # noqa: B018


def test_every_error_is_in_the_tree_and_public() -> None:
    from srcnn_rt import errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.SrcnnError)
        assert name in (errors.__doc__ or "")
        assert name in srcnn_rt.__all__
    assert str(errors.ModelError("two\n  lines")) == "two lines"


def test_words_of_the_field(tmp_path: Path) -> None:
    """The check of words finds what it looks for, and nothing in the tracked files."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    sys.path.insert(0, str(root / "tools"))
    try:
        import check_words
    finally:
        sys.path.pop(0)
    assert [fault for path in check_words.tracked() for fault in check_words.faults(path)] == []
    bad = tmp_path / "bad.md"
    bad.write_text("MO" + "ST_ROWS = 3\n")
    assert len(check_words.faults(bad)) == 1
