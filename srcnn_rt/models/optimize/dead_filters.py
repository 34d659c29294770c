"""Filters that never fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graph_edit import Conv, Edit, channels, is_op
from .value_bounds import Bounds

if TYPE_CHECKING:
    from onnx import ModelProto


def drop_dead_filters(model: ModelProto, low: float = 0.0, high: float = 1.0) -> ModelProto:
    """Remove filters whose Relu never fires for any image in range.

    Bounds of every channel follow from the range of the input by interval arithmetic; what
    an operator unknown here makes is unbounded. (Bicubic enlargement inside a graph overshoots
    the range, and so do its bounds, which come from its weights.) A filter goes, and what
    convolutions read of it, where the upper bound is not positive. One filter always stays.

    Parameters
    ----------
    model : never changed
    low, high : range of the samples the model is fed, which is the caller's promise. An image
        beyond it, as float32 files may be, can make a removed filter fire.

    Notes
    -----
    The runtime's sums are rounded, and a bound of 0 in exact arithmetic can come out positive.
    So every bound is widened: a float32 sum of n products, in any order, is the exact sum of
    products that are off by n·2⁻²³ of themselves at most (N. Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1 and 4.2: half of that). Where the products at the bound are
    integers whose sums stay below 2²⁴ it is not, for rounding is monotone and that sum is
    exact. What an accelerator rounds more coarsely (TF32) is noise of a filter that is 0, and
    goes with it.
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
    """Remove the dead ones of the filters whose Relu makes `name`, where only Convs read it."""
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
        live = np.array([0])  # a tensor of no channels is more trouble than one filter
    edit.replace([source.node], [source.make(edit, weight=source.weight[live], bias=source.bias[live])])
    for reader in readers:
        edit.replace([reader.node], [reader.make(edit, weight=reader.weight[:, live])])
