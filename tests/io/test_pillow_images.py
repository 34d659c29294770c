"""Images of Pillow in every mode are upscaled as files that hold them, and an image comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from srcnn_rt import ArgumentError, Engine
from srcnn_rt.io.codecs.cmyk import srgb_profile
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.reference import quantise

RGB = quantise(drawing(31, 42), np.uint8)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(TEST_MODEL, provider="cpu", tile=16, threads=2) as made:
        yield made


def samples(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    image = drawing(31, 42, shape[-1] if len(shape) == 3 else 1).reshape(shape)
    return quantise(image, np.uint16).astype(dtype) if dtype != "uint8" else quantise(image, np.uint8)


@pytest.mark.parametrize(
    ("mode", "array"),
    [
        ("L", samples((31, 42), "uint8")),
        ("LA", samples((31, 42, 2), "uint8")),
        ("RGB", RGB),
        ("RGBA", samples((31, 42, 4), "uint8")),
        ("I;16", samples((31, 42), "uint16")),
        ("I", samples((31, 42), "int32")),
        ("F", samples((31, 42), "float32")),
    ],
)
def test_a_mode_that_is_an_array_stays_what_it_is(engine: Engine, mode: str, array: np.ndarray) -> None:
    image = Image.fromarray(array)
    assert image.mode == mode
    made = engine.upscale(image)
    assert isinstance(made, Image.Image) and (made.mode, made.size) == (mode, (84, 62))
    assert (np.asarray(made) == engine.upscale(array)).all()


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [
        ("1", "L"), ("P", "RGB"), ("PA", "RGBA"), ("RGBX", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"),
        ("La", "LA"), ("RGBa", "RGBA"),
    ],
)  # fmt: skip
def test_other_modes_are_converted_first(engine: Engine, mode: str, becomes: str) -> None:
    """Palette indices, hues and premultiplied colours must not be interpolated."""
    image = Image.fromarray(np.dstack([RGB, RGB[..., :1] | 128]))
    for step in {"P": ["RGB"], "YCbCr": ["RGB"], "HSV": ["RGB"], "RGBX": ["RGB"], "La": ["LA"]}.get(mode, []):
        image = image.convert(step)
    image = image.convert(mode)
    made = engine.upscale(image)
    assert made.mode == becomes
    expected = np.asarray(image.convert(becomes))
    assert (np.asarray(made) == engine.upscale(expected)).all()


def test_a_transparent_color_becomes_alpha(engine: Engine, tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).convert("P")
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])
    gray = Image.fromarray(RGB[..., 0])
    gray.info["transparency"] = int(RGB[0, 0, 0])
    for image, mode in ((palette, "RGBA"), (gray, "LA")):
        made = engine.upscale(image)
        assert made.mode == mode and np.asarray(made)[..., -1].min() == 0
        # As the file that Pillow writes of it.
        image.save(tmp_path / "a.png")
        engine.upscale_file(tmp_path / "a.png", tmp_path / "b.png", overwrite=True)
        assert (np.asarray(Image.open(tmp_path / "b.png").convert(mode)) == np.asarray(made)).all()


@pytest.mark.parametrize("profile", [None, srgb_profile()])
def test_cmyk_is_converted_as_in_a_file(engine: Engine, tmp_path: Path, profile: bytes | None) -> None:
    image = Image.fromarray(RGB).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=profile)
    opened = Image.open(tmp_path / "a.jpg")
    made = engine.upscale(opened)
    engine.upscale_file(tmp_path / "a.jpg", tmp_path / "b.png", overwrite=True)
    assert made.mode == "RGB"
    # Two decoders of JPEG may round differently.
    difference = np.abs(np.asarray(made).astype(int) - np.asarray(Image.open(tmp_path / "b.png")))
    assert difference.max() <= 6 and difference.mean() < 0.5


def test_lab_stays_lab(engine: Engine) -> None:
    """As in a TIFF: each channel on its own, so that no colour is lost."""
    lab = ImageCms.profileToProfile(
        Image.fromarray(RGB), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    made = engine.upscale(lab)
    assert made.mode == "LAB"
    planes = np.stack([np.asarray(plane) for plane in lab.split()], axis=-1)
    expected = engine.upscale(planes, bands=True)
    assert (np.stack([np.asarray(plane) for plane in made.split()], axis=-1) == expected).all()


def test_an_image_is_turned_upright_and_keeps_its_profile(engine: Engine, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif, icc_profile=srgb_profile())
    with Image.open(tmp_path / "a.png") as image:
        made = engine.upscale(image)
    assert (np.asarray(made) == engine.upscale(np.rot90(RGB, -1))).all()
    assert made.info["icc_profile"] == srgb_profile()
    made.save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as again:
        assert again.getexif().get(0x0112, 1) == 1 and again.info["icc_profile"] == srgb_profile()


def test_options_of_arrays_apply(engine: Engine) -> None:
    palette = np.asarray(Image.fromarray(RGB).convert("L"))
    made = engine.upscale(Image.fromarray(palette), classes=True)
    assert (np.asarray(made) == palette.repeat(2, 0).repeat(2, 1)).all()
    with pytest.raises(ArgumentError, match="layout"):
        engine.upscale(Image.fromarray(palette), layout="CHW")


def test_an_unusual_mode_is_refused_by_name(engine: Engine) -> None:
    image = Image.new("RGB", (9, 9))
    image._mode = "BGR;15"
    with pytest.raises(ArgumentError, match="an image of mode BGR;15 is not supported; convert it to RGB"):
        engine.upscale(image)
