"""ONNX graphs of SRCNNs with the bicubic upscaling in front of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ..architectures.srcnn import SRCNN
from ..image import bicubic


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


def build_graph(network: SRCNN, scale: int) -> ModelProto:
    """Return the ONNX model of an SRCNN: LR windows with margins in, HR cores out, without padding.

    HR samples that bicubic yields beyond what the network reads are cropped before the first convolution,
    where they are one channel. The equivariant form adds the output of the network to the bicubic image.
    """
    channels, equivariant = network.channels, network.form == "equivariant"
    body: list[NodeProto] = []
    initialisers: list[TensorProto] = []

    def crop(source: str, name: str, cut: int) -> str:
        inputs = [source]
        for key, values in (("starts", [cut] * 2), ("ends", [-cut] * 2), ("axes", [2, 3])):
            inputs.append(f"{name}.{key}")
            initialisers.append(numpy_helper.from_array(np.array(values, np.int64), inputs[-1]))
        body.append(helper.make_node("Slice", inputs, [f"{name}.out"], name))
        return f"{name}.out"

    last, surplus = "lr", 0
    if scale > 1:
        body, initialisers = bicubic.nodes("lr", "bicubic", scale, channels)
        last, shrink = "bicubic", network.shrink
        surplus = (bicubic.margin_for(shrink, scale) - bicubic.RADIUS) * scale - shrink
    if surplus:
        last = crop(last, "crop", surplus)
    image = last
    for k, (conv, weight) in enumerate(_layers(network), start=1):
        arrays = {"weight": weight} if conv.bias is None else {"weight": weight, "bias": _array(conv.bias)}
        initialisers += [numpy_helper.from_array(array, f"conv{k}.{part}") for part, array in arrays.items()]
        inputs = [last, *(f"conv{k}.{part}" for part in arrays)]
        last = "hr" if k == 3 and not equivariant else f"conv{k}.out"
        kernel = list(conv.kernel_size)
        body.append(helper.make_node("Conv", inputs, [last], f"conv{k}", kernel_shape=kernel))
        if k < 3:
            body.append(helper.make_node("Relu", [last], [f"relu{k}.out"], f"relu{k}"))
            last = f"relu{k}.out"
    if equivariant:
        body.append(helper.make_node("Add", [last, crop(image, "inner", network.shrink)], ["hr"], "sum"))
    graph = helper.make_graph(
        body,
        f"srcnn-{network.arch}-x{scale}",
        [bicubic.value("lr", channels, "in")],
        [bicubic.value("hr", channels, "out")],
        initialisers,
    )
    return bicubic.make_model(graph)


def _layers(network: SRCNN) -> list[tuple[nn.Conv2d, NDArray[np.float32]]]:
    """Return the convolutions with the weights that they apply."""
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
