"""The network, the degradation and the loop, on pictures that take seconds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from srcnn_rt.train import data, loop  # noqa: E402
from srcnn_rt.train.export import export  # noqa: E402
from srcnn_rt.train.model import ARCHITECTURES, SRCNN, kernel_sizes  # noqa: E402
from tests import reference  # noqa: E402
from tests.conftest import drawing  # noqa: E402
from tests.reference import quantise  # noqa: E402


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(4):
        cv2.imwrite(str(folder / f"{k}.png"), quantise(drawing(61 + k, 70, 3, k), np.uint8))
    return folder


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_shrinks_as_the_paper_says(arch: str, channels: int) -> None:
    net = SRCNN(arch, channels)
    f1, f2, f3 = kernel_sizes(arch)
    assert net.shrink == (f1 + f2 + f3 - 3) // 2
    out = net(torch.zeros(2, channels, 33, 40))
    assert out.shape == (2, channels, 33 - 2 * net.shrink, 40 - 2 * net.shrink)
    if channels == 1 and arch == "9-1-5":
        # 8,032 weights in the paper's §4.3, and a bias a filter.
        assert sum(p.numel() for p in net.parameters()) == 8032 + 64 + 32 + 1


def test_the_papers_start() -> None:
    torch.manual_seed(0)
    net = SRCNN("9-5-5", init="paper")
    assert float(net.conv2.weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert all((c.bias == 0).all() for c in (net.conv1, net.conv2, net.conv3))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_identity_start_is_close_to_the_identity(channels: int) -> None:
    torch.manual_seed(0)
    net = SRCNN("9-1-5", channels)
    x = torch.rand(1, channels, 40, 40)
    cut = net.shrink
    out = net(x).detach()
    assert float((out - x[:, :, cut:-cut, cut:-cut]).abs().mean()) < 0.02


@pytest.mark.parametrize("arch", ["9-1", "9-2-5", "a-b-c", "", "9-1-5-7", "9--5"])
def test_a_wrong_architecture_is_refused(arch: str) -> None:
    with pytest.raises(ValueError, match="three odd kernel sizes"):
        SRCNN(arch)


def test_other_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="init must be one of"):
        SRCNN(init="zeros")
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        SRCNN(channels=2)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imresize_up_is_the_oracle(scale: int) -> None:
    picture = drawing(13, 17, 1)[..., 0]
    up = data.imresize(picture, scale, down=False)
    assert np.abs(up - reference.bicubic(picture, scale)).max() < 1e-12


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imresize_down_is_matlabs_antialiased_kernel(scale: int) -> None:
    """Direct sum over the widened, normalised kernel, edges mirrored."""
    picture = drawing(6 * scale, 5 * scale, 1)[..., 0]

    def shrink_axis(a: np.ndarray) -> np.ndarray:
        n = a.shape[0] // scale
        out = np.zeros((n, *a.shape[1:]))
        for i in range(n):
            centre = (i + 0.5) * scale - 0.5
            taps = range(math.floor(centre - 2 * scale), math.ceil(centre + 2 * scale) + 1)
            weights = [reference.keys_cubic((centre - k) / scale) for k in taps]
            for k, weight in zip(taps, weights, strict=True):
                out[i] += weight / sum(weights) * a[reference.mirrored(k, a.shape[0])]
        return out

    expected = shrink_axis(shrink_axis(picture).T).T
    assert np.abs(data.imresize(picture, scale, down=True) - expected).max() < 1e-12


def test_luminance_is_rounded_as_matlab_does(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))  # blue, red
    y = data.read_luminance(tmp_path / "a.png") * 255
    assert y.tolist() == [[round(16 + 24.966), round(16 + 65.481)]]


def test_patches_are_crops_and_their_centres(pictures: Path) -> None:
    pairs = [data.make_pair(p, 3) for p in data.list_pictures(pictures)]
    whole = [p.bicubic.shape for p in pairs]
    assert all(h % 3 == 0 and w % 3 == 0 for h, w in whole)
    same = [data.Pair(p.truth, p.truth) for p in pairs]
    inputs, targets = next(iter(data.Patches(same, 30, 6, 16, seed=1)))
    assert inputs.shape == (16, 1, 30, 30)
    assert (inputs[:, :, 6:-6, 6:-6] == targets).all()
    again, _ = next(iter(data.Patches(same, 30, 6, 16, seed=1)))
    assert (again == inputs).all()


def test_bad_training_data_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        data.list_pictures(tmp_path)
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ValueError, match=r"a\.png: not a picture"):
        data.read_luminance(tmp_path / "a.png")
    pairs = [data.make_pair(p, 2) for p in data.list_pictures(pictures)]
    with pytest.raises(ValueError, match="no picture is at least 99 x 99"):
        data.Patches(pairs, 99, 6, 4, 0)
    with pytest.raises(ValueError, match="larger than 12 pixels, got 12"):
        data.Patches(pairs, 12, 6, 4, 0)


def test_a_short_training_beats_bicubic_and_exports(pictures: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = loop.TrainConfig(
        data=str(pictures), out=str(tmp_path / "run"), scale=3, steps=60, batch=8, validate=str(pictures)
    )
    checkpoint = loop.train(config, lines.append)
    assert "60" in lines[-1]
    assert "PSNR" in lines[-1]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["scale"] == 3
    described = export(checkpoint, tmp_path / "m.onnx")
    assert described.training["steps"] == 60
    net = SRCNN()
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    trained = loop.validate(net, pictures, 3)
    plain = []
    for path in data.list_pictures(pictures):
        pair = data.make_pair(path, 3)
        plain.append(loop.psnr(pair.bicubic.double().numpy(), pair.truth.double().numpy(), 3))
    assert trained > np.mean(plain) + 0.1
    again = loop.train(
        loop.TrainConfig(
            **{**json.loads((tmp_path / "run" / "run.json").read_text()), "out": str(tmp_path / "two")}
        ),
        lines.append,
    )
    a, b = (torch.load(p, weights_only=True)["state_dict"] for p in (checkpoint, again))
    assert all((a[k] == b[k]).all() for k in a)


def test_a_diverged_run_stops_and_keeps_its_checkpoint(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    real = torch.nn.functional.mse_loss
    calls = []

    def fails_late(a, b):
        calls.append(1)
        return real(a, b) * (math.nan if len(calls) > 3 else 1)

    monkeypatch.setattr(torch.nn.functional, "mse_loss", fails_late)
    config = loop.TrainConfig(data=str(pictures), out=str(tmp_path), scale=2, steps=10, batch=2)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 3; last\.pt is kept"):
        loop.train(config, lambda line: None)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["training"]["steps"] == 3


def test_a_budget_in_minutes_ends_the_run(pictures: Path, tmp_path: Path) -> None:
    config = loop.TrainConfig(
        data=str(pictures), out=str(tmp_path), scale=2, steps=10**9, minutes=0.02, batch=2
    )
    loop.train(config, lambda line: None)
    assert 0 < torch.load(tmp_path / "last.pt", weights_only=True)["training"]["steps"] < 10**9
