"""The training loop. Step k depends on the seed, k and the weights alone, so a resumed run goes on
bit for bit on the CPU; a budget in minutes ties the schedule to the clock instead."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..architectures.srcnn import SRCNN
from ..errors import ArgumentError, TrainingError
from ..evaluation import metrics
from ..evaluation.protocol import Degradation, crop_border, list_images
from ..models import spec
from . import data
from .data import Pair, Patches
from .recipe import TrainConfig
from .run_folder import EVENTS, RunFolder, starting_weights

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CHECKPOINT_EVERY = 60.0  # seconds
LOG_EVERY = 5.0
_CHECK_CUDA_EVERY = 50  # steps between looks at the loss on a GPU, each of which waits for it
_CHARBONNIER = 1e-3  # ε of sqrt(d² + ε²): a quarter of a code value
_SOAP_BASIS = 128  # largest side of a preconditioner: 9 x 9 taps, 64 filters


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is.

    Attributes
    ----------
    step : steps done
    part : 0 to 1
    loss : mean since the last status
    rate : learning rate
    psnr : of the moving average on the validation images, dB; None between checkpoints
    crops_per_s : crops a second since the last status
    seconds, left : spent and to go
    """

    step: int
    part: float
    loss: float
    lr: float
    psnr: float | None
    crops_per_s: float
    seconds: float
    left: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: all of it done, or stopped on request with everything saved."""

    checkpoint: Path
    step: int
    finished: bool
    psnr: float | None


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[Status], None] = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train one model; ``last.pt`` in the run folder is what `export` reads.

    Parameters
    ----------
    config : see `TrainConfig`
    resume : go on from the checkpoint in ``config.out``
    log : told what was skipped and chosen, a line each
    progress : told the status every few seconds
    stop : asked after every step; True saves and ends the run

    Raises
    ------
    SourceMissingError, ImageError
        Nothing to train on.
    OutputError
        The folder holds a run, or cannot be written.
    ArgumentError
        A starting checkpoint of another architecture, a device that is not there.
    TrainingError
        The loss or the weights stopped being finite; the last good checkpoint is kept.
    """
    folder = RunFolder(Path(config.out))
    if not resume:
        folder.refuse_a_second_run()
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    channels = 1 if config.channels == "y" else 3
    torch.manual_seed(config.seed)
    model = SRCNN(config.arch, channels, config.init, form=config.form)
    if config.init_from:
        model.load_state_dict(dict(starting_weights(config.init_from, model)))
    loaded, held = _images(config, log)
    patches = Patches(
        loaded.pairs,
        config.patch,
        model.shrink,
        config.batch,
        config.seed,
        config.sampling,
        config.stride,
        device,
        loaded.weights,
    )
    log(
        f"{len(loaded.names)} images, {len(patches)} places for crops, {len(loaded.skipped)} skipped; "
        f"{len(held)} to validate; on {device}"
    )
    run = _Run(config, folder, model.to(device), device, held)
    if resume:
        folder.resume(config, loaded.digest)
        run.restore()
    else:
        record: dict[str, Any] = {
            "images": loaded.names,
            "skipped": loaded.skipped,
            "sha256": loaded.digest,
        }
        if config.init_from:
            data_of_start = (
                spec.read(config.init_from)[0]
                if spec.is_model(config.init_from)
                else Path(config.init_from).read_bytes()
            )
            record["init_from_sha256"] = hashlib.sha256(data_of_start).hexdigest()
        folder.create(config, record)
    del loaded
    return run.go(patches, progress, stop)


