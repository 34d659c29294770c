"""What samples mean to a network: ranges that are given, declared or refused, and the maps there and back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from srcnn_rt import ArgumentError, Engine, ImageError, RangeError
from srcnn_rt.cli import main
from srcnn_rt.execution.normalization import DataRange, Normalization, for_image
from srcnn_rt.image.info import SAMPLE_TYPES, ImageInfo, Layout
from srcnn_rt.io.in_memory import ArraySink, ArraySource
from srcnn_rt.models import spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.tiling import kernels
from tests.conftest import TEST_MODEL, drawing

PAPER = f"{TEST_MODEL}-paper"
FLOATS = [name for name in SAMPLE_TYPES if name.startswith("float")]
DEEP = [name for name in SAMPLE_TYPES if not name.startswith("float") and np.dtype(name).itemsize > 1]


def mapped(
    image: np.ndarray,
    model: str = PAPER,
    asked: object = "auto",
    *,
    layout: Layout | None = None,
    **info: object,
) -> Normalization:
    image = image[..., None] if image.ndim == 2 else image
    found = ImageInfo(image.shape[:2], layout or Layout.of(image.shape[2]), image.dtype, **info)
    return for_image(ArraySource(image, found), spec.load(model)[1], DataRange.of(asked))


# How a range is asked for.


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("auto", DataRange()),
        ("dtype", DataRange("dtype")),
        ("0..1", DataRange("given", 0, 1)),
        ("-1.5..2e3", DataRange("given", -1.5, 2000)),
        ((270, 310), DataRange("given", 270, 310)),
        ((np.float32(0.5), np.int16(7)), DataRange("given", 0.5, 7)),
        ([0, 10000], DataRange("given", 0, 10000)),
    ],
)
def test_a_range_is_read(asked: object, expected: DataRange) -> None:
    found = DataRange.of(asked)
    assert found == expected
    assert DataRange.of(str(found)) == found  # as journals keep it


@pytest.mark.parametrize(
    "asked",
    ["", "none", "1", "1..", "..1", "1..1", "2..1", "0..inf", "nan..1", "0..1..2", "a..b", (1, 0), (1,),
     (0, 1, 2), (0, math.nan), (None, 1), 5, None],
)  # fmt: skip
def test_what_is_no_range_is_refused(asked: object) -> None:
    with pytest.raises(ArgumentError, match=r"a data range is LOW\.\.HIGH, auto or dtype, got "):
        DataRange.of(asked)
    if asked is not None:  # which is the engine's own, where it is asked for
        with pytest.raises(ArgumentError, match="a data range is"):
            Engine(PAPER, provider="cpu", data_range=asked)


# What "auto" refuses.


def refused(image: np.ndarray, **info: object) -> None:
    """The message says what to do, and what it names is there."""
    with pytest.raises(RangeError) as caught:
        mapped(image, **info)
    assert isinstance(caught.value, ImageError)
    text = str(caught.value)
    assert "--data-range LOW..HIGH" in text
    (name,) = [word for word in text.split() if word in bundled()]
    assert spec.load(name)[1].equivariant
    assert mapped(image, name, **info).dtype == image.dtype
    for asked in ("dtype", "0..12345"):
        assert mapped(image, asked=asked, **info).dtype == image.dtype


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("low", "high"), [(0, 255), (270, 310), (-1, 1), (0, 1.6), (-0.3, 1), (0, 10000), (-50, -40)]
)
def test_floats_far_outside_are_refused(dtype: str, low: float, high: float) -> None:
    refused((low + (high - low) * drawing(40, 50)).astype(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.1, 0.4), (-0.2, 1.4), (0, 1e-3), (0.5, 0.5 + 2**-9)])
def test_floats_about_0_to_1_are_taken_for_that(dtype: str, low: float, high: float) -> None:
    image = (low + (high - low) * drawing(40, 50)).astype(dtype)
    found = mapped(image)
    assert (found.gain == 1).all()
    assert (found.offset == 0).all()
    assert np.array_equal(found.normalize(image), image.astype(np.float32))


def test_single_samples_do_not_decide(rng: np.random.Generator) -> None:
    image = drawing(100, 100, 1).astype(np.float32)
    image[3, 3], image[50, 50] = 40, -40
    assert mapped(image).native
    image[: len(image) // 8] += 3
    refused(image)


@pytest.mark.parametrize("dtype", DEEP)
def test_integers_that_fill_little_are_refused(dtype: str) -> None:
    top = np.iinfo(dtype).max
    for share, wrong in ((1, False), (1 / 12, False), (1 / 20, True), (1e-3, True)):
        image = np.rint(drawing(40, 50, 1) * top * share)
        image[0, 0], image[0, 1] = 0, np.floor(top * share)
        if wrong:
            refused(image.astype(dtype))
        else:
            assert mapped(image.astype(dtype)).top == top


@pytest.mark.parametrize("dtype", [name for name in DEEP if name.startswith("int")] + ["int8"])
def test_negative_integers_are_refused_where_black_is_0(dtype: str) -> None:
    image = np.rint((drawing(40, 50, 1) - 0.5) * np.iinfo(dtype).max).astype(dtype)
    if dtype == "int8":  # eight bits are used up anyway
        assert mapped(image).dtype == np.int8
    else:
        refused(image)


@pytest.mark.parametrize("dtype", SAMPLE_TYPES)
@pytest.mark.parametrize("value", [0, 7, 100])
def test_blank_images_pass(dtype: str, value: int) -> None:
    image = np.full((30, 40, 3), value, dtype)
    for model in (PAPER, TEST_MODEL):
        assert mapped(image, model).dtype == np.dtype(dtype)
        with Engine(model, provider="cpu") as engine:
            made = engine.upscale(image)
        assert made.dtype == image.dtype
        if model == TEST_MODEL:
            assert (made == image[0, 0]).all()
        else:  # what float32 leaves of the range
            white = 1 if made.dtype.kind == "f" else np.iinfo(dtype).max
            assert np.ptp(made.astype(float)) <= 1e-6 * white * max(1, value)


def test_a_declared_top_is_white() -> None:
    """Twelve bits in sixteen: neither refused nor dark, and nothing above it comes out."""
    image = np.rint(drawing(40, 50, 1) * 4095).astype(np.uint16)
    image[:2] = 4095
    refused(image)
    found = mapped(image, top=4095)
    assert found.top == 4095
    assert np.allclose(found.normalize(image), image / 4095, atol=1e-7)
    dim = mapped(image // 100, top=4095)  # is believed
    assert np.array_equal(dim.gain, found.gain)
    for model in (PAPER, TEST_MODEL):
        made = mapped(image, model, top=4095)
        out = np.full((2, 3, 1), 4000, made.info.dtype)
        out[0] = made.normalize(np.full((1, 1, 1), 4095, np.uint16)) * (
            1.5 if made.info.dtype == np.float32 else 1
        )
        if made.native:
            out[0] = 9000
        result = np.empty((2, 3, 1), np.uint16)
        made.denormalize(out, result)
        assert (result[0] == 4095).all()


# What is looked at.


def test_what_is_no_data_is_not_looked_at() -> None:
    image = drawing(60, 70, 1).astype(np.float32)
    image[10:50, 5:60] = -9999
    refused(image)
    assert mapped(image, nodata=-9999.0).info.dtype == np.float32
    image[image == -9999] = np.nan
    assert mapped(image).native
    gone = np.full((9, 9, 1), np.nan, np.float32)
    assert mapped(gone).native
    assert (mapped(gone, TEST_MODEL).offset == 0).all()
    high = drawing(60, 70, 1) * 500 + 1e5
    high[10:50, 5:60] = -9999
    low = mapped(high, TEST_MODEL, nodata=-9999.0).offset
    assert high[high > 0].min() <= low[0] <= high.max()


@pytest.mark.parametrize("by_rows", [False, True])
def test_large_images_are_looked_at_all_over(by_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArraySource, "by_rows", by_rows, raising=False)
    for shape in ((900, 1100), (200, 1100), (70, 90), (40, 30)):
        image = np.full((*shape, 1), 0.5, np.float32)
        image[:8, :8] = 0.25
        assert mapped(image).native
        h, w = (n // 5 for n in shape)
        for corner in (np.s_[: 2 * h, : 2 * w], np.s_[-h:, :], np.s_[:, -w:]):
            wrong = image.copy()
            wrong[corner] = 300
            with pytest.raises(RangeError):
                mapped(wrong)


# There and back.


def test_who_needs_no_map_has_none() -> None:
    for dtype in (np.uint8, np.uint16):
        image = (drawing(20, 20) * np.iinfo(dtype).max).astype(dtype)
        for model in (PAPER, TEST_MODEL):
            found = mapped(image, model)
            assert found.native
            assert found.normalize(image) is image


def test_bands_have_an_offset_each_and_colours_one() -> None:
    image = drawing(30, 30, 3) + np.array([0.0, 1000.0, -500.0])
    bands = mapped(image, TEST_MODEL, layout=Layout.of(3, bands=True)).offset
    assert (np.abs(bands - [0.5, 1000.5, -499.5]) <= 0.5).all()
    assert all(bands[c] in image[..., c] for c in range(3))
    assert len(set(mapped(image, TEST_MODEL).offset)) == 1


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(SAMPLE_TYPES), model=st.sampled_from([TEST_MODEL, PAPER]),
    channels=st.integers(1, 4), power=st.integers(-8, 30), seed=st.integers(0, 99),
)  # fmt: skip
def test_there_and_back(dtype: str, model: str, channels: int, power: int, seed: int) -> None:
    """To what float32 holds of the distance from the image's own middle."""
    kind, rng = np.dtype(dtype), np.random.default_rng(seed)
    if kind.kind == "f":
        values = rng.normal(0, 1, (9, 11, channels)) * 2.0 ** min(power, 10 if kind.itemsize == 2 else 99)
    else:
        values = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, (9, 11, channels), endpoint=True)
    image = values.astype(kind)
    found = mapped(image, model, "dtype")
    assert found.dtype == kind
    assert kernels.white(found.info.dtype) in (1, 255, 65535)
    fed = found.normalize(image)
    assert fed.dtype == found.info.dtype
    back = np.empty_like(image)
    found.denormalize(fed.copy(), back)
    apart = np.abs(back.astype(np.float64) - image)
    maximum = np.abs(image.astype(np.float64)).max() + 1
    if kind.kind == "f":
        assert apart.max() <= maximum * max(2.0**-22, float(np.finfo(kind).eps))
    else:
        assert apart.max() <= (0 if kind.itemsize <= 2 else maximum * 2.0**-22)


