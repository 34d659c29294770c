"""Pairs of images for PyTorch: each file, and the file upscaled in the workers of a DataLoader.

pip install "srcnn-rt[cpu]" torch pillow
python examples/torch_dataloader.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from srcnn_rt import Engine


class Upscaled(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The images of a folder, (3, H, W), and enlarged, (3, s·H, s·W), from 0 to 1.

    Parameters
    ----------
    folder : Path
        Its PNG files.
    engine : Engine
        Each worker gets its own copy, with `threads=1`: the workers are what runs in parallel.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.paths = sorted(folder.glob("*.png"))
        self.engine = engine

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[index]) as image:
            small = np.array(image.convert("RGB"))
        large = self.engine.upscale(small)
        return _tensor(small), _tensor(large)


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def load(folder: Path, workers: int = 2, method: str | None = None) -> DataLoader:
    """Return the loader; `method` is how its workers start, ``"fork"`` or ``"spawn"``."""
    dataset = Upscaled(folder, Engine("srcnn-915-x2", threads=1))
    return DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method)


if __name__ == "__main__":
    for small, large in load(Path(sys.argv[1])):
        print(tuple(small.shape), "→", tuple(large.shape))
