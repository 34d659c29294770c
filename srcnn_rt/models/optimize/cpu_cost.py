"""Cost of convolutions on a CPU: the multiply-accumulates that are executed, not only the useful ones.

Vector units compute `LANES` output channels at once (AVX-512 holds 16 float32; OpenVINO, oneDNN and ONNX
Runtime block channels by it). So a convolution to one channel executes sixteen times what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..analysis.tensors import Flow
from ..analysis.trace import trace_at
from ..onnx_helpers import attribute

if TYPE_CHECKING:
    from onnx import ModelProto

LANES = 16
SIDE = 5040  # LR samples of the trace: divisible by all usual periods, and margins hardly matter


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-accumulates per output pixel.

    Attributes
    ----------
    useful : float
        Those that the graph asks for.
    executed : float
        The same with the output channels of every convolution rounded up to `LANES`.
    layers : dict of str to float
        Executed ones by the name of a convolution's output.
    """

    useful: float
    executed: float
    layers: dict[str, float]


def executed(out: int, inner: int, kernel: tuple[int, ...], step: tuple[int, int] = (1, 1)) -> float:
    """Return the executed multiply-accumulates of a convolution per position of a grid.

    Parameters
    ----------
    out, inner : int
        Channels of the output, and of the input that each of them reads.
    kernel : tuple of int
        (kh, kw).
    step : tuple of int
        Positions of the grid between two outputs, (y, x).
    """
    return math.ceil(out / LANES) * LANES * inner * math.prod(kernel) / math.prod(step)


def cheapest(costs: Mapping[int, float], maximum: float) -> int | None:
    """Return the key of the smallest cost; None if there is none up to `maximum`."""
    best = min(costs, key=lambda key: costs[key], default=None)
    return best if best is not None and costs[best] <= maximum else None


def work(model: ModelProto) -> Work:
    """Count a model's multiply-accumulates per output pixel.

    Raises
    ------
    ModelError
        If the graph cannot be traced.
    """
    trace = trace_at(model, SIDE)
    pixels = math.prod(trace.output.spatial)
    layers, extra = {}, 0.0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "QLinearConv"):
            continue
        result, source = trace.states[node.output[0]], trace.states[node.input[0]]
        weight = trace.states[node.input[1 if node.op_type == "Conv" else 3]]
        if not isinstance(result, Flow) or not isinstance(source, Flow) or isinstance(weight, Flow):
            continue
        group = attribute(node, "group", 1)
        out, inner, kh, kw = weight.value.shape
        positions = math.prod(result.spatial) / pixels
        once = executed(out // group, inner, (kh, kw)) * group * positions
        layers[node.output[0]] = once
        extra += once - out * inner * kh * kw * positions
    useful = trace.macs / pixels
    return Work(useful, useful + extra, layers)
