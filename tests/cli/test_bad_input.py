"""Every fault a user meets: one clear line, exit 1, nothing under the final name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from srcnn_rt import Engine, ImageError, OutputError, SrcnnError
from tests.conftest import TEST_MODEL, drawing
from tests.helpers import models
from tests.helpers.reference import quantise

RGB = quantise(drawing(60, 80), np.uint8)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(TEST_MODEL, provider="cpu", tile=32)


def command(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "srcnn_rt", *words],
        cwd=folder, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def fails(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 1, the words on one ``error:`` line, no traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def contents(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write_raster(path: Path, dtype: str, count: int = 1) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=20, width=20, count=count, dtype=dtype,
        transform=rasterio.Affine.scale(2),
    ) as file:  # fmt: skip
        file.write(np.zeros((count, 20, 20), dtype))


def test_a_missing_file(tmp_path: Path) -> None:
    fails(command(tmp_path, "upscale", "gone.tif"), "gone.tif: no such file")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    fails(command(tmp_path, "upscale", "empty"), "empty: no images in this folder")


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("a.tif", b"", "an empty file"),
        ("a.png", b"hello, I am text", "not an image of a known format"),
        ("a.tif", b"II*\0" + b"\xff" * 40, "damaged TIFF"),
        ("a.tif", b"II*\0", "damaged TIFF"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(50), "JPEG"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        ("a.webp", b"RIFF\x20\0\0\0WEBPVP8 " + bytes(24), "damaged WebP"),
        ("a.bmp", b"BM" + bytes(80), "damaged BMP"),
        ("a.gif", b"GIF89a" + bytes(50), "not an image of a known format"),
    ],
)
def test_not_an_image(engine: Engine, tmp_path: Path, name: str, data: bytes, rule: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=rule) as caught:
        engine.upscale_file(tmp_path / name, tmp_path / "out.tif")
    assert str(caught.value).startswith(str(tmp_path / name))
    assert contents(tmp_path) == [name]


def test_not_an_image_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    fails(command(tmp_path, "upscale", "a.png"), "a.png: not an image of a known format")
    assert contents(tmp_path) == ["a.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_a_truncated_image_at_any_point(engine: Engine, tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(RGB).save(whole, **({"compression": "tiff_lzw"} if suffix == ".tif" else {}))
    data = whole.read_bytes()
    cuts = sorted({1, 2, 8, 20, 60, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 1})
    cut_file = tmp_path / f"cut{suffix}"
    for cut in cuts:
        cut_file.write_bytes(data[:cut])
        with pytest.raises(ImageError) as caught:
            engine.upscale_file(cut_file, tmp_path / "out.tif")
        assert f"cut{suffix}" in str(caught.value)
    assert contents(tmp_path) == sorted([whole.name, cut_file.name])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_cut_between_scans_is_truncated(
    engine: Engine, tmp_path: Path, options: dict[str, object]
) -> None:
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "\xff\xd9"  # an end marker that is not the end
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=thumbnail, **options)
    data = (tmp_path / "a.jpg").read_bytes()
    for cut in range(len(data) // 4, len(data) - 1, 97):
        (tmp_path / "b.jpg").write_bytes(data[:cut])
        with pytest.raises(ImageError, match="truncated JPEG"):
            engine.upscale_file(tmp_path / "b.jpg", tmp_path / "out.png")
    engine.upscale_file(tmp_path / "a.jpg", tmp_path / "out.png")


def test_a_truncated_striped_tiff_leaves_nothing(tmp_path: Path) -> None:
    """Damage found in the middle of the work."""
    tifffile.imwrite(tmp_path / "a.tif", np.tile(RGB, (8, 1, 1)), rowsperstrip=8, photometric="rgb")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) * 3 // 4])
    fails(command(tmp_path, "upscale", "a.tif", "--tile", "32"), "a.tif: damaged TIFF")
    assert contents(tmp_path) == ["a.tif"]


def test_zero_size(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:20] = bytes(4)  # the width in IHDR
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="damaged PNG"):
        engine.upscale_file(tmp_path / "a.png", tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["ImageWidth"].overwrite(0)
    with pytest.raises(ImageError, match=r"a\.tif"):
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")


@pytest.mark.parametrize("dtype", ["int64", "uint64", "complex64", "complex128"])
def test_an_unsupported_depth(tmp_path: Path, engine: Engine, dtype: str) -> None:
    write_raster(tmp_path / "a.tif", dtype)
    with pytest.raises(ImageError, match=f"samples must be uint8, int8, .*, float64, got {dtype}"):
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
    assert contents(tmp_path) == ["a.tif"]


def test_an_unsupported_depth_on_the_command_line(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", "int64")
    fails(command(tmp_path, "upscale", "a.tif"), "a.tif: samples must be", "got int64")


def test_another_driver_behind_a_tiff_name(engine: Engine, tmp_path: Path) -> None:
    """A VRT could open any file or address; only TIFF by content is opened."""
    (tmp_path / "a.tif").write_text('<VRTDataset rasterXSize="9" rasterYSize="9"></VRTDataset>')
    with pytest.raises(ImageError, match="not an image of a known format"):
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")


def bad_model(kind: str, path: Path) -> str:
    """Write a model with one fault and return what the error must say."""
    node = models.helper.make_node
    same = [node("Identity", ["lr"], ["hr"])]
    match kind:
        case "text":
            path.write_text("not a model")
            return "not an ONNX model"
        case "empty":
            path.write_bytes(b"")
            return "not an ONNX model"
        case "rank":
            models.save(path, same, {}, inputs=[models.value("lr", ["n", "h", "w"])])
            return "rank 4"
        case "uneven":
            weights = {"w": np.ones((1, 1, 2, 2), np.float32)}
            models.save(path, [node("Conv", ["lr", "w"], ["hr"], "first")], weights)
            return "the margin must be the same on both sides"
        case "global":
            models.save(path, [node("GlobalMaxPool", ["lr"], ["hr"], "pool")], {})
            return "'pool' (GlobalMaxPool)"
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["text", "empty", "rank", "uneven", "global"])
def test_a_model_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    rule = bad_model(kind, tmp_path / "bad.onnx")
    fails(command(tmp_path, "upscale", "a.png", "--model", "bad.onnx"), "bad.onnx", rule)
    assert contents(tmp_path) == ["a.png", "bad.onnx"]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    fails(
        command(tmp_path, "upscale", "a.png", "--model", "srcnn-995-x2"),
        "srcnn-995-x2: no such file; did you mean srcnn-955-x2?",
    )
    fails(
        command(tmp_path, "upscale", "a.png", "--model", "esrgan"),
        "esrgan: no such file, nor a bundled model; srcnn-rt models lists them",
    )
    (tmp_path / "c.pth").write_bytes(b"PK\x03\x04")
    fails(
        command(tmp_path, "upscale", "a.png", "--model", "c.pth"),
        "c.pth: a checkpoint, not an ONNX model; convert it with srcnn-rt export",
    )
    fails(command(tmp_path, "upscale", "a.png", "--model", "gone.onnx"), "gone.onnx: no such file")
    fails(command(tmp_path, "upscale", "a.png", "--model", "."), "a folder, not an ONNX file")


def test_a_tile_too_small(tmp_path: Path) -> None:
    fails(command(tmp_path, "upscale", "a.png", "--tile", "3"), "tile must be at least 8 LR pixels, got 3")


def test_a_provider_that_does_not_load(tmp_path: Path) -> None:
    from srcnn_rt.backends.cuda import devices

    if devices.missing() is None:
        pytest.skip("CUDA works here")
    Image.fromarray(RGB).save(tmp_path / "a.png")
    fails(command(tmp_path, "upscale", "a.png", "--provider", "cuda"), "provider cuda does not load: ")
    assert contents(tmp_path) == ["a.png"]


def test_output_equal_to_input(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    before = (tmp_path / "a.png").read_bytes()
    for output in ("a.png", "./a.png", "b.png"):
        done = command(tmp_path, "upscale", "a.png", "-o", output, "--overwrite")
        fails(done, "the output must not be the input")
    assert (tmp_path / "a.png").read_bytes() == before


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a_x2.png").write_text("precious")
    fails(command(tmp_path, "upscale", "a.png"), "a_x2.png: already exists")
    assert (tmp_path / "a_x2.png").read_text() == "precious"
    assert command(tmp_path, "upscale", "a.png", "--overwrite").returncode == 0
    with Image.open(tmp_path / "a_x2.png") as image:
        assert image.size == (160, 120)


def test_an_old_result_survives_a_failed_overwrite(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-50])
    (tmp_path / "a_x2.jpg").write_text("precious")
    fails(command(tmp_path, "upscale", "a.jpg", "--overwrite"), "truncated JPEG")
    assert (tmp_path / "a_x2.jpg").read_text() == "precious"


def test_outputs_that_cannot_be(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    for target, rule in (
        ("b.gif", "the suffix must be one of"),
        ("b", "the suffix must be one of"),
        ("no/where/b.png", "no such folder"),
        ("folder.png", "a folder is in the way"),
    ):
        with pytest.raises(OutputError, match=rule):
            engine.upscale_file(tmp_path / "a.png", tmp_path / target)
    (tmp_path / "file").touch()
    fails(command(tmp_path, "upscale", "a.png", "-o", "file/"), "file: the folder cannot be made")


def test_no_permission_to_write(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    if os.geteuid() == 0:  # root may write anywhere but here
        target = Path("/proc/srcnn-rt-test.png")
    else:
        (tmp_path / "locked").mkdir(mode=0o555)
        target = tmp_path / "locked" / "b.png"
    with pytest.raises(OutputError, match=r"not writable|cannot be written"):
        engine.upscale_file(tmp_path / "a.png", target)


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from srcnn_rt.__main__ import main
"""


