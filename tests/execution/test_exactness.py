"""The promise: the result does not depend on the tile size.

Bitwise with integer weights, within its tolerance with trained ones, and against an
oracle that shares no code. The mutants at the end must be caught: a proof that cannot
fail proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srcnn_rt import Engine
from srcnn_rt.models import prepare, spec
from srcnn_rt.tiling import geometry, kernels
from tests.conftest import TEST_MODEL, drawing
from tests.helpers import reference
from tests.helpers.models import network_of

Maker = Callable[..., tuple[Path, dict[str, object]]]
FORMS = ("", "-paper")  # endings of bundled names
SLOW_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def exact(path: Path, tile: int) -> Engine:
    """An engine that feeds whole numbers as they stand."""
    return Engine(path, provider="cpu", tile=tile, data_range="dtype")


def oracle(image: np.ndarray, scale: int, parts: dict) -> np.ndarray:
    """Whole-image float64 result of an integer model on (C, H, W) planes."""
    pad, shrink = parts["margin"], parts["shrink"]
    kernel = parts["kernel"].reshape(scale, scale, 5, 5)
    ups = []
    for plane in image:
        mirrored = np.pad(plane.astype(np.float64), pad, mode="symmetric")
        h, w = mirrored.shape[0] - 4, mirrored.shape[1] - 4
        up = np.zeros((h * scale, w * scale))
        for p in range(scale):
            for q in range(scale):
                up[p::scale, q::scale] = reference.convolve(mirrored[None], kernel[p, q][None, None], None)[0]
        ups.append(up)
    cut = (pad - 2) * scale - shrink
    up = np.stack(ups)[:, cut : -cut or None, cut : -cut or None]
    return reference.network(up, parts["layers"])


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW_FIXTURE)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    tile=st.integers(geometry.MIN_TILE, 80),
    scale=st.sampled_from([2, 3, 4]),
    sizes=st.sampled_from([(9, 1, 5), (9, 3, 5), (9, 5, 5), (5, 1, 3)]),
    seed=st.integers(0, 2**16),
)
def test_tiled_is_bitwise_whole_and_the_oracle(
    integer_model: Maker, shape: tuple[int, int], tile: int, scale: int, sizes: tuple[int, ...], seed: int
) -> None:
    path, parts = integer_model(scale, sizes)
    image = np.random.default_rng(seed).integers(0, 4, shape).astype(np.float32)
    with exact(path, tile) as tiled, exact(path, 512) as whole:
        a, b = tiled.upscale(image), whole.upscale(image)
        assert tiled.margin == parts["margin"]
    assert np.abs(b).max() < 2**24
    assert (a == b).all()
    assert (a == oracle(image[None], scale, parts)[0]).all()


@pytest.mark.parametrize("scale", [2, 3])
def test_three_channels_are_bitwise_too(integer_model: Maker, scale: int, rng: np.random.Generator) -> None:
    path, parts = integer_model(scale, (9, 1, 5), 3)
    image = rng.integers(0, 3, (33, 50, 3)).astype(np.float32)
    expected = oracle(image.transpose(2, 0, 1), scale, parts).transpose(1, 2, 0)
    for tile in (8, 13, 32, 512):
        with exact(path, tile) as e:
            assert (e.upscale(image) == expected).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (7, 300)])
def test_images_smaller_than_a_margin(integer_model: Maker, shape: tuple[int, int]) -> None:
    path, parts = integer_model(3)
    image = np.arange(np.prod(shape)).reshape(shape).astype(np.float32) % 4
    with exact(path, 16) as e:
        assert (e.upscale(image) == oracle(image[None], 3, parts)[0]).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_promise_holds_for_trained_models(scale: int, channels: int, dtype: type, form: str) -> None:
    image = drawing(83, 101, channels)
    image = image.astype(np.float32) if dtype is np.float32 else reference.quantise(image, dtype)
    results = []
    for tile in (512, 37, 16):
        with Engine(f"srcnn-915-x{scale}{form}", provider="cpu", tile=tile) as e:
            results.append(e.upscale(image))
    for other in results[1:]:
        difference = np.abs(results[0].astype(np.float64) - other.astype(np.float64))
        if dtype is np.float32:
            assert difference.max() <= 1e-5
        else:
            assert difference.max() <= 1
            assert (difference == 0).mean() >= 0.9999


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_trained_models_agree_with_the_oracle(scale: int, form: str) -> None:
    name = f"srcnn-915-x{scale}{form}"
    network = network_of(name)
    assert (network.scale, network.added) == (scale, form == "")
    gray = drawing(23, 31, 1)[..., 0]
    with Engine(name, provider="cpu", tile=16) as e:
        got = e.upscale(gray.astype(np.float32))
        assert np.abs(got - network.image(gray[..., None])[..., 0]).max() < 2e-5
        rgb = drawing(23, 31, 3)
        expected = reference.upscale_rgb(rgb, network)
        assert np.abs(e.upscale(rgb.astype(np.float32)) - expected).max() < 2e-5
        eight = reference.quantise(rgb, np.uint8)
        expected8 = reference.quantise(reference.upscale_rgb(eight / 255, network), np.uint8)
        difference = np.abs(e.upscale(eight).astype(int) - expected8)
        assert difference.max() <= 1
        assert (difference == 0).mean() > 0.999


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_and_the_colour_beside_it(channels: int, form: str) -> None:
    name = TEST_MODEL + form
    image = drawing(30, 26, channels)
    image[:12, :, -1] = 1.0
    image[22:, :, -1] = 0.0
    expected = reference.upscale_with_alpha(image, network_of(name), radius=5)
    with Engine(name, provider="cpu", tile=16) as e:
        got = e.upscale(image.astype(np.float32))
    assert np.abs(got[..., -1] - expected[..., -1]).max() < 1e-5
    solid = expected[..., -1] > 0.05  # below, a float32 rounding is divided by almost nothing
    assert np.abs(got[..., :-1] - expected[..., :-1])[solid].max() < 1e-4
    assert (got[..., :-1][expected[..., -1] < 1e-7] == 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [2, 4])
def test_an_opaque_alpha_changes_nothing(channels: int, form: str) -> None:
    image = reference.quantise(drawing(60, 50, channels), np.uint8)
    image[..., -1] = 255
    with Engine(TEST_MODEL + form, provider="cpu", tile=16) as e:
        out = e.upscale(image)
        plain = e.upscale(np.ascontiguousarray(image[..., :-1])).reshape(out[..., :-1].shape)
    assert (out[..., -1] == 255).all()
    assert (out[..., :-1] == plain).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("softness", [255, 40, 15])
@pytest.mark.parametrize("level", [(200, 60, 30), (250, 250, 250), (20, 20, 30)])
def test_a_cut_out_has_no_fringe(scale: int, softness: int, level: tuple[int, ...], form: str) -> None:
    """One colour behind a round mask, another under what is transparent: it stays that colour."""
    y, x = np.mgrid[:64, :64]
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., 3] = np.clip((22 - np.hypot(y - 32, x - 32)) * softness + 128, 0, 255)
    image[..., :3] = np.where(image[..., 3:] > 0, level, (0, 255, 0))
    with Engine(f"srcnn-915-x{scale}{form}", provider="cpu", tile=16) as e:
        out = e.upscale(image).astype(int)
    visible = out[..., 3] >= 16
    assert np.abs(out[..., :3][visible] - level).max() <= 3


@pytest.mark.parametrize("form", FORMS)
def test_bands_are_each_a_gray_image(form: str) -> None:
    image = reference.quantise(drawing(40, 30, 6), np.uint16)
    with Engine(TEST_MODEL + form, provider="cpu", tile=16) as e:
        out = e.upscale(image)
        for k in range(6):
            assert (out[..., k] == e.upscale(np.ascontiguousarray(image[..., k]))).all()
        as_bands = e.upscale(image[..., :3], bands=True)
        assert (as_bands == out[..., :3]).all()
        assert (e.upscale(image[..., :3]) != as_bands).any()


@pytest.mark.parametrize("form", FORMS)
def test_a_flat_image_stays_flat(form: str) -> None:
    """A bright border, a seam or a dark edge would show at once."""
    for level in (0, 17, 128, 255):
        image = np.full((50, 61, 3), level, np.uint8)
        with Engine(TEST_MODEL + form, provider="cpu", tile=16) as e:
            out = e.upscale(image).astype(int)
        assert out.max() - out.min() <= (0 if form == "" else 1)
        assert abs(out.mean() - level) < (1e-9 if form == "" else 6)


# --- mutants -----------------------------------------------------------------------------


def mutant_result(monkeypatch: pytest.MonkeyPatch, path: Path, image: np.ndarray, mutate: object) -> bool:
    """Return whether tiled and whole differ when `mutate` spoils extract's windows."""
    real = kernels.extract

    def spoiled(part, batch, margin, out, **place):
        real(part, batch, margin, out, **place)
        mutate(out)

    with exact(path, 512) as whole:
        good = whole.upscale(image)
    monkeypatch.setattr(kernels, "extract", spoiled)
    with exact(path, 16) as tiled:
        return bool((tiled.upscale(image) != good).any())


