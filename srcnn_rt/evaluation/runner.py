"""Evaluation of models on folders of test images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..errors import ArgumentError, ImageError
from ..image.color import STUDIO_BLACK, STUDIO_WHITE, luminance
from ..models import spec
from ..options import Provider
from . import metrics, speed
from .protocol import BICUBIC, Channels, Degradation, Image, crop_border, list_images, modcrop, read_image

Upscale = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """Conditions of an evaluation. Only results of one protocol are comparable.

    Attributes
    ----------
    scale : int
        Scale factor.
    degradation : Degradation
        How LR images are made.
    channels : {"y", "rgb"}
        Whether luminance or all three channels together are measured.
    border : int
        Pixels cropped off every side before measuring. By default (-1) as many as the scale factor.
    """

    scale: int
    degradation: Degradation = BICUBIC
    channels: Channels = "y"
    border: int = -1

    def __post_init__(self) -> None:
        if self.border < 0:
            object.__setattr__(self, "border", self.scale)

    def __str__(self) -> str:
        measured = "luminance" if self.channels == "y" else "RGB"
        return f"×{self.scale}, {self.degradation}, {measured}, border of {self.border} pixels cropped"


@dataclass(frozen=True, slots=True)
class Method:
    """An upscaling method to evaluate.

    Attributes
    ----------
    name : str
        Title in tables.
    upscale : callable
        Maps an LR image (h, w) or (h, w, 3), float32 in [0, 1], to the upscaled one.
    colour : bool
        Whether it needs three channels even if luminance is measured.
    closing : context manager
        Releases the method's resources on exit.
    """

    name: str
    upscale: Upscale
    colour: bool = False
    closing: AbstractContextManager[Any] = field(default_factory=nullcontext)


@dataclass(frozen=True, slots=True)
class Score:
    """Scores of one method on an image, or their mean over a folder.

    Attributes
    ----------
    psnr : float
        In dB.
    ssim : float
    ms_ssim : float or None
        None if an image is too small for five scales.
    """

    psnr: float
    ssim: float
    ms_ssim: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """Scores of several methods on one folder.

    Attributes
    ----------
    folder : str
    protocol : Protocol
    scores : mapping
        Method name to image name to `Score`.
    skipped : sequence of str
        A line for each file that could not be used.
    """

    folder: str
    protocol: Protocol
    scores: Mapping[str, Mapping[str, Score]]
    skipped: Sequence[str] = ()

    def mean(self, method: str) -> Score:
        """Return the mean over images; MS-SSIM only if every image has it."""
        scores = list(self.scores[method].values())
        ms_ssim = [s.ms_ssim for s in scores if s.ms_ssim is not None]
        return Score(
            fmean(s.psnr for s in scores),
            fmean(s.ssim for s in scores),
            fmean(ms_ssim) if len(ms_ssim) == len(scores) else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the protocol and all scores as plain values."""
        return {
            "folder": self.folder,
            "scale": self.protocol.scale,
            "degrade": str(self.protocol.degradation),
            "channels": self.protocol.channels,
            "border": self.protocol.border,
            "skipped": list(self.skipped),
            "methods": {
                name: {"mean": asdict(self.mean(name)), "images": {k: asdict(s) for k, s in rows.items()}}
                for name, rows in self.scores.items()
            },
        }


def model_method(model: str | Path, provider: Provider = "auto", **options: Any) -> Method:
    """Return a method that runs a model.

    Parameters
    ----------
    model : str or Path
    provider : {"auto", "cpu", "cuda", "native", "openvino"}
    **options
        Further arguments of `Engine`.
    """
    engine = Engine(model, provider=provider, tile="auto", **options)
    if engine.spec.channels == 1 and not engine.spec.equivariant:
        # The luminance of the protocol is in studio range.
        upscale = partial(engine.upscale, data_range=(STUDIO_BLACK, STUDIO_WHITE))
        return Method(engine.spec.name, upscale, closing=engine)
    return Method(engine.spec.name, engine.upscale, engine.spec.channels == 3, engine)


def baselines(protocol: Protocol) -> list[Method]:
    """Return the methods that models are compared with: bicubic, and for noise also non-local means."""
    if protocol.scale == 1:
        plain = Method("no-op", lambda lr: lr)
    else:
        engine = Engine(f"bicubic-x{protocol.scale}", provider="cpu")
        plain = Method("bicubic", engine.upscale, closing=engine)
    if not protocol.degradation.noise:
        return [plain]
    name = "NL means" if protocol.scale == 1 else "NL means + bicubic"
    sigma = protocol.degradation.noise
    return [plain, Method(name, lambda lr: plain.upscale(_nl_means(lr, sigma)))]


