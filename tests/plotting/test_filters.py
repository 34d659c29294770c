"""What filters look like, and the figures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from srcnn_rt.cli import main
from srcnn_rt.errors import ArgumentError, ModelError, OutputError
from srcnn_rt.plotting import filters
from tests.conftest import TEST_MODEL

figures = pytest.importorskip("srcnn_rt.plotting.figures", reason="the extra 'plot' is not installed")

Y, X = np.mgrid[-4:5, -4:5].astype(np.float64)
GAUSSIAN = np.exp(-(X**2 + Y**2) / (2 * 1.5**2))


def kind(weights: np.ndarray, strongest: float | None = None) -> tuple[str, float | None]:
    return filters.classify(np.atleast_3d(weights.T).T, strongest or float(weights.std()))


def test_round_filters() -> None:
    assert kind(GAUSSIAN) == ("Gaussian", None)
    assert kind(-GAUSSIAN) == ("Gaussian", None)
    laplacian = (X**2 + Y**2 - 2 * 1.5**2) * GAUSSIAN
    assert kind(laplacian) == ("Laplacian", None)
    delta = np.zeros((9, 9))
    delta[4, 4] = 1
    assert kind(delta) == ("Gaussian", None)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 120, 135])
def test_edges_have_the_direction_across_them(degrees: int) -> None:
    a = np.deg2rad(degrees)
    for phase in (np.sin, np.cos):  # a step, and a line
        wave = phase(1.2 * (np.cos(a) * X + np.sin(a) * Y)) * GAUSSIAN
        name, angle = kind(wave - wave.mean())
        assert name == "edge"
        assert angle is not None
        assert min(abs(angle - degrees), 180 - abs(angle - degrees)) < 3


def test_texture_and_dead_filters(rng: np.random.Generator) -> None:
    checks = np.cos(np.pi * 0.7 * X) * np.cos(np.pi * 0.7 * Y) * GAUSSIAN
    noise = rng.normal(size=(9, 9))
    assert kind(noise - noise.mean()) == ("texture", None)
    assert kind(checks * np.sign(X + 0.5) * np.sign(Y + 0.5))[0] == "texture"
    assert kind(0.01 * noise, 1.0) == ("dead", None)
    assert kind(np.zeros((9, 9)), 1.0) == ("dead", None)


def test_of_three_channels_the_strongest_decides(rng: np.random.Generator) -> None:
    weights = np.stack([0.01 * rng.normal(size=(9, 9)), GAUSSIAN, np.zeros((9, 9))])
    assert filters.classify(weights, float(weights.std())) == ("Gaussian", None)


def test_the_first_learned_layer_is_found_behind_the_bicubic() -> None:
    name, found = filters.first_layer(TEST_MODEL)
    assert name == TEST_MODEL
    assert len(found) == 64
    assert sorted(f.index for f in found) == list(range(64))
    assert all(f.weights.shape == (1, 9, 9) for f in found)
    variances = [f.variance for f in found]
    assert variances == sorted(variances, reverse=True)
    with pytest.raises(ModelError, match="no convolution larger than 1 x 1"):
        filters.first_layer("bicubic-x2")


def test_filters_on_the_command_line(tmp_path: Path) -> None:
    target = tmp_path / "f.png"
    result = CliRunner().invoke(main, ["research", "filters", TEST_MODEL, "-o", str(target)])
    assert result.exit_code == 0
    assert result.output.startswith(f"{target}: 64 filters: ")
    assert cv2.imread(str(target)).shape[1] > 800
    result = CliRunner().invoke(main, ["research", "filters", TEST_MODEL, "-o", str(target), "--json"])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [r["filter"] for r in rows] == [f.index for f in filters.first_layer(TEST_MODEL)[1]]
    result = CliRunner().invoke(main, ["research", "filters", "none.onnx", "-o", str(target)])
    assert result.exit_code == 1
    assert "none.onnx: no such file" in result.stderr


def test_figures_are_whole_or_not_there(tmp_path: Path) -> None:
    rows = [{"step": k, "loss": 1 / k, "lr": 0.1, **({"psnr": 30.0} if k == 2 else {})} for k in (1, 2)]
    figures.draw_curves({"a": rows, "b": rows}, tmp_path / "c.svg")
    assert "<svg" in (tmp_path / "c.svg").read_text()
    with pytest.raises(OutputError, match=r"must be \.png, \.svg or \.pdf"):
        figures.draw_curves({"a": rows}, tmp_path / "c.txt")
    with pytest.raises(OutputError, match="cannot be written"):
        figures.draw_curves({"a": rows}, tmp_path / "no" / "c.png")
    with pytest.raises(ArgumentError, match="a: the log is empty"):
        figures.draw_curves({"a": []}, tmp_path / "c.png")
    assert [p.name for p in tmp_path.iterdir()] == ["c.svg"]