def with_full_disk(folder: Path, limit: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command where no file may grow past `limit` bytes: writes fail as on a full disk."""
    code = LIMITED.replace("int(sys.argv[1])", str(limit))
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("name", ["b.tif", "b.png", "b.jpg"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert with_full_disk(tmp_path, 10**8, "upscale", "a.png", "-o", name).returncode == 0
    size = (tmp_path / name).stat().st_size
    (tmp_path / name).unlink()
    # Early, in the middle, and in the last bytes, which GDAL writes while closing.
    for limit in (0, 8, size // 2, size - 4096, size - 300, size - 1):
        done = with_full_disk(tmp_path, limit, "upscale", "a.png", "-o", name)
        assert done.returncode == 1, limit
        assert f"error: {name}" in done.stderr.replace(str(tmp_path) + "/", "")
        assert "Traceback" not in done.stderr
        assert contents(tmp_path) == ["a.png"], limit


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_can_be_resumed(tmp_path: Path, number: int, status: int) -> None:
    big = np.random.default_rng(0).integers(0, 255, (3000, 3000), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", big, tile=(256, 256))
    command = [sys.executable, "-m", "srcnn_rt", "upscale", "a.tif", "--tile", "128", "--provider", "cpu"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        journal = tmp_path / "a_x2.tif.partial.journal"
        while not journal.exists() or journal.read_bytes().count(b"chunk") < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == status
    assert stderr.splitlines() == [
        "error: interrupted; finished work is kept, and the same command with --resume continues it"
    ]
    assert contents(tmp_path) == ["a.tif", "a_x2.tif.partial", "a_x2.tif.partial.journal"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "left by an interrupted run; use --resume to continue it" in refused.stderr
    subprocess.run([*command, "--resume"], cwd=tmp_path, check=True, capture_output=True)
    assert contents(tmp_path) == ["a.tif", "a_x2.tif"]
    with Engine("srcnn-915-x2", provider="cpu", tile=128) as engine:
        assert (tifffile.imread(tmp_path / "a_x2.tif") == engine.upscale(big)).all()


def test_errors_name_the_file_first(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SrcnnError) as caught:
        engine.upscale_file(tmp_path / "gone.png", tmp_path / "b.png")
    assert isinstance(caught.value, FileNotFoundError)
    assert str(caught.value) == f"{tmp_path / 'gone.png'}: no such file"
