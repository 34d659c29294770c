"""Faults that are no kills: full disks, changed sources, others at work, planted files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from srcnn_rt import Engine, ImageError, OutputError, SourceMissingError
from srcnn_rt.execution import executor
from srcnn_rt.io.tiff import reader as raster
from srcnn_rt.io.tiff import writer as tiff
from srcnn_rt.jobs import file_job, job
from tests.conftest import drawing
from tests.helpers import faults
from tests.helpers.faults import KINDS, Bench, disk_of, stop_after
from tests.helpers.reference import quantise

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

engine, gray, small = faults.engine, faults.gray, faults.small


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Bench:
    return Bench(tmp_path, KINDS[request.param], engine)


# Full disks


def fails_on(bench: Bench, size: int, **options: Any) -> bool:
    """Return whether the job fails on a disk of that size: with one line that names file and reason."""
    try:
        with disk_of(size):
            bench.run(**options)
    except OutputError as error:
        text = str(error)
        assert text.startswith((str(bench.partial), str(bench.journal), str(bench.target))), text
        assert "cannot be" in text
        assert text.rsplit(": ", 1)[1], text
        assert "\n" not in text
        assert not bench.target.exists()
        return True
    assert bench.target.read_bytes() == bench.expected
    return False


def test_a_full_disk_leaves_nothing_of_a_short_job(bench: Bench) -> None:
    failed = []
    size = len(bench.expected)
    for limit in [*np.linspace(0, size, 20, dtype=int).tolist(), size - 1, size - 100, size + 3000]:
        if fails_on(bench, limit):
            failed.append(limit)
            assert bench.contents() == ["a.tif"]
        bench.restart()
    assert {0, size - 1} <= {*failed}


def test_a_full_disk_is_gone_on_with_when_there_is_space(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of some seconds keeps what it has: here every chunk is seen to the disk."""
    monkeypatch.setattr(file_job, "SYNC_SECONDS", 0.0)
    kept = 0
    for size in np.linspace(200, len(bench.expected), 12, dtype=int).tolist():
        if fails_on(bench, size) and bench.partial.exists():
            done = bench.journal.read_bytes().count(b'"chunk"')
            assert bench.contents() == ["a.tif", bench.partial.name, bench.journal.name]
            kept += fails_on(bench, size, resume=True)  # still full: nothing is lost
            bench.resume()
            assert len(bench.rendered) <= bench.chunks - done
        bench.restart()
    assert kept or bench.kind.suffix != ".tif"  # others take their space at once


