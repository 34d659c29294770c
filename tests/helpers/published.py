"""Small versions of published networks, as spandrel builds them, and the expected analysis of each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from srcnn_rt.architectures import spandrel_models

EXAMPLE = 64  # pixels per side of an export, which every network supports

ROWS_JOINED = "(MatMul): multiplies along rows or columns"
POOLED = "over rows or columns is unbounded"
SHIFTED = "numbers that depend on the image's size, as masks of shifted windows"


@dataclass(frozen=True)
class Network:
    """A network of `spandrel.architectures.<package>`.

    Attributes
    ----------
    package, kind : str
        Package and class name.
    options : dict
        Arguments of the class.
    channels : int
        Channels of its images.
    margin : int or None
        Margin in LR samples if it can be tiled.
    refused : str
        Text of the analysis's refusal if it cannot.
    exporters : tuple of str
        Exporters that support it.
    fixed : tuple of str
        Exporters that write the example's size into the file.
    example : int
        Side of the example in pixels.
    slow : bool
        Whether it takes more than some seconds.
    """

    package: str
    kind: str
    options: dict[str, Any]
    channels: int = 3
    margin: int | None = None
    refused: str = ""
    exporters: tuple[str, ...] = ("torchscript", "dynamo")
    fixed: tuple[str, ...] = ()
    example: int = EXAMPLE
    slow: bool = False

    def build(self) -> nn.Module:
        """Return the network with random weights."""
        spandrel_models._spandrel()
        module = importlib.import_module(f"spandrel.architectures.{self.package}")
        torch.manual_seed(0)
        return _Plain(getattr(module, self.kind)(**self.options)).eval()


class _Plain(nn.Module):
    """A network reduced to one image in and one out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        spandrel_models.settle(network)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.network(x.clone())
        return out[0] if isinstance(out, (tuple, list)) else out


def net(package: str, kind: str | None = None, /, **options: Any) -> Callable[..., Network]:
    return lambda **more: Network(package, kind or package, options, **more)


