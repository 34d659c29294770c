"""What is run for a model: the rewritten graph, and the facts by which it is tiled.

The file is what a model is; this is what a session is given. The facts are those of the
rewritten graph, derived from it like any other's, so that windows fit it; scale and kind must be
those of the file. Of a model that is a network added to bicubic, the network runs, and the tiler adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from . import optimize
from .spec import ModelSpec, parse

if TYPE_CHECKING:
    from onnx import ModelProto


MAX_NODES = 2_000  # to be rewritten


@dataclass(frozen=True, slots=True)
class Program:
    """A model ready to run.

    Attributes
    ----------
    data : ONNX bytes for a session
    spec : the model's, with period and margins of `data`, and whether that gives what is added to bicubic
    rewritten : whether `data` is another graph than the file's
    """

    data: bytes
    spec: ModelSpec
    rewritten: bool


def prepare(data: bytes, spec: ModelSpec) -> Program:
    """Rewrite a model for speed; one that does not gain is left as it is.

    So is one of very many nodes, for passes look at all of them after every change, and one whose
    weights would no longer be finite in float32 when multiplied together.
    """
    model = parse(data)
    if len(model.graph.node) > MAX_NODES:
        return Program(data, spec, False)
    inner = _inner(model, spec)
    return _program(data, spec, inner or model, optimize.optimise(inner or model), adds=inner is not None)


def _inner(model: ModelProto, spec: ModelSpec) -> ModelProto | None:
    """Return the network that a model adds to bicubic; None if it does not, or is not tiled that way."""
    return optimize.without_bicubic(model, spec.scale) if spec.equivariant and not spec.padded else None


def network(data: bytes, spec: ModelSpec) -> bytes:
    """Return the model that `prepare` rewrites: the file's, or the network that it adds to bicubic."""
    inner = _inner(parse(data), spec)
    return data if inner is None else bytes(inner.SerializeToString())


def candidates(data: bytes, spec: ModelSpec, *, half: bool = True) -> dict[str, Program]:
    """Return what may be run for a model on a GPU, by `rewrite.variants`' names and in their order.

    One that is left alone is there as ``file``.
    """
    model = parse(data)
    many = len(model.graph.node) > MAX_NODES
    inner = None if many else _inner(model, spec)
    base = inner or model
    graphs = {} if many else optimize.variants(base, half=half)
    found = {name: _program(data, spec, base, made, adds=inner is not None) for name, made in graphs.items()}
    kept = {name: ready for name, ready in found.items() if ready.rewritten or name == "file"}
    return kept or {"file": Program(data, spec, False)}


def _program(data: bytes, spec: ModelSpec, model: ModelProto, better: ModelProto, *, adds: bool) -> Program:
    """Return what is run for the graph that was made of a file's model or, if it `adds`, of its network."""
    from .analysis import analyse  # when a model is there, so that importing the package is lean

    if (list(better.graph.node) == list(model.graph.node) and not adds) or not _finite(better):
        return Program(data, spec, False)
    try:
        facts = analyse(better)
    except ModelError:
        if adds:
            raise
        return Program(data, spec, False)  # its period may be too long, where the file's is not
    if (facts.kind, facts.scale, facts.channels) != (spec.facts.kind, spec.facts.scale, spec.channels):
        raise ModelError(
            "internal error: a rewrite changed what the model is"
        )  # the proof of each forbids it
    axes = [(made, file) for made, file in ((facts.y, spec.facts.y), (facts.x, spec.facts.x))]
    if spec.padded:
        # Which sizes there are is the file's affair: a graph that takes fewer would have images mirrored
        # that the model takes as they are.
        if any(file.multiple % made.multiple or made.minimum > file.minimum for made, file in axes):
            return Program(data, spec, False)
        y, x = (replace(made, multiple=file.multiple, minimum=file.minimum) for made, file in axes)
        facts = replace(facts, y=y, x=x)
    facts = replace(facts, parameters=spec.parameters, macs=spec.facts.macs)
    run = replace(spec, facts=facts, margin=facts.margin, adds_bicubic=adds)
    return Program(better.SerializeToString(), run, True)


def _finite(model: ModelProto) -> bool:
    from onnx import TensorProto, numpy_helper

    arrays = (numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    return all(np.isfinite(a).all() for a in arrays if a.size > 1)
