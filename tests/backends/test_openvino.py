"""OpenVINO: exact in float32, close in bfloat16 for any tile, and errors in one line."""

from __future__ import annotations

import builtins
import functools
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from srcnn_rt import Engine, ModelError, ProviderError
from srcnn_rt.backends import openvino
from srcnn_rt.backends.openvino import OpenVinoSession, missing
from srcnn_rt.execution import self_check
from srcnn_rt.models import spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.low_precision.loss import synthetic_image
from srcnn_rt.models.prepare import Program, build_program
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.models import node, normal, save, value
from tests.helpers.reference import quantise

WITHOUT, WITHOUT_BF16 = missing(bfloat16=False), missing(bfloat16=True)
needs_openvino = pytest.mark.skipif(WITHOUT is not None, reason=str(WITHOUT))
# Other bundled models lose more than is allowed.
FAST = ["srcnn-915-x2", "srcnn-915-x3", "compact-m4c16-x2", "compact-m4c16-x4"]
needs_bfloat16 = pytest.mark.skipif(WITHOUT_BF16 is not None, reason=str(WITHOUT_BF16))


@pytest.fixture(scope="module")
def results() -> Callable[..., np.ndarray]:
    """Return a cached function from engine options to the upscaled drawing."""

    @functools.cache
    def make(name: str, dtype: str, **options: object) -> np.ndarray:
        image = drawing(90, 110, 3)
        if dtype == "float32" and spec.load(name)[1].channels == 1:
            image = image[..., 0]
        image = image.astype(np.float32) if dtype == "float32" else quantise(image, np.uint8)
        with Engine(name, **options) as e:
            return e.upscale(image)

    return make


