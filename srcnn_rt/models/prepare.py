"""The graph that runs for a model: the optimised graph, and the facts by which it is tiled.

The facts are derived from the optimised graph, so that windows fit it. Its scale, kind and channels must be
those of the file. If a model adds a network to the bicubic image, only the network runs, and the tiler adds.
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


MAX_NODES = 2_000  # larger graphs are not rewritten, because passes scan all nodes after every change


@dataclass(frozen=True, slots=True)
class Program:
    """A model that is ready to run.

    Attributes
    ----------
    data : bytes
        ONNX model for a session.
    spec : ModelSpec
        The model's, with period and margins of `data`, and whether `data` returns the difference to bicubic.
    rewritten : bool
        Whether `data` is another graph than the file's.
    """

    data: bytes
    spec: ModelSpec
    rewritten: bool


def build_program(data: bytes, spec: ModelSpec) -> Program:
    """Optimise a model.

    A model is left unchanged if no rewrite applies, if it has more than `MAX_NODES` nodes, or if weights
    would overflow float32 when they are multiplied together.

    Parameters
    ----------
    data : bytes
        ONNX model.
    spec : ModelSpec
        Its facts.

    Returns
    -------
    Program
        The graph to run.
    """
    model = parse(data)
    if len(model.graph.node) > MAX_NODES:
        return Program(data, spec, False)
    inner = _inner(model, spec)
    return _program(data, spec, inner or model, optimize.optimise(inner or model), adds=inner is not None)


def _inner(model: ModelProto, spec: ModelSpec) -> ModelProto | None:
    """Return the network that a model adds to bicubic; None if it does not, or cannot be tiled that way."""
    from .optimize.remove_bicubic import without_bicubic  # with all passes, which start-up does not need

    return without_bicubic(model, spec.scale) if spec.equivariant and not spec.padded else None


def network_program(data: bytes, spec: ModelSpec) -> Program:
    """Return the network as it is in the file, without the bicubic that it is added to, as a program."""
    model = parse(data)
    inner = _inner(model, spec)
    return _program(data, spec, model, inner or model, adds=inner is not None)


def candidates(data: bytes, spec: ModelSpec, *, float16: bool = True) -> dict[str, Program]:
    """Return the graphs that may run for a model on a GPU, by the names and in the order of `variants`.

    Parameters
    ----------
    data : bytes
        ONNX model.
    spec : ModelSpec
        Its facts.
    float16 : bool
        Whether they will run in float16.

    Returns
    -------
    dict of str to Program
        At least ``file``, the model of the file.
    """
    model = parse(data)
    if len(model.graph.node) > MAX_NODES:
        return {"file": Program(data, spec, False)}
    inner = _inner(model, spec)
    base = inner or model
    graphs = optimize.variants(base, float16=float16)
    found = {name: _program(data, spec, base, made, adds=inner is not None) for name, made in graphs.items()}
    kept = {name: ready for name, ready in found.items() if ready.rewritten or name == "file"}
    return kept or {"file": Program(data, spec, False)}


def _program(data: bytes, spec: ModelSpec, model: ModelProto, better: ModelProto, *, adds: bool) -> Program:
    """Return the program for `better`, which was derived from `model`.

    `model` is the file's, or the network that it `adds` to bicubic.
    """
    from .analysis import analyse  # here, because importing the package must not import onnx

    if (list(better.graph.node) == list(model.graph.node) and not adds) or not _finite(better):
        return Program(data, spec, False)
    try:
        facts = analyse(better)
    except ModelError:
        if adds:
            raise
        return Program(data, spec, False)  # its period may be too long, where the file's is not
    if (facts.kind, facts.scale, facts.channels) != (spec.facts.kind, spec.facts.scale, spec.channels):
        raise ModelError("internal error: a rewrite changed the model's kind, scale or channels")
    axes = [(facts.y, spec.facts.y), (facts.x, spec.facts.x)]
    if spec.padded:
        # The valid sizes are those of the file. A graph that takes fewer would have images mirrored that the
        # model takes unchanged.
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
