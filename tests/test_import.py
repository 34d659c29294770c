"""State dicts of other people's networks: defined here as their authors publish them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")

from torch import nn  # noqa: E402

from srcnn_rt import ArgumentError, Engine, ModelError, spec  # noqa: E402
from srcnn_rt.train.export import export  # noqa: E402
from srcnn_rt.verify import verify  # noqa: E402
from tests import reference  # noqa: E402
from tests.conftest import drawing  # noqa: E402

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
    """Works on the picture that bicubic has enlarged already."""

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


# name: (network, its scale, whether the weights tell the scale, channels, margin)
ROWS = {
    "ESPCN": (Espcn, 3, True, 1, 4),
    "FSRCNN": (Fsrcnn, 2, False, 1, 8),
    "VDSR": (Vdsr, 2, False, 1, 5),
    "SRVGG": (Srvgg, 4, True, 3, 6),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_known_family_is_exported_and_proven(tmp_path: Path, name: str) -> None:
    make, scale, told, channels, margin = ROWS[name]
    torch.manual_seed(0)
    network = make(scale).eval()
    torch.save({"params": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "c.pth")
    if not told:
        with pytest.raises(ArgumentError, match=r"c\.pth: does not say its scale; give --scale"):
            export(tmp_path / "c.pth", tmp_path / "m.onnx")
    described = export(tmp_path / "c.pth", tmp_path / "m.onnx", scale=None if told else scale)
    assert (described.architecture, described.scale, described.channels) == (name, scale, channels)
    assert described.margin == margin
    assert [c.passed for c in verify(tmp_path / "m.onnx")].count(False) == 0
    # Luminance is what these networks learnt it as, 16 to 235 of 255.
    black, white = (16 / 255, 235 / 255) if channels == 1 else (0.0, 1.0)
    picture = drawing(37, 41, channels).astype(np.float32)
    fed = (black + (white - black) * picture).astype(np.float32).transpose(2, 0, 1)[None]
    if name == "VDSR":
        fed = np.stack([reference.bicubic(p, scale) for p in fed[0]])[None].astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(np.ascontiguousarray(fed))).numpy()[0].transpose(1, 2, 0)
    with Engine(tmp_path / "m.onnx", "cpu", 16) as engine:
        got = engine.upscale(picture)
    # VDSR's bicubic repeats the edge where the oracle mirrors it: two LR pixels and its reach.
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
    assert spec.default_model(4, best=True) == "srcnn-955-x4"
