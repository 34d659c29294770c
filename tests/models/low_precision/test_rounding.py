"""Weights rounded together, and the PSNR that rounding costs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from srcnn_rt.evaluation.metrics import psnr
from srcnn_rt.models import spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.low_precision.loss import loss_db
from srcnn_rt.models.low_precision.rounding import round_together, to_float16
from srcnn_rt.models.optimize import optimise
from srcnn_rt.models.prepare import network_program


def test_sums_stay(rng: np.random.Generator) -> None:
    """A filter that sums to zero hardly responds to an offset a thousand times larger than itself."""
    weight = rng.normal(size=(32, 1, 9, 9))
    weight -= weight.mean(axis=(2, 3), keepdims=True)
    alone, kept = (
        np.abs(w.sum(axis=(2, 3))).max() for w in (to_float16(weight), round_together(weight, to_float16))
    )
    assert kept < alone / 100


def excited(error: np.ndarray) -> np.ndarray:
    """eᵀ R e of every filter, for samples that are 0.95 to their neighbours."""
    kh, kw = error.shape[2:]
    rows, columns = (0.95 ** np.abs(np.subtract.outer(np.arange(k), np.arange(k))) for k in (kh, kw))
    return np.einsum("oiyx,yv,xu,oivu->oi", error, rows, columns, error)


@pytest.mark.parametrize("shape", [(64, 1, 8, 8), (16, 3, 9, 9), (5, 2, 1, 3), (3, 1, 1, 1)])
def test_weights_rounded_together_change_less(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    weight = rng.normal(size=shape) / 255
    before = weight.copy()
    together, alone = round_together(weight, to_float16), to_float16(weight)
    assert np.array_equal(weight, before)
    assert np.array_equal(to_float16(together), together)
    assert np.abs(together - weight).max() <= 2**-8 * np.abs(weight).max()
    a, b = (excited(w - weight).sum() for w in (together, alone))
    if np.prod(shape[2:]) == 1:  # there are no taps to share an error with
        assert np.array_equal(together, alone)
    else:
        assert a < (b if 1 in shape[2:] else b / 2)


@pytest.mark.parametrize("name", [n for n in bundled() if "-915-" in n])
def test_first_layers_of_trained_models_change_less(name: str) -> None:
    proto = optimise(spec.parse(network_program(*spec.load(name)).data))
    found = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    firsts = [found[n.input[1]] for n in proto.graph.node if n.op_type == "Conv"]
    firsts = [w / 255 for w in firsts if w.shape[1] == 1]
    together = sum(excited(round_together(w, to_float16) - w).sum() for w in firsts)
    alone = sum(excited(to_float16(w) - w).sum() for w in firsts)
    assert together < alone / 10


def test_weights_that_are_float16_stay(rng: np.random.Generator) -> None:
    weight = to_float16(rng.normal(size=(4, 2, 5, 5)))
    assert np.array_equal(round_together(weight, to_float16), weight)


@pytest.mark.parametrize("rms", [0.0, 3e-4, 2e-3])
def test_loss_is_that_of_psnr(rms: float, rng: np.random.Generator) -> None:
    truth = rng.random((1500, 1500))
    result = truth + rng.normal(0, 0.012, truth.shape)
    noisy = result + rng.normal(0, rms, truth.shape)
    before, after = (psnr(255 * image, 255 * truth) for image in (result, noisy))
    assert loss_db(rms, before) == pytest.approx(before - after, abs=2e-3)
    assert loss_db(0.0, 38.0) == 0
