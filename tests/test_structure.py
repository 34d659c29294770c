"""Imports point one way, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import srcnn_rt

PACKAGE = Path(srcnn_rt.__file__).parent
# Lower layers know nothing of higher ones. Modules of one layer may import each other.
LAYERS = [
    {"errors", "_version", "_tiles"},
    {
        "geometry",
        "margins",
        "image",
        "models",
        "bicubic",
        "color",
        "graph",
        "spec",
        "rewrite",
        "program",
        "precision",
        "tuning",
        "journal",
        "ownfile",
        "manifest",
        "outcome",
        "resources",
    },
    {"tiles", "session", "session_openvino", "io", "pipeline", "metrics"},
    {"protocol", "filters", "untiled"},
    {"figures"},
    {"render", "pixels", "runtime", "validity", "GPU", "classes"},
    {"values"},
    {"job", "trials", "stream"},
    {"filejob", "selfcheck"},
    {"sampling"},
    {"estimates"},
    {"preflight"},
    {"engine"},
    {"verify", "evaluate", "pixelfile"},
    {"report"},
    {"cli"},
]
TRAIN_MAY = {
    "train",
    "spec",
    "graph",
    "rewrite",
    "session",
    "untiled",
    "bicubic",
    "protocol",
    "metrics",
    "errors",
    "_version",
}
USE_TRAIN = {"cli.export", "cli.train", "cli.curves", "cli.sparse", "cli.extras"}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules() -> list[tuple[str, str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.append((".".join(parts), parts[0], path))
    return found


def imported(path: Path) -> set[str]:
    """Top-level names inside the package that a module imports, wherever it does."""
    depth = len(path.relative_to(PACKAGE).parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level < depth:  # inside a subpackage
                found.add(path.relative_to(PACKAGE).parts[0])
            elif node.module:
                found.add(node.module.split(".")[0])
            else:
                found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("srcnn_rt"):
            found.update(node.module.split(".")[1:2])
        elif isinstance(node, ast.Import):
            assert not any(a.name.startswith("srcnn_rt") for a in node.names), path
    return found


@pytest.mark.parametrize(("name", "top", "path"), modules(), ids=[m[0] for m in modules()])
def test_imports_point_one_way(name: str, top: str, path: Path) -> None:
    if name in ("__init__", "__main__"):
        return
    used = imported(path)
    if top == "train":
        assert used <= TRAIN_MAY
    elif "train" in used:
        assert name in USE_TRAIN
        used.discard("train")
    if top != "train":
        assert top in RANK, f"{name} is in no layer"
        assert {u for u in used if RANK[u] > RANK[top]} == set()


def test_no_two_modules_import_each_other() -> None:
    needs = {}
    for _name, top, path in modules():
        if top not in ("__init__", "__main__"):
            needs.setdefault(top, set()).update(imported(path) - {top})
    for a, used in needs.items():
        for b in used:
            assert a not in needs.get(b, ()), f"{a} and {b} import each other"


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "cv2", "rasterio", "click", "matplotlib", "sklearn", "zarr"}
    heavy |= {"imagecodecs", "PIL", "tifffile"}
    assert not loaded_by("import srcnn_rt") & heavy


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
        if name != "__version__":
            assert getattr(srcnn_rt, name).__doc__


def test_every_error_is_in_the_tree() -> None:
    from srcnn_rt import errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.SrcnnError)
        assert name in (errors.__doc__ or "")
    assert str(errors.ModelError("two\n  lines")) == "two lines"
