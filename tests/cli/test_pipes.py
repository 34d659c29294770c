"""``srcnn-rt upscale`` with pipes, URLs and GDAL's virtual files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image

from srcnn_rt import Engine
from srcnn_rt.cli import main
from tests.conftest import drawing
from tests.helpers.reference import quantise

HOW = ["--model", "bicubic-x2", "--provider", "cpu"]
RGB = quantise(drawing(45, 60), np.uint8)


@pytest.fixture(scope="module")
def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    with Engine("bicubic-x2", provider="cpu") as engine:
        return engine.upscale(RGB)


def run(*words: object, data: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["upscale", *map(str, words), *HOW], input=data)


def shell(words: str, **how: object) -> subprocess.CompletedProcess[bytes]:
    command = f"{sys.executable} -m srcnn_rt upscale {' '.join(HOW)} {words}"
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False, **how)


def test_a_pipe_in_and_out(png: bytes, expected: np.ndarray) -> None:
    for words in (["-", "-o", "-"], ["-"], ["-", "-o", "-", "--format", "tif"]):
        done = run(*words, data=png)
        assert done.exit_code == 0
        with Image.open(io.BytesIO(done.stdout_bytes)) as image:
            assert image.format == ("TIFF" if "tif" in words else "PNG")
            assert np.array_equal(np.asarray(image), expected)
        assert done.stderr.startswith("standard output: 60 x 45 → 120 x 90, rgb uint8")


def test_a_real_pipe(png: bytes, expected: np.ndarray) -> None:
    done = shell("- -o - --quiet | cat", input=png)
    assert (done.returncode, done.stderr) == (0, b"")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(done.stdout))), expected)


def test_json_goes_to_stderr(png: bytes) -> None:
    done = run("-", "--json", data=png)
    said = json.loads(done.stderr)
    assert (said["source"], said["target"]) == ("standard input", "standard output")
    assert done.stdout_bytes.startswith(b"\x89PNG")


@pytest.mark.parametrize("data", [b"", b"no image", None])
def test_damaged_input_writes_nothing(png: bytes, data: bytes | None) -> None:
    done = run("-", data=png[:500] if data is None else data)
    assert done.exit_code == 1
    assert done.stdout_bytes == b""
    assert done.stderr.startswith("error: standard input: ")
    assert len(done.stderr.splitlines()) == 1
    assert "/proc" not in done.stderr


def test_from_a_file_and_into_a_file(png: bytes, expected: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png)
    done = run(tmp_path / "a.png", "-o", "-", "--format", "bmp")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(done.stdout_bytes))), expected)
    done = run("-", "-o", tmp_path / "b.png", data=png)
    assert done.exit_code == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    done = run("-", "-o", tmp_path / "b.png", data=png)
    assert done.exit_code == 1
    assert "b.png: already exists; use --overwrite" in done.stderr
    assert run("-", "-o", tmp_path / "b.png", "--overwrite", data=png).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-", "-o", "folder/"], "folder/: what comes from standard input has no name; give a file"),
        (["-", "-", "-o", "-"], "-: is one file, but there are 2 inputs"),
        (["-", "-o", "a.png", "--format", "tif"], "the suffix '.png' does not match --format tif"),
        (["-", "--resume"], "--dry-run and --resume need files"),
        (["https://host/a.tif"], "nothing can be written beside it; use --output"),
        (["-", "-o", "/vsimem/a.tif"], "/vsimem/a.tif: GDAL's virtual files are not written"),
    ],
)
def test_usage(words: list[str], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_reader_that_leaves() -> None:
    """One line, no traceback, also not from Python's last flush of what is small."""
    small = io.BytesIO()
    Image.fromarray(RGB[:9, :9]).save(small, "PNG")
    done = shell("- | true", input=small.getvalue())
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "error: standard output: cannot be written: Broken pipe"


def test_a_full_disk_behind_the_pipe(png: bytes) -> None:
    done = shell("- > /dev/full", input=png)
    assert done.returncode == 1
    assert done.stderr.decode() == "error: standard output: cannot be written: No space left on device\n"


def test_virtual_files_need_to_be_allowed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.tif", "a.tif")
    name = f"/vsizip/{tmp_path}/a.zip/a.tif"
    done = run(name, "-o", tmp_path / "b.tif")
    assert done.exit_code == 1
    assert "a.tif: GDAL's virtual files need --allow-remote" in done.stderr
    assert not (tmp_path / "b.tif").exists()
    done = run(name, "-o", tmp_path / "b.tif", "--allow-remote")
    assert (done.exit_code, done.stdout.partition(":")[0]) == (0, str(tmp_path / "b.tif"))
    assert run(tmp_path / "a.tif", "-o", tmp_path / "c.tif").exit_code == 0
    assert (tmp_path / "b.tif").read_bytes() == (tmp_path / "c.tif").read_bytes()
    # Only TIFFs: a virtual raster there could name any file here.
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.vrt", "<VRTDataset rasterXSize='1' rasterYSize='1'/>")
    done = run(f"/vsizip/{tmp_path}/b.zip/a.vrt", "-o", tmp_path / "d.tif", "--allow-remote")
    assert done.exit_code == 1
    assert not (tmp_path / "d.tif").exists()


def test_urls(png: bytes, expected: np.ndarray, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'remote' is not installed")
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/a.png", png)
    system.pipe("/bucket/b.png", png)
    try:
        assert run("memory://bucket/a.png").exit_code == 0
        assert run("memory://bucket/a.png", "memory://bucket/b.png", "-o", tmp_path / "made").exit_code == 0
        done = run(
            "memory://bucket/a.png",
            "memory://bucket/nix.png",
            "-o",
            "memory://bucket/large",
            "--format",
            "tif",
        )
        assert done.exit_code == 1
        assert "error: memory://bucket/nix.png: no such file" in done.stderr
        assert sorted(system.find("/bucket")) == [
            "/bucket/a.png", "/bucket/a_x2.png", "/bucket/b.png", "/bucket/large/a_x2.tif",
        ]  # fmt: skip
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(system.cat("/bucket/a_x2.png")))), expected)
        assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["a_x2.png", "b_x2.png"]
    finally:
        system.store.clear()
