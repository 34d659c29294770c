"""The Python of docs/pipelines.md runs, block after block, as a reader would type it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from tests.conftest import drawing
from tests.helpers.reference import quantise

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("torch", "tqdm", "xarray"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(quantise(drawing(40, 50), np.uint8)).save("small.jpg")
    profile = {
        "driver": "GTiff",
        "width": 50,
        "height": 40,
        "count": 1,
        "dtype": "uint16",
        "crs": "EPSG:32633",
    }
    with rasterio.open("scene.tif", "w", transform=Affine(10, 0, 5e5, 0, -10, 4e6), **profile) as file:
        file.write(quantise(drawing(40, 50, 1)[:, :, 0], np.uint16), 1)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 12
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    # What is printed stands beside it.
    said = re.findall(r"print\(.*?\)  # (.*)", PAGE.read_text())
    assert len(said) == 2 and said[1:] == printed.splitlines()[1:]
    assert printed.startswith("the data: not an image of a known format (.tif, .tiff, .png, ")
    names["engine"].close()  # type: ignore[attr-defined]
