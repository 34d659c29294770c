"""Whatever is passed for an argument of the public interface, what leaves is an error of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from srcnn_rt import ArgumentError, Engine, SrcnnError, open_image

IMAGE = np.arange(600, dtype=np.uint8).reshape(10, 20, 3)
WRONG: list[Any] = [
    None, 5, 5.5, -1, 10**30, float("nan"), 1j, True, "x", "0..", b"x", [], {}, (1, 2), ("a", "b"), object(),
    (slice(1),), (slice("a"), slice(1)), (5, 6), np.zeros(3), np.str_("y"), len,
]  # fmt: skip
Call = Callable[[Engine, Path, Any], Any]
CALLS: dict[str, Call] = {
    "image": lambda e, f, v: e.upscale(v),
    "layout": lambda e, f, v: e.upscale(IMAGE, layout=v),
    "data_range": lambda e, f, v: e.upscale(IMAGE, data_range=v),
    "nodata": lambda e, f, v: e.upscale(IMAGE, nodata=v),
    "alpha": lambda e, f, v: e.upscale(IMAGE, alpha=v),
    "bands": lambda e, f, v: e.upscale(IMAGE, bands=v),
    "classes": lambda e, f, v: e.upscale(IMAGE, classes=v),
    "cancel": lambda e, f, v: e.upscale(IMAGE, cancel=v),
    "source": lambda e, f, v: e.upscale_into(v, np.zeros((20, 40, 3), np.uint8)),
    "target": lambda e, f, v: e.upscale_into(IMAGE, v),
    "region": lambda e, f, v: e.upscale_into(IMAGE, np.zeros((20, 40, 3), np.uint8), region=v),
    "streamed source": lambda e, f, v: list(e.stream(v)),
    "streamed region": lambda e, f, v: list(e.stream(IMAGE, region=v)),
    "page": lambda e, f, v: list(e.stream(f / "a.tif", page=v)),
    "max_pixels": lambda e, f, v: list(e.stream(f / "a.tif", max_pixels=v)),
    "nodata of a file": lambda e, f, v: list(e.stream(f / "a.tif", nodata=v)),
    "bands of a file": lambda e, f, v: list(e.stream(f / "a.tif", bands=v)),
    "file": lambda e, f, v: e.upscale_file(v, f / "b.tif", overwrite=True),
    "page of a job": lambda e, f, v: e.upscale_file(f / "a.tif", f / "b.tif", page=v, overwrite=True),
    "compress": lambda e, f, v: e.upscale_file(f / "a.tif", f / "b.tif", compress=v, overwrite=True),
    "quality": lambda e, f, v: e.upscale_file(f / "a.tif", f / "b.jpg", quality=v, overwrite=True),
    "cog": lambda e, f, v: e.upscale_file(f / "a.tif", f / "b.tif", cog=v, overwrite=True),
    "resume": lambda e, f, v: e.upscale_file(f / "a.tif", f / "b.tif", resume=v, overwrite=True),
    "overwrite": lambda e, f, v: e.upscale_file(f / "a.tif", f / "b.tif", overwrite=v),
    "estimated source": lambda e, f, v: e.estimate(v, f / "b.tif"),
    "estimated target": lambda e, f, v: e.estimate(f / "a.tif", v),
    "bytes": lambda e, f, v: e.upscale_bytes(v),
    "opened": lambda e, f, v: open_image(v).close(),
    "page opened": lambda e, f, v: open_image(f / "a.tif", page=v).close(),
    "nodata opened": lambda e, f, v: open_image(f / "a.tif", nodata=v).close(),
    "model": lambda e, f, v: Engine(v),
    **{
        name: lambda e, f, v, name=name: Engine("bicubic-x2", **{"provider": "cpu", "threads": 1, name: v})
        for name in (
            "provider", "tile", "threads", "model_range", "precision", "device", "gpu_memory", "data_range",
            "trust", "inputs", "output", "channel_order",
        )
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("bicubic-x2", provider="cpu", threads=1) as made:
        yield made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_type_is_one_line(
    name: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some values are names of results
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    refused = 0
    for value in WRONG:
        try:
            CALLS[name](engine, tmp_path, value)
        except SrcnnError as error:
            refused += 1
            assert str(error)
            assert "\n" not in str(error)
    assert refused >= len(WRONG) // 2


@pytest.mark.parametrize("value", [5, "x", [], True])
def test_progress_is_something_to_call(engine: Engine, value: Any) -> None:
    with pytest.raises(ArgumentError, match="progress must be a callable or None, got"):
        engine.upscale(IMAGE, progress=value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("page", "1", "page must be an integer, got '1'"),
        ("bands", 1, "bands must be True or False, got 1"),
        ("alpha", "no", "alpha must be True or False or None, got 'no'"),
        ("nodata", "7", "nodata must be a number or None, got '7'"),
        ("threads", "4", "threads must be an integer or None, got '4'"),
        ("threads", 10**9, "threads must be at most 4096, got 1000000000"),
        ("inputs", [1], r"inputs must be a mapping or None, got \[1\]"),
        ("model", 5, "model must be a name, a path or the bytes of a file, got 5"),
        ("cancel", True, "cancel must be a threading.Event, got True"),
    ],
)
def test_the_message_names_the_argument(
    name: str, value: Any, message: str, engine: Engine, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    with pytest.raises(ArgumentError, match=message):
        CALLS[name](engine, tmp_path, value)


def test_numbers_of_numpy_are_numbers(engine: Engine, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    ((_, part),) = engine.stream(tmp_path / "a.tif", page=np.int64(1), max_pixels=np.uint32(200))
    assert part.shape == (20, 40, 3)
    engine.upscale(IMAGE, nodata=np.float32(7), bands=np.True_)  # type: ignore[arg-type]
