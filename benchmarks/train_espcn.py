"""Train an ESPCN to measure it beside our networks: python benchmarks/train_espcn.py --data t91 -o espcn.onnx

The network of Shi et al. (arXiv 1609.05158) for luminance: 5 x 5 to 64 channels, 3 x 3 to 32, 3 x 3 to
scale², and a pixel shuffle, with tanh between. It is trained on the crops that `srcnn-rt train` draws, so
that only the network differs, and without padding: the margin of the image is mirrored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from srcnn_rt.evaluation.protocol import Degradation, list_images
from srcnn_rt.training import data

PATCH, BATCH = 48, 16
WARM_UP, HOLD = 200, 0.5  # steps; fraction of the run before the cosine decay of the learning rate


class Espcn(nn.Module):
    """ESPCN without padding: 4 LR pixels are lost on each side."""

    shrink = 4

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.first_part = nn.Sequential(nn.Conv2d(1, 64, 5), nn.Tanh(), nn.Conv2d(64, 32, 3), nn.Tanh())
        self.last_part = nn.Sequential(nn.Conv2d(32, scale * scale, 3), nn.PixelShuffle(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Enlarge (N, 1, h, w) to (N, 1, scale (h - 8), scale (w - 8))."""
        out: torch.Tensor = self.last_part(self.first_part(x))
        return out


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", action="append", required=True, help="folder of images; repeat it for a weight"
    )
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    paths = [path for folder in args.data for path in list_images(folder)]
    loaded = data.load(
        paths, args.scale, "y", Degradation.parse("bicubic"), args.scale * PATCH, 0, upscale=False
    )
    patches = data.Patches(
        loaded.pairs,
        PATCH,
        Espcn.shrink,
        BATCH,
        0,
        "detail",
        weights=loaded.weights,
        magnification=args.scale,
    )
    model = Espcn(args.scale).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), args.lr)

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / WARM_UP)
        late = max(0.0, (step / args.steps - HOLD) / (1 - HOLD))
        return warm * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * late))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for step in range(args.steps):
        inputs, targets = patches.at(step)
        loss = (model(inputs) - targets).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step}: loss {loss:.3g}", flush=True)
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 1, 32, 32),),
        str(args.output),
        input_names=["lr"],
        output_names=["hr"],
        dynamic_axes={name: {2: f"{name}_h", 3: f"{name}_w"} for name in ("lr", "hr")},
        dynamo=False,
    )


if __name__ == "__main__":
    main()
