"""A compact network on LR pixels, equivariant as the bundled SRCNNs are.

A chain of unpadded 3x3 convolutions works at LR resolution; the last one has s² channels per output channel,
which are rearranged to HR pixels and added to the bicubic image. It is the plain network that ECBSR becomes
after training (Zhang, Zeng and Zhang, *Edge-oriented Convolution Block for Real-time Super Resolution on
Mobile Devices*, ACM MM 2021), without biases and with first filters that sum to zero. Convolutions without
biases, ReLU and PReLU are homogeneous, so ``f(a·x + b) = a·f(x) + b`` for all a > 0 and b.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..image.bicubic import RADIUS
from .srcnn import zero_sum

_NAME = re.compile(r"compact-m([1-9][0-9]?)c([1-9][0-9]{0,2})(-relu)?")
RULE = "compact-mMcC[-relu] with M layers of C channels, such as compact-m4c16"
# Sobel filters for both directions and the Laplacian: the edge detectors of ECB.
_EDGES = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
    ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
)
_EXPANSION = 2  # of the channels between the 1x1 and the 3x3 convolution of a block, as in ECB


class Shape(NamedTuple):
    """What the name of an architecture says.

    Attributes
    ----------
    layers : int
        Convolutions between the first and the last.
    width : int
        Channels of all layers but the last.
    prelu : bool
        Whether activations are PReLU with a slope per channel, or ReLU.
    """

    layers: int
    width: int
    prelu: bool


def parse(arch: str) -> Shape:
    """Parse ``"compact-m4c16"``.

    Raises
    ------
    ValueError
        If `arch` is not a name of this kind.
    """
    match = _NAME.fullmatch(arch)
    if match is None:
        raise ValueError(f"a compact architecture is {RULE}, got {arch!r}")
    return Shape(int(match[1]), int(match[2]), match[3] is None)


class Block(nn.Module):
    """A 3x3 convolution without bias or padding that is trained as a sum of branches.

    The branches are a 3x3 convolution, a 1x1 convolution to twice the channels followed by a 3x3
    convolution, three 1x1 convolutions followed by scaled Sobel and Laplacian filters, and the identity
    where the number of channels does not change. All are linear, so their sum is one 3x3 kernel.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    branches : bool
        Whether the block has all branches, or only the 3x3 convolution and the identity.
    """

    edges: Tensor

    def __init__(self, inputs: int, outputs: int, branches: bool) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.expand: nn.Parameter | None = None
        if branches:
            middle = _EXPANSION * outputs
            self.expand = nn.Parameter(torch.empty(middle, inputs, 1, 1))
            self.reduce = nn.Parameter(torch.empty(outputs, middle, 3, 3))
            self.mix = nn.Parameter(torch.empty(len(_EDGES) * outputs, inputs, 1, 1))
            self.gain = nn.Parameter(torch.full((len(_EDGES) * outputs,), 0.1))
            for parameter in (self.expand, self.reduce, self.mix):
                nn.init.kaiming_normal_(parameter, nonlinearity="linear")
            with torch.no_grad():  # all branches together start with the variance of one convolution
                self.reduce.mul_(0.5)
                self.weight.mul_(0.75**0.5)
        self.register_buffer("edges", torch.tensor(_EDGES), persistent=False)

    def kernel(self) -> Tensor:
        """Return the (outputs, inputs, 3, 3) kernel that all branches together are."""
        kernel: Tensor = self.weight
        if self.expand is not None:
            kernel = kernel + torch.einsum("omyx,mi->oiyx", self.reduce, self.expand[:, :, 0, 0])
            mixed = (self.mix[:, :, 0, 0] * self.gain[:, None]).reshape(len(_EDGES), self.outputs, -1)
            kernel = kernel + torch.einsum("eoi,eyx->oiyx", mixed, self.edges)
        if self.inputs == self.outputs:
            kernel = kernel + functional.pad(
                torch.eye(self.inputs, dtype=kernel.dtype, device=kernel.device)[:, :, None, None], (1,) * 4
            )
        return kernel

    def branch_by_branch(self, x: Tensor) -> Tensor:
        """Return the output as the sum of the outputs of all branches, each computed by itself."""
        y = functional.conv2d(x, self.weight)
        if self.expand is not None:
            y = y + functional.conv2d(functional.conv2d(x, self.expand), self.reduce)
            edges = functional.conv2d(
                functional.conv2d(x, self.mix),
                self.edges.repeat_interleave(self.outputs, 0)[:, None] * self.gain[:, None, None, None],
                groups=len(_EDGES) * self.outputs,
            )
            y = y + edges.reshape(len(x), len(_EDGES), self.outputs, *edges.shape[2:]).sum(1)
        return y + x[..., 1:-1, 1:-1] if self.inputs == self.outputs else y


class Compact(nn.Module):
    """The network: LR windows with margins in, HR cores out.

    Parameters
    ----------
    arch : str
        Such as ``"compact-m4c16"``, see `parse`.
    channels : int
        1 (luminance) or 3 (colour), of input and output.
    scale : int
        Scale factor.
    branches : bool
        Whether the blocks have all branches, see `Block`.
    """

    form = "equivariant"

    def __init__(self, arch: str, channels: int = 1, scale: int = 2, branches: bool = True) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        shape = parse(arch)
        self.arch, self.channels, self.scale, self.branches = arch, channels, scale, branches
        widths = [channels, *[shape.width] * (shape.layers + 1), channels * scale**2]
        self.blocks = nn.ModuleList(Block(a, b, branches) for a, b in pairwise(widths))
        self.activations = nn.ModuleList(
            nn.PReLU(shape.width) if shape.prelu else nn.ReLU() for _ in range(shape.layers + 1)
        )
        with torch.no_grad():  # the untrained network is nearly bicubic
            last = self.layers[-1]
            for parameter in (last.weight, last.reduce, last.gain) if branches else (last.weight,):
                parameter.mul_(0.01)

    @property
    def layers(self) -> list[Block]:
        """The convolutions in their order."""
        return cast("list[Block]", list(self.blocks))

    @property
    def shrink(self) -> int:
        """LR pixels by which the output is smaller on each side: one per convolution."""
        return len(self.blocks)

    @property
    def magnification(self) -> int:
        """HR pixels of the output per pixel of the input."""
        return self.scale

    def kernels(self) -> list[Tensor]:
        """Return the kernels of all layers; those of the first sum to zero."""
        first, *others = (layer.kernel() for layer in self.layers)
        return [zero_sum(first), *others]

    def forward(self, lr: Tensor) -> Tensor:  # (N, C, h + 2m, w + 2m) -> (N, C, s·h, s·w)
        x = lr
        for k, kernel in enumerate(self.kernels()):
            x = functional.conv2d(x, kernel)
            if k < len(self.activations):
                x = self.activations[k](x)
        return self._add_to_bicubic(x, lr)

    def branch_by_branch(self, lr: Tensor) -> Tensor:
        """Return what `forward` returns, without any folding of branches, for the check of an export."""
        # Subtracting the mean of a kernel's taps subtracts its response to 1 times the mean of the window.
        first, *others = self.layers
        x = first.branch_by_branch(lr)
        for c in range(self.channels):
            constant = torch.zeros(1, self.channels, 3, 3).to(lr)
            constant[:, c] = 1
            x = x - first.branch_by_branch(constant) * functional.avg_pool2d(lr[:, c : c + 1], 3, 1)
        for layer, activation in zip(others, self.activations, strict=True):
            x = layer.branch_by_branch(activation(x))
        return self._add_to_bicubic(x, lr)

    def _add_to_bicubic(self, residual: Tensor, lr: Tensor) -> Tensor:
        cut = self.shrink - RADIUS if self.scale > 1 else self.shrink
        image = lr[..., cut : lr.shape[-2] - cut, cut : lr.shape[-1] - cut]
        if self.scale > 1:
            image = functional.interpolate(image, scale_factor=self.scale, mode="bicubic", antialias=True)
            edge = RADIUS * self.scale
            image = image[..., edge:-edge, edge:-edge]
        # In the precision of the image, which autocast would round.
        return functional.pixel_shuffle(residual, self.scale).to(lr.dtype) + image


def adapt(source: Compact, network: Compact) -> dict[str, Tensor]:
    """Return the weights of a compact network as initial weights of another one.

    Branches that only one of them has are folded or stay as they are initialised, with the same kernels.
    The last layer is not taken over if the scale factor differs.

    Raises
    ------
    ValueError
        If layers, channels or activations differ.
    """
    if (source.arch, source.channels) != (network.arch, network.channels):
        raise ValueError(f"does not fit into {network.arch} with {network.channels} channels")
    weights = network.state_dict()
    count = len(network.blocks) - (source.scale != network.scale)
    if source.branches == network.branches:
        last = f"blocks.{count}."
        weights |= {k: v for k, v in source.state_dict().items() if not k.startswith(last)}
        return weights
    weights |= source.activations.state_dict(prefix="activations.")
    for k, (old, new) in enumerate(zip(source.layers[:count], network.layers, strict=False)):
        weights[f"blocks.{k}.weight"] = new.weight.detach() + old.kernel().detach() - new.kernel().detach()
    return weights
