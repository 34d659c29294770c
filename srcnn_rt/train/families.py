"""Small networks of other people whose state dicts tell what they are: a table to add rows to.

A row recognises a state dict by its keys and rebuilds the network from its shapes. Only
where that is unambiguous: same keys, one architecture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from ..errors import ModelError

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Family:
    """One row.

    Attributes
    ----------
    name : as people call it
    keys : what its state dict holds, for messages
    fits : whether a set of keys is this family's
    build : the network for weights and a scale
    entry : the key of the convolution that the picture enters
    scale : the scale that the weights tell, or None
    """

    name: str
    keys: str
    fits: Callable[[set[str]], bool]
    build: Callable[[Weights, int], nn.Module]
    entry: str
    scale: Callable[[Weights], int | None]

    def channels(self, weights: Weights) -> int:
        """Return the channels of the picture."""
        return int(weights[self.entry].shape[1])

    def network(self, weights: Weights, scale: int) -> nn.Module:
        """Return the network with these weights.

        Raises
        ------
        ModelError
            If shapes do not fit the architecture.
        """
        try:
            network = self.build(weights, scale)
            network.load_state_dict(dict(weights))
        except (RuntimeError, KeyError, IndexError, ValueError) as error:
            first = " ".join(str(error).split())[:200]
            raise ModelError(f"has the keys of {self.name} but other shapes: {first}") from error
        return network.eval()


def find(weights: Weights) -> Family | None:
    """Return the family whose keys these are."""
    return next((f for f in FAMILIES if f.fits(set(weights))), None)


def _conv(weight: Tensor, *, bias: bool = True) -> nn.Conv2d:
    out, channels, k, _ = weight.shape
    return nn.Conv2d(channels, out, k, padding=k // 2, bias=bias)


class Espcn(nn.Module):
    """Shi et al., arXiv 1609.05158: convolutions on the small picture, pixel shuffle at the end."""

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        a, b = (_conv(weights[f"first_part.{k}.weight"]) for k in (0, 2))
        self.first_part = nn.Sequential(a, nn.Tanh(), b, nn.Tanh())
        self.last_part = nn.Sequential(_conv(weights["last_part.0.weight"]), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last_part(self.first_part(x))
        return out


class Fsrcnn(nn.Module):
    """Dong et al., arXiv 1608.00367: shrink, map, expand, one transposed convolution."""

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        self.first_part = nn.Sequential(
            _conv(weights["first_part.0.weight"]), _prelu(weights["first_part.1.weight"])
        )
        count = max(int(k.split(".")[1]) for k in weights if k.startswith("mid_part.")) + 1
        tensors = [weights[f"mid_part.{k}.weight"] for k in range(count)]
        self.mid_part = nn.Sequential(*(_conv(t) if t.ndim == 4 else _prelu(t) for t in tensors))
        channels, out, k, _ = weights["last_part.weight"].shape
        self.last_part = nn.ConvTranspose2d(
            channels, out, k, stride=scale, padding=k // 2, output_padding=scale - 1
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last_part(self.mid_part(self.first_part(x)))
        return out


class _Residual(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.conv = _conv(weight, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class Vdsr(nn.Module):
    """Kim et al., arXiv 1511.04587: a residual on the bicubic-upscaled picture.

    The bicubic (Keys, a = -0.5) is a 5x5 convolution on the small picture, its edge repeated.
    """

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        from ..bicubic import REACH
        from ..bicubic import weights as kernel

        self._scale, self._reach = scale, REACH
        self._channels = weights["input.weight"].shape[1]
        self._bicubic = torch.from_numpy(kernel(scale, self._channels))
        self.input = _conv(weights["input.weight"], bias=False)
        self.output = _conv(weights["output.weight"], bias=False)
        count = max(int(k.split(".")[1]) for k in weights if k.startswith("residual_layer.")) + 1
        self.residual_layer = nn.Sequential(
            *(_Residual(weights[f"residual_layer.{k}.conv.weight"]) for k in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        edged = nn.functional.pad(x, (self._reach,) * 4, mode="replicate")
        phases = nn.functional.conv2d(edged, self._bicubic, groups=self._channels)
        up = nn.functional.pixel_shuffle(phases, self._scale)
        out: Tensor = up + self.output(self.residual_layer(torch.relu(self.input(up))))
        return out


class Srvgg(nn.Module):
    """Real-ESRGAN's compact network (SRVGGNetCompact with PReLU): nearest plus a shuffled residual."""

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        count = max(int(k.split(".")[1]) for k in weights) + 1
        tensors = [weights[f"body.{k}.weight"] for k in range(count)]
        self.body = nn.ModuleList(_conv(t) if t.ndim == 4 else _prelu(t) for t in tensors)
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.body:
            out = layer(out)
        base = nn.functional.interpolate(x, scale_factor=float(self._scale), mode="nearest")
        return nn.functional.pixel_shuffle(out, self._scale) + base


def _prelu(weight: Tensor) -> nn.PReLU:
    return nn.PReLU(weight.shape[0])


def _root(weights: Weights, key: str, channels: int) -> int | None:
    """Return the scale of a pixel shuffle from the channels that go into it."""
    count = weights[key].shape[0]
    scale = isqrt(count // channels)
    return scale if scale * scale * channels == count else None


def _last(weights: Weights) -> str:
    return f"body.{max(int(k.split('.')[1]) for k in weights)}.weight"


def _all(keys: set[str], pattern: str) -> bool:
    return all(re.fullmatch(pattern, k) for k in keys)


FAMILIES: tuple[Family, ...] = (
    Family(
        "ESPCN",
        "first_part.0, first_part.2, last_part.0",
        lambda keys: "last_part.0.weight" in keys
        and _all(keys, r"(first_part\.0|first_part\.2|last_part\.0)\.(weight|bias)"),
        Espcn,
        "first_part.0.weight",
        lambda w: _root(w, "last_part.0.weight", w["first_part.0.weight"].shape[1]),
    ),
    Family(
        "FSRCNN",
        "first_part.0, first_part.1, mid_part.*, last_part",
        lambda keys: {"first_part.1.weight", "last_part.weight", "mid_part.0.weight"} <= keys
        and _all(keys, r"(first_part\.[01]|mid_part\.\d+|last_part)\.(weight|bias)"),
        Fsrcnn,
        "first_part.0.weight",
        lambda w: None,
    ),
    Family(
        "VDSR",
        "input, residual_layer.*.conv, output (weights only)",
        lambda keys: {"input.weight", "output.weight", "residual_layer.0.conv.weight"} <= keys
        and _all(keys, r"(input|output|residual_layer\.\d+\.conv)\.weight"),
        Vdsr,
        "input.weight",
        lambda w: None,
    ),
    Family(
        "SRVGG",
        "body.0 … body.N (convolutions and PReLUs)",
        lambda keys: {"body.0.weight", "body.1.weight", "body.2.weight"} <= keys
        and _all(keys, r"body\.\d+\.(weight|bias)"),
        Srvgg,
        "body.0.weight",
        lambda w: _root(w, _last(w), w["body.0.weight"].shape[1]),
    ),
)  # fmt: skip
