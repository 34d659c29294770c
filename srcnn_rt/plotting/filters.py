"""Filters of a network's first layer and their classification (§4.3 of the SRCNN paper).

Neighbouring samples of an image are correlated, those of an upscaled image even more. A filter's raw
weights therefore do not show what it responds to: most of their energy lies in directions that images
hardly contain. `whitened` returns a filter w as it acts on whitened patches, ``w · C^½`` with the
covariance C of image patches (Bell and Sejnowski, "The independent components of natural scenes", 1997).
Filters that respond alike to images then look alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, numpy_helper

from ..errors import ModelError
from ..models import spec
from ..models.low_precision.loss import synthetic_image
from ..tiling import kernels

Kind = Literal["Gaussian", "Laplacian", "edge", "texture", "dead"]

# Thresholds of the classification.
_DEAD = 0.02  # largest standard deviation of a dead filter, relative to the strongest filter
_MIN_ROUND = 0.5  # share of the energy that the mean over rings explains in a round filter
_MIN_SMOOTHING = 0.5  # |sum| over sum of absolute weights of a smoothing filter
_MIN_COHERENCE = 0.4  # of the spectrum of an edge filter
_IMAGES, _SIDE = 4, 128  # synthetic images for the covariance of patches


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of the first layer.

    Attributes
    ----------
    index : int
        Output channel in the model.
    weights : ndarray, shape (C, k, k)
        Raw or whitened.
    variance : float
        Variance of `weights`.
    kind : {"Gaussian", "Laplacian", "edge", "texture", "dead"}
    angle : float or None
        Direction of an edge's gradient, in degrees in [0, 180) from the x axis towards y (down).
    """

    index: int
    weights: NDArray[np.float32]
    variance: float
    kind: Kind
    angle: float | None


def first_layer(model: str | Path, *, plain: bool = False) -> tuple[str, list[Filter]]:
    """Return the filters of a model's first convolution larger than 1 x 1, largest variance first.

    Parameters
    ----------
    model : str or Path
        Bundled name or ONNX file.
    plain : bool
        Whether to return the raw weights instead of whitened ones.

    Returns
    -------
    name : str
    filters : list of Filter

    Raises
    ------
    SourceMissingError, ModelError
        If the model cannot be read or has no such convolution.
    """
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
                weights = whitened(weights, _bicubic_scale(graph))
            strongest = max(float(w.std()) for w in weights)
            found = [
                Filter(k, w, float(w.var()), *classify(w.astype(np.float64), strongest))
                for k, w in enumerate(weights)
            ]
            return name, sorted(found, key=lambda f: -f.variance)
    raise ModelError(f"{name}: no convolution larger than 1 x 1 with weights in the file")


def whitened(weights: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """Return filters as they act on whitened image patches: ``w · C^½`` with the patches' covariance C.

    Parameters
    ----------
    weights : ndarray, shape (n, C, k, k)
        Channels are treated as independent.
    scale : int
        Scale factor of the bicubic upscaling in front of the layer.
    """
    size = weights.shape[2] * weights.shape[3]
    total = np.zeros((size, size))
    for seed in range(_IMAGES):
        image = kernels.enlarge(synthetic_image(_SIDE, seed)[None, None], scale)[0, 0].astype(np.float64)
        patches = np.lib.stride_tricks.sliding_window_view(image, weights.shape[2:]).reshape(-1, size)
        patches = patches - patches.mean(axis=1, keepdims=True)
        total += patches.T @ patches / (_IMAGES * len(patches))
    values, vectors = np.linalg.eigh(total)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    # The patches' mean is subtracted above; it is weighted like the direction of the largest variance.
    root += math.sqrt(float(values[-1])) / size
    return np.asarray(weights.reshape(-1, size) @ root, np.float32).reshape(weights.shape)


def _bicubic_scale(graph: GraphProto) -> int:
    """Return the scale of the bicubic upscaling that a graph of this package begins with, or 1."""
    for node in graph.node:
        if node.op_type == "DepthToSpace" and node.input[0] == "bicubic.phases":
            return int(next(a.i for a in node.attribute if a.name == "blocksize"))
    return 1


def classify(weights: NDArray[np.float64], strongest: float) -> tuple[Kind, float | None]:
    """Classify a filter by its shape.

    Parameters
    ----------
    weights : ndarray, shape (C, k, k)
        The channel with the most energy decides.
    strongest : float
        Largest standard deviation of any filter of the layer.

    Returns
    -------
    kind : {"Gaussian", "Laplacian", "edge", "texture", "dead"}
    angle : float or None
        Angle of an edge in degrees.
    """
    if float(weights.std()) < _DEAD * strongest or not weights.any():
        return "dead", None
    w = weights[int((weights**2).sum(axis=(1, 2)).argmax())]
    y, x = (np.indices(w.shape).T - (np.array(w.shape) - 1) / 2).T
    ring = np.rint(np.hypot(y, x)).astype(int)
    mean = np.bincount(ring.ravel(), w.ravel()) / np.bincount(ring.ravel())
    energy = float((w**2).sum())
    round_ = float((mean[ring] ** 2).sum()) >= _MIN_ROUND * energy
    if round_ and abs(float(w.sum())) > _MIN_SMOOTHING * float(np.abs(w).sum()):
        return "Gaussian", None
    coherence, angle = _direction(w)
    if coherence >= _MIN_COHERENCE:
        return "edge", angle
    return ("Laplacian" if round_ else "texture"), None


def _direction(w: NDArray[np.float64]) -> tuple[float, float]:
    """Return the coherence of the spectrum of (k, k) weights, 0 to 1, and its angle in degrees."""
    size = 4 * max(w.shape)
    power = np.abs(np.fft.fft2(w - w.mean(), (size, size))) ** 2
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    xx, yy, xy = (float((power * a * b).sum()) for a, b in ((fx, fx), (fy, fy), (fx, fy)))
    coherence = math.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-300)
    return coherence, math.degrees(0.5 * math.atan2(2 * xy, xx - yy)) % 180
