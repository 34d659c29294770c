"""The native backend on chains of layers that pad, and that may add the enlarged input, such as SRVGG."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

_conv = pytest.importorskip("srcnn_rt._conv", reason="this build has no native backend")

from srcnn_rt import Engine  # noqa: E402
from srcnn_rt.backends.aligned import aligned_zeros  # noqa: E402
from srcnn_rt.models import conv_chain  # noqa: E402
from srcnn_rt.models.conv_chain import Layer  # noqa: E402
from tests.backends.test_native_kernels import ISAS, layers, opened  # noqa: E402
from tests.conftest import drawing  # noqa: E402
from tests.helpers.models import model, node, save  # noqa: E402
from tests.helpers.reference import convolve  # noqa: E402


def oracle(chain: list[Layer], scale: int, image: np.ndarray, added: bool) -> np.ndarray:
    """The definition in float64."""
    x = image.astype(np.float64)
    for layer in chain:
        x = convolve(np.pad(x, ((0, 0), (1, 1), (1, 1))), layer.weight, layer.bias)
        if layer.slope is not None:
            x = np.where(x < 0, x * layer.slope.astype(np.float64)[:, None, None], x)
    out = np.empty((len(x) // scale**2, x.shape[1] * scale, x.shape[2] * scale))
    for k, plane in enumerate(x):
        c, phase = divmod(k, scale**2)
        out[c, phase // scale :: scale, phase % scale :: scale] = plane
    return out + np.kron(image, np.ones((1, scale, scale))) if added else out


def run(
    isa: str, chain: list[Layer], scale: int, image: np.ndarray, *, added: bool = False, parts: int = 1
) -> np.ndarray:
    """Run the kernels on a (C, h, w) image, in `parts` strips of rows."""
    kernels = opened(isa, chain, scale, True, added)
    assert kernels.margin == 0
    _, h, w = image.shape
    out = np.full((len(chain[-1].weight) // scale**2, h * scale, w * scale), np.nan, np.float32)
    memory = aligned_zeros(kernels.samples(h, w))
    edges = [*(h * k // parts // 2 * 2 for k in range(parts)), h]
    for top, bottom in pairwise(edges):
        assert not kernels.run(image, out, top, bottom - top, memory, np.zeros(1, np.int32))
    return out


def drawn(channels: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (channels, h, w)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    isa=st.sampled_from(sorted(ISAS)),
    channels=st.sampled_from([1, 3]),
    scale=st.integers(1, 4),
    widths=st.lists(st.integers(1, 20), max_size=5),
    kinds=st.lists(st.sampled_from(["relu", "prelu", ""]), min_size=6, max_size=6),
    size=st.tuples(st.integers(1, 15), st.integers(1, 50)),
    added=st.booleans(),
    parts=st.integers(1, 3),
    seed=st.integers(0, 9),
)
@example("generic", 3, 4, [16, 16], ["prelu"] * 6, (3, 9), True, 2, 0)
def test_kernels_compute_the_definition(
    isa: str,
    channels: int,
    scale: int,
    widths: list[int],
    kinds: list[str],
    size: tuple[int, int],
    added: bool,
    parts: int,
    seed: int,
) -> None:
    chain = layers([channels, *widths, channels * scale**2], kinds[: len(widths) + 1], seed)
    image = drawn(channels, *size, seed)
    expected = oracle(chain, scale, image, added)
    got = run(isa, chain, scale, image, added=added, parts=parts)
    assert np.abs(got - expected).max() < 2e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_a_sample_does_not_depend_on_its_window(isa: str) -> None:
    """Bit for bit, wherever on the grid a window starts, in cores on the grid behind the inset."""
    chain = layers([3, 16, 24, 12], ["prelu", "relu", ""], 2)
    image = 100 + 30 * drawn(3, 50, 141)
    whole = run(isa, chain, 2, image, added=True)
    assert (run(isa, chain, 2, image, added=True, parts=5) == whole).all()
    rows, columns = len(chain), 2 * len(chain) - 1
    rng = np.random.default_rng(1)
    for _ in range(30):
        (y0, y1) = (2 * rng.integers(0, 11), min(rng.integers(31, 60), 50))
        (x0, x1) = (4 * rng.integers(0, 25), min(rng.integers(112, 160), 141))
        part = run(isa, chain, 2, np.ascontiguousarray(image[:, y0:y1, x0:x1]), added=True)
        top, left = (-(-rows // 2) * 2 if y0 else 0), (-(-columns // 4) * 4 if x0 else 0)
        bottom = y1 - y0 if y1 == 50 else (y1 - y0 - rows) // 2 * 2
        right = x1 - x0 if x1 == 141 else (x1 - x0 - columns) // 4 * 4
        inner = part[:, 2 * top : 2 * bottom, 2 * left : 2 * right]
        assert inner.size
        assert (
            inner == whole[:, 2 * (y0 + top) : 2 * (y0 + bottom), 2 * (x0 + left) : 2 * (x0 + right)]
        ).all()


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_memory_of_an_earlier_run_does_not_matter(isa: str) -> None:
    chain = layers([1, 8, 8, 4], ["relu", "prelu", ""], 3)
    kernels, image = opened(isa, chain, 2, True, True), drawn(1, 15, 37)
    expected = run(isa, chain, 2, image, added=True)
    memory, out = aligned_zeros(kernels.samples(15, 37)), np.empty_like(expected)
    kernels.run(np.full_like(image, np.nan), out, 0, 15, memory, np.zeros(1, np.int32))
    assert np.isnan(out).all()
    kernels.run(image, out, 0, 15, memory, np.zeros(1, np.int32))
    assert (out == expected).all()


def graph(scale: int, *, resize: dict[str, Any] | None = None, swapped: bool = False, pads: int = 1) -> Any:
    """Nodes and weights of a small SRVGG, with attributes of its Resize."""
    rng = np.random.default_rng(0)
    shapes = [(16, 3, 3, 3), (16, 16, 3, 3), (3 * scale**2, 16, 3, 3)]
    values = {
        f"w{k}": rng.normal(0, np.prod(s[1:]) ** -0.5, s).astype(np.float32) for k, s in enumerate(shapes)
    }
    values["slope"] = rng.normal(0, 0.3, (1, 16, 1, 1)).astype(np.float32)
    values["scales"] = np.array([1, 1, scale, scale], np.float32)
    conv = {"pads": [pads] * 4}
    nodes = [
        node("Conv", ["lr", "w0"], ["a"], **conv),
        node("PRelu", ["a", "slope"], ["b"]),
        node("Conv", ["b", "w1"], ["c"], **conv),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w2"], ["e"], **conv),
    ]
    end = "e"
    if scale > 1:
        nodes.append(node("DepthToSpace", ["e"], ["f"], blocksize=scale, mode="CRD"))
        how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        nodes.insert(0, node("Resize", ["lr", "", "scales"], ["g"], **(resize or how)))
        end = "f"
    terms = [end, "g" if scale > 1 else "lr"]
    nodes.append(node("Add", terms[::-1] if swapped else terms, ["hr"]))
    return nodes, values


@pytest.mark.parametrize("scale, swapped", [(1, False), (2, True), (3, False), (4, True)])
def test_models_run_natively_and_do_not_depend_on_the_tile(tmp_path: Path, scale: int, swapped: bool) -> None:
    path = save(tmp_path / "srvgg.onnx", *graph(scale, swapped=swapped), channels=3)
    image = drawing(70, 61, 3).astype(np.float32)
    with Engine(path, provider="cpu") as e:
        expected = e.upscale(image)
    with Engine(path, tile=None, threads=1) as e:
        assert e.provider == "native"
        whole = e.upscale(image)
    assert np.abs(whole - expected).max() < 2e-6
    for tile, threads in ((8, 2), (21, 1), (40, 2), (None, 2)):
        with Engine(path, tile=tile, threads=threads) as e:
            assert np.array_equal(e.upscale(image), whole)


@pytest.mark.parametrize(
    "resize",
    [{"mode": "nearest", "nearest_mode": way} for way in ("round_prefer_floor", "round_prefer_ceil")]
    + [
        {"mode": "nearest"},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ],
)
@pytest.mark.parametrize("scale", [2, 3])
def test_ways_to_repeat_pixels(tmp_path: Path, scale: int, resize: dict[str, Any]) -> None:
    """ONNX Runtime repeats them, too."""
    path = save(tmp_path / "srvgg.onnx", *graph(scale, resize=resize), channels=3)
    image = drawing(20, 31, 3).astype(np.float32)
    with Engine(path, provider="native") as native, Engine(path, provider="cpu") as cpu:
        assert np.abs(native.upscale(image) - cpu.upscale(image)).max() < 2e-6


@pytest.mark.parametrize(
    "made, why",
    [
        (graph(2, resize={"mode": "nearest", "nearest_mode": "ceil"}), "Resize '' is not"),
        (graph(2, resize={"mode": "linear"}), "Resize '' is not"),
        (
            graph(2, resize={"mode": "nearest", "coordinate_transformation_mode": "align_corners"}),
            "Resize ''",
        ),
        (graph(1, pads=0), "what is added to its result is not its input at the same size"),
        (graph(1, pads=2), "is not padded as all layers, by one pixel or not at all"),
    ],
)
def test_what_is_no_chain(made: Any, why: str) -> None:
    found = conv_chain.find(model(*made, channels=3))
    assert isinstance(found, str) and why in found, found


def test_layers_that_do_not_all_pad_are_no_chain() -> None:
    nodes, values = graph(1)
    del nodes[2].attribute[:]
    found = conv_chain.find(model(nodes, values, channels=3))
    assert found == "Conv '' is not padded as all layers, by one pixel or not at all"
