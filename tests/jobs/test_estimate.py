"""Estimates of jobs: what cannot fit is refused, what fits never is, and the true size is in the range."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import rasterio
import tifffile

from srcnn_rt import Engine, ImageError, OutputError
from srcnn_rt._system import disk
from srcnn_rt._system import memory as system_memory
from srcnn_rt._system.memory import Memory
from srcnn_rt.cli.estimates import lines, time_text
from srcnn_rt.io.codecs import libraries
from srcnn_rt.jobs import estimate, totals
from srcnn_rt.jobs.estimate import Estimate, size_text
from srcnn_rt.jobs.job import Job
from srcnn_rt.options import OutputOptions
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.reference import quantise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(TEST_MODEL, provider="cpu", tile=64) as e:
        yield e


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The bytes that are free on every disk."""
    there = [10**12]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: Disk(10**13, 0, there[0]))
    yield there


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    there = [10**12]
    monkeypatch.setattr(system_memory, "memory", lambda: Memory(there[0], there[0]))
    monkeypatch.setattr(system_memory, "resident", lambda: 0)
    yield there


def photo(h: int, w: int, channels: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return quantise(drawing(h, w, channels, seed), dtype) if dtype != np.float32 else (
        drawing(h, w, channels, seed).astype(np.float32)
    )  # fmt: skip


def write_tiff(path: Path, image: np.ndarray, compression: str | None = "deflate") -> Path:
    image = image.squeeze()
    tifffile.imwrite(
        path,
        image,
        tile=(128, 128),
        photometric="rgb" if image.ndim == 3 else "minisblack",
        compression=compression,
        predictor=compression is not None,
    )
    return path


def write_png(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image[..., ::-1] if image.shape[2] == 3 else image)
    return path


def bytes_of(path: Path) -> int:
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


# The range


def in_range(engine: Engine, source: Path, target: Path, **options: Any) -> Estimate:
    """Upscale; the true size must be in the estimated range, and not below the minimum."""
    found = engine.estimate(source, target, **options)
    engine.upscale_file(source, target, **options)
    low, high = found.file_bytes
    true = bytes_of(target) - (HEAD_BYTES if found.exact else 0)
    assert low <= bytes_of(target)
    assert true <= high
    assert found.min_bytes <= bytes_of(target)
    return found


HEAD_BYTES = 1500  # of a small file, which an exact size does not count


@pytest.fixture(params=["photo", "noise", "blank", "drawing"])
def content(request: pytest.FixtureRequest) -> Callable[..., np.ndarray]:
    """Return an image that compresses as photographs do, not at all, to nearly nothing, or well."""

    def made(h: int, w: int, channels: int, dtype: type) -> np.ndarray:
        white = 1 if dtype == np.float32 else np.iinfo(dtype).max
        match request.param:
            case "noise":
                values = np.random.default_rng(0).random((h, w, channels))
            case "blank":
                values = np.full((h, w, channels), 0.7)
            case "drawing":
                values, rng = np.ones((h, w, channels)), np.random.default_rng(1)
                for y, x, size in rng.integers(0, (h, w, 40), (60, 3)):
                    values[y : y + size, x : x + 2 * size] = rng.random(channels)
            case _:
                return photo(h, w, channels, dtype)
        return (values * white).astype(dtype)

    return made


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (3, np.uint16), (1, np.float32)]
)
def test_the_size_of_a_tiff_is_in_the_range(
    engine: Engine,
    tmp_path: Path,
    content: Callable[..., np.ndarray],
    channels: int,
    dtype: type,
    compress: str,
) -> None:
    image = content(260, 330, channels, dtype)
    for k, compression in enumerate((None, "deflate", "lzw")):
        source = write_tiff(tmp_path / f"{k}.tif", image, compression)
        plain = tmp_path / f"{k}_x2.tif"
        assert in_range(engine, source, plain, compress=compress).exact is (compress == "none")
    cog = in_range(engine, source, tmp_path / "cog.tif", compress=compress, cog=True)
    assert cog.temporary_bytes >= bytes_of(plain) - HEAD_BYTES


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".avif", ".jxl", ".bmp", ".zarr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_size_of_every_format_is_in_the_range(
    engine: Engine, tmp_path: Path, content: Callable[..., np.ndarray], channels: int, suffix: str
) -> None:
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    source = write_png(tmp_path / "a.png", content(140, 170, channels, np.uint8))
    target = tmp_path / f"b{suffix}"
    in_range(engine, source, target)
    if suffix != ".bmp" or channels == 3:  # the header of a palette does not tell gray from color
        in_range(engine, target, tmp_path / "c.tif")
        in_range(engine, target, tmp_path / f"d{suffix}")
    if suffix in (".jpg", ".webp", ".avif", ".jxl"):
        for quality in (1, 50, 100):
            in_range(engine, source, tmp_path / f"{quality}{suffix}", quality=quality)


