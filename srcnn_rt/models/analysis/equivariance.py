"""Whether a graph is equivariant to gain and offset: ``f(a·x + b) = a·f(x) + b`` for all a > 0 and b.

Every tensor t computed from the image is followed as ``t(a·x + b) = a·t(x) + b·g``, with one g per channel:
its gain to an offset. Convolutions without biases keep that form, with the sums of their kernels as gains.
ReLU and similar activations keep it only where g is 0, because an offset does not affect them there. The
output must have g = 1. A graph with any other operator is taken not to be equivariant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..onnx_helpers import STANDARD_DOMAINS, attribute, constant_tensors

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    Constants = dict[str, TensorProto]

Gains = NDArray[np.float64]

# Relative to what is summed: the rounding of float32 weights whose sum is meant to be 0 or 1.
_TOLERANCE = 1e-6
_SAME = ("Identity", "Dropout")
_HOMOGENEOUS = ("LeakyRelu", "PRelu", "Relu")


def is_equivariant(model: ModelProto) -> bool:
    """Return whether a model is equivariant to gain and offset, as far as its operators show."""
    from .trace import Interface

    face = Interface.of(model)
    constants = constant_tensors(model)
    gains: dict[str, Gains] = {face.source: np.ones(face.channels)}
    for node in model.graph.node:
        if not any(name in gains for name in node.input) or node.op_type in ("Shape", "Size"):
            continue
        found = None if node.domain not in STANDARD_DOMAINS else _through(node, gains, constants)
        if found is None:
            return False
        gains[node.output[0]] = found
    out = gains.get(face.target)
    return out is not None and bool(np.all(np.abs(out - 1) <= 10 * _TOLERANCE))


def _array(constants: Constants, name: str) -> NDArray[np.float64] | None:
    """Return the value of a constant, None if `name` is not a constant."""
    from onnx import numpy_helper

    found = constants.get(name)
    return None if found is None else np.asarray(numpy_helper.to_array(found), np.float64)


def _through(node: NodeProto, gains: dict[str, Gains], constants: Constants) -> Gains | None:
    """Return the gains of a node's output, None if it does not keep the form or is not known."""
    op, first = node.op_type, gains.get(node.input[0])
    if op in ("Add", "Sub", "Concat"):
        sides = [gains[name] for name in node.input if name in gains]
        if len(sides) < len(node.input):
            return None
        if op == "Concat":
            return np.concatenate(sides) if attribute(node, "axis", 1) == 1 else None
        left, right = sides
        return _snapped(left - right if op == "Sub" else left + right, np.abs(left) + np.abs(right))
    if op in ("Mul", "Div"):
        return _scaled(node, gains, constants)
    if first is None or any(name in gains for name in node.input[1:]):
        return None
    if op == "Conv":
        return _convolved(node, first, constants)
    if op in _HOMOGENEOUS:
        return first if not first.any() else None
    if op in _SAME:
        return first
    if op == "Slice":
        return first if _crops_only_space(node, constants) else None
    if op == "DepthToSpace":
        places = attribute(node, "blocksize", 1) ** 2
        columns = attribute(node, "mode", b"DCR") == b"CRD"
        grid = first.reshape(-1, places) if columns else first.reshape(places, -1).T
        mean = grid.mean(axis=1)
        return mean if np.allclose(grid, mean[:, None], rtol=0, atol=10 * _TOLERANCE) else None
    if op == "SpaceToDepth":
        return np.tile(first, attribute(node, "blocksize", 1) ** 2)
    return None


def _convolved(node: NodeProto, first: Gains, constants: Constants) -> Gains | None:
    weight = _array(constants, node.input[1])
    if weight is None:
        return None
    if len(node.input) > 2 and node.input[2]:
        bias = _array(constants, node.input[2])
        if bias is None or bias.any():
            return None
    padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", b"NOTSET") not in (
        b"NOTSET", b"VALID",
    )  # fmt: skip
    if padded and first.any():  # zeros beside an offset are an edge
        return None
    group = attribute(node, "group", 1)
    inner = first.reshape(group, -1)
    taps = weight.reshape(group, len(weight) // group, inner.shape[1], -1)
    sums = np.einsum("goit,gi->go", taps, inner).reshape(-1)
    sizes = np.einsum("goit,gi->go", np.abs(taps), np.abs(inner)).reshape(-1)
    return _snapped(sums, sizes)


def _scaled(node: NodeProto, gains: dict[str, Gains], constants: Constants) -> Gains | None:
    """Return the gains of a product with a constant, or of division by one."""
    place = 1 if node.input[0] in gains else 0
    factor = _array(constants, node.input[place])
    if factor is None or factor.shape[-2:] not in ((), (1,), (1, 1)) or (node.op_type == "Div" and not place):
        return None
    gain, flat = gains[node.input[1 - place]], factor.reshape(-1)
    if flat.size not in (1, gain.size):
        return None
    return np.asarray(gain / flat if node.op_type == "Div" else gain * flat)


def _crops_only_space(node: NodeProto, constants: Constants) -> bool:
    axes = _array(constants, node.input[3]) if len(node.input) > 3 else None
    return axes is not None and {int(a) % 4 for a in axes.reshape(-1)} <= {2, 3}


def _snapped(sums: Gains, sizes: Gains) -> Gains:
    """Return sums with 0 in place of rounding errors."""
    return np.where(np.abs(sums) <= _TOLERANCE * sizes, 0.0, sums)
