"""torch as a contestant of gpu.py, configured as its guides recommend.

It uses float16 (bfloat16 on a CPU) and channels_last, which tensor cores prefer; inference mode; cuDNN's
search
for the fastest algorithm; preallocated buffers; the fastest window size; and ``torch.compile`` in
``max-autotune``, or the best mode that works. The module maps uint8 to uint8, so that the compiler can fuse
conversions into the adjacent layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _gpu_case import Case, Contestant, choose
from _gpu_place import Place
from _gpu_targets import ARRAY, COMPILED, DEVICE
from _peers_contestants import cut, initialisers
from numpy.typing import NDArray

MODES = ("max-autotune", "max-autotune-no-cudagraphs", "default")
_BICUBIC = 2  # LR pixels that the bicubic convolution takes off each side


def network(
    data: bytes, scale: int, margin: int, precision: str, black: float = 0.0, white: float = 1.0
) -> Any:
    """Return the file's graph as a torch module that maps uint8 windows to uint8 cores.

    A network that is added to bicubic is added in float32. Bicubic is the graph's own convolution to s²
    channels and a pixel shuffle, which is less work than torch's antialiased ``interpolate``.
    """
    import torch
    from torch import nn

    arrays = initialisers(data)
    added = "conv1.bias" not in arrays
    kind = getattr(torch, precision)

    def layer(name: str) -> nn.Conv2d:
        weight = torch.tensor(arrays[f"{name}.weight"])
        bias = arrays.get(f"{name}.bias")
        made = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], bias=bias is not None)
        made.weight.data = weight
        if bias is not None:
            made.bias.data = torch.tensor(bias)
        return made

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bicubic = layer("bicubic")
            self.layers = nn.ModuleList(layer(f"conv{k}") for k in (1, 2, 3))
            shrink = sum((conv.kernel_size[0] - 1) // 2 for conv in self.layers)
            self.spare, self.inner = (margin - _BICUBIC) * scale - shrink, shrink

        def forward(self, window: Any) -> Any:
            # Divide in float32, which is free when it is fused.
            x = window.float() * ((white - black) / 255) + black
            x = x.to(dtype=kind, memory_format=torch.channels_last)
            x = nn.functional.pixel_shuffle(self.bicubic(x), scale)
            if self.spare:
                x = x[:, :, self.spare : -self.spare, self.spare : -self.spare]
            plain = x[:, :, self.inner : -self.inner, self.inner : -self.inner]
            for conv in self.layers[:2]:
                x = nn.functional.relu(conv(x))
            y = self.layers[2](x).float()
            if added:
                y = y + plain.float()
            return ((y - black) * (255 / (white - black))).round().clamp(0, 255).to(torch.uint8)

    return Network().eval().to(dtype=kind, memory_format=torch.channels_last)


class TorchDevice(Contestant):
    """From a uint8 tensor on the GPU to one on the GPU: mirrored edges, windows, network, rounding.

    Parameters
    ----------
    place : Place
        Where it runs.
    precision : str
        Data type of the computation.
    like : TorchDevice, optional
        If given, the module is compiled and uses the window size that `like`, not compiled, found fastest.
    """

    route = DEVICE

    def __init__(self, place: Place, precision: str, like: TorchDevice | None = None) -> None:
        kind = "torch eager" if like is None else "torch.compile"
        super().__init__(f"{kind} {precision}", precision)
        self._like = like
        self.compiled = like is not None
        self.role = COMPILED if self.compiled and precision == place.judged else ""

    def load(self, case: Case) -> None:
        import torch

        torch.backends.cudnn.benchmark = True
        s, margin, place = case.model.scale, case.model.margin, case.place
        self._scale, self._margin = s, margin
        (gain,), (black,) = case.model.range.gain, case.model.range.offset
        module = network(case.data, s, margin, self.precision, black, black + gain).to(place.device)
        # (1, 1, H, W). A copy also on a CPU, because the host route writes into it.
        self.image = torch.from_numpy(case.image.copy())[None, None].to(place.device)
        # Mirrored by index, because torch has no symmetric padding.
        self._rows, self._columns = (
            torch.from_numpy(np.pad(np.arange(n), margin, mode="symmetric")).to(place.device)
            for n in case.image.shape
        )
        self.out = torch.zeros(
            1, 1, *(n * s for n in case.image.shape), dtype=torch.uint8, device=place.device
        )
        if self._like is None:
            self._module = module
            self.notes["window"] = choose(case.sides, self._take, self.run, place)
            return
        side = self._like.notes.get("window", case.sides[0])
        self._take(side)
        self.notes.update(window=side, mode=self._compile(module, place))

    def _take(self, side: int) -> None:
        """Cut the image into windows of at most `side` HR pixels."""
        import torch

        lengths = self.image.shape[2:]
        (h, ys), (w, xs) = (cut(n, max(1, side // self._scale)) for n in lengths)
        self._corners = [(y, x) for y in ys for x in xs]
        self._shape = (h, w)
        size = (1, 1, h + 2 * self._margin, w + 2 * self._margin)
        self._window = torch.zeros(size, dtype=torch.uint8, device=self.image.device)

    def _compile(self, module: Any, place: Place) -> str:
        """Compile in the best mode that works and return it."""
        import torch

        failed: Exception | None = None
        for mode in MODES if place.provider == "cuda" else MODES[-1:]:  # autotuning is for GPUs
            try:
                self._module = torch.compile(module, dynamic=False, fullgraph=True, mode=mode)
                self.run()
                place.wait()
            except Exception as error:  # compilers fail in many ways
                failed = error
            else:
                return mode
        assert failed is not None
        raise failed

    def run(self) -> None:
        import torch

        s, m, (h, w) = self._scale, self._margin, self._shape
        with torch.inference_mode():
            mirrored = self.image.index_select(2, self._rows).index_select(3, self._columns)
            for y, x in self._corners:
                # One buffer for all windows: CUDA graphs and the compiler's guards need the same address.
                self._window.copy_(mirrored[:, :, y : y + h + 2 * m, x : x + w + 2 * m])
                if self.compiled:
                    torch.compiler.cudagraph_mark_step_begin()  # the previous result may be overwritten
                part = self.out[:, :, y * s : (y + h) * s, x * s : (x + w) * s]
                part.copy_(self._module(self._window))

    def result(self) -> NDArray[np.uint8]:
        out: NDArray[np.uint8] = self.out[0, 0].cpu().numpy()
        return out


class TorchHost(Contestant):
    """The same from host bytes to host bytes, both in pinned memory, with asynchronous copies."""

    route = ARRAY

    def __init__(self, place: Place, inner: TorchDevice) -> None:
        super().__init__(inner.name + ", pinned" * (place.provider == "cuda"), inner.precision)
        self._inner, self.compiled = inner, inner.compiled

    def load(self, case: Case) -> None:
        import torch

        if not self._inner.ready:
            raise RuntimeError(f"{self._inner.name} does not run here: see its own row")
        pin = case.place.provider == "cuda"
        self._source = torch.empty(self._inner.image.shape, dtype=torch.uint8, pin_memory=pin)
        self._target = torch.empty(self._inner.out.shape, dtype=torch.uint8, pin_memory=pin)
        self._target.zero_()
        self._wait = case.place.wait
        self.notes.update(self._inner.notes)
        self.feed(case.image)

    def feed(self, image: NDArray[np.uint8]) -> None:
        """Set another image of the same size; timed only on file routes."""
        import torch

        self._source[0, 0].copy_(torch.from_numpy(image))

    def run(self) -> None:
        self._inner.image.copy_(self._source, non_blocking=True)
        self._inner.run()
        self._target.copy_(self._inner.out, non_blocking=True)

    def result(self) -> NDArray[np.uint8]:
        self._wait()  # the copy is asynchronous
        out: NDArray[np.uint8] = self._target[0, 0].numpy()
        return out


def forget() -> None:
    """Drop code compiled for the previous model, which counts against a limit and keeps memory."""
    import torch

    torch._dynamo.reset()


def team(place: Place, precisions: Sequence[str]) -> list[TorchDevice | TorchHost]:
    """Return torch's contestants, in the order in which they must load."""
    made: list[TorchDevice | TorchHost] = []
    for precision in precisions:
        eager = TorchDevice(place, precision)
        compiled = TorchDevice(place, precision, eager)
        made += [eager, compiled, TorchHost(place, eager), TorchHost(place, compiled)]
    return made
