"""Training crops: images are prepared once, kept in memory, and cut by index arithmetic."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ImageError
from ..evaluation.protocol import Channels, Degradation, Image, imresize, modcrop, read_image

# Samples are kept as int16 in steps of 2^-14: room for what bicubic overshoots, and 16 steps
# finer than those of 8 bits.
_STEP = 2.0**-14
_CELL = 8  # pixels between the places a crop may start at, before it is jittered
DRAWS = 8  # versions of an image whose degradation is random or depends on the position
_MAX_SAMPLES = 100_000_000  # of all versions; many images need fewer versions each

Samples = NDArray[np.float32]
Sampling = Literal["detail", "uniform", "grid"]


@dataclass(frozen=True, slots=True)
class Pair:
    """What a network sees and what it should give, both (H, W) or (H, W, 3) float32.

    Attributes
    ----------
    degraded : the LR image enlarged by bicubic; at scale 1 the LR image itself
    truth : the image
    """

    degraded: Samples
    truth: Samples


def make_pair(truth: Image, scale: int, degradation: Degradation, rng: np.random.Generator) -> Pair:
    """Crop an image to a multiple of `scale`, degrade it and enlarge it again."""
    truth = modcrop(truth, scale)
    lr = degradation.apply(truth, scale, rng)
    # float32: thousands of images wait here until they are packed.
    degraded = imresize(lr, scale, down=False)
    return Pair(degraded.astype(np.float32), truth.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The images of a run.

    Attributes
    ----------
    pairs : every one large enough, in up to `DRAWS` versions where the degradation varies
    weights : of every pair, how much more often it is to be seen
    names : files that were used
    skipped : one line for each file that was not, and why
    digest : SHA-256 over the files that were used, to repeat a run with
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
) -> Loaded:
    """Read and prepare images; what cannot be used is skipped by name.

    Parameters
    ----------
    paths : see `protocol.list_images`; one that is named n times is kept once, with weight n
    scale, channels, degradation : see `protocol`
    least : side of a crop in HR pixels; smaller images are skipped
    seed : of the random degradations
    log : told every skipped file

    Raises
    ------
    ImageError
        If no image is left.
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
                raise ImageError(f"{path}: {w} x {h} pixels, smaller than a crop of {minimum}")
        except ImageError as error:
            skipped.append(str(error))
            log(f"skipped: {error}")
            continue
        images.append((k, weight, image.astype(np.float32)))
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
        pairs += _versions(image32.astype(np.float64), scale, degradation, minimum, [seed, k], draws)
        weights += [weight] * draws
    return Loaded(pairs, weights, names, skipped, digest.hexdigest())


def _versions(
    image: Image, scale: int, degradation: Degradation, minimum: int, seed: list[int], draws: int
) -> list[Pair]:
    rng = np.random.default_rng(seed)
    pairs = []
    for draw in range(draws):
        # The blocks of a JPEG lie elsewhere in every version.
        y, x = (int(n) * scale for n in rng.integers(0, 8, 2)) if degradation.jpeg and draw else (0, 0)
        if min(image.shape[0] - y, image.shape[1] - x) < minimum + scale:
            y = x = 0
        pairs.append(make_pair(image[y:, x:], scale, degradation, rng))
    return pairs


