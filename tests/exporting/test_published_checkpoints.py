"""State dicts of other people's networks: defined here as their authors publish them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")

from torch import nn  # noqa: E402

from srcnn_rt import ArgumentError, Engine, ModelError  # noqa: E402
from srcnn_rt.architectures import families  # noqa: E402
from srcnn_rt.evaluation.seam_check import verify  # noqa: E402
from srcnn_rt.exporting.checkpoint import export  # noqa: E402
from srcnn_rt.models import spec  # noqa: E402
from tests.conftest import drawing  # noqa: E402
from tests.helpers import reference  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own


class Espcn(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.first_part = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()
        )
        self.last_part = nn.Sequential(nn.Conv2d(32, scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        return self.last_part(self.first_part(x))


class Fsrcnn(nn.Module):
    def __init__(self, scale: int, d: int = 56, s: int = 12, m: int = 4) -> None:
        super().__init__()
        self.first_part = nn.Sequential(nn.Conv2d(1, d, 5, padding=2), nn.PReLU(d))
        middle = [nn.Conv2d(d, s, 1), nn.PReLU(s)]
        for _ in range(m):
            middle += [nn.Conv2d(s, s, 3, padding=1), nn.PReLU(s)]
        middle += [nn.Conv2d(s, d, 1), nn.PReLU(d)]
        self.mid_part = nn.Sequential(*middle)
        self.last_part = nn.ConvTranspose2d(d, 1, 9, stride=scale, padding=4, output_padding=scale - 1)

    def forward(self, x):
        return self.last_part(self.mid_part(self.first_part(x)))


class ConvReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.relu(self.conv(x))


class Vdsr(nn.Module):
    """Works on the image that bicubic has enlarged already."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.residual_layer = nn.Sequential(*(ConvReLU() for _ in range(4)))
        self.input = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.output = nn.Conv2d(16, 1, 3, padding=1, bias=False)

    def forward(self, x):
        return self.output(self.residual_layer(torch.relu(self.input(x)))) + x


class Srvgg(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.upscale = scale
        self.body = nn.ModuleList([nn.Conv2d(3, 16, 3, 1, 1), nn.PReLU(16)])
        for _ in range(4):
            self.body += [nn.Conv2d(16, 16, 3, 1, 1), nn.PReLU(16)]
        self.body.append(nn.Conv2d(16, 3 * scale * scale, 3, 1, 1))

    def forward(self, x):
        out = x
        for layer in self.body:
            out = layer(out)
        out = nn.functional.pixel_shuffle(out, self.upscale)
        return out + nn.functional.interpolate(x, scale_factor=self.upscale, mode="nearest")


class EspcnOfThreeLayers(nn.Module):
    """Under the names of another repository; three channels."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.feature_maps = nn.Sequential(
            nn.Conv2d(3, 16, 5, 1, 2), nn.Tanh(), nn.Conv2d(16, 8, 3, 1, 1), nn.Tanh()
        )
        self.sub_pixel = nn.Sequential(nn.Conv2d(8, 3 * scale**2, 3, 1, 1), nn.PixelShuffle(scale))

    def forward(self, x):
        return self.sub_pixel(self.feature_maps(x))


class EspcnOfPyTorch(nn.Module):
    """PyTorch's own example."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 64, 5, 1, 2), nn.Conv2d(64, 64, 3, 1, 1)
        self.conv3, self.conv4 = nn.Conv2d(64, 32, 3, 1, 1), nn.Conv2d(32, scale**2, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
        return self.pixel_shuffle(self.conv4(x))


class ResidualBlockNoBN(nn.Module):
    def __init__(self, width: int, res_scale: float = 1) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return x + self.conv2(self.relu(self.conv1(x))) * self.res_scale


class Edsr(nn.Module):
    """BasicSR's."""

    def __init__(self, scale: int, width: int = 8, res_scale: float = 1) -> None:
        super().__init__()
        self.mean = torch.Tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1)
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlockNoBN(width, res_scale) for _ in range(3)))
        self.conv_after_body = nn.Conv2d(width, width, 3, 1, 1)
        steps = [3] if scale == 3 else [2] * (scale // 2)
        self.upsample = nn.Sequential(*(
            m for n in steps for m in (nn.Conv2d(width, n * n * width, 3, 1, 1), nn.PixelShuffle(n))
        ))  # fmt: skip
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x):
        x = (x - self.mean) * 255.0
        x = self.conv_first(x)
        res = self.conv_after_body(self.body(x))
        res += x
        return self.conv_last(self.upsample(res)) / 255.0 + self.mean


class MeanShift(nn.Conv2d):
    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, kernel_size=1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = sign * 255 * torch.Tensor((0.4488, 0.4371, 0.4040))


class ResBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x):
        return self.body(x).mul(1) + x


class EdsrPyTorch(nn.Module):
    """Its authors': images in 0..255, which is undone here, for the models of a file are in 0..1."""

    def __init__(self, scale: int, width: int = 8) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3, width, 3, padding=1))
        body = [*(ResBlock(width) for _ in range(3)), nn.Conv2d(width, width, 3, padding=1)]
        self.body = nn.Sequential(*body)
        layers = [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)]
        up = nn.Sequential(*layers)  # twice for scale 4
        assert scale == 2
        self.tail = nn.Sequential(up, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x):
        x = self.head(self.sub_mean(255 * x))
        res = self.body(x)
        res += x
        return self.add_mean(self.tail(res)) / 255