_SWIN = {"img_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "upscale": 2}
_PLK = {"dim": 16, "n_blocks": 2, "upscaling_factor": 2, "kernel_size": 9}
# fmt: off
NETWORKS: dict[str, Network] = {
    # Networks that can be tiled, with their margins.
    "Compact": net("Compact", num_feat=6, num_conv=3, upscale=4)(margin=5),
    "ESRGAN": net("ESRGAN", num_filters=8, num_blocks=1, scale=4)(margin=19),
    "ESRGAN+": net("ESRGAN", num_filters=8, num_blocks=1, scale=4, plus=True)(margin=19),
    "ESRGAN, unshuffled": net("ESRGAN", in_nc=12, num_filters=8, num_blocks=1, scale=4, shuffle_factor=2)(
        margin=38),
    "Swift-SRGAN": net("SwiftSRGAN", num_channels=8, num_blocks=2, upscale_factor=2)(margin=12),
    "SPAN": net("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)(margin=21),
    "PLKSR": net("PLKSR", **_PLK)(margin=14),
    "PLKSR, sparse": net("PLKSR", **_PLK, lk_type="SparsePLK")(margin=22),
    "PLKSR, rectangular": net("PLKSR", **_PLK, lk_type="RectSparsePLK")(margin=14),
    "PLKSR, DCCM": net("PLKSR", **_PLK, ccm_type="DCCM")(margin=16),
    "RealPLKSR, layer norm": net("PLKSR", "RealPLKSR", **_PLK, layer_norm=True)(margin=16),
    "SAFMN": net("SAFMN", dim=16, n_blocks=1, upscaling_factor=2)(
        margin=17, exporters=("dynamo",), fixed=("dynamo",)),
    "SAFMN BCIE": net("SAFMNBCIE", dim=16, n_blocks=1, num_layers=1, upscaling_factor=2)(
        margin=34, exporters=("dynamo",), fixed=("dynamo",), example=128),
    "MoSR": net("MoSR", n_block=2, dim=16, upscale=2)(margin=14),
    "MoSR, geo": net("MoSR", n_block=2, dim=16, upscale=2, upsampler="gps")(margin=14),
    "MoESR": net("MoESR", n_blocks=1, n_block=1, dim=16, scale=2)(margin=55),
    "DnCNN": net("DnCNN", nc=8, nb=4)(channels=1, margin=4),
    "DnCNN, RGB": net("DnCNN", nc=8, nb=4, act_mode="R", in_nc=3, out_nc=3)(margin=4),
    "DRUNet": net("DRUNet", in_nc=1, out_nc=1, nc=[4, 6, 8, 10], nb=1)(channels=1, margin=47),
    # Attention within separate windows.
    "DITN": net("DITN", dim=12, ITL_blocks=1, SAL_blocks=1, UFONE_blocks=1, upscale=2)(
        margin=17, exporters=("dynamo",)),
    "SCUNet, unshifted": net("SCUNet", config=[1] * 7, dim=64)(
        margin=83, exporters=("torchscript",), slow=True),
    # Networks that read the whole image.
    "RealCUGAN": net("RealCUGAN", "UpCunet2x")(refused=POOLED),
    "RCAN": net("RCAN", scale=2, n_resgroups=1, n_resblocks=2, n_feats=16, reduction=4)(refused=POOLED),
    "RealPLKSR": net("PLKSR", "RealPLKSR", **_PLK)(
        refused=f"(InstanceNormalization): the receptive field of InstanceNormalization {POOLED}"),
    "NAFNet": net("NAFNet", width=4, enc_blk_nums=[1, 1], middle_blk_num=1, dec_blk_nums=[1, 1])(
        refused=POOLED),
    "KBNet": net("KBNet", "KBNet_s", width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])(
        refused=POOLED),
    "OmniSR": net("OmniSR", num_feat=16, up_scale=2, res_num=1)(slow=True, refused=POOLED),
    "SeemoRe": net("SeemoRe", scale=2, num_experts=2, num_layers=1, embedding_dim=8)(
        refused=POOLED, exporters=("torchscript",)),
    "FDAT": net("FDAT", scale=2, embed_dim=16, num_groups=1, depth_per_group=1, num_heads=2)(refused=POOLED),
    "MixDehazeNet": net("MixDehazeNet", embed_dims=[8] * 5, depths=[1] * 5)(slow=True, refused=POOLED),
    "MMRealSR": net("MMRealSR", num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1, num_grow_ch=4,
                    num_feats=[4] * 4, num_blocks=[1] * 4)(refused=POOLED),
    "DAT": net("DAT", img_size=16, embed_dim=32, depth=[2], num_heads=[2], upscale=2)(
        refused=POOLED, exporters=("torchscript",)),
    "Retinexformer": net("RetinexFormer", n_feat=8, stage=1)(refused=POOLED, exporters=("torchscript",)),
    "RGT": net("RGT", img_size=16, embed_dim=12, depth=[2], num_heads=[2], upscale=2)(
        refused=ROWS_JOINED, exporters=("torchscript",)),
    # Shifted windows, which cross the borders of the windows before.
    "SwinIR": net("SwinIR", **_SWIN, upsampler="pixelshuffledirect")(refused=SHIFTED),
    "Swin2SR": net("Swin2SR", **_SWIN, upsampler="pixelshuffledirect")(refused=SHIFTED),
    "HAT": net("HAT", **_SWIN, upsampler="pixelshuffle", squeeze_factor=4)(
        refused=SHIFTED, exporters=("torchscript",)),
    "DRCT": net("DRCT", **{**_SWIN, "depths": (1,)}, upsampler="pixelshuffle", gc=4)(
        refused=SHIFTED, slow=True, exporters=("torchscript",)),
    "DCTLSA": net("DCTLSA", nf=20, num_modules=6, upscale=2, num_head=5)(
        refused="joins along rows or columns", slow=True, exporters=("torchscript",)),
    "CRAFT": net("CRAFT", embed_dim=12, depths=[2], num_heads=[2], split_size_0=4, split_size_1=8,
                 window_size=8, upscale=2)(
        refused="flips the image", slow=True, exporters=("torchscript",)),
    # Samples at positions computed from the image.
    "MoSR, DySample": net("MoSR", n_block=2, dim=16, upscale=2, upsampler="dys")(
        refused=SHIFTED, exporters=("torchscript",)),
}
# Networks of the published depth with few channels, so that the margin is that of the published network.
DEPTHS: dict[str, Network] = {
    "Compact, 16 layers": net("Compact", num_feat=4, num_conv=16, upscale=4)(margin=18),
    "Compact, 32 layers": net("Compact", num_feat=4, num_conv=32, upscale=4)(margin=34),
    "ESRGAN, 6 blocks": net("ESRGAN", num_filters=4, num_blocks=6, scale=4)(margin=94),
    "ESRGAN, 23 blocks": net("ESRGAN", num_filters=4, num_blocks=23, scale=4)(margin=349),
    "SPAN": net("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=4, upscale=4)(margin=21),
    "PLKSR, tiny": net("PLKSR", dim=16, n_blocks=12, upscaling_factor=4, kernel_size=13, ccm_type="DCCM")(
        margin=110),
    "PLKSR": net("PLKSR", dim=16, n_blocks=28, upscaling_factor=4)(margin=282),
    "RealPLKSR, layer norm": net("PLKSR", "RealPLKSR", dim=16, n_blocks=28, upscaling_factor=4,
                                 layer_norm=True)(margin=310),
    "MoSR": net("MoSR", n_block=24, dim=16, upscale=4)(margin=124),
    "MoESR": net("MoESR", n_blocks=9, n_block=4, dim=8, scale=4)(margin=668),
    "Swift-SRGAN": net("SwiftSRGAN", num_channels=4, num_blocks=16, upscale_factor=4)(margin=40),
    "DnCNN, 17 layers": net("DnCNN", nc=4, nb=17)(channels=1, margin=17),
    "DRUNet": net("DRUNet", in_nc=1, out_nc=1, nc=[4, 4, 4, 4], nb=4)(channels=1, margin=185),
    "DITN": net("DITN", dim=4, ITL_blocks=4, SAL_blocks=4, UFONE_blocks=1, upscale=4)(
        margin=57, exporters=("dynamo",)),
}
# fmt: on


def export(network: nn.Module, row: Network, path: str, exporter: str) -> None:
    """Write a network by one of torch's two exporters, with free sizes."""
    example = torch.rand(1, row.channels, row.example, row.example)
    if exporter == "torchscript":
        torch.onnx.export(
            network, (example,), path, dynamo=False, input_names=["lr"], output_names=["hr"],
            dynamic_axes={"lr": {2: "h", 3: "w"}, "hr": {2: "sh", 3: "sw"}},
        )  # fmt: skip
        return
    free = {2: torch.export.Dim("h", min=16, max=4096), 3: torch.export.Dim("w", min=16, max=4096)}
    program = torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=(free,), verbose=False)
    program.save(path, external_data=False)
