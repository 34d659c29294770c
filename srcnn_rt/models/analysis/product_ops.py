"""Matrix products and sums over products along channels: layers of tokens, attention within windows."""

from __future__ import annotations

import math

from .receptive_field import IDENTITY
from .tensors import UNTILED, Axis, Call, Flow, Known, Results, axis_size, has_space


def matmul(call: Call) -> Results:
    """Trace MatMul."""
    rank = max(_rank(state) for state in call.inputs)
    if rank < 2 or min(_rank(state) for state in call.inputs) < 2:
        raise call.refusal("multiplies a vector")
    batch = [f"b{k}" for k in range(rank - 2)]
    ends = zip(call.inputs, ("ik", "kj"), strict=True)
    return _contract(call, [[*batch[rank - _rank(s) :], *end] for s, end in ends], [*batch, "i", "j"])


def gemm(call: Call) -> Results:
    """Trace Gemm, whose bias must not vary over the image."""
    left = ["k", "i"] if call.attribute("transA", 0) else ["i", "k"]
    right = ["j", "k"] if call.attribute("transB", 0) else ["k", "j"]
    if not all(isinstance(state, Known) for state in call.inputs[1:]):
        raise call.refusal("its weights or sizes are computed from the image")
    results = _contract(call, [left, right], ["i", "j"])
    bias = call.known(2)
    if bias is not None and any(
        n > 1 and results[0][0].is_spatial(1 - k) for k, n in enumerate(bias.value.shape[::-1])
    ):
        raise call.refusal(f"a constant of shape {bias.value.shape} varies over the image")
    return results


def einsum(call: Call) -> Results:
    """Trace Einsum without ellipses and diagonals."""
    equation = call.attribute("equation").decode().replace(" ", "")
    terms, arrow, out = equation.partition("->")
    inputs = [list(t) for t in terms.split(",")]
    letters = [c for term in inputs for c in term]
    if "." in equation or any(len(set(t)) != len(t) for t in inputs):
        raise call.refusal(f"{equation!r} cannot be analysed")
    result = list(out) if arrow else sorted(c for c in set(letters) if letters.count(c) == 1)
    return _contract(call, inputs, result)


def _rank(state: Known | Flow | None) -> int:
    if isinstance(state, Flow):
        return len(state.shape)
    return state.value.ndim if isinstance(state, Known) else 0


def _contract(call: Call, terms: list[list[str]], result: list[str]) -> Results:
    """Return the sum of products over all named axes that are not in the result.

    Rows and columns may be neither summed over nor paired with other rows and columns. They must be the
    same axes in every input that has any, and must be in the result.
    """
    axes: dict[str, Axis] = {}
    mixes = f"multiplies along rows or columns, so its receptive field is unbounded, {UNTILED}"
    for state, names in zip(call.inputs, terms, strict=False):
        if state is None or len(names) != _rank(state):
            raise call.refusal(f"{len(names)} axes for a tensor of {_rank(state)}")
        found = state.axes if isinstance(state, Flow) else [(("c", n),) for n in state.value.shape]
        if isinstance(state, Known) and state.by_size:
            raise call.refusal("multiplies by a value that depends on the image's size")
        for name, axis in zip(names, found, strict=True):
            before = axes.get(name, axis)
            spatial = [a for a in (before, axis) if has_space(a)]
            sizes = axis_size(before), axis_size(axis)
            if before != axis and (len(spatial) == 2 or 1 not in sizes):
                if spatial:
                    raise call.refusal(mixes)
                if sizes[0] != sizes[1]:
                    raise call.refusal(f"multiplies {sizes[0]} values by {sizes[1]}")
            axes[name] = spatial[0] if spatial else max(before, axis, key=axis_size)
    for state, names in zip(call.inputs, terms, strict=False):
        if isinstance(state, Flow) and not {n for n, a in axes.items() if has_space(a)} <= set(names):
            raise call.refusal(mixes)
    summed = [axis for name, axis in axes.items() if name not in result]
    if any(map(has_space, summed)):
        raise call.refusal(mixes)
    if any(role == "n" for axis in summed for role, _ in axis):
        raise call.refusal("mixes the images of a batch")
    macs = math.prod(map(axis_size, axes.values()))
    return [(Flow.of([axes[name] for name in result]), IDENTITY, IDENTITY, macs)]
