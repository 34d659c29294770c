"""What a network's first layer looks for (paper §4.3, its figure of the first-layer filters).

Neighbouring samples of an image are alike, those of an enlarged one even more, so a filter's weights do not
show what it answers to: most of their energy lies in directions that hardly any image has. `as_seen` shows
a filter as it is to images, ``w · C^½`` with the covariance C of their patches: its weights where samples
were not alike (whitening, as in Bell and Sejnowski's "The independent components of natural scenes", 1997).
Two filters that differ only in what no image has look the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..models import spec
from ..models.low_precision.loss import drawn
from ..tiling import kernels

if TYPE_CHECKING:
    from onnx import GraphProto

Kind = Literal["Gaussian", "Laplacian", "edge", "texture", "dead"]

_DEAD = 0.02  # of the strongest filter's standard deviation
_ROUND = 0.5  # part of the energy that the mean over rings explains in a round filter
_ONE_SIGN = 0.5  # |sum| over sum of absolutes from which a filter smooths
_IMAGES, _SIDE = 4, 128  # drawn ones, for the covariance of patches
_DIRECTED = 0.4  # coherence of the spectrum from which a filter has a direction


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of the first layer.

    Attributes
    ----------
    index : its channel in the model
    weights : (C, k, k) as images see them, or as the model has them
    variance : over all of these
    kind : what it looks like
    angle : of an edge: the direction across which it differentiates, degrees in [0, 180)
        from the x axis toward y (down); None for other kinds
    """

    index: int
    weights: NDArray[np.float32]
    variance: float
    kind: Kind
    angle: float | None


def first_layer(model: str | Path, *, plain: bool = False) -> tuple[str, list[Filter]]:
    """Return a model's name and its first learned filters, largest variance first.

    Parameters
    ----------
    plain : the weights as the model has them, not as images see them

    Raises
    ------
    SourceMissingError, ModelError
        Also where no convolution larger than 1 x 1 has its weights in the file.
    """
    import onnx
    from onnx import numpy_helper

    data, name = spec.read(model)
    graph = onnx.load_model_from_string(data).graph
    stored = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in stored or node.input[1] == "bicubic.weight":
            continue
        weights = numpy_helper.to_array(stored[node.input[1]])
        if weights.ndim == 4 and min(weights.shape[2:]) > 1:
            weights = weights.astype(np.float32)
            if not plain:
                weights = as_seen(weights, _enlarged(graph))
            order = np.argsort([-float(w.var()) for w in weights], kind="stable")
            strongest = max(float(w.std()) for w in weights)
            return name, [_describe(int(k), weights[k], strongest) for k in order]
    raise ModelError(f"{name}: no convolution larger than 1 x 1 with weights in the file")


def as_seen(weights: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """Return filters as they are to images: ``w · C^½``.

    Parameters
    ----------
    weights : (n, C, k, k); channels are taken as independent
    scale : by which the images are enlarged by bicubic before the layer reads them
    """
    size = weights.shape[2] * weights.shape[3]
    total = np.zeros((size, size))
    for seed in range(_IMAGES):
        image = kernels.enlarge(drawn(_SIDE, seed)[None, None], scale)[0, 0].astype(np.float64)
        patches = np.lib.stride_tricks.sliding_window_view(image, weights.shape[2:]).reshape(-1, size)
        patches = patches - patches.mean(axis=1, keepdims=True)
        total += patches.T @ patches / (_IMAGES * len(patches))
    values, vectors = np.linalg.eigh(total)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    # The mean of a patch is left out above: to a filter that sees it, it is as much as what varies most.
    root += math.sqrt(float(values[-1])) / size
    return np.asarray(weights.reshape(-1, size) @ root, np.float32).reshape(weights.shape)


def _enlarged(graph: GraphProto) -> int:
    """Return the scale of the bicubic that a graph of this package begins with, 1 without it."""
    for node in graph.node:
        if node.op_type == "DepthToSpace" and node.input[0] == "bicubic.phases":
            return int(next(a.i for a in node.attribute if a.name == "blocksize"))
    return 1


def _describe(index: int, weights: NDArray[np.float32], strongest: float) -> Filter:
    kind, angle = classify(weights.astype(np.float64), strongest)
    return Filter(index, weights, float(weights.var()), kind, angle)


def classify(weights: NDArray[np.float64], strongest: float) -> tuple[Kind, float | None]:
    """Say what a filter looks like.

    Parameters
    ----------
    weights : (C, k, k); of several channels the one with the most energy decides
    strongest : largest standard deviation of any filter of the layer

    Returns
    -------
    The kind, and an edge's angle in degrees.
    """
    if float(weights.std()) < _DEAD * strongest or not weights.any():
        return "dead", None
    w = weights[int((weights**2).sum(axis=(1, 2)).argmax())]
    y, x = (np.indices(w.shape).T - (np.array(w.shape) - 1) / 2).T
    ring = np.rint(np.hypot(y, x)).astype(int)
    mean = np.bincount(ring.ravel(), w.ravel()) / np.bincount(ring.ravel())
    energy = float((w**2).sum())
    round_ = float((mean[ring] ** 2).sum()) >= _ROUND * energy
    if round_ and abs(float(w.sum())) > _ONE_SIGN * float(np.abs(w).sum()):
        return "Gaussian", None
    coherence, angle = _direction(w)
    if coherence >= _DIRECTED:
        return "edge", angle
    return ("Laplacian" if round_ else "texture"), None


def _direction(w: NDArray[np.float64]) -> tuple[float, float]:
    """How much the spectrum of (k, k) weights lies along one line, 0 to 1, and its angle in degrees."""
    size = 4 * max(w.shape)
    power = np.abs(np.fft.fft2(w - w.mean(), (size, size))) ** 2
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    xx, yy, xy = (float((power * a * b).sum()) for a, b in ((fx, fx), (fy, fy), (fx, fy)))
    coherence = math.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-300)
    return coherence, math.degrees(0.5 * math.atan2(2 * xy, xx - yy)) % 180
