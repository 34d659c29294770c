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
    entry : the weight of the convolution that the image enters
    scale : the scale that the weights tell, or None
    values : its black and white, where that is not luminance in studio swing, or RGB in [0, 1]
    """

    name: str
    keys: str
    fits: Callable[[set[str]], bool]
    build: Callable[[Weights, int], nn.Module]
    entry: Callable[[Weights], Tensor]
    scale: Callable[[Weights], int | None]
    values: str | None = None

    def channels(self, weights: Weights) -> int:
        """Return the channels of the image."""
        return int(self.entry(weights).shape[1])

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
    """Shi et al., arXiv 1609.05158: convolutions on the small image, pixel shuffle at the end.

    Three layers and tanh under two sets of names, or four and ReLU as in PyTorch's own example.
    """

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        self._relu = "conv4.weight" in weights
        self._names = sorted({k.rpartition(".")[0] for k in weights}, key=_position)
        for name in self._names:
            _hang(self, name, _conv(weights[f"{name}.weight"]))
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for name in self._names[:-1]:
            x = self.get_submodule(name)(x)
            x = torch.relu(x) if self._relu else torch.tanh(x)
        return nn.functional.pixel_shuffle(self.get_submodule(self._names[-1])(x), self._scale)


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
    """Kim et al., arXiv 1511.04587: a residual on the bicubic-upscaled image.

    The bicubic (Keys, a = -0.5) is a 5x5 convolution on the small image, its edge repeated.
    """

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        from ..image.bicubic import RADIUS
        from ..image.bicubic import weights as kernel

        self._scale, self._radius = scale, RADIUS
        self._channels = weights["input.weight"].shape[1]
        self._bicubic = torch.from_numpy(kernel(scale, self._channels))
        self.input = _conv(weights["input.weight"], bias=False)
        self.output = _conv(weights["output.weight"], bias=False)
        count = max(int(k.split(".")[1]) for k in weights if k.startswith("residual_layer.")) + 1
        self.residual_layer = nn.Sequential(
            *(_Residual(weights[f"residual_layer.{k}.conv.weight"]) for k in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        edged = nn.functional.pad(x, (self._radius,) * 4, mode="replicate")
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


_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's R, G and B, as EDSR takes it away
_WIDE = 256  # filters of EDSR's large network, whose blocks add a tenth of what they find


class _Block(nn.Module):
    """Two convolutions whose result is added: no batch normalisation."""

    def __init__(self, weights: Weights, start: str, factor: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = (_conv(weights[f"{start}.conv{k}.weight"]) for k in (1, 2))
        self._factor = factor

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self._factor * self.conv2(torch.relu(self.conv1(x)))
        return out


class Edsr(nn.Module):
    """Lim et al., arXiv 1707.02921, as BasicSR saves it: images in [0, 1]."""

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        self.conv_first, self.body = _conv(weights["conv_first.weight"]), _blocks(weights)
        self.conv_after_body = _conv(weights["conv_after_body.weight"])
        ups = [k for k in sorted(weights) if k.startswith("upsample.") and k.endswith(".weight")]
        self.upsample = nn.Sequential(*(m for k in ups for m in (_conv(weights[k]), _shuffle(weights[k]))))
        self.conv_last = _conv(weights["conv_last.weight"])
        self._mean = torch.tensor(_MEAN).reshape(1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first((x - self._mean) * 255)
        out: Tensor = self.conv_last(self.upsample(first + self.conv_after_body(self.body(first))))
        return out / 255 + self._mean


class EdsrOfItsAuthors(nn.Module):
    """The same as its authors save it: the mean is in the weights, of images in 0..255."""

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = (_conv(weights[f"{k}.weight"]) for k in ("sub_mean", "add_mean"))
        self.head = nn.Sequential(_conv(weights["head.0.weight"]))
        count = max(int(k.split(".")[1]) for k in weights if k.startswith("body."))
        factor = 0.1 if weights["head.0.weight"].shape[0] == _WIDE else 1.0
        self.body = nn.Sequential()
        for k in range(count):
            first, second = (_conv(weights[f"body.{k}.body.{j}.weight"]) for j in (0, 2))
            self.body.append(_AuthorsBlock(first, second, factor))
        self.body.append(_conv(weights[f"body.{count}.weight"]))
        ups = [k for k in sorted(weights) if k.startswith("tail.0.") and k.endswith(".weight")]
        up = nn.Sequential(*(m for k in ups for m in (_conv(weights[k]), _shuffle(weights[k]))))
        self.tail = nn.Sequential(up, _conv(weights["tail.1.weight"]))

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(self.sub_mean(255 * x))
        out: Tensor = self.add_mean(self.tail(first + self.body(first)))
        return out / 255


class _AuthorsBlock(nn.Module):
    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, factor: float) -> None:
        super().__init__()
        self.body, self._factor = nn.Sequential(first, nn.ReLU(), second), factor

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self._factor * self.body(x)
        return out


class SrResNet(nn.Module):
    """BasicSR's MSRResNet, after Ledig et al., arXiv 1609.04802: added to the bilinear enlargement."""

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        self.conv_first, self.body = _conv(weights["conv_first.weight"]), _blocks(weights)
        for name in ("upconv1", "upconv2", "conv_hr", "conv_last"):
            if f"{name}.weight" in weights:
                _hang(self, name, _conv(weights[f"{name}.weight"]))
        self._ups = [(k, _times(weights[f"{k}.weight"])) for k in ("upconv1", "upconv2") if hasattr(self, k)]
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(nn.functional.leaky_relu(self.conv_first(x), 0.1))
        for name, times in self._ups:
            out = nn.functional.leaky_relu(
                nn.functional.pixel_shuffle(self.get_submodule(name)(out), times), 0.1
            )
        last, hr = self.get_submodule("conv_last"), self.get_submodule("conv_hr")
        out = last(nn.functional.leaky_relu(hr(out), 0.1))
        sum_: Tensor = out + nn.functional.interpolate(x, scale_factor=float(self._scale), mode="bilinear")
        return sum_


