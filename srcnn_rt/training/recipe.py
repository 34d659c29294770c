"""Configuration of training runs, and two recipes: that of the paper and that of the bundled models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from ..architectures import compact, networks
from ..errors import ArgumentError
from ..evaluation.protocol import Channels, Degradation
from .data import Sampling


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that a run depends on. ``run.json`` stores it.

    Attributes
    ----------
    data : tuple of str
        Folders of training images, searched recursively. A folder given n times is sampled n times as
        often.
    augment_scales : tuple of float
        Factors by which every image is also downscaled, for more images and finer detail.
    out : str
        Run folder, created by the run.
    scale : int
        Scale factor; 1 for restoration without upscaling.
    arch, channels, form, init : str
        See `SRCNN` and `Compact`. A compact network has one form and initialisation.
    branches : bool
        Whether the blocks of a compact network have branches, see `compact.Block`.
    degrade : str
        How LR images are made, see `protocol.Degradation`.
    recipe : str
        Origin of the values below, for the record.
    init_from : str
        Checkpoint or model to initialise the weights from, instead of `init`.
    optimiser : {"sgd", "adam", "soap"}
    lr : float
        Learning rate after the warm-up.
    weight_decay : float
        Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) of the first layer. It removes
        what initialisation left in directions that upscaled images do not contain.
    last_layer_lr : float
        Learning rate of the last layer relative to `lr`.
    bias_lr : float
        Learning rate of biases relative to that of their layer. The authors' Caffe files use 0.1; with
        1, biases change faster than weights and switch filters off for good.
    loss : {"mse", "l1", "charbonnier"}
        Mean over samples.
    summed : bool
        Whether to use the loss of Caffe's EuclideanLoss: half the sum over a crop, averaged over crops.
    batch, patch, stride, sampling
        See `Patches`.
    warmup : int
        Steps over which the learning rate rises.
    hold : float
        Fraction of the run after which the learning rate decays to 0 on a cosine; 1 for no decay.
    ema : float
        Decay of the moving average of the weights, which is the result; 0 for no averaging.
    tail : float
        Fraction of the run at its end that computes in float32 even with mixed precision.
    steps : int
        Length of the run.
    minutes : float
        Length of the run in time, instead of `steps`, if not 0.
    seed : int
        Seed of weights, crops and noise.
    precision : {"auto", "float32", "mixed"}
        ``"mixed"`` computes in bfloat16 where autocast allows it; ``"auto"`` does so if the device
        supports it natively.
    device : {"auto", "cpu", "cuda"}
    threads : int
        Threads of torch; 0 for torch's default.
    validate : str
        Folder of validation images. They affect neither training nor the choice of a checkpoint.
    hold_out : int
        Number of training images used for validation if `validate` is empty.
    """

    data: tuple[str, ...]
    out: str
    scale: int
    arch: str = "9-1-5"
    channels: Channels = "y"
    form: Literal["equivariant", "paper"] = "equivariant"
    degrade: str = "bicubic"
    recipe: str = "best"
    init: Literal["identity", "paper"] = "identity"
    branches: bool = True
    augment_scales: tuple[float, ...] = ()
    init_from: str = ""
    optimiser: Literal["sgd", "adam", "soap"] = "soap"
    lr: float = 3e-3
    weight_decay: float = 0.0
    last_layer_lr: float = 1.0
    bias_lr: float = 0.1
    loss: Literal["mse", "l1", "charbonnier"] = "mse"
    summed: bool = False
    batch: int = 32
    patch: int = 40
    stride: int = 14
    sampling: Sampling = "detail"
    warmup: int = 200
    hold: float = 0.5
    ema: float = 0.999
    tail: float = 0.15
    steps: int = 20_000
    minutes: float = 0.0
    seed: int = 0
    precision: Literal["auto", "float32", "mixed"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    validate: str = ""
    hold_out: int = 4

    def __post_init__(self) -> None:
        try:
            networks.check_name(self.arch)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        Degradation.parse(self.degrade)
        for name, kind in get_type_hints(type(self)).items():
            value, allowed = getattr(self, name), get_args(kind)
            if get_origin(kind) is Literal and value not in allowed:
                raise ArgumentError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, low, high in (
            ("scale", 1, 8), ("batch", 1, 65536), ("steps", 1, 10**12), ("lr", 1e-12, 1e3),
            ("minutes", 0, 10**7), ("weight_decay", 0, 100), ("stride", 1, 4096), ("hold", 0, 1),
            ("ema", 0, 0.999999), ("tail", 0, 1), ("warmup", 0, 10**9), ("hold_out", 0, 10**6),
            ("seed", 0, 2**63 - 1), ("threads", 0, 4096),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ArgumentError(f"{name} must be from {low:g} to {high:g}, got {getattr(self, name)}")
        if networks.is_compact(self.arch) and (self.form, self.init) != ("equivariant", "identity"):
            raise ArgumentError(f"{self.arch} has the equivariant form only; use --recipe best")
        if not self.branches and not networks.is_compact(self.arch):
            raise ArgumentError(f"--no-branches is for compact networks, got arch {self.arch}")
        if not all(0 < factor < 1 for factor in self.augment_scales):
            raise ArgumentError(f"augment-scale must be between 0 and 1, got {self.augment_scales}")
        if self.scale == 1 and str(Degradation.parse(self.degrade)) == "bicubic":
            raise ArgumentError("scale 1 needs a degradation to undo: --degrade blur, noise or jpeg")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that `asdict` returned.

        Raises
        ------
        ArgumentError
            If keys are missing or unknown.
        """
        mismatch = set(values) ^ {f.name for f in fields(cls)}
        if mismatch:
            raise ArgumentError(f"written by another version: {', '.join(sorted(mismatch))}")
        found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**found)

    def summary(self) -> str:
        """Return a line that describes optimisation and initialisation."""
        rate = f"{self.lr:g}"
        if self.last_layer_lr != 1:
            rate += f" ({self.lr * self.last_layer_lr:g} in the last layer)"
        if self.hold < 1:
            rate += f" held for {self.hold:.0%}, then to 0 on a cosine"
        if self.weight_decay:
            rate += f", weight decay {self.weight_decay:g} of the first layer"
        parts = [
            f"{self.optimiser.upper() if self.optimiser != 'adam' else 'Adam'} {rate}",
            f"weights of {self.init_from}" if self.init_from else f"{self.init} start",
            *(["layers trained as branches"] if networks.is_compact(self.arch) and self.branches else []),
            f"{self.loss}{' summed' if self.summed else ''}",
            f"batch {self.batch} of {self.patch}x{self.patch}, {self.sampling}",
            f"EMA {self.ema:g}" if self.ema else "no EMA",
            f"seed {self.seed}",
        ]
        return "; ".join(parts)

    def sources(self) -> str:
        """Return the names of the training folders, each with how often it is given."""
        counts = Counter(Path(d).name for d in self.data)
        return " + ".join(name if n == 1 else f"{n} × {name}" for name, n in counts.items())

    def asdict(self) -> dict[str, Any]:
        """Return the configuration as plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


# §4.1 and the authors' Caffe files: SGD with momentum 0.9, learning rate 10^-4 and 10^-5 in the last layer,
# 33 x 33 sub-images at a stride of 14, batches of 128, EuclideanLoss.
PAPER: Mapping[str, Any] = MappingProxyType({
    "recipe": "paper", "form": "paper", "init": "paper",
    "optimiser": "sgd", "lr": 1e-4, "last_layer_lr": 0.1, "warmup": 0, "hold": 1.0, "ema": 0.0,
    "loss": "mse", "summed": True,
    "batch": 128, "patch": 33, "stride": 14, "sampling": "grid",
    "precision": "float32", "tail": 1.0,
})  # fmt: skip


def defaults_of(arch: str) -> dict[str, Any]:
    """Return the defaults of an architecture that differ from those of the recipe."""
    if not networks.is_compact(arch):
        return {}
    networks.check_name(arch)
    # Half to two thirds of a crop's sides remain after the convolutions, which do not pad.
    return {"patch": 24 + 4 * compact.parse(arch).layers}


BEST: Mapping[str, Any] = MappingProxyType({"recipe": "best"})
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({"best": BEST, "paper": PAPER})
