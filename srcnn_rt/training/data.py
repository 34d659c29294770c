"""Training data: images are prepared once, kept in memory and cropped by index arithmetic."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ImageError
from ..evaluation.protocol import Channels, Degradation, Image, imresize, modcrop, read_image

# Samples are stored as int16 in steps of 2^-14: 64 times finer than 8 bits, with room for the overshoot of
# bicubic.
_STEP = 2.0**-14
_CELL = 8  # pixels between the crop positions, which are jittered within a cell
DRAWS = 8  # versions of an image whose degradation is random or depends on the position
_MAX_SAMPLES = 100_000_000  # of all versions together; many images get fewer versions each

Samples = NDArray[np.float32]
Sampling = Literal["detail", "uniform", "grid"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Input and target of a network.

    Attributes
    ----------
    degraded : ndarray, shape (H, W) or (H, W, 3), float32
        The LR image, upscaled by bicubic if the network works on HR pixels.
    truth : ndarray, shape (r·H, r·W) or (r·H, r·W, 3), float32
        The HR image; r is 1, or the scale factor if the network works on LR pixels.
    """

    degraded: Samples
    truth: Samples


def make_pair(
    truth: Image, scale: int, degradation: Degradation, rng: np.random.Generator, upscale: bool = True
) -> Pair:
    """Crop an image to a multiple of `scale`, degrade it and, if asked to, upscale it by bicubic."""
    truth = modcrop(truth, scale)
    degraded = degradation.apply(truth, scale, rng)
    if upscale:
        degraded = imresize(degraded, scale, down=False)
    # float32, because thousands of images are held until they are packed.
    return Pair(degraded.astype(np.float32), truth.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The images of a training run.

    Attributes
    ----------
    pairs : list of Pair
        All usable images, in up to `DRAWS` versions if the degradation varies.
    weights : list of int
        Relative sampling frequency of each pair.
    names : list of str
        Names of the files that are used.
    skipped : list of str
        A line for each file that is not used.
    digest : str
        SHA-256 of the files that are used.
    """

    pairs: list[Pair]
    weights: list[int]
    names: list[str]
    skipped: list[str]
    digest: str


def load(
    paths: Sequence[Path],
    scale: int,
    channels: Channels,
    degradation: Degradation,
    minimum: int,
    seed: int,
    log: Callable[[str], None] = lambda line: None,
    *,
    upscale: bool = True,
    augment_scales: Sequence[float] = (),
) -> Loaded:
    """Read and degrade images. Unusable ones are skipped.

    Parameters
    ----------
    paths : sequence of Path
        A path that occurs n times is kept once, with weight n.
    scale : int
        Scale factor.
    channels : {"y", "rgb"}
    degradation : Degradation
    minimum : int
        Images with a side of fewer HR pixels are skipped.
    seed : int
        Seed of random degradations.
    log : callable, optional
        Called with a line for every skipped file.
    upscale : bool
        Whether degraded images are upscaled by bicubic.
    augment_scales : sequence of float
        Factors below 1. Every image is also used downscaled by each of them, if it remains large enough.

    Raises
    ------
    ImageError
        If no image can be used.
    """
    counts = Counter(paths)
    images: list[tuple[int, int, Samples]] = []
    names: list[str] = []
    skipped: list[str] = []
    digest = hashlib.sha256()
    for k, (path, weight) in enumerate(counts.items()):
        try:
            image = read_image(path, channels)
            h, w = (n - n % scale for n in image.shape[:2])
            if min(h, w) < minimum:
                raise ImageError(f"{path}: {w} x {h} pixels, smaller than a crop of {minimum} pixels")
        except ImageError as error:
            skipped.append(str(error))
            log(f"skipped: {error}")
            continue
        for factor in (1.0, *augment_scales):
            small = _downscale(image, factor)
            if min(small.shape[:2]) >= minimum + scale or factor == 1:
                images.append((k, weight, small.astype(np.float32)))
        names.append(path.name)
        digest.update(path.read_bytes())
    if not images:
        raise ImageError(f"none of {len(counts)} images can be used; the first: {skipped[0]}")
    draws = 1
    if degradation.random or degradation.jpeg:
        draws = max(1, min(DRAWS, _MAX_SAMPLES // sum(p.size for _, _, p in images)))
    pairs: list[Pair] = []
    weights: list[int] = []
    while images:
        k, weight, image32 = images.pop(0)
        image = image32.astype(np.float64)
        pairs += _versions(image, scale, degradation, minimum, [seed, k], draws, upscale)
        weights += [weight] * draws
    return Loaded(pairs, weights, names, skipped, digest.hexdigest())


def _downscale(image: Image, factor: float) -> Image:
    if factor == 1:
        return image
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float64)


def _versions(
    image: Image,
    scale: int,
    degradation: Degradation,
    minimum: int,
    seed: list[int],
    draws: int,
    upscale: bool,
) -> list[Pair]:
    rng = np.random.default_rng(seed)
    pairs = []
    for draw in range(draws):
        # Each version shifts the grid of JPEG blocks.
        y, x = (int(n) * scale for n in rng.integers(0, 8, 2)) if degradation.jpeg and draw else (0, 0)
        if min(image.shape[0] - y, image.shape[1] - x) < minimum + scale:
            y = x = 0
        pairs.append(make_pair(image[y:, x:], scale, degradation, rng, upscale))
    return pairs


class Patches:
    """Batches of random crops in all eight orientations.

    A batch depends on the seed and its number alone, so a resumed run sees the same batches. All images
    are in one flat tensor on the device, and a batch is one gather.

    Parameters
    ----------
    pairs : sequence of Pair
        Images, none smaller than `size`.
    size : int
        Side of the input crops in pixels of the input.
    shrink : int
        Input pixels by which the target is smaller on each side, as the output of the network is.
    batch : int
        Crops per batch.
    seed : int
    sampling : {"uniform", "detail", "grid"}
        ``"uniform"``: all positions are equally likely. ``"detail"``: in proportion to the RMS error of
        bicubic there, and at least half the mean. ``"grid"``: the paper's sub-images at distances of
        `stride`, each once per epoch in random order, without reorientation.
    stride : int
        Of the grid.
    device : torch.device or str
    weights : sequence of int, optional
        Relative sampling frequency of each pair.
    magnification : int
        HR pixels per pixel of the input.

    Raises
    ------
    ArgumentError
        If nothing is left of a crop.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: int,
        shrink: int,
        batch: int,
        seed: int,
        sampling: Sampling = "uniform",
        stride: int = 14,
        device: torch.device | str = "cpu",
        weights: Sequence[int] | None = None,
        magnification: int = 1,
    ) -> None:
        if size <= 2 * shrink:
            raise ArgumentError(f"patch must be larger than {2 * shrink} pixels, got {size}")
        self.size, self.shrink, self.batch, self.seed = size, shrink, batch, seed
        self.sampling, self.magnification = sampling, magnification
        self._degraded = _pack([p.degraded for p in pairs], device)
        self._truth = _pack([p.truth for p in pairs], device)
        shapes = np.array([p.degraded.shape[:2] for p in pairs], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))[:-1]])
        step = stride if sampling == "grid" else _CELL
        positions = [_positions(shape, size, step) for shape in shapes]
        count = [len(p) for p in positions]
        self._y, self._x = np.concatenate(positions).T
        images = np.column_stack([shapes, starts])
        self._height, self._width, self._start = np.repeat(images, count, axis=0).T
        weight = np.ones(len(self._y))
        if sampling == "detail":
            weight = np.concatenate(
                [_rms_error(p, at, size, magnification) for p, at in zip(pairs, positions, strict=True)]
            )
            # Not 0 if bicubic loses nothing anywhere.
            weight = np.maximum(weight, weight.mean() / 2) + 1e-12
        times = np.repeat([1] * len(pairs) if weights is None else weights, count)
        self._cumulative = np.cumsum(weight * times) / (weight * times).sum()
        self._grid = np.repeat(np.arange(len(self._y)), times) if sampling == "grid" else None
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        """Return the number of crop positions."""
        return len(self._y)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return batch `step`: inputs (N, C, size, size) and targets of their centres, float32."""
        size, times = self.size, self.magnification
        if self._grid is not None:
            index = np.array([self._grid_position(step * self.batch + k) for k in range(self.batch)])
            y, x = self._y[index], self._x[index]
            turn = np.zeros(self.batch, np.int64)
        else:
            rng = np.random.default_rng([self.seed, step])
            drawn = np.searchsorted(self._cumulative, rng.random(self.batch), side="right")
            index = np.minimum(drawn, len(self._y) - 1)
            jitter = rng.integers(0, _CELL, (2, self.batch))
            y = np.minimum(self._y[index] + jitter[0], self._height[index] - size)
            x = np.minimum(self._x[index] + jitter[1], self._width[index] - size)
            turn = rng.integers(0, 8, self.batch)
        width = self._width[index]
        start = self._start[index]
        cut, core = times * self.shrink, times * (size - 2 * self.shrink)
        return (
            _gather(self._degraded, _crop_indices(start + y * width + x, width, size, turn)),
            _gather(
                self._truth,
                _crop_indices(
                    times**2 * start + (times * y + cut) * (times * width) + times * x + cut,
                    times * width,
                    core,
                    turn,
                ),
            ),
        )

    def _grid_position(self, k: int) -> int:
        """Return the position of crop `k` of an endless sequence of shuffled epochs."""
        assert self._grid is not None
        epoch, k = divmod(k, len(self._grid))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self._grid)
            self._epoch = epoch
        return int(self._order[k])


def _pack(images: Sequence[Samples], device: torch.device | str) -> Tensor:
    """Concatenate images as (C, pixels), int16."""
    channels = 1 if images[0].ndim == 2 else images[0].shape[2]
    flat = np.empty((channels, sum(p.shape[0] * p.shape[1] for p in images)), np.int16)
    start = 0
    for p in images:
        n = p.shape[0] * p.shape[1]
        flat[:, start : start + n] = np.rint(p.reshape(n, channels).T.clip(-1.99, 1.99) / _STEP)
        start += n
    return torch.from_numpy(flat).to(device)


def _crop_indices(
    start: NDArray[np.int64], width: NDArray[np.int64], size: int, turn: NDArray[np.int64]
) -> Tensor:
    """Return (N, size, size) indices of crops of a flat array, in one of eight orientations each."""
    along = np.arange(size)
    rows = np.where((turn & 1)[:, None] == 1, along[::-1], along)  # (N, size)
    cols = np.where((turn & 2)[:, None] == 2, along[::-1], along)
    swap = (turn & 4)[:, None, None] == 4
    y = np.where(swap, rows[:, None, :], rows[:, :, None])
    x = np.where(swap, cols[:, :, None], cols[:, None, :])
    return torch.from_numpy(start[:, None, None] + y * width[:, None, None] + x)


def _gather(flat: Tensor, indices: Tensor) -> Tensor:
    """Gather (N, h, w) indices from (C, pixels) into (N, C, h, w), float32 in [0, 1]."""
    indices = indices.to(flat.device)
    n, h, w = indices.shape
    gathered = flat[:, indices.reshape(-1)].reshape(-1, n, h, w).movedim(0, 1)
    return (gathered.float() * _STEP).contiguous()


def _positions(shape: NDArray[np.int64], size: int, step: int) -> NDArray[np.int64]:
    """Return all (y, x) at which a crop of `size` may start, in distances of `step`."""
    y, x = (np.arange(0, n - size + 1, step) for n in shape)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def _rms_error(
    pair: Pair, positions: NDArray[np.int64], size: int, magnification: int
) -> NDArray[np.float64]:
    """Return the RMS difference of truth and upscaled degraded image in the crop at each position."""
    upscaled = imresize(pair.degraded.astype(np.float64), magnification, down=False)
    error = (pair.truth - upscaled) ** 2
    positions, size = positions * magnification, size * magnification
    plane = error if error.ndim == 2 else error.mean(axis=2)
    total = np.pad(plane.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    y, x = positions.T
    inside = total[y + size, x + size] - total[y, x + size] - total[y + size, x] + total[y, x]
    return np.asarray(np.sqrt(np.maximum(inside, 0) / size**2), dtype=np.float64)