class DnCnn(nn.Module):
    """Zhang et al., arXiv 1608.03981, and IRCNN, arXiv 1704.03264: what a Sequential finds is taken away.

    Of KAIR's two networks of these keys IRCNN is the one of seven layers, dilated 1, 2, 3, 4, 3, 2, 1.
    """

    def __init__(self, weights: Weights, scale: int) -> None:
        super().__init__()
        self._name = next(iter(weights)).partition(".")[0]
        places = sorted({int(k.split(".")[1]) for k in weights})
        convs = [k for k in places if weights[f"{self._name}.{k}.weight"].ndim == 4]
        takes, gives = (weights[f"{self._name}.{convs[k]}.weight"].shape[1 - j] for j, k in ((0, 0), (1, -1)))
        if takes != gives:
            raise ValueError(f"{gives} channels of {takes}: FFDNet and FDnCNN take a noise level, too")
        dilations = _IRCNN if len(convs) == len(_IRCNN) else (1,) * len(convs)
        layers: list[nn.Module] = [nn.ReLU() for _ in range(places[-1] + 1)]
        for k, dilation in zip(convs, dilations, strict=True):
            weight = weights[f"{self._name}.{k}.weight"]
            layer = _conv(weight, bias=f"{self._name}.{k}.bias" in weights)
            layer.dilation, layer.padding = (dilation,) * 2, (dilation * (weight.shape[2] // 2),) * 2
            layers[k] = layer
        for k in set(places) - set(convs):
            layers[k] = nn.BatchNorm2d(weights[f"{self._name}.{k}.weight"].shape[0])
        _hang(self, self._name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x - self.get_submodule(self._name)(x)
        return out


_IRCNN = (1, 2, 3, 4, 3, 2, 1)


def _hang(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Add a layer under a name with dots in it."""
    *outer, last = name.split(".")
    for part in outer:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.add_module(last, layer)


def _position(name: str) -> tuple[int, str]:
    """Order layers: the one that is shuffled is the last."""
    return int(name.startswith(("last_part", "sub_pixel"))), name


def _blocks(weights: Weights) -> nn.Sequential:
    """Return BasicSR's residual blocks, body.0 … body.N."""
    count = max(int(k.split(".")[1]) for k in weights if k.startswith("body.")) + 1
    factor = 0.1 if weights["conv_first.weight"].shape[0] == _WIDE else 1.0
    return nn.Sequential(*(
        _Block(weights, f"body.{k}", factor) for k in range(count)
    ))  # fmt: skip


def _times(weight: Tensor) -> int:
    """Return the factor of a pixel shuffle behind a convolution that keeps the channels otherwise."""
    return isqrt(weight.shape[0] // weight.shape[1])


def _shuffle(weight: Tensor) -> nn.PixelShuffle:
    return nn.PixelShuffle(_times(weight))


def _enlargement(weights: Weights, pattern: str) -> int:
    """Return the scale of one or more pixel shuffles."""
    scale = 1
    for key, weight in weights.items():
        if re.fullmatch(pattern, key):
            scale *= _times(weight)
    return scale


def _prelu(weight: Tensor) -> nn.PReLU:
    return nn.PReLU(weight.shape[0])


def _root(weights: Weights, last: str, entry: str) -> int | None:
    """Return the scale of a pixel shuffle from the channels that go into it and those of the image."""
    count, channels = weights[last].shape[0], weights[entry].shape[1]
    scale = isqrt(count // channels)
    return scale if scale * scale * channels == count else None


def _last(weights: Weights) -> str:
    return f"body.{max(int(k.split('.')[1]) for k in weights)}.weight"


def _all(keys: set[str], pattern: str) -> bool:
    return all(re.fullmatch(pattern, k) for k in keys)


def _both(names: tuple[str, ...]) -> set[str]:
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


_ESPCN = (
    ("first_part.0", "first_part.2", "last_part.0"),
    ("feature_maps.0", "feature_maps.2", "sub_pixel.0"),
    ("conv1", "conv2", "conv3", "conv4"),
)
_ESPCN_ENTRIES = tuple(f"{names[0]}.weight" for names in _ESPCN)
_ESPCN_LAST = tuple(f"{names[-1]}.weight" for names in _ESPCN)
_BASIC = r"(conv_first|conv_last|body\.\d+\.conv[12])\.(weight|bias)"
_AUTHORS = r"(sub|add)_mean|head\.0|body\.\d+(\.body\.[02])?|tail\.0\.\d|tail\.1"


FAMILIES: tuple[Family, ...] = (
    Family(
        "ESPCN",
        "first_part.0, first_part.2, last_part.0; or feature_maps.*, sub_pixel.0; or conv1 … conv4",
        lambda keys: any(keys == _both(names) for names in _ESPCN),
        Espcn,
        lambda w: next(v for k, v in w.items() if k in _ESPCN_ENTRIES),
        lambda w: _root(w, *(next(k for k in names if k in w) for names in (_ESPCN_LAST, _ESPCN_ENTRIES))),
    ),
    Family(
        "FSRCNN",
        "first_part.0, first_part.1, mid_part.*, last_part",
        lambda keys: {"first_part.1.weight", "last_part.weight", "mid_part.0.weight"} <= keys
        and _all(keys, r"(first_part\.[01]|mid_part\.\d+|last_part)\.(weight|bias)"),
        Fsrcnn,
        lambda w: w["first_part.0.weight"],
        lambda w: None,
    ),
    Family(
        "VDSR",
        "input, residual_layer.*.conv, output (weights only)",
        lambda keys: {"input.weight", "output.weight", "residual_layer.0.conv.weight"} <= keys
        and _all(keys, r"(input|output|residual_layer\.\d+\.conv)\.weight"),
        Vdsr,
        lambda w: w["input.weight"],
        lambda w: None,
    ),
    Family(
        "SRVGG",
        "body.0 … body.N (convolutions and PReLUs)",
        lambda keys: {"body.0.weight", "body.1.weight", "body.2.weight"} <= keys
        and _all(keys, r"body\.\d+\.(weight|bias)"),
        Srvgg,
        lambda w: w["body.0.weight"],
        lambda w: _root(w, _last(w), "body.0.weight"),
    ),
    Family(
        "EDSR",
        "conv_first, body.*.conv1, conv_after_body, upsample.*, conv_last",
        lambda keys: {"conv_first.weight", "conv_after_body.weight", "upsample.0.weight"} <= keys
        and _all(keys, rf"{_BASIC}|(conv_after_body|upsample\.\d)\.(weight|bias)"),
        Edsr,
        lambda w: w["conv_first.weight"],
        lambda w: _enlargement(w, r"upsample\.\d\.weight"),
    ),
    Family(
        "EDSR",
        "sub_mean, head.0, body.*.body.*, tail.*, add_mean",
        lambda keys: {"sub_mean.weight", "head.0.weight", "tail.0.0.weight"} <= keys
        and _all(keys, rf"({_AUTHORS})\.(weight|bias)"),
        EdsrOfItsAuthors,
        lambda w: w["sub_mean.weight"],
        lambda w: _enlargement(w, r"tail\.0\.\d\.weight"),
    ),
    Family(
        "SRResNet",
        "conv_first, body.*.conv1, upconv1, conv_hr, conv_last",
        lambda keys: {"conv_first.weight", "upconv1.weight", "conv_hr.weight"} <= keys
        and _all(keys, rf"{_BASIC}|(upconv[12]|conv_hr)\.(weight|bias)"),
        SrResNet,
        lambda w: w["conv_first.weight"],
        lambda w: _enlargement(w, r"upconv[12]\.weight"),
    ),
    Family(
        "DnCNN or IRCNN",
        "model.0, model.2 … or dncnn.0 … (convolutions, batch normalisation)",
        lambda keys: any(
            {f"{name}.0.weight", f"{name}.2.weight"} <= keys
            and _all(keys, rf"{name}\.\d+\.(weight|bias|running_mean|running_var|num_batches_tracked)")
            for name in ("model", "dncnn")
        ),
        DnCnn,
        lambda w: next(v for k, v in w.items() if k.endswith(".0.weight")),
        lambda w: 1,
        "0..1",  # gray images as they are
    ),
)  # fmt: skip
