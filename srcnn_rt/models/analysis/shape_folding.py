"""Values that depend on shapes alone: constants, and arithmetic on sizes.

A file of a hundred bytes can ask for a constant of 10^12 elements. So the size of every result is found
before it is computed, and a `Budget` limits the sum of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ..onnx_helpers import SLICE_END, STANDARD_DOMAINS
from .tensors import UNTILED, Call, Flow, Known

LARGEST = 2**24  # elements of one computed constant: more than in any layer, 128 MiB at most
# Elements read and written in all, by the constants of a whole model, and by the values that depend on the
# image's size, which are computed anew for each size that is traced.
CONSTANTS = 2**26
SIZED = 2**20
# onnx's reference implementation of these loops over elements in Python, searches, or sorts.
_SLOW = frozenset(("Erf", "GatherND", "NonZero", "OneHot", "ScatterElements", "ScatterND", "TopK", "Unique"))
_SLOW_FACTOR = 64


class TooLargeError(ModelError):
    """A constant is too large to be computed."""


class Budget:
    """Elements that may still be read and written.

    Parameters
    ----------
    elements : int
        Limit for all nodes together.
    """

    def __init__(self, elements: int) -> None:
        self._total = self._left = elements

    def spend(self, call: Call, written: int, read: int) -> None:
        """Subtract the cost of one node.

        Raises
        ------
        TooLargeError
            If the node's result is too large, or the budget is spent.
        """
        if written > LARGEST:
            by_size = any(isinstance(i, Known) and i.by_size for i in call.inputs)
            reason = (
                f"makes {written} numbers that depend on the image's size, as masks of shifted windows and "
                f"grids of positions do, {UNTILED}"
                if by_size
                else f"a constant may hold at most {LARGEST} numbers, got {written}"
            )
            raise TooLargeError(call.refusal(reason))
        self._left -= (written + read) * (_SLOW_FACTOR if call.op in _SLOW else 1)
        if self._left < 0:
            reason = f"constants may cost at most {self._total} numbers in all, and this node exceeds them"
            raise TooLargeError(call.refusal(reason))


def fold(call: Call, budget: Budget) -> list[Known]:
    """Compute a node that reads no samples of the image, or only their shape.

    Raises
    ------
    ModelError
        If it cannot be computed, or its result is too large.
    """
    if call.node.domain not in STANDARD_DOMAINS:
        raise call.refusal(f"an operator of {call.node.domain!r} cannot be computed")
    first = call.inputs[0] if call.inputs else None
    if isinstance(first, Flow):
        shape = np.array(first.shape, np.int64)
        if call.op == "Size":
            return [Known(np.array(shape.prod()), True)]
        part = slice(call.attribute("start", 0), call.attribute("end"))
        return [Known(shape[part], np.array([first.is_spatial(k) for k in range(len(shape))])[part])]
    if call.op in ("If", "Loop", "Scan"):
        raise call.refusal("control flow cannot be analysed")
    if call.op not in _FREE:
        count = _RESULT_SIZES.get(call.op)
        if count is None:
            raise call.refusal("cannot be computed")
        budget.spend(call, count(call), _all_inputs(call))
    with np.errstate(all="ignore"):  # values of the file, which may overflow
        direct = _DIRECT.get(call.op)
        results = _computed(call) if direct is None else [np.asarray(direct(call, *_values(call)))]
    return [Known(value, _sized(call, value)) for value in results]


def _sized(call: Call, result: NDArray[Any]) -> bool | NDArray[np.bool_]:
    """Return which elements of a result depend on the image's size.

    A shape holds the batch and the channels too, and values computed from these alone are constants.
    """
    inputs = [i for i in call.inputs if isinstance(i, Known)]
    if not any(i.by_size for i in inputs):
        return False
    masks = [np.broadcast_to(np.asarray(i.sized), i.value.shape) for i in inputs]
    if call.op in _ELEMENTWISE:
        return np.asarray(np.logical_or.reduce([np.broadcast_to(m, result.shape) for m in masks]))
    if call.op == "Concat":
        return np.concatenate(masks, axis=call.attribute("axis"))
    if not any(m.any() for m in masks[1:]):
        if call.op in ("Gather", "Slice"):
            return np.asarray(_DIRECT[call.op](call, masks[0], *_values(call)[1:]))
        if call.op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
            return masks[0].reshape(result.shape)
    return True


def _values(call: Call) -> list[NDArray[Any] | None]:
    return [i.value if isinstance(i, Known) else None for i in call.inputs]


def _computed(call: Call) -> list[NDArray[Any]]:
    """Compute a node by onnx's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(call.node)
        feeds = {n: v for n, v in zip(call.node.input, _values(call), strict=True) if n}
        return [np.asarray(v) for v in evaluator.run(None, feeds)]
    except Exception as error:  # it may raise anything, depending on the node
        raise call.refusal(f"cannot be computed: {error}") from error


def _divide(call: Call, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if a.dtype.kind in "iu":  # ONNX truncates, NumPy floors
        return np.asarray(np.trunc(a / b), a.dtype)
    return np.asarray(a / b)


def _slice(call: Call, x: NDArray[Any], *parts: NDArray[Any] | None) -> NDArray[Any]:
    starts, ends = (p.tolist() for p in parts[:2] if p is not None)
    axes = parts[2].tolist() if len(parts) > 2 and parts[2] is not None else list(range(len(starts)))
    steps = parts[3].tolist() if len(parts) > 3 and parts[3] is not None else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, None if end >= SLICE_END else end, step)
    return x[tuple(index)]


