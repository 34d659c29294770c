"""Third-party networks that can be recognised by the keys of their state dicts.

`FAMILIES` is a table to extend. Each row recognises a state dict by its keys, which must be unambiguous, and
builds the network from the shapes of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt, prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..image import bicubic

Weights = Mapping[str, Tensor]
Layer = TypeVar("Layer", bound=nn.Module)


_PARTS = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"


@dataclass(frozen=True, slots=True)
class Family:
    """A network architecture under the keys of one implementation.

    Attributes
    ----------
    name : str
    layers : tuple of str
        Layers that every state dict has. The image enters the first one.
    pattern : str
        Regular expression that the names of all layers match.
    build : callable
        Returns the network for weights and a scale factor.
    scale : callable
        Returns the scale factor that the weights determine, or None.
    value_range : str or None
        Input range. None stands for luminance in studio range, or RGB in [0, 1].
    """

    name: str
    layers: tuple[str, ...]
    pattern: str
    build: Callable[[Weights, int], nn.Module]
    scale: Callable[[Weights], int | None] = lambda weights: None
    value_range: str | None = None

    def matches(self, weights: Weights) -> bool:
        """Return whether a state dict has the keys of this family."""
        keys = re.compile(f"({self.pattern}){_PARTS}")
        return all(f"{name}.weight" in weights for name in self.layers) and all(map(keys.fullmatch, weights))

    def channels(self, weights: Weights) -> int:
        """Return the number of channels of the image."""
        return int(weights[f"{self.layers[0]}.weight"].shape[1])

    def network(self, weights: Weights, scale: int) -> nn.Module:
        """Return the network with the given weights, in evaluation mode.

        Raises
        ------
        ModelError
            If the shapes of the weights do not fit the architecture.
        """
        try:
            return self.build(weights, scale).eval()
        except (RuntimeError, KeyError, IndexError, ValueError) as error:
            first = " ".join(str(error).split())[:200]
            raise ModelError(f"has the keys of {self.name} but other shapes: {first}") from error


def find(weights: Weights) -> Family | None:
    """Return the family that a state dict belongs to."""
    return next((f for f in FAMILIES if f.matches(weights)), None)


# Layers


def _conv(weights: Weights, name: str, dilation: int = 1) -> nn.Conv2d:
    """Return a padded convolution with the weights under a name."""
    out, channels, k, _ = weights[f"{name}.weight"].shape
    padding, bias = dilation * (k // 2), f"{name}.bias" in weights
    return _load(nn.Conv2d(channels, out, k, padding=padding, dilation=dilation, bias=bias), weights, name)


def _conv_or_prelu(weights: Weights, name: str) -> nn.Module:
    weight = weights[f"{name}.weight"]
    return _conv(weights, name) if weight.ndim == 4 else _load(nn.PReLU(len(weight)), weights, name)


def _load(layer: Layer, weights: Weights, name: str) -> Layer:
    layer.load_state_dict({
        k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")
    })  # fmt: skip
    return layer


def _numbers(weights: Weights, prefix: str) -> list[int]:
    """Return the sorted numbers N of the keys ``prefix.N.…``."""
    return sorted({int(k[len(prefix) + 1 :].split(".")[0]) for k in weights if k.startswith(f"{prefix}.")})


def _upsampling(weights: Weights, names: list[str]) -> list[nn.Module]:
    """Return convolutions, each followed by a pixel shuffle."""
    return [m for n in names for m in (_conv(weights, n), nn.PixelShuffle(_shuffle_factor(weights, n)))]


class _Sum(nn.Module):
    """``base(x) + factor · branch(x)``."""

    def __init__(self, base: nn.Module, branch: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.base, self.branch, self.factor = base, branch, factor

    def forward(self, x: Tensor) -> Tensor:
        base: Tensor = self.base(x)
        branch: Tensor = self.branch(x)
        if self.factor == -1:
            return base - branch
        return base + (branch if self.factor == 1 else self.factor * branch)


class _Bicubic(nn.Module):
    """Bicubic upscaling (Keys, a = -1/2) whose edges repeat: a 5 x 5 convolution and a pixel shuffle."""

    def __init__(self, scale: int, channels: int) -> None:
        super().__init__()
        self.scale, self.channels = scale, channels
        self.register_buffer("kernel", torch.from_numpy(bicubic.weights(scale, channels)))

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (bicubic.RADIUS,) * 4, mode="replicate")
        phases = nn.functional.conv2d(padded, self.get_buffer("kernel"), groups=self.channels)
        return nn.functional.pixel_shuffle(phases, self.scale)


class _In255(nn.Module):
    """A network for images in 0..255, less their mean, applied to images in [0, 1]."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.network = network
        self.mean = None if mean is None else torch.tensor(mean).reshape(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None:
            return self.network(255 * x) / 255  # type: ignore[no-any-return]
        return self.network((x - self.mean) * 255) / 255 + self.mean  # type: ignore[no-any-return]


# Networks


def _fsrcnn(weights: Weights, scale: int) -> nn.Module:
    """Return an FSRCNN (Dong et al., arXiv 1608.00367)."""
    names = [f"first_part.{k}" for k in (0, 1)] + [f"mid_part.{k}" for k in _numbers(weights, "mid_part")]
    channels, out, k, _ = weights["last_part.weight"].shape
    last = nn.ConvTranspose2d(channels, out, k, stride=scale, padding=k // 2, output_padding=scale - 1)
    return nn.Sequential(*(_conv_or_prelu(weights, n) for n in names), _load(last, weights, "last_part"))


def _vdsr(weights: Weights, scale: int) -> nn.Module:
    """Return a VDSR (Kim et al., arXiv 1511.04587) with the bicubic upscaling in front of it."""
    names = ["input", *(f"residual_layer.{k}.conv" for k in _numbers(weights, "residual_layer"))]
    layers = [m for n in names for m in (_conv(weights, n), nn.ReLU())]
    residual = nn.Sequential(*layers, _conv(weights, "output"))
    return nn.Sequential(_Bicubic(scale, weights["input.weight"].shape[1]), _Sum(nn.Identity(), residual))


def _srvgg(weights: Weights, scale: int) -> nn.Module:
    """Return Real-ESRGAN's SRVGGNetCompact with PReLUs."""
    layers = [_conv_or_prelu(weights, f"body.{k}") for k in _numbers(weights, "body")]
    return _Sum(nn.Upsample(scale_factor=float(scale)), nn.Sequential(*layers, nn.PixelShuffle(scale)))


_DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # of R, G and B, as EDSR subtracts it
_WIDE = 256  # filters of the large EDSR, whose residual blocks are scaled by 0.1
_IRCNN_DILATIONS = (1, 2, 3, 4, 3, 2, 1)


def _blocks(weights: Weights, count: int, first: str, second: str, width: int = 0) -> nn.Sequential:
    """Return EDSR's residual blocks ``body.N``, of two convolutions with the given names."""
    blocks = []
    for k in range(count):
        one, two = (_conv(weights, f"body.{k}.{name}") for name in (first, second))
        blocks.append(_Sum(nn.Identity(), nn.Sequential(one, nn.ReLU(), two), 0.1 if width == _WIDE else 1))
    return nn.Sequential(*blocks)


def _edsr(
    weights: Weights, first: str, blocks: nn.Module, after: str, upsample: str, last: str
) -> nn.Sequential:
    """Return an EDSR (Lim et al., arXiv 1707.02921) of residual blocks and layers with the given names."""
    return nn.Sequential(
        _conv(weights, first),
        _Sum(nn.Identity(), nn.Sequential(blocks, _conv(weights, after))),
        *_upsampling(weights, [f"{upsample}.{k}" for k in _numbers(weights, upsample)]),
        _conv(weights, last),
    )


def _edsr_of_basicsr(weights: Weights, scale: int) -> nn.Module:
    """Return an EDSR as BasicSR saves it."""
    count, width = len(_numbers(weights, "body")), len(weights["conv_first.weight"])
    blocks = _blocks(weights, count, "conv1", "conv2", width)
    network = _edsr(weights, "conv_first", blocks, "conv_after_body", "upsample", "conv_last")
    return _In255(network, _DIV2K_MEAN)


def _edsr_of_authors(weights: Weights, scale: int) -> nn.Module:
    """Return an EDSR as its authors save it: convolutions subtract and add the mean."""
    count, width = max(_numbers(weights, "body")), len(weights["head.0.weight"])
    blocks = _blocks(weights, count, "body.0", "body.2", width)
    network = _edsr(weights, "head.0", blocks, f"body.{count}", "tail.0", "tail.1")
    return _In255(nn.Sequential(_conv(weights, "sub_mean"), *network, _conv(weights, "add_mean")))


def _srresnet(weights: Weights, scale: int) -> nn.Module:
    """Return BasicSR's MSRResNet (after Ledig et al., arXiv 1609.04802)."""
    layers: list[nn.Module] = [_conv(weights, "conv_first"), nn.LeakyReLU(0.1)]
    layers.append(_blocks(weights, len(_numbers(weights, "body")), "conv1", "conv2"))
    for name in ("upconv1", "upconv2"):
        if f"{name}.weight" in weights:
            layers += [*_upsampling(weights, [name]), nn.LeakyReLU(0.1)]
    layers += [_conv(weights, "conv_hr"), nn.LeakyReLU(0.1), _conv(weights, "conv_last")]
    return _Sum(nn.Upsample(scale_factor=float(scale), mode="bilinear"), nn.Sequential(*layers))


def _build_dncnn(prefix: str, weights: Weights, scale: int) -> nn.Module:
    """Return a DnCNN (Zhang et al., arXiv 1608.03981) or IRCNN (arXiv 1704.03264).

    Both have the same keys in KAIR. IRCNN is the one with seven convolutions, which are dilated.
    """
    numbers = _numbers(weights, prefix)
    kernels = [w for k in numbers if (w := weights[f"{prefix}.{k}.weight"]).ndim == 4]
    takes, gives = kernels[0].shape[1], kernels[-1].shape[0]
    if takes != gives:
        raise ValueError(f"{gives} channels of {takes}: FFDNet and FDnCNN also take a noise level")
    is_ircnn = len(kernels) == len(_IRCNN_DILATIONS)
    dilations = iter(_IRCNN_DILATIONS if is_ircnn else (1,) * len(kernels))
    layers: list[nn.Module] = [nn.ReLU() for _ in range(numbers[-1] + 1)]
    for k in numbers:
        name = f"{prefix}.{k}"
        if (weight := weights[f"{name}.weight"]).ndim == 4:
            layers[k] = _conv(weights, name, next(dilations))
        else:
            layers[k] = _load(nn.BatchNorm2d(len(weight)), weights, name)
    return _Sum(nn.Identity(), nn.Sequential(*layers), -1)


# Scale factors


def _shuffle_factor(weights: Weights, name: str) -> int:
    """Return the factor of the pixel shuffle behind a convolution, which keeps the channels otherwise."""
    out, channels = weights[f"{name}.weight"].shape[:2]
    return isqrt(out // channels)


def _product(pattern: str) -> Callable[[Weights], int | None]:
    """Return a function that multiplies the factors of all pixel shuffles."""
    keys = re.compile(rf"({pattern})\.weight")
    return lambda w: prod(_shuffle_factor(w, k.removesuffix(".weight")) for k in w if keys.fullmatch(k))


def _last_shuffle(weights: Weights, last: str, entry: str) -> int | None:
    """Return the factor of a pixel shuffle that yields the image."""
    out, channels = weights[f"{last}.weight"].shape[0], weights[f"{entry}.weight"].shape[1]
    scale = isqrt(out // channels)
    return scale if scale * scale * channels == out else None


# The table


def _espcn(names: tuple[str, ...], activation: type[nn.Module]) -> Family:
    """Return the row of an ESPCN (Shi et al., arXiv 1609.05158)."""

    def build(weights: Weights, scale: int) -> nn.Module:
        layers = [m for n in names for m in (_conv(weights, n), activation())]
        return nn.Sequential(*layers[:-1], nn.PixelShuffle(scale))

    pattern = "|".join(map(re.escape, names))
    return Family("ESPCN", names, pattern, build, lambda w: _last_shuffle(w, names[-1], names[0]))


def _dncnn(prefix: str) -> Family:
    layers = (f"{prefix}.0", f"{prefix}.2")
    build = partial(_build_dncnn, prefix)
    return Family("DnCNN or IRCNN", layers, rf"{prefix}\.\d+", build, lambda w: 1, "0..1")


_BASICSR = r"conv_first|conv_last|body\.\d+\.conv[12]"

FAMILIES: tuple[Family, ...] = (
    _espcn(("first_part.0", "first_part.2", "last_part.0"), nn.Tanh),
    _espcn(("feature_maps.0", "feature_maps.2", "sub_pixel.0"), nn.Tanh),
    _espcn(("conv1", "conv2", "conv3", "conv4"), nn.ReLU),  # PyTorch's own example
    Family(
        "FSRCNN",
        ("first_part.0", "first_part.1", "mid_part.0", "last_part"),
        r"first_part\.[01]|mid_part\.\d+|last_part",
        _fsrcnn,
    ),
    Family(
        "VDSR",
        ("input", "residual_layer.0.conv", "output"),
        r"input|output|residual_layer\.\d+\.conv",
        _vdsr,
    ),
    Family(
        "SRVGG",
        ("body.0", "body.1", "body.2"),
        r"body\.\d+",
        _srvgg,
        lambda w: _last_shuffle(w, f"body.{max(_numbers(w, 'body'))}", "body.0"),
    ),
    Family(
        "EDSR",
        ("conv_first", "conv_after_body", "upsample.0"),
        rf"{_BASICSR}|conv_after_body|upsample\.\d",
        _edsr_of_basicsr,
        _product(r"upsample\.\d"),
    ),
    Family(
        "EDSR",
        ("sub_mean", "head.0", "tail.0.0"),
        r"(sub|add)_mean|head\.0|body\.\d+(\.body\.[02])?|tail\.0\.\d|tail\.1",
        _edsr_of_authors,
        _product(r"tail\.0\.\d"),
    ),
    Family(
        "SRResNet",
        ("conv_first", "upconv1", "conv_hr"),
        rf"{_BASICSR}|upconv[12]|conv_hr",
        _srresnet,
        _product(r"upconv[12]"),
    ),
    _dncnn("model"),
    _dncnn("dncnn"),
)