def one_short_at(side: str) -> Callable[[np.ndarray], None]:
    """A margin one pixel short: the outermost row or column repeats its neighbour."""

    def mutate(out: np.ndarray) -> None:
        match side:
            case "top":
                out[:, :, 0] = out[:, :, 1]
            case "bottom":
                out[:, :, -1] = out[:, :, -2]
            case "left":
                out[..., 0] = out[..., 1]
            case "right":
                out[..., -1] = out[..., -2]

    return mutate


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(9, 1, 5), (9, 5, 5)])
def test_a_margin_one_short_is_caught(
    monkeypatch: pytest.MonkeyPatch, integer_model: Maker, sizes: tuple[int, ...], scale: int, side: str
) -> None:
    path, _ = integer_model(scale, sizes)
    image = np.random.default_rng(3).integers(0, 4, (60, 60)).astype(np.float32)
    assert mutant_result(monkeypatch, path, image, one_short_at(side))


def test_a_margin_that_is_enough_is_not_caught(monkeypatch: pytest.MonkeyPatch, integer_model: Maker) -> None:
    """The mutant machinery itself is innocent."""
    path, _ = integer_model(2)
    image = np.random.default_rng(3).integers(0, 4, (60, 60)).astype(np.float32)
    assert not mutant_result(monkeypatch, path, image, lambda out: None)


