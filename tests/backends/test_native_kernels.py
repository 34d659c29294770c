"""The native backend's kernels against convolutions from their definition, for every instruction set here.

`make sanitize` runs this file with sanitizers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

_conv = pytest.importorskip("srcnn_rt._conv", reason="this build has no native backend")

from srcnn_rt.backends import chain_kernel  # noqa: E402
from srcnn_rt.backends.aligned import aligned_zeros  # noqa: E402
from srcnn_rt.models.conv_chain import Chain, Layer  # noqa: E402
from tests.helpers.reference import convolve  # noqa: E402

ISAS = _conv.instruction_sets()


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


def opened(isa: str, chain: list[Layer], scale: int, padded: bool = False, added: bool = False) -> Any:
    packed = chain_kernel.packed(Chain(tuple(chain), scale), ISAS[isa])
    return _conv.Chain(isa, packed, scale, padded, added)


def inner(chain: list[Layer], window: np.ndarray) -> np.ndarray:
    """The part of a window that has a part in the result but for rounding."""
    extra = opened("generic", chain, 1).margin - len(chain)
    h, w = window.shape[1:]
    return window[:, extra : h - extra, extra : w - extra]


def drawn(chain: list[Layer], core: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A window of a result of `core` LR pixels."""
    around = 2 * opened("generic", chain, 1).margin
    size = (chain[0].weight.shape[1], core[0] + around, core[1] + around)
    return np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)