class _Run:
    """The state that a checkpoint holds, and the steps."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        model: SRCNN,
        device: torch.device,
        held: list[Pair],
    ) -> None:
        self.config, self.folder, self.device, self.held = config, folder, device, held
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.model, multi_avg_fn=_moving_average(config.ema))
        self.optimiser = make_optimiser(self.model, config)
        self._rates = [group["lr"] for group in self.optimiser.param_groups]
        self.mixed = config.precision == "mixed" or (config.precision == "auto" and has_bfloat16(device))
        self.step, self.spent = 0, 0.0
        self.psnr: float | None = None

    def restore(self) -> None:
        state = self.folder.load()
        if state is None:
            return
        try:
            kept = state["resume"]
            self.model.load_state_dict(kept["weights"])
            self.average.load_state_dict(kept["average"])
            self.optimiser.load_state_dict(kept["optimiser"])
            self.step, self.spent = int(kept["step"]), float(kept["spent"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            first = " ".join(str(error).split())[:160]
            raise ArgumentError(
                f"{self.folder.checkpoint}: not a checkpoint of this run ({self.config.arch}): {first}"
            ) from error
        self.folder.forget_after(self.step)

    def go(self, patches: Patches, progress: Callable[[Status], None], stop: Callable[[], bool]) -> Outcome:
        """Take steps until the budget is spent or `stop` says so."""
        config, begun = self.config, time.monotonic() - self.spent
        logged, saved = self.spent, self.spent
        losses: list[Tensor] = []
        events = _events(self.folder.path / EVENTS, self.step)
        try:
            done = self._done()
            while done < 1:
                rate = self._set_rate(done)
                losses.append(self._take_step(*patches.at(self.step), done))
                self.step += 1
                self.spent = time.monotonic() - begun
                done = self._done()
                asked = stop()
                save = done >= 1 or asked or self.spent - saved >= CHECKPOINT_EVERY
                if save or self.spent - logged >= LOG_EVERY:
                    if save:
                        self._save()
                        saved = self.spent
                    loss = float(torch.stack(losses).mean())
                    pace = len(losses) / max(self.spent - logged, 1e-9)
                    left = self.spent / done * (1 - done)
                    status = Status(
                        self.step,
                        min(done, 1.0),
                        loss,
                        rate,
                        self.psnr if save else None,
                        pace * config.batch,
                        self.spent,
                        left,
                    )
                    self._write_log(status, events)
                    progress(status)
                    logged = self.spent
                    losses.clear()
                    # Saving and validating are not part of the schedule.
                    begun = time.monotonic() - self.spent
                if asked and done < 1:
                    return Outcome(self.folder.checkpoint, self.step, False, self.psnr)
        finally:
            events.close()
        return Outcome(self.folder.checkpoint, self.step, True, self.psnr)

    def _done(self) -> float:
        config = self.config
        return self.spent / (60 * config.minutes) if config.minutes else self.step / config.steps

    def _set_rate(self, done: float) -> float:
        """Warm up, hold, fall to 0 on a cosine."""
        config = self.config
        factor = min(1.0, (self.step + 1) / (config.warmup + 1))
        if config.hold < 1 and done > config.hold:
            factor *= 0.5 * (1 + math.cos(math.pi * (done - config.hold) / (1 - config.hold)))
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        return config.lr * factor

    def _take_step(self, inputs: Tensor, targets: Tensor, done: float) -> Tensor:
        mixed = self.mixed and done < 1 - self.config.tail
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed):
            out = self.model(inputs)
        loss = distance(out.float(), targets, self.config)
        if self.device.type != "cuda" or self.step % _CHECK_CUDA_EVERY == 0:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        try:
            self.optimiser.step()
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # SOAP finds no basis for what is not finite.
            raise self._diverged("the gradient is not finite") from error
        self.average.update_parameters(self.model)
        return loss.detach()

    def _save(self) -> None:
        weights = self.average.module if self.config.ema else self.model
        if not all(bool(p.isfinite().all()) for p in weights.parameters()):
            raise self._diverged("the weights are not finite")
        if self.held:
            self.psnr = validate(weights, self.held, max(1, self.config.scale))
        config = self.config
        self.folder.save(
            {
                "state_dict": {k: v.cpu().contiguous() for k, v in weights.state_dict().items()},
                "arch": config.arch,
                "form": config.form,
                "scale": config.scale,
                "channels": 1 if config.channels == "y" else 3,
                "training": {
                    "recipe": config.recipe,
                    "how": config.summary(),
                    "data": config.sources(),
                    "degrade": str(Degradation.parse(config.degrade)),
                    "channels": config.channels,
                    "steps": self.step,
                    "minutes": round(self.spent / 60, 1),
                    "seed": config.seed,
                },
                "resume": {
                    "weights": self.model.state_dict(),
                    "average": self.average.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "step": self.step,
                    "spent": self.spent,
                },
            }
        )

    def _diverged(self, why: str) -> TrainingError:
        kept = f"{self.folder.checkpoint} is kept" if self.folder.checkpoint.exists() else "nothing was saved"
        return TrainingError(f"{self.folder.path}: {why} after step {self.step}; {kept}")

    def _write_log(self, status: Status, events: SummaryWriter) -> None:
        row = {
            "step": status.step,
            "seconds": round(status.seconds, 2),
            "loss": status.loss,
            "lr": status.lr,
            "crops_per_s": round(status.crops_per_s, 1),
        }
        if status.psnr is not None:
            row["psnr"] = round(status.psnr, 4)
        self.folder.append(row)
        for name in row.keys() - {"step", "seconds"}:
            events.add_scalar(name, row[name], status.step)


def make_optimiser(model: SRCNN, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser; a group a layer and kind, since the last layer may have its own rate."""
    groups: list[dict[str, Any]] = []
    for layer in (model.conv1, model.conv2, model.conv3):
        rate = config.lr * (config.last_layer_lr if layer is model.conv3 else 1)
        # SOAP's merge_dims fails on vectors (pytorch-optimizer 4.1).
        for parameter in layer.parameters():
            part = 1 if parameter.ndim > 1 else config.bias_lr
            decay = config.weight_decay if parameter is model.conv1.weight else 0.0
            groups.append(
                {
                    "params": [parameter],
                    "lr": rate * part,
                    "weight_decay": decay,
                    "merge_dims": parameter.ndim > 1,
                }
            )
    if config.optimiser == "soap":
        from pytorch_optimizer import SOAP

        # Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv 2409.11321), the
        # taps of a filter as one axis.
        return SOAP(
            groups,
            betas=(0.95, 0.95),
            precondition_frequency=10,
            max_precondition_dim=_SOAP_BASIS,
        )
    for group in groups:
        del group["merge_dims"]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.AdamW(groups) if config.weight_decay else torch.optim.Adam(groups)


