"""SRCNN as the paper draws it (Dong et al., arXiv 1501.00092, §3).

Three convolutions on the bicubic-upscaled picture, none of them padded:
patch extraction (f1 x f1, 64 filters, ReLU), non-linear mapping (f2 x f2,
32 filters, ReLU), reconstruction (f3 x f3, linear).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FILTERS = (64, 32)  # n1, n2 of the paper's basic setting, §4.1
ARCHITECTURES = ("9-1-5", "9-3-5", "9-5-5")
INITS = ("identity", "paper")
_FIRST_GAIN = 0.5  # of the first layer's start, found by trial: 0.1 to 12 (docs/evaluation.md)


def kernel_sizes(arch: str) -> tuple[int, int, int]:
    """Read ``"9-1-5"`` as ``(9, 1, 5)``.

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


class SRCNN(nn.Module):
    """The network on its own: bicubic-upscaled picture in, sharpened picture out.

    Parameters
    ----------
    arch : str
        Kernel sizes ``f1-f2-f3``, odd: ``"9-1-5"``, ``"9-3-5"`` or ``"9-5-5"``.
    channels : int
        1 (luminance) or 3 (colour), in and out.
    init : {"identity", "paper"}
        ``"paper"``: Gaussian with σ = 0.001, zero bias (§4.1). ``"identity"``: the
        first filter path passes the picture through unchanged and the others start
        small, so training begins at bicubic's PSNR rather than at a black picture; and
        they start blind to the mean, so that no ReLU is always on or always off.
    filters : tuple of int
        Filters of the first and the second layer, (64, 32) in the paper.
    """

    def __init__(
        self,
        arch: str = "9-1-5",
        channels: int = 1,
        init: str = "identity",
        filters: tuple[int, int] = FILTERS,
    ) -> None:
        super().__init__()
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        f1, f2, f3 = kernel_sizes(arch)
        n1, n2 = filters
        if init == "identity" and min(n1, n2) < channels:
            raise ValueError(f"an identity start needs at least {channels} filters a layer, got {filters}")
        self.arch = arch
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, n1, f1)
        self.conv2 = nn.Conv2d(n1, n2, f2)
        self.conv3 = nn.Conv2d(n2, channels, f3)
        if init == "paper":
            self._init_paper()
        else:
            self._init_identity()

    @property
    def shrink(self) -> int:
        """HR pixels the unpadded convolutions take off each side: 6 for 9-1-5, 8 for 9-5-5."""
        return sum(k // 2 for k in kernel_sizes(self.arch))

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H - 2·shrink, W - 2·shrink)
        x = torch.relu(self.conv1(x))  # (N, 64, H - f1 + 1, W - f1 + 1)
        x = torch.relu(self.conv2(x))  # (N, 32, ...)
        out: Tensor = self.conv3(x)  # (N, C, ...)
        return out

    def _init_paper(self) -> None:
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.normal_(conv.weight, std=0.001)
            nn.init.constant_(conv.bias, 0.0)  # type: ignore[arg-type]

    def _init_identity(self) -> None:
        # The picture is never negative, so a delta filter survives both ReLUs.
        convs = (self.conv1, self.conv2, self.conv3)
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.constant_(conv.bias, 0.0)  # type: ignore[arg-type]
        with torch.no_grad():
            # A filter that sees the mean answers to it alone, ten times stronger than to detail:
            # its ReLU is then on or off everywhere, and most of the second layer dies.
            self.conv1.weight -= self.conv1.weight.mean(dim=(1, 2, 3), keepdim=True)
            self.conv1.weight *= _FIRST_GAIN
            self.conv2.weight[:, : self.channels] = 0.0  # the picture passes through beside them
            self.conv3.weight *= 0.01  # the other paths start near silence
            for c in range(self.channels):
                for conv in convs:
                    conv.weight[c] = 0.0
                    conv.weight[c, c, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1.0
