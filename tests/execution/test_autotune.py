"""Tuning: what is measured is kept, found again, and changes nothing but speed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from srcnn_rt import ArgumentError, Engine, engine
from srcnn_rt._system.cpu import model_name
from srcnn_rt.backends import tuning_cache
from srcnn_rt.backends.tuning_cache import Choice
from srcnn_rt.cli import main
from srcnn_rt.execution import autotune
from srcnn_rt.execution.autotune import Trial
from tests.conftest import drawing

MODEL = "bicubic-x2"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(tuning_cache.ENVIRONMENT, str(tmp_path / "cache"))
    monkeypatch.setattr(autotune, "TRIAL_ROUNDS", 2)
    monkeypatch.setattr(autotune, "TRIAL_HR", 64)
    monkeypatch.setattr(autotune, "TILES_HR", (32, 64))


def test_a_choice_is_kept_and_found(tmp_path: Path) -> None:
    key = tuning_cache.key_for(b"model", "cpu", "exact", 2)
    assert tuning_cache.recall(key) is None
    assert tuning_cache.remember(key, Choice(96, 2, 1)) == tmp_path / "cache" / "tuning.json"
    assert tuning_cache.recall(key) == Choice(96, 2, 1)
    assert tuning_cache.remember("other", Choice(64, 1, 2))
    assert tuning_cache.recall(key) == Choice(96, 2, 1)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["tuning.json"]


def test_everything_that_matters_is_in_the_key() -> None:
    keys = {
        tuning_cache.key_for(model, provider, precision, threads)
        for model in (b"a", b"b")
        for provider in ("cpu", "openvino")
        for precision in ("exact", "fast")
        for threads in (1, 2)
    }
    assert len(keys) == 16
    assert all(model_name() in key for key in keys)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"k": 1}',
        '{"k": {"tile": 8}}',
        '{"k": {"tile": -8, "workers": 1, "threads": 1}}',
        '{"k": {"tile": "8", "workers": 1, "threads": 1}}',
        '{"k": {"tile": 8, "workers": 1, "other": 1}}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tuning.json").write_text(text)
    assert tuning_cache.recall("k") is None
    assert tuning_cache.remember("k", Choice(8, 1, 1))
    assert tuning_cache.recall("k") == Choice(8, 1, 1)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(tuning_cache.ENVIRONMENT, str(tmp_path / "file"))
    assert tuning_cache.remember("k", Choice(8, 1, 1)) is None
    with Engine(MODEL, provider="cpu", tile="auto") as e:
        assert e.tune()


def test_the_system_has_a_folder_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tuning_cache.ENVIRONMENT)
    assert tuning_cache.folder().name == "srcnn-rt"


def test_tuning_is_used_and_found_again_and_changes_no_sample() -> None:
    image = drawing(90, 77, 1)[..., 0].astype(np.float32)
    with Engine(MODEL, provider="cpu", tile="auto", threads=2) as e:
        before, first = e.upscale(image), e.tile
        seen: list[Trial] = []
        found = e.tune(seen.append)
        assert sorted(seen, key=lambda t: t.mpx_per_s) == found
        assert {(t.workers, t.threads) for t in found} == {(1, 2), (2, 1)}
        assert {t.tile for t in found} == {16, 32, first}
        assert e.tile == found[-1].tile
        assert np.array_equal(e.upscale(image), before)
    with Engine(MODEL, provider="cpu", tile="auto", threads=2) as again:
        assert again.tile == found[-1].tile
        assert np.array_equal(again.upscale(image), before)
    with Engine(MODEL, provider="cpu", tile="auto", threads=1) as other:
        assert other.tile == first
    with Engine(MODEL, provider="cpu", tile=24, threads=2) as asked:
        assert asked.tile == 24


def test_a_large_image_is_measured_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "TUNE_FROM", 4 * 50 * 60)
    tuned: list[int] = []
    real = autotune.tune
    monkeypatch.setattr(autotune, "tune", lambda *words: tuned.append(1) or real(*words))
    with Engine(MODEL, provider="cpu", tile="auto") as e:
        e.upscale(np.zeros((50, 59), np.uint8))
        assert not tuned
        e.upscale(np.zeros((50, 60), np.uint8))
        e.upscale(np.zeros((50, 60), np.uint8))
    with Engine(MODEL, provider="cpu", tile="auto") as e:
        e.upscale(np.zeros((50, 60), np.uint8))
    with Engine(MODEL, provider="cpu", tile=32) as e:
        e.upscale(np.zeros((50, 60), np.uint8))
    assert tuned == [1]


def test_whole_images_have_no_tile() -> None:
    with (
        Engine(MODEL, provider="cpu", tile=None) as e,
        pytest.raises(ArgumentError, match="has no tile to be tuned"),
    ):
        e.tune()


def test_the_command_says_what_it_measured(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["tune", MODEL, "--provider", "cpu"])
    assert done.exit_code == 0, done.output
    assert "at once" in done.output
    assert str(tmp_path / "cache") in done.output
    done = CliRunner().invoke(main, ["tune", MODEL, "--provider", "cpu", "--json"])
    report = json.loads(done.output)
    assert report["best"] == report["trials"][-1]
    assert tuning_cache.folder().joinpath("tuning.json").exists()


def test_the_command_fails_in_one_line() -> None:
    done = CliRunner().invoke(main, ["tune", "no-such-model"])
    assert done.exit_code == 1
    assert done.output.startswith("error: no-such-model: no such file")
