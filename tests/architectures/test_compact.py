"""The compact network: its form, its branches, its weights on their way to ONNX, and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from srcnn_rt import ArgumentError, Engine, ModelError  # noqa: E402
from srcnn_rt.architectures import compact, compact_weights  # noqa: E402
from srcnn_rt.architectures.compact import Block, Compact  # noqa: E402
from srcnn_rt.evaluation.protocol import Degradation, imresize, list_images  # noqa: E402
from srcnn_rt.exporting.checkpoint import export  # noqa: E402
from srcnn_rt.training import data, loop  # noqa: E402
from srcnn_rt.training.data import Pair, Patches  # noqa: E402
from srcnn_rt.training.recipe import TrainConfig  # noqa: E402
from srcnn_rt.training.run_folder import initial_weights  # noqa: E402
from tests.helpers import reference  # noqa: E402

CASES = (
    ("compact-m2c6", 1, 2, True),
    ("compact-m1c5-relu", 3, 3, True),
    ("compact-m3c4", 3, 4, False),
    ("compact-m2c6", 1, 1, True),
)


def lively(arch: str, channels: int, scale: int, branches: bool, seed: int = 0) -> Compact:
    """A network with large weights of both signs everywhere, so that every path matters."""
    torch.manual_seed(seed)
    network = Compact(arch, channels, scale, branches)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn_like(parameter) / fan**0.5)
    return network.eval()


def save(network: Compact, path: Path, **details: Any) -> Path:
    torch.save({"state_dict": network.state_dict(), "scale": network.scale, **details}, path)
    return path


def largest(a: Any, b: Any) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("arch, macs", [("compact-m4c16", 9936), ("compact-m10c32", 93600)])
def test_size_and_margin(arch: str, macs: int) -> None:
    """The weights of ECBSR M4C16 and M10C32 at ×2, without their biases."""
    network = Compact(arch, 1, 2)
    assert sum(k.numel() for k in network.kernels()) == macs
    assert network.shrink == compact.parse(arch).layers + 2
    m = network.shrink
    out = network(torch.zeros(2, 1, 2 * m + 3, 2 * m + 5))
    assert out.shape == (2, 1, 6, 10)


@pytest.mark.parametrize("case", CASES)
def test_gain_and_offset_pass_through(case: tuple[Any, ...]) -> None:
    network = lively(*case).double()
    x = torch.rand(2, case[1], 20, 23, dtype=torch.float64)
    for gain, offset in ((7.5, -300.0), (1e-3, 0.0), (3000.0, 5.0)):
        expected = gain * network(x) + offset
        assert largest(network(gain * x + offset), expected) < 1e-10 * float(expected.detach().abs().max())


@pytest.mark.parametrize("case", CASES)
def test_branches_fold(case: tuple[Any, ...]) -> None:
    network = lively(*case).double()
    x = torch.rand(2, case[1], 20, 23, dtype=torch.float64)
    out = network(x)
    assert largest(out, network.branch_by_branch(x)) < 1e-12 * float(out.detach().abs().max())


def test_every_branch_counts() -> None:
    """Each branch changes the kernel, and the identity is there where channels do not change."""
    torch.manual_seed(0)
    block = Block(5, 5, True)
    before = block.kernel().detach().clone()
    for name, parameter in block.named_parameters():
        with torch.no_grad():
            saved = parameter.clone()
            parameter.zero_()
            assert largest(block.kernel(), before) > 1e-3, name
            parameter.copy_(saved)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        kernel = block.kernel()
    assert (kernel[:, :, 1, 1] == torch.eye(5)).all()
    assert kernel.abs().sum() == 5


@pytest.mark.parametrize("branches", [True, False])
def test_the_untrained_network_is_nearly_bicubic(branches: bool) -> None:
    torch.manual_seed(0)
    network = Compact("compact-m4c16", 1, 3, branches)
    image = np.random.default_rng(0).random((30, 31))
    m = network.shrink
    padded = np.pad(image, m, mode="symmetric")[None, None]
    out = network(torch.from_numpy(padded).float())[0, 0].detach().numpy()
    assert np.abs(out - imresize(image, 3, down=False)).mean() < 0.02


@pytest.mark.parametrize(
    "arch",
    [
        "compact",
        "compact-m4",
        "compact-m0c16",
        "compact-m4c0",
        "compact-4-16",
        "compact-m4c16-tanh",
        "compact-m100c1",
    ],
)
def test_a_wrong_name_is_refused(arch: str) -> None:
    with pytest.raises(ValueError, match="a compact architecture is compact-mMcC"):
        Compact(arch)
    with pytest.raises(ArgumentError, match="a compact architecture is compact-mMcC"):
        TrainConfig(data=("d",), out="o", scale=2, arch=arch)


def test_other_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        Compact("compact-m4c16", 2)
    with pytest.raises(ArgumentError, match="has the equivariant form only"):
        TrainConfig(data=("d",), out="o", scale=2, arch="compact-m4c16", form="paper")
    with pytest.raises(ArgumentError, match="--no-branches is for compact networks, got arch 9-1-5"):
        TrainConfig(data=("d",), out="o", scale=2, branches=False)
    with pytest.raises(ArgumentError, match="augment-scale must be between 0 and 1"):
        TrainConfig(data=("d",), out="o", scale=2, augment_scales=(0.5, 1.0))


def oracle(network: Compact, planes: np.ndarray) -> np.ndarray:
    """Enlarge (C, H, W) planes in float64 from the definitions."""
    kernels = [k.detach().double().numpy() for k in network.kernels()]
    kernels[0] = kernels[0] - kernels[0].mean(axis=(2, 3), keepdims=True)
    slopes = [
        a.weight.detach().numpy() if isinstance(a, torch.nn.PReLU) else np.zeros(len(k))
        for a, k in zip(network.activations, kernels, strict=False)
    ]
    return reference.compact(planes, network.scale, kernels, slopes)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tile", [8, None])
def test_an_exported_file_computes_the_definition(
    tmp_path: Path, case: tuple[Any, ...], tile: int | None
) -> None:
    """Through `Engine`, in tiles, in a range of metres below zero."""
    network = lively(*case)
    described = export(save(network, tmp_path / "c.pt"), tmp_path / "m.onnx")
    assert (described.architecture, described.scale, described.margin) == (case[0], case[2], network.shrink)
    assert described.equivariant
    assert described.check["largest"] < 1e-5
    image = np.random.default_rng(0).normal(-350, 20, (19, 23, case[1])).astype(np.float32)
    got = Engine(str(tmp_path / "m.onnx"), tile=tile, provider="cpu").upscale(image)
    expected = oracle(network, image.astype(np.float64).transpose(2, 0, 1)).transpose(1, 2, 0)
    assert np.abs(got - expected).max() < 2e-6 * np.abs(expected).max()


def test_export_refuses_branches_that_were_folded_wrongly(tmp_path: Path, monkeypatch: Any) -> None:
    network = lively("compact-m2c6", 1, 2, True)
    source = save(network, tmp_path / "c.pt")
    real = Block.kernel

    def wrong(self: Block) -> Any:
        return real(self).flip(-1) if self.inputs == self.outputs else real(self)

    monkeypatch.setattr(Block, "kernel", wrong)
    with pytest.raises(ModelError, match="differs from torch"):
        export(source, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("case", CASES)
def test_weights_are_found_again(tmp_path: Path, case: tuple[Any, ...]) -> None:
    network = lively(*case)
    x = torch.rand(1, case[1], 18, 19)
    source = save(network, tmp_path / "c.pt")
    export(source, tmp_path / "m.onnx")
    for name in (source, tmp_path / "m.onnx"):
        found = compact_weights.read(str(name))
        assert (found.arch, found.channels, found.scale) == (network.arch, network.channels, network.scale)
        assert largest(found(x), network(x)) < 1e-4 * float(network(x).detach().abs().max())
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="not a compact network"):
        compact_weights.read(str(tmp_path / "other.pt"))
    torch.save(network.state_dict() | {"blocks.1.weight": torch.zeros(2, 2, 3, 3)}, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="not a compact network"):
        compact_weights.read(str(tmp_path / "odd.pt"))


@pytest.mark.parametrize("old, new", [(True, True), (True, False), (False, True)])
def test_initial_weights_are_the_same_function(tmp_path: Path, old: bool, new: bool) -> None:
    """With other branches; another scale factor keeps all but the last layer."""
    network = lively("compact-m2c6", 1, 2, old)
    source = save(network, tmp_path / "c.pt")
    x = torch.rand(1, 1, 18, 19)
    other = lively("compact-m2c6", 1, 2, new, seed=1)
    other.load_state_dict(dict(initial_weights(str(source), other)))
    assert largest(other(x), network(x)) < 1e-5 * float(network(x).detach().abs().max())
    larger = lively("compact-m2c6", 1, 3, new, seed=1)
    fresh = larger.kernels()[-1].detach().clone()
    larger.load_state_dict(dict(initial_weights(str(source), larger)))
    for a, b in zip(larger.kernels()[:-1], network.kernels()[:-1], strict=True):
        assert largest(a, b) < 1e-5
    assert largest(larger.kernels()[-1], fresh) == 0
    with pytest.raises(ArgumentError, match="is compact-m2c6 with 1 channels: does not fit"):
        initial_weights(str(source), lively("compact-m2c6", 3, 2, new))


@pytest.mark.parametrize("sampling", ["uniform", "detail"])
def test_crops_are_of_lr_and_targets_of_hr(sampling: Any) -> None:
    """Each LR sample names its place, and each HR sample the LR sample that it belongs to and its phase."""
    pairs = []
    for first, (h, w) in ((0, (21, 30)), (1000, (25, 20))):
        lr = first + np.arange(h * w).reshape(h, w)
        phases = np.arange(9).reshape(3, 3)
        hr = np.kron(lr, np.ones((3, 3), int)) * 9 + np.tile(phases, (h, w))
        pairs.append(Pair((lr / 2**14).astype(np.float32), (hr / 2**14).astype(np.float32)))
    patches = Patches(pairs, 14, 4, 64, 3, sampling, magnification=3)
    inputs, targets = (np.rint(t.numpy() * 2**14).astype(int)[:, 0] for t in patches.at(5))
    assert inputs.shape == (64, 14, 14)
    assert targets.shape == (64, 18, 18)
    seen = set()
    for lr, hr in zip(inputs, targets, strict=True):
        assert (hr // 9 == np.kron(lr[4:-4, 4:-4], np.ones((3, 3), int))).all()
        phase = (hr % 9)[:3, :3]
        assert (hr % 9 == np.tile(phase, (6, 6))).all()
        seen.add(phase.tobytes())
    assert len(seen) == 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings with edges of every direction."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(3):
        rng = np.random.default_rng(k)
        image = np.zeros((120, 140, 3), np.uint8)
        for _ in range(40):
            points = rng.integers(0, 140, (3, 2)).astype(np.int32)
            cv2.fillPoly(image, [points], [int(v) for v in rng.integers(0, 256, 3)], cv2.LINE_AA)
        cv2.imwrite(str(folder / f"{k}.png"), image)
    return folder


def config(images: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "arch": "compact-m2c6", "scale": 2, "steps": 6, "batch": 4, "patch": 16, "warmup": 2,
        "precision": "float32", "hold_out": 0, "threads": 1,
    }  # fmt: skip
    return TrainConfig(data=(str(images),), out=str(out), **values | changes)


def test_images_are_also_used_downscaled(images: Path) -> None:
    paths = list_images(images)
    loaded = data.load(paths, 2, "y", Degradation(), 50, 0, upscale=False, augment_scales=(0.5, 0.1))
    shapes = [p.truth.shape for p in loaded.pairs]
    assert shapes == [(120, 140), (60, 70)] * 3
    assert [p.degraded.shape for p in loaded.pairs] == [(60, 70), (30, 35)] * 3
    assert len(loaded.names) == 3


def test_training_brings_it_above_bicubic(images: Path, tmp_path: Path) -> None:
    run = config(images, tmp_path / "run", steps=150, batch=8, validate=str(images))
    before = loop.train(replace(run, steps=1, out=str(tmp_path / "untrained"))).psnr
    after = loop.train(run).psnr
    assert before is not None
    assert after is not None
    assert after > before + 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": "rgb", "arch": "compact-m1c5-relu", "scale": 3},
        {"scale": 1, "degrade": "jpeg:20..40", "channels": "rgb"},
        {"degrade": "blur:1+noise:5", "branches": False},
    ],
)
def test_every_kind_trains_exports_and_resumes(images: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, parts = (config(images, tmp_path / name, **changes) for name in ("whole", "parts"))
    loop.train(whole)
    stops = iter([False, False, True])
    assert not loop.train(parts, stop=lambda: next(stops)).finished
    assert loop.train(parts, resume=True).finished
    one, two = (
        torch.load(tmp_path / n / "last.pt", weights_only=True)["state_dict"] for n in ("whole", "parts")
    )
    assert all((one[k] == two[k]).all() for k in one)
    described = export(tmp_path / "whole" / "last.pt", tmp_path / "m.onnx")
    assert described.architecture == whole.arch
    assert described.channels == (3 if whole.channels == "rgb" else 1)
    assert described.training["steps"] == 6
