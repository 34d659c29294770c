"""The sparse-coding baseline, and the paper's claim that its linear parts are convolutions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("sklearn", reason="the extra 'train' is not installed")
pytest.importorskip("torch", reason="the extra 'train' is not installed")

from srcnn_rt.cli import main
from srcnn_rt.errors import ArgumentError, ImageError, ModelError, SourceMissingError
from srcnn_rt.evaluation import runner
from srcnn_rt.evaluation.protocol import imresize, list_images
from srcnn_rt.training import sparse_coding
from srcnn_rt.training.sparse_coding import SparseCoder
from tests.conftest import drawing
from tests.helpers import reference

SMALL = {"patch": 5, "dictionary": 24, "components": 12, "samples": 1500}


@pytest.fixture(scope="module")
def coder(images: Path) -> SparseCoder:
    return sparse_coding.learn(list_images(images), 2, **SMALL)


def test_features_by_hand() -> None:
    """On a ramp the first difference is its slope and the second is nothing; means are gone."""
    ramp = np.add.outer(np.zeros(12), 0.1 * np.arange(12))
    ramp[:, 6:] += 0.3  # a step
    found = sparse_coding.patch_features(ramp, 3)
    assert found.shape == (6, 6, 36)
    kinds = found.reshape(6, 6, 4, 3, 3)
    assert np.abs(kinds[..., 0, :, :]).max() < 1e-12  # along y
    assert np.abs(kinds[..., 2, :, :]).max() < 1e-12
    # The patch at column 2 covers pixels 4, 5, 6: differences 0.2, 0.5, 0.5 less their mean 0.4.
    assert np.allclose(kinds[0, 2, 1, 0], [-0.2, 0.1, 0.1])
    assert np.abs(kinds.mean(axis=(3, 4))).max() < 1e-12


def test_projection_with_mean_subtraction_is_a_convolution(coder: SparseCoder) -> None:
    """Paper §3.2, first layer: patches, features, mean and dictionary against one convolution."""
    image = drawing(20, 23, 1, 3)[..., 0]
    patches = sparse_coding.patch_features(image, coder.patch) @ coder.basis.T @ coder.lr.T
    filters = coder.projection()
    assert filters.shape == (len(coder.lr), 9, 9)
    convolved = reference.convolve(image[None], filters[:, None], None)
    assert np.abs(convolved - patches.transpose(2, 0, 1)).max() < 1e-12
    # Features of a constant are nothing: each filter sums to 0.
    assert np.abs(filters.sum(axis=(1, 2))).max() < 1e-10


def test_aggregation_is_a_convolution(coder: SparseCoder, rng: np.random.Generator) -> None:
    """Paper §3.2, last layer: HR patches overlap and are averaged, against one convolution."""
    codes = rng.normal(size=(9, 8, len(coder.lr)))
    patches = (codes @ coder.hr).reshape(9, 8, coder.patch, coder.patch)
    averaged = sparse_coding.overlap_add(patches) / coder.patch**2
    n = coder.patch - 1
    maps = np.pad(codes.transpose(2, 0, 1), ((0, 0), (n, n), (n, n)))
    convolved = reference.convolve(maps, coder.synthesis()[None], None)[0]
    assert convolved.shape == averaged.shape
    assert np.abs(convolved - averaged).max() < 1e-12


def test_the_whole_method_is_convolution_coding_convolution(coder: SparseCoder) -> None:
    """The network the paper draws: two convolutions and a per-pixel mapping give the same image."""
    enlarged = imresize(drawing(9, 11, 1, 5)[..., 0], 2, down=False)
    n = coder.patch - 1
    padded = np.pad(enlarged, n + coder.radius, mode="symmetric")
    features = reference.convolve(padded[None], coder.analysis()[:, None], None)
    d, h, w = features.shape
    codes = coder.encode(features.reshape(d, -1).T).T.reshape(-1, h, w)
    assert ((codes != 0).sum(axis=0) <= coder.atoms).all()
    detail = reference.convolve(codes, coder.synthesis()[None], None)[0]
    # Unpadded: every patch that covers a pixel of the image is there already.
    assert np.abs(enlarged + detail - coder.restore(enlarged)).max() < 1e-6


def test_it_beats_bicubic(coder: SparseCoder, images: Path) -> None:
    protocol = runner.Protocol(2)
    methods = [*runner.baselines(protocol), runner.Method("sparse", coder.upscale)]
    result = runner.evaluate(images, methods, protocol)
    assert result.mean("sparse").psnr > result.mean("bicubic").psnr + 0.3


def test_learning_is_repeatable_and_files_keep_it(coder: SparseCoder, images: Path, tmp_path: Path) -> None:
    again = sparse_coding.learn(list_images(images), 2, **SMALL)
    assert (again.hr == coder.hr).all()
    coder.save(tmp_path / "d.npz")
    loaded = SparseCoder.load(tmp_path / "d.npz")
    assert (loaded.scale, loaded.patch, loaded.atoms) == (2, 5, 3)
    lr = drawing(12, 13, 1)[..., 0].astype(np.float32)
    assert np.abs(loaded.upscale(lr) - coder.upscale(lr)).max() < 1e-4
    assert loaded.upscale(np.full((8, 9), 0.5, np.float32)) == pytest.approx(0.5)


def test_bad_input_is_refused(coder: SparseCoder, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="works on luminance"):
        coder.upscale(np.zeros((5, 5, 3), np.float32))
    with pytest.raises(SourceMissingError, match="no such file"):
        SparseCoder.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ModelError, match=r"text\.npz: not a dictionary"):
        SparseCoder.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ModelError, match=r"other\.npz: not a dictionary"):
        SparseCoder.load(tmp_path / "other.npz")
    paths = list_images(images)
    with pytest.raises(ArgumentError, match="atoms at most the dictionary"):
        sparse_coding.learn(paths, 2, dictionary=2, atoms=3)
    with pytest.raises(ArgumentError, match="100 patches are too few for 512 atoms"):
        sparse_coding.learn(paths, 2, samples=100)
    lines: list[str] = []
    (tmp_path / "bad.png").write_text("text")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((8, 40), np.uint8))
    with pytest.raises(ImageError, match="none of 2 images can be used"):
        sparse_coding.learn(list_images(tmp_path), 2, log=lines.append)
    assert "bad.png: not an image" in lines[0]
    assert "small.png: smaller than a patch" in lines[1]


def test_sparse_on_the_command_line(images: Path, tmp_path: Path) -> None:
    target = tmp_path / "sparse-x2.npz"
    words = ["research", "sparse", "--data", str(images), "--scale", "2", "-o", str(target)]
    small = ["--patch", "5", "--dictionary", "24", "--samples", "1500"]
    run = CliRunner().invoke
    assert run(main, words + small).exit_code == 0
    result = run(main, words + small)
    assert result.exit_code == 1
    assert "already exists; use --overwrite" in result.stderr
    result = run(
        main,
        ["eval", "--data", str(images), "--model", str(target), "--model", "srcnn-915-x2", "--summary"],
    )
    assert "| sparse-x2 | ×2 |" in result.stdout
    assert "| srcnn-915-x2 | ×2 |" in result.stdout
    result = run(main, ["eval", "--data", str(images), "--model", str(target), "--channels", "rgb"])
    assert "a dictionary works on luminance" in result.stderr
    result = run(main, [*words[:-1], str(tmp_path / "d.onnx")])
    assert "the suffix of a dictionary must be .npz" in result.stderr
