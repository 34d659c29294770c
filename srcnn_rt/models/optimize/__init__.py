"""Exact graph rewrites: the same function of the image in fewer or cheaper operations.

Each pass is a pure function ModelProto → ModelProto, and leaves alone the nodes that it does not know.
Weights are combined in float64 and rounded to float32 once. So models of small integers give the same bits
(`tests/models/optimize`), and trained ones differ by the rounding of another order of the same sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

Pass = Callable[["ModelProto"], "ModelProto"]


def passes() -> tuple[Pass, ...]:
    """Return the rewrites in the order in which they are applied."""
    from . import fuse_linear
    from .resize_to_subpixel import resize_to_subpixel
    from .subpixel_phases import fold_enlargement
    from .widen_narrow import widen_narrow

    return (
        fuse_linear.drop_identities, fuse_linear.fold_batch_norm, fuse_linear.fold_scale_offset,
        resize_to_subpixel, fold_enlargement, widen_narrow,
    )  # fmt: skip


def optimise(model: ModelProto) -> ModelProto:
    """Apply all rewrites.

    Parameters
    ----------
    model : ModelProto
        Not changed.

    Returns
    -------
    ModelProto
        The optimised model.
    """
    for rewrite in passes():
        model = rewrite(model)
    return model


def variants(model: ModelProto, *, float16: bool = True) -> dict[str, ModelProto]:
    """Return graphs of a model that may be fast on a GPU, by name, in the order of their estimated cost.

    All are the same function of the image. The fastest is found by measuring them; without a measurement
    the first is used. Their periods differ, so facts must be derived from each. The names are ``file``
    (linear folds only), ``narrow`` (`widen_narrow`), ``phases`` (all of `optimise`), ``folded`` (all phases
    of the first layer in one convolution), ``blocks`` (`block_layers`), and each of them with ``+unrolled``
    rows. Equal graphs are returned once.

    Parameters
    ----------
    model : ModelProto
        The model of a file. Not changed.
    float16 : bool
        Estimate the cost in float16 on tensor cores, else in float32.

    Returns
    -------
    dict of str to ModelProto
        ``file`` alone if the model cannot be analysed.

    Notes
    -----
    A graph that cannot be analysed is left out. Some folded ones read rows of zeros beyond the image, for
    results that are cropped.
    """
    from .space_to_depth import block_layers
    from .subpixel_phases import fold_enlargement, shuffle_enlargement
    from .unroll_rows import unroll_rows
    from .widen_narrow import widen_narrow

    *folds, _, _ = passes()
    plain = model
    for rewrite in folds:
        plain = rewrite(plain)
    found = {
        "file": plain,
        "narrow": widen_narrow(plain),
        "phases": widen_narrow(fold_enlargement(plain)),
        "folded": widen_narrow(shuffle_enlargement(plain)),
        "blocks": block_layers(plain),
    }
    found |= {f"{base}+unrolled": unroll_rows(made) for base, made in found.items()}
    different: dict[bytes, str] = {}
    for name, made in found.items():
        nodes = b"".join(node.SerializeToString(deterministic=True) for node in made.graph.node)
        different.setdefault(nodes, name)
    costs = {name: cost for name in different.values() if (cost := _cost(found[name], float16)) is not None}
    return {name: found[name] for name in sorted(costs, key=lambda name: costs[name]) or ["file"]}


def _cost(model: ModelProto, float16: bool) -> float | None:
    """Return the estimated cost of a graph on a GPU, None if it cannot be tiled."""
    from ...errors import ModelError
    from ..analysis import analyse
    from .tensor_core_cost import tensor_work

    try:
        analyse(model)
        work = tensor_work(model)
        return work.cost if float16 else work.cost_float32
    except ModelError:
        return None
