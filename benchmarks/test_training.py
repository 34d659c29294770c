"""Compare training with torch's own forward and backward passes."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from srcnn_rt.architectures.srcnn import SRCNN
from srcnn_rt.training import data
from srcnn_rt.training.data import Patches
from srcnn_rt.training.loop import _Run
from srcnn_rt.training.recipe import TrainConfig
from srcnn_rt.training.run_folder import RunFolder
from tests.conftest import drawing

STEPS = 150
ROUNDS = 5


def raw_seconds(config: TrainConfig) -> float:
    """Return the seconds of forward and backward passes of one fixed batch."""
    model = SRCNN(config.arch).to(memory_format=torch.channels_last)
    x = torch.rand(config.batch, 1, config.patch, config.patch)
    cut = model.shrink
    y = x[:, :, cut:-cut, cut:-cut].contiguous()
    started = time.perf_counter()
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "mixed"):
            out = model(x)
        model.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(out.float(), y).backward()
    return time.perf_counter() - started


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("arch", ["9-1-5", "9-5-5"])
def test_the_loop_keeps_torch_busy(benchmark, tmp_path, arch: str, precision: str) -> None:
    """The whole loop, including checkpoint and log at the end, runs at 60% of torch's speed or more."""
    config = TrainConfig(
        data=("drawn",), out=str(tmp_path), scale=3, arch=arch, precision=precision, steps=STEPS, tail=0.0
    )
    pairs = [
        data.make_pair(drawing(240, 240, 1, k)[..., 0], 3, data.Degradation(), np.random.default_rng(0))
        for k in range(4)
    ]
    patches = Patches(pairs, config.patch, SRCNN(arch).shrink, config.batch, 0, config.sampling)

    def loop() -> float:
        run = _Run(config, RunFolder(tmp_path), SRCNN(arch), torch.device("cpu"), [])
        started = time.perf_counter()
        assert run.go(patches, lambda status: None, lambda: False).step == STEPS
        return time.perf_counter() - started

    loop()
    raw_seconds(config)
    ratios, paces = [], []
    for _ in range(ROUNDS):
        taken = loop()
        ratios.append(raw_seconds(config) / taken)
        paces.append(STEPS * config.batch / taken)
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info["of torch's pace"] = round(statistics.median(ratios), 2)
    benchmark.extra_info["crops/s"] = round(statistics.median(paces))
    assert statistics.median(ratios) >= 0.6