def _constant(call: Call) -> Any:
    from onnx import numpy_helper

    for attribute in call.node.attribute:
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        kind = {"value_int": np.int64, "value_float": np.float32}.get(attribute.name.removesuffix("s"))
        if kind is not None:
            return np.array(call.attribute(attribute.name), kind)
    raise call.refusal("holds no number")


def _cast(call: Call, x: NDArray[Any]) -> NDArray[Any]:
    from onnx import helper

    return x.astype(helper.tensor_dtype_to_np_dtype(call.attribute("to")))


# Operators of shape arithmetic, computed without the slow reference implementation.
_DIRECT: dict[str, Callable[..., Any]] = {
    "Add": lambda call, a, b: a + b,
    "Cast": _cast,
    "Concat": lambda call, *parts: np.concatenate(parts, axis=call.attribute("axis")),
    "Constant": _constant,
    "Div": _divide,
    "Gather": lambda call, a, b: np.take(a, b, axis=call.attribute("axis", 0)),
    "Identity": lambda call, a: a,
    "Mul": lambda call, a, b: a * b,
    "Neg": lambda call, a: -a,
    "Slice": _slice,
    "Sub": lambda call, a, b: a - b,
}

_ELEMENTWISE = frozenset((
    "Add", "And", "Cast", "Div", "Equal", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Sub", "Where",
))  # fmt: skip

# Sizes of results. An operator without an entry is not computed.

_FREE = frozenset(("Constant", "Identity", "Shape", "Size", "Slice", "Squeeze", "Transpose", "Unsqueeze"))


def _input_shapes(call: Call) -> list[tuple[int, ...]]:
    return [i.value.shape for i in call.inputs if isinstance(i, Known)]


def _largest_input(call: Call) -> int:
    return max(map(math.prod, _input_shapes(call)), default=1)


def _all_inputs(call: Call) -> int:
    return sum(map(math.prod, _input_shapes(call)))


def _broadcast_size(shapes: list[tuple[int, ...]]) -> int:
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return math.prod(max(sizes) for sizes in zip(*padded, strict=True))


def _sizes(call: Call, k: int) -> list[int]:
    """Return input k, which holds sizes."""
    return [int(n) for n in call.numbers(k)]


def _ranged(call: Call) -> int:
    start, stop, step = (float(call.value(k).reshape(-1)[0]) for k in range(3))
    return max(math.ceil((stop - start) / step), 0) if step else LARGEST + 1


def _padded(call: Call) -> int:
    pads = call.attribute("pads") or _sizes(call, 1)
    maximum = sum(map(abs, pads))  # of whichever axis, so this is an upper bound
    return math.prod(n + maximum for n in call.value(0).shape)


def _gathered(call: Call) -> int:
    x, index = call.value(0), call.value(1)
    return index.size * (x.size // max(x.shape[call.attribute("axis", 0)], 1) if x.ndim else 1)


def _gathered_nd(call: Call) -> int:
    x, index = call.value(0), call.value(1)
    if not index.ndim:
        return 1
    depth = index.shape[-1] + call.attribute("batch_dims", 0)
    return int(index.size // max(index.shape[-1], 1) * math.prod(x.shape[depth:]))


def _multiplied(call: Call) -> int:
    a, b = call.value(0), call.value(1)
    if b.ndim > 2 or not a.ndim or not b.ndim:
        raise ValueError("constants are multiplied by matrices only")
    # Inputs of Gemm are matrices.
    a, b = (m.T if call.attribute(name, 0) else m for name, m in (("transA", a), ("transB", b)))
    # The result counts, and so does its work: rows x inner x columns, a thousand products as one element.
    rows, inner, columns = a.size // max(a.shape[-1], 1), a.shape[-1], b.size // max(b.shape[0], 1)
    return int(max(rows * columns, rows * inner * columns // 1000))


# fmt: off
_RESULT_SIZES: dict[str, Callable[[Call], int]] = {
    **dict.fromkeys((
        "Abs", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "CumSum", "Cos", "DequantizeLinear", "Dropout",
        "Erf", "Exp", "EyeLike", "Flatten", "Floor", "GatherElements", "IsInf", "IsNaN",
        "LayerNormalization", "LeakyRelu", "Log", "Neg",
        "Not", "QuantizeLinear", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round",
        "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Softmax", "Split", "Sqrt", "Tanh", "TopK",
        "Trilu", "Unique",
    ), _largest_input),
    **dict.fromkeys((
        "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "Clip", "Div", "Equal", "Greater",
        "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub",
        "Sum", "Where", "Xor",
    ), lambda call: _broadcast_size(_input_shapes(call))),
    "Concat": _all_inputs,
    "ConstantOfShape": lambda call: math.prod(_sizes(call, 0)),
    "Expand": lambda call: _broadcast_size([call.value(0).shape, tuple(_sizes(call, 1))]),
    "Gather": _gathered,
    "GatherND": _gathered_nd,
    "Gemm": _multiplied,
    "MatMul": _multiplied,
    "NonZero": lambda call: call.value(0).size * max(call.value(0).ndim, 1),
    "OneHot": lambda call: call.value(0).size * abs(_sizes(call, 1)[0]),
    "Pad": _padded,
    "Range": _ranged,
    "Tile": lambda call: call.value(0).size * math.prod(map(abs, _sizes(call, 1))),
}
# fmt: on
