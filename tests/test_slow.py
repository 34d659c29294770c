"""Long runs: ``make test-slow``. Memory of large images, many random cases, the built wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from srcnn_rt import Engine
from tests.execution.test_exactness import oracle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
ROOT = Path(__file__).parent.parent


def test_two_thousand_random_cases_are_bitwise(integer_model: Callable) -> None:
    rng = np.random.default_rng(2026)
    for case in range(2000):
        scale = int(rng.integers(2, 5))
        sizes = [(9, 1, 5), (9, 3, 5), (9, 5, 5), (3, 1, 3), (1, 1, 7)][rng.integers(5)]
        channels = int(rng.choice([1, 1, 1, 3]))
        path, parts = integer_model(scale, sizes, channels, seed=int(rng.integers(4)))
        h, w = (int(rng.integers(1, 90)) for _ in range(2))
        tile = int(rng.integers(8, 100))
        image = rng.integers(0, 3, (h, w, channels)).astype(np.float32)
        with Engine(path, provider="cpu", tile=tile, threads=1) as engine:
            got = engine.upscale(image)
        expected = oracle(image.transpose(2, 0, 1), scale, parts).transpose(1, 2, 0)
        assert (got == expected).all(), (case, scale, sizes, channels, h, w, tile)


def peak_of(folder: Path, side: int, *words: str, **options: object) -> int:
    """Upscale a gray TIFF of side x side in a process of its own and return its peak bytes."""
    source = folder / f"{side}.tif"
    if not source.exists():
        kind = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint8"}
        rows = np.random.default_rng(0).integers(0, 255, (1, 500, side), dtype=np.uint8)
        with rasterio.open(source, "w", **kind, **options) as file:
            for y in range(0, side, 500):
                file.write(rows, window=Window(0, y, side, 500))
    words = ("upscale", str(source), "--overwrite", "--json", "--provider", "cpu", *words)
    done = subprocess.run([sys.executable, "-m", "srcnn_rt", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["peak_memory"])


@pytest.mark.parametrize("options", [{"tiled": True}, {"blockysize": 1}], ids=["tiled", "striped"])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, options: dict[str, object]) -> None:
    """Real activations, then an image four times larger by the cheap model, same tile."""
    assert peak_of(tmp_path, 3000, "--tile", "512", **options) < 700e6
    small = peak_of(tmp_path, 10_000, "--model", "bicubic-x2", "--tile", "256", **options)
    large = peak_of(tmp_path, 20_000, "--model", "bicubic-x2", "--tile", "256", **options)
    assert large < 1.1 * small


def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    """Needs a package index. sdist → wheel → install → upscale, away from the sources."""
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[cpu]"], check=True, env=env
    )
    (tmp_path / "work").mkdir()
    command = [tmp_path / "env" / "bin" / "srcnn-rt", "upscale", ROOT / "examples" / "chelsea.png", "-o", "."]
    done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["chelsea_x2.png"]


def test_ten_kills(tmp_path: Path) -> None:
    """`make test-kill` does 200: jobs killed at random moments end with the bytes of those that were not."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import kill_test
    finally:
        sys.path.pop(0)
    kinds = [kill_test.KINDS[0], kill_test.KINDS[4]]
    for kind in kill_test.run(10, 3, tmp_path, stops=1, kinds=kinds):
        assert kind.kills == 5
        assert kind.wrong == 0
        assert kind.same == kind.jobs
        assert kill_test.again(kind) < 5
