"""What depends on shapes alone: constants and the sums people do with sizes.

A file of a hundred bytes can ask for a constant of 10^12 numbers. So the size of every result
is found before it is computed, and what all of them cost comes out of a `Budget`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from .tensors import FAR, STANDARD, UNTILED, Call, Flow, Known

LARGEST = 2**24  # numbers in one computed constant: more than in any layer, 128 MiB at most
# Numbers read and made in all, by constants of a whole model, and by those that go by the
# image's size, which are computed anew for each size that is looked at.
CONSTANTS = 2**26
SIZED = 2**20
# onnx's reference implementation loops over their elements in Python, or searches, or sorts.
_SLOW = frozenset(("Erf", "GatherND", "NonZero", "OneHot", "ScatterElements", "ScatterND", "TopK", "Unique"))
_SLOWER = 64


class TooLargeError(ModelError):
    """A constant that must not be computed."""


class Budget:
    """Numbers that may still be read and made."""

    def __init__(self, numbers: int) -> None:
        self._largest_of = self._left = numbers

    def spend(self, call: Call, made: int, read: int) -> None:
        """Take what one node costs.

        Raises
        ------
        TooLargeError
        """
        if made > LARGEST and any(isinstance(i, Known) and i.by_size for i in call.inputs):
            raise TooLargeError(
                call.refusal(
                    f"makes {made} numbers that depend on the image's size, as masks of shifted windows "
                    f"and grids of positions do, {UNTILED}"
                )
            )
        if made > LARGEST:
            raise TooLargeError(call.refusal(f"a constant may hold at most {LARGEST} numbers, got {made}"))
        self._left -= (made + read) * (_SLOWER if call.op in _SLOW else 1)
        if self._left < 0:
            raise TooLargeError(
                call.refusal(
                    f"constants may cost at most {self._largest_of} numbers in all, and here they are spent"
                )
            )


def fold(call: Call, budget: Budget) -> list[Known]:
    """Compute a node none of whose inputs hold samples, or that asks for a shape.

    Raises
    ------
    ModelError
        If it cannot be computed, or is too large to be.
    """
    if call.node.domain not in STANDARD:
        raise call.refusal(f"an operator of {call.node.domain!r} cannot be computed")
    first = call.inputs[0] if call.inputs else None
    if isinstance(first, Flow):
        shape = np.array(first.shape, np.int64)
        if call.op == "Size":
            return [Known(np.array(shape.prod()), True)]
        cut = slice(call.attribute("start", 0), call.attribute("end"))
        return [Known(shape[cut], np.array([first.is_spatial(k) for k in range(len(shape))])[cut])]
    values = [i.value if isinstance(i, Known) else None for i in call.inputs]
    if call.op in ("If", "Loop", "Scan"):
        raise call.refusal("control flow cannot be analysed")
    if call.op not in _FREE:
        count = _COUNTS.get(call.op)
        if count is None:
            raise call.refusal("cannot be computed")
        budget.spend(call, count(call, values), sum(v.size for v in values if v is not None))
    with np.errstate(all="ignore"):  # a file's own numbers, which may overflow
        quick = _QUICK.get(call.op)
        results = _computed(call, values) if quick is None else [np.asarray(quick(call, *values))]
    return [Known(value, _sized(call, value)) for value in results]


def _sized(call: Call, result: NDArray[Any]) -> bool | NDArray[np.bool_]:
    """Return which numbers of a result depend on the image's size.

    A shape holds the batch and the channels too, and what is made of these alone is as constant as a weight.
    """
    inputs = [i for i in call.inputs if isinstance(i, Known)]
    if not any(i.by_size for i in inputs):
        return False
    masks = [np.broadcast_to(np.asarray(i.sized), i.value.shape) for i in inputs]
    if call.op in _ELEMENTWISE:
        return np.asarray(np.logical_or.reduce([np.broadcast_to(m, result.shape) for m in masks]))
    rest = any(m.any() for m in masks[1:])
    if call.op == "Concat":
        return np.concatenate(masks, axis=call.attribute("axis"))
    if not rest and call.op in ("Gather", "Slice"):
        values = [i.value if isinstance(i, Known) else None for i in call.inputs]
        return np.asarray(_QUICK[call.op](call, masks[0], *values[1:]))
    if not rest and call.op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return masks[0].reshape(result.shape)
    return True


def _computed(call: Call, values: list[NDArray[Any] | None]) -> list[NDArray[Any]]:
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(call.node)
        feeds = {n: v for n, v in zip(call.node.input, values, strict=True) if n}
        return [np.asarray(v) for v in evaluator.run(None, feeds)]
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

_ELEMENTWISE = frozenset((
    "Add", "And", "Cast", "Div", "Equal", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Sub", "Where",
))  # fmt: skip

# How many numbers a node makes. What is in no table is not computed.

Values = list[NDArray[Any] | None]
_FREE = frozenset(("Constant", "Identity", "Shape", "Size", "Slice", "Squeeze", "Transpose", "Unsqueeze"))


def _as_input(call: Call, values: Values) -> int:
    return max((v.size for v in values if v is not None), default=1)


def _all_inputs(call: Call, values: Values) -> int:
    return sum(v.size for v in values if v is not None)


def _broadcast(call: Call, values: Values) -> int:
    rank = max((v.ndim for v in values if v is not None), default=0)
    shapes = [(1,) * (rank - v.ndim) + v.shape for v in values if v is not None]
    return math.prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _numbers(values: Values, k: int) -> list[int]:
    """Return input k as a list; those of sizes hold one number an axis."""
    value = values[k]
    if value is None or value.size > 64:
        raise ValueError("its sizes must be at most 64 numbers")
    return [int(n) for n in value.reshape(-1).tolist()]


def _given(call: Call, values: Values) -> int:
    return math.prod(_numbers(values, 0))


def _expanded(call: Call, values: Values) -> int:
    x, target = values[0], _numbers(values, 1)
    shape = () if x is None else x.shape
    rank = max(len(shape), len(target))
    both = zip((1,) * (rank - len(shape)) + shape, [1] * (rank - len(target)) + target, strict=True)
    return math.prod(max(pair) for pair in both)


def _tiled(call: Call, values: Values) -> int:
    return (1 if values[0] is None else values[0].size) * math.prod(abs(n) for n in _numbers(values, 1))


def _ranged(call: Call, values: Values) -> int:
    start, stop, step = (float(v.reshape(-1)[0]) for v in values[:3] if v is not None)
    return max(math.ceil((stop - start) / step), 0) if step else LARGEST + 1


def _one_hot(call: Call, values: Values) -> int:
    return (1 if values[0] is None else values[0].size) * abs(_numbers(values, 1)[0])


def _padded(call: Call, values: Values) -> int:
    x = values[0]
    pads = [abs(int(n)) for n in call.attribute("pads", [])] or [abs(n) for n in _numbers(values, 1)]
    maximum = sum(pads)  # of whichever axis: more than it will be
    return math.prod(n + maximum for n in (() if x is None else x.shape))


def _gathered(call: Call, values: Values) -> int:
    x, index = values[0], values[1]
    if x is None or index is None:
        return 1
    return index.size * (x.size // max(x.shape[call.attribute("axis", 0)], 1) if x.ndim else 1)


def _gathered_nd(call: Call, values: Values) -> int:
    x, index = values[0], values[1]
    if x is None or index is None or not index.ndim:
        return 1
    depth = index.shape[-1] + call.attribute("batch_dims", 0)
    return int(index.size // max(index.shape[-1], 1) * math.prod(x.shape[depth:]))


def _places(call: Call, values: Values) -> int:
    x = values[0]
    return 0 if x is None else int(x.size) * max(x.ndim, 1)


def _multiplied(call: Call, values: Values) -> int:
    a, b = values[0], values[1]
    if a is None or b is None or b.ndim > 2 or not a.ndim or not b.ndim:
        raise ValueError("constants are multiplied by matrices only")
    if call.attribute("transA", 0) or call.attribute("transB", 0):  # of Gemm, whose matrices are two
        a, b = (m.T if call.attribute(name, 0) else m for name, m in (("transA", a), ("transB", b)))
    # What is made counts, and what is computed for it: rows x inner x columns, a thousand for one number.
    rows, inner, columns = a.size // max(a.shape[-1], 1), a.shape[-1], b.size // max(b.shape[0], 1)
    return int(max(rows * columns, rows * inner * columns // 1000))


# fmt: off
_COUNTS: dict[str, Callable[[Call, Values], int]] = {
    **dict.fromkeys((
        "Abs", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "CumSum", "Cos", "DequantizeLinear", "Dropout",
        "Erf", "Exp", "EyeLike", "Flatten", "Floor", "GatherElements", "IsInf", "IsNaN",
        "LayerNormalization", "LeakyRelu", "Log", "Neg",
        "Not", "QuantizeLinear", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round",
        "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Softmax", "Split", "Sqrt", "Tanh", "TopK",
        "Trilu", "Unique",
    ), _as_input),
    **dict.fromkeys((
        "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "Clip", "Div", "Equal", "Greater",
        "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub",
        "Sum", "Where", "Xor",
    ), _broadcast),
    "Concat": _all_inputs,
    "ConstantOfShape": _given,
    "Expand": _expanded,
    "Gather": _gathered,
    "GatherND": _gathered_nd,
    "Gemm": _multiplied,
    "MatMul": _multiplied,
    "NonZero": _places,
    "OneHot": _one_hot,
    "Pad": _padded,
    "Range": _ranged,
    "Tile": _tiled,
}
# fmt: on
