"""The native backend's kernels against convolutions from their definition, for every instruction set here.

`make sanitize` runs this file with sanitizers.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

_conv = pytest.importorskip("srcnn_rt._conv", reason="this build has no native backend")

from srcnn_rt.backends.native import _packed  # noqa: E402
from srcnn_rt.models.conv_chain import Layer  # noqa: E402
from tests.helpers.reference import convolve  # noqa: E402

ISAS = {name: block for name, (block, _) in _conv.instruction_sets().items()}


def layers(widths: list[int], kinds: list[str], seed: int, whole: bool = False) -> list[Layer]:
    """Layers with given numbers of channels; `kinds` says which activation follows each."""
    rng = np.random.default_rng(seed)
    found = []
    for inputs, outputs, kind in zip(widths[:-1], widths[1:], kinds, strict=True):
        size = (outputs, inputs, 3, 3)
        weight = rng.integers(-2, 3, size) if whole else rng.normal(0, (9 * inputs) ** -0.5, size)
        bias = rng.integers(-2, 3, outputs) if whole else rng.normal(0, 0.1, outputs)
        slope = {"relu": np.zeros(outputs), "prelu": rng.normal(0, 0.5, outputs), "": None}[kind]
        found.append(Layer(*(a if a is None else a.astype(np.float32) for a in (weight, bias, slope))))
    return found


def oracle(chain: list[Layer], scale: int, window: np.ndarray) -> np.ndarray:
    """The same in float64, with the shuffle written out."""
    x = window.astype(np.float64)
    for layer in chain:
        x = convolve(x, layer.weight, layer.bias)
        if layer.slope is not None:
            x = np.where(x < 0, x * layer.slope.astype(np.float64)[:, None, None], x)
    out = np.empty((len(x) // scale**2, x.shape[1] * scale, x.shape[2] * scale))
    for k, plane in enumerate(x):
        c, phase = divmod(k, scale**2)
        out[c, phase // scale :: scale, phase % scale :: scale] = plane
    return out


def run(
    isa: str, chain: list[Layer], scale: int, window: np.ndarray, parts: int = 1, stop: int = 0
) -> np.ndarray:
    """Run the kernels on a (C, h, w) window, in `parts` strips of rows."""
    kernels = _conv.Chain(isa, [_packed(layer, ISAS[isa]) for layer in chain], scale)
    shrink = 2 * len(chain)
    h, w = (n - shrink for n in window.shape[1:])
    out = np.full((len(chain[-1].weight) // scale**2, h * scale, w * scale), np.nan, np.float32)
    memory = np.zeros(kernels.samples(*window.shape[1:]), np.float32)
    ended = False
    for k in range(parts):
        top, bottom = h * k // parts, h * (k + 1) // parts
        ended |= kernels.run(
            window, out, top, bottom - top + shrink, memory, np.full(1, stop, np.int32)
        )  # fmt: skip
    assert ended == bool(stop)
    return out


@settings(deadline=None, max_examples=60)
@given(
    isa=st.sampled_from(sorted(ISAS)),
    channels=st.sampled_from([1, 3]),
    scale=st.integers(1, 4),
    widths=st.lists(st.integers(1, 20), max_size=3),
    kinds=st.lists(st.sampled_from(["relu", "prelu", ""]), min_size=4, max_size=4),
    core=st.tuples(st.integers(1, 9), st.integers(1, 70)),
    seed=st.integers(0, 9),
)
@example("generic", 1, 2, [16, 16], ["prelu"] * 4, (3, 48), 0)
def test_kernels_compute_the_definition(
    isa: str, channels: int, scale: int, widths: list[int], kinds: list[str], core: tuple[int, int], seed: int
) -> None:
    count = len(widths) + 1
    chain = layers([channels, *widths, channels * scale**2], kinds[:count], seed)
    window = np.random.default_rng(seed).normal(0, 1, (channels, core[0] + 2 * count, core[1] + 2 * count))
    window = window.astype(np.float32)
    expected = oracle(chain, scale, window)
    assert np.abs(run(isa, chain, scale, window) - expected).max() < 2e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_integers_are_exact(isa: str) -> None:
    chain = layers([1, 11, 5, 4], ["relu", "relu", ""], 1, whole=True)
    window = np.random.default_rng(0).integers(0, 8, (1, 30, 61)).astype(np.float32)
    assert (run(isa, chain, 2, window) == oracle(chain, 2, window)).all()


@pytest.mark.parametrize("isa", sorted(ISAS))
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_sample_does_not_depend_on_its_window(isa: str, scale: int) -> None:
    """Bit for bit, wherever it starts, however wide it is, and in however many strips it is computed."""
    chain = layers([3, 16, 16, 3 * scale**2], ["prelu", "prelu", ""], 2)
    window = np.random.default_rng(0).normal(100, 30, (3, 60, 150)).astype(np.float32)
    whole = run(isa, chain, scale, window)
    for parts in (2, 3, 7):
        assert (run(isa, chain, scale, window, parts) == whole).all()
    rng = np.random.default_rng(1)
    for _ in range(30):
        (y0, y1), (x0, x1) = (sorted(rng.choice(n, 2, replace=False)) for n in (55, 145))
        part = np.ascontiguousarray(window[:, y0 : y1 + 6, x0 : x1 + 6])
        assert (
            run(isa, chain, scale, part) == whole[:, y0 * scale : y1 * scale, x0 * scale : x1 * scale]
        ).all()


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_memory_of_an_earlier_run_does_not_matter(isa: str) -> None:
    """A later run reads no sample that an earlier one left, even not a number."""
    chain = layers([1, 8, 4], ["relu", ""], 3)
    kernels = _conv.Chain(isa, [_packed(layer, ISAS[isa]) for layer in chain], 2)
    window = np.random.default_rng(0).normal(0, 1, (1, 20, 37)).astype(np.float32)
    expected = run(isa, chain, 2, window)
    memory = np.zeros(kernels.samples(20, 37), np.float32)
    out = np.empty_like(expected)
    kernels.run(np.full_like(window, np.nan), out, 0, 20, memory, np.zeros(1, np.int32))
    assert np.isnan(out).all()
    kernels.run(window, out, 0, 20, memory, np.zeros(1, np.int32))
    assert (out == expected).all()


def test_a_run_can_be_stopped() -> None:
    chain = layers([1, 8, 4], ["relu", ""], 3)
    out = run(next(iter(ISAS)), chain, 2, np.zeros((1, 20, 30), np.float32), stop=1)
    assert np.isnan(out).all()
