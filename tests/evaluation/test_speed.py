"""Speed beside scores: what is timed, and which methods are on the front."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from srcnn_rt.cli import main
from srcnn_rt.evaluation import speed
from tests.conftest import TEST_MODEL, drawing

POINTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12
)


@given(POINTS)
def test_the_front_is_what_no_other_beats(points: dict[str, tuple[int, int]]) -> None:
    front = speed.pareto_front(points)
    for name, (fast, good) in points.items():
        others = [p for other, p in points.items() if other != name]
        beaten = any(f >= fast and g >= good and (f, g) != (fast, good) for f, g in others)
        if beaten:
            assert name not in front
        else:  # it, or another at the same point
            assert sum(points[n] == (fast, good) for n in front) == 1
    assert [points[n] for n in front] == sorted((points[n] for n in front), reverse=True)


def test_methods_take_turns_and_the_median_counts() -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []

    def method(name: str, pauses: list[float]) -> Any:
        def upscale(lr: np.ndarray) -> np.ndarray:
            calls.append((name, lr.shape))
            time.sleep(pauses.pop(0))
            return np.zeros((lr.shape[0] * 2, lr.shape[1] * 2))

        return upscale

    found = speed.measure(
        {"a": (method("a", [0.5, 0.05, 0.2, 0.05]), 1), "b": (method("b", [0, 0.1, 0.1, 0.1]), 3)},
        2, side=40, rounds=3,
    )  # fmt: skip
    assert calls == [("a", (20, 20)), ("b", (20, 20, 3))] * 4
    # 40 x 40 pixels in 0.05 and 0.1 seconds, or longer on a busy machine
    assert 0 < found["a"] <= 0.032
    assert 0 < found["b"] <= 0.016


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra train")
    monkeypatch.setattr(speed.measure, "__kwdefaults__", {"side": 64, "rounds": 1})
    cv2.imwrite(str(tmp_path / "a.png"), np.rint(drawing(60, 64) * 255).astype(np.uint8))
    words = ["eval", "--data", str(tmp_path), "--model", TEST_MODEL]
    figure = tmp_path / "front.svg"
    result = CliRunner().invoke(main, [*words, "--speed", "--summary", "-o", str(figure)])
    assert result.exit_code == 0, result.output
    header, _, bicubic, model = result.stdout.splitlines()
    assert header.endswith("PSNR / SSIM | Mpx/s |")
    assert all(float(line.split("|")[-2]) > 0 for line in (bicubic, model))
    drawn = figure.read_text()
    assert drawn.startswith("<?xml")
    result = CliRunner().invoke(main, [*words, "--speed", "--json"])
    measured = json.loads(result.stdout)["mpx_per_s"]
    assert sorted(measured) == ["bicubic", TEST_MODEL]
    result = CliRunner().invoke(main, [*words, "-o", str(figure)])
    assert result.exit_code == 2
    assert "-o needs --speed" in result.stderr
