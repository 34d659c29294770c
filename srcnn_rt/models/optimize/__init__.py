"""Exact rewrites: the same function of the image in fewer or cheaper operations.

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
    from . import fuse_linear
    from .resize_to_subpixel import resize_to_subpixel
    from .subpixel_phases import fold_enlargement
    from .widen_narrow import widen_narrow

    return (
        fuse_linear.drop_identities,
        fuse_linear.fold_batch_norm,
        fuse_linear.fold_scale_offset,
        fuse_linear.merge_linear,
        resize_to_subpixel,
        fold_enlargement,
        widen_narrow,
    )


def without_bicubic(model: ModelProto, scale: int) -> ModelProto | None:
    """Return the network that a model adds to bicubic, see `residual`."""
    from . import remove_bicubic

    return remove_bicubic.without_bicubic(model, scale)


def optimise(model: ModelProto) -> ModelProto:
    """Apply all rewrites; `model` itself is not changed.

    `dead.drop_dead_filters` is not among them: it holds for images within the model's range only,
    and float32 images are not clipped.
    """
    for rewrite in passes():
        model = rewrite(model)
    return model


def variants(model: ModelProto, *, half: bool = True) -> dict[str, ModelProto]:
    """Return graphs of a file's model that may suit a GPU, by name, that of least `tensor_work` first.

    All are the same function of the image. Which is fastest on a GPU is for a measurement to say
    (the first stands where there is none); periods differ, so facts are to be derived from each. Only
    those that differ are there, of: ``file`` (folds alone), ``narrow`` (the last layer in blocks),
    ``phases`` (`optimise`), ``folded`` (all phases of the first layer at once), ``blocks``, and each of them
    with ``+unrolled`` rows and ``+filled`` channels.

    Parameters
    ----------
    model : as in the file; never changed
    half : whether it is to be computed in float16 on tensor cores, not in float32

    Notes
    -----
    A model that cannot be analysed, and so not weighed, has ``file`` alone; a graph that cannot is left out:
    some folded ones read rows of zeros beyond the image, for results that are cut off.
    """
    from .pad_channels import fill_channels
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
    for name, rewrite in (("unrolled", unroll_rows), ("filled", fill_channels)):
        found |= {f"{base}+{name}": rewrite(made) for base, made in found.items()}
    different: dict[bytes, str] = {}
    for name, made in found.items():
        nodes = b"".join(node.SerializeToString(deterministic=True) for node in made.graph.node)
        different.setdefault(nodes, name)
    costs = {name: cost for name in different.values() if (cost := _cost(found[name], half)) is not None}
    return {name: found[name] for name in sorted(costs, key=lambda name: costs[name]) or ["file"]}


def _cost(model: ModelProto, half: bool) -> float | None:
    """Return what a graph costs on a GPU, None if it cannot be tiled."""
    from ...errors import ModelError
    from ..analysis import analyse
    from .tensor_core_cost import tensor_work

    try:
        analyse(model)
        work = tensor_work(model)
        return work.cost if half else work.cost_float32
    except ModelError:
        return None
