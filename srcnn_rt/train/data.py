"""Training pairs and the field's degradation: MATLAB's imresize, MATLAB's luminance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..color import luminance

PICTURES = (".bmp", ".jpg", ".jpeg", ".png")
_SUPPORT = 3  # LR pixels the cubic kernel reaches past an edge, rounded up


def list_pictures(folder: Path) -> list[Path]:
    """Every picture below `folder`, sorted by path.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in PICTURES)
    if not found:
        raise ValueError(f"{folder}: no pictures ({', '.join(PICTURES)})")
    return found


def read_luminance(path: Path) -> NDArray[np.float64]:
    """One picture's luminance as MATLAB's ``rgb2ycbcr`` gives it for uint8.

    Returns
    -------
    (H, W) float64 of whole numbers / 255, in [16/255, 235/255]; a gray picture is
    taken as it is, in [0, 1], which is the field's habit.
    """
    bgr = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR)
    if bgr is None:
        raise ValueError(f"{path}: not a picture that OpenCV reads")
    if bgr.ndim == 2:
        return bgr.astype(np.float64) / 255
    rgb = bgr[..., ::-1].astype(np.float64) / 255
    return np.asarray(np.rint(luminance(rgb) * 255) / 255, dtype=np.float64)


def imresize(image: NDArray[np.float64], scale: int, *, down: bool) -> NDArray[np.float64]:
    """MATLAB's ``imresize(image, scale or 1/scale, 'bicubic')`` for a whole-number scale.

    Keys' kernel with a = -0.5, widened when shrinking (antialiasing), edges mirrored.
    torch's antialiased resize is the same filter but renormalises it at the edges, so
    the picture is mirrored first and the border cut off after.

    Parameters
    ----------
    image : (H, W) float64
    scale : int
    down : bool
        Shrink by `scale` (H and W must be multiples of it) rather than enlarge.
    """
    pad = _SUPPORT * scale if down else _SUPPORT
    cut = _SUPPORT if down else _SUPPORT * scale
    h, w = image.shape
    size = (h // scale, w // scale) if down else (h * scale, w * scale)
    t = torch.from_numpy(np.pad(image, pad, mode="symmetric"))[None, None]
    t = torch.nn.functional.interpolate(
        t, size=(size[0] + 2 * cut, size[1] + 2 * cut), mode="bicubic", antialias=True
    )
    return t[0, 0, cut : cut + size[0], cut : cut + size[1]].numpy()


def modcrop(image: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Cut bottom and right so that both sides are multiples of `scale`."""
    h, w = (n - n % scale for n in image.shape)
    return image[:h, :w]


def mirror(t: Tensor, n: int) -> Tensor:
    """Pad the last two axes of `t` by `n`, symmetrically: the edge sample repeats."""
    for axis in (-2, -1):
        index = torch.from_numpy(np.pad(np.arange(t.shape[axis]), n, mode="symmetric"))
        t = t.index_select(t.ndim + axis, index.to(t.device))
    return t


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and what bicubic makes of its small version, both (H, W) float32."""

    bicubic: Tensor
    truth: Tensor


def make_pair(path: Path, scale: int) -> Pair:
    """Read, crop, shrink and enlarge one picture, without rounding in between."""
    truth = modcrop(read_luminance(path), scale)
    bicubic = imresize(imresize(truth, scale, down=True), scale, down=False)
    return Pair(torch.from_numpy(bicubic).float(), torch.from_numpy(truth).float())


class Patches:
    """Random crops in all eight orientations; the picture is drawn by its area.

    Parameters
    ----------
    pairs : list of Pair
    size : int
        Side of the input crop in HR pixels. Smaller pictures are left out.
    shrink : int
        What the network takes off each side; the target is that much smaller.
    batch : int
    seed : int
    """

    def __init__(self, pairs: list[Pair], size: int, shrink: int, batch: int, seed: int) -> None:
        self.pairs = [p for p in pairs if min(p.truth.shape) >= size]
        self.skipped = len(pairs) - len(self.pairs)
        if not self.pairs:
            raise ValueError(f"no picture is at least {size} x {size} pixels")
        if size <= 2 * shrink:
            raise ValueError(f"a patch must be larger than {2 * shrink} pixels, got {size}")
        self.size, self.shrink, self.batch = size, shrink, batch
        area = np.array([p.truth.numel() for p in self.pairs], dtype=np.float64)
        self._weight = area / area.sum()
        self._rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (N, 1, size, size) inputs and their central targets, endlessly."""
        size, cut = self.size, self.shrink
        while True:
            inputs: list[Tensor] = []
            targets: list[Tensor] = []
            for k in self._rng.choice(len(self.pairs), self.batch, p=self._weight):
                pair = self.pairs[k]
                y, x = (int(self._rng.integers(n - size + 1)) for n in pair.truth.shape)
                turn = int(self._rng.integers(8))
                for whole, out in ((pair.bicubic, inputs), (pair.truth, targets)):
                    crop = torch.rot90(whole[y : y + size, x : x + size], turn % 4)
                    out.append(crop.flip(0) if turn >= 4 else crop)
            yield (
                torch.stack(inputs)[:, None],
                torch.stack(targets)[:, None, cut : size - cut, cut : size - cut],
            )