@pytest.mark.parametrize("scale", [3, 4, 8])
def test_the_size_at_every_scale_is_in_the_range(
    tmp_path: Path, content: Callable[..., np.ndarray], scale: int
) -> None:
    with Engine(f"bicubic-x{scale}", provider="cpu", tile=64) as engine:
        source = write_png(tmp_path / "a.png", content(90, 100, 3, np.uint8))
        for name in ("b.png", "b.tif", "b.jxl"):
            in_range(engine, source, tmp_path / name)


@pytest.mark.parametrize("shape", [(3, 3000), (3000, 3), (1100, 700)])
def test_padding_and_overviews_are_in_the_range(
    engine: Engine, tmp_path: Path, shape: tuple[int, int]
) -> None:
    """Tiles of a narrow image are mostly padding."""
    source = write_tiff(tmp_path / "a.tif", photo(*shape, 1))
    with rasterio.open(source, "r+") as file:
        file.build_overviews([2], rasterio.enums.Resampling.average)
    for compress in ("deflate", "lzw", "none"):
        for cog in (False, True):
            in_range(engine, source, tmp_path / f"{compress}_{cog}.tif", compress=compress, cog=cog)


def test_a_zarr_is_a_folder(engine: Engine, tmp_path: Path, free: list[int]) -> None:
    pytest.importorskip("zarr")
    source = write_tiff(tmp_path / "a.tif", photo(520, 600, 3))
    first, second = tmp_path / "b.zarr", tmp_path / "c.zarr"
    for one, two in ((source, first), (first, second)):
        assert in_range(engine, one, two).temporary_bytes == 0
    assert engine.estimate(first, second, overwrite=True).replaced_bytes == bytes_of(second)
    free[0] = bytes_of(second) // 4
    assert not engine.estimate(first, tmp_path / "d.zarr").fits


@pytest.mark.parametrize("channels", [1, 3])
def test_uncompressed_bytes_are_exact(engine: Engine, tmp_path: Path, channels: int) -> None:
    source = write_png(tmp_path / "a.png", photo(301, 403, channels))
    for name, keywords in (("b.tif", {"compress": "none"}), ("b.bmp", {})):
        found = engine.estimate(source, target := tmp_path / name, **keywords)
        engine.upscale_file(source, target, **keywords)
        assert found.exact
        assert 0 <= target.stat().st_size - found.file_bytes[0] < HEAD_BYTES


def test_pages_are_summed_up_or_one_is_taken(engine: Engine, tmp_path: Path) -> None:
    source = tmp_path / "a.tif"
    with tifffile.TiffWriter(source) as file:
        for k in range(3):
            file.write(photo(100 + k, 90, 1)[..., 0], photometric="minisblack")
    every = engine.estimate(source, tmp_path / "b.tif")
    one = engine.estimate(source, tmp_path / "b.tif", page=2)
    assert (every.pages, every.raw_bytes) == (3, 4 * 90 * (100 + 101 + 102))
    assert (one.pages, one.source_size, one.target_size) == (1, (90, 101), (180, 202))


