"""The training loop.

Step k depends on the seed, k and the weights alone, so on a CPU a resumed run is bit-identical to an
uninterrupted one. With a time budget, the learning rate depends on the clock instead.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from .._system.cpu import instruction_sets
from ..architectures.compact import Compact
from ..architectures.networks import Network, is_compact
from ..architectures.srcnn import SRCNN
from ..errors import ArgumentError, TrainingError
from ..evaluation import metrics
from ..evaluation.protocol import Degradation, crop_border, list_images
from ..models import spec
from . import data
from .data import Pair, Patches
from .recipe import TrainConfig
from .run_folder import EVENTS, RunFolder, initial_weights

CHECKPOINT_EVERY = 60.0  # seconds
LOG_EVERY = 5.0  # seconds
_CHECK_CUDA_EVERY = 50  # steps between checks of the loss on a GPU, each of which synchronises
_CHARBONNIER = 1e-3  # ε of sqrt(d² + ε²): a quarter of an 8-bit code value
_MAX_SOAP_DIM = 128  # largest side of a preconditioner: covers 9 x 9 taps and 64 filters


@dataclass(frozen=True, slots=True)
class Status:
    """Progress of a run.

    Attributes
    ----------
    step : int
        Steps done.
    part : float
        Fraction of the run that is done, 0 to 1.
    loss : float
        Mean since the last status.
    lr : float
        Learning rate.
    psnr : float or None
        PSNR of the averaged weights on the validation images in dB; None between checkpoints.
    crops_per_s : float
        Since the last status.
    seconds, left : float
        Elapsed and remaining time.
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
    """Result of a run.

    Attributes
    ----------
    checkpoint : Path
    step : int
        Steps done.
    finished : bool
        False if the run was stopped on request, with everything saved.
    psnr : float or None
        On the validation images, in dB.
    """

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
    """Train a model and save checkpoints as ``last.pt`` in the run folder.

    Parameters
    ----------
    config : TrainConfig
    resume : bool
        Whether to continue from the checkpoint in ``config.out``.
    log : callable, optional
        Called with lines about skipped files and choices made.
    progress : callable, optional
        Called with a `Status` every few seconds.
    stop : callable, optional
        Called after every step. If it returns True, the run is saved and ends.

    Raises
    ------
    SourceMissingError, ImageError
        If there is nothing to train on.
    OutputError
        If the folder contains a run already or cannot be written.
    ArgumentError
        If the initial weights are of another architecture, or the device is not available.
    TrainingError
        If the loss or the weights are not finite. The last good checkpoint is kept.
    """
    folder = RunFolder(Path(config.out))
    if not resume:
        folder.refuse_a_second_run()
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    channels = 1 if config.channels == "y" else 3
    torch.manual_seed(config.seed)
    model: Network
    if is_compact(config.arch):
        model = Compact(config.arch, channels, config.scale, config.branches)
    else:
        model = SRCNN(config.arch, channels, config.init, form=config.form)
    if config.init_from:
        model.load_state_dict(dict(initial_weights(config.init_from, model)))
    loaded, validation = _load_images(config, model.magnification, log)
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
        model.magnification,
    )
    log(
        f"{len(loaded.names)} images with {len(patches)} crop positions, {len(loaded.skipped)} skipped; "
        f"{len(validation)} validation images; device {device}"
    )
    run = _Run(config, folder, model.to(device), device, validation)
    if resume:
        folder.resume(config, loaded.digest)
        run.restore()
    else:
        record: dict[str, Any] = {
            "images": loaded.names,
            "skipped": loaded.skipped,
            "sha256": loaded.digest,
        }
        if init := config.init_from:
            content = spec.read(init)[0] if spec.is_model(init) else Path(init).read_bytes()
            record["init_from_sha256"] = hashlib.sha256(content).hexdigest()
        folder.create(config, record)
    del loaded
    return run.go(patches, progress, stop)


