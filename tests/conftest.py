"""Images that tests draw themselves, and small models."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from srcnn_rt.execution import self_check
from tests.helpers import models
from tests.helpers.reference import quantise

# A shell has its background jobs ignore Ctrl-C; here they are asked what they do then.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A failure there shows its values too.
pytest.register_assert_rewrite("tests.hostile", "tests.imagegraphs", "tests.rewriting")

TEST_MODEL = "srcnn-915-x2"


def drawing(h: int, w: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """An (H, W, C) float64 image in [0, 1]: gradients, discs, stripes, a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    planes = []
    for c in range(channels):
        plane = 0.3 + 0.3 * np.sin(x / (5 + c)) * np.cos(y / (7 - c % 5))
        for _ in range(5):
            cy, cx, r = rng.uniform(0, h), rng.uniform(0, w), rng.uniform(2, 2 + min(h, w) / 3)
            plane[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = rng.uniform()
        planes.append(plane + rng.normal(0, 0.02, plane.shape))
    return np.clip(np.stack(planes, axis=-1), 0, 1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's measurements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRCNN_RT_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Tests break models on purpose, and see for themselves what comes of it.
        patch.setattr(self_check, "MAX_MACS", 0)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four RGB images, 70 pixels wide."""
    import cv2

    folder = tmp_path_factory.mktemp("images")
    for k in range(4):
        cv2.imwrite(str(folder / f"{k}.png"), quantise(drawing(61 + k, 70, 3, k), np.uint8))
    return folder


@pytest.fixture(scope="session")
def integer_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, object]]]:
    """Return a maker of exact models: (scale, sizes, channels) → file, and its parts for the oracle."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[tuple[object, ...], tuple[Path, dict[str, object]]] = {}

    def make(scale: int, sizes: tuple[int, ...] = (9, 1, 5), channels: int = 1, seed: int = 0):
        key = (scale, sizes, channels, seed)
        if key not in made:
            rng = np.random.default_rng([seed, scale, *sizes, channels])
            layers = models.integer_layers(rng, sizes, channels)
            kernel = models.enlarging_kernel(rng, scale)
            shrink = sum(k // 2 for k in sizes)
            margin = 2 + math.ceil(shrink / scale)
            path = folder / ("-".join(map(str, (scale, *sizes, channels, seed))) + ".onnx")
            models.srcnn_like(path, scale, layers, kernel, (margin - 2) * scale - shrink, channels)
            made[key] = path, {"layers": layers, "kernel": kernel, "shrink": shrink, "margin": margin}
        return made[key]

    return make
