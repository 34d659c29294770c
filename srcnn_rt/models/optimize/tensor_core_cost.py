"""What a graph costs on tensor cores, in float16: multiply-accumulates and memory.

Tensor cores multiply small matrices (for float16 16 x 16 by 16 x 8, PTX's mma.m16n8k16), and NVIDIA's
"Convolutional Layers User's Guide" wants input and output channels in multiples of 8: a layer of one
channel is computed as one of eight, and is copied for it. A network this small is bound as much by what
it moves, so both are counted, weighed as an A100's data sheet has them (312 TFLOPS in float16, sums
in float32; 1,555 GB/s). That ranks graphs; it foretells no time, and no GPU has confirmed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..analysis.tensors import Flow, Known
from ..analysis.trace import Interface, Trace, computed, constants
from .cpu_cost import SIDE
from .graph_edit import attribute

if TYPE_CHECKING:
    from onnx import ModelProto

LANES = 8
BYTES = 2  # of a sample
MACS_A_BYTE = 100  # 156e12 a second by 1.555e12 bytes
MACS_A_BYTE_FLOAT32 = 6  # 9.75e12 a second without tensor cores
_LAYERS = ("Conv", "ConvTranspose")
_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class TensorWork:
    """What is computed and moved an output pixel.

    Attributes
    ----------
    useful : multiply-accumulates that the graph asks for
    executed : with channels filled up to `LANES`
    moved : bytes of activations, read and written
    layers : executed ones by the name of a convolution's output
    """

    useful: float
    executed: float
    moved: float
    layers: dict[str, float]

    @property
    def cost(self) -> float:
        """One number to rank graphs by, in multiply-accumulates."""
        return self.executed + MACS_A_BYTE * self.moved

    @property
    def cost_float32(self) -> float:
        """The same in float32 without TF32, which fills nothing up and moves twice the bytes."""
        return self.useful + MACS_A_BYTE_FLOAT32 * 4 / BYTES * self.moved


def filled(count: int) -> int:
    """Return a number of channels filled up to `LANES`."""
    return -(-count // LANES) * LANES


def executed(out: int, inner: int, kernel: tuple[int, int], group: int = 1) -> int:
    """Return the multiply-accumulates of a convolution at one position.

    Parameters
    ----------
    out : channels of the output
    inner : channels of the input that each of them reads
    """
    return filled(out // group) * filled(inner) * math.prod(kernel) * group


def read_and_written(out: int, inner: int) -> int:
    """Return the bytes that a convolution moves at one position, of as many inputs as outputs."""
    return BYTES * (out + inner + copied(inner))


def copied(count: int) -> int:
    """Return the samples at one position of an input of `count` channels that is copied to be filled up."""
    return count + filled(count) if count % LANES else 0


def tensor_work(model: ModelProto) -> TensorWork:
    """Count a model's work an output pixel.

    Activations that alone read a convolution are part of it, as runtimes fuse them.

    Raises
    ------
    ModelError
        If the graph cannot be traced.
    """
    trace, pixels = _traced(model)
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
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
            group = attribute(node, "group", 1)
            # Rows are what one position of `flow` has to do with: outputs, of a transposed one inputs.
            rows, each, kh, kw = weight.value.shape
            flow = results[0] if node.op_type == "Conv" else flows[0]
            positions = math.prod(flow.shape) / rows
            useful += weight.value.size * positions / pixels
            layers[node.output[0]] = executed(rows, each, (kh, kw), group) * positions / pixels
            count = flows[0].shape[1]
            samples += copied(count) * math.prod(flows[0].shape) // count
        moved += samples
    return TensorWork(useful, sum(layers.values()), BYTES * moved / pixels, layers)


def widest(model: ModelProto) -> float:
    """Return how many samples an output pixel the largest activation of a model has.

    Raises
    ------
    ModelError
        If the graph cannot be traced.
    """
    trace, pixels = _traced(model)
    return max(math.prod(s.shape) for s in trace.states.values() if isinstance(s, Flow)) / pixels


def _traced(model: ModelProto) -> tuple[Trace, int]:
    """Return a run on shapes alone, and how many output pixels it has."""
    face = Interface.of(model)
    trace = Trace(model, face, computed(model, constants(model)), face.height or SIDE, face.width or SIDE)
    return trace, math.prod(trace.output.spatial) * trace.output.shape[0]