@pytest.mark.parametrize("scale", [1.0, 2.0**-90, 2.0**90, 2.0**-130])
def test_powers_of_two_bring_any_unit_to_1(scale: float) -> None:
    """So that nothing overflows or vanishes in the fewest bits that a network computes with."""
    image = (drawing(30, 31, 1) * scale).astype(np.float32)
    found = mapped(image, TEST_MODEL)
    assert math.frexp(found.gain[0])[0] == 0.5
    fed = found.normalize(image)
    assert 2.0**-12 <= np.abs(fed).max() <= 1
    back = np.empty_like(image)
    found.denormalize(fed, back)
    assert np.allclose(back, image, rtol=0, atol=2.0**-23 * np.abs(image).max())


def test_results_are_rounded_and_clipped_to_the_type() -> None:
    info = ImageInfo((1, 6), Layout("gray", 1), np.dtype(np.float32))
    stored = replace(info, dtype=np.dtype(np.int16))
    plain = Normalization(stored, info, np.ones(1), np.zeros(1), 32767.0, scale=1)
    block = np.array([1.5, 2.5, -0.5, 1e9, -1e9, np.nan], np.float32).reshape(1, 6, 1)
    out = np.empty((1, 6, 1), np.int16)
    plain.denormalize(block, out)
    assert out.ravel().tolist() == [2, 2, 0, 32767, -32768, 0]
    half = replace(plain, source_info=replace(info, dtype=np.dtype(np.float16)), top=None)
    kept = np.empty((1, 6, 1), np.float16)
    half.denormalize(block, kept)
    assert kept.ravel()[3:5].tolist() == [65504, -65504]
    assert np.isnan(kept.ravel()[5])