@pytest.mark.parametrize("delta", [-1, 1])
def test_a_wrong_margin_in_the_spec_is_caught(
    monkeypatch: pytest.MonkeyPatch, integer_model: Maker, delta: int
) -> None:
    from dataclasses import replace

    from srcnn_rt import SrcnnError

    path, _ = integer_model(2)
    image = np.random.default_rng(3).integers(0, 4, (60, 60)).astype(np.float32)
    with exact(path, 512) as whole:
        good = whole.upscale(image)
    real = prepare.build_program

    def wrong_margin(data: bytes, described: spec.ModelSpec) -> prepare.Program:
        ready = real(data, described)
        return replace(ready, spec=replace(ready.spec, margin=ready.spec.margin + delta))

    monkeypatch.setattr(prepare, "build_program", wrong_margin)
    with exact(path, 16) as wrong:
        try:
            assert (wrong.upscale(image) != good).any()
        except SrcnnError as error:
            assert "ONNX Runtime failed on windows of shape" in str(error)  # another size comes out


@pytest.mark.parametrize("mode", ["reflect", "edge", "constant"])
def test_another_border_is_caught_by_the_oracle(
    monkeypatch: pytest.MonkeyPatch, integer_model: Maker, mode: str
) -> None:
    path, parts = integer_model(2)
    image = np.random.default_rng(3).integers(0, 4, (20, 20)).astype(np.float32)
    expected = oracle(image[None], 2, parts)[0]

    def other_border(part, batch, margin, out, **place):
        (tile,) = batch
        assert (tile.y.origin, tile.x.origin) == (0, 0)
        spare = [out.shape[2 + k] - part.shape[k] - margin for k in (0, 1)]
        pads = [(margin, spare[0]), (margin, spare[1])]
        out[0, 0] = np.pad(part[..., 0], pads, mode=mode)

    with exact(path, 512) as e:
        assert (e.upscale(image) == expected).all()
    monkeypatch.setattr(kernels, "extract", other_border)
    with exact(path, 512) as e:
        assert (e.upscale(image) != expected).any()
