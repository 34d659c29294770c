"""ONNX graphs of this package's networks with the bicubic upscaling inside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ..architectures.compact import Compact
from ..architectures.networks import Network
from ..architectures.srcnn import SRCNN
from ..image import bicubic


class Branches(nn.Module):
    """A compact network whose branches are computed one by one: the reference for the folded graph."""

    def __init__(self, network: Compact) -> None:
        super().__init__()
        self.network, self.margin = network, network.shrink

    def forward(self, lr: Tensor) -> Tensor:  # (N, C, h + 2m, w + 2m) -> (N, C, s·h, s·w)
        return self.network.branch_by_branch(lr)


class Upscaler(nn.Module):
    """Reference implementation of the graph in PyTorch: LR windows with margins in, HR cores out.

    Parameters
    ----------
    network : SRCNN
    scale : int
        Scale factor, at least 2.
    """

    def __init__(self, network: SRCNN, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        self.margin = bicubic.margin_for(network.shrink, scale)

    def forward(self, lr: Tensor) -> Tensor:  # (N, C, h + 2m, w + 2m) -> (N, C, s·h, s·w)
        up = nn.functional.interpolate(lr, scale_factor=self.scale, mode="bicubic", antialias=True)
        cut = self.margin * self.scale - self.network.shrink
        out: Tensor = self.network(up[:, :, cut:-cut, cut:-cut])
        return out


def build_graph(network: Network, scale: int) -> ModelProto:
    """Return the ONNX model of a network: LR windows with margins in, HR cores out, without padding.

    HR samples that bicubic yields beyond what an SRCNN reads are cropped before the first convolution,
    where they are one channel. The equivariant form adds the output of the network to the bicubic image.
    """
    if isinstance(network, Compact):
        return _compact_graph(network)
    graph = _Graph(network.channels)
    last, surplus = "lr", 0
    if scale > 1:
        last = graph.bicubic("lr", scale)
        surplus = (bicubic.margin_for(network.shrink, scale) - bicubic.RADIUS) * scale - network.shrink
    image = last = graph.crop(last, "crop", surplus)
    for k, (conv, weight) in enumerate(_layers(network), start=1):
        arrays = {"weight": weight} if conv.bias is None else {"weight": weight, "bias": _array(conv.bias)}
        last = graph.conv(f"conv{k}", last, **arrays)
        if k < 3:
            last = graph.add("Relu", f"relu{k}", last)
    if network.form == "equivariant":
        inner = graph.crop(image, "inner", network.shrink)
        graph.add("Add", "sum", last, inner)
    return graph.model(f"srcnn-{network.arch}-x{scale}")


def _compact_graph(network: Compact) -> ModelProto:
    graph, scale = _Graph(network.channels), network.scale
    kernels = [_array(kernel) for kernel in network.kernels()]
    kernels[0] = exactly_zero_sum(kernels[0])
    last = "lr"
    for k, kernel in enumerate(kernels, start=1):
        last = graph.conv(f"conv{k}", last, weight=kernel)
        if k <= len(network.activations):
            activation = network.activations[k - 1]
            if isinstance(activation, nn.PReLU):
                slope = graph.constant(f"prelu{k}.slope", _array(activation.weight)[:, None, None])
                last = graph.add("PRelu", f"prelu{k}", last, slope)
            else:
                last = graph.add("Relu", f"relu{k}", last)
    if scale > 1:
        last = graph.add("DepthToSpace", "shuffle", last, blocksize=scale, mode="CRD")
        image = graph.bicubic(graph.crop("lr", "inner", network.shrink - bicubic.RADIUS), scale)
    else:
        image = graph.crop("lr", "inner", network.shrink)
    graph.add("Add", "sum", last, image)
    return graph.model(f"{network.arch}-x{scale}")


class _Graph:
    """Nodes and initialisers of a graph from ``lr`` to ``hr``."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._nodes: list[NodeProto] = []
        self._initialisers: list[TensorProto] = []

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self._initialisers.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        self._nodes.append(helper.make_node(kind, inputs, [f"{name}.out"], name, **attributes))
        return f"{name}.out"

    def conv(self, name: str, source: str, **arrays: NDArray[np.float32]) -> str:
        inputs = [self.constant(f"{name}.{part}", values) for part, values in arrays.items()]
        return self.add("Conv", name, source, *inputs, kernel_shape=list(arrays["weight"].shape[2:]))

    def crop(self, source: str, name: str, cut: int) -> str:
        """Crop `cut` pixels off every side."""
        if not cut:
            return source
        values = {"starts": [cut] * 2, "ends": [-cut] * 2, "axes": [2, 3]}
        inputs = [self.constant(f"{name}.{key}", np.array(v, np.int64)) for key, v in values.items()]
        return self.add("Slice", name, source, *inputs)

    def bicubic(self, source: str, scale: int) -> str:
        nodes, initialisers = bicubic.nodes(source, "bicubic", scale, self._channels)
        self._nodes += nodes
        self._initialisers += initialisers
        return "bicubic"

    def model(self, name: str) -> ModelProto:
        """Return the checked model, whose output is that of the last node."""
        self._nodes[-1].output[0] = "hr"
        inputs, outputs = (
            [bicubic.value(side, self._channels, part)] for side, part in (("lr", "in"), ("hr", "out"))
        )
        return bicubic.make_model(helper.make_graph(self._nodes, name, inputs, outputs, self._initialisers))


def _layers(network: SRCNN) -> list[tuple[nn.Conv2d, NDArray[np.float32]]]:
    """Return the convolutions of an SRCNN with the weights that they apply."""
    convs = (network.conv1, network.conv2, network.conv3)
    first, *others = map(_array, (network.first_filters, network.conv2.weight, network.conv3.weight))
    if network.form == "equivariant":
        first = exactly_zero_sum(first)
    return list(zip(convs, (first, *others), strict=True))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().numpy(), np.float32)


def exactly_zero_sum(weight: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return filters whose taps sum to exactly zero in floating point.

    The taps of each channel are rounded to multiples of 2^-22 of the power of two of the largest tap. The
    remaining sum is distributed, one step each, to the taps with the largest opposite rounding error.

    Parameters
    ----------
    weight : ndarray, shape (n, C, f, f)

    Returns
    -------
    ndarray of the same shape, float32
    """
    flat = np.asarray(weight, np.float64).reshape(-1, weight.shape[2] * weight.shape[3])
    flat = flat - flat.mean(axis=1, keepdims=True)
    _, power = np.frexp(np.abs(flat).max(axis=1, keepdims=True))
    step = np.ldexp(1.0, power - 22)
    rounded = np.rint(flat / step)
    for row, exact in zip(rounded, flat / step, strict=True):
        left = int(row.sum())
        order = np.argsort((exact - row) * np.sign(left))[: abs(left)]
        row[order] -= np.sign(left)
    return np.asarray(rounded * step, np.float32).reshape(weight.shape)
