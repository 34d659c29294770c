"""`Engine` as a module of PyTorch. Only this module and those that train and export import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .engine import Engine
from .errors import ArgumentError
from .image.info import SAMPLE_TYPES
from .options import ArrayLayout

__all__ = ["Upscaler"]


class Upscaler(nn.Module):
    """Upscale tensors of images of any size; for inference only.

    The module has no parameters. A tensor on a GPU is upscaled there, if the engine uses that GPU.

    Parameters
    ----------
    model : str, Path, bytes or Engine
        As in `Engine`, or an engine, which may also be used elsewhere.
    bands : bool
        Upscale each channel on its own.
    alpha : bool
        Whether the last channel is alpha.
    **options
        Keyword arguments of `Engine`.

    Attributes
    ----------
    engine : Engine
        What upscales.

    Raises
    ------
    SrcnnError
        As `Engine` does.

    Examples
    --------
    >>> import torch
    >>> from srcnn_rt.torch import Upscaler
    >>> Upscaler("srcnn-915-x2", provider="cpu")(torch.zeros(1, 3, 30, 40)).shape
    torch.Size([1, 3, 60, 80])
    """

    def __init__(
        self,
        model: str | Path | bytes | Engine = "srcnn-915-x2",
        *,
        bands: bool = False,
        alpha: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(model, Engine) and options:
            raise ArgumentError(
                f"options go with the name of a model, got an engine and {', '.join(options)}"
            )
        self.engine = model if isinstance(model, Engine) else Engine(model, **options)
        self.bands, self.alpha = bands, alpha

    @property
    def scale(self) -> int:
        """Scale factor."""
        return self.engine.scale

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor) -> Tensor:
        """Upscale images.

        Parameters
        ----------
        images : Tensor, shape (C, H, W) or (N, C, H, W)
            Of a type that `Engine.upscale` takes; values may be in any unit. Three channels are RGB.

        Returns
        -------
        Tensor, shape (C, s·H, s·W) or (N, C, s·H, s·W)
            Of the same type and on the same device.

        Raises
        ------
        ArgumentError
            If the shape or type is not supported, the tensor lies on a GPU that the engine does not use, or
            gradients are required.
        """
        if torch.is_grad_enabled() and images.requires_grad:
            raise ArgumentError(
                "Upscaler has no gradients; call it under torch.no_grad() or detach the tensor"
            )
        if images.ndim not in (3, 4):
            raise ArgumentError(f"images must be (C, H, W) or (N, C, H, W), got {tuple(images.shape)}")
        if (kind := str(images.dtype).removeprefix("torch.")) not in SAMPLE_TYPES:
            raise ArgumentError(f"samples must be {', '.join(SAMPLE_TYPES)}, got {kind}")
        if images.ndim == 4 and len(images) == 0:
            _, channels, height, width = images.shape
            return images.new_empty((0, channels, height * self.scale, width * self.scale))
        layout: ArrayLayout = "CHW" if images.ndim == 3 else "NCHW"
        made: Tensor = self.engine.upscale(images.detach(), layout=layout, bands=self.bands, alpha=self.alpha)
        return made

    def extra_repr(self) -> str:
        """Describe the module in one line."""
        return f"{self.engine.spec.name}, scale={self.scale}, provider={self.engine.provider!r}"
