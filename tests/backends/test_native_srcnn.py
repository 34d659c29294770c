"""SRCNN in the native backend's kernels against its definition in float64, for every instruction set here.

`make sanitize` runs this file with sanitizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

_conv = pytest.importorskip("srcnn_rt._conv", reason="this build has no native backend")

from srcnn_rt.backends import srcnn_kernel  # noqa: E402
from srcnn_rt.backends.aligned import aligned_zeros  # noqa: E402
from srcnn_rt.models import srcnn_chain  # noqa: E402
from tests.helpers.models import model, node  # noqa: E402
from tests.helpers.reference import convolve  # noqa: E402

ISAS = _conv.instruction_sets()
ENLARGING = 5  # taps of the enlargement per side


@dataclass(frozen=True)
class Case:
    """A network: scale, channels, kernels and filters of its layers, and its weights."""

    scale: int
    inputs: int
    kernels: tuple[int, int, int]
    filters: tuple[int, int]
    outputs: int
    seed: int
    whole: bool = False

    @property
    def crop(self) -> tuple[int, int]:
        """HR pixels to crop from an enlarged image, so that the margin is whole and equal on both sides."""
        if self.scale == 1:
            return 0, 0
        lost = self.scale * (ENLARGING - 1) + sum(self.kernels) - 3
        fill = -lost % (2 * self.scale)
        return fill // 2, fill - fill // 2

    @property
    def margin(self) -> int:
        enlarged = self.scale * (ENLARGING - 1) + sum(self.crop) if self.scale > 1 else 0
        return (enlarged + sum(self.kernels) - 3) // (2 * self.scale)

    def weights(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        (k1, k2, k3), (n1, n2) = self.kernels, self.filters
        shapes = {"w1": (n1, self.inputs, k1, k1), "w2": (n2, n1, k2, k2), "w3": (self.outputs, n2, k3, k3)}
        if self.scale > 1:
            shapes["enlarge"] = (self.inputs * self.scale**2, 1, ENLARGING, ENLARGING)
        shapes |= {"b1": (n1,), "b2": (n2,), "b3": (self.outputs,)}
        if self.whole:
            return {k: rng.integers(-2, 3, s).astype(np.float32) for k, s in shapes.items()}
        return {k: rng.normal(0, np.prod(s[1:]) ** -0.5, s).astype(np.float32) for k, s in shapes.items()}

    def model(self) -> Any:
        nodes, at = [], "lr"
        if self.scale > 1:
            top, bottom = self.crop
            nodes = [
                node("Conv", ["lr", "enlarge"], ["phases"], group=self.inputs),
                node("DepthToSpace", ["phases"], ["enlarged"], blocksize=self.scale, mode="CRD"),
                node("Slice", ["enlarged", "starts", "ends", "axes"], ["cropped"]),
            ]
            at = "cropped"
        nodes += [
            node("Conv", [at, "w1", "b1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "w2", "b2"], ["c"]),
            node("Relu", ["c"], ["d"]),
            node("Conv", ["d", "w3", "b3"], ["hr"]),
        ]
        top, bottom = self.crop
        slices = {
            "starts": np.array([top, top]),
            "ends": np.array([-bottom or 2**62] * 2),
            "axes": np.array([2, 3]),
        }
        return model(nodes, self.weights() | (slices if self.scale > 1 else {}), channels=self.inputs)

    def oracle(self, window: np.ndarray) -> np.ndarray:
        """The result in float64, from the definition of each operator."""
        w, x, s = self.weights(), window.astype(np.float64), self.scale
        if s > 1:
            grown = np.empty((len(x), *((n - ENLARGING + 1) * s for n in x.shape[1:])))
            for c, plane in enumerate(x):
                for k in range(s * s):
                    kernel = w["enlarge"][c * s * s + k][None]
                    grown[c, k // s :: s, k % s :: s] = convolve(plane[None], kernel, None)[0]
            top, bottom = self.crop
            x = grown[:, top : grown.shape[1] - bottom, top : grown.shape[2] - bottom]
        x = np.maximum(convolve(x, w["w1"], w["b1"]), 0)
        x = np.maximum(convolve(x, w["w2"], w["b2"]), 0)
        return convolve(x, w["w3"], w["b3"])


class Kernels:
    """The compiled network of a case."""

    def __init__(self, case: Case, isa: str) -> None:
        chain = srcnn_chain.find(case.model())
        assert not isinstance(chain, str), chain
        assert srcnn_kernel.why_not(chain, _conv.MAX_N2) is None
        self.case, self.period = case, srcnn_kernel.period(chain)
        self.extra = srcnn_kernel.extra_margin(chain, case.margin)
        self.margin = case.margin + self.extra
        self.compiled = _conv.Srcnn(isa, self.margin, *srcnn_kernel.packed(chain, self.extra, ISAS[isa]))

    def run(
        self,
        window: np.ndarray,
        edges: tuple[int, ...] = (),
        memory: np.ndarray | None = None,
        stop: int = 0,
    ) -> np.ndarray:
        """Run on a (C, h, w) window, in strips of rows between `edges`."""
        h, w = (n - 2 * self.margin for n in window.shape[1:])
        s = self.case.scale
        out = np.full((self.case.outputs, h * s, w * s), np.nan, np.float32)
        edges = (0, *edges, h)
        ended = False
        for top, bottom in pairwise(edges):
            rows = bottom - top + 2 * self.margin
            size = self.compiled.samples(rows, window.shape[2])
            scratch = aligned_zeros(size) if memory is None else memory[:size]
            ended |= self.compiled.run(window, out, top, rows, scratch, np.full(1, stop, np.int32))
        assert ended == bool(stop)
        return out

    def window(self, tile: tuple[int, int], seed: int = 0) -> np.ndarray:
        shape = (self.case.inputs, *(n * self.period + 2 * self.margin for n in tile))
        return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)

    def inner(self, window: np.ndarray) -> np.ndarray:
        """What the network itself reads."""
        e, (h, w) = self.extra, window.shape[1:]
        return window[:, e : h - e, e : w - e]


def close(got: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(got - expected).max() < 2e-6 * max(1, np.abs(expected).max()))


cases = st.builds(
    Case,
    scale=st.integers(1, 4),
    inputs=st.sampled_from([1, 3]),
    kernels=st.tuples(st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 3, 5])).filter(
        lambda k: sum(k) % 2 == 1
    ),
    filters=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    outputs=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)


@settings(deadline=None, max_examples=60)
@given(case=cases, isa=st.sampled_from(sorted(ISAS)), tile=st.tuples(st.integers(1, 4), st.integers(1, 9)))
@example(Case(2, 1, (9, 5, 5), (64, 32), 1, 0), "generic", (2, 20))
@example(Case(4, 1, (9, 3, 5), (64, 64), 1, 0), "generic", (1, 1))
@example(Case(1, 3, (9, 1, 5), (64, 32), 3, 0), "generic", (3, 3))
def test_kernels_compute_the_definition(case: Case, isa: str, tile: tuple[int, int]) -> None:
    kernels = Kernels(case, isa)
    window = kernels.window(tile, case.seed)
    assert close(kernels.run(window), case.oracle(kernels.inner(window)))


@pytest.mark.parametrize("isa", sorted(ISAS))
@pytest.mark.parametrize("name", [(9, 1, 5), (9, 3, 5), (9, 5, 5)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_papers_networks(isa: str, name: tuple[int, int, int], scale: int) -> None:
    """Several FFT tiles and batches of them, and widths that fill no vector."""
    kernels = Kernels(Case(scale, 1, name, (64, 32), 1, 1), isa)
    window = kernels.window((2, -(-200 // (scale * kernels.period))))
    expected = kernels.case.oracle(kernels.inner(window))
    assert close(kernels.run(window), expected)


@pytest.mark.parametrize("isa", sorted(ISAS))
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_integers_are_exact_without_a_transform(isa: str, scale: int) -> None:
    kernels = Kernels(Case(scale, 1, (9, 1, 5), (20, 12), 1, 0, whole=True), isa)
    window = np.rint(kernels.window((5, 30)) * 2).astype(np.float32)
    expected = kernels.case.oracle(kernels.inner(window))
    assert np.abs(expected).max() > 1000
    assert (kernels.run(window) == expected.astype(np.float32)).all()


@settings(deadline=None, max_examples=40)
@given(case=cases, isa=st.sampled_from(sorted(ISAS)), data=st.data())
@example(Case(2, 1, (9, 5, 5), (64, 32), 1, 0), "generic", None)
@example(Case(4, 1, (9, 5, 5), (64, 32), 1, 0), "generic", None)
def test_a_sample_does_not_depend_on_its_window(case: Case, isa: str, data: st.DataObject | None) -> None:
    """Bit for bit, in windows that start at multiples of the period and in strips of rows."""
    kernels = Kernels(case, isa)
    p, s, around = kernels.period, case.scale, 2 * kernels.margin
    rows, columns = 3, 7
    window = kernels.window((rows, columns), case.seed) * 30 + 100
    whole = kernels.run(window)
    assert (kernels.run(window, (p, 2 * p)) == whole).all()
    spans = [(y, 3, x, 7) for y in range(2) for x in (0, 1, 5)]
    if data is not None:
        y0, x0 = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
        spans = [(y0, data.draw(st.integers(y0 + 1, rows)), x0, data.draw(st.integers(x0 + 1, columns)))]
    for y0, y1, x0, x1 in spans:
        part = np.ascontiguousarray(window[:, y0 * p : y1 * p + around, x0 * p : x1 * p + around])
        assert (kernels.run(part) == whole[:, y0 * p * s : y1 * p * s, x0 * p * s : x1 * p * s]).all()


@pytest.mark.parametrize("isa", sorted(ISAS))
@pytest.mark.parametrize("second", [1, 5])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_memory_of_an_earlier_run_does_not_matter(isa: str, second: int, scale: int) -> None:
    """A later run reads no sample that an earlier one left, even not a number."""
    kernels = Kernels(Case(scale, 1, (9, second, 5), (32, 16), 1, 2), isa)
    window = kernels.window((2, 3))
    expected = kernels.run(window)
    memory = aligned_zeros(kernels.compiled.samples(*window.shape[1:]))
    assert np.isnan(kernels.run(np.full_like(window, np.nan), memory=memory)).all()
    assert (kernels.run(window, memory=memory) == expected).all()


def test_a_run_can_be_stopped() -> None:
    kernels = Kernels(Case(2, 1, (9, 5, 5), (16, 16), 1, 0), next(iter(ISAS)))
    assert np.isnan(kernels.run(kernels.window((1, 1)), stop=1)).all()


@pytest.mark.parametrize("kernel", range(9))
@pytest.mark.parametrize("change", ["sign", "turn"])
def test_a_wrong_kernel_of_the_fast_filter_is_caught(monkeypatch: Any, kernel: int, change: str) -> None:
    real = srcnn_kernel._first

    def wrong(*args: Any) -> np.ndarray:
        found = real(*args).copy()
        one = found[:, kernel]
        found[:, kernel] = -one if change == "sign" else one.swapaxes(2, 3)
        return found

    case = Case(2, 1, (9, 1, 5), (16, 16), 1, 0)
    monkeypatch.setattr(srcnn_kernel, "_first", wrong)
    kernels = Kernels(case, next(iter(ISAS)))
    window = kernels.window((3, 9))
    assert not close(kernels.run(window), case.oracle(kernels.inner(window)))


@pytest.mark.parametrize("place", [0, 1, 2, 24, 46, 381])
def test_a_wrong_place_of_the_spectrum_is_caught(monkeypatch: Any, place: int) -> None:
    real = srcnn_kernel._second

    def wrong(*args: Any) -> np.ndarray:
        found = real(*args).copy()
        found[place] *= -1
        return found

    case = Case(2, 1, (9, 5, 5), (16, 16), 1, 0)
    monkeypatch.setattr(srcnn_kernel, "_second", wrong)
    kernels = Kernels(case, next(iter(ISAS)))
    window = kernels.window((1, 2))
    assert not close(kernels.run(window), case.oracle(kernels.inner(window)))


@pytest.mark.parametrize(
    "kernels, filters, why",
    [
        ((9, 7, 5), (8, 8), "its second layer is 7x7, more than 5x5"),
        ((9, 5, 7), (8, 8), "its last layer is 7x7, not one of 1x1, 3x3, 5x5"),
        ((9, 5, 5), (257, 8), "its first layer has 257 filters, more than 256"),
        ((9, 5, 5), (8, 65), "its second layer has 65 filters, more than 64"),
    ],
)
def test_networks_beyond_the_kernels(kernels: Any, filters: Any, why: str) -> None:
    chain = srcnn_chain.find(Case(2, 1, kernels, filters, 1, 0).model())
    assert not isinstance(chain, str)
    assert srcnn_kernel.why_not(chain, _conv.MAX_N2) == why


@pytest.mark.parametrize(
    "at, replacement, why",
    [
        (4, node("Sigmoid", ["a"], ["b"]), "Sigmoid '' is not ReLU"),
        (
            3,
            node("Conv", ["cropped", "w1", "b1"], ["a"], strides=[2, 2]),
            "DepthToSpace is not an enlargement",
        ),
        (5, node("Conv", ["b", "w2", "b2"], ["c"], pads=[1, 1, 1, 1]), "is not a plain convolution"),
        (7, node("Conv", ["d", "w3", "b3"], ["hr"], dilations=[2, 2]), "is not a plain convolution"),
        (5, node("Relu", ["b"], ["c"]), "Relu '' is not a plain convolution with a square kernel"),
        (7, node("Relu", ["d"], ["hr"]), "Relu '' is not a plain convolution with a square kernel"),
    ],
)
def test_graphs_that_are_no_srcnn(at: int, replacement: Any, why: str) -> None:
    graph = Case(2, 1, (9, 5, 5), (8, 8), 1, 0).model()
    graph.graph.node[at].CopyFrom(replacement)
    found = srcnn_chain.find(graph)
    assert isinstance(found, str)
    assert why in found


def test_four_layers_and_a_large_scale_are_no_srcnn() -> None:
    graph = Case(1, 1, (9, 5, 5), (8, 8), 1, 0).model()
    del graph.graph.node[-1]
    graph.graph.node[-1].output[0] = "hr"
    assert srcnn_chain.find(graph) == "it is not a chain of three convolutions"
    assert srcnn_chain.find(Case(5, 1, (9, 5, 5), (8, 8), 1, 0).model()) == "its scale is 5, more than 4"