def run(
    isa: str, chain: list[Layer], scale: int, window: np.ndarray, parts: int = 1, stop: int = 0
) -> np.ndarray:
    """Run the kernels on a (C, h, w) window, in `parts` strips of rows."""
    kernels = opened(isa, chain, scale)
    shrink = 2 * kernels.margin
    h, w = (n - shrink for n in window.shape[1:])
    out = np.full((len(chain[-1].weight) // scale**2, h * scale, w * scale), np.nan, np.float32)
    memory = aligned_zeros(kernels.samples(*window.shape[1:]))
    ended = False
    for k in range(parts):
        top, bottom = h * k // parts // 2 * 2, h * (k + 1) // parts // 2 * 2
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
    core=st.tuples(st.integers(1, 5), st.integers(1, 30)),
    seed=st.integers(0, 9),
)
@example("generic", 1, 2, [16, 16], ["prelu"] * 4, (3, 12), 0)
def test_kernels_compute_the_definition(
    isa: str, channels: int, scale: int, widths: list[int], kinds: list[str], core: tuple[int, int], seed: int
) -> None:
    count = len(widths) + 1
    chain = layers([channels, *widths, channels * scale**2], kinds[:count], seed)
    window = drawn(chain, (2 * core[0], 4 * core[1]), seed)
    expected = oracle(chain, scale, inner(chain, window))
    assert np.abs(run(isa, chain, scale, window) - expected).max() < 2e-6 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_the_error_is_that_of_direct_sums(isa: str) -> None:
    """In deep networks, too: at most that of NumPy's sums in float32."""
    chain = layers([1, *[32] * 10, 4], ["prelu"] * 10 + [""], 5)
    window = drawn(chain, (12, 48))
    expected, direct = oracle(chain, 2, inner(chain, window)), inner(chain, window)
    for layer in chain:
        views = np.lib.stride_tricks.sliding_window_view(direct, (3, 3), (1, 2))
        direct = np.einsum("chwyx,ocyx->ohw", views, layer.weight) + layer.bias[:, None, None]
        if layer.slope is not None:
            direct = np.where(direct < 0, direct * layer.slope[:, None, None], direct)
    assert direct.dtype == np.float32
    plain = np.abs(direct[0] - expected[0, ::2, ::2])
    ours = np.abs(run(isa, chain, 2, window) - expected)[0, ::2, ::2]
    assert np.sqrt((ours**2).mean()) < 1.1 * np.sqrt((plain**2).mean())


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_integers_are_exact_in_the_first_layer(isa: str) -> None:
    chain = layers([3, 4], [""], 1, whole=True)
    window = np.random.default_rng(0).integers(0, 8, (3, 30, 62)).astype(np.float32)
    assert (run(isa, chain, 2, window) == oracle(chain, 2, window)).all()


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_a_flat_area_is_exact(isa: str) -> None:
    """However bright: kernels that sum to zero find nothing, and layers without biases keep it."""
    chain = layers([1, 16, 16, 4], ["prelu", "prelu", ""], 4)
    first = np.random.default_rng(0).integers(-9, 10, (16, 1, 3, 3)).astype(np.float32)
    first[:, :, 1, 1] -= first.sum(axis=(2, 3))
    chain[0] = Layer(first / 16, chain[0].bias, chain[0].slope)
    chain = [Layer(layer.weight, np.zeros_like(layer.bias), layer.slope) for layer in chain]
    window = np.full(drawn(chain, (8, 16)).shape, 2999.37, np.float32)
    assert (run(isa, chain, 2, window) == 0).all()


@pytest.mark.parametrize("isa", sorted(ISAS))
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_sample_does_not_depend_on_its_window(isa: str, scale: int) -> None:
    """Bit for bit, wherever on the grid it starts, however wide it is, and in however many strips."""
    chain = layers([3, 16, 16, 40, 3 * scale**2], ["prelu", "prelu", "relu", ""], 2)
    window = 100 + 30 * drawn(chain, (60, 148))
    around = 2 * opened(isa, chain, scale).margin
    whole = run(isa, chain, scale, window)
    for parts in (2, 3, 7):
        assert (run(isa, chain, scale, window, parts) == whole).all()
    rng = np.random.default_rng(1)
    for _ in range(30):
        y0, y1 = sorted(2 * rng.choice(31, 2, replace=False))
        x0, x1 = sorted(4 * rng.choice(38, 2, replace=False))
        part = np.ascontiguousarray(window[:, y0 : y1 + around, x0 : x1 + around])
        assert (
            run(isa, chain, scale, part) == whole[:, y0 * scale : y1 * scale, x0 * scale : x1 * scale]
        ).all()


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_memory_of_an_earlier_run_does_not_matter(isa: str) -> None:
    """A later run reads no sample that an earlier one left, even not a number."""
    chain = layers([1, 8, 8, 4], ["relu", "prelu", ""], 3)
    kernels, window = opened(isa, chain, 2), drawn(chain, (14, 36))
    rows = window.shape[1]
    expected = run(isa, chain, 2, window)
    memory = aligned_zeros(kernels.samples(*window.shape[1:]))
    out = np.empty_like(expected)
    kernels.run(np.full_like(window, np.nan), out, 0, rows, memory, np.zeros(1, np.int32))
    assert np.isnan(out).all()
    kernels.run(window, out, 0, rows, memory, np.zeros(1, np.int32))
    assert (out == expected).all()


def test_a_run_can_be_stopped() -> None:
    chain = layers([1, 8, 4], ["relu", ""], 3)
    out = run(next(iter(ISAS)), chain, 2, drawn(chain, (16, 24)), stop=1)
    assert np.isnan(out).all()


@pytest.mark.parametrize("place", range(24))
def test_a_wrong_product_is_caught(monkeypatch: Any, place: int) -> None:
    """Each of the 24 places has a part in the result."""
    chain = layers([1, 16, 4], ["relu", ""], 6)
    window = drawn(chain, (6, 12))
    expected = oracle(chain, 2, inner(chain, window))
    right = chain_kernel._fast

    def wrong(*args: Any) -> np.ndarray:
        found = right(*args).copy()
        found[place] *= 1.001
        return found

    monkeypatch.setattr(chain_kernel, "_fast", wrong)
    assert np.abs(run(next(iter(ISAS)), chain, 2, window) - expected).max() > 2e-5
