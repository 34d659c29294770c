"""SRCNN (Dong et al., arXiv 1501.00092, §3) in two forms.

Three unpadded convolutions on the bicubic-upscaled image: patch extraction (f1 x f1, 64 filters, ReLU),
non-linear mapping (f2 x f2, 32 filters, ReLU), reconstruction (f3 x f3, linear).

The paper's form has biases and outputs the image. The equivariant form has no biases, its first filters
sum to zero, and its output is added to the bicubic image. ReLU and convolutions without biases are
homogeneous, and filters that sum to zero ignore an offset, so ``f(a·x + b) = a·f(x) + b`` for all a > 0
and b: the network works on reflectances, metres or kelvins without knowing their range.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

FILTERS = (64, 32)  # n1, n2 of the paper's basic setting, §4.1
ARCHITECTURES = ("9-1-5", "9-3-5", "9-5-5")
INITS = ("identity", "paper")
FORMS = ("equivariant", "paper")
_FIRST_GAIN = 0.5  # of the first layer's initial weights, chosen among 0.1 to 12 (docs/evaluation.md)


def kernel_sizes(arch: str) -> tuple[int, int, int]:
    """Parse ``"9-1-5"`` to ``(9, 1, 5)``.

    Raises
    ------
    ValueError
        If `arch` is not three odd positive numbers joined by dashes.
    """
    parts = arch.split("-")
    if len(parts) != 3 or not all(p.isdigit() and int(p) % 2 == 1 for p in parts):
        raise ValueError(f"an architecture is three odd kernel sizes such as 9-1-5, got {arch!r}")
    f1, f2, f3 = (int(p) for p in parts)
    return f1, f2, f3


def zero_sum(weight: Tensor) -> Tensor:
    """Return filters (n, C, f, f) minus the mean of each channel's taps."""
    return weight - weight.mean(dim=(2, 3), keepdim=True)


class SRCNN(nn.Module):
    """The network without bicubic upscaling. Its output is `shrink` pixels smaller on each side.

    Parameters
    ----------
    arch : str
        Kernel sizes ``f1-f2-f3``, odd: ``"9-1-5"``, ``"9-3-5"`` or ``"9-5-5"``.
    channels : int
        1 (luminance) or 3 (colour), of input and output.
    init : {"identity", "paper"}
        ``"paper"``: Gaussian with σ = 0.001, zero bias (§4.1). ``"identity"``: the initial network
        approximates the identity, so that training starts at the PSNR of bicubic rather than at a black
        image. All filters but those that pass the image on have zero mean, so that no ReLU is always
        on or always off.
    filters : tuple of int
        Number of filters of the first and the second layer, (64, 32) in the paper.
    form : {"equivariant", "paper"}
        See the module. Of the equivariant form, `first_filters` sum to zero whatever ``conv1.weight`` is.
    """

    def __init__(
        self,
        arch: str = "9-1-5",
        channels: int = 1,
        init: str = "identity",
        filters: tuple[int, int] = FILTERS,
        form: str = "equivariant",
    ) -> None:
        super().__init__()
        for name, value, known in (("init", init, INITS), ("form", form, FORMS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        f1, f2, f3 = kernel_sizes(arch)
        n1, n2 = filters
        if init == "identity" and min(n1, n2) < channels:
            raise ValueError(f"init 'identity' needs at least {channels} filters per layer, got {filters}")
        self.arch, self.channels, self.form = arch, channels, form
        biased = form == "paper"
        self.conv1 = nn.Conv2d(channels, n1, f1, bias=biased)
        self.conv2 = nn.Conv2d(n1, n2, f2, bias=biased)
        self.conv3 = nn.Conv2d(n2, channels, f3, bias=biased)
        for conv in (self.conv1, self.conv2, self.conv3):
            if init == "paper":
                nn.init.normal_(conv.weight, std=0.001)
            else:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if init == "identity":
            self._approximate_identity()

    @property
    def shrink(self) -> int:
        """HR pixels by which the output is smaller on each side: 6 for 9-1-5, 8 for 9-5-5."""
        return sum(k // 2 for k in kernel_sizes(self.arch))

    @property
    def magnification(self) -> int:
        """HR pixels of the output per pixel of the input, which is upscaled already."""
        return 1

    @property
    def first_filters(self) -> Tensor:
        """Filters (n1, C, f1, f1) that the first layer applies."""
        return zero_sum(self.conv1.weight) if self.form == "equivariant" else self.conv1.weight

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H - 2·shrink, W - 2·shrink)
        # (N, 64, H - f1 + 1, ...)
        y = torch.relu(nn.functional.conv2d(x, self.first_filters, self.conv1.bias))
        y = torch.relu(self.conv2(y))  # (N, 32, ...)
        out: Tensor = self.conv3(y)  # (N, C, ...)
        if self.form == "equivariant":
            n = self.shrink
            # In the precision of the image, which autocast would round.
            out = out.to(x.dtype) + x[..., n : x.shape[-2] - n, n : x.shape[-1] - n]
        return out

    @torch.no_grad()
    def _approximate_identity(self) -> None:
        # A filter with a mean responds to brightness ten times more than to detail: its ReLU is on
        # or off everywhere, and most of the second layer dies.
        self.conv1.weight -= self.conv1.weight.mean(dim=(1, 2, 3), keepdim=True)
        self.conv1.weight *= _FIRST_GAIN
        self.conv3.weight *= 0.01  # all paths but the identity are weak at first
        if self.form == "equivariant":
            return
        self.conv2.weight[:, : self.channels] = 0.0  # separates the identity from the other paths
        # The image is never negative, so delta filters pass it through both ReLUs.
        for c in range(self.channels):
            for conv in (self.conv1, self.conv2, self.conv3):
                conv.weight[c] = 0.0
                conv.weight[c, c, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1.0


def adapt(weights: Mapping[str, Tensor], network: SRCNN) -> dict[str, Tensor]:
    """Return the weights of an SRCNN as initial weights of another one of the same form.

    Smaller kernels are centred in larger ones, which does not change their response.

    Raises
    ------
    ValueError
        If form, channels or number of filters differ, or kernels are larger than those of `network`.
    """
    fresh = network.state_dict()
    if weights.keys() != fresh.keys():
        raise ValueError(f"its form is not {network.form!r}")
    found = {}
    for name, new in fresh.items():
        old = weights[name]
        grow = [n - o for n, o in zip(new.shape[2:], old.shape[2:], strict=True)]
        if new.shape[:2] != old.shape[:2] or any(g < 0 or g % 2 for g in grow):
            raise ValueError(f"{name} of {tuple(old.shape)} does not fit into {tuple(new.shape)}")
        if grow[:1] != [0] and name == "conv1.weight" and network.form == "equivariant":
            old = zero_sum(old)  # because padding changes the mean
        found[name] = nn.functional.pad(old, [g // 2 for g in reversed(grow) for _ in (0, 1)])
    return found
