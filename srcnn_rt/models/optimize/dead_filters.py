"""Removal of filters that are zero for every image in range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..onnx_helpers import is_op
from .graph_edit import Conv, Edit, channels
from .value_bounds import Bounds

if TYPE_CHECKING:
    from onnx import ModelProto


def drop_dead_filters(model: ModelProto, low: float = 0.0, high: float = 1.0) -> ModelProto:
    """Remove filters whose ReLU is zero for any image in range.

    Bounds of every channel follow from the range of the input by interval arithmetic. The outputs of unknown
    operators are unbounded. (Bicubic enlargement inside a graph overshoots the range, and so do its bounds,
    which come from its weights.) If the upper bound of a filter is not positive, the filter is removed, and
    the kernels of other convolutions that read it. One filter always stays.

    Parameters
    ----------
    model : ModelProto
        Not changed.
    low, high : float
        Range of the samples that the model is fed. An image beyond it, such as a float32 file may hold, may
        need a removed filter, so the caller must ensure the range.

    Notes
    -----
    The sums of a runtime are rounded, and a bound of 0 in exact arithmetic can become positive. So every
    bound is widened: a float32 sum of n products, in any order, is the exact sum of products with relative
    errors of at most n·2⁻²³ (N. Higham, Accuracy and Stability of Numerical Algorithms, 3.1 and 4.2: half of
    that). A bound is not widened if its products are integers whose sums stay below 2²⁴, because rounding is
    monotone and that sum is exact. Coarser rounding on an accelerator (TF32) only adds noise to a filter that
    is 0, and that noise is removed with it.
    """
    edit = Edit(model)
    bounds = Bounds(edit, channels(model), low, high)
    dead = {}
    for node in edit.nodes:
        span = bounds.of(node.input[0]) if is_op(node, "Relu") else None
        if span is not None:
            dead[node.output[0]] = span[1] <= 0
    for name, mask in dead.items():
        _drop(edit, name, mask)
    return edit.model()


def _drop(edit: Edit, name: str, dead: NDArray[np.bool_]) -> None:
    """Remove the dead filters of the convolution whose Relu makes `name`, if only Convs read it."""
    relu = edit.maker(name)
    if relu is None or name in edit.outputs or edit.only_user(relu.input[0]) is not relu:
        return
    source = Conv.of(edit, edit.maker(relu.input[0]))
    users = [Conv.of(edit, user) for user in edit.users(name)]
    readers = [user for user in users if user is not None and user.group == 1]
    if source is None or source.group != 1 or not users or len(readers) < len(users):
        return
    live = np.flatnonzero(~dead)
    if live.size == dead.size:
        return
    if not live.size:
        live = np.array([0])  # because runtimes do not support tensors of no channels
    edit.replace([source.node], [source.make(edit, weight=source.weight[live], bias=source.bias[live])])
    for reader in readers:
        edit.replace([reader.node], [reader.make(edit, weight=reader.weight[:, live])])
