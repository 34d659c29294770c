"""Image graphs that run on the CPU, and comparisons of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from srcnn_rt.image.info import Layout
from srcnn_rt.models.margins import margin_for, rules_for
from srcnn_rt.models.spec import ModelSpec
from srcnn_rt.tiling import geometry
from tests.conftest import drawing
from tests.helpers import reference
from tests.helpers.models import normal, save

node = helper.make_node


@dataclass
class Graph:
    """An image graph, its session on the CPU, its spec and its layout."""

    proto: onnx.ModelProto
    spec: ModelSpec
    layout: Layout

    def __post_init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, **inputs: np.ndarray) -> np.ndarray:
        return self._session.run(None, inputs)[0]

    def tiled(self, image: np.ndarray, tile: int, spoil: Callable[[np.ndarray], None] | None = None):
        """Upscale an image in windows, all in one batch or gathered one by one."""
        margin, s = margin_for(self.spec, self.layout), self.spec.scale
        plan = geometry.plan(image.shape[:2], tile, margin=margin, rules=rules_for(self.spec))
        out = np.zeros((image.shape[0] * s, image.shape[1] * s, image.shape[2]), image.dtype)
        pieces = [t for chunk in plan for t in chunk.tiles]
        at = [
            [
                np.array([reference.mirrored(i + p.origin - margin, n) for i in range(size)])
                for p, n, size in zip((t.y, t.x), image.shape, plan.window, strict=False)
            ]
            for t in pieces
        ]
        if len(self.proto.graph.input) == 3:
            results: Iterable[np.ndarray] = (self.run(image=image, rows=y, columns=x) for y, x in at)
        else:
            windows = np.stack([image[y][:, x] for y, x in at])
            if spoil is not None:
                spoil(windows)
            results = self.run(image=windows)
        for t, result in zip(pieces, results, strict=True):
            (y0, y1), (x0, x1) = ((p.core.start, p.core.stop) for p in (t.y, t.x))
            inside = result[(y0 - t.y.origin) * s :, (x0 - t.x.origin) * s :]
            out[y0 * s : y1 * s, x0 * s : x1 * s] = inside[: (y1 - y0) * s, : (x1 - x0) * s]
        return out


def image_of(shape: tuple[int, int], channels: int, dtype: type, seed: int = 0) -> np.ndarray:
    image = drawing(*shape, channels, seed)
    return image.astype(np.float32) if dtype is np.float32 else reference.quantise(image, dtype)


def assert_same(got: np.ndarray, expected: np.ndarray, layout: Layout, *, minimum: float = 0.999) -> None:
    """Assert a difference of at most one code value or 1e-5; colour is weighted by its alpha."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    white = 1.0 if got.dtype.kind == "f" else float(np.iinfo(got.dtype).max)
    apart = np.abs(got.astype(np.float64) - expected)
    if layout.alpha:
        apart[..., :-1] *= np.clip(expected[..., -1:] / white, 0, 1)
    if got.dtype.kind == "f":
        assert apart.max() <= 1e-5
    else:
        assert apart.max() <= 1
        assert (got == expected).mean() >= minimum or (got != expected).sum() <= 2


def colour(path: Path, channels: int = 3, **more: object) -> Path:
    """Write a padded x1 model that mixes several channels."""
    weight = normal(np.random.default_rng(channels), channels, channels, 5, 5)
    conv = node("Conv", ["lr", "w"], ["hr"], pads=[2] * 4)
    return save(path, [conv], {"w": weight}, channels=channels, **more)
