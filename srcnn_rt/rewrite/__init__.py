"""Exact rewrites: the same function of the picture in fewer or cheaper operations.

Each pass is a pure function ModelProto → ModelProto. Weights are combined in float64 and
rounded to float32 once, so models of small integers come out bit for bit the same
(`tests/test_rewrite_*.py`), and trained ones within the rounding that any other order of
the same sums has. A pass leaves alone what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

Pass = Callable[["ModelProto"], "ModelProto"]


def passes() -> tuple[Pass, ...]:
    """Return the rewrites in the order in which they are applied."""
    from . import folds
    from .narrow import widen_narrow
    from .phases import fold_enlargement
    from .sampling import resize_to_subpixel

    return (
        folds.drop_identities,
        folds.fold_batch_norm,
        folds.fold_scale_offset,
        folds.merge_linear,
        resize_to_subpixel,
        fold_enlargement,
        widen_narrow,
    )


def optimise(model: ModelProto) -> ModelProto:
    """Apply all rewrites; `model` itself is not changed.

    `dead.drop_dead_filters` is not among them: it holds for pictures within the model's range only,
    and float32 pictures are not clipped.
    """
    for rewrite in passes():
        model = rewrite(model)
    return model
