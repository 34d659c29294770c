"""Bytes, file-like objects and datasets in and out: the same result as of files, and no path in messages."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from srcnn_rt import ArgumentError, Engine, ImageError, OutputError, SrcnnError, open_image
from srcnn_rt._system import private_files, safe_files
from srcnn_rt.errors import CancelledError, ClosedError
from tests.conftest import drawing
from tests.helpers.reference import quantise

RGB = quantise(drawing(45, 60), np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CORPUS = Path(__file__).parents[1] / "corpus"
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
PLACES = re.compile(r"/proc/|/tmp|/dev/|fd/\d|srcnn-rt-|" + re.escape(tempfile.gettempdir()))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("bicubic-x2", provider="cpu", tile=32, threads=2) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a temporary file or an open descriptor."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    assert list(folder.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) <= len(before)  # noqa: PTH208


def png(image: np.ndarray = RGB, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def geotiff(**options: object) -> bytes:
    """Two bands of int16 with nodata, georeference, tags, names and scales."""
    samples = quantise(drawing(40, 50, 2), np.uint16).astype(np.int16)
    samples[:5, :5] = -99
    profile = {
        "driver": "GTiff", "width": 50, "height": 40, "count": 2, "dtype": "int16", "nodata": -99,
        "crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 4e6),
    }  # fmt: skip
    with MemoryFile() as file:
        with file.open(**{**profile, **options}) as dataset:
            dataset.write(samples.transpose(2, 0, 1))
            dataset.update_tags(station="North")
            dataset.set_band_description(1, "red")
            dataset.scales = (0.5, 0.25)
        return bytes(file.getbuffer())


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "avif", "jxl", "tif"])
def test_bytes_equal_the_file(engine: Engine, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.png").write_bytes(png(icc_profile=SRGB) if suffix not in ("bmp", "jxl") else png())
    engine.upscale_file(tmp_path / "a.png", tmp_path / f"b.{suffix}")
    data = (tmp_path / "a.png").read_bytes()
    made = engine.upscale_bytes(data, format=suffix)
    assert made == (tmp_path / f"b.{suffix}").read_bytes()
    # Its own format is that of the content.
    assert engine.upscale_bytes(made) == engine.upscale_bytes(made, format=f".{suffix.upper()}")


def test_metadata_are_kept(engine: Engine) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a harbour", 6  # description; turned by 90 degrees
    made = engine.upscale_bytes(png(kind="JPEG", exif=exif, icc_profile=SRGB, dpi=(100, 100)))
    with Image.open(io.BytesIO(made)) as image:
        assert image.format == "JPEG"
        assert image.size == (90, 120)
        assert image.info["icc_profile"] == SRGB
        assert image.info["dpi"] == (200, 200)
        assert (image.getexif()[0x010E], image.getexif()[0x0112]) == ("a harbour", 1)


def test_a_geotiff_keeps_all_it_says(engine: Engine) -> None:
    with MemoryFile(engine.upscale_bytes(geotiff(), bands=True)) as file, file.open() as made:
        assert made.crs.to_epsg() == 32633
        assert made.transform == Affine(5, 0, 5e5, 0, -5, 4e6)
        assert (made.nodata, made.shape, made.dtypes[0]) == (-99, (80, 100), "int16")
        assert made.tags()["station"] == "North"
        assert made.descriptions[0] == "red"
        assert made.scales == (0.5, 0.25)
        assert (made.read(1)[:10, :10] == -99).all()


def test_pages_stay_pages(engine: Engine) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for k in range(3):
            writer.write(np.full((20, 30), 40 * k, np.uint8), contiguous=False)
    seen: list[tuple[int, int]] = []
    made = engine.upscale_bytes(file.getvalue(), progress=lambda done, total: seen.append((done, total)))
    with tifffile.TiffFile(io.BytesIO(made)) as tiff:
        assert [int(p.asarray().mean()) for p in tiff.pages] == [0, 40, 80]
    assert seen[-1] == (3 * 40 * 60, 3 * 40 * 60)
    assert seen == sorted(seen)


class Slow(io.RawIOBase):
    """Gives and takes a few bytes at once, and cannot seek, as a socket."""

    def __init__(self, data: bytes = b"") -> None:
        self.data, self.taken = data, bytearray()

    def read(self, size: int = -1) -> bytes:
        part, self.data = self.data[:1000], self.data[1000:]
        return part

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.taken += data[:777]
        return len(data[:777])


def sources(tmp_path: Path) -> dict[str, object]:
    data = geotiff()
    (tmp_path / "a.tif").write_bytes(data)
    (tmp_path / "a.tif.gz").write_bytes(gzip.compress(data))
    moved = io.BytesIO(b"head" + data)
    moved.seek(4)
    return {
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(np.frombuffer(data, np.uint8)),
        "BytesIO": io.BytesIO(data),
        "from where it is": moved,
        "file": (tmp_path / "a.tif").open("rb"),
        "unbuffered": (tmp_path / "a.tif").open("rb", buffering=0),
        "gzip": gzip.open(tmp_path / "a.tif.gz"),
        "socket": Slow(data),
        "dataset": rasterio.open(tmp_path / "a.tif"),
        "MemoryFile": MemoryFile(data),
    }


def test_every_kind_of_source_and_target(engine: Engine, tmp_path: Path) -> None:
    expected = engine.upscale_bytes(geotiff(), bands=True)
    for name, source in sources(tmp_path).items():
        made = io.BytesIO()
        engine.upscale_file(source, made, bands=True)  # type: ignore[arg-type]
        assert made.getvalue() == expected, name
        if hasattr(source, "close"):
            source.close()
    slow = Slow()
    engine.upscale_file(tmp_path / "a.tif", slow, bands=True)  # type: ignore[arg-type]
    assert bytes(slow.taken) == expected
    with MemoryFile() as memory:
        engine.upscale_file(tmp_path / "a.tif", memory, bands=True)
        assert bytes(memory.getbuffer()) == expected
    with (tmp_path / "b.tif").open("wb") as file:
        report = engine.upscale_file(io.BytesIO(geotiff()), file, bands=True)
    assert (tmp_path / "b.tif").read_bytes() == expected
    assert (report.source, report.target) == ("the file object", "the result")
    engine.upscale_file(io.BytesIO(geotiff()), tmp_path / "c.tif", bands=True)
    assert (tmp_path / "c.tif").read_bytes() == expected


def test_datasets_that_are_no_files(engine: Engine, tmp_path: Path) -> None:
    """A dataset in memory is read as its file; of another format or a virtual one, what GDAL says of it."""
    expected = engine.upscale_bytes(geotiff(), bands=True)
    with MemoryFile(geotiff()) as memory, memory.open() as dataset:
        made = io.BytesIO()
        assert engine.upscale_file(dataset, made, bands=True).source == "the dataset"
        assert made.getvalue() == expected
        with WarpedVRT(dataset, crs="EPSG:4326") as warped, MemoryFile() as result:
            engine.upscale_file(warped, result, bands=True)
            with result.open() as large:
                assert large.crs.to_epsg() == 4326
                assert large.shape == (2 * warped.height, 2 * warped.width)
                assert large.bounds == pytest.approx(warped.bounds)
                assert (large.nodata, large.descriptions[0]) == (-99, "red")
                # Enlarged by an engine from the samples that rasterio reads.
                samples = engine.upscale(warped.read(1), nodata=-99)
                assert np.array_equal(large.read(1), samples)
    with rasterio.open(
        tmp_path / "o.tif", "w+", driver="GTiff", width=640, height=640, count=1, dtype="uint8"
    ) as file:
        file.write(np.resize(RGB, (1, 640, 640)))
        file.build_overviews([2])
    with rasterio.open(tmp_path / "o.tif", overview_level=0) as smaller, MemoryFile() as result:
        engine.upscale_file(smaller, result)
        with result.open() as large:
            assert np.array_equal(large.read(1), engine.upscale(smaller.read(1)))
    mask = np.full((40, 50), 255, np.uint8)
    mask[:10] = 0
    profile = {"driver": "GTiff", "width": 50, "height": 40, "count": 3, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 4e6)}
    with rasterio.open(tmp_path / "m.tif", "w", **profile) as file:
        file.write(RGB[:40, :50].transpose(2, 0, 1))
        file.write_mask(mask)  # in a file beside it
    rasterio.shutil.copy(tmp_path / "m.tif", tmp_path / "m.vrt", driver="VRT")
    with rasterio.open(tmp_path / "m.vrt") as virtual, MemoryFile() as result:
        engine.upscale_file(virtual, result)
        with result.open() as large:
            assert np.array_equal(large.read_masks(1), mask.repeat(2, 0).repeat(2, 1))


def test_regions_of_what_has_no_name(engine: Engine, tmp_path: Path) -> None:
    """`open_image` keeps the private copy for as long as the image is open."""
    data = engine.upscale_bytes(png(), format="tif")
    whole = engine.upscale(engine.upscale(RGB))
    for source in (data, io.BytesIO(data), MemoryFile(data)):
        with open_image(source) as image:
            assert str(tmp_path) not in repr(image)
            assert image.info.shape == (90, 120)
            for y, x in ((0, 0), (50, 60)):
                tile = np.empty((60, 80, 3), np.uint8)
                engine.upscale_into(image, tile, region=(slice(y, y + 30), slice(x, x + 40)))
                assert np.array_equal(tile, whole[2 * y : 2 * y + 60, 2 * x : 2 * x + 80])
            made = np.empty_like(whole)
            for window, part in engine.stream(image):
                made[window] = part
        assert np.array_equal(made, whole)
        with pytest.raises(ClosedError, match=r"^(the data|the file object): the image is closed$"):
            engine.upscale_into(image, made)
    with (
        open_image(data[:-3000]) as image,
        pytest.raises(ImageError, match=r"^the data: damaged TIFF") as raised,
    ):
        list(engine.stream(image))
    assert not PLACES.search(str(raised.value))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the data: an empty file"),
        (b"GIF89a and more", "the data: not an image of a known format"),
        (png()[:700], "the data: truncated PNG, 700 bytes"),
        (b"II*\0" + b"\xff" * 60, "the data: damaged TIFF"),
        (geotiff()[:300], "the data: damaged TIFF"),
    ],
)
def test_damaged_data(engine: Engine, data: bytes, message: str) -> None:
    with pytest.raises(ImageError) as raised:
        engine.upscale_bytes(data)
    assert str(raised.value).startswith(message)
    assert not PLACES.search(str(raised.value))


def test_the_corpus_of_what_once_broke(engine: Engine) -> None:
    for path in CORPUS.iterdir():
        if path.suffix in (".tif", ".png", ".bmp"):
            try:
                engine.upscale_bytes(path.read_bytes(), format="tif")
            except SrcnnError as error:
                assert not PLACES.search(str(error)), path.name


VALID = [
    png(),
    png(kind="JPEG"),
    png(kind="WEBP"),
    geotiff(),
    geotiff(compress="deflate", tiled=True, blockxsize=16),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(VALID), st.data())
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_gives_one_clean_line(valid: bytes, data: st.DataObject) -> None:
    damaged = bytearray(valid[: data.draw(st.integers(0, len(valid)))])
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, min(400, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    try:
        ENGINE.upscale_bytes(bytes(damaged), max_pixels=10**5)
    except SrcnnError as error:
        assert not PLACES.search(str(error))
        assert "\n" not in str(error)


ENGINE = Engine("bicubic-x2", provider="cpu", threads=1)


def test_limits_and_rules(engine: Engine, tmp_path: Path) -> None:
    def refused(kind: type[SrcnnError], message: str, call: object) -> None:
        with pytest.raises(kind, match=message) as raised:
            call()  # type: ignore[operator]
        assert not PLACES.search(str(raised.value))

    data, out = png(), io.BytesIO()
    refused(ImageError, "the data: declares 60 x 45", lambda: engine.upscale_bytes(data, max_pixels=100))
    refused(
        ImageError, "the data: 50 x 40 pixels are more than the 100",
        lambda: engine.upscale_bytes(geotiff(), max_pixels=100),
    )  # fmt: skip
    refused(
        ArgumentError,
        "format must be one of tif, .*, got 'gif'",
        lambda: engine.upscale_bytes(data, format="gif"),
    )
    refused(ArgumentError, "got 'zarr'", lambda: engine.upscale_bytes(data, format="zarr"))
    refused(OutputError, "result.png: PNG", lambda: engine.upscale_bytes(geotiff(), format="png"))
    refused(OutputError, "result.png: PNG is lossless", lambda: engine.upscale_bytes(data, quality=5))
    with pytest.raises(ArgumentError, match=r"format is for results without a name, got .*a\.png and 'png'"):
        engine.upscale_file(data, tmp_path / "a.png", format="png")
    refused(
        ArgumentError, "the file object: .*binary mode", lambda: engine.upscale_file(io.StringIO("x"), out)
    )  # type: ignore[arg-type]
    refused(ArgumentError, "a source must be .*, got int", lambda: engine.upscale_file(7, out))  # type: ignore[arg-type]
    refused(ArgumentError, "a target must be .*, got int", lambda: engine.upscale_file(data, 7))  # type: ignore[arg-type]
    with MemoryFile() as file, file.open(driver="GTiff", width=9, height=9, count=1, dtype="uint8") as writer:
        refused(
            ArgumentError, "the dataset: must be open for reading", lambda: engine.upscale_file(writer, out)
        )
    assert out.getvalue() == b""


def test_a_tiff_of_a_billion_pixels_is_refused_by_default(engine: Engine) -> None:
    """Some hundred bytes can declare any size, and a TIFF file is streamed at any size."""
    with MemoryFile() as file:
        size = 2**15 + 512
        with file.open(
            driver="GTiff", width=size, height=size, count=1, dtype="uint8", SPARSE_OK=True, tiled=True,
            blockxsize=8192, blockysize=8192,
        ):  # fmt: skip
            pass
        data = bytes(file.getbuffer())
    assert len(data) < 10**5
    with pytest.raises(ImageError, match=r"the data: .* are more than the 1073741824 of --max-pixels"):
        engine.upscale_bytes(data)


def test_objects_that_fail(engine: Engine) -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error", "/srv/secret")

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device", "/srv/secret")

    with pytest.raises(ImageError, match=r"^the file object: cannot be read: Input/output error$"):
        engine.upscale_file(Broken(), io.BytesIO())
    with pytest.raises(OutputError, match=r"^the result: cannot be written: No space left on device$"):
        engine.upscale_file(png(), Broken())


def test_a_full_temporary_disk(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private_files.tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match="the file object: no room for a temporary copy: No space left"):
        engine.upscale_file(io.BytesIO(png()), io.BytesIO())


def test_large_data_lie_on_the_disk(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.upscale_bytes(png())
    monkeypatch.setattr(private_files, "MEMORY_BYTES", 100)
    monkeypatch.delattr(os, "memfd_create")  # would be used, if it were asked
    assert engine.upscale_bytes(png()) == expected


def test_private_files_are_private() -> None:
    for size in (10, None):
        with private_files.private_file(size) as file:
            found = os.fstat(file.fileno())
            assert found.st_nlink == 0
            assert found.st_mode & 0o077 == 0 or size  # a file in memory has no name that others could open
            file.write(b"abc")
            assert private_files.path_of(file).read_bytes() == b"abc"
    with private_files.private_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
    times = set()
    for _ in range(50):
        with private_files.private_file() as file:
            os.utime(file.fileno(), (0, 0))  # of one tick of the clock
            private_files.tell_apart(file)
            times.add(os.fstat(file.fileno()).st_mtime_ns)
    assert len(times) == 50


def test_files_of_one_size_are_told_apart(engine: Engine) -> None:
    """Unlinked inodes are used again at once, and pages of a TIFF are cached by inode, size and time."""
    tiffs = []
    for pages in (1, 2):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for _ in range(pages):
                writer.write(np.full((20, 30), 50, np.uint8), contiguous=False)
        tiffs.append(file.getvalue())
    size = max(map(len, tiffs))
    tiffs = [t + bytes(size - len(t)) for t in tiffs]
    expected = [engine.upscale_bytes(t) for t in tiffs]
    private = []
    for k in range(20):
        made = io.BytesIO()
        engine.upscale_file(Slow(tiffs[k % 2]), made)  # type: ignore[arg-type]
        private.append(made.getvalue() == expected[k % 2])
    assert all(private)


def test_a_run_that_is_cancelled_leaves_nothing(engine: Engine) -> None:
    cancel, made = threading.Event(), io.BytesIO()
    with pytest.raises(CancelledError):
        engine.upscale_file(
            png(np.resize(RGB, (900, 900, 3))),
            made,
            format="tif",
            cancel=cancel,
            progress=lambda *_: cancel.set(),
        )
    assert made.getvalue() == b""
    cancel.set()
    with pytest.raises(CancelledError):
        engine.upscale_bytes(png(), cancel=cancel)


def test_a_folder_waits_for_what_is_still_written(tmp_path: Path) -> None:
    """Encoders and GDAL cannot be stopped; when one has ended after all, its folder goes too."""
    go_on, ended = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait(30)
        (folder / "late").write_bytes(b"")
        ended.set()

    def stop() -> None:
        raise CancelledError("stopped")

    with (
        pytest.raises(CancelledError),
        private_files.private_folder("a.partial") as folder,
        safe_files.checking(stop),
    ):
        safe_files.interruptible(folder / "a.partial", work)
    assert folder.exists()
    go_on.set()
    assert ended.wait(30)
    while folder.exists():
        time.sleep(0.01)
    assert folder / "a.partial" not in safe_files._finishing


def test_a_closed_engine() -> None:
    made = Engine("bicubic-x2", provider="cpu")
    made.close()
    with pytest.raises(ClosedError):
        made.upscale_bytes(png())


def test_from_many_threads(engine: Engine) -> None:
    data = [png(quantise(drawing(30 + k, 40, seed=k), np.uint8)) for k in range(6)]
    expected = [engine.upscale_bytes(d) for d in data]
    made: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda k=k: made.update({k: engine.upscale_bytes(data[k % 6])}))
        for k in range(18)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made[k] for k in range(18)] == expected * 3


def test_nothing_is_left_by_a_kill(tmp_path: Path) -> None:
    """The copy of a source has no name, so even SIGKILL leaves none."""
    code = (
        "import io, os, signal\n"
        "from srcnn_rt.io.streams import local_image\n"
        "class Big:\n"
        "    parts = 50\n"
        "    def read(self, size=-1):\n"
        "        self.parts -= 1\n"
        "        return bytes(10**6) if self.parts else os.kill(os.getpid(), signal.SIGKILL)\n"
        "with local_image(Big()): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False
    )
    assert done.returncode == -9
    assert [p.name for p in tmp_path.iterdir()] == ["temporary"]
