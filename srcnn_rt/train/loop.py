"""The training loop: one function, a budget in steps or minutes, a checkpoint a minute."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .data import Patches, imresize, list_pictures, make_pair, mirror, modcrop, read_luminance
from .model import SRCNN

CHECKPOINT_EVERY = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What a run depends on; saved beside its checkpoints.

    Attributes
    ----------
    data : folder of training pictures, searched recursively
    out : run folder, made if missing
    scale : 2, 3, 4 ...
    arch, init : see `SRCNN`
    steps : length of the cosine schedule
    minutes : stop the schedule early in time: it is stretched to end here (0: no limit)
    batch, patch : crops a step, side of a crop in HR pixels
    rate : Adam's learning rate at the start, falling to 0 on a cosine
    validate : folder of test pictures whose PSNR is logged, never trained on
    """

    data: str
    out: str
    scale: int
    arch: str = "9-1-5"
    init: str = "identity"
    steps: int = 16_000
    minutes: float = 0.0
    batch: int = 32
    patch: int = 40
    rate: float = 1e-3
    seed: int = 0
    validate: str = ""


def psnr(a: np.ndarray, b: np.ndarray, shave: int) -> float:
    """PSNR in dB of two (H, W) pictures in [0, 1], rounded to 8 bits, border shaved."""
    d = np.rint(a.clip(0, 1) * 255) - np.rint(b.clip(0, 1) * 255)
    d = d[shave:-shave, shave:-shave]
    return 10 * math.log10(255**2 / max(float(np.mean(d * d)), 1e-12))


@torch.no_grad()
def validate(model: SRCNN, folder: Path, scale: int) -> float:
    """Mean PSNR of `model` over a folder, in the field's protocol."""
    scores = []
    for path in list_pictures(folder):
        truth = modcrop(read_luminance(path), scale)
        up = imresize(imresize(truth, scale, down=True), scale, down=False)
        x = mirror(torch.from_numpy(up).float()[None, None], model.shrink)
        scores.append(psnr(model(x)[0, 0].double().numpy(), truth, scale))
    return float(np.mean(scores))


def save_checkpoint(path: Path, model: SRCNN, config: TrainConfig, summary: dict[str, object]) -> None:
    """Write weights and what they are, atomically; `export` reads this."""
    partial = path.with_name(path.name + ".partial")
    torch.save(
        {
            "state_dict": model.state_dict(),
            "arch": model.arch,
            "scale": config.scale,
            "channels": model.channels,
            "training": summary,
        },
        partial,
    )
    partial.replace(path)


def train(config: TrainConfig, log: Callable[[str], None] = print) -> Path:
    """Train one luminance model and return its last checkpoint.

    Raises
    ------
    ValueError
        If the data folder holds nothing to train on.
    FloatingPointError
        If the loss stops being finite; the last good checkpoint is kept.
    """
    torch.manual_seed(config.seed)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    pairs = [make_pair(p, config.scale) for p in list_pictures(Path(config.data))]
    model = SRCNN(config.arch, init=config.init)
    patches = Patches(pairs, config.patch, model.shrink, config.batch, config.seed)
    log(f"{len(patches.pairs)} pictures, {patches.skipped} smaller than {config.patch} pixels skipped")
    optimiser = torch.optim.Adam(model.parameters(), lr=config.rate)
    checkpoint = out / "last.pt"
    started = saved = time.monotonic()
    summary: dict[str, object] = {}

    def record(step: int, loss: float) -> None:
        summary.update(
            recipe=f"Adam {config.rate:g} to 0, cosine; {config.init} start; MSE; "
            f"batch {config.batch} of {config.patch}x{config.patch}; seed {config.seed}",
            data=Path(config.data).name,
            steps=step,
            minutes=round((time.monotonic() - started) / 60, 1),
        )
        save_checkpoint(checkpoint, model, config, summary)
        score = ""
        if config.validate:
            score = f", PSNR {validate(model, Path(config.validate), config.scale):.2f} dB"
        log(f"step {step}: loss {loss:.6f}{score}, {(time.monotonic() - started) / 60:.1f} min")

    step, done, loss_value = 0, 0.0, math.nan
    for inputs, targets in patches:
        for group in optimiser.param_groups:
            group["lr"] = config.rate * 0.5 * (1 + math.cos(math.pi * done))
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        loss_value = float(loss.detach())
        if not math.isfinite(loss_value):
            raise FloatingPointError(f"{out}: the loss is {loss_value} at step {step}; last.pt is kept")
        optimiser.step()
        step += 1
        spent = time.monotonic() - started
        done = max(step / config.steps, spent / (60 * config.minutes) if config.minutes else 0.0)
        if done >= 1:
            break
        if time.monotonic() - saved > CHECKPOINT_EVERY:
            record(step, loss_value)
            saved = time.monotonic()
    record(step, loss_value)
    return checkpoint