def test_a_range_of_a_call_is_that_calls() -> None:
    image = (270 + 40 * drawing(30, 40, 1)[..., 0]).astype(np.float32)
    unit = ((image - 270) / 40).astype(np.float32)
    with (
        Engine(PAPER, provider="cpu", tile=16, data_range=(270, 310)) as engine,
        Engine(PAPER, provider="cpu", tile=16) as other,
    ):
        expected = other.upscale(unit) * 40 + 270
        for made in (engine.upscale(image), other.upscale(image, data_range="270..310")):
            assert np.abs(made - expected).max() < 1e-3
        with pytest.raises(RangeError, match="--data-range"):
            other.upscale(image)
        with pytest.raises(RangeError):
            engine.upscale(image, data_range="auto")
    # Nobody who needs no range is asked for one, and an equivariant model gives what it gives.
    with Engine(TEST_MODEL, provider="cpu", tile=16) as engine:
        made = engine.upscale(image)
        assert np.array_equal(engine.upscale(image, data_range="0..7"), made)


def test_ranges_on_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        source, target = tmp_path / "a.tif", tmp_path / "b.tif"
        words = ("upscale", str(source), "-o", str(target), "--overwrite", "--provider", "cpu", *words)
        result = CliRunner().invoke(main, list(words))
        return result.exit_code, result.output

    image = (270 + 40 * drawing(20, 30, 1)[..., 0]).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image)
    code, text = run("--model", PAPER)
    assert code == 1
    assert "a.tif" in text
    assert "--data-range LOW..HIGH" in text
    assert not (tmp_path / "b.tif").exists()
    for words in (("--model", PAPER, "--data-range", "270..310"), ("--model", TEST_MODEL), ()):
        code, text = run(*words)
        assert code == 0, text
        assert np.abs(tifffile.imread(tmp_path / "b.tif")[::2, ::2] - image).mean() < 5
    code, text = run("--model", PAPER, "--data-range", "310..270")
    assert code == 1
    assert "a data range is LOW..HIGH, auto or dtype, got '310..270'" in text
    for words, rule in (
        (("--model", TEST_MODEL, "--model-range", "0..1"), "takes every range of values: it is equivariant"),
        (("--model", PAPER, "--model-range", "0..1"), "its metadata declare the range 0.06"),
    ):
        code, text = run(*words)
        assert code == 1
        assert rule in text


