"""Export of PyTorch checkpoints to ONNX.

A file is written only if ONNX Runtime computes the same as PyTorch from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from .._system.safe_files import atomic_write
from ..architectures import checkpoints, compact_weights, families, spandrel_models, srcnn_weights
from ..architectures.srcnn import SRCNN
from ..backends.onnxruntime import Session
from ..backends.untiled import load_whole
from ..errors import ArgumentError, ModelError, OutputError
from ..models import spec
from . import network_graph
from .network_graph import Branches, Upscaler
from .torch_exporters import export_dynamo, export_torchscript

# Batches and core sizes (n, h, w) that are compared with torch: one pixel, odd, elongated.
_COMPARED = ((1, 1, 1), (2, 7, 5), (1, 33, 18), (1, 3, 61))
_TOLERANCE = 1e-5  # relative to the largest output sample; sums in float32 depend on their order


@dataclass(frozen=True, slots=True)
class _Network:
    """A network that was recognised in a checkpoint.

    Attributes
    ----------
    architecture : str
    reference : Module
        The network in torch.
    exporters : sequence of callable
        Ways to make an ONNX model of it, in order of preference.
    scale : int
    training : mapping
        How it was trained.
    value_range : str or None
        Input range. None stands for luminance in studio range, or RGB in [0, 1].
    multiple, minimum : int
        Sides of images must be multiples of `multiple` and at least `minimum`.
    """

    architecture: str
    reference: nn.Module
    exporters: Sequence[Callable[[], ModelProto]]
    scale: int
    training: Mapping[str, Any] = field(default_factory=dict)
    value_range: str | None = None
    multiple: int = 1
    minimum: int = 1

    def valid_side(self, side: int, multiple: int) -> int:
        """Return the next larger side that is also a multiple of `multiple`."""
        step = math.lcm(multiple, self.multiple)
        return -(-max(side, self.minimum) // step) * step


def export(
    checkpoint: Path, target: Path, *, scale: int | None = None, overwrite: bool = False
) -> spec.ModelSpec:
    """Export a checkpoint to ONNX.

    Parameters
    ----------
    checkpoint : Path
        A checkpoint of this package, or a state dict of an SRCNN (``conv1``, ``conv2`` and ``conv3`` with
        ``weight`` and ``bias``), of a network in `families`, or of one that spandrel recognises. It may be
        wrapped (``state_dict``, ``module.`` and so on).
    target : Path
        Written atomically.
    scale : int, optional
        Scale factor. Required if the checkpoint does not determine it.
    overwrite : bool
        Whether to replace an existing file.

    Raises
    ------
    SourceMissingError, ModelError, ArgumentError, OutputError
        ModelError also if the exported model does not compute the same as torch.
    """
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: already exists; use --overwrite to replace it")
    network = _recognise(checkpoint, scale)
    *alternatives, last = network.exporters
    for exporter in alternatives:
        with suppress(ModelError):
            return _write(target, exporter(), network)
    return _write(target, last(), network)


def _recognise(path: Path, scale: int | None) -> _Network:
    """Return the network in a checkpoint."""
    loaded = checkpoints.load(path)
    if (srcnn := srcnn_weights.find(path, loaded)) is not None:
        scale = _resolve_scale(path, scale, srcnn.scale)
        network = srcnn.network()
        exporter = partial(network_graph.build_graph, network, scale)
        upscaler = Upscaler(network, scale) if scale > 1 else network
        return _Network(network.arch, upscaler, [exporter], scale, srcnn.training)
    if (compact := compact_weights.find(loaded)) is not None:
        scale = _resolve_scale(path, scale, compact.scale)
        exporter = partial(network_graph.build_graph, compact, scale)
        training = loaded.get("training") if isinstance(loaded, dict) else None
        return _Network(compact.arch, Branches(compact), [exporter], scale, training or {})
    weights = checkpoints.tensors(loaded)
    try:
        for inner in checkpoints.without_prefixes(weights):
            if (family := families.find(inner)) is not None:
                scale = _resolve_scale(path, scale, family.scale(inner))
                reference = family.network({k: v.float() for k, v in inner.items()}, scale)
                exporter = partial(export_dynamo, reference, family.channels(inner))
                return _Network(family.name, reference, [exporter], scale, value_range=family.value_range)
        found = spandrel_models.find(weights)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if found is None:
        raise ModelError(f"{path}: {_unknown(loaded)}")
    return _Network(
        found.name,
        found.network,
        [
            partial(exporter, found.network, found.channels, side=found.example_side)
            for exporter in (export_dynamo, export_torchscript)
        ],
        _resolve_scale(path, scale, found.scale),
        value_range=spandrel_models.VALUE_RANGE,
        multiple=found.multiple,
        minimum=found.minimum,
    )


def _unknown(loaded: object) -> str:
    """Return the error message for an unknown state dict."""
    expected = ", ".join(srcnn_weights.expected_keys(loaded))
    known = "; ".join(f"{f.name}: {', '.join(f.layers)}" for f in families.FAMILIES)
    found = srcnn_weights.key_list(checkpoints.tensors(loaded))
    hint = "" if spandrel_models.is_installed() else (
        '; for forty more architectures, run: pip install "srcnn-rt[spandrel]"'
    )  # fmt: skip
    return f"not a known network: expected the keys {expected} (SRCNN; or {known}); found {found}{hint}"


def _resolve_scale(path: Path, given: int | None, known: int | None) -> int:
    """Return the scale factor from the option `given` and from the weights."""
    if given is not None and known is not None and given != known:
        raise ArgumentError(f"{path}: trained for scale {known}, got --scale {given}")
    scale = given or known
    if scale is None:
        raise ArgumentError(f"{path}: does not determine its scale; use --scale")
    if not 1 <= scale <= 8:
        raise ArgumentError(f"{path}: scale must be from 1 to 8, got {scale}")
    return scale


def _write(target: Path, proto: ModelProto, network: _Network) -> spec.ModelSpec:
    """Write a model with its metadata if it agrees with torch."""
    del proto.graph.value_info[:]  # shapes inside the graph, which every runtime infers by itself
    channels = spec.interface(proto.SerializeToString()).channels

    def serialise(check: Mapping[str, Any] | None = None) -> bytes:
        spec.set_metadata(
            proto,
            architecture=network.architecture,
            scale=network.scale,
            channels=channels,
            training=network.training,
            check=check,
            values=network.value_range,
        )
        return bytes(proto.SerializeToString())

    try:
        data = serialise(_compare_with_torch(serialise(), network))
        described = replace(load_whole(data)[1], name=target.stem)
    except ModelError as error:
        raise ModelError(f"{target}: not written: {error}") from error
    with atomic_write(target) as file:
        file.write(data)
    return described


def _compare_with_torch(data: bytes, network: _Network) -> dict[str, Any]:
    """Compare a model, run by ONNX Runtime, with torch on several odd sizes.

    Returns
    -------
    dict
        Version of torch, compared sizes and largest difference, for the model's metadata.

    Raises
    ------
    ModelError
        If the results differ, or the model's scale factor or margin is not the expected one.
    """
    described = load_whole(data)[1]  # also loads models that cannot be tiled
    reference, margin = network.reference.eval(), described.margin  # a failed exporter may leave train mode
    if isinstance(reference, Upscaler | Branches):
        margin = reference.margin
    elif isinstance(reference, SRCNN):
        margin = reference.shrink
    got, expected = (described.scale, described.margin), (network.scale, margin)
    if got != expected:
        raise ModelError(f"the graph has scale and margin {got}, expected {expected}")
    session = Session(data)
    rng = np.random.default_rng(0)
    worst = 0.0
    padded, facts = described.padded, described.facts.y
    margins, minimum = (0, max(facts.minimum, 3)) if padded else (2 * margin, 1)
    for n, h, w in _COMPARED:
        sides = (network.valid_side(max(side, minimum) + margins, facts.multiple) for side in (h, w))
        lr = rng.random((described.batch or n, described.channels, *sides), dtype=np.float32)
        with torch.no_grad():
            truth = reference(torch.from_numpy(lr)).numpy()
        try:
            hr = session.run(lr)
        except ModelError as error:
            raise ModelError(f"the exported model does not run at every size: {error}") from error
        if hr.shape != truth.shape:
            raise ModelError(f"the exported model returns {hr.shape}, torch returns {truth.shape}")
        worst = max(worst, float(np.abs(hr - truth).max()) / max(1.0, float(np.abs(truth).max())))
    if not worst <= _TOLERANCE:
        raise ModelError(f"differs from torch by {worst:.2g} of full scale, allowed {_TOLERANCE:g}")
    return {
        "against": f"torch {torch.__version__}",
        "cores": [list(size) for size in _COMPARED],
        "largest": worst,
    }
