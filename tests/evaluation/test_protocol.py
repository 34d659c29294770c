"""The field's protocol: imresize, luminance, degradations, and which files are images."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from srcnn_rt.errors import ArgumentError, ImageError, SourceMissingError
from srcnn_rt.evaluation import protocol
from srcnn_rt.evaluation.protocol import Degradation
from tests.conftest import drawing
from tests.helpers import reference
from tests.helpers.reference import quantise


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imresize_up_is_the_oracle(scale: int) -> None:
    image = drawing(13, 17, 1)[..., 0]
    up = protocol.imresize(image, scale, down=False)
    assert np.abs(up - reference.bicubic(image, scale)).max() < 1e-12


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 7)])
def test_imresize_mirrors_images_smaller_than_the_kernel(shape: tuple[int, int]) -> None:
    image = drawing(*shape, 1)[..., 0]
    up = protocol.imresize(image, 3, down=False)
    assert np.abs(up - reference.bicubic(image, 3)).max() < 1e-12


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imresize_down_is_matlabs_antialiased_kernel(scale: int) -> None:
    """Direct sum over the widened, normalised kernel, edges mirrored."""
    image = drawing(6 * scale, 5 * scale, 1)[..., 0]

    def shrink_axis(a: np.ndarray) -> np.ndarray:
        n = a.shape[0] // scale
        out = np.zeros((n, *a.shape[1:]))
        for i in range(n):
            centre = (i + 0.5) * scale - 0.5
            taps = range(math.floor(centre - 2 * scale), math.ceil(centre + 2 * scale) + 1)
            weights = [reference.keys_cubic((centre - k) / scale) for k in taps]
            for k, weight in zip(taps, weights, strict=True):
                out[i] += weight / sum(weights) * a[reference.mirrored(k, a.shape[0])]
        return out

    expected = shrink_axis(shrink_axis(image).T).T
    assert np.abs(protocol.imresize(image, scale, down=True) - expected).max() < 1e-12


def test_imresize_takes_colour_plane_by_plane() -> None:
    image = drawing(12, 18)
    small = protocol.imresize(image, 3, down=True)
    assert small.shape == (4, 6, 3)
    for c in range(3):
        assert (small[..., c] == protocol.imresize(image[..., c], 3, down=True)).all()
    assert protocol.imresize(image, 1, down=True) is image


def test_modcrop_and_shave() -> None:
    image = drawing(13, 17)
    assert protocol.modcrop(image, 4).shape == (12, 16, 3)
    assert (protocol.modcrop(image, 4) == image[:12, :16]).all()
    assert (protocol.crop_border(image, 3) == image[3:-3, 3:-3]).all()
    assert protocol.crop_border(image, 0).shape == image.shape


def test_luminance_is_rounded_as_matlab_does(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))  # blue, red
    y = protocol.read_image(tmp_path / "a.png", "y") * 255
    assert y.tolist() == [[round(16 + 24.966), round(16 + 65.481)]]


def test_colour_comes_as_red_green_blue_and_16_bits_keep_theirs(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[[1, 2, 60000]]], np.uint16))
    rgb = protocol.read_image(tmp_path / "a.png", "rgb") * 65535
    assert np.rint(rgb).tolist() == [[[60000, 2, 1]]]
    cv2.imwrite(str(tmp_path / "g.png"), np.array([[7, 255]], np.uint8))
    assert (protocol.read_image(tmp_path / "g.png", "y") * 255).tolist() == [[7, 255]]


def test_an_opaque_alpha_is_dropped_and_another_refused(tmp_path: Path) -> None:
    image = quantise(drawing(5, 6, 4), np.uint8)
    image[..., 3] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert protocol.read_image(tmp_path / "a.png", "rgb").shape == (5, 6, 3)
    image[2, 2, 3] = 254
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with pytest.raises(ImageError, match=r"a\.png: is partly transparent"):
        protocol.read_image(tmp_path / "a.png", "rgb")


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ImageError, match=r"a\.png: not an image that OpenCV can read, or damaged"):
        protocol.read_image(tmp_path / "a.png", "y")
    cv2.imwrite(str(tmp_path / "g.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(ImageError, match=r"g\.png: is grayscale, but three channels are needed"):
        protocol.read_image(tmp_path / "g.png", "rgb")
    cv2.imwrite(str(tmp_path / "f.tif"), np.zeros((4, 4), np.float32))
    with pytest.raises(ImageError, match="samples must be uint8 or uint16, got float32"):
        protocol.read_image(tmp_path / "f.tif", "y")


def test_folders_are_searched_and_an_empty_one_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match="nowhere: no such folder"):
        protocol.list_images(tmp_path / "nowhere")
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ImageError, match="no images in this folder"):
        protocol.list_images(tmp_path)
    for name in ("b.PNG", "sub/a.jpg", "a.bmp"):
        (tmp_path / name).write_bytes(b"")
    found = [p.relative_to(tmp_path).as_posix() for p in protocol.list_images(tmp_path)]
    assert found == ["a.bmp", "b.PNG", "sub/a.jpg"]


@pytest.mark.parametrize(
    ("text", "expected", "written"),
    [
        ("bicubic", Degradation(), "bicubic"),
        ("blur:1.6", Degradation(blur=1.6), "blur:1.6"),
        ("noise:15+jpeg:40", Degradation(noise=15, jpeg=40), "noise:15+jpeg:40"),
        ("bicubic, jpeg:40, blur:2", Degradation(blur=2, jpeg=40), "blur:2+jpeg:40"),
    ],
)
def test_degradations_are_read_and_written(text: str, expected: Degradation, written: str) -> None:
    assert Degradation.parse(text) == expected
    assert str(expected) == written
    assert Degradation.parse(written) == expected


@pytest.mark.parametrize(
    "text", ["", "blur", "blur:", "blur:x", "blur:1.2.3", "haze:3", "blur:1+blur:2", "noise:-3"]
)
def test_what_is_no_degradation_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="a degradation is bicubic, blur:SIGMA"):
        Degradation.parse(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("blur:0", "blur must be from 0.1 to 20, got 0"),
        ("jpeg:0", "jpeg must be an integer from 1 to 100"),
        ("jpeg:40.5", "jpeg must be an integer from 1 to 100, got 40.5"),
        ("noise:101", "noise must be from 0.1 to 100, got 101"),
    ],
)
def test_degradations_out_of_range_are_refused(text: str, rule: str) -> None:
    with pytest.raises(ArgumentError, match=rule):
        Degradation.parse(text)


def test_blur_is_a_gaussian_with_mirrored_edges(rng: np.random.Generator) -> None:
    image = drawing(24, 20, 1)[..., 0]
    taps = np.exp(-(np.arange(-9.0, 10) ** 2) / (2 * 1.6**2))
    taps /= taps.sum()

    def along(a: np.ndarray) -> np.ndarray:
        rows = [
            sum(t * a[reference.mirrored(i + k, len(a))] for k, t in zip(range(-9, 10), taps, strict=True))
            for i in range(len(a))
        ]
        return np.array(rows)

    expected = along(along(image).T).T
    got = Degradation(blur=1.6).apply(image, 1, rng)
    assert np.abs(got - expected).max() < 0.5 / 255 + 1e-5
    # What a file would hold: undoing a blur without rounding is another task.
    assert np.abs(got * 255 - np.rint(got * 255)).max() < 1e-9


def test_noise_has_its_strength_and_makes_whole_code_values(rng: np.random.Generator) -> None:
    flat = np.full((200, 200), 0.5)
    noisy = Degradation(noise=15).apply(flat, 1, rng) * 255
    assert noisy.std() == pytest.approx(15, rel=0.03)
    assert np.abs(noisy - np.rint(noisy)).max() < 1e-9
    again = Degradation(noise=15).apply(flat, 1, np.random.default_rng(1))
    assert (again == Degradation(noise=15).apply(flat, 1, np.random.default_rng(1))).all()
    assert Degradation(noise=15).random
    assert not Degradation(jpeg=3).random


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_loses_more_at_lower_quality_and_keeps_colours_apart(
    channels: int, rng: np.random.Generator
) -> None:
    image = cv2.GaussianBlur(drawing(64, 64, channels), (5, 5), 2)
    errors = [np.abs(Degradation(jpeg=q).apply(image, 1, rng) - image).mean() for q in (95, 50, 10)]
    assert errors[0] < 0.02 < 0.2
    assert errors[0] < errors[1] < errors[2]


def test_degradations_combine_in_the_order_light_meets_them() -> None:
    image = drawing(48, 48, 1)[..., 0]
    both = Degradation(blur=1.2, noise=5, jpeg=30).apply(image, 2, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    size = 2 * math.ceil(4.5 * 1.2) + 1
    step = cv2.GaussianBlur(image, (size, size), 1.2, borderType=cv2.BORDER_REFLECT)
    step = protocol.imresize(step, 2, down=True)
    step = Degradation(noise=5).apply(step, 1, rng)
    step = Degradation(jpeg=30).apply(step, 1, rng)
    assert (both == step).all()
