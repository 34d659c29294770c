"""The network, the crops, the loop: repeatable, resumable, and stopping as it should."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from srcnn_rt.architectures.srcnn import ARCHITECTURES, FORMS, SRCNN, adapt, kernel_sizes  # noqa: E402
from srcnn_rt.cli import main  # noqa: E402
from srcnn_rt.errors import (  # noqa: E402
    ArgumentError,
    ImageError,
    ModelError,
    OutputError,
    SourceMissingError,
    TrainingError,
)
from srcnn_rt.evaluation import runner  # noqa: E402
from srcnn_rt.evaluation.protocol import Degradation, imresize, list_images, modcrop, read_image  # noqa: E402
from srcnn_rt.exporting.checkpoint import export  # noqa: E402
from srcnn_rt.models import spec  # noqa: E402
from srcnn_rt.models.bundled import bundled  # noqa: E402
from srcnn_rt.training import data, loop  # noqa: E402
from srcnn_rt.training.data import Pair, Patches  # noqa: E402
from srcnn_rt.training.loop import train  # noqa: E402
from srcnn_rt.training.recipe import BEST, PAPER, TrainConfig  # noqa: E402
from srcnn_rt.training.run_folder import RunFolder  # noqa: E402
from tests.conftest import TEST_MODEL, drawing  # noqa: E402

QUICK: dict[str, Any] = {"batch": 4, "patch": 24, "hold_out": 0, "threads": 1}


def config(images: Path, out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(
        **{"data": (str(images),), "out": str(out), "scale": 2, "steps": 6, **QUICK, **changes}
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "last.pt", weights_only=True)["state_dict"])


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)


# The network


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_the_network_shrinks_as_the_paper_says(arch: str, channels: int, form: str) -> None:
    net = SRCNN(arch, channels, form=form)
    f1, f2, f3 = kernel_sizes(arch)
    assert net.shrink == (f1 + f2 + f3 - 3) // 2
    out = net(torch.zeros(2, channels, 33, 40))
    assert out.shape == (2, channels, 33 - 2 * net.shrink, 40 - 2 * net.shrink)
    if channels == 1 and arch == "9-1-5":
        # 8,032 weights in the paper's §4.3, and a bias a filter.
        biases = 64 + 32 + 1 if form == "paper" else 0
        assert sum(p.numel() for p in net.parameters()) == 8032 + biases


@pytest.mark.parametrize("form", FORMS)
def test_the_papers_start(form: str) -> None:
    torch.manual_seed(0)
    net = SRCNN("9-5-5", init="paper", form=form)
    assert float(net.conv2.weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    biases = [c.bias for c in (net.conv1, net.conv2, net.conv3)]
    if form == "paper":
        assert all((b == 0).all() for b in biases)
    else:
        assert biases == [None] * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_the_equivariant_form_is_that_by_construction(channels: int) -> None:
    """Whatever the weights are, and the paper's form is not."""
    for form in FORMS:
        torch.manual_seed(0)
        net = SRCNN("9-5-5", channels, form=form, filters=(6, 4)).double()
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn_like(p) / p[0].numel() ** 0.5 if p.ndim > 1 else torch.randn_like(p))
            x = torch.rand(1, channels, 30, 31, dtype=torch.float64)
            apart = float((net(7.5 * x - 300) - (7.5 * net(x) - 300)).abs().max())
        assert (apart < 1e-9) == (form == "equivariant"), (form, apart)


