"""A user's program, which mypy --strict and pyright accept. It is checked, not run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Unpack, assert_type

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from PIL import Image

import srcnn_rt
from srcnn_rt import (
    ArrayOptions,
    DeviceError,
    Engine,
    Estimate,
    FileOptions,
    Job,
    ModelSpec,
    Progress,
    Report,
    SrcnnError,
    TrainingError,
)
from srcnn_rt.progress import rich_bar, tqdm_bar

assert_type(srcnn_rt.list_models(), list[str])


def show(done: int, total: int) -> None:
    print(f"{done / total:.0%}")


def arrays(engine: Engine, rgb: NDArray[np.uint8], height: NDArray[np.float32]) -> None:
    assert_type(engine.upscale(rgb), NDArray[np.uint8])
    assert_type(engine.upscale(height, nodata=-9999.0, progress=show), NDArray[np.float32])
    assert_type(engine.upscale(rgb, layout="CHW", data_range=(0, 255)), NDArray[np.uint8])
    assert_type(engine.upscale(rgb, cancel=threading.Event(), bands=True), NDArray[np.uint8])


def masks(engine: Engine, dem: np.ma.MaskedArray[tuple[int, int], np.dtype[np.int16]]) -> None:
    assert_type(engine.upscale(dem), np.ma.MaskedArray[tuple[int, int], np.dtype[np.int16]])


def others(engine: Engine, tensor: torch.Tensor, image: Image.Image, labelled: xarray.DataArray) -> None:
    assert_type(engine.upscale(labelled, bands=True), xarray.DataArray)
    assert_type(engine.upscale(tensor, layout="NCHW"), torch.Tensor)
    assert_type(engine.upscale(image), Image.Image)
    assert_type(srcnn_rt.upscale(image, "srcnn-955-x3", provider="cpu"), Image.Image)
    assert_type(srcnn_rt.upscale(tensor, threads=2), torch.Tensor)


def files(engine: Engine, folder: Path) -> None:
    report = engine.upscale_file(folder / "a.tif", folder / "b.tif", compress="zstd", cog=True, progress=show)
    assert_type(report, Report)
    assert_type(engine.estimate("a.tif", "b.tif", max_pixels=10**9), Estimate)
    assert_type(engine.job("a.tif", "b.tif"), Job)
    for window, part in engine.stream(folder / "a.tif", region=(slice(0, 9), slice(0, 9))):
        print(window[0].start, part.shape)
    with tqdm_bar("a.tif") as bar:
        assert_type(bar, Progress)
        engine.upscale_file("a.tif", "b.tif", progress=bar)
    with rich_bar() as bar:
        engine.upscale_file("a.tif", "b.tif", progress=bar)


def wrapped(engine: Engine, image: NDArray[np.uint8], **options: Unpack[ArrayOptions]) -> NDArray[np.uint8]:
    return engine.upscale(image, **options)


def batch(engine: Engine, paths: list[Path], **options: Unpack[FileOptions]) -> list[Report]:
    return [engine.upscale_file(path, path.with_suffix(".png"), **options) for path in paths]


def main() -> None:
    try:
        with Engine("srcnn-915-x2", provider="native", tile="auto", threads=1, precision="exact") as engine:
            assert_type(engine.spec, ModelSpec)
            assert_type((engine.scale, engine.tile, engine.provider), tuple[int, int, str])
            print(repr(engine))
        Engine(Path("m.onnx"), device=(0, 1), gpu_memory="8GB", inputs={"noise": 0.1}).close()
    except (DeviceError, TrainingError, SrcnnError) as error:
        print(error)