def _nl_means(lr: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Denoise by OpenCV's non-local means with the true σ of the noise as its strength."""
    codes = metrics.codes(lr).astype(np.uint8)
    if codes.ndim == 2:
        clean = cv2.fastNlMeansDenoising(codes, None, sigma)
    else:
        clean = cv2.fastNlMeansDenoisingColored(codes[..., ::-1], None, sigma, sigma)[..., ::-1]
    return np.asarray(clean / 255, dtype=np.float32)


def protocol_for(
    model: spec.ModelSpec | int, channels: Channels, degrade: str | None, border: int | None = None
) -> Protocol:
    """Return the protocol to evaluate a model in.

    Parameters
    ----------
    model : ModelSpec or int
        Model, or the scale factor of a method that was trained for bicubic.
    channels : {"y", "rgb"}
    degrade : str or None
        Degradation; None for that of the model's training.
    border : int, optional
        Pixels cropped off every side. By default as many as the scale factor.
    """
    scale, training = (model, {}) if isinstance(model, int) else (model.scale, model.training)
    degradation = Degradation.parse(str(training.get("degrade", "bicubic")) if degrade is None else degrade)
    return Protocol(scale, degradation, channels, -1 if border is None else border)


def evaluate(
    folder: str | Path,
    methods: Sequence[Method],
    protocol: Protocol,
    *,
    log: Callable[[str], None] = lambda line: None,
    keep: Callable[[str, Mapping[str, NDArray[np.float64]]], None] | None = None,
) -> Result:
    """Measure methods on the images of one folder.

    Parameters
    ----------
    folder : str or Path
        Searched recursively.
    methods : sequence of Method
        See `model_method` and `baselines`.
    protocol : Protocol
    log : callable, optional
        Called with a line for every skipped file.
    keep : callable, optional
        Called with each image's name and a mapping of method names, and ``"truth"``, to 8-bit code values.

    Raises
    ------
    SourceMissingError
        If the folder does not exist.
    ImageError
        If no image can be used.
    ArgumentError
        If two methods have the same name.
    """
    names = [m.name for m in methods]
    if len(set(names)) != len(names):
        raise ArgumentError(f"models must have different names, got {', '.join(names)}")
    scores: dict[str, dict[str, Score]] = {name: {} for name in names}
    skipped: list[str] = []
    found = list_images(folder)
    for path in found:
        try:
            test = _TestImage(path, protocol)
        except ImageError as error:
            skipped.append(str(error))
            log(f"skipped: {error}")
            continue
        truth = crop_border(metrics.codes(test.truth), protocol.border)
        outputs: dict[str, NDArray[np.float64]] = {"truth": truth}
        for method in methods:
            codes = crop_border(metrics.codes(test.upscale(method)), protocol.border)
            outputs[method.name] = codes
            name = path.stem if path.stem not in scores[method.name] else str(path)
            scores[method.name][name] = Score(
                metrics.psnr(codes, truth), metrics.ssim(codes, truth), metrics.ms_ssim(codes, truth)
            )
        if keep is not None:
            keep(path.name, outputs)
    if len(skipped) == len(found):
        raise ImageError(f"{folder}: none of {len(found)} images can be used")
    return Result(Path(folder).name or str(folder), protocol, scores, skipped)


def speeds(methods: Sequence[Method], protocol: Protocol) -> dict[str, float]:
    """Return the speed of methods on the images that a protocol gives them, in HR megapixels per second."""
    rgb = protocol.channels == "rgb"
    timed = {m.name: (m.upscale, 3 if rgb or m.colour else 1) for m in methods}
    return speed.measure(timed, protocol.scale)


class _TestImage:
    """A test image, degraded once for all methods."""

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self._path, self._protocol = path, protocol
        self.truth = modcrop(read_image(path, protocol.channels), protocol.scale)
        minimum = 2 * protocol.border + metrics.MIN_SSIM_SIDE
        if min(self.truth.shape[:2]) < minimum:
            h, w = self.truth.shape[:2]
            raise ImageError(f"{path}: {w} x {h} pixels, smaller than {minimum} x {minimum}")
        self._lr = self._degrade(self.truth)

    def _degrade(self, truth: Image) -> NDArray[np.float32]:
        # The noise differs between images and is the same in every run.
        rng = np.random.default_rng(zlib.crc32(self._path.name.encode()))
        lr = self._protocol.degradation.apply(truth, self._protocol.scale, rng)
        return lr.astype(np.float32)

    def upscale(self, method: Method) -> NDArray[np.floating]:
        if self._protocol.channels == "rgb" or not method.colour:
            return method.upscale(self._lr)
        # A colour model gets the colour image, and the luminance of its output is measured.
        lr, gray = self._colour
        output = method.upscale(lr).astype(np.float64)
        return output.mean(axis=2) if gray else luminance(output)

    @cached_property
    def _colour(self) -> tuple[NDArray[np.float32], bool]:
        """The degraded colour image, and whether the file is gray."""
        try:
            colour = modcrop(read_image(self._path, "rgb"), self._protocol.scale)
        except ImageError:
            return self._degrade(np.repeat(self.truth[..., None], 3, axis=2)), True
        return self._degrade(colour), False
