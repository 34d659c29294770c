"""Weights of SRCNNs, read from checkpoints and from ONNX models of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from ..models import spec
from . import checkpoints
from .srcnn import SRCNN

_LAYERS = (1, 2, 3)
EQUIVARIANT_KEYS = tuple(f"conv{k}.weight" for k in _LAYERS)
PAPER_KEYS = tuple(f"conv{k}.{part}" for k in _LAYERS for part in ("weight", "bias"))


@dataclass(frozen=True, slots=True)
class SrcnnWeights:
    """Weights of an SRCNN and what is known about them.

    Attributes
    ----------
    weights : mapping of str to Tensor
        State dict.
    arch : str
        Kernel sizes, such as ``"9-1-5"``.
    channels : int
    filters : tuple of int
        Number of filters of the first and the second layer.
    form : {"equivariant", "paper"}
    scale : int or None
        Scale factor, if known.
    training : mapping
        How the weights were trained.
    """

    weights: Mapping[str, Tensor]
    arch: str
    channels: int
    filters: tuple[int, int]
    form: str
    scale: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> SRCNN:
        """Return the network with these weights, in evaluation mode."""
        net = SRCNN(self.arch, self.channels, "paper", self.filters, self.form)
        net.load_state_dict(dict(self.weights))
        return net.eval()


def read_checkpoint(path: Path) -> SrcnnWeights:
    """Read an SRCNN from a checkpoint.

    Raises
    ------
    SourceMissingError, ModelError
        If the file cannot be read or is not an SRCNN.
    """
    loaded = checkpoints.load(path)
    found = find(path, loaded)
    if found is None:
        keys, expected = key_list(checkpoints.tensors(loaded)), ", ".join(expected_keys(loaded))
        raise ModelError(f"{path}: not an SRCNN: expected the keys {expected}; found {keys}")
    return found


def read_model(name: str) -> SrcnnWeights:
    """Read an SRCNN from an ONNX file that this package exported, or from a bundled model.

    Raises
    ------
    SourceMissingError, ModelError
        If the model cannot be read or is not an SRCNN.
    """
    from onnx import numpy_helper

    proto = spec.parse(spec.read(name)[0])
    found = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in proto.graph.initializer}
    form, keys = ("paper", PAPER_KEYS) if PAPER_KEYS[1] in found else ("equivariant", EQUIVARIANT_KEYS)
    if not set(keys) <= set(found):
        raise ModelError(f"{name}: not an SRCNN of this package: it has no tensors {', '.join(keys)}")
    weights = {k: found[k] for k in keys}
    return SrcnnWeights(weights, *_dimensions(name, weights), form)


def find(path: Path, loaded: object) -> SrcnnWeights | None:
    """Return the SRCNN in the content of a checkpoint, or None if it is another network.

    Parameters
    ----------
    path : Path
        For error messages.
    loaded : object
        Result of `checkpoints.load`.

    Raises
    ------
    ModelError
        If it has the keys of an SRCNN but other shapes.
    """
    keys = expected_keys(loaded)
    candidates = checkpoints.without_prefixes(checkpoints.tensors(loaded))
    found = next((w for w in candidates if set(w) == set(keys)), None)
    if found is None:
        return None
    weights = {k: found[k].float() for k in keys}
    details = loaded if isinstance(loaded, dict) else {}
    scale = details.get("scale")
    return SrcnnWeights(
        weights,
        *_dimensions(path, weights),
        "equivariant" if keys is EQUIVARIANT_KEYS else "paper",
        scale if isinstance(scale, int) else None,
        details.get("training") or {},
    )


def expected_keys(loaded: object) -> tuple[str, ...]:
    """Return an SRCNN's keys: of the equivariant form if the checkpoint says so, else of the paper's."""
    form = loaded.get("form") if isinstance(loaded, dict) else None
    return EQUIVARIANT_KEYS if form == "equivariant" else PAPER_KEYS


def key_list(weights: Mapping[str, Tensor]) -> str:
    """Return the first keys of a state dict for an error message."""
    return ", ".join(sorted(map(str, weights))[:12]) or "none"


def _dimensions(source: Path | str, weights: Mapping[str, Tensor]) -> tuple[str, int, tuple[int, int]]:
    """Return architecture, channels and numbers of filters."""
    shapes = [tuple(weights[f"conv{k}.weight"].shape) for k in _LAYERS]
    sizes = [s[2] for s in shapes if len(s) == 4 and s[2] == s[3] and s[2] % 2 == 1]
    chained = (
        len(sizes) == 3
        and all(shapes[k][1] == shapes[k - 1][0] for k in (1, 2))
        and shapes[2][0] == shapes[0][1]
    )
    biases = [(weights.get(f"conv{k}.bias"), shapes[k - 1][:1]) for k in _LAYERS]
    biased = all(b is None or tuple(b.shape) == shape for b, shape in biases)
    if not chained or not biased or shapes[0][1] not in (1, 3):
        text = ", ".join("x".join(map(str, s)) for s in shapes)
        raise ModelError(
            f"{source}: not an SRCNN: needs square odd kernels and 1 or 3 channels, got kernels of {text}"
        )
    return "-".join(map(str, sizes)), shapes[0][1], (shapes[0][0], shapes[1][0])