def codes_apart(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """Return the largest difference of two images and the share of equal samples."""
    difference = np.abs(a.astype(int) - b.astype(int))
    return int(difference.max()), float((difference == 0).mean())


@needs_openvino
@pytest.mark.parametrize("name", ["srcnn-915-x2", "srcnn-915-x3", "srcnn-955-x2", "srcnn-955-rgb-x3"])
def test_exact_is_exact_in_openvino_too(name: str, results: Callable[..., np.ndarray]) -> None:
    expected = results(name, "float32", provider="cpu")
    with Engine(name, provider="openvino", tile=64) as e:
        assert (e.provider, e.precision) == ("openvino", "exact")
    assert np.abs(results(name, "float32", provider="openvino", tile=64) - expected).max() <= 1e-5
    maximum, same = codes_apart(
        results(name, "uint8", provider="cpu"), results(name, "uint8", provider="openvino", tile=64)
    )
    assert maximum <= 1
    assert same >= 0.9999


@needs_bfloat16
@pytest.mark.parametrize("name", FAST)
def test_fast_is_close(name: str, results: Callable[..., np.ndarray]) -> None:
    exact = results(name, "float32", provider="cpu")
    error = results(name, "float32", provider="openvino", precision="fast", tile=64) - exact
    assert np.sqrt(np.mean(error**2)) <= 1.2e-3
    maximum, same = codes_apart(
        results(name, "uint8", provider="cpu"),
        results(name, "uint8", provider="openvino", precision="fast", tile=64),
    )
    assert maximum <= 3
    assert same >= 0.7


@needs_bfloat16
@pytest.mark.parametrize("name", FAST)
def test_fast_does_not_depend_on_the_tile(name: str, results: Callable[..., np.ndarray]) -> None:
    """Bit for bit with AVX-512 BF16: kernels add in the same order for any window."""
    whole = results(name, "float32", provider="openvino", precision="fast", tile=128)
    for tile in (9, 32, 64):
        assert np.array_equal(
            results(name, "float32", provider="openvino", precision="fast", tile=tile), whole
        )
    assert np.array_equal(
        results(name, "uint8", provider="openvino", precision="fast", tile=37),
        results(name, "uint8", provider="openvino", precision="fast", tile=128),
    )


@needs_bfloat16
@pytest.mark.parametrize("name", ["srcnn-915-x2", "compact-m4c16-x2"])
def test_fast_takes_the_native_backend_where_that_is_faster(name: str) -> None:
    """Its float32 is; values are right in every unit, which bfloat16 rounds to eight bits."""
    y, x = np.mgrid[0:150, 0:170]
    height = 1500 + 500 * np.sin(x / 40) * np.cos(y / 30) + np.random.default_rng(0).normal(0, 1, x.shape)
    with Engine(name, precision="fast") as fast, Engine(name, provider="native") as exact:
        assert (fast.provider, fast.precision) == ("native", "fast")
        for image in (height.astype(np.float32), np.rint(height).astype(np.uint16)):
            assert np.array_equal(fast.upscale(image), exact.upscale(image))
    with Engine(name, provider="openvino", precision="fast") as e:
        assert (e.provider, e.precision) == ("openvino", "fast")


def test_the_cpu_provider_has_no_fast() -> None:
    with pytest.raises(ProviderError, match="precision fast needs provider cuda or openvino, got cpu"):
        Engine(TEST_MODEL, provider="cpu", precision="fast")


@needs_bfloat16
@pytest.mark.parametrize("name", FAST)
def test_a_copy_is_self_checked_in_fast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to bfloat16 is not reported as a seam."""
    monkeypatch.setattr(self_check, "MAX_MACS", 1e12)
    Engine(bundled()[name].read_bytes(), provider="openvino", precision="fast").close()


@needs_bfloat16
def test_a_model_that_loses_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is the difference of two large values, which bfloat16 does not resolve."""
    weights = {
        "a": np.full((2, 1, 1, 1), 40, np.float32),
        "d": np.array([1, -0.975], np.float32)[None, :, None, None],
    }
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Relu", ["x"], ["y"]), node("Conv", ["y", "d"], ["hr"])]
    path = save(tmp_path / "m.onnx", nodes, weights)
    with pytest.raises(
        ProviderError, match=r"m would lose about \d+\.\d\d dB in bfloat16, 0\.02 are allowed"
    ):
        Engine(path, precision="fast")
    Engine(path, provider="openvino").close()
    Engine(TEST_MODEL, provider="openvino", precision="fast").close()
    monkeypatch.setattr(openvino, "LIMIT_DB", 0)
    with pytest.raises(
        ProviderError, match=f"precision fast cannot be used: {TEST_MODEL} would lose about 0"
    ):
        Engine(TEST_MODEL, provider="openvino", precision="fast")


@needs_bfloat16
def test_the_papers_form_loses_too_much() -> None:
    with pytest.raises(ProviderError, match="srcnn-955-x2-paper would lose about"):
        Engine("srcnn-955-x2-paper", provider="openvino", precision="fast")


@needs_bfloat16
def test_a_model_of_fixed_size_and_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"a": normal(rng, 16, 1, 5, 5), "d": normal(rng, 1, 16, 5, 5) / 8}
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[2] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "d"], ["hr"], pads=[2] * 4),
    ]  # fmt: skip
    kinds = {"inputs": [value("lr", [2, 1, 40, 56])], "outputs": [value("hr", [2, 1, 40, 56])]}
    path = save(tmp_path / "m.onnx", nodes, weights, **kinds)
    image = drawing(77, 61, 1)[..., 0].astype(np.float32)
    with Engine(path, provider="cpu", tile=16) as exact, Engine(path, precision="fast", tile=16) as fast:
        assert np.abs(fast.upscale(image) - exact.upscale(image)).max() <= 2e-2


@needs_openvino
def test_models_of_other_types_are_refused(tmp_path: Path) -> None:
    kinds = {
        "inputs": [value("lr", ["n", 1, "h", "w"], TensorProto.FLOAT16)],
        "outputs": [value("hr", ["n", 1, "h", "w"], TensorProto.FLOAT16)],
    }
    path = save(tmp_path / "m.onnx", [node("Relu", ["lr"], ["hr"])], {}, **kinds)
    with pytest.raises(ProviderError, match="provider openvino needs a float32 model, got float16"):
        Engine(path, provider="openvino")


