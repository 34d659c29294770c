"""Evaluation: the protocol's numbers, tables, the sheet of crops, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from srcnn_rt import Engine
from srcnn_rt.cli import main
from srcnn_rt.errors import ArgumentError, ImageError
from srcnn_rt.evaluation import metrics, runner, tables
from srcnn_rt.evaluation.protocol import Degradation, imresize, list_images, modcrop, read_image
from srcnn_rt.evaluation.runner import Method, Protocol, Score
from srcnn_rt.models import spec
from srcnn_rt.models.bundled import bundled
from tests.conftest import TEST_MODEL, drawing
from tests.helpers import reference
from tests.helpers.models import network_of
from tests.helpers.reference import quantise

SET5 = Path(__file__).parents[3] / "shared" / "data" / "eval" / "set5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    for k in range(2):
        cv2.imwrite(str(made / f"{k}.png"), quantise(drawing(61 + k, 70, 3, k), np.uint8))
    cv2.imwrite(str(made / "gray.png"), quantise(drawing(60, 48, 1, 9)[..., 0], np.uint8))
    return made


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


def test_bicubic_is_measured_as_the_oracle_measures_it(folder: Path) -> None:
    protocol = Protocol(3)
    result = runner.evaluate(folder, runner.baselines(protocol), protocol)
    assert list(result.scores) == ["bicubic"]
    for path in list_images(folder):
        truth = modcrop(read_image(path, "y"), 3)
        up = reference.bicubic(imresize(truth, 3, down=True), 3)
        a, b = (np.rint(np.clip(p, 0, 1) * 255)[3:-3, 3:-3] for p in (up, truth))
        score = result.scores["bicubic"][path.stem]
        assert score.psnr == pytest.approx(10 * math.log10(255**2 / np.mean((a - b) ** 2)), abs=0.01)
        assert score.ssim == pytest.approx(metrics.ssim(a, b), abs=1e-4)
        assert score.ms_ssim is None
    mean = result.mean("bicubic")
    assert mean.psnr == pytest.approx(np.mean([s.psnr for s in result.scores["bicubic"].values()]))
    assert mean.ms_ssim is None


@pytest.mark.skipif(not SET5.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize(
    ("scale", "psnr", "ssim"), [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)]
)
def test_bicubic_lands_on_the_published_numbers(scale: int, psnr: float, ssim: float) -> None:
    protocol = Protocol(scale)
    mean = runner.evaluate(SET5, runner.baselines(protocol), protocol).mean("bicubic")
    assert mean.psnr == pytest.approx(psnr, abs=0.02)
    assert mean.ssim == pytest.approx(ssim, abs=0.0005)


def test_a_perfect_method_is_perfect_and_the_border_is_shaved(folder: Path) -> None:
    truths = iter([read_image(p, "y") for p in list_images(folder)])

    def wrong_at_the_border(_: np.ndarray) -> np.ndarray:
        image = modcrop(next(truths), 2).copy()
        image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = 0
        return image

    result = runner.evaluate(folder, [Method("oracle", wrong_at_the_border)], Protocol(2))
    assert result.mean("oracle") == Score(math.inf, pytest.approx(1), None)


@pytest.mark.parametrize("name", [TEST_MODEL, f"{TEST_MODEL}-paper"])
def test_the_exported_model_runs_through_engine(name: str, folder: Path) -> None:
    protocol = Protocol(2)
    method = runner.model_method(name, "cpu")
    with method.closing:
        result = runner.evaluate(folder, [*runner.baselines(protocol), method], protocol)
    assert result.mean(name).psnr > result.mean("bicubic").psnr + 0.3


@pytest.mark.parametrize("name", [TEST_MODEL, f"{TEST_MODEL}-paper"])
def test_models_see_luminance_as_the_protocol_has_it(name: str) -> None:
    """In studio swing, which is what the networks learnt: nothing is mapped a second time."""
    y = (16 + 219 * drawing(23, 31, 1)[..., 0]) / 255
    expected = network_of(name)(y[None])[0]
    method = runner.model_method(name, "cpu")
    with method.closing:
        assert np.abs(method.upscale(y.astype(np.float32)) - expected).max() < 2e-5


def test_noise_is_the_same_in_every_run_and_for_every_method(folder: Path) -> None:
    protocol = Protocol(2, Degradation(noise=15))
    seen: list[np.ndarray] = []

    def spy(lr: np.ndarray) -> np.ndarray:
        seen.append(lr)
        return imresize(lr.astype(np.float64), 2, down=False)

    for _ in range(2):
        runner.evaluate(folder, [Method("a", spy), Method("b", spy)], protocol)
    assert (seen[0] == seen[1]).all()
    assert (seen[0] == seen[6]).all()
    first, second = (x[:24, :24] - x[:24, :24].mean() for x in (seen[0], seen[2]))
    assert not (first == second).all()


def test_noise_is_measured_against_nl_means_and_scale_1_against_nothing(folder: Path) -> None:
    names = [m.name for m in runner.baselines(Protocol(2, Degradation(noise=15)))]
    assert names == ["bicubic", "NL means + bicubic"]
    noisy = Protocol(1, Degradation(noise=25))
    result = runner.evaluate(folder, runner.baselines(noisy), noisy)
    assert result.mean("NL means").psnr > result.mean("no-op").psnr + 1
    colour = Protocol(1, Degradation(noise=25), "rgb")
    result = runner.evaluate(folder, runner.baselines(colour), colour)
    assert result.mean("NL means").psnr > result.mean("no-op").psnr + 0.2
    assert len(result.skipped) == 1  # the gray one


def test_a_model_is_measured_in_what_it_was_trained_for(tmp_path: Path) -> None:
    data, described = spec.load(TEST_MODEL)
    proto = onnx.load_model_from_string(data)
    spec.set_metadata(proto, architecture="9-1-5", scale=2, channels=1, training={"degrade": "noise:15"})
    _, noisy = spec.load(proto.SerializeToString())
    assert runner.protocol_for(noisy, "y", None) == Protocol(2, Degradation(noise=15))
    assert runner.protocol_for(noisy, "rgb", "bicubic", 7) == Protocol(2, Degradation(), "rgb", 7)
    assert runner.protocol_for(described, "y", None).degradation == Degradation()
    assert str(Protocol(2, Degradation(noise=15))) == "×2, noise:15, luminance, border of 2 pixels cropped"


def test_a_colour_method_sees_colour_where_luminance_is_measured(folder: Path) -> None:
    shapes = []

    def colour(lr: np.ndarray) -> np.ndarray:
        shapes.append(lr.shape[2:])
        return imresize(lr.astype(np.float64), 2, down=False)

    protocol = Protocol(2)
    plain = runner.baselines(protocol)[0]
    result = runner.evaluate(folder, [plain, Method("colour", colour, colour=True)], protocol)
    assert shapes == [(3,)] * 3
    # Bicubic is linear, so the luminance of the colour is the same but for rounding Y first.
    assert result.mean("colour").psnr == pytest.approx(result.mean("bicubic").psnr, abs=0.05)
    assert result.scores["colour"]["gray"].psnr == pytest.approx(
        result.scores["bicubic"]["gray"].psnr, abs=1e-3
    )


def test_what_cannot_be_measured_is_named_and_skipped(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("text")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((14, 40), np.uint8))
    lines: list[str] = []
    protocol = Protocol(2)
    with pytest.raises(ImageError, match="none of 2 images can be used"):
        runner.evaluate(tmp_path, runner.baselines(protocol), protocol, log=lines.append)
    assert "bad.png: not an image" in lines[0]
    assert "small.png: 40 x 14 pixels, smaller than 15 x 15" in lines[1]
    twice = [Method("a", lambda x: x)] * 2
    with pytest.raises(ArgumentError, match="models must have different names, got a, a"):
        runner.evaluate(folder, twice, protocol)


def test_tables_hold_every_number(folder: Path) -> None:
    protocol = Protocol(2)
    result = runner.evaluate(folder, runner.baselines(protocol), protocol)
    table = tables.per_image(result).splitlines()
    assert table[2:4] == ["| image | bicubic |", "|---|---:|"]
    score = result.scores["bicubic"]["1"]
    assert f"| 1 | {score.psnr:.2f} / {score.ssim:.4f} / – |" in table
    mean = result.mean("bicubic")
    assert f"| **mean** | {mean.psnr:.2f} / {mean.ssim:.4f} / – |" in table
    short = tables.summary([result])
    assert f"| bicubic | ×2 | bicubic | {mean.psnr:.2f} / {mean.ssim:.4f} |" in short


def test_the_sheet_shows_the_place_where_methods_differ() -> None:
    truth = np.full((200, 180), 100.0)
    changed = truth.copy()
    changed[120:150, 60:90] = 200
    sheet = tables.Sheet()
    sheet.add("p", {"truth": truth, "bicubic": truth, "model": changed})
    sheet.add("q", {"truth": np.zeros((60, 60, 3)), "model": np.zeros((60, 60, 3))})
    image = sheet.image()
    side = tables.CROP * tables.ZOOM
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    third = image[22 : 22 + side, 2 * (side + 6) : 2 * (side + 6) + side]
    assert (third == 200).all(axis=2).sum() == 30 * 30 * tables.ZOOM**2


def test_eval_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = run(
        "eval", "--data", folder, "--model", TEST_MODEL, "--contact-sheet", sheet, "--provider", "cpu"
    )
    assert result.exit_code == 0
    assert "| **mean** |" in result.stdout
    assert cv2.imread(str(sheet)).shape[1] > 3 * tables.CROP
    result = run("eval", "--data", folder, "--model", TEST_MODEL, "--json")
    row = json.loads(result.stdout)
    assert (row["scale"], row["degrade"], row["channels"]) == (2, "bicubic", "y")
    assert set(row["methods"]) == {"bicubic", TEST_MODEL}
    with Engine(TEST_MODEL, provider="cpu") as engine:
        truth = modcrop(read_image(folder / "0.png", "y"), 2)
        up = engine.upscale(imresize(truth, 2, down=True).astype(np.float32))
    codes = [metrics.codes(p.astype(np.float64))[2:-2, 2:-2] for p in (up, truth)]
    assert row["methods"][TEST_MODEL]["images"]["0"]["psnr"] == pytest.approx(metrics.psnr(*codes), abs=1e-3)


def test_eval_takes_bicubic_alone_all_bundled_models_and_several_folders(folder: Path) -> None:
    result = run("eval", "--data", folder, "--scale", "7", "--summary")
    assert "| bicubic | ×7 |" in result.stdout
    result = run("eval", "--data", folder, "--data", folder, "--scale", "4", "--summary")
    assert "srcnn-915-x4" in result.stdout
    assert "-x3" not in result.stdout


def test_eval_refuses_what_makes_no_sense(folder: Path, tmp_path: Path) -> None:
    result = run("eval", "--data", tmp_path)
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {tmp_path}: no images in this folder (.bmp, .jpg, .jpeg, .png, .tif, .tiff, .webp)\n",
    )
    result = run("eval", "--data", folder, "--model", TEST_MODEL, "--scale", "3")
    assert "has scale 2, not --scale 3" in result.stderr
    result = run("eval", "--data", folder, "--model", TEST_MODEL, "--degrade", "fog:2")
    assert "a degradation is bicubic" in result.stderr
    result = run("eval", "--data", folder, "--model", "none.npz")
    assert result.exit_code == 1
    assert "none.npz" in result.stderr
    assert (
        run("eval", "--data", folder, "--contact-sheet", tmp_path / "no" / "s.png", "--scale", 2).exit_code
        == 1
    )


@pytest.mark.skipif(not SET5.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize("name", bundled())
def test_bundled_models_have_the_psnr_they_say(name: str) -> None:
    described = spec.load(name)[1]
    protocol = runner.protocol_for(described, "y", None)
    method = runner.model_method(name, "cpu")
    with method.closing:
        mean = runner.evaluate(SET5, [method], protocol).mean(name)
    assert mean.psnr == pytest.approx(described.training["psnr"]["set5"], abs=0.01)
    model_card = (Path(spec.__file__).parent / "bundled" / f"{name}.md").read_text()
    assert f"{mean.psnr:.2f} / {mean.ssim:.4f}" in model_card
