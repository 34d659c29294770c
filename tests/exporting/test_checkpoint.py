"""Checkpoint to ONNX: checked against torch, refused with the keys where it is something else."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from click.testing import CliRunner  # noqa: E402

from srcnn_rt import ArgumentError, Engine, ModelError, OutputError, SourceMissingError  # noqa: E402
from srcnn_rt.architectures import srcnn_weights  # noqa: E402
from srcnn_rt.architectures.srcnn import ARCHITECTURES, FORMS, SRCNN  # noqa: E402
from srcnn_rt.cli import main  # noqa: E402
from srcnn_rt.exporting import checkpoint as exporter  # noqa: E402
from srcnn_rt.exporting import network_graph  # noqa: E402
from srcnn_rt.models import spec  # noqa: E402
from tests.conftest import drawing  # noqa: E402
from tests.helpers import reference  # noqa: E402
from tests.helpers.models import layers_of, network_of  # noqa: E402


def checkpoint(
    path: Path, arch: str = "9-1-5", channels: int = 1, scale: int | None = 3, form: str = "equivariant"
) -> Path:
    torch.manual_seed(0)
    net = SRCNN(arch, channels, form=form)
    with torch.no_grad():
        if form == "paper":
            for conv in (net.conv1, net.conv2, net.conv3):
                conv.bias.normal_(0, 0.02)
            net.conv3.bias += 0.05  # a start that is nearly bicubic, moved off it
        else:
            net.conv1.weight += 0.01  # a sum that the network must take away
            net.conv3.weight *= 30  # so that what is added is seen
    state = {"state_dict": net.state_dict(), "arch": arch, "scale": scale, "training": {"steps": 1}}
    torch.save(state | ({"form": form} if form != "paper" else {}), path)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_export_agrees_with_torch_and_the_oracle(
    tmp_path: Path, arch: str, scale: int, channels: int, form: str
) -> None:
    source = checkpoint(tmp_path / "c.pt", arch, channels, scale, form)
    described = exporter.export(source, tmp_path / "m.onnx")
    assert described.equivariant == (form == "equivariant")
    assert (described.scale, described.architecture, described.channels) == (scale, arch, channels)
    assert described.check["largest"] <= 1e-5
    assert described.training["steps"] == 1
    image = drawing(11, 14, channels)
    with Engine(tmp_path / "m.onnx", provider="cpu", tile=8) as e:
        got = e.upscale(image.astype(np.float32)).reshape(11 * scale, 14 * scale, channels)
    network = network_of(tmp_path / "m.onnx")
    assert (network.scale, network.added) == (scale, form == "equivariant")
    expected = network.image(image)
    assert np.abs(got - expected).max() < 1e-4
    plain = np.stack([reference.bicubic(image[..., c], scale) for c in range(channels)], axis=-1)
    assert np.abs(expected - plain).max() > 1e-2  # that is not bicubic alone
    if scale == 1:  # the oracle's bicubic is the image itself
        pad = reference.shrink(network.layers)
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric").transpose(2, 0, 1)
        span = network.white - network.black
        sharp = reference.network(padded * span + network.black, network.layers).transpose(1, 2, 0)
        whole = sharp + image if network.added else (sharp - network.black) / span
        assert np.abs(got - whole).max() < 1e-4


@pytest.mark.parametrize(("form", "channels", "values"), [
    ("equivariant", 1, "any"), ("equivariant", 3, "any"),
    ("paper", 1, spec.STUDIO_RANGE), ("paper", 3, "0..1"),
])  # fmt: skip
def test_the_file_says_what_its_values_are(tmp_path: Path, form: str, channels: int, values: str) -> None:
    import onnx

    exporter.export(checkpoint(tmp_path / "c.pt", channels=channels, form=form), tmp_path / "m.onnx")
    meta = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert meta["srcnn_rt.range"] == values
    assert spec.load(tmp_path / "m.onnx")[1].equivariant == (values == "any")


def test_the_first_filters_sum_to_zero_without_rounding(tmp_path: Path) -> None:
    import onnx

    torch.manual_seed(1)
    weight = (
        torch.randn(7, 3, 9, 9, dtype=torch.float64).numpy() * 10.0 ** np.arange(-6, 1)[:, None, None, None]
    )
    made = network_graph.exactly_zero_sum(weight)
    assert made.dtype == np.float32
    assert (made.astype(np.float64).sum(axis=(2, 3)) == 0).all()
    centred = weight - weight.mean(axis=(2, 3), keepdims=True)
    maximum = np.abs(centred).max(axis=(2, 3), keepdims=True)
    assert (np.abs(made - centred) <= 2.0**-21 * maximum).all()
    exporter.export(checkpoint(tmp_path / "c.pt"), tmp_path / "m.onnx")
    found = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert (found["conv1.weight"].astype(np.float64).sum(axis=(2, 3)) == 0).all()


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    import onnx

    exporter.export(checkpoint(tmp_path / "c.pt"), tmp_path / "m.onnx")
    meta = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert meta["srcnn_rt.format"] == "1"
    assert meta["srcnn_rt.architecture"] == "9-1-5"
    assert meta["srcnn_rt.scale"] == "3"
    assert meta["srcnn_rt.color"] == "y"
    assert "torch" in json.loads(meta["srcnn_rt.check"])["against"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: d,
        lambda d: {"state_dict": d},
        lambda d: {"epoch": 3, "model": {f"module.{k}": v for k, v in d.items()}},
        lambda d: {"params": {f"net.{k}": v for k, v in d.items()}},
        lambda d: {f"module.model.{k}": v.double() for k, v in d.items()},
        lambda d: {"params": {}, "params_ema": {f"generator.{k}": v for k, v in d.items()}},
        lambda d: {f"our_upscaler.inner.{k}": v for k, v in d.items()},
        lambda d: {
            **{f"net_g.module.{k}": v for k, v in d.items()},
            "net_d.conv.weight": torch.zeros(3, 3),
            "step": torch.zeros(1),
        },
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
def test_state_dicts_people_have(tmp_path: Path, wrap, suffix: str) -> None:
    net = SRCNN("9-5-5", form="paper")
    torch.save(wrap(net.state_dict()), tmp_path / f"srcnn_x2{suffix}")
    described = exporter.export(tmp_path / f"srcnn_x2{suffix}", tmp_path / "m.onnx", scale=2)
    assert (described.architecture, described.scale) == ("9-5-5", 2)
    assert not described.equivariant
    weight, _ = layers_of(tmp_path / "m.onnx")[0]
    assert (weight == net.conv1.weight.detach().numpy()).all()


def test_the_form_is_told_at_the_top_only(tmp_path: Path) -> None:
    """Weights without biases are not taken for the equivariant form by themselves."""
    state = SRCNN().state_dict()
    for loaded in (state, {"state_dict": state}, {"state_dict": {**state, "form": "equivariant"}}):
        torch.save(loaded, tmp_path / "c.pt")
        with pytest.raises(ModelError, match=r"expected the keys conv1\.weight, conv1\.bias"):
            srcnn_weights.read_checkpoint(tmp_path / "c.pt")
    torch.save({"state_dict": state, "form": "equivariant"}, tmp_path / "c.pt")
    found = srcnn_weights.read_checkpoint(tmp_path / "c.pt")
    assert found.form == found.network().form == "equivariant"
    torch.save({"state_dict": SRCNN(form="paper").state_dict(), "form": "equivariant"}, tmp_path / "c.pt")
    with pytest.raises(ModelError, match=r"expected the keys conv1\.weight, conv2\.weight, conv3\.weight"):
        srcnn_weights.read_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_read_back(tmp_path: Path, form: str) -> None:
    source = checkpoint(tmp_path / "c.pt", "9-5-5", 3, form=form)
    exporter.export(source, tmp_path / "m.onnx")
    asked, found = srcnn_weights.read_checkpoint(source), srcnn_weights.read_model(str(tmp_path / "m.onnx"))
    assert (found.arch, found.channels, found.form) == ("9-5-5", 3, form)
    x = torch.rand(1, 3, 30, 31)
    with torch.no_grad():
        assert torch.allclose(found.network()(x), asked.network()(x), atol=1e-5)
    with pytest.raises(ModelError, match="not an SRCNN of this package"):
        srcnn_weights.read_model("bicubic-x2")


def test_other_filter_counts_are_read_off_the_weights(tmp_path: Path) -> None:
    torch.save(SRCNN("9-1-5", filters=(32, 16), form="paper").state_dict(), tmp_path / "c.pt")
    exporter.export(tmp_path / "c.pt", tmp_path / "m.onnx", scale=2)
    assert layers_of(tmp_path / "m.onnx")[1][0].shape == (16, 32, 1, 1)


def test_what_is_not_recognised_lists_the_keys(tmp_path: Path) -> None:
    torch.save({"body.0.weight": torch.zeros(1), "body.0.bias": torch.zeros(1)}, tmp_path / "c.pt")
    with pytest.raises(ModelError) as caught:
        exporter.export(tmp_path / "c.pt", tmp_path / "m.onnx", scale=2)
    assert "expected the keys conv1.weight, conv1.bias" in str(caught.value)
    assert "found body.0.bias, body.0.weight" in str(caught.value)
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(ModelError, match="found none"):
        exporter.export(tmp_path / "c.pt", tmp_path / "m.onnx", scale=2)
    even = SRCNN(form="paper").state_dict()
    even["conv2.weight"] = torch.zeros(32, 64, 2, 2)
    torch.save(even, tmp_path / "c.pt")
    with pytest.raises(ModelError, match="square odd kernels"):
        exporter.export(tmp_path / "c.pt", tmp_path / "m.onnx", scale=2)


class Trap:
    """What a hostile pickle does: run code when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("sprung"),))  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Trap()}, "trap.pt")
    Path("raw.pkl").write_bytes(pickle.dumps(Trap()))
    Path("text.pt").write_text("hello")
    for name in ("trap.pt", "raw.pkl", "text.pt"):
        with pytest.raises(ModelError, match="not a checkpoint of plain tensors"):
            exporter.export(Path(name), Path("m.onnx"), scale=2)
    assert not Path("sprung").exists()
    assert not Path("m.onnx").exists()