def distance(out: Tensor, target: Tensor, config: TrainConfig) -> Tensor:
    """Return the loss of a batch."""
    error = out - target
    if config.loss == "mse":
        value = (error * error).mean()
    elif config.loss == "l1":
        value = error.abs().mean()
    else:
        value = (error * error + _CHARBONNIER**2).sqrt().mean()
    return value * (error[0].numel() / 2) if config.summed else value


@torch.no_grad()
def validate(model: nn.Module, pairs: list[Pair], border: int) -> float:
    """Mean PSNR in dB of a network over images, in the field's protocol."""
    scores = []
    parameter = next(model.parameters())
    for pair in pairs:
        image = pair.degraded[..., None] if pair.degraded.ndim == 2 else pair.degraded
        x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(parameter)
        shrink = model.shrink
        assert isinstance(shrink, int)
        out = model(data.mirror(x, shrink))[0].double().cpu().numpy().transpose(1, 2, 0)
        truth = pair.truth[..., None] if pair.truth.ndim == 2 else pair.truth
        scores.append(
            metrics.psnr(crop_border(metrics.codes(out), border), crop_border(metrics.codes(truth), border))
        )
    return float(np.mean(scores))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 rather than imitating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    with suppress(AttributeError):
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


def _device(asked: str) -> torch.device:
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise ArgumentError("device cuda is asked for, but torch finds no GPU")
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return an update for `AveragedModel` that starts as a plain mean."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _images(config: TrainConfig, log: Callable[[str], None]) -> tuple[data.Loaded, list[Pair]]:
    """Prepare what to train on and what to validate on."""
    degradation = Degradation.parse(config.degrade)
    paths = [p for folder in config.data for p in list_images(folder)]
    kept: list[Path] = []
    if config.validate:
        kept = list_images(config.validate)
    elif config.hold_out and len(set(paths)) >= 4 * config.hold_out:
        each = list(dict.fromkeys(paths))
        kept = each[:: math.ceil(len(each) / config.hold_out)]
        paths = [p for p in paths if p not in kept]
    loaded = data.load(paths, config.scale, config.channels, degradation, config.patch, config.seed, log)
    if not kept:
        return loaded, []
    minimum = 2 * max(1, config.scale) + 1
    # One version an image is enough to follow a run.
    once = data.load(kept, config.scale, config.channels, degradation, minimum, config.seed + 1, log)
    step = len(once.pairs) // len(once.names)
    return loaded, once.pairs[::step]


def _events(folder: Path, step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step or None)
