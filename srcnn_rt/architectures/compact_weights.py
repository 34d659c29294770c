"""Weights of compact networks, read from checkpoints and from ONNX models of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ModelError
from ..models import spec
from . import checkpoints
from .compact import Compact

_KERNEL = re.compile(r"blocks\.[0-9]+\.weight")


def find(loaded: object) -> Compact | None:
    """Return the compact network in the content of a checkpoint, None if it is another network.

    Parameters
    ----------
    loaded : object
        Result of `checkpoints.load`.
    """
    for weights in checkpoints.without_prefixes(checkpoints.tensors(loaded)):
        if (network := _from_weights(weights)) is not None:
            return network.eval()
    return None


def read(source: str) -> Compact:
    """Read a compact network from a checkpoint, from an ONNX file that this package exported, or by name.

    Raises
    ------
    SourceMissingError, ModelError
        If the source cannot be read or is not a compact network.
    """
    if spec.is_model(source):
        network = _from_weights(_unfolded(source))
    else:
        network = find(checkpoints.load(Path(source)))
    if network is None:
        raise ModelError(f"{source}: not a compact network of this package")
    return network


def _unfolded(name: str) -> dict[str, Tensor]:
    """Return the state dict without branches of an exported model."""
    from onnx import numpy_helper

    weights = {}
    for tensor in spec.parse(spec.read(name)[0]).graph.initializer:
        layer, _, part = tensor.name.partition(".")
        values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        if layer.startswith("conv") and part == "weight":
            if values.shape[0] == values.shape[1]:
                values -= functional.pad(torch.eye(values.shape[0])[:, :, None, None], (1,) * 4)
            weights[f"blocks.{int(layer[4:]) - 1}.weight"] = values
        elif layer.startswith("prelu"):
            weights[f"activations.{int(layer[5:]) - 1}.weight"] = values.flatten()
    return weights


def _from_weights(weights: Mapping[str, Tensor]) -> Compact | None:
    """Return the network that has these weights, None if there is none."""
    kernels = [weights[f"blocks.{k}.weight"] for k in range(sum(map(bool, map(_KERNEL.fullmatch, weights))))]
    if len(kernels) < 3 or any(k.ndim != 4 for k in kernels):
        return None
    width, channels = kernels[0].shape[:2]
    arch = f"compact-m{len(kernels) - 2}c{width}" + ("" if "activations.0.weight" in weights else "-relu")
    try:
        network = Compact(
            arch, channels, isqrt(kernels[-1].shape[0] // channels), "blocks.0.expand" in weights
        )
        network.load_state_dict({k: v.float() for k, v in weights.items()})
    except (ValueError, RuntimeError):
        return None
    return network