def test_an_estimate_is_json_and_some_lines(engine: Engine, tmp_path: Path) -> None:
    found = engine.estimate(write_png(tmp_path / "a.png", photo(60, 70, 3)), tmp_path / "b.png")
    assert json.loads(json.dumps(asdict(found)))["source_size"] == [70, 60]
    said = lines(found)
    assert 4 <= len(said) <= 6
    assert all("\n" not in line for line in said)
    assert "70 x 60 → 140 x 120" in said[0]
    assert found.seconds is not None
    assert found.seconds > 0
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (12_345_678, "12.3 MB"), (999_999_999, "1.00 GB"),
     (123e9, "123 GB"), (4.6e14, "460 TB")],
)  # fmt: skip
def test_sizes_have_units(count: float, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.31, "0.3 s"), (9.99, "10 s"), (59.7, "1 min 0 s"), (3599.9, "1 h 0 min"), (45_720, "12 h 42 min")],
)
def test_times_have_units(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


# The disk


def test_an_exact_file_is_refused_one_byte_short(engine: Engine, tmp_path: Path, free: list[int]) -> None:
    source = write_tiff(tmp_path / "a.tif", photo(300, 300, 3))
    target = tmp_path / "b.tif"
    needed = engine.estimate(source, target, compress="none").file_bytes[0]
    free[0] = needed - 1
    with pytest.raises(OutputError) as caught:
        engine.upscale_file(source, target, compress="none")
    assert str(caught.value) == f"{target}: needs 3.15 MB of disk space, but only 3.15 MB are free"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif"]
    free[0] = needed
    engine.upscale_file(source, target, compress="none")


@pytest.mark.parametrize("source_name", ["a.tif", "a.png"])
def test_a_compressed_file_that_may_fit_is_not_refused(
    engine: Engine, tmp_path: Path, free: list[int], source_name: str
) -> None:
    image = photo(400, 500, 3)
    source = (write_tiff if source_name == "a.tif" else write_png)(tmp_path / source_name, image)
    target = tmp_path / "b.tif"
    engine.upscale_file(source, target)
    real = target.stat().st_size
    target.unlink()
    free[0] = real  # it fits
    assert not engine.estimate(source, target).fits
    engine.upscale_file(source, target)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_blank_image_is_not_refused(
    engine: Engine, tmp_path: Path, free: list[int], compression: str | None
) -> None:
    source = write_tiff(tmp_path / "a.tif", np.full((1200, 1300, 1), 200, np.uint8), compression)
    free[0] = 60_000  # of 6.24 MB of samples
    engine.upscale_file(source, tmp_path / "b.tif")
    assert (tmp_path / "b.tif").stat().st_size <= free[0]


def test_samples_of_a_coded_image_are_spooled(engine: Engine, tmp_path: Path, free: list[int]) -> None:
    source = write_png(tmp_path / "a.png", photo(700, 800, 3))
    raw = 4 * 700 * 800 * 3
    found = engine.estimate(source, tmp_path / "b.png")
    assert (found.temporary_bytes, found.min_temporary_bytes) == (raw, raw)
    free[0] = raw - 1
    with pytest.raises(OutputError, match=r"at least 6.72 MB of disk space, but only 6.72 MB are free"):
        engine.upscale_file(source, tmp_path / "b.png")
    small = engine.estimate(write_png(tmp_path / "c.png", photo(50, 50, 3)), tmp_path / "b.png")
    assert small.temporary_bytes == 0


def test_a_cog_is_there_twice_while_it_is_made(engine: Engine, tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "a.tif", photo(600, 600, 1))
    plain, cog = (engine.estimate(source, tmp_path / "b.tif", cog=c) for c in (False, True))
    assert cog.file_bytes[1] > plain.file_bytes[1]
    assert cog.temporary_bytes >= plain.file_bytes[1] > plain.temporary_bytes == 0


def test_a_close_fit_is_a_warning(engine: Engine, tmp_path: Path, free: list[int]) -> None:
    source = write_tiff(tmp_path / "a.tif", photo(300, 300, 3))
    found = engine.estimate(source, tmp_path / "b.tif")
    low, high = found.file_bytes
    for room, fits in ((high, True), (high - 1, False), (low, False), (low // 2, False)):
        there = replace(found, free_bytes=room, memory_available=None)
        assert there.fits is fits
        assert lines(there)[-1].startswith("warning") is not fits
        estimate.refuse(replace(there, memory_limit=None))


def test_what_is_replaced_is_no_room(engine: Engine, tmp_path: Path, free: list[int]) -> None:
    source = write_tiff(tmp_path / "a.tif", photo(300, 300, 3))
    target = tmp_path / "b.tif"
    target.write_bytes(bytes(5_000_000))
    free[0] = 1_000_000
    with pytest.raises(OutputError, match="of disk space"):
        engine.upscale_file(source, target, compress="none", overwrite=True)
    assert target.stat().st_size == 5_000_000
    assert engine.estimate(source, target, overwrite=True).replaced_bytes == 5_000_000


# Resuming


def interrupt(engine: Engine, source: Path, target: Path, **keywords: object) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.upscale_file(source, target, progress=stop, **keywords)


@pytest.mark.parametrize("name", ["b.tif", "b.png"])
def test_what_is_done_counts(engine: Engine, tmp_path: Path, free: list[int], name: str) -> None:
    source = write_tiff(tmp_path / "a.tif", photo(1100, 900, 3))
    target = tmp_path / name
    fresh = engine.estimate(source, target)
    interrupt(engine, source, target)
    partial = tmp_path / (name + ".partial")
    found = engine.estimate(source, target, resume=True)
    assert 0.3 < found.done < 0.95
    assert found.seconds < fresh.seconds * 0.9
    assert found.kept_bytes == min(partial.stat().st_blocks * 512, partial.stat().st_size)
    again = engine.estimate(source, target, overwrite=True)
    assert again.done == 0
    assert again.kept_bytes == found.kept_bytes  # written over
    # Only what is missing needs room.
    free[0] = max(1, fresh.min_bytes + fresh.min_temporary_bytes - found.kept_bytes + 100_000)
    engine.upscale_file(source, target, resume=True)
    low, high = found.file_bytes
    assert low <= target.stat().st_size <= high


def test_a_journal_that_is_none_is_no_help_and_no_harm(engine: Engine, tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "a.tif", photo(100, 100, 1))
    for text in ("", "x", "[]", '{"plans": [[1, 2]]}\n{"page": 0, "chunk": 0}', '{"page": 5, "chunk": -1}',
                 '{"plans": [[8, 8, 0, 0]]}\n{"page": 0, "chunk": 0}'):  # fmt: skip
        (tmp_path / "b.tif.partial").write_bytes(b"123")
        (tmp_path / "b.tif.partial.journal").write_text(text)
        assert engine.estimate(source, tmp_path / "b.tif", resume=True).done == 0


# Memory


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def lying_png(path: Path, side: int) -> Path:
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_a_header_that_declares_too_much_is_not_decoded(
    engine: Engine, tmp_path: Path, free: list[int], memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lying_png(tmp_path / "a.png", 30_000)
    monkeypatch.setattr(libraries, "decode", lambda *a, **k: pytest.fail("it was decoded"))
    memory[0] = 2 * 10**9
    with pytest.raises(ImageError, match=r"a.png: 30000 x 30000 pixels need at least 2.70 GB of memory"):
        engine.upscale_file(source, tmp_path / "b.tif")
    memory[0] = 50 * 10**9
    with pytest.raises(
        OutputError, match=r"60000 x 60000 pixels need at least 56.7 GB .* write a TIFF, which is streamed"
    ):
        engine.upscale_file(source, tmp_path / "b.webp")


def test_a_tiff_that_declares_too_much_is_refused(
    engine: Engine, tmp_path: Path, free: list[int], memory: list[int]
) -> None:
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, np.zeros((64, 64), np.uint8), rowsperstrip=64)
    data = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as file:
        for tag, value in ((256, 2_000_000), (257, 2_000_000)):
            at = file.pages[0].tags[tag].valueoffset
            data[at : at + 4] = struct.pack("<I", value)
    source.write_bytes(data)
    free[0] = 10**12
    with pytest.raises((OutputError, ImageError)) as caught:
        engine.upscale_file(source, tmp_path / "b.tif", compress="none")
    assert "16.0 TB of disk space, but only 1.00 TB are free" in str(caught.value)
    free[0], memory[0] = 10**15, 10**8
    with pytest.raises(ImageError, match=r"a.tif: 2000000 x 2000000 pixels need at least .* of memory"):
        engine.upscale_file(source, tmp_path / "b.tif")


def test_memory_is_refused_at_its_boundary(
    engine: Engine, tmp_path: Path, free: list[int], memory: list[int]
) -> None:
    source = write_png(tmp_path / "a.png", photo(400, 400, 3))
    minimum = engine.estimate(source, tmp_path / "b.png").min_memory
    memory[0] = minimum - 1
    with pytest.raises(OutputError, match="of memory"):
        engine.upscale_file(source, tmp_path / "b.png")
    memory[0] = minimum
    engine.upscale_file(source, tmp_path / "b.png")
    tiff = write_tiff(tmp_path / "a.tif", photo(400, 400, 3))
    memory[0] = minimum - 1  # which streaming does not need
    engine.upscale_file(tiff, tmp_path / "b.tif")


def test_where_nothing_is_known_nothing_is_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> Disk:
        raise OSError("no")

    monkeypatch.setattr(system_memory, "ROOT", tmp_path / "nothing")
    monkeypatch.setattr(disk.shutil, "disk_usage", fails)
    source = write_png(tmp_path / "a.png", photo(40, 40, 3))
    found = engine.estimate(source, tmp_path / "b.png")
    assert (found.free_bytes, found.memory_available, found.fits) == (None, None, True)
    assert len(lines(found)) == 5
    engine.upscale_file(source, tmp_path / "b.png")


PEAK = r"""
import mmap, sys
import numpy as np
from pathlib import Path
from srcnn_rt.io.registry import open_source
from srcnn_rt.io.codecs.whole_file import FORMATS, encode
from srcnn_rt.image.info import Layout, ImageInfo
def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key + ":")) * 1024
folder, suffix, channels, kind = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
side = 3000 if suffix != ".webp" else 1500
info = ImageInfo((side, side), Layout.of(channels), np.dtype(np.uint8))
path, small = folder / ("a" + suffix), folder / ("small" + suffix)
small.write_bytes(encode(np.zeros((64, 64, channels), np.uint8), FORMATS[suffix], info, 1, None, path))
open_source(small)
size = side * side * channels
if kind == "write":
    array = np.frombuffer(mmap.mmap(-1, size), np.uint8).reshape(side, side, channels)
    steps = np.arange(side, dtype=np.uint8)
    array[...] = (steps[:, None, None] // 3) ^ steps[:, None]
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
if kind == "write":
    path.write_bytes(encode(array, FORMATS[suffix], info, 1, None, path))
else:
    open_source(path)
print((status("VmHWM") - before) / size, path.stat().st_size / size)
"""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".avif", ".jxl"])
@pytest.mark.parametrize("channels", [1, 3])
def test_coders_take_the_memory_that_is_refused_for(tmp_path: Path, suffix: str, channels: int) -> None:
    """If a coder takes less than it did, jobs that fit are refused: measure anew, and lower the numbers."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the kernel does not count peaks anew")
    words = [sys.executable, "-c", PEAK, str(tmp_path), suffix, str(channels)]
    written, read = (
        subprocess.run([*words, kind], capture_output=True, text=True, check=True).stdout.split()
        for kind in ("write", "read")
    )
    copies = estimate.ENCODER_BYTES.get(suffix, (0, 0, 0))[channels - 1] / channels
    assert float(written[0]) > copies * estimate.SURE
    assert float(written[0]) < copies * 1.5 + 3 * float(written[1]) + 0.3
    peak, share = (float(n) / (3 if suffix == ".webp" and channels == 1 else 1) for n in read)  # it is RGB
    assert 0.95 < peak < (estimate.DECODER_COPIES.get(suffix, 1) + share) * 1.3 + 0.2


# What memory there is


def system(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = "MemTotal: 900 kB\nMemAvailable:  500 kB\nActive(anon): 7 kB\nSwapFree: 50 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Memory(512_000, 563_200)),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "300000",
          "sys/fs/cgroup/a/memory.current": "250000",
          "sys/fs/cgroup/a/memory.stat": "anon 9\ninactive_file 30000\nactive_file 10000\n",
          "sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/b/memory.current": "5"},
         Memory(90_000, 141_200)),
        ({"proc/self/cgroup": "8:memory:/x\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "200000",
          "sys/fs/cgroup/memory/memory.usage_in_bytes": "150000",
          "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712",
          "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "1"}, Memory(50_000, 101_200)),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/memory.max": "x"}, Memory(512_000, 563_200)),
    ],
    ids=["none", "v2", "v1", "damaged"],
)  # fmt: skip
def test_the_least_of_machine_and_control_groups_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: Memory
) -> None:
    system(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/status": "Name: x\nVmRSS:\t 12 kB\n", **files})
    monkeypatch.setattr(system_memory, "ROOT", tmp_path)
    assert system_memory.memory() == expected
    assert system_memory.resident() == 12 * 1024


# Headers


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".avif", ".jxl"])
def test_what_is_declared_is_what_is_estimated(
    engine: Engine, tmp_path: Path, suffix: str, channels: int
) -> None:
    if channels == 4 and suffix in (".jpg", ".bmp"):
        pytest.skip("holds no alpha")
    made = tmp_path / f"a{suffix}"
    engine.upscale_file(write_png(tmp_path / "a.png" if suffix != ".png" else tmp_path / "b.png",
                                  photo(30, 41, channels)), made)  # fmt: skip
    found = engine.estimate(made, tmp_path / "c.tif")
    assert (found.source_size, found.target_size) == ((82, 60), (164, 120))
    colored = 3 if channels == 1 and suffix in (".webp", ".bmp") else channels  # a palette counts as colour
    assert found.raw_bytes == 164 * 120 * colored


# Several files


def some(found: Estimate, **changes: object) -> Estimate:
    usual = {
        "file_bytes": (80, 100),
        "min_bytes": 60,
        "free_bytes": 1000,
        "seconds": 2.0,
        "disk": 1,
    }
    nothing = dict.fromkeys(("temporary_bytes", "min_temporary_bytes", "kept_bytes", "replaced_bytes"), 0)
    return replace(found, **(usual | nothing | changes))


def test_a_folder_is_summed_up_and_refused(engine: Engine, tmp_path: Path) -> None:
    base = engine.estimate(write_png(tmp_path / "a.png", photo(40, 40, 1)), tmp_path / "b.png")
    jobs = [some(base)] * 12
    found = totals.total(jobs)
    assert (found.files, found.file_bytes, found.seconds) == (12, (960, 1200), 24)
    assert (found.peak_bytes, found.min_bytes, found.free_bytes, found.fits) == (1200, 720, 1000, False)
    totals.check_total(jobs)
    with pytest.raises(OutputError, match=r"out: 20 results need at least 1.20 kB of disk space"):
        totals.check_total([some(base)] * 20, "out")
    assert json.loads(json.dumps(asdict(found)))["files"] == 12
    # What is beside a file goes with it, and what is replaced becomes free one by one.
    spooled = [some(base, temporary_bytes=300, min_temporary_bytes=300)] * 3
    assert totals.total(spooled).peak_bytes == 600
    assert totals.total([some(base, replaced_bytes=100)] * 30).peak_bytes == 100
    # Disks are separate.
    assert totals.total([some(base, disk=k, free_bytes=150) for k in range(9)]).fits
    assert totals.total([]).files == 0
    assert totals.total([some(base), some(base, seconds=None)]).seconds is None


def test_neither_rasterio_nor_onnx_is_needed_for_headers_of_a_png(tmp_path: Path) -> None:
    source = write_png(tmp_path / "a.png", photo(20, 20, 3))
    code = (
        "from srcnn_rt import Engine\nimport sys\n"
        f"Engine(provider='cpu').estimate({str(source)!r}, {str(tmp_path / 'b.png')!r})\n"
        "print(*sorted(m for m in sys.modules if m in ('rasterio', 'imagecodecs', 'cv2')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_job_as_a_whole_can_be_checked_before(engine: Engine, tmp_path: Path) -> None:
    """What is damaged or not there is said by those who open it."""
    job = Job(tmp_path / "no.png", tmp_path / "b.png", 2, {}, OutputOptions())
    estimate.check(job, engine.spec, engine._setup)
    (tmp_path / "no.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    estimate.check(job, engine.spec, engine._setup)
