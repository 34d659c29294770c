"""The command line's words for files: formats, pages, qualities, limits, what went before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from click.testing import CliRunner, Result
from PIL import Image

from srcnn_rt import Engine
from srcnn_rt._system import disk
from srcnn_rt.cli import main
from srcnn_rt.io.registry import open_source
from srcnn_rt.tiling.geometry import Span
from tests.conftest import drawing
from tests.helpers.reference import quantise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
RGB = quantise(drawing(30, 40, 3), np.uint8)
upscale = sys.modules["srcnn_rt.cli.upscale"]  # the package's name is the command's


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(RGB).save("a.png")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["upscale", *words, "--model", "bicubic-x2", "--provider", "cpu"])


def refused(*words: str) -> str:
    before = sorted(p.name for p in Path().iterdir())
    result = run(*words)
    assert result.exit_code == 1
    assert sorted(p.name for p in Path().iterdir()) == before
    (line,) = result.stderr.splitlines()
    return line


def pixels(path: str) -> np.ndarray:
    with open_source(Path(path)) as source:
        h, w = source.info.shape
        return np.array(source.read(Span(0, h), Span(0, w)))


@pytest.mark.parametrize("format_", ["tif", "png", "webp", "avif", "jxl", "bmp", "zarr"])
def test_every_format_holds_the_same_image(format_: str) -> None:
    if format_ == "zarr":
        pytest.importorskip("zarr", reason="the extra zarr is not installed")
    result = run("a.png", "--format", format_)
    assert result.exit_code == 0, result.output
    with Engine("bicubic-x2", provider="cpu") as engine:
        expected = engine.upscale(RGB)
    assert (pixels(f"a_x2.{format_}") == expected).all()
    assert run("a.png", "--format", format_).exit_code == 1  # it is there
    assert run("a.png", "--format", format_, "--overwrite").exit_code == 0
    assert (pixels(f"a_x2.{format_}") == expected).all()
    assert sorted(p.name for p in Path().iterdir()) == ["a.png", f"a_x2.{format_}"]


def test_quality_is_the_encoders() -> None:
    assert run("a.png", "--format", "jpg").exit_code == 0
    assert run("a.png", "-o", "small.jpg", "--quality", "10").exit_code == 0
    assert Path("small.jpg").stat().st_size < Path("a_x2.jpg").stat().st_size
    assert "q.png: PNG is lossless" in refused("a.png", "-o", "q.png", "--quality", "10")
    assert "q.tif: TIFF is written losslessly" in refused("a.png", "-o", "q.tif", "--quality", "10")


def test_pages() -> None:
    with tifffile.TiffWriter("m.tif") as file:
        file.write(RGB, photometric="rgb")
        file.write(RGB[:20, :25, 0], photometric="minisblack")
    assert run("m.tif").exit_code == 0
    with tifffile.TiffFile("m_x2.tif") as back:
        assert [p.shape for p in back.pages] == [(60, 80, 3), (40, 50)]
    assert run("m.tif", "--page", "2", "-o", "two.png").exit_code == 0
    assert np.asarray(Image.open("two.png")).shape == (40, 50)
    assert "m.tif: has 2 pages, so there is no page 3" in refused("m.tif", "--page", "3", "-o", "x.tif")
    assert "x.png: holds one image, got 2 pages" in refused("m.tif", "-o", "x.png")
    assert "x.tif: a Cloud-Optimised GeoTIFF holds one page" in refused("m.tif", "-o", "x.tif", "--cog")


def test_cog() -> None:
    assert run("a.png", "-o", "c.tif", "--cog").exit_code == 0
    with rasterio.open("c.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.read().transpose(1, 2, 0) == Engine("bicubic-x2", provider="cpu").upscale(RGB)).all()
    assert "c.png: only a TIFF can be" in refused("a.png", "-o", "c.png", "--cog")


def test_max_pixels() -> None:
    assert "use --max-pixels 1200 to allow it" in refused("a.png", "-o", "x.png", "--max-pixels", "1199")
    assert run("a.png", "-o", "x.png", "--max-pixels", "1200").exit_code == 0
    tifffile.imwrite("a.tif", RGB, photometric="rgb")
    assert "a.tif: 40 x 30 pixels are more than the 1199" in refused(
        "a.tif", "-o", "y.tif", "--max-pixels", "1199"
    )


def test_a_format_and_a_name_must_agree() -> None:
    result = run("a.png", "-o", "b.png", "--format", "tif")
    assert result.exit_code == 2
    assert "b.png: the suffix '.png' does not match --format tif" in result.stderr
    assert run("a.png", "-o", "b.tiff", "--format", "tif").exit_code == 0


def test_resume_of_nothing_is_a_beginning() -> None:
    assert run("a.png", "--resume").exit_code == 0
    assert Path("a_x2.png").exists()


def test_dry_run_only_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(p.name for p in Path().iterdir())
    result = run("a.png", "--dry-run")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("a.png: 40 x 30 → 80 x 60 pixels")
    assert [line.split(":")[0] for line in lines[1:5]] == ["file", "disk", "memory", "time"]
    told = json.loads(run("a.png", "--dry-run", "--json").stdout)
    assert told["target_size"] == [80, 60]
    Image.fromarray(RGB).save("b.png")
    several = run("a.png", "b.png", "missing.png", "--dry-run")
    assert several.exit_code == 1
    assert "all 2: files of " in several.stdout
    assert "missing.png: no such file" in several.stderr
    Path("b.png").unlink()
    assert sorted(p.name for p in Path().iterdir()) == before


def test_what_cannot_fit_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "device", lambda folder: None)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 1000)
    assert "x.tif: needs 786 kB of disk space, but only 1.00 kB are free" in refused(
        "a.png", "-o", "x.tif", "--compress", "none"
    )
    result = run("a.png", "-o", "x.tif", "--compress", "none", "--dry-run")
    assert result.exit_code == 1
    assert "warning: it may not fit" in result.stdout


def test_long_jobs_are_told_of_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale, "LARGE_BYTES", 0)
    assert run("a.png").stderr == ""
    monkeypatch.setattr(upscale, "LONG_SECONDS", 0)
    result = run("a.png", "--overwrite")
    assert result.stderr.startswith("a.png: 40 x 30 → 80 x 60 pixels")
    assert run("a.png", "--overwrite", "--quiet").stderr == ""