def test_opaque_is_what_the_file_declares(tmp_path: Path) -> None:
    """Of 12 bits in 16 an alpha of 4095 is opaque: the colour beside it is as without one."""
    gray = np.rint(4095 * drawing(24, 20, 1)).astype(np.uint16)
    image = np.concatenate([gray, np.full_like(gray, 4095)], axis=2)
    with Engine("srcnn-915-x2", provider="cpu", tile=16) as engine:
        made = []
        for samples in (gray, image):
            info = ImageInfo((24, 20), Layout.of(samples.shape[2]), samples.dtype, top=4095.0)
            sink = ArraySink(info.scaled(2))
            engine._process(ArraySource(samples, info), sink, None)
            made.append(sink.array)
    assert (made[1][..., 1] == 4095).all()
    assert np.abs(made[1][..., 0].astype(int) - made[0][..., 0]).max() <= 1
    assert made[0].max() == 4095


@pytest.mark.parametrize("maximum", [4095, 5000])
def test_a_declaration_that_samples_belie_clips_nothing(tmp_path: Path, maximum: int) -> None:
    """A file says twelve bits: it is believed where its samples keep to it."""
    samples = np.zeros((60, 50), np.uint16)
    samples[20:40, 15:35] = maximum
    tags = [(281, "H", 1, 4095, True)]
    tifffile.imwrite(tmp_path / "a.tif", samples, extratags=tags)
    with Engine("srcnn-915-x2", provider="cpu") as engine:
        engine.upscale_file(tmp_path / "a.tif", tmp_path / "b.tif")
        plain = engine.upscale(samples)
    assert plain.max() > maximum  # an edge overshoots
    expected = np.minimum(plain, 4095) if maximum == 4095 else plain
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), expected)
