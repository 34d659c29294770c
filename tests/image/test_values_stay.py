"""Results do not depend on the unit of the samples: f(a·x + b) = a·f(x) + b.

This holds for every bundled model, layout and type, up to rounding. Results are also compared with a float64
reference without windows or offsets. The tests at the end check that faulty models are detected.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from srcnn_rt import Engine, ModelError
from srcnn_rt.image.info import SAMPLE_TYPES
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.bundled import bundled
from tests.conftest import drawing
from tests.helpers import reference
from tests.helpers.models import network_of

MODELS = [name for name in bundled() if not name.endswith("-paper")]
LUMINANCE = [name for name in MODELS if "rgb" not in name]
FLOATS = ("float32", "float64")
INTEGERS = tuple(name for name in SAMPLE_TYPES if not name.startswith("float"))
LAYOUTS = {"gray": 1, "rgb": 3, "bands": 5}


@cache
def engine(name: str) -> Engine:
    return Engine(name, provider="native" if name.startswith("compact") else "cpu", tile=16)


def weights(name: str) -> dict[str, np.ndarray]:
    proto = onnx.load_model_from_string(spec.read(name)[0])
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


@pytest.mark.parametrize("name", MODELS)
def test_the_file_holds_the_form(name: str) -> None:
    found = weights(name)
    assert not any(key.endswith("bias") for key in found)
    first = found["conv1.weight"].astype(np.float64)
    assert (first.sum(axis=(2, 3)) == 0).all()  # of every channel, without any rounding
    data, described = spec.load(name)
    assert described.equivariant and described.range.is_identity
    assert prepare.build_program(data, described).spec.adds_bicubic


@pytest.mark.parametrize("name", [n for n in bundled() if n.endswith("-paper")])
def test_the_papers_form_is_known_for_what_it_is(name: str) -> None:
    _, described = spec.load(name)
    assert not described.equivariant
    assert described.range.offset == (16 / 255,)


@pytest.mark.parametrize("name", LUMINANCE)
def test_the_reference(name: str) -> None:
    """A DEM in metres, against float64 arithmetic on the whole image."""
    network = network_of(name)
    height = 1200 + 300 * drawing(23, 21, 1)[..., 0]
    for dtype in FLOATS:
        given = height.astype(dtype)  # rounded to the type; deblurring amplifies the rounding
        expected = network(given.astype(np.float64)[None])[0]
        got = engine(name).upscale(given)
        assert got.dtype == dtype
        assert np.abs(got - expected).max() < 300 * 2e-6 + (2e-4 if dtype == "float32" else 0)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    layout=st.sampled_from(list(LAYOUTS)),
    dtype=st.sampled_from(FLOATS),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    power=st.floats(-12, 12),
    offset=st.floats(-1e6, 1e6),
    seed=st.integers(0, 99),
)
def test_gain_and_offset(
    name: str, layout: str, dtype: str, shape: tuple[int, int], power: float, offset: float, seed: int
) -> None:
    if "rgb" in name and layout == "bands":
        return
    a = 10**power
    b = a * offset
    x = drawing(*shape, LAYOUTS[layout], seed)
    f, options = engine(name).upscale, {"layout": "HWC", "bands": layout == "bands"}
    straight = a * f(x.astype(np.float64), **options) + b
    got = f((a * x + b).astype(dtype), **options)
    # Rounding of the samples to their type, and of their differences to float32.
    unit = float(np.finfo(dtype).eps) * (abs(b) + a)
    assert np.abs(got - straight).max() <= 20 * unit + 1e-5 * a


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    layout=st.sampled_from(["gray", "rgb"]),
    dtype=st.sampled_from(FLOATS),
    power=st.integers(-40, 40),
    seed=st.integers(0, 99),
)
def test_powers_of_two_bit_for_bit(name: str, layout: str, dtype: str, power: int, seed: int) -> None:
    x = (drawing(31, 18, LAYOUTS[layout], seed) - 0.4).astype(dtype)
    a = x.dtype.type(2.0**power)
    assert np.array_equal(engine(name).upscale(a * x), a * engine(name).upscale(x))


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    layout=st.sampled_from(["gray", "rgb", "bands", "gray + alpha", "rgb + alpha"]),
    dtype=st.sampled_from(SAMPLE_TYPES),
    data=st.data(),
)
def test_a_constant_is_that_constant(name: str, layout: str, dtype: str, data: st.DataObject) -> None:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        maximum = {2: 6e4, 4: 2.0**100, 8: 1e200}[kind.itemsize]
        value = data.draw(st.floats(-maximum, maximum, width=8 * kind.itemsize))
        if abs(value) < 2.0 ** (-14 if kind.itemsize == 2 else -100):
            value = 0.0
    else:
        value = data.draw(st.integers(np.iinfo(kind).min, np.iinfo(kind).max))
    bands = layout == "bands"
    count = {"gray": 1, "rgb": 3, "bands": 4, "gray + alpha": 2, "rgb + alpha": 4}[layout]
    if "rgb" in name and (bands or "alpha" in layout):
        return
    image = np.full((9, 12, count), value, kind)
    if "alpha" in layout:
        image[..., -1] = 1 if kind.kind == "f" else np.iinfo(kind).max
    got = engine(name).upscale(image, bands=bands)
    assert got.dtype == kind
    if "alpha" in layout and kind.itemsize > 2:  # without an offset float32 has 24 bits
        assert np.allclose(got[..., :-1].astype(float), float(value), rtol=1e-6)
        return
    assert (got == image[0, 0]).all()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(LUMINANCE),
    dtype=st.sampled_from(INTEGERS),
    layout=st.sampled_from(["gray", "rgb"]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_integers_anywhere_in_their_range(
    name: str, dtype: str, layout: str, seed: int, data: st.DataObject
) -> None:
    """Integer samples a·(0 … 60) + b give the rounded result of floats, anywhere in the range of the type."""
    kind = np.iinfo(dtype)
    x = np.rint(60 * drawing(14, 17, LAYOUTS[layout], seed)).astype(np.int64)
    a = data.draw(st.integers(1, min(1000, (kind.max - kind.min) // 60)))
    b = data.draw(st.integers(kind.min, kind.max - 60 * a))
    exact = a * engine(name).upscale(x.astype(np.float64)) + b
    got = engine(name).upscale((a * x + b).astype(dtype))
    assert got.dtype == dtype
    slack = 1e-5 * 60 * a + (0.05 if kind.bits < 32 else 0)
    assert np.abs(got - np.clip(exact, kind.min, kind.max)).max() <= 0.5 + slack


def test_last_digits_stay() -> None:
    rng = np.random.default_rng(0)
    height = 4000.123 + 0.001 * rng.integers(-3, 4, (30, 30))
    e = engine("srcnn-915-x2")
    detail = e.upscale(height - 4000.123)
    assert np.abs(e.upscale(height) - 4000.123 - detail).max() < 1e-9
    count = (10**9 + rng.integers(-3, 4, (30, 30))).astype(np.int32)
    got = e.upscale(count)
    assert np.abs(got - 10**9 - e.upscale((count - 10**9).astype(np.float64))).max() <= 0.5 + 1e-4


def test_every_tile_and_region_has_one_offset() -> None:
    height = (1500 + 200 * drawing(90, 110, 1)[..., 0]).astype(np.float32)
    with (
        Engine("srcnn-915-x2", provider="cpu", tile=8) as small,
        Engine("srcnn-915-x2", provider="cpu", tile=512) as large,
    ):
        a, b = small.upscale(height), large.upscale(height)
        assert np.abs(a - b).max() <= 200e-5
        part = np.zeros((40, 60), np.float32)
        for (rows, columns), made in small.stream(height, region=(slice(30, 50), slice(20, 50))):
            part[rows, columns] = made[:, :, 0]
        assert np.array_equal(part, a[60:100, 40:100])


def test_ndvi_of_a_multispectral_scene() -> None:
    """Reflectances in 0 … 3000: the index changes only as much as sharpening changes edges."""
    red, infrared = 300 + 900 * drawing(40, 50, 1, 3)[..., 0], 800 + 2000 * drawing(40, 50, 1, 4)[..., 0]
    scene = np.rint(np.stack([red, infrared], axis=2)).astype(np.uint16)

    def ndvi(x: np.ndarray) -> np.ndarray:
        r, n = x[..., 0].astype(float), x[..., 1].astype(float)
        return (n - r) / (n + r)

    with Engine("bicubic-x2", provider="cpu") as plain:
        smooth = ndvi(plain.upscale(scene, bands=True))
    got = ndvi(engine("srcnn-915-x2").upscale(scene, bands=True))
    assert abs(got.mean() - smooth.mean()) < 0.002
    assert abs(got.mean() - ndvi(scene).mean()) < 0.005


@pytest.mark.parametrize("low, high, dtype", [
    (0, 65535, "uint16"), (0, 10000, "uint16"), (0, 3000, "uint16"), (-30000, 30000, "int16"),
    (1000, 1100, "float32"), (-1, 1, "float32"), (250, 300, "float64"), (-2e9, 2e9, "int32"),
])  # fmt: skip
def test_one_photograph_in_every_unit(low: float, high: float, dtype: str) -> None:
    """PSNR does not depend on the range of the samples."""
    from skimage.data import camera

    from srcnn_rt.evaluation.protocol import imresize

    truth = camera()[100:228, 180:308] / 255
    small = imresize(truth, 2, down=True).clip(0, 1)

    def psnr(image: np.ndarray, low: float, high: float) -> float:
        # Integers are clipped to their type, so all are clipped to the range of the photograph.
        error = ((image.astype(float) - low) / (high - low)).clip(0, 1) - truth
        return -10 * math.log10(np.mean(error[2:-2, 2:-2] ** 2))

    usual = psnr(engine("srcnn-915-x2").upscale(small), 0, 1)
    samples = low + (high - low) * small
    samples = (np.rint(samples) if np.dtype(dtype).kind != "f" else samples).astype(dtype)
    assert abs(psnr(engine("srcnn-915-x2").upscale(samples), low, high) - usual) < 0.02


def changed(name: str, tmp_path: Path, change: str) -> Path:
    """Write a bundled model with one small fault and return its path."""
    proto = onnx.load_model_from_string(spec.read(name)[0])
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if change == "one filter that does not sum to zero" and tensor.name == "conv1.weight":
            array[5, 0, 4, 4] += 0.01
        elif change == "the sum one pixel off" and tensor.name in ("inner.starts", "inner.ends"):
            array += 1
            array[array == 0] = 2**31 - 1
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    if change == "a bias":
        proto.graph.initializer.append(numpy_helper.from_array(np.full(64, 1e-3, np.float32), "b"))
        next(n for n in proto.graph.node if n.name == "conv1").input.append("b")
    path = tmp_path / "changed.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("change", ["a bias", "one filter that does not sum to zero"])
def test_what_is_not_equivariant_is_not_taken_for_it(tmp_path: Path, change: str) -> None:
    path = changed("srcnn-915-x2", tmp_path, change)
    with pytest.raises(ModelError, match="its graph is not equivariant"):
        spec.load(path)
    proto = onnx.load(path)
    del proto.metadata_props[:]
    _, described = spec.load(proto.SerializeToString())
    assert not described.equivariant


def test_a_sum_one_pixel_off_differs_from_the_reference(tmp_path: Path) -> None:
    path = changed("srcnn-915-x2", tmp_path, "the sum one pixel off")
    found = weights("srcnn-915-x2")
    x = drawing(15, 16, 1)[..., 0]
    expected = reference.added_to_bicubic(x[None], 2, [found[f"conv{k}.weight"] for k in (1, 2, 3)])[0]
    data, described = spec.load(path)
    assert not prepare.build_program(data, described).spec.adds_bicubic
    with Engine(path, provider="cpu", tile=8) as off:
        assert np.abs(off.upscale(x.astype(np.float32)) - expected).max() > 0.05
