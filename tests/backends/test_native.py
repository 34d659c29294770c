"""The native backend in `Engine`: which models it takes, agreement with ONNX Runtime, and refusals."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

pytest.importorskip("srcnn_rt._conv", reason="this build has no native backend")

from srcnn_rt import ArgumentError, Engine, ModelError, ProviderError
from srcnn_rt.backends import chain_kernel, native
from srcnn_rt.backends.native import NativeSession
from srcnn_rt.models import conv_chain, spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.prepare import Program, build_program
from tests.conftest import drawing
from tests.helpers.models import model, network_of, node, save

RNG = np.random.default_rng(0)


def weights(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {
        f"w{k}": RNG.normal(0, np.prod(s[1:]) ** -0.5, s).astype(np.float32) for k, s in enumerate(shapes)
    }


def constants(data: bytes) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in spec.parse(data).graph.initializer}


def chain_nodes(activation: str = "Relu") -> list[Any]:
    """Three layers for ×2."""
    return [
        node("Conv", ["lr", "w0"], ["a"]),
        node(activation, ["a"], ["b"]),
        node("Conv", ["b", "w1", "bias"], ["c"]),
        node("PRelu", ["c", "slope"], ["d"]),
        node("Conv", ["d", "w2"], ["e"]),
        node("DepthToSpace", ["e"], ["hr"], blocksize=2, mode="CRD"),
    ]


def chain_weights() -> dict[str, np.ndarray]:
    found = weights((6, 1, 3, 3), (8, 6, 3, 3), (4, 8, 3, 3))
    slope = RNG.normal(0, 0.5, (8, 1, 1)).astype(np.float32)
    return found | {"bias": RNG.normal(0, 0.1, 8).astype(np.float32), "slope": slope}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("native") / "chain.onnx", chain_nodes(), chain_weights())


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
def test_auto_takes_it_and_agrees_with_onnx_runtime(tmp_path: Path, activation: str) -> None:
    path = save(tmp_path / "chain.onnx", chain_nodes(activation), chain_weights())
    image = drawing(70, 90, 3).astype(np.float32)
    with Engine(path, provider="cpu") as e:
        expected = e.upscale(image)
    for options in ({}, {"provider": "native"}, {"threads": 1}, {"tile": None, "threads": 2}):
        with Engine(path, **{"tile": 32} | options) as e:
            assert e.provider == "native"
            assert np.abs(e.upscale(image) - expected).max() < 2e-6


def channels(name: str) -> int:
    return 3 if "rgb" in name else 1


@pytest.mark.parametrize("name", bundled())
def test_the_bundled_models(name: str) -> None:
    """Taken as they are in the file, bit for bit the same in any tile, and close to ONNX Runtime.

    The errors of ONNX Runtime's direct sums of 5x5 layers are larger than those of the kernels.
    """
    image = drawing(70, 61, channels(name)).astype(np.float32).squeeze()
    with Engine(name, provider="cpu") as e:
        expected = e.upscale(image)
    with Engine(name, tile=None, threads=1) as e:
        assert e.provider == "native"
        whole = e.upscale(image)
    assert np.abs(whole - expected).max() < (2e-6 if name.startswith("compact") else native.MAX_ERROR)
    for tile in (16, 33):
        with Engine(name, tile=tile) as e:
            assert np.array_equal(e.upscale(image), whole)


@pytest.mark.parametrize("name", [n for n in bundled() if not n.endswith("-paper")])
def test_the_trained_networks_against_float64(name: str) -> None:
    """At most a millionth of full scale from the definition."""
    image = drawing(37, 50, channels(name)).astype(np.float32)
    expected = network_of(name)(image.transpose(2, 0, 1))
    with Engine(name, provider="native", tile=16) as e:
        got = np.atleast_3d(e.upscale(image.squeeze())).transpose(2, 0, 1)
    assert np.abs(got - expected).max() < 1e-6


@pytest.mark.parametrize(
    "name", ["srcnn-915-x2", "srcnn-955-x2", "srcnn-955-x3", "srcnn-955-rgb-x3", "compact-m4c16-x2"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_reaches_no_transform(name: str, value: float) -> None:
    """Holes stay where they are, in any tile, and nodata is filled as it is for ONNX Runtime."""
    image = 3000 * drawing(90, 81, channels(name)).astype(np.float32)
    image[20:55, 30:60] = value  # wider than the margin
    image[0, 0] = image[70, 7] = image[89, 40] = value
    image = image.squeeze()
    with Engine(name, provider="cpu", tile=48) as e:
        expected = e.upscale(image)
    finite = np.isfinite(expected)
    found = []
    for tile in (12, 36, None):
        with Engine(name, provider="native", tile=tile) as e:
            found.append(e.upscale(image))
        assert np.array_equal(found[-1], found[0], equal_nan=True)
    assert np.array_equal(np.isfinite(found[0]), finite)
    assert np.abs(found[0][finite] - expected[finite]).max() < native.MAX_ERROR * 3000


def test_tiles_do_not_matter_bit_for_bit(path: Path) -> None:
    image = drawing(150, 170, 1)[..., 0].astype(np.float32)
    with Engine(path, provider="native", tile=None, threads=2) as e:
        whole = e.upscale(image)
    for tile in (8, 33, 64):
        for threads in (1, 2):
            with Engine(path, provider="native", tile=tile, threads=threads) as e:
                assert np.array_equal(e.upscale(image), whole)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
def test_every_instruction_set_can_be_asked_for(path: Path, monkeypatch: Any, isa: str) -> None:
    from srcnn_rt import _conv

    monkeypatch.setenv(native.ISA_VARIABLE, isa)
    if isa not in _conv.instruction_sets():
        with pytest.raises(ProviderError, match="SRCNN_RT_ISA must be one of"):
            Engine(path, provider="native")
        return
    data, described = spec.load(path)
    assert NativeSession(build_program(data, described)).isa == isa


def test_auto_leaves_old_processors_to_onnx_runtime(path: Path, monkeypatch: Any) -> None:
    """Without AVX2 its vectors are too short on x86; other CPUs have no better ones."""
    monkeypatch.setenv(native.ISA_VARIABLE, "generic")
    for machine, provider in (("x86_64", "cpu"), ("AMD64", "cpu"), ("aarch64", "native")):
        monkeypatch.setattr(native.platform, "machine", lambda machine=machine: machine)
        with Engine(path) as e:
            assert e.provider == provider
        with Engine(path, provider="native") as e:
            assert e.provider == "native"


def test_an_unknown_instruction_set_is_refused(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(native.ISA_VARIABLE, "sse9")
    with pytest.raises(
        ProviderError, match=r"SRCNN_RT_ISA must be one of .*generic.* on this CPU, got 'sse9'"
    ):
        Engine(path, provider="native")


def test_other_models_run_in_onnx_runtime(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["lr", "w0"], ["a"]),
        node("Sigmoid", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["hr"]),
    ]
    path = save(tmp_path / "sigmoid.onnx", nodes, weights((6, 1, 3, 3), (1, 6, 3, 3)))
    with Engine(path) as e:
        assert e.provider == "cpu"
    why = (
        r"it is no chain of 3x3 convolutions \(Sigmoid '' is not .*\) and no SRCNN \(Sigmoid '' is not ReLU\)"
    )
    with pytest.raises(ProviderError, match=f"provider native cannot run sigmoid: {why}"):
        Engine(path, provider="native")
    with pytest.raises(ProviderError, match="precision fast needs provider cuda or openvino, got native"):
        Engine("srcnn-915-x2", provider="native", precision="fast")
    with pytest.raises(ArgumentError, match="provider must be one of auto, cpu, cuda, native, openvino"):
        Engine("srcnn-915-x2", provider="mine")


def test_larger_kernels_are_refused(tmp_path: Path) -> None:
    nodes = [node("Conv", ["lr", "w0"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w1"], ["hr"])]
    path = save(tmp_path / "m.onnx", nodes, weights((6, 1, 5, 5), (1, 6, 1, 1)))
    data, described = spec.load(path)
    with pytest.raises(
        ProviderError,
        match=r"cannot run m: .*\(Conv '' is .* not 3x3\) and no SRCNN \(it is not a chain of three",
    ):
        NativeSession(Program(data, described, False))


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"pads": [1, 1, 1, 1]}, "Conv '' is not padded as all layers, by one pixel or not at all"),
        ({"strides": [2, 2]}, "Conv '' is strided, grouped or not 3x3"),
        ({"dilations": [2, 2]}, "is strided, grouped"),
        ({"auto_pad": "SAME_UPPER"}, "is strided, grouped"),
        ({"group": 2}, "is strided, grouped"),
    ],
)
def test_convolutions_that_are_not_plain(changes: dict[str, Any], why: str) -> None:
    nodes = chain_nodes()
    shape = (8, 3, 3, 3) if "group" in changes else (8, 6, 3, 3)
    nodes[2] = node("Conv", ["b", "w1", "bias"], ["c"], **changes)
    found = conv_chain.find(model(nodes, chain_weights() | {"w1": np.zeros(shape, np.float32)}))
    assert isinstance(found, str)
    assert why in found


@pytest.mark.parametrize(
    "at, replacement, why",
    [
        (1, node("Sigmoid", ["a"], ["b"]), "Sigmoid '' is not an activation that it knows"),
        (0, node("Relu", ["lr"], ["a"]), "Relu '' is not an activation that it knows"),
        (1, node("Conv", ["lr", "w0"], ["b"]), "Conv '' is not part of a chain"),
        (5, node("DepthToSpace", ["e"], ["hr"], blocksize=2), "not in the order of PyTorch's pixel shuffle"),
        (5, node("Add", ["e", "e"], ["hr"]), "is not an activation"),
        (3, node("PRelu", ["c", "bias"], ["d"]), "PRelu '' is not an activation that it knows"),
        (5, node("Relu", ["e"], ["other"]), "its nodes do not form a chain"),
    ],
)
def test_graphs_that_are_no_chain(at: int, replacement: Any, why: str) -> None:
    nodes = chain_nodes()
    nodes[at] = replacement
    found = conv_chain.find(model(nodes, chain_weights()))
    assert isinstance(found, str)
    assert why in found


def test_a_chain_is_read_as_it_is() -> None:
    found = conv_chain.find(model(chain_nodes("LeakyRelu"), values := chain_weights()))
    assert not isinstance(found, str)
    assert found.scale == 2
    first, second, last = found.layers
    assert first.slope is not None
    assert (first.slope == np.float32(0.01)).all()
    assert (first.bias == 0).all()
    assert first.slope.shape == (6,)
    assert second.slope is not None
    assert (second.slope == values["slope"][:, 0, 0]).all()
    assert (second.bias == values["bias"]).all()
    assert last.slope is None
    assert all((layer.weight == values[f"w{k}"]).all() for k, layer in enumerate(found.layers))


def test_a_difference_from_onnx_runtime_is_refused(path: Path, monkeypatch: Any) -> None:
    real = chain_kernel._fast
    monkeypatch.setattr(chain_kernel, "_fast", lambda *args: real(*args) * 1.001)
    with pytest.raises(ProviderError, match=r"differs from ONNX Runtime by .* of full scale, allowed 1e-05"):
        Engine(path, provider="native")
    with Engine(path) as e:
        assert e.provider == "cpu"


def test_runs_end_early(path: Path) -> None:
    data, described = spec.load(path)
    session = NativeSession(build_program(data, described), 1)
    bound = session.bind((1, 1, 20, 20), (1, 1, 28, 28))
    with session.interrupted(), pytest.raises(ModelError, match="interrupted"):
        bound.run()
    bound.run()


def test_one_session_serves_many_threads(path: Path) -> None:
    data, described = spec.load(path)
    session = NativeSession(build_program(data, described), 2)
    h, w = 144 + session.shrink, 56 + session.shrink
    windows = np.random.default_rng(0).random((8, 1, h, w), dtype=np.float32)
    results: dict[int, np.ndarray] = {}

    def work(k: int) -> None:
        bound = session.bind((1, 1, h, w), (1, 1, 288, 112))
        for _ in range(5):
            bound.input[0] = windows[k]
            bound.run()
        results[k] = bound.output.copy()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    bound = session.bind((8, 1, h, w), (8, 1, 288, 112))
    bound.input[...] = windows
    bound.run()
    assert all(np.array_equal(results[k][0], bound.output[k]) for k in range(8))
