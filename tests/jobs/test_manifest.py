"""A second run of a job of many images does what is left, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image

from srcnn_rt import Engine
from srcnn_rt.cli import main
from srcnn_rt.errors import OutputError
from srcnn_rt.jobs.manifest import NAME, Manifest

JOB = {"model": "m", "source": {"bytes": 3}}


def upscale(*words: str) -> Result:
    return CliRunner().invoke(main, ["upscale", *words, "--model", "bicubic-x2"])


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    for name in "abc":
        Image.fromarray(np.full((20, 30), ord(name), np.uint8)).save(tmp_path / "scans" / f"{name}.png")
    return tmp_path / "scans"


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != NAME}


def test_a_second_run_does_what_is_left(scans: Path) -> None:
    good = (scans / "b.png").read_bytes()
    (scans / "b.png").write_bytes(good[:60])
    first = upscale("scans", "-o", "out")
    assert first.exit_code == 1
    assert "2 done, 1 failed" in first.output
    out = scans.parent / "out"
    before = stamps(out)
    assert sorted(before) == ["a_x2.png", "c_x2.png"]
    (scans / "b.png").write_bytes(good)
    second = upscale("scans", "-o", "out")
    assert second.exit_code == 0
    assert "1 done, 2 done before, 0 failed" in second.output
    assert {k: v for k, v in stamps(out).items() if k != "b_x2.png"} == before
    lines = [json.loads(line) for line in (out / NAME).read_text().splitlines()]
    assert [("error" in x, x["target"]) for x in lines] == [
        (False, "a_x2.png"), (True, "b_x2.png"), (False, "c_x2.png"), (False, "b_x2.png")
    ]  # fmt: skip


def test_what_changed_is_not_taken_for_done(scans: Path) -> None:
    assert upscale("scans", "-o", "out").exit_code == 0
    out = scans.parent / "out"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(scans / "a.png")  # another source
    (out / "b_x2.png").write_bytes(b"")  # another result
    result = upscale("scans", "-o", "out")
    assert result.exit_code == 1
    assert "0 done, 1 done before, 2 failed" in result.output
    assert result.stderr.count("already exists") == 2
    assert upscale("scans", "-o", "out", "--overwrite").exit_code == 0
    assert (np.asarray(Image.open(out / "a_x2.png")) == 0).all()
    assert (np.asarray(Image.open(out / "b_x2.png")) == ord("b")).all()


def test_another_model_is_another_job(scans: Path) -> None:
    assert upscale("scans", "-o", "out").exit_code == 0
    result = CliRunner().invoke(main, ["upscale", "scans", "-o", "out", "--provider", "cpu"])
    assert result.exit_code == 1
    assert result.stderr.count("already exists") == 3


def test_an_interrupted_image_is_gone_on_with_unasked(scans: Path) -> None:
    big = np.random.default_rng(0).integers(0, 255, (2000, 1500), dtype=np.uint8)
    tifffile.imwrite(scans / "d.tif", big, tile=(256, 256))
    out = scans.parent / "out"
    out.mkdir()

    def stop(done: int, total: int) -> None:
        if 2 * done > total:
            raise KeyboardInterrupt

    with Engine("bicubic-x2", tile="auto") as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.upscale_file("scans/d.tif", "out/d_x2.tif", progress=stop)
        assert (out / "d_x2.tif.partial").exists()
        alone = upscale("scans/d.tif", "-o", "out")
        assert alone.exit_code == 1  # that is for --resume to say
        assert "left by an interrupted run" in alone.stderr
        result = upscale("scans", "-o", "out")
        assert result.exit_code == 0, result.output
        assert "4 done, 0 failed" in result.output
        assert sorted(stamps(out)) == ["a_x2.png", "b_x2.png", "c_x2.png", "d_x2.tif"]
        assert (tifffile.imread(out / "d_x2.tif") == engine.upscale(big)).all()


def test_one_image_has_none(scans: Path) -> None:
    assert upscale("scans/a.png", "-o", "a.png").exit_code == 0
    assert not list(scans.parent.rglob(NAME))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_half_a_line_is_done_again(tmp_path: Path, cut: int) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"done")
        Manifest(tmp_path).add(tmp_path / "s", tmp_path / name, JOB)
    text = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(text[:-cut])
    manifest = Manifest(tmp_path)
    assert manifest.is_done(tmp_path / "a.png", JOB)
    assert manifest.is_done(tmp_path / "b.png", JOB) == (cut == 1)
    manifest.add(tmp_path / "s", tmp_path / "b.png", JOB)
    assert all(Manifest(tmp_path).is_done(tmp_path / n, JOB) for n in ("a.png", "b.png"))


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"{}", b'{"target": 3}', b'{"target": []}', b"null", b"1"]
)
def test_any_bytes_are_a_manifest(tmp_path: Path, line: bytes) -> None:
    (tmp_path / NAME).write_bytes(line + b"\n")
    (tmp_path / "a").touch()
    assert not Manifest(tmp_path).is_done(tmp_path / "a", JOB)


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / NAME).symlink_to(victim)
    with pytest.raises(OutputError, match="cannot be written"):
        Manifest(tmp_path / "out").add(tmp_path / "s", tmp_path / "out" / "a", JOB)
    assert victim.read_text() == "precious"
