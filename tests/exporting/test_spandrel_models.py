"""Published networks, exported by torch: what is accepted is the same in tiles, what is refused says why."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")
pytest.importorskip("einops", reason="the extra 'spandrel' is not installed")

from srcnn_rt import Engine, ModelError  # noqa: E402
from srcnn_rt.models import spec  # noqa: E402
from srcnn_rt.models.margins import rules_for  # noqa: E402
from tests.helpers import architectures, published  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own
TILES = (16, 40, 1000)
# torch's newer exporter takes some seconds a network: most of it is left to make test-slow.
QUICK = ("PLKSR", "SPAN", "DITN", "RealCUGAN")


def cases(names: list[str]) -> list[object]:
    found = []
    for name in names:
        for exporter in published.NETWORKS[name].exporters:
            slow = published.NETWORKS[name].slow or (exporter == "dynamo" and name not in QUICK)
            found.append(pytest.param(name, exporter, marks=[pytest.mark.slow] if slow else []))
    return found


def exported(folder: Path, row: published.Network, exporter: str) -> tuple[Path, torch.nn.Module]:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    network = row.build()
    path = folder / "m.onnx"
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        published.export(network, row, str(path), exporter)
    return path, network


TILED = [name for name, row in published.NETWORKS.items() if row.margin is not None]
REFUSED = [name for name, row in published.NETWORKS.items() if row.margin is None]


def test_there_are_many() -> None:
    assert len({row.package for row in published.NETWORKS.values()}) + len(architectures.FAMILIES) >= 40
    assert len(TILED) >= 20


@pytest.mark.parametrize(("name", "exporter"), cases(TILED))
def test_tiles_are_the_whole(tmp_path: Path, name: str, exporter: str) -> None:
    """At sizes of every class modulo the period, of the file; of torch where the file has one size."""
    row = published.NETWORKS[name]
    path, network = exported(tmp_path, published.NETWORKS[name], exporter)
    described = spec.load(path)[1]
    assert described.margin == row.margin
    facts, scale = described.facts, described.scale
    assert (facts.y.fixed is not None) == (exporter in row.fixed)
    rng = np.random.default_rng(0)
    base, period = 2 * described.margin + 20, facts.period
    steps = range(2 * period) if period <= 8 else range(0, 2 * period, 7)
    if facts.y.fixed is not None:  # at sizes that the network itself takes
        base, steps = 2 * row.example, range(0, 4 * period, 2 * period)
    file = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    engines = [Engine(path, provider="cpu", tile=tile, model_range="0..1") for tile in TILES]
    for k in steps:
        shape = (base + k, base + (3 * k + 1 if facts.y.fixed is None else k) % (2 * period))
        image = rng.random((*shape, row.channels), np.float32)
        if facts.y.fixed is None:
            sides = [rule.extended(n) for rule, n in zip(rules_for(described), shape, strict=True)]
            pads = [(0, m - n) for m, n in zip(sides, shape, strict=True)]
            feed = np.pad(image, [*pads, (0, 0)], mode="symmetric").transpose(2, 0, 1)[None]
            expected = file.run(None, {file.get_inputs()[0].name: np.ascontiguousarray(feed)})[0][0]
        else:
            with torch.no_grad():
                expected = network(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].numpy()
        expected = expected.transpose(1, 2, 0)[: shape[0] * scale, : shape[1] * scale]
        for engine in engines:
            got = engine.upscale(image).reshape(expected.shape)
            assert np.abs(got - expected).max() <= 2e-5 * max(1, np.abs(expected).max()), (shape, engine)
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(("name", "exporter"), cases(REFUSED))
def test_what_is_refused_says_why(tmp_path: Path, name: str, exporter: str) -> None:
    path, _ = exported(tmp_path, published.NETWORKS[name], exporter)
    with pytest.raises(ModelError) as caught:
        spec.load(path)
    assert published.NETWORKS[name].refused in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", published.DEPTHS)
def test_margins_of_the_depths_that_are_published(tmp_path: Path, name: str) -> None:
    row = published.DEPTHS[name]
    path, _ = exported(tmp_path, row, row.exporters[0])
    assert spec.load(path)[1].margin == row.margin
