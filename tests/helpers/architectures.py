"""A dozen small super-resolution and restoration networks in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(i: int, o: int, k: int = 3, **more: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=more.pop("padding", k // 2), **more)


class Srcnn(nn.Module):
    """Padded, on the bicubic-upscaled image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 8, 9), nn.ReLU(), conv(8, 4, 1), nn.ReLU(), conv(4, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(F.interpolate(x, scale_factor=2, mode="bicubic"))


class Espcn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 8, 5), nn.Tanh(), conv(8, 4), nn.Tanh(), conv(4, 9), nn.PixelShuffle(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Fsrcnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 8, 5), nn.PReLU(8), conv(8, 4, 1), nn.PReLU(4), conv(4, 4), nn.PReLU(4), conv(4, 8, 1),
            nn.PReLU(8), nn.ConvTranspose2d(8, 1, 9, stride=2, padding=4, output_padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Vdsr(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inner = [m for _ in range(6) for m in (conv(4, 4), nn.ReLU())]
        self.body = nn.Sequential(conv(1, 4), nn.ReLU(), *inner, conv(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return up + self.body(up)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(6, 6), conv(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x))) * 0.1


class Edsr(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = conv(3, 6), nn.Sequential(Block(), Block(), conv(6, 6))
        self.tail = nn.Sequential(conv(6, 24), nn.PixelShuffle(2), conv(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x - 0.4)
        return self.tail(x + self.body(x)) + 0.4


class Srvgg(nn.Module):
    """Real-ESRGAN's compact network: a shuffled residual added to nearest-neighbour enlargement."""

    def __init__(self) -> None:
        super().__init__()
        layers = [m for _ in range(3) for m in (conv(6, 6), nn.PReLU(6))]
        self.body = nn.Sequential(conv(3, 6), nn.PReLU(6), *layers, conv(6, 48))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x), 4) + F.interpolate(x, scale_factor=4, mode="nearest")


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(4 + 3 * k, 3 if k < 2 else 4) for k in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for k, layer in enumerate(self.convs):
            out = layer(torch.cat(parts, 1))
            parts.append(F.leaky_relu(out, 0.2) if k < 2 else out)
        return x + 0.2 * parts[-1]


class Rrdb(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.dense, self.up, self.tail = conv(3, 4), Dense(), conv(4, 4), conv(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        x = x + 0.2 * self.dense(x)
        x = F.leaky_relu(self.up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.tail(x)


class Carn(nn.Module):
    """Cascading groups joined by 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.a, self.b = conv(3, 4), conv(4, 4, groups=2), conv(4, 4, groups=2)
        self.c1, self.c2, self.tail = conv(8, 4, 1), conv(12, 4, 1), conv(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        a = torch.relu(self.a(x))
        x1 = self.c1(torch.cat([x, a], 1))
        x2 = self.c2(torch.cat([x, a, torch.relu(self.b(x1))], 1))
        return F.pixel_shuffle(self.tail(x2), 2)


class Unet(nn.Module):
    """Stride 4 at its deepest; sizes must be multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 6), conv(6, 6)
        self.u1, self.u2 = nn.ConvTranspose2d(6, 6, 2, stride=2), nn.ConvTranspose2d(12, 4, 2, stride=2)
        self.d = conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(F.max_pool2d(a, 2)))
        c = torch.relu(self.c(F.max_pool2d(b, 2)))
        b = torch.cat([b, self.u1(c)], 1)
        return x + self.d(torch.cat([a, self.u2(b)], 1))


class SubPixel(nn.Module):
    """Pixel unshuffle in, pixel shuffle out, channel-major as in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2), conv(12, 8), nn.GELU(), conv(8, 12), nn.PixelShuffle(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Dilated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(
            m for d in (1, 2, 3) for m in (conv(1 if d == 1 else 4, 4, 3, padding=d, dilation=d), nn.ReLU())
        ), conv(4, 1))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x - self.body(x)


class PadToMultiple(nn.Module):
    """The U-Net with reflection padding to a multiple of 4 and a crop, as users wrap it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Unet()

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = F.pad(x, (0, (4 - w % 4) % 4, 0, (4 - h % 4) % 4), mode="reflect")
        return self.net(x)[:, :, :h, :w]


class Valid(nn.Module):
    """Unpadded, LR in and HR out, like this package's own models."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


# name: (network, channels, scale, margin)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "SRCNN, padded": (Srcnn, 1, 2, 5),
    "ESPCN": (Espcn, 1, 3, 4),
    "FSRCNN": (Fsrcnn, 1, 2, 5),
    "VDSR": (Vdsr, 1, 2, 5),
    "EDSR": (Edsr, 3, 2, 8),
    "SRVGG (compact)": (Srvgg, 3, 4, 5),
    "RRDB": (Rrdb, 3, 2, 5),
    "CARN": (Carn, 3, 2, 4),
    "U-Net, stride 4": (Unet, 3, 1, 11),
    "sub-pixel, unshuffled": (SubPixel, 3, 1, 4),
    "dilated": (Dilated, 1, 1, 7),
    "pad to a multiple": (PadToMultiple, 3, 1, 11),
    "unpadded sub-pixel": (Valid, 1, 2, 3),
}


def export(name: str, path: str, exporter: str) -> None:
    """Write a family's network with random weights by one of torch's two exporters."""
    make, channels, _, _ = FAMILIES[name]
    torch.manual_seed(0)
    network = make().eval()
    example = torch.rand(2, channels, 24, 32)
    if exporter == "torchscript":
        free = {0: "n", 2: "h", 3: "w"}
        torch.onnx.export(
            network, (example,), path, dynamo=False, input_names=["lr"], output_names=["hr"],
            dynamic_axes={"lr": free, "hr": {0: "n", 2: "sh", 3: "sw"}},
        )  # fmt: skip
        return
    free = torch.export.Dim
    dims = {0: free("n"), 2: free("h", min=4, max=4096), 3: free("w", min=4, max=4096)}
    if "U-Net" in name or "unshuffled" in name:
        step = 4 if "U-Net" in name else 2
        dims |= {k: step * free(f"steps{k}", min=2, max=1024) for k in (2, 3)}
    program = torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=(dims,), verbose=False)
    program.save(path, external_data=False)