class _Run:
    """The state of a run, which checkpoints save and restore."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        model: Network,
        device: torch.device,
        validation: list[Pair],
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.validation = validation
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.model, multi_avg_fn=_averaging(config.ema))
        self.optimiser = make_optimiser(self.model, config)
        self._rates = [group["lr"] for group in self.optimiser.param_groups]
        self.mixed = config.precision == "mixed" or (config.precision == "auto" and has_bfloat16(device))
        self.step, self.spent = 0, 0.0
        self.psnr: float | None = None

    def restore(self) -> None:
        """Load the checkpoint, if there is one."""
        state = self.folder.load()
        if state is None:
            return
        try:
            saved = state["resume"]
            self.model.load_state_dict(saved["weights"])
            self.average.load_state_dict(saved["average"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step, self.spent = int(saved["step"]), float(saved["spent"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            what = f"not a checkpoint of this run ({self.config.arch}): {' '.join(str(error).split())[:160]}"
            raise ArgumentError(f"{self.folder.checkpoint}: {what}") from error
        self.folder.truncate_log(self.step)

    def go(self, patches: Patches, progress: Callable[[Status], None], stop: Callable[[], bool]) -> Outcome:
        """Take steps until the budget is used up or `stop` returns True."""
        config, start = self.config, time.monotonic() - self.spent
        logged = saved = self.spent
        losses: list[Tensor] = []
        done, stopped = self._done(), False
        with SummaryWriter(str(self.folder.path / EVENTS), purge_step=self.step or None) as events:
            while done < 1 and not stopped:
                rate = self._set_rate(done)
                losses.append(self._take_step(*patches.at(self.step), done))
                self.step += 1
                self.spent = time.monotonic() - start
                done = self._done()
                stopped = stop()
                save = done >= 1 or stopped or self.spent - saved >= CHECKPOINT_EVERY
                if save or self.spent - logged >= LOG_EVERY:
                    if save:
                        self._save()
                        saved = self.spent
                    loss = float(torch.stack(losses).mean())
                    psnr = self.psnr if save else None
                    pace = len(losses) / max(self.spent - logged, 1e-9) * config.batch
                    left = self.spent / done * (1 - done)
                    status = Status(self.step, min(done, 1.0), loss, rate, psnr, pace, self.spent, left)
                    self._write_log(status, events)
                    progress(status)
                    logged = self.spent
                    losses.clear()
                    # The time of saving and validating does not count towards the budget.
                    start = time.monotonic() - self.spent
        return Outcome(self.folder.checkpoint, self.step, done >= 1, self.psnr)

    def _done(self) -> float:
        """Return the fraction of the budget that is used up."""
        config = self.config
        return self.spent / (60 * config.minutes) if config.minutes else self.step / config.steps

    def _set_rate(self, done: float) -> float:
        """Set the learning rate: linear warm-up, constant, cosine decay to 0."""
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
            # SOAP cannot decompose a gradient that is not finite.
            raise self._diverged("the gradient is not finite") from error
        self.average.update_parameters(self.model)
        return loss.detach()

    def _save(self) -> None:
        weights = cast("Network", self.average.module) if self.config.ema else self.model
        if not all(bool(p.isfinite().all()) for p in weights.parameters()):
            raise self._diverged("the weights are not finite")
        if self.validation:
            self.psnr = validate(weights, self.validation, self.config.scale)
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


def make_optimiser(model: Network, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser, with a parameter group per tensor, because learning rates differ."""
    groups: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        rate = config.lr * (config.last_layer_lr if name.startswith("conv3.") else 1)
        rate *= config.bias_lr if name.endswith(".bias") else 1
        decay = config.weight_decay if name == "conv1.weight" else 0.0
        group = {"params": [parameter], "lr": rate, "weight_decay": decay}
        if config.optimiser == "soap":
            # SOAP's merge_dims fails on tensors that it merges to vectors (pytorch-optimizer 4.1).
            group["merge_dims"] = parameter.ndim > 1 and parameter.numel() > _MAX_SOAP_DIM
        groups.append(group)
    if config.optimiser == "soap":
        from pytorch_optimizer import SOAP

        # Vyas et al., arXiv 2409.11321. Merged dimensions treat the taps of a filter as one axis.
        return SOAP(groups, betas=(0.95, 0.95), precondition_frequency=10, max_precondition_dim=_MAX_SOAP_DIM)
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
def validate(model: Network, pairs: list[Pair], border: int) -> float:
    """Return the mean PSNR of a network in dB, as `evaluation` measures it."""
    scores = []
    parameter, around = next(model.parameters()), ((model.shrink, model.shrink),) * 2 + ((0, 0),)
    for pair in pairs:
        degraded, truth = (np.atleast_3d(image) for image in (pair.degraded, pair.truth))
        mirrored = np.pad(degraded, around, mode="symmetric").transpose(2, 0, 1)
        x = torch.from_numpy(np.ascontiguousarray(mirrored))[None].to(parameter)
        out = model(x)[0].double().cpu().numpy().transpose(1, 2, 0)
        codes = (crop_border(metrics.codes(image), border) for image in (out, truth))
        scores.append(metrics.psnr(*codes))
    return float(np.mean(scores))


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "avx512_bf16" in instruction_sets()


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ArgumentError("device cuda is not available: torch finds no GPU")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return an update of `AveragedModel`: an exponential moving average with a shorter memory at first."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = float(count)
        step = get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        step(averaged, current, count)

    return update


def _load_images(
    config: TrainConfig, magnification: int, log: Callable[[str], None]
) -> tuple[data.Loaded, list[Pair]]:
    """Load the training images and the validation images."""
    upscale = magnification == 1
    degradation = Degradation.parse(config.degrade)
    paths = [p for folder in config.data for p in list_images(folder)]
    validation: list[Path] = []
    if config.validate:
        validation = list_images(config.validate)
    elif config.hold_out and len(set(paths)) >= 4 * config.hold_out:
        unique = list(dict.fromkeys(paths))
        validation = unique[:: math.ceil(len(unique) / config.hold_out)]
        paths = [p for p in paths if p not in validation]
    common = (config.scale, config.channels, degradation)
    loaded = data.load(
        paths, *common, config.patch * magnification, config.seed, log,
        upscale=upscale, augment_scales=config.augment_scales,
    )  # fmt: skip
    if not validation:
        return loaded, []
    held_out = data.load(validation, *common, 2 * config.scale + 1, config.seed + 1, log, upscale=upscale)
    # One version per image.
    return loaded, held_out.pairs[:: len(held_out.pairs) // len(held_out.names)]
