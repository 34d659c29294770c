"""What a training run depends on, and the two recipes: the paper's and ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from ..architectures.srcnn import FORMS, INITS, kernel_sizes
from ..errors import ArgumentError
from ..evaluation.protocol import Channels, Degradation
from .data import Sampling

LOSSES = ("mse", "l1", "charbonnier")
OPTIMISERS = ("sgd", "adam", "soap")
PRECISIONS = ("auto", "float32", "mixed")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a run depends on; ``run.json`` keeps it.

    Attributes
    ----------
    data : folders of training images, searched recursively; one that is given n times is seen n
        times as often
    out : run folder, made by the run
    scale : 1 for restoration without enlargement
    arch, channels, form : see `SRCNN`
    degrade : how an LR image is made, see `protocol.Degradation`
    recipe : where the values below came from, for the record
    init : see `SRCNN`
    start : checkpoint whose weights to start from instead
    optimiser, rate : and its learning rate at the start
    decay : weight decay of the first layer, decoupled from the gradient (Loshchilov and Hutter, arXiv
        1711.05101): what its filters hold in directions that no enlarged image has is left over from the
        start
    last_layer_lr : learning rate of the last layer as a part of `rate`
    bias_lr : learning rate of biases as a part of their layer's; the authors' Caffe files have
        0.1, and at 1 they run ahead of the weights and switch filters off for good
    loss : ``"mse"``, ``"l1"`` or ``"charbonnier"``, the mean over samples
    summed : loss as Caffe's EuclideanLoss, half the sum over a crop, the mean over crops
    batch, patch, stride, sampling : see `Patches`
    warmup : steps over which the learning rate rises
    hold : part of the run at the full rate before it falls to 0 on a cosine; 1 never falls
    ema : decay of the moving average of the weights that is kept as the result; 0 is none
    tail : part of the run at the end that is float32 even where precision is mixed
    steps : length of the run
    minutes : length in time instead; the schedule ends there (0: `steps` decides)
    seed : of weights, places, orientations and noise
    precision : ``"mixed"`` is bfloat16 where torch's autocast allows it; ``"auto"`` takes it
        where the CPU or GPU computes in it
    device : ``"auto"``, ``"cpu"`` or ``"cuda"``
    threads : of torch; 0 is torch's own choice
    validate : folder of images whose PSNR is logged; never trained on, never chosen by
    hold_out : images of `data` kept for that where `validate` is empty
    """

    data: tuple[str, ...]
    out: str
    scale: int
    arch: str = "9-1-5"
    channels: Channels = "y"
    form: str = "equivariant"
    degrade: str = "bicubic"
    recipe: str = "best"
    init: str = "identity"
    init_from: str = ""
    optimiser: Literal["sgd", "adam", "soap"] = "soap"
    lr: float = 3e-3
    weight_decay: float = 0.0
    last_layer_lr: float = 1.0
    bias_lr: float = 0.1
    loss: str = "mse"
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
    precision: str = "auto"
    device: str = "auto"
    threads: int = 0
    validate: str = ""
    hold_out: int = 4

    def __post_init__(self) -> None:
        try:
            kernel_sizes(self.arch)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        Degradation.parse(self.degrade)
        for name, allowed in (
            ("channels", ("y", "rgb")),
            ("form", FORMS),
            ("init", INITS),
            ("optimiser", OPTIMISERS),
            ("loss", LOSSES),
            ("sampling", ("detail", "uniform", "grid")),
            ("precision", PRECISIONS),
            ("device", ("auto", "cpu", "cuda")),
        ):
            if getattr(self, name) not in allowed:
                raise ArgumentError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        for name, low, high in (
            ("scale", 1, 8),
            ("batch", 1, 65536),
            ("steps", 1, 10**12),
            ("lr", 1e-12, 1e3),
            ("minutes", 0, 10**7),
            ("weight_decay", 0, 100),
            ("stride", 1, 4096),
            ("hold", 0, 1),
            ("ema", 0, 0.999999),
            ("tail", 0, 1),
            ("warmup", 0, 10**9),
            ("hold_out", 0, 10**6),
            ("seed", 0, 2**63 - 1),
            ("threads", 0, 4096),
        ):
            if not low <= getattr(self, name) <= high:
                raise ArgumentError(f"{name} must be {low:g} to {high:g}, got {getattr(self, name)}")
        if self.scale == 1 and str(Degradation.parse(self.degrade)) == "bicubic":
            raise ArgumentError("scale 1 needs something to restore: --degrade blur, noise or jpeg")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that `asdict` wrote.

        Raises
        ------
        ArgumentError
            If keys are missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            odd = ", ".join(sorted(set(values) ^ known))
            raise ArgumentError(f"written by another version: {odd}")
        return cls(**{**values, "data": tuple(values["data"])})

    def summary(self) -> str:
        """One line that says how the weights were found."""
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
            f"{self.loss}{' summed' if self.summed else ''}",
            f"batch {self.batch} of {self.patch}x{self.patch}, {self.sampling}",
            f"EMA {self.ema:g}" if self.ema else "no EMA",
            f"seed {self.seed}",
        ]
        return "; ".join(parts)

    def sources(self) -> str:
        """Name the data: a folder given several times is seen that many times as often."""
        counts = Counter(Path(d).name for d in self.data)
        return " + ".join(name if n == 1 else f"{n} × {name}" for name, n in counts.items())

    def asdict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "data": list(self.data)}


# §4.1 and the authors' Caffe files: SGD with momentum 0.9, 10^-4 and 10^-5 in the last layer,
# 33 x 33 sub-images 14 apart, upright, batches of 128, EuclideanLoss.
PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "recipe": "paper",
        "form": "paper",
        "init": "paper",
        "optimiser": "sgd",
        "lr": 1e-4,
        "last_layer_lr": 0.1,
        "loss": "mse",
        "summed": True,
        "batch": 128,
        "patch": 33,
        "stride": 14,
        "sampling": "grid",
        "warmup": 0,
        "hold": 1.0,
        "ema": 0.0,
        "tail": 1.0,
        "precision": "float32",
    }
)
BEST: Mapping[str, Any] = MappingProxyType({"recipe": "best"})
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({"best": BEST, "paper": PAPER})