def test_no_space_for_the_journal(gray: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lines = os.write, [0]

    def write(file: int, data: bytes) -> int:
        lines[0] += b'"chunk"' in data
        if lines[0] == 3:
            real(file, data[:10])
            raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(file_job, "SYNC_SECONDS", 0.0)
    with (
        monkeypatch.context() as patch,
        pytest.raises(OutputError, match=r"journal: cannot be written: No space"),
    ):
        patch.setattr(os, "write", write)
        gray.run()
    gray.resume()
    assert len(gray.rendered) == gray.chunks - 2


def test_half_a_chunk_is_not_kept(gray: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of which a tile was stored when memory ended begins again where it began."""
    append, calls = tiff.TiffTarget.append, []

    def fails(this: Any, data: bytes) -> int:
        calls.append(1)
        if len(calls) == 6:
            raise MemoryError
        return append(this, data)

    with Engine("bicubic-x2", provider="cpu", tile=16, threads=1) as engine:
        gray.run(engine=engine)
        expected = gray.target.read_bytes()
        monkeypatch.setattr(tiff.TiffTarget, "append", fails)
        gray.run(engine=engine, overwrite=True)
    assert len(calls) > 6
    assert gray.target.read_bytes() == expected


# Sources that change


def test_a_source_that_is_truncated_meanwhile(gray: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read, whole = raster.RasterSource.read, gray.source.read_bytes()

    def cut(this: Any, *words: Any) -> Any:
        os.truncate(gray.source, 200)
        return read(this, *words)

    with monkeypatch.context() as patch, pytest.raises(ImageError, match=r"a\.tif: "):
        patch.setattr(raster.RasterSource, "read", cut)
        gray.run()
    assert gray.contents() == ["a.tif"]
    gray.source.write_bytes(whole)


@pytest.mark.parametrize("how", ["written", "touched", "replaced"])
def test_a_source_that_changes_meanwhile(gray: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one image and half of another is neither; what was made of it is worth nothing."""
    part = executor._Run._input
    monkeypatch.setattr(file_job, "SYNC_SECONDS", 0.0)

    def change(this: Any, item: Any) -> Any:
        match how:
            case "written":
                with gray.source.open("r+b") as file:
                    file.seek(-1, os.SEEK_END)
                    file.write(b"\7")
            case "touched":
                os.utime(gray.source)
            case "replaced":
                shutil.copy(gray.source, gray.folder / "c.tif")
                (gray.folder / "c.tif").replace(gray.source)
        return part(this, item)

    monkeypatch.setattr(executor._Run, "_input", change)
    with pytest.raises(ImageError, match=r"a\.tif: changed while it was being read"):
        gray.engine.upscale_file(gray.source, gray.target)
    assert gray.contents() == ["a.tif"]


def test_a_page_of_another_size_comes_up(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, KINDS["pages"], engine)
    opened = job.open_source
    other = tmp_path.parent / "other.tif"
    tifffile.imwrite(other, np.zeros((64, 64), np.uint8))

    calls: list[int] = []

    def another(path: Path, page: int, *words: Any) -> Any:
        calls.append(page)
        return opened(other, 1) if len(calls) > 4 else opened(path, page, *words)

    monkeypatch.setattr(job, "open_source", another)
    with pytest.raises(ImageError, match="changed while it was being read"):
        bench.run()
    assert bench.contents() == ["a.tif"]


def test_a_source_that_vanishes_between_pages(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, KINDS["pages"], engine)
    whole = bench.source.read_bytes()
    times = bench.source.stat().st_mtime_ns
    monkeypatch.setattr(file_job, "SYNC_SECONDS", 0.0)
    add = file_job.Journal.add

    def vanish(this: Any, *words: Any) -> None:
        bench.source.unlink(missing_ok=True)
        add(this, *words)

    with monkeypatch.context() as patch, pytest.raises(SourceMissingError, match=r"a\.tif: no such file"):
        patch.setattr(file_job.Journal, "add", vanish)
        bench.run()
    done = len(bench.rendered)
    bench.source.write_bytes(whole)
    os.utime(bench.source, ns=(times, times))
    bench.resume()
    assert len(bench.rendered) == bench.chunks - done


def test_a_source_that_is_unlinked_is_read_to_its_end(gray: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    add = file_job.Journal.add

    def vanish(this: Any, *words: Any) -> None:
        gray.source.unlink(missing_ok=True)
        add(this, *words)

    monkeypatch.setattr(file_job.Journal, "add", vanish)
    gray.run()
    assert gray.target.read_bytes() == gray.expected


# Others at work, and planted files

HOLD = """
import sys, time
from pathlib import Path
from srcnn_rt.jobs.journal import Journal
Journal(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_on_one_result_exclude_each_other(gray: Bench) -> None:
    gray.interrupt(2)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, gray.journal], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another process is writing this result"):
                gray.run(**options)
        other.kill()
    gray.resume()


def test_two_threads_on_one_result_exclude_each_other(gray: Bench) -> None:
    """Of many that try at once one does the work; the others say why not, or that it is done."""
    errors: list[str] = []

    def work() -> None:
        try:
            with Engine("bicubic-x2", provider="cpu", tile=8, threads=1) as engine:
                engine.upscale_file(gray.source, gray.target)
        except OutputError as error:
            errors.append(str(error))

    for _ in range(5):
        errors.clear()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 3
        assert all("another process is writing this result" in e or "already exists" in e for e in errors), (
            errors
        )
        assert gray.target.read_bytes() == gray.expected
        assert gray.contents() == ["a.tif", "b.tif"]
        gray.restart()


def test_a_journal_that_its_owner_removes_is_not_locked(gray: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened before it was removed, locked after: the lock would be on a file that nobody else sees."""
    import fcntl

    lock, calls = fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not calls:
            gray.journal.unlink()
        calls.append(1)
        lock(file, how)

    monkeypatch.setattr("srcnn_rt._system.file_lock.fcntl.flock", late)
    gray.run()
    assert len(calls) == 2
    assert gray.target.read_bytes() == gray.expected


def plant(path: Path, kind: str, victim: Path) -> None:
    match kind:
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(victim.with_name("nowhere"))
        case "hard link":
            path.hardlink_to(victim)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
            (path / "file").touch()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
@pytest.mark.parametrize("name", ["partial", "journal"])
def test_planted_files_are_refused(gray: Bench, name: str, kind: str, resume: bool) -> None:
    victim = gray.folder.with_name("victim")
    victim.write_text("precious")
    if resume:
        gray.interrupt(2)
    planted = getattr(gray, name)
    planted.unlink(missing_ok=True)
    plant(planted, kind, victim)
    others = sorted({*gray.contents()})
    with pytest.raises(OutputError, match=rf"{planted.name}: cannot be written: "):
        gray.run(resume=resume)
    assert victim.read_text() == "precious"
    assert not victim.with_name("nowhere").exists()
    assert os.path.lexists(planted)
    assert set(gray.contents()) <= {*others}
    assert not gray.target.exists()
    victim.unlink()


@pytest.mark.parametrize("kind", ["cog", "png"])
def test_a_planted_workspace_is_not_followed(kind: str, engine: Engine, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (tmp_path / "job").mkdir()
    bench = Bench(tmp_path / "job", KINDS[kind], engine)
    bench.partial.with_name(bench.partial.name + ".work").symlink_to(victim)
    with pytest.raises(OutputError, match=r"\.work: cannot be made: File exists"):
        bench.run()
    assert [p.name for p in victim.iterdir()] == ["precious"]


def test_a_target_that_is_a_link_is_replaced(gray: Bench) -> None:
    victim = gray.folder.with_name("victim.tif")
    victim.write_text("precious")
    gray.target.symlink_to(victim)
    gray.run(overwrite=True)
    assert victim.read_text() == "precious"
    assert not gray.target.is_symlink()
    assert gray.target.read_bytes() == gray.expected
    victim.unlink()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_result_that_is_a_folder(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone on with, begun again, replaced, and not left behind."""
    pytest.importorskip("zarr")
    from srcnn_rt.io.zarr import writer

    monkeypatch.setattr(writer, "CHUNK", 32)
    source, target = tmp_path / "a.tif", tmp_path / "b.zarr"
    tifffile.imwrite(source, quantise(drawing(60, 200, 1)[..., 0], np.uint8))
    engine.upscale_file(source, target)
    expected = tree(target)
    assert len(expected) > 20
    noted: list[int] = []
    add = file_job.Journal.add

    def count(this: Any, page: int, chunk: int, record: Any) -> None:
        noted.append(chunk)
        add(this, page, chunk, record)

    for options, first in (({"resume": True}, 3), ({"overwrite": True}, 0)):
        shutil.rmtree(target)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, 3)
            engine.upscale_file(source, target)
        left = ["a.tif", "b.zarr.partial", "b.zarr.partial.journal"]
        assert sorted(p.name for p in tmp_path.iterdir()) == left
        noted.clear()
        with monkeypatch.context() as patch:
            patch.setattr(file_job.Journal, "add", count)
            engine.upscale_file(source, target, **options)
        assert noted[0] == first
        assert tree(target) == expected
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.zarr"]
    engine.upscale_file(source, target, overwrite=True)
    assert tree(target) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.zarr"]
    with monkeypatch.context() as patch, pytest.raises(OutputError):
        stop_after(patch, 2, OutputError)
        engine.upscale_file(source, tmp_path / "c.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.zarr"]
