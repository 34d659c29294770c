"""Small files in many chunks, and what befalls them: kills, full disks, power failures."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import Resampling

from srcnn_rt import Engine
from srcnn_rt._system import safe_files
from srcnn_rt.execution import executor
from srcnn_rt.io import spool
from srcnn_rt.io.tiff import writer as tiff
from srcnn_rt.jobs import file_job
from tests.conftest import drawing
from tests.helpers.reference import quantise

PARTIAL, JOURNAL = ".partial", ".partial.journal"
SHAPE = (27, 140)  # LR: chunks of 16 x 64 in a TIFF, of 8 x 64 in the others


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    """Blocks and chunks so small that an image of some thousand pixels has many."""
    patch.setattr(tiff, "BLOCK", 32)
    patch.setattr(tiff._Page, "max_bytes", 2048)
    patch.setattr(spool, "MIN_BYTES", 0)
    patch.setattr(spool.SpoolTarget, "max_bytes", 2048)


def write_gray(path: Path) -> None:
    tifffile.imwrite(path, quantise(drawing(*SHAPE, 1)[..., 0], np.uint8))


def write_masked(path: Path) -> None:
    """RGB of 16 bits with a mask inside, and a corner that is nodata nowhere else."""
    image = quantise(drawing(*SHAPE, 3), np.uint16)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", width=SHAPE[1], height=SHAPE[0], count=3, dtype="uint16",
            photometric="RGB", transform=rasterio.Affine.scale(2),
        ) as file,
    ):  # fmt: skip
        file.write(image.transpose(2, 0, 1))
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        file.write_mask((y - 14) ** 2 + (x - 60) ** 2 > 200)


def write_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        for k, shape in enumerate([(20, 70), SHAPE, (9, 9)]):
            file.write(quantise(drawing(*shape, 1, seed=k)[..., 0], np.uint8))


def write_float(path: Path) -> None:
    image = drawing(*SHAPE, 1)[..., 0].astype(np.float32)
    image[5:9, 40:60] = np.nan
    image[22, 100] = np.inf
    tifffile.imwrite(path, image)


def write_pyramid(path: Path) -> None:
    """With statistics and overviews, which are made again for the result."""
    kind = {"driver": "GTiff", "width": SHAPE[1], "height": SHAPE[0], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **kind, transform=rasterio.Affine.scale(2)) as file:
        file.write(quantise(drawing(*SHAPE, 1)[..., 0], np.uint8), 1)
        file.build_overviews([2], Resampling.average)
        file.update_stats(approx=False)


def write_rgb(path: Path) -> None:
    tifffile.imwrite(path, quantise(drawing(*SHAPE, 3), np.uint8), photometric="rgb")


@dataclass(frozen=True)
class Kind:
    """A job: how its source is made, the suffix of the result, and options."""

    write: Callable[[Path], None]
    suffix: str = ".tif"
    options: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "gray": Kind(write_gray),
    "masked 16-bit": Kind(write_masked, ".tif", {"compress": "zstd"}),
    "pages": Kind(write_pages, ".tif", {"compress": "lzw"}),
    "float": Kind(write_float, ".tif", {"compress": "none"}),
    "pyramid": Kind(write_pyramid),
    "cog": Kind(write_rgb, ".tif", {"cog": True}),
    "png": Kind(write_rgb, ".png"),
    "webp": Kind(write_rgb, ".webp"),
}


class Bench:
    """One job in a folder of its own.

    Attributes
    ----------
    expected : bytes of the result of a run that nothing befell
    rendered : (y, x) of the chunks computed so far, in order
    """

    def __init__(self, folder: Path, kind: Kind, engine: Engine) -> None:
        self.folder, self.kind, self.engine = folder, kind, engine
        self.source, self.target = folder / "a.tif", folder / f"b{kind.suffix}"
        self.partial = folder / (self.target.name + PARTIAL)
        self.journal = folder / (self.target.name + JOURNAL)
        kind.write(self.source)
        self.rendered: list[tuple[int, int]] = []
        self.run()
        self.expected = self.target.read_bytes()
        self.target.unlink()
        self.chunks = len(self.rendered)

    def run(self, **options: Any) -> None:
        self.rendered = []
        part = executor._Run._input

        def counted(this: Any, item: Any) -> Any:
            self.rendered.append((item[1].y.start, item[1].x.start))
            return part(this, item)

        engine = options.pop("engine", self.engine)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(executor._Run, "_input", counted)
            engine.upscale_file(self.source, self.target, **{**self.kind.options, **options})

    def resume(self, **options: Any) -> None:
        """Go on; the result must be the expected one, and nothing else be left."""
        self.run(resume=True, **options)
        assert self.target.read_bytes() == self.expected
        assert self.contents() == ["a.tif", self.target.name]

    def contents(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir())

    def interrupt(self, after: int) -> None:
        """Run until so many chunks are noted, then press Ctrl-C."""
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, after)
            self.run()

    def restart(self) -> None:
        """Take away all but the source."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.source:
                path.unlink()


def stop_after(
    patch: pytest.MonkeyPatch, chunks: int, error: type[BaseException] = KeyboardInterrupt
) -> None:
    """Raise in the thread that writes, when so many chunks are noted."""
    add, left = file_job.Journal.add, [chunks]

    def note(self: Any, *words: Any) -> None:
        if left[0] == 0:
            raise error
        left[0] -= 1
        add(self, *words)

    patch.setattr(file_job.Journal, "add", note)


@contextmanager
def states(folder: Path, saved: Path) -> Iterator[list[Path]]:
    """Collect what SIGKILL would leave at every step: copies of the folder around each call of the system.

    In the middle of writes too. What is under `folder` when a process is killed is all that it leaves.
    """
    found: list[Path] = []
    last: list[dict[str, bytes]] = [{}]

    def save() -> None:
        now = {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        if now != last[0]:
            last[0] = now
            found.append(saved / str(len(found)))
            shutil.copytree(folder, found[-1])

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*words: Any, **options: Any) -> Any:
            save()
            done = call(*words, **options)
            save()
            return done

        return wrapped

    def torn(call: Callable[..., Any]) -> Callable[..., Any]:
        def write(file: int, data: Any, *at: int) -> int:
            data = bytes(data)
            half = call(file, data[: len(data) // 2], *at)
            save()
            whole = half + call(file, data[half:], *(start + half for start in at))
            save()
            return whole

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in ("ftruncate", "fsync", "posix_fallocate"):
            patch.setattr(os, name, around(getattr(os, name)))
        for name in ("write", "pwrite"):
            patch.setattr(os, name, torn(getattr(os, name)))
        for name in ("replace", "unlink", "mkdir"):
            patch.setattr(Path, name, around(getattr(Path, name)))
        patch.setattr(safe_files.shutil, "rmtree", around(shutil.rmtree))
        yield found


def adopt(bench: Bench, state: Path) -> None:
    """Make the bench's folder what a kill had left."""
    bench.restart()
    bench.source.unlink()
    shutil.copytree(state, bench.folder, dirs_exist_ok=True)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch)
        yield


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("bicubic-x2", provider="cpu", tile=8, threads=1) as made:
        yield made


@pytest.fixture
def gray(engine: Engine, tmp_path: Path) -> Bench:
    return Bench(tmp_path, KINDS["gray"], engine)