def test_safetensors_are_read(tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    net = SRCNN(form="paper")
    files.save_file(net.state_dict(), tmp_path / "c.safetensors")
    exporter.export(tmp_path / "c.safetensors", tmp_path / "m.onnx", scale=2)
    assert (layers_of(tmp_path / "m.onnx")[0][0] == net.conv1.weight.detach().numpy()).all()
    (tmp_path / "d.safetensors").write_bytes(b"not one of them")
    with pytest.raises(ModelError, match="not a safetensors file"):
        exporter.export(tmp_path / "d.safetensors", tmp_path / "n.onnx", scale=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs_are_told_from_weights(tmp_path: Path) -> None:
    net = SRCNN(form="paper")
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 1, 20, 20)), tmp_path / "c.pt")
    with pytest.raises(ModelError, match=r"a TorchScript program, not a checkpoint; save model\.state_dict"):
        exporter.export(tmp_path / "c.pt", tmp_path / "m.onnx", scale=2)
    torch.save(net, tmp_path / "d.pt")
    with pytest.raises(ModelError) as caught:
        exporter.export(tmp_path / "d.pt", tmp_path / "m.onnx", scale=2)
    message = str(caught.value)
    assert "contains srcnn_rt.architectures.srcnn.SRCNN, which is code; save model.state_dict()" in message
    assert "\x1b" not in message and "\n" not in message


