"""Third-party families, exported from torch by both exporters: margins, proof, and its mutants."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("onnxscript", reason="torch's newer exporter needs it")

from srcnn_rt import Engine  # noqa: E402
from srcnn_rt.evaluation.seam_check import verify  # noqa: E402
from srcnn_rt.models import spec  # noqa: E402
from tests.conftest import drawing  # noqa: E402
from tests.helpers import architectures  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own
FAMILIES = architectures.FAMILIES


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("families")

    def get(name: str, exporter: str) -> Path:
        path = folder / f"{list(FAMILIES).index(name)}-{exporter}.onnx"
        if not path.exists():
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            architectures.export(name, str(path), exporter)
        return path

    return get


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_promise_is_proven(exported, name: str, exporter: str) -> None:
    path = exported(name, exporter)
    _, channels, scale, margin = FAMILIES[name]
    described = spec.load(path)[1]
    assert (described.channels, described.scale, described.margin) == (channels, scale, margin)
    checks = verify(path)
    assert [c for c in checks if c.passed is False] == []
    assert {"real weights", "inside the margin", "outside the margin"} <= {c.name for c in checks if c.passed}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_margin_one_short_is_caught(exported, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = exported(name, "torchscript")
    real = spec.describe

    def short(data: bytes, called: str) -> spec.ModelSpec:
        described = real(data, called)
        y, x = (
            replace(a, before=max(a.before - 1, 0), after=max(a.after - 1, 0))
            for a in (described.facts.y, described.facts.x)
        )
        return replace(described, margin=described.margin - 1, facts=replace(described.facts, y=y, x=x))

    monkeypatch.setattr(spec, "describe", short)
    try:
        checks = verify(path)
    except ValueError:  # an unpadded model's windows are then too small to run or to stitch
        assert "unpadded" in name
        return
    assert "outside the margin" in [c.name for c in checks if c.passed is False]


@pytest.mark.parametrize("name", ["EDSR", "ESPCN", "pad to a multiple"])
def test_engine_agrees_with_torch(exported, name: str) -> None:
    make, channels, scale, _ = FAMILIES[name]
    torch.manual_seed(0)
    network = make().eval()
    image = drawing(45, 58, channels).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(image.transpose(2, 0, 1)[None])).numpy()[0].transpose(1, 2, 0)
    with Engine(exported(name, "torchscript"), provider="cpu", tile=16, model_range="0..1") as engine:
        got = engine.upscale(image)
    assert got.shape == (45 * scale, 58 * scale, channels)
    assert np.abs(got - expected).max() < 1e-5


def test_gray_rgb_and_alpha_through_a_padded_luminance_model(exported) -> None:
    for channels in (1, 2, 3, 4, 5):
        image = drawing(50, 47, channels).astype(np.float32)
        results = []
        for tile in (512, 8, 21):
            with Engine(exported("ESPCN", "torchscript"), provider="cpu", tile=tile) as engine:
                results.append(engine.upscale(image))
        for other in results[1:]:
            assert np.abs(other - results[0]).max() < 1e-5


def test_a_fixed_size_model_takes_any_image(tmp_path: Path) -> None:
    """Exported without free axes, sizes baked into its reshapes: 48 x 40 is its window."""
    torch.manual_seed(0)
    network = architectures.Edsr().eval()
    torch.onnx.export(
        network, (torch.rand(1, 3, 48, 40),), str(tmp_path / "m.onnx"), dynamo=False,
        input_names=["lr"], output_names=["hr"],
    )  # fmt: skip
    for shape in ((48, 40), (100, 133), (30, 20)):
        image = drawing(*shape).astype(np.float32)
        with Engine(tmp_path / "m.onnx", provider="cpu") as engine:
            got = engine.upscale(image)
            assert engine.spec.facts.y.fixed == 48
        padded = np.pad(
            image, [(0, max(0, 48 - shape[0])), (0, max(0, 40 - shape[1])), (0, 0)], mode="symmetric"
        )
        with torch.no_grad():
            whole = network(torch.from_numpy(padded.transpose(2, 0, 1)[None])).numpy()[0].transpose(1, 2, 0)
        assert np.abs(got - whole[: 2 * shape[0], : 2 * shape[1]]).max() < 1e-5
    assert [c.passed for c in verify(tmp_path / "m.onnx")] == [None, None, True, True]
