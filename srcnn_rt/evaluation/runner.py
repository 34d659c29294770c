"""Measure models on folders of images, in the field's protocol, through `Engine`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..errors import ArgumentError, ImageError
from ..image.color import STUDIO_BLACK, STUDIO_WHITE, luminance
from ..models import spec
from . import metrics
from .protocol import BICUBIC, Channels, Degradation, Image, crop_border, list_images, modcrop, read_image

Upscale = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """What models are compared on.

    Attributes
    ----------
    scale : HR pixels an LR pixel
    degradation : how LR images are made
    channels : ``"y"`` measures luminance, ``"rgb"`` all three channels together
    border : pixels cut off every side before measuring, `scale` of them unless told
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
        return f"×{self.scale}, {self.degradation}, {measured}, {self.border} pixels shaved"


@dataclass(frozen=True, slots=True)
class Method:
    """One column of a table: something that enlarges.

    Attributes
    ----------
    name : as printed
    upscale : (h, w) or (h, w, 3) float32 in [0, 1] → (s·h, s·w) or (s·h, s·w, 3)
    colour : whether it wants three channels even where luminance is measured
    closing : closed when the evaluation is over
    """

    name: str
    upscale: Upscale
    colour: bool = False
    closing: AbstractContextManager[Any] = field(default_factory=nullcontext)