def test_the_scale_must_be_known_once(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="trained for scale 3, got --scale 2"):
        exporter.export(checkpoint(tmp_path / "a.pt"), tmp_path / "m.onnx", scale=2)
    with pytest.raises(ArgumentError, match="does not determine its scale; use --scale"):
        exporter.export(checkpoint(tmp_path / "b.pt", scale=None), tmp_path / "m.onnx")
    with pytest.raises(ArgumentError, match="scale must be from 1 to 8, got 9"):
        exporter.export(checkpoint(tmp_path / "c.pt", scale=9), tmp_path / "m.onnx")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", ["weight", "margin", "bicubic"])
def test_a_mismatch_removes_the_file_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, form: str
) -> None:
    real = network_graph.build_graph

    def wrong(network: SRCNN, scale: int):
        torch_net = SRCNN(network.arch, filters=(64, 32), form=form)
        torch_net.load_state_dict(network.state_dict())
        if fault == "weight":
            with torch.no_grad():
                torch_net.conv3.weight[0, 0, 2, 2] += 1e-4
            return real(torch_net, scale)
        if fault == "margin":
            return real(SRCNN("9-5-5", form=form), scale)
        proto = real(torch_net, scale)
        kernel = next(t for t in proto.graph.initializer if t.name == "bicubic.weight")
        phases = np.frombuffer(kernel.raw_data, np.float32).reshape(scale**2, -1)
        kernel.raw_data = np.roll(phases, 1, axis=0).tobytes()
        return proto

    monkeypatch.setattr(network_graph, "build_graph", wrong)
    source = checkpoint(tmp_path / "c.pt", form=form)
    (tmp_path / "old.onnx").write_text("the old model")
    for target in ("m.onnx", "old.onnx"):
        with pytest.raises(ModelError, match=r"differs from torch|scale and margin"):
            exporter.export(source, tmp_path / target, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "the old model"


def test_export_on_the_command_line(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "c.pt")
    result = CliRunner().invoke(main, ["export", str(source)])
    assert result.exit_code == 0, result.output
    assert "9-1-5, scale 3, margin 4 LR pixels" in result.stdout
    assert spec.load(tmp_path / "c.onnx")[1].scale == 3
    result = CliRunner().invoke(main, ["export", str(source)])
    assert result.exit_code == 1
    assert "c.onnx: already exists" in result.stderr
    result = CliRunner().invoke(main, ["export", str(tmp_path / "gone.pt")])
    assert result.exit_code == 1
    assert "gone.pt: no such file" in result.stderr
    with pytest.raises(OutputError, match="already exists"):
        exporter.export(source, tmp_path / "c.onnx")
    with pytest.raises(SourceMissingError):
        srcnn_weights.read_checkpoint(tmp_path / "gone.pt")


def test_a_checkpoint_with_the_image_path(tmp_path: Path) -> None:
    import onnx

    result = CliRunner().invoke(main, ["export", str(checkpoint(tmp_path / "c.pt")), "--io-dtype", "u8"])
    assert result.exit_code == 0, result.output
    assert "c-rgb-u8.onnx: rgb images in u8, 9-1-5, scale 3, margin 4 LR pixels" in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c-rgb-u8.onnx", "c.pt"]
    meta = {p.key: p.value for p in onnx.load(tmp_path / "c-rgb-u8.onnx").metadata_props}
    assert meta["srcnn_rt.model"] == "c"
    assert json.loads(meta["srcnn_rt.training"]) == {"steps": 1}