class Patches:
    """Batches of crops in all eight orientations. Batch k is a function of the seed and k.

    Everything lies in one flat tensor, on the CPU or the GPU, and a batch is one gather:
    a resumed run sees the same batches, and the loop is not kept waiting.

    Parameters
    ----------
    pairs : images, none smaller than `size`
    size : side of the input crop in HR pixels
    shrink : what the network takes off each side; the target is that much smaller
    batch : crops a batch
    seed : of places and orientations
    sampling : ``"uniform"``: every place alike. ``"detail"``: places in proportion to the
        root-mean-square of what bicubic loses there, and half as often as the mean at
        least. ``"grid"``: the paper's sub-images, `stride` apart, each once an epoch in
        random order, upright.
    stride : of ``"grid"``
    device : where the images are kept
    weights : of every pair, how many times as often its places come

    Raises
    ------
    ArgumentError
        If the network takes everything off a crop.
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
    ) -> None:
        if size <= 2 * shrink:
            raise ArgumentError(f"a crop must be larger than {2 * shrink} pixels, got {size}")
        self.size, self.shrink, self.batch, self.seed = size, shrink, batch, seed
        self.sampling = sampling
        self._degraded = _pack([p.degraded for p in pairs], device)
        self._truth = _pack([p.truth for p in pairs], device)
        shapes = np.array([p.truth.shape[:2] for p in pairs], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))[:-1]])
        step = stride if sampling == "grid" else _CELL
        places = [_places(shape, size, step) for shape in shapes]
        count = [len(p) for p in places]
        self._y, self._x = np.concatenate(places).T
        self._width = np.repeat(shapes[:, 1], count)
        self._height = np.repeat(shapes[:, 0], count)
        self._start = np.repeat(starts, count)
        weight = np.ones(len(self._y))
        if sampling == "detail":
            weight = np.concatenate([_detail(p, at, size) for p, at in zip(pairs, places, strict=True)])
            # At least something, where nothing is lost anywhere.
            weight = np.maximum(weight, weight.mean() / 2) + 1e-12
        times = np.repeat(np.ones(len(pairs), np.int64) if weights is None else np.array(weights), count)
        self._until = np.cumsum(weight * times) / (weight * times).sum()
        self._each = (
            np.repeat(np.arange(len(self._y)), times) if sampling == "grid" else np.empty(0, np.int64)
        )
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        """Places a crop may start at."""
        return len(self._y)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return batch `step`: (N, C, size, size) inputs and their central targets, float32."""
        size, cut = self.size, self.shrink
        if self.sampling == "grid":
            index = np.array([self._next(step * self.batch + k) for k in range(self.batch)])
            y, x = self._y[index], self._x[index]
            turn = np.zeros(self.batch, np.int64)
        else:
            rng = np.random.default_rng([self.seed, step])
            drawn = np.searchsorted(self._until, rng.random(self.batch), side="right")
            index = np.minimum(drawn, len(self._y) - 1)
            jitter = rng.integers(0, _CELL, (2, self.batch))
            y = np.minimum(self._y[index] + jitter[0], self._height[index] - size)
            x = np.minimum(self._x[index] + jitter[1], self._width[index] - size)
            turn = rng.integers(0, 8, self.batch)
        width = self._width[index]
        along = np.arange(size)
        rows = np.where((turn & 1)[:, None] == 1, along[::-1], along)  # (N, size)
        cols = np.where((turn & 2)[:, None] == 2, along[::-1], along)
        swap = (turn & 4)[:, None, None] == 4
        rows, cols = (
            np.where(swap, rows[:, None, :], rows[:, :, None]),
            np.where(swap, cols[:, :, None], cols[:, None, :]),
        )
        base = self._start[index] + y * width + x
        flat = base[:, None, None] + rows * width[:, None, None] + cols
        where = torch.from_numpy(flat).to(self._truth.device)
        inner = where[:, cut : size - cut, cut : size - cut]
        return _take(self._degraded, where), _take(self._truth, inner)

    def _next(self, k: int) -> int:
        """Return the place of crop `k` of an endless row of shuffled epochs."""
        epoch, k = divmod(k, len(self._each))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self._each)
            self._epoch = epoch
        return int(self._order[k])


def _pack(images: Sequence[Samples], device: torch.device | str) -> Tensor:
    """Put images one after the other: (C, samples) int16."""
    channels = 1 if images[0].ndim == 2 else images[0].shape[2]
    flat = np.empty((channels, sum(p.shape[0] * p.shape[1] for p in images)), np.int16)
    at = 0
    for p in images:
        n = p.shape[0] * p.shape[1]
        flat[:, at : at + n] = np.rint(p.reshape(n, channels).T.clip(-1.99, 1.99) / _STEP)
        at += n
    return torch.from_numpy(flat).to(device)


def _take(flat: Tensor, where: Tensor) -> Tensor:
    """Gather (N, h, w) indices from (C, samples) into (N, C, h, w) float32 in [0, 1]."""
    n, h, w = where.shape
    taken = flat[:, where.reshape(-1)].reshape(-1, n, h, w).movedim(0, 1)
    return (taken.float() * _STEP).contiguous()


def _places(shape: NDArray[np.int64], size: int, step: int) -> NDArray[np.int64]:
    """All (y, x) a crop of `size` may start at, `step` apart."""
    y, x = (np.arange(0, n - size + 1, step) for n in shape)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def _detail(pair: Pair, places: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Root-mean-square of truth less degraded in the crop at each place."""
    lost = (pair.truth.astype(np.float64) - pair.degraded) ** 2
    plane = lost if lost.ndim == 2 else lost.mean(axis=2)
    total = np.pad(plane.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    y, x = places.T
    inside = total[y + size, x + size] - total[y, x + size] - total[y + size, x] + total[y, x]
    return np.asarray(np.sqrt(np.maximum(inside, 0) / size**2), dtype=np.float64)


def mirror(t: Tensor, n: int) -> Tensor:
    """Pad the last two axes of `t` by `n`, symmetrically: the edge sample repeats."""
    for axis in (-2, -1):
        index = torch.from_numpy(np.pad(np.arange(t.shape[axis]), n, mode="symmetric"))
        t = t.index_select(t.ndim + axis, index.to(t.device))
    return t