@dataclass(frozen=True, slots=True)
class Score:
    """One image by one method, or the mean over a folder.

    Attributes
    ----------
    psnr : dB
    ssim : 0 to 1
    ms_ssim : 0 to 1; None where an image is too small for five scales
    """

    psnr: float
    ssim: float
    ms_ssim: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """One folder in one protocol.

    Attributes
    ----------
    folder, protocol : what was measured
    scores : method → image → score, in the order they ran
    skipped : one line for each file that could not be used
    """

    folder: str
    protocol: Protocol
    scores: Mapping[str, Mapping[str, Score]]
    skipped: Sequence[str] = ()

    def mean(self, method: str) -> Score:
        """Return the mean over images; MS-SSIM only if every image has it."""
        scores = list(self.scores[method].values())
        multi = [s.ms_ssim for s in scores if s.ms_ssim is not None]
        return Score(
            fmean(s.psnr for s in scores),
            fmean(s.ssim for s in scores),
            fmean(multi) if len(multi) == len(scores) else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values: the protocol, and of every method its mean and its images."""

        def plain(score: Score) -> dict[str, float | None]:
            return {"psnr": score.psnr, "ssim": score.ssim, "ms_ssim": score.ms_ssim}

        return {
            "folder": self.folder,
            "scale": self.protocol.scale,
            "degrade": str(self.protocol.degradation),
            "channels": self.protocol.channels,
            "border": self.protocol.border,
            "skipped": list(self.skipped),
            "methods": {
                name: {"mean": plain(self.mean(name)), "images": {k: plain(s) for k, s in rows.items()}}
                for name, rows in self.scores.items()
            },
        }


def model_method(model: str | Path, provider: str = "auto", **options: Any) -> Method:
    """Return a method that runs an exported model through `Engine`, which gets the options.

    A model that needs a range of values is told that luminance comes as the protocol has it, in studio swing.
    """
    engine = Engine(model, provider, "auto", **options)
    if engine.spec.channels == 1 and not engine.spec.equivariant:
        upscale = partial(engine.upscale, data_range=(STUDIO_BLACK, STUDIO_WHITE))
        return Method(engine.spec.name, upscale, closing=engine)
    return Method(engine.spec.name, engine.upscale, engine.spec.channels == 3, engine)


def baselines(protocol: Protocol) -> list[Method]:
    """Return what every table has beside models: bicubic, and for noise non-local means first."""
    if protocol.scale == 1:
        plain = Method("no-op", lambda lr: lr)
    else:
        engine = Engine(f"bicubic-x{protocol.scale}", "cpu")
        plain = Method("bicubic", engine.upscale, closing=engine)
    if not protocol.degradation.noise:
        return [plain]
    name = "NL means" if protocol.scale == 1 else "NL means + bicubic"
    sigma = protocol.degradation.noise
    return [plain, Method(name, lambda lr: plain.upscale(_nl_means(lr, sigma)))]


def _nl_means(lr: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """OpenCV's non-local means with its strength set to the σ of the noise, which it is told."""
    import cv2

    codes = metrics.codes(lr).astype(np.uint8)
    if codes.ndim == 2:
        clean = cv2.fastNlMeansDenoising(codes, None, sigma)
    else:
        clean = cv2.fastNlMeansDenoisingColored(codes[..., ::-1], None, sigma, sigma)[..., ::-1]
    return np.asarray(clean / 255, dtype=np.float32)


def protocol_for(
    model: spec.ModelSpec, channels: Channels, degrade: str | None, border: int | None = None
) -> Protocol:
    """Return the protocol a model is measured in: what it was trained for, unless told."""
    told = degrade if degrade is not None else str(model.training.get("degrade", "bicubic"))
    return Protocol(model.scale, Degradation.parse(told), channels, -1 if border is None else border)


def evaluate(
    folder: str | Path,
    methods: Sequence[Method],
    protocol: Protocol,
    *,
    paths: Iterable[Path] | None = None,
    log: Callable[[str], None] = lambda line: None,
    keep: Callable[[str, Mapping[str, NDArray[np.float64]]], None] | None = None,
) -> Result:
    """Measure methods on the images of one folder.

    Parameters
    ----------
    folder : searched recursively
    methods : see `model_method` and `baselines`
    protocol : the same for all of them
    paths : images to use instead of all in `folder`
    log : told every file that is skipped
    keep : given each image's name and, by method (and ``"truth"``), code values of 8 bits

    Raises
    ------
    SourceMissingError
        If there is no such folder.
    ImageError
        If no image can be used.
    ArgumentError
        If two methods have one name.
    """
    names = [m.name for m in methods]
    if len(set(names)) != len(names):
        raise ArgumentError(f"two models of one name: {', '.join(names)}")
    scores: dict[str, dict[str, Score]] = {name: {} for name in names}
    skipped: list[str] = []
    found = list(paths) if paths is not None else list_images(folder)
    for path in found:
        try:
            images = _Prepared(path, protocol)
        except ImageError as error:
            skipped.append(str(error))
            log(f"skipped: {error}")
            continue
        truth = crop_border(metrics.codes(images.truth), protocol.border)
        shown: dict[str, NDArray[np.float64]] = {"truth": truth}
        for method in methods:
            codes = crop_border(metrics.codes(images.run(method)), protocol.border)
            shown[method.name] = codes
            scores[method.name][_key(path, scores[method.name])] = Score(
                metrics.psnr(codes, truth), metrics.ssim(codes, truth), metrics.ms_ssim(codes, truth)
            )
        if keep is not None:
            keep(path.name, shown)
    if len(skipped) == len(found):
        raise ImageError(f"{folder}: none of {len(found)} images can be used")
    return Result(Path(folder).name or str(folder), protocol, scores, skipped)


class _Prepared:
    """One image of a test set, degraded once for all methods."""

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self._path, self._protocol = path, protocol
        self.truth = modcrop(read_image(path, protocol.channels), protocol.scale)
        minimum = 2 * protocol.border + metrics.SMALLEST_SSIM
        if min(self.truth.shape[:2]) < minimum:
            h, w = self.truth.shape[:2]
            raise ImageError(f"{path}: {w} x {h} pixels, smaller than {minimum} x {minimum}")
        self._lr = self._degrade(self.truth)
        self._colour: NDArray[np.float32] | None = None
        self._gray = False

    def _degrade(self, truth: Image) -> NDArray[np.float32]:
        # The same noise in every run, another in every image.
        rng = np.random.default_rng(zlib.crc32(self._path.name.encode()))
        lr = self._protocol.degradation.apply(truth, self._protocol.scale, rng)
        return lr.astype(np.float32)

    def run(self, method: Method) -> NDArray[np.floating]:
        if self._protocol.channels == "rgb" or not method.colour:
            return method.upscale(self._lr)
        # A colour model where luminance is measured: it sees the colour, its answer's Y counts.
        if self._colour is None:
            try:
                colour = modcrop(read_image(self._path, "rgb"), self._protocol.scale)
            except ImageError:  # a gray image
                colour = np.repeat(self.truth[..., None], 3, axis=2)
                self._gray = True
            self._colour = self._degrade(colour)
        answer = method.upscale(self._colour).astype(np.float64)
        return answer.mean(axis=2) if self._gray else luminance(answer)


def _key(path: Path, taken: Mapping[str, Score]) -> str:
    """An image's name, with its folder where another has the same."""
    return path.stem if path.stem not in taken else str(path)