def test_weights_of_smaller_kernels_are_the_same_function() -> None:
    """Centred in larger ones, also where an optimiser has left the first filters with a sum."""
    torch.manual_seed(0)
    x = torch.rand(1, 1, 40, 41, dtype=torch.float64)
    for form in FORMS:
        for small, large in (("9-1-5", "9-5-5"), ("9-1-5", "11-3-7"), ("9-5-5", "9-5-5")):
            a, b = (SRCNN(arch, form=form).double() for arch in (small, large))
            with torch.no_grad():
                a.conv1.weight += 0.05
                a.conv3.weight *= 30
                b.load_state_dict(adapt(a.state_dict(), b))
                n, cut = b.shrink, b.shrink - a.shrink
                expected = a(x)[:, :, cut : x.shape[2] - 2 * n + cut, cut : x.shape[3] - 2 * n + cut]
                assert torch.allclose(b(x), expected, atol=1e-12)
        with pytest.raises(ValueError, match=r"conv2\.weight of \(32, 64, 5, 5\) does not fit into"):
            adapt(SRCNN("9-5-5", form=form).state_dict(), SRCNN("9-1-5", form=form))
        with pytest.raises(ValueError, match="does not fit into"):
            adapt(SRCNN("9-1-5", 3, form=form).state_dict(), SRCNN("9-1-5", form=form))
    for form, other in (FORMS, FORMS[::-1]):
        with pytest.raises(ValueError, match=f"its form is not '{form}'"):
            adapt(SRCNN(form=other).state_dict(), SRCNN(form=form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_identity_start_is_close_to_the_identity(channels: int, form: str) -> None:
    torch.manual_seed(0)
    net = SRCNN("9-1-5", channels, form=form)
    x = torch.rand(1, channels, 40, 40)
    cut = net.shrink
    out = net(x).detach()
    assert float((out - x[:, :, cut:-cut, cut:-cut]).abs().mean()) < 0.02


def test_the_identity_start_leaves_no_unit_on_or_off_everywhere() -> None:
    """All but the path of the image: on somewhere, off somewhere, whatever the brightness."""
    torch.manual_seed(0)
    net = SRCNN("9-5-5")
    image = torch.from_numpy(drawing(80, 80, 1)[..., 0][None, None]).float()
    for brightness in (0.0, 0.4):
        first = torch.relu(net.conv1(0.5 * image + brightness))
        second = torch.relu(net.conv2(first))
        for layer in (first, second):
            on = (layer[0, 1:] > 0).float().mean(dim=(1, 2))
            assert float(on.min()) > 0.02
            assert float(on.max()) < 0.98


@pytest.mark.parametrize("arch", ["9-1", "9-2-5", "a-b-c", "", "9-1-5-7", "9--5"])
def test_a_wrong_architecture_is_refused(arch: str) -> None:
    with pytest.raises(ValueError, match="three odd kernel sizes"):
        SRCNN(arch)


def test_other_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="init must be one of"):
        SRCNN(init="zeros")
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        SRCNN(channels=2)


# The crops


def numbered(h: int, w: int, channels: int = 1, first: int = 0) -> Pair:
    """An image whose every sample is another number, exact in the crops' steps."""
    plane = (first + np.arange(h * w * channels).reshape(h, w, channels)) / 2**14
    image = plane[..., 0] if channels == 1 else plane
    return Pair(image, image)


@pytest.mark.parametrize("sampling", ["uniform", "detail", "grid"])
def test_crops_are_crops_and_targets_their_centres(sampling: Any) -> None:
    pairs = [numbered(31, 40), numbered(26, 50, first=5000)]
    patches = Patches(pairs, 20, 6, 64, seed=1, sampling=sampling, stride=5)
    inputs, targets = patches.at(0)
    assert inputs.shape == (64, 1, 20, 20)
    assert (inputs[:, :, 6:-6, 6:-6] == targets).all()
    seen = set()
    for crop in (inputs[:, 0] * 2**14).numpy().astype(int):
        corner = crop.min()
        whole, width = (crop - 5000, 50) if corner >= 5000 else (crop, 40)
        upright = whole.min() + np.arange(20)[:, None] * width + np.arange(20)
        variants = [np.rot90(v, k) for v in (upright, upright.T) for k in range(4)]
        which = [k for k, v in enumerate(variants) if (v == whole).all()]
        assert len(which) == 1
        seen.add(which[0])
    assert seen == ({0} if sampling == "grid" else set(range(8)))


def test_colour_crops_keep_their_channels_together() -> None:
    inputs, targets = Patches([numbered(24, 24, 3)], 16, 4, 8, 0).at(3)
    assert inputs.shape == (8, 3, 16, 16)
    assert targets.shape == (8, 3, 8, 8)
    assert torch.allclose(inputs[:, 1] - inputs[:, 0], torch.tensor(2.0**-14))


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    pairs = [numbered(40, 40)]
    a, b = (Patches(pairs, 16, 4, 8, seed=5) for _ in range(2))
    a.at(0)
    assert (a.at(7)[0] == b.at(7)[0]).all()
    assert not (a.at(8)[0] == b.at(7)[0]).all()
    assert not (Patches(pairs, 16, 4, 8, seed=6).at(7)[0] == b.at(7)[0]).all()


def test_the_papers_grid_shows_every_sub_image_once_an_epoch() -> None:
    patches = Patches([numbered(33 + 28, 33 + 14)], 33, 6, 4, 0, "grid", 14)
    assert len(patches) == 6
    corners = [int(c.min() * 2**14) for k in range(3) for c in patches.at(k)[0]]
    expected = sorted(y * 47 + x for y in (0, 14, 28) for x in (0, 14))
    assert sorted(corners[:6]) == sorted(corners[6:]) == expected
    assert corners[:6] != corners[6:]


def test_detail_is_shown_more_often_but_nothing_is_left_out() -> None:
    truth = np.full((200, 200), 0.5)
    truth[:100, :100] += np.random.default_rng(0).normal(0, 0.2, (100, 100))
    patches = Patches([Pair(np.full_like(truth, 0.5), truth)], 24, 4, 512, 0, "detail")
    busy = (patches.at(0)[1].std(dim=(1, 2, 3)) > 0.15).float().mean()
    plain = Patches([Pair(np.full_like(truth, 0.5), truth)], 24, 4, 512, 0, "uniform")
    assert float(busy) > 1.5 * float((plain.at(0)[1].std(dim=(1, 2, 3)) > 0.15).float().mean())
    assert float(busy) < 0.95


def test_a_crop_must_be_larger_than_the_network() -> None:
    with pytest.raises(ArgumentError, match="larger than 12 pixels, got 12"):
        Patches([numbered(40, 40)], 12, 6, 4, 0)


def test_pairs_are_the_protocols(images: Path) -> None:
    path = list_images(images)[0]
    loaded = data.load([path], 3, "y", Degradation(), 24, 0)
    truth = modcrop(read_image(path, "y"), 3)
    assert (loaded.pairs[0].truth == truth.astype(np.float32)).all()
    up = imresize(imresize(truth, 3, down=True), 3, down=False)
    assert np.abs(loaded.pairs[0].degraded - up).max() < 1e-6


def test_random_degradations_come_in_versions(images: Path) -> None:
    paths = list_images(images)[:2]
    noisy = data.load(paths, 2, "y", Degradation(noise=20), 24, 0)
    assert len(noisy.pairs) == 2 * data.DRAWS
    assert not (noisy.pairs[0].degraded == noisy.pairs[1].degraded).all()
    assert (noisy.pairs[0].truth == noisy.pairs[1].truth).all()
    coded = data.load(paths, 1, "rgb", Degradation(jpeg=30), 24, 0)
    assert len({p.truth.shape for p in coded.pairs}) > 1  # other places of the blocks
    again = data.load(paths, 2, "y", Degradation(noise=20), 24, 0)
    assert (again.pairs[3].degraded == noisy.pairs[3].degraded).all()
    assert again.digest == noisy.digest


def test_an_image_named_twice_is_kept_once_and_seen_twice(images: Path) -> None:
    a, b, *_ = list_images(images)
    loaded = data.load([a, b, a, a], 2, "y", Degradation(noise=5), 24, 0)
    assert loaded.names == ["0.png", "1.png"]
    assert loaded.weights == [3] * data.DRAWS + [1] * data.DRAWS
    pairs = [Pair(np.full((40, 40), v, np.float32), np.full((40, 40), v, np.float32)) for v in (0.25, 0.75)]
    for sampling in ("uniform", "detail", "grid"):
        patches = Patches(pairs, 24, 4, 64, 0, sampling, 16, weights=[3, 1])
        seen = torch.cat([patches.at(k)[1].mean(dim=(1, 2, 3)) for k in range(8)])
        assert float((seen < 0.5).float().mean()) == pytest.approx(0.75, abs=0.06)


def test_many_images_come_in_fewer_versions(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = list_images(images)
    size = sum(read_image(p, "y").size for p in paths)
    for maximum, draws in ((3 * size, 3), (size // 2, 1)):
        monkeypatch.setattr(data, "_MAX_SAMPLES", maximum)
        assert len(data.load(paths, 2, "y", Degradation(noise=5), 24, 0).pairs) == draws * len(paths)


def test_what_cannot_be_trained_on_is_named_and_skipped(images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("text")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((20, 90, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "gray.png"), np.zeros((90, 90), np.uint8))
    lines: list[str] = []
    with pytest.raises(ImageError, match="none of 3 images can be used"):
        data.load(list_images(tmp_path), 2, "rgb", Degradation(), 24, 0, lines.append)
    assert [line.split(": ", 2)[2] for line in lines] == [
        "not an image that OpenCV can read, or damaged",
        "is grayscale, but three channels are needed",
        "90 x 20 pixels, smaller than a crop of 24 pixels",
    ]
    mixed = [*list_images(tmp_path), *list_images(images)]
    loaded = data.load(mixed, 2, "y", Degradation(), 24, 0)
    assert len(loaded.names) == 5
    assert len(loaded.skipped) == 2


# The loop


@pytest.mark.parametrize("recipe", [BEST, PAPER], ids=["best", "paper"])
def test_a_short_training_beats_its_start_and_exports(
    recipe: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    paper = recipe is PAPER
    steps = 150 if paper else 60
    # The paper's start, black images, needs 10^8 crops; its rates learn from ours at once.
    extra = {"init": "identity"} if paper else {}
    chosen = {**recipe, **QUICK, **extra, "patch": 33, "batch": 8}
    outcome = train(config(images, tmp_path / "run", scale=3, steps=steps, **chosen))
    assert outcome.finished
    assert outcome.step == steps
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["scale"] == 3
    assert record["config"]["recipe"] == ("paper" if paper else "best")
    assert record["data"]["images"] == ["0.png", "1.png", "2.png", "3.png"]
    assert len(record["data"]["sha256"]) == 64
    assert record["versions"]["torch"] == torch.__version__
    described = export(outcome.checkpoint, tmp_path / "m.onnx")
    assert described.training["steps"] == steps
    assert described.training["degrade"] == "bicubic"
    protocol = runner.Protocol(3)
    method = runner.model_method(tmp_path / "m.onnx", "cpu")
    with method.closing:
        result = runner.evaluate(images, [*runner.baselines(protocol), method], protocol)
    assert result.mean(method.name).psnr > result.mean("bicubic").psnr + 0.1


@pytest.mark.parametrize(
    ("degrade", "scale", "channels", "form", "steps"),
    [
        ("blur:1.2", 1, "y", "equivariant", 80),
        ("blur:1.2", 1, "y", "paper", 80),
        ("noise:15+jpeg:60", 2, "rgb", "equivariant", 120),
        ("noise:15+jpeg:60", 2, "rgb", "paper", 80),
    ],
)
def test_restoration_is_trained_and_measured(
    degrade: str, scale: int, channels: Any, form: Any, steps: int, images: Path, tmp_path: Path
) -> None:
    run = config(
        images, tmp_path / "run",
        scale=scale, degrade=degrade, channels=channels, steps=steps, form=form,
    )  # fmt: skip
    outcome = train(run)
    described = export(outcome.checkpoint, tmp_path / "m.onnx")
    assert (described.scale, described.channels) == (scale, 1 if channels == "y" else 3)
    assert described.equivariant == (form == "equivariant")
    protocol = runner.protocol_for(described, channels, None)
    assert str(protocol.degradation) == degrade
    method = runner.model_method(tmp_path / "m.onnx", "cpu")
    with method.closing:
        columns = [*runner.baselines(protocol), method]
        result = runner.evaluate(images, columns, protocol)
    assert result.mean(method.name).psnr > result.mean(columns[0].name).psnr + 0.3


@pytest.mark.parametrize("loss", ["l1", "charbonnier", "mse"])
def test_losses_by_hand(loss: str, images: Path, tmp_path: Path) -> None:
    run = config(images, tmp_path, loss=loss)
    out, target = torch.tensor([[[[0.0, 3.0]]]]), torch.zeros(1, 1, 1, 2)
    expected = {"l1": 1.5, "mse": 4.5, "charbonnier": (1e-3 + math.sqrt(9 + 1e-6)) / 2}[loss]
    assert float(loop.distance(out, target, run)) == pytest.approx(expected)
    summed = replace(run, summed=True)
    assert float(loop.distance(out, target, summed)) == pytest.approx(expected * 2 / 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "soap"])
def test_the_last_layer_and_biases_have_their_own_rates(
    optimiser: Any, form: Any, images: Path, tmp_path: Path
) -> None:
    run = config(images, tmp_path, optimiser=optimiser, lr=1e-3, last_layer_lr=0.1, form=form)
    model = SRCNN(form=form)
    rates = {}
    for group in loop.make_optimiser(model, run).param_groups:
        for p in group["params"]:
            rates[next(n for n, q in model.named_parameters() if q is p)] = group["lr"]
    assert set(rates) == {n for n, _ in model.named_parameters()}
    expected = {"conv1.weight": 1e-3, "conv2.weight": 1e-3, "conv3.weight": 1e-4}
    if form == "paper":
        expected |= {"conv1.bias": 1e-4, "conv2.bias": 1e-4, "conv3.bias": 1e-5}
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("optimiser", ["adam", "soap"])
def test_decay_is_of_the_first_layer_only(optimiser: Any, images: Path, tmp_path: Path) -> None:
    for decay in (0.0, 0.5):
        run = config(images, tmp_path, optimiser=optimiser, lr=1e-3, weight_decay=decay, form="paper")
        torch.manual_seed(0)
        model = SRCNN(form="paper")
        made = loop.make_optimiser(model, run)
        found = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
        for name, p in model.named_parameters():
            assert found[id(p)] == (decay if name == "conv1.weight" else 0)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        made.step()  # SOAP's first one prepares
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        made.step()
        for name, p in model.named_parameters():
            share = 1 - 1e-3 * decay if name == "conv1.weight" else 1  # decoupled: of the weight itself
            assert torch.allclose(p.detach(), before[name] * share, rtol=1e-6, atol=0)


@pytest.mark.parametrize("precision", ["float32", "mixed"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "soap"])
def test_a_resumed_run_goes_on_bit_for_bit(
    precision: str, optimiser: Any, images: Path, tmp_path: Path
) -> None:
    chosen = {"steps": 26, "precision": precision, "optimiser": optimiser, "lr": 1e-3}
    whole = config(images, tmp_path / "whole", **chosen)
    train(whole)
    halves = replace(whole, out=str(tmp_path / "halves"))
    asked = iter([False] * 12 + [True])
    first = train(halves, stop=lambda: next(asked))
    assert (first.finished, first.step) == (False, 13)
    again = train(halves, resume=True)
    assert (again.finished, again.step) == (True, 26)
    assert same(tmp_path / "whole", tmp_path / "halves")
    assert not same(
        tmp_path / "whole", Path(train(replace(whole, out=str(tmp_path / "s"), seed=1)).checkpoint).parent
    )


def test_the_log_of_a_resumed_run_has_every_step_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 0.0)
    run = config(images, tmp_path / "run", steps=8)
    asked = iter([False] * 3 + [True])
    train(run, stop=lambda: next(asked))
    folder = RunFolder(tmp_path / "run")
    folder.append({"step": 5, "loss": 0.0})  # from before a kill, after the checkpoint
    with folder.log.open("a") as file:
        file.write('{"step": 6, "lo')
    train(run, resume=True)
    assert [row["step"] for row in folder.rows()] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_diverged_run_stops_and_keeps_its_checkpoint(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    real, calls = loop.distance, []

    def fails_late(*args: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args) * (math.nan if len(calls) > 3 else 1)

    monkeypatch.setattr(loop, "distance", fails_late)
    with pytest.raises(TrainingError, match=r"the loss is nan after step 3; .*last\.pt is kept"):
        train(config(images, tmp_path / "run", steps=10))
    kept = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert kept["training"]["steps"] == 3
    assert all(v.isfinite().all() for v in kept["state_dict"].values())
    monkeypatch.setattr(loop, "distance", lambda *args: real(*args) * math.inf)
    with pytest.raises(TrainingError, match="nothing was saved"):
        train(config(images, tmp_path / "other"))
    # A finite loss whose gradient is not: SOAP finds no basis for it.
    monkeypatch.setattr(loop, "distance", lambda *args: real(*args) + (real(*args) * 0).sqrt())
    with pytest.raises(TrainingError, match="the gradient is not finite after step 0"):
        train(config(images, tmp_path / "third"))


def test_weights_that_are_not_finite_are_never_saved(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop._Run(config(images, tmp_path), RunFolder(tmp_path), SRCNN(), torch.device("cpu"), [])
    with torch.no_grad():
        next(run.average.module.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match="the weights are not finite"):
        run._save()
    assert not (tmp_path / "last.pt").exists()


def test_a_budget_in_minutes_ends_the_run(images: Path, tmp_path: Path) -> None:
    outcome = train(config(images, tmp_path / "run", steps=10**9, minutes=0.02))
    assert outcome.finished
    assert 0 < outcome.step < 10**5
    rate = RunFolder(tmp_path / "run").rows()[-1]["lr"]
    assert rate < 1e-4  # the schedule ended with the clock


def test_the_schedule_warms_up_holds_and_falls(images: Path, tmp_path: Path) -> None:
    run = loop._Run(
        config(images, tmp_path, steps=1000, warmup=9, lr=1.0, hold=0.5),
        RunFolder(tmp_path), SRCNN(), torch.device("cpu"), [],
    )  # fmt: skip

    def rate(step: int) -> float:
        run.step = step
        return run._set_rate(step / 1000)

    assert [rate(k) for k in (0, 4, 9, 300, 500)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert rate(750) == pytest.approx(0.5)
    assert rate(999) < 1e-4
    assert max(g["lr"] for g in run.optimiser.param_groups) == rate(999)


def test_validation_is_what_eval_measures(images: Path, tmp_path: Path) -> None:
    outcome = train(config(images, tmp_path / "run", steps=30, validate=str(images)))
    export(outcome.checkpoint, tmp_path / "m.onnx")
    protocol = runner.Protocol(2)
    method = runner.model_method(tmp_path / "m.onnx", "cpu")
    with method.closing:
        result = runner.evaluate(images, [method], protocol)
    assert outcome.psnr == pytest.approx(result.mean(method.name).psnr, abs=0.01)


def test_held_out_images_are_not_trained_on(images: Path, tmp_path: Path) -> None:
    train(config(images, tmp_path / "run", hold_out=1))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["images"] == ["1.png", "2.png", "3.png"]
    assert "psnr" in RunFolder(tmp_path / "run").rows()[-1]


def test_a_run_starts_from_other_weights(images: Path, tmp_path: Path) -> None:
    train(config(images, tmp_path / "a", steps=5))
    start = str(tmp_path / "a" / "last.pt")
    run = config(images, tmp_path / "b", scale=3, steps=1, lr=1e-12, init_from=start)
    train(run)
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    digest = hashlib.sha256((tmp_path / "a" / "last.pt").read_bytes()).hexdigest()
    assert record["data"]["init_from_sha256"] == digest
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)
    # Larger kernels start from the same function, from a file of this package too.
    train(replace(run, arch="9-5-5", out=str(tmp_path / "c")))
    grown = weights(tmp_path / "c")["conv2.weight"]
    assert torch.allclose(grown[:, :, 2:3, 2:3], a["conv2.weight"], atol=1e-6)
    assert float(grown.abs().sum()) == pytest.approx(float(a["conv2.weight"].abs().sum()), rel=1e-4)
    train(replace(run, init_from=TEST_MODEL, out=str(tmp_path / "d")))
    record = json.loads((tmp_path / "d" / "run.json").read_text())
    data = bundled()[TEST_MODEL].read_bytes()
    assert record["data"]["init_from_sha256"] == hashlib.sha256(data).hexdigest()
    kept = {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(data).graph.initializer}
    assert np.allclose(weights(tmp_path / "d")["conv3.weight"].numpy(), kept["conv3.weight"], atol=1e-6)
    wide = replace(run, arch="9-5-5", out=str(tmp_path / "e"))
    for other, rule in (
        ({"arch": "9-1-3"}, r"is 9-1-5 with 1 channels: conv3\.weight of .* does not fit into"),
        ({"channels": "rgb"}, r"is 9-1-5 with 1 channels: conv1\.weight of .* does not fit into"),
        ({"form": "paper"}, "is 9-1-5 with 1 channels: its form is not 'paper'"),
        ({"init_from": f"{TEST_MODEL}-paper"}, "is 9-1-5 with 1 channels: its form is not 'equivariant'"),
    ):
        with pytest.raises(ArgumentError, match=rule):
            train(replace(wide, **other))
        assert not (tmp_path / "e").exists()


def test_run_folders_are_not_mixed_up(images: Path, tmp_path: Path) -> None:
    run = config(images, tmp_path / "a", steps=2)
    train(run)
    with pytest.raises(OutputError, match="contains a run already; use --resume to continue it"):
        train(run)
    with pytest.raises(ArgumentError, match=r"not a checkpoint of this run \(9-5-5\)"):
        train(replace(run, arch="9-5-5"), resume=True)
    (tmp_path / "a" / "last.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not a checkpoint"):
        train(run, resume=True)
    with pytest.raises(SourceMissingError, match="the folder contains no run"):
        RunFolder(tmp_path / "none").read()
    (tmp_path / "a" / "run.json").write_text("{}")
    with pytest.raises(ModelError, match="not the record of a training run"):
        RunFolder(tmp_path / "a").read()
    with pytest.raises(OutputError, match="cannot be written"):
        train(replace(run, out="/proc/none/run"))


def test_changed_images_are_noticed_when_a_run_goes_on(images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in list_images(images):
        (copy / path.name).write_bytes(path.read_bytes())
    run = config(copy, tmp_path / "run", steps=4)
    asked = iter([False, True])
    train(run, stop=lambda: next(asked))
    cv2.imwrite(str(copy / "0.png"), np.zeros((70, 70, 3), np.uint8))
    with pytest.raises(ArgumentError, match="the training images have changed since the run was started"):
        train(run, resume=True)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"scale": 9}, "scale must be from 1 to 8, got 9"),
        ({"arch": "9-1"}, "three odd kernel sizes"),
        ({"loss": "l3"}, "loss must be one of mse, l1, charbonnier, got 'l3'"),
        ({"scale": 1}, "scale 1 needs a degradation to undo"),
        ({"degrade": "fog"}, "a degradation is bicubic"),
        ({"ema": 1.0}, "ema must be from 0 to"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], rule: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=rule):
        config(images, tmp_path, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="torch finds no GPU"):
        train(config(images, tmp_path, device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu(images: Path, tmp_path: Path) -> None:
    outcome = train(config(images, tmp_path / "run", steps=120, device="cuda", validate=str(images)))
    plain = runner.Protocol(2)
    bicubic = runner.evaluate(images, runner.baselines(plain), plain).mean("bicubic")
    assert outcome.psnr is not None
    assert outcome.psnr > bicubic.psnr


# The command


def command(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture
def small(images: Path) -> Callable[..., list[object]]:
    def words(out: Path, *more: object) -> list[object]:
        given = ["train", "--data", images, "--out", out, "--batch", 4, "--patch", 24, "--threads", 1]
        return [*given, "--scale", 2, *more]

    return words


def test_train_on_the_command_line(small: Callable[..., list[object]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = command(*small(out, "--steps", 5, "--arch", "9-3-5", "--loss", "l1"))
    assert result.exit_code == 0
    assert result.stdout == f"{out / 'last.pt'}: 5 steps\n"
    assert "100% step 5: loss 0." in result.stderr
    result = command(*small(out))
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {out}: contains a run already; use --resume to continue it\n",
    )
    result = command("train", "--out", out, "--resume", "--steps", 8)
    assert result.stdout.startswith(f"{out / 'last.pt'}: 8 steps")
    result = command("train", "--out", out, "--resume", "--arch", "9-5-5")
    assert "the run was started with arch 9-3-5, not 9-5-5" in result.stderr
    assert command("research", "curves", out, "-o", tmp_path / "c.png").exit_code == 0
    assert cv2.imread(str(tmp_path / "c.png")) is not None
    assert command("export", out / "last.pt", "-o", tmp_path / "m.onnx").exit_code == 0
    assert spec.load(tmp_path / "m.onnx")[1].architecture == "9-3-5"
    assert command(*small(tmp_path / "q", "--steps", 2, "--quiet")).output == ""
    assert command("research", "curves", tmp_path / "none", "-o", tmp_path / "c.png").exit_code == 1


def test_train_says_what_is_wrong(small: Callable[..., list[object]], tmp_path: Path) -> None:
    result = command("train", "--out", tmp_path / "run", "--scale", 2)
    assert result.exit_code == 2
    assert "--data is required for a new run" in result.stderr
    result = command("train", "--out", tmp_path / "run", "--scale", 2, "--data", tmp_path)
    assert result.exit_code == 1
    assert "no images in this folder" in result.stderr
    result = command(*small(tmp_path / "run", "--patch", 90))
    assert "none of 4 images can be used; the first:" in result.stderr
    assert "smaller than a crop of 90 pixels" in result.stderr
    assert not (tmp_path / "run").exists()
    result = command("train", "--out", tmp_path / "run", "--resume")
    assert "the folder contains no run" in result.stderr


def test_ctrl_c_saves_and_the_run_goes_on(small: Callable[..., list[object]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [str(w) for w in small(out, "--steps", 10**6)]
    started = subprocess.Popen(
        [sys.executable, "-m", "srcnn_rt", *words], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").exists() and time.monotonic() < deadline:
        assert started.poll() is None
        time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert f"to continue, run: srcnn-rt train --out {out} --resume" in errors
    step = torch.load(out / "last.pt", weights_only=True)["resume"]["step"]
    assert step > 0
    result = command("train", "--out", out, "--resume", "--steps", step + 2)
    assert f"{step + 2} steps" in result.stdout
