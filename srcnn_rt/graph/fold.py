"""What depends on shapes alone: constants and the sums people do with sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tensors import FAR, Call, Flow, Known


def fold(call: Call) -> list[Known]:
    """Compute a node none of whose inputs hold samples, or that asks for a shape."""
    first = call.inputs[0] if call.inputs else None
    if isinstance(first, Flow):
        shape = np.array(first.shape, np.int64)
        if call.op == "Size":
            return [Known(np.array(shape.prod()), True)]
        stop = call.attribute("end")
        return [Known(shape[call.attribute("start", 0) : stop], True)]
    sized = any(isinstance(i, Known) and i.sized for i in call.inputs)
    values = [i.value if isinstance(i, Known) else None for i in call.inputs]
    quick = _QUICK.get(call.op)
    if quick is not None:
        return [Known(np.asarray(quick(call, *values)), sized)]
    if call.op in ("If", "Loop", "Scan"):
        raise call.refusal("control flow cannot be analysed")
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(call.node)
        feeds = {n: v for n, v in zip(call.node.input, values, strict=True) if n}
        return [Known(np.asarray(v), sized) for v in evaluator.run(None, feeds)]
    except Exception as error:  # whatever the node holds, the answer is the same
        raise call.refusal(f"cannot be computed: {error}") from error


def _divide(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if a.dtype.kind in "iu":  # ONNX truncates, NumPy floors
        return np.asarray(np.trunc(a / b), a.dtype)
    return np.asarray(a / b)


def _cut(call: Call, x: NDArray[Any], *parts: NDArray[Any] | None) -> NDArray[Any]:
    starts, ends = (p.tolist() for p in parts[:2] if p is not None)
    axes = parts[2].tolist() if len(parts) > 2 and parts[2] is not None else list(range(len(starts)))
    steps = parts[3].tolist() if len(parts) > 3 and parts[3] is not None else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if end >= FAR else end, step)
    return x[tuple(index)]


def _constant(call: Call) -> Any:
    from onnx import numpy_helper

    for attribute in call.node.attribute:
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(call.attribute(attribute.name), np.int64)
        if attribute.name in ("value_float", "value_floats"):
            return np.array(call.attribute(attribute.name), np.float32)
    raise call.refusal("holds no number")


def _cast(call: Call, x: NDArray[Any]) -> NDArray[Any]:
    from onnx import helper

    return x.astype(helper.tensor_dtype_to_np_dtype(call.attribute("to")))


_QUICK: dict[str, Callable[..., Any]] = {
    "Add": lambda call, a, b: a + b,
    "Cast": _cast,
    "Concat": lambda call, *parts: np.concatenate(parts, axis=call.attribute("axis")),
    "Constant": _constant,
    "Div": lambda call, a, b: _divide(a, b),
    "Gather": lambda call, a, b: np.take(a, b, axis=call.attribute("axis", 0)),
    "Identity": lambda call, a: a,
    "Mul": lambda call, a, b: a * b,
    "Neg": lambda call, a: -a,
    "Slice": _cut,
    "Sub": lambda call, a, b: a - b,
}