@needs_openvino
def test_failures_of_openvino_are_one_line() -> None:
    data, described = spec.load(TEST_MODEL)
    with pytest.raises(ModelError, match="OpenVINO cannot load the model") as caught:
        OpenVinoSession(Program(b"nothing", described, False))
    assert "\n" not in str(caught.value)
    session = OpenVinoSession(Program(data, described, False), 1)
    with pytest.raises(ModelError, match=r"OpenVINO cannot run the model on \(1, 1, 4, 4\)"):
        session.bind((1, 1, 4, 4), (1, 1, 8, 8))


@pytest.mark.parametrize("asked", [{"provider": "openvino"}, {"precision": "fast", "provider": "openvino"}])
def test_a_missing_package_gives_the_line_to_type(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        absolute = len(rest) < 4 or rest[3] == 0
        if absolute and name.split(".")[0] == "openvino":
            raise ImportError("No module named 'openvino'")
        return real(name, *rest, **more)

    monkeypatch.setattr(openvino, "_core", openvino._core.__wrapped__)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    what = " ".join(next(iter(asked.items())))
    with pytest.raises(ProviderError, match=rf'{what} cannot be used: .*pip install "srcnn-rt\[openvino\]"'):
        Engine(TEST_MODEL, **asked)
    assert Engine(TEST_MODEL).provider in ("cpu", "cuda", "native")


@needs_openvino
def test_a_cpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    core = types.SimpleNamespace(get_property=lambda device, name: ["FP32", "INT8", "BIN"])
    monkeypatch.setattr(openvino, "_core", lambda: core)
    assert missing(bfloat16=False) is None
    with pytest.raises(
        ProviderError, match="precision fast cannot be used: this CPU does not support bfloat16"
    ):
        Engine(TEST_MODEL, provider="openvino", precision="fast")


@needs_bfloat16
def test_several_threads_at_once() -> None:
    images = [drawing(40 + 7 * k, 90, 3, k).astype(np.float32) for k in range(6)]
    with Engine(TEST_MODEL, provider="openvino", precision="fast", tile=32) as e:
        expected = [e.upscale(p) for p in images]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(2):
                for a, b in zip(pool.map(e.upscale, images), expected, strict=True):
                    assert np.array_equal(a, b)


@needs_bfloat16
def test_a_run_leaves_its_input_as_it_was() -> None:
    """A partly filled batch leaves windows in the buffer; repeated runs must not amplify them."""
    data, described = spec.load(TEST_MODEL)
    session = OpenVinoSession(build_program(data, described), 1, fast=True)
    n = 2 * described.margin
    bound = session.bind((2, 1, n + 8, n + 8), (2, 1, 16, 16))
    bound.input[...] = synthetic_image(n + 8, 0)
    before = bound.input.copy()
    bound.run()
    first = bound.output.copy()
    for _ in range(3):
        bound.run()
    assert np.array_equal(bound.input, before)
    assert np.array_equal(bound.output, first)


@needs_bfloat16
def test_many_batches_that_are_not_full() -> None:
    image = drawing(300, 24, 1)[..., 0].astype(np.float32)
    with (
        Engine(TEST_MODEL, provider="openvino", precision="fast", tile=8) as fast,
        Engine(TEST_MODEL, provider="cpu") as exact,
    ):
        for _ in range(12):
            got = fast.upscale(image)
        assert np.abs(got - exact.upscale(image)).max() <= 1e-2


def test_images_for_the_loss_check() -> None:
    a, b = synthetic_image(96, 0), synthetic_image(96, 1)
    assert np.array_equal(a, synthetic_image(96, 0))
    assert not np.array_equal(a, b)
    for image in (a, b):
        codes = image * np.float32(255)
        assert image.dtype == np.float32
        assert (image.min(), image.max()) >= (0, 0)
        assert image.max() <= 1
        assert np.abs(codes - np.rint(codes)).max() < 1e-4
        assert np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1] > 0.8