class MsrResNet(nn.Module):
    """BasicSR's SRResNet without batch normalisation."""

    def __init__(self, scale: int, width: int = 8) -> None:
        super().__init__()
        self.upscale = scale
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlockNoBN(width) for _ in range(3)))
        step = 3 if scale == 3 else 2
        self.upconv1 = nn.Conv2d(width, width * step * step, 3, 1, 1)
        self.pixel_shuffle = nn.PixelShuffle(step)
        if scale == 4:
            self.upconv2 = nn.Conv2d(width, width * 4, 3, 1, 1)
        self.conv_hr, self.conv_last = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(negative_slope=0.1, inplace=True)

    def forward(self, x):
        out = self.body(self.lrelu(self.conv_first(x)))
        out = self.lrelu(self.pixel_shuffle(self.upconv1(out)))
        if self.upscale == 4:
            out = self.lrelu(self.pixel_shuffle(self.upconv2(out)))
        out = self.conv_last(self.lrelu(self.conv_hr(out)))
        out += nn.functional.interpolate(x, scale_factor=self.upscale, mode="bilinear", align_corners=False)
        return out


class KairDnCnn(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(8):
            layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers, nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, x):
        return x - self.model(x)


class DnCnnWithNorm(nn.Module):
    """With batch normalisation and without biases, three channels; its users take the noise away."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(inplace=True)]
        for _ in range(4):
            norm = nn.BatchNorm2d(8)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            layers += [nn.Conv2d(8, 8, 3, padding=1, bias=False), norm, nn.ReLU(inplace=True)]
        self.dncnn = nn.Sequential(*layers, nn.Conv2d(8, 3, 3, padding=1, bias=False))

    def forward(self, x):
        return x - self.dncnn(x)


class Ircnn(nn.Module):
    """KAIR's."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        layers = []
        for k, dilation in enumerate((1, 2, 3, 4, 3, 2, 1)):
            sizes = (1 if k == 0 else 8, 1 if k == 6 else 8)
            layers += [nn.Conv2d(*sizes, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return x - self.model(x)


# name: (network, its scale, whether the weights tell the scale, channels, margin)
ROWS = {
    "ESPCN": (Espcn, 3, True, 1, 4),
    "FSRCNN": (Fsrcnn, 2, False, 1, 8),
    "VDSR": (Vdsr, 2, False, 1, 5),
    "SRVGG": (Srvgg, 4, True, 3, 6),
    "ESPCN, feature_maps": (EspcnOfThreeLayers, 3, True, 3, 4),
    "ESPCN, conv1": (EspcnOfPyTorch, 2, True, 1, 5),
    "EDSR": (Edsr, 4, True, 3, 10),
    "EDSR, sub_mean": (EdsrPyTorch, 2, True, 3, 10),
    "SRResNet": (MsrResNet, 4, True, 3, 9),
    "SRResNet, x3": (MsrResNet, 3, True, 3, 9),
    "DnCNN or IRCNN": (KairDnCnn, 1, True, 1, 10),
    "DnCNN or IRCNN, normalised": (DnCnnWithNorm, 1, True, 3, 6),
    "DnCNN or IRCNN, dilated": (Ircnn, 1, True, 1, 16),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_known_family_is_exported_and_proven(tmp_path: Path, name: str) -> None:
    make, scale, told, channels, margin = ROWS[name]
    torch.manual_seed(0)
    network = make(scale).eval()
    torch.save({"params": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "c.pth")
    if not told:
        with pytest.raises(ArgumentError, match=r"c\.pth: does not determine its scale; use --scale"):
            export(tmp_path / "c.pth", tmp_path / "m.onnx")
    described = export(tmp_path / "c.pth", tmp_path / "m.onnx", scale=None if told else scale)
    assert (described.architecture, described.scale, described.channels) == (
        name.partition(",")[0],
        scale,
        channels,
    )
    assert described.margin == margin
    assert [c.passed for c in verify(tmp_path / "m.onnx")].count(False) == 0
    # Luminance is what these networks learnt it as, 16 to 235 of 255; denoisers take gray as it is.
    black, white = (16 / 255, 235 / 255) if channels == 1 and scale > 1 else (0.0, 1.0)
    image = drawing(37, 41, channels).astype(np.float32)
    fed = (black + (white - black) * image).astype(np.float32).transpose(2, 0, 1)[None]
    if name == "VDSR":
        fed = np.stack([reference.bicubic(p, scale) for p in fed[0]])[None].astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(np.ascontiguousarray(fed))).numpy()[0].transpose(1, 2, 0)
    with Engine(tmp_path / "m.onnx", provider="cpu", tile=16) as engine:
        got = engine.upscale(image)
    # VDSR's bicubic repeats the edge where the oracle mirrors it: two LR pixels and its receptive field.
    cut = (2 + margin) * scale if name == "VDSR" else 0
    inner = (slice(cut, -cut or None),) * 2
    assert np.abs(got - (expected - black) / (white - black))[inner].max() < 1e-4


def test_scales_that_contradict_and_shapes_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(Espcn(3).state_dict(), tmp_path / "c.pt")
    with pytest.raises(ArgumentError, match="trained for scale 3, got --scale 2"):
        export(tmp_path / "c.pt", tmp_path / "m.onnx", scale=2)
    broken = Srvgg(2).state_dict()
    broken["body.2.weight"] = torch.zeros(5, 4, 3, 3)
    torch.save(broken, tmp_path / "b.pt")
    with pytest.raises(ModelError, match=r"b\.pt: has the keys of SRVGG but other shapes"):
        export(tmp_path / "b.pt", tmp_path / "m.onnx")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "u.pt")
    with pytest.raises(ModelError) as caught:
        export(tmp_path / "u.pt", tmp_path / "m.onnx", scale=2)
    for word in ("SRCNN", "ESPCN", "FSRCNN", "VDSR", "SRVGG", "found features.0.weight"):
        assert word in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()
    assert spec.default_model(2) == "srcnn-915-x2"
    assert spec.default_model(4, best=True) == "compact-m10c32-x4"


def test_blocks_of_the_wide_edsr_add_a_tenth() -> None:
    """The one of 256 filters; the factor is not among its weights."""
    network = Edsr(2, 256, 0.1).eval()
    family = families.find(network.state_dict())
    assert family is not None
    x = torch.rand(1, 3, 8, 9)
    with torch.no_grad():
        assert torch.allclose(family.network(network.state_dict(), 2)(x), network(x), atol=1e-5)


def test_a_network_that_takes_a_noise_level_is_refused(tmp_path: Path) -> None:
    """FFDNet's keys are those of DnCNN."""
    layers = [nn.Conv2d(5, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    torch.save({f"model.{k}": v for k, v in nn.Sequential(*layers).state_dict().items()}, tmp_path / "c.pt")
    with pytest.raises(ModelError, match="4 channels of 5: FFDNet and FDnCNN also take a noise level"):
        export(tmp_path / "c.pt", tmp_path / "m.onnx")


# package, class and options of spandrel's, its name, whether it can be tiled
SPANDREL = {
    "ESRGAN": ("ESRGAN", "ESRGAN", {"num_filters": 8, "num_blocks": 1, "scale": 4}, "ESRGAN", True),
    "SPAN": ("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2},
             "SPAN", True),
    "RCAN": ("RCAN", "RCAN", {"scale": 2, "n_resgroups": 1, "n_resblocks": 2, "n_feats": 16, "reduction": 4},
             "RCAN", False),
    "RealCUGAN": ("RealCUGAN", "UpCunet2x", {}, "RealCUGAN", False),
}  # fmt: skip


@pytest.mark.parametrize("name", SPANDREL)
def test_what_spandrel_knows_is_exported(tmp_path: Path, name: str) -> None:
    """A pth as they are published, without its scale; what cannot be tiled runs whole, and is said to."""
    pytest.importorskip("einops", reason="the extra 'spandrel' is not installed")
    import importlib

    from click.testing import CliRunner

    from srcnn_rt.architectures import spandrel_models
    from srcnn_rt.cli import main

    package, kind, options, called, tiled = SPANDREL[name]
    spandrel_models._spandrel()
    torch.manual_seed(0)
    network = getattr(importlib.import_module(f"spandrel.architectures.{package}"), kind)(**options).eval()
    torch.save({"params_ema": network.state_dict()}, tmp_path / "c.pth")
    result = CliRunner().invoke(main, ["export", str(tmp_path / "c.pth"), "-o", str(tmp_path / "m.onnx")])
    assert result.exit_code == 0, result.output
    assert f"{called}, scale {options.get('scale', 2)}, " in result.stdout
    assert ("whole images only" in result.stdout) == (not tiled)
    assert ("so the model cannot be tiled; --no-tiling" in result.stderr) == (not tiled)
    image = drawing(33, 38, 3).astype(np.float32)
    with torch.no_grad():
        expected = (
            network(torch.from_numpy(image.transpose(2, 0, 1)[None].copy())).numpy()[0].transpose(1, 2, 0)
        )
    with Engine(tmp_path / "m.onnx", provider="cpu", tile=16 if tiled else None) as engine:
        got = engine.upscale(image)
    assert np.abs(got - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    if not tiled:
        with pytest.raises(ModelError, match=r"receptive field of .* is unbounded"):
            Engine(tmp_path / "m.onnx", provider="cpu")


def test_spandrel_without_a_torchvision_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision built for another torch is no reason to do without."""
    pytest.importorskip("einops", reason="the extra 'spandrel' is not installed")
    import sys

    from srcnn_rt.architectures import spandrel_models

    class Broken:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    for module in [m for m in sys.modules if m.partition(".")[0] in ("spandrel", "torchvision")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert len(spandrel_models._spandrel().MAIN_REGISTRY) >= 40
    assert not any(m.partition(".")[0] == "torchvision" for m in sys.modules)
