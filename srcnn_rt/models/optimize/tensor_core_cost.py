"""Cost of a graph on tensor cores in float16: multiply-accumulates and memory traffic.

Tensor cores multiply small matrices (16 x 16 by 16 x 8 for float16, PTX's mma.m16n8k16), and NVIDIA's
"Convolutional Layers User's Guide" asks for input and output channels in multiples of 8. A layer of one
channel is computed as one of eight, and copied for it. Small networks are also bound by memory, so both are
counted, and weighted by an A100's data sheet (312 TFLOPS in float16 with float32 sums; 1,555 GB/s). This
ranks graphs. It does not predict times.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..analysis.tensors import Flow, Known
from ..analysis.trace import Trace, trace_at
from ..onnx_helpers import attribute
from .cpu_cost import SIDE

if TYPE_CHECKING:
    from onnx import ModelProto

LANES = 8
BYTES = 2  # per sample
MACS_PER_BYTE = 100  # 156e12 MAC/s over 1.555e12 byte/s
MACS_PER_BYTE_FLOAT32 = 6  # 9.75e12 MAC/s without tensor cores
_LAYERS = ("Conv", "ConvTranspose")
_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class TensorWork:
    """Work per output pixel.

    Attributes
    ----------
    useful : float
        Multiply-accumulates that the graph asks for.
    executed : float
        The same with channels rounded up to `LANES`.
    moved : float
        Bytes of activations read and written.
    layers : dict of str to float
        Executed multiply-accumulates by the name of a convolution's output.
    """

    useful: float
    executed: float
    moved: float
    layers: dict[str, float]

    @property
    def cost(self) -> float:
        """Estimated cost in float16, in multiply-accumulates."""
        return self.executed + MACS_PER_BYTE * self.moved

    @property
    def cost_float32(self) -> float:
        """Estimated cost in float32 without TF32, which pads no channels and moves twice the bytes."""
        return self.useful + MACS_PER_BYTE_FLOAT32 * 4 / BYTES * self.moved


def padded_channels(count: int) -> int:
    """Return a number of channels rounded up to a multiple of `LANES`."""
    return -(-count // LANES) * LANES


def executed(out: int, inner: int, kernel: tuple[int, int], group: int = 1) -> int:
    """Return the executed multiply-accumulates of a convolution at one position.

    Parameters
    ----------
    out, inner : int
        Channels of the output, and of the input that each of them reads.
    kernel : tuple of int
        (kh, kw).
    group : int
        Number of groups.
    """
    return padded_channels(out // group) * padded_channels(inner) * math.prod(kernel) * group


def bytes_moved(out: int, inner: int) -> int:
    """Return the bytes that a convolution with as many inputs as outputs moves at one position."""
    return BYTES * (out + inner + copied_samples(inner))


def copied_samples(count: int) -> int:
    """Return the samples per position that are copied to round an input of `count` channels up."""
    return count + padded_channels(count) if count % LANES else 0


def tensor_work(model: ModelProto) -> TensorWork:
    """Count a model's work per output pixel.

    A ReLU that is the only reader of a convolution costs nothing, because runtimes fuse the two.

    Raises
    ------
    ModelError
        If the graph cannot be traced.
    """
    trace = trace_at(model, SIDE)
    pixels = _output_pixels(trace)
    readers = Counter(name for node in model.graph.node for name in node.input)
    layers: dict[str, float] = {}
    useful, moved = 0.0, 0
    for node in model.graph.node:
        flows = [s for n in node.input if n and isinstance(s := trace.states.get(n), Flow)]
        results = [s for n in node.output if isinstance(s := trace.states.get(n), Flow)]
        if not flows or not results or node.op_type in _VIEWS:
            continue
        if node.op_type == "Relu" and node.input[0] in layers and readers[node.input[0]] == 1:
            continue
        samples = sum(math.prod(s.shape) for s in (*flows, *results))
        weight = trace.states[node.input[1]] if node.op_type in _LAYERS else None
        if isinstance(weight, Known):
            # The weight's rows are the channels of its outputs, or of the inputs of a transposed convolution.
            rows, each, kh, kw = weight.value.shape
            flow = results[0] if node.op_type == "Conv" else flows[0]
            positions = math.prod(flow.shape) / rows
            macs = executed(rows, each, (kh, kw), attribute(node, "group", 1))
            useful += weight.value.size * positions / pixels
            layers[node.output[0]] = macs * positions / pixels
            count = flows[0].shape[1]
            samples += copied_samples(count) * math.prod(flows[0].shape) // count
        moved += samples
    return TensorWork(useful, sum(layers.values()), BYTES * moved / pixels, layers)


def largest_activation(model: ModelProto) -> float:
    """Return the samples per output pixel of a model's largest activation.

    Raises
    ------
    ModelError
        If the graph cannot be traced.
    """
    trace = trace_at(model, SIDE)
    largest = max(math.prod(s.shape) for s in trace.states.values() if isinstance(s, Flow))
    return largest / _output_pixels(trace)


def _output_pixels(trace: Trace) -> int:
    return math.prod(trace.output.spatial) * trace.output.shape[0]
