"""The network that a model adds to bicubic is found and runs alone; other models are not changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from srcnn_rt import Engine
from srcnn_rt.image import bicubic
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.analysis import is_equivariant
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.optimize.remove_bicubic import without_bicubic
from tests.conftest import TEST_MODEL, drawing
from tests.helpers.models import model, node, normal, run
from tests.helpers.rewriting import ops

EQUIVARIANT = [name for name in bundled() if spec.load(name)[1].equivariant]


def residual(
    scale: int = 2,
    channels: int = 1,
    *,
    image: int | tuple[int, int] = 2,
    inside: int | tuple[int, int] = 0,
    kernel: np.ndarray | None = None,
    op: str = "Add",
    swapped: bool = False,
    mode: str = "CRD",
    bias: bool = False,
    other: str | None = None,
    out: int | None = None,
) -> onnx.ModelProto:
    """5x5, ReLU, 1x1 on bicubic, and bicubic less `image` (before, after) added to it.

    `inside` is cut off before the network; `other` is what is added in place of bicubic.
    """
    rng = np.random.default_rng([scale, channels])
    first = normal(rng, 6, channels, 5, 5)
    first -= first.mean(axis=(2, 3), keepdims=True)
    # A sum of powers of two leaves no rounding error.
    first = (np.rint(first * 2**12) / 2**12).astype(np.float32)
    first[:, :, 0, 0] -= first.sum(axis=(2, 3))
    weights: dict[str, np.ndarray] = {"a": first, "b": normal(rng, out or channels, 6, 1, 1)}
    nodes: list[onnx.NodeProto] = []
    up = "lr"
    if scale > 1:
        body, (tensor,) = bicubic.nodes("lr", "up", scale, channels)
        weights["k"] = numpy_helper.to_array(tensor) if kernel is None else kernel
        body[0].input[1] = "k"
        if bias:
            weights["kb"] = np.full(len(weights["k"]), 0.125, np.float32)
            body[0].input.append("kb")
        body[1].attribute.remove(next(a for a in body[1].attribute if a.name == "mode"))
        body[1].attribute.append(helper.make_attribute("mode", mode))
        nodes, up = [*body], "up"

    def cut(source: str, name: str, by: int | tuple[int, int]) -> str:
        before, after = by if isinstance(by, tuple) else (by, by)
        weights[f"{name}.from"], weights[f"{name}.to"] = np.array([before] * 2), np.array([-after] * 2)
        weights[f"{name}.axes"] = np.array([2, 3])
        nodes.append(node("Slice", [source, f"{name}.from", f"{name}.to", f"{name}.axes"], [name], name))
        return name

    source = cut(up, "fed", inside) if inside else up
    nodes += [
        node("Conv", [source, "a"], ["x"]), node("Relu", ["x"], ["y"]), node("Conv", ["y", "b"], ["detail"]),
    ]  # fmt: skip
    plain = cut({None: up, "fed": source, "lr": "lr", "x": "x"}[other], "plain", image)
    nodes.append(node(op, [plain, "detail"] if swapped else ["detail", plain], ["hr"]))
    return model(nodes, weights, channels, out=channels)


def alone(proto: onnx.ModelProto, scale: int) -> onnx.ModelProto:
    before = proto.SerializeToString(deterministic=True)
    found = without_bicubic(proto, scale)
    assert proto.SerializeToString(deterministic=True) == before
    assert found is not None
    return found


def enlarged(x: np.ndarray, scale: int) -> np.ndarray:
    """Return bicubic of (N, C, h, w) without the two outer pixels."""
    if scale == 1:
        return x
    n, c, h, w = x.shape
    flat = run(bicubic.model(scale), x.reshape(n * c, 1, h, w))
    return flat.reshape(n, c, *flat.shape[2:])


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_the_sum_is_bicubic_and_what_is_left(scale: int, channels: int, swapped: bool) -> None:
    proto = residual(scale, channels, swapped=swapped)
    assert is_equivariant(proto)
    found = alone(proto, scale)
    assert "Add" not in ops(found)
    assert "Slice" not in ops(found)
    x = np.random.default_rng(0).random((2, channels, 19, 17), np.float32)
    plain = enlarged(x, scale)[:, :, 2:-2, 2:-2]
    assert np.abs(run(found, x) + plain - run(proto, x)).max() <= 2e-6
    assert np.abs(run(found, x)).max() > 1e-2


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_bundled_models(name: str) -> None:
    data, described = spec.load(name)
    proto, scale = spec.parse(data), described.scale
    found = alone(proto, scale)
    x = np.random.default_rng(0).random((1, described.channels, 40, 37), np.float32)
    whole, detail = run(proto, x), run(found, x)
    plain = enlarged(x, scale)
    cut = [(a - b) // 2 for a, b in zip(plain.shape[2:], whole.shape[2:], strict=True)]
    inner = plain[:, :, cut[0] : plain.shape[2] - cut[0], cut[1] : plain.shape[3] - cut[1]]
    assert np.abs(detail + inner - whole).max() <= 5e-6
    # The facts are those of the whole model, except for the period.
    ready = prepare.build_program(data, described)
    assert ready.spec.adds_bicubic
    assert (ready.spec.margin, ready.spec.scale) == (described.margin, scale)
    assert not is_equivariant(found)  # because it returns a difference


def test_a_crop_before_the_network_is_followed() -> None:
    """In files the added image is cropped twice."""
    proto = residual(inside=1, image=2, other="fed")
    found = alone(proto, 2)
    x = np.random.default_rng(0).random((1, 1, 19, 17), np.float32)
    assert np.abs(run(found, x) + enlarged(x, 2)[:, :, 3:-3, 3:-3] - run(proto, x)).max() <= 2e-6


def lanczos(scale: int, channels: int) -> np.ndarray:
    return bicubic.weights(scale, channels) * np.float32(1 + 1e-5)


@pytest.mark.parametrize(
    ("scale", "options"),
    [
        (2, {"image": (1, 3)}),
        (2, {"image": (3, 1)}),
        (1, {"image": (1, 3)}),
        (2, {"inside": (1, 2), "image": 2, "other": "fed"}),
        (2, {"kernel": lanczos(2, 1)}),
        (3, {"kernel": lanczos(3, 1)}),
        (2, {"kernel": np.roll(bicubic.weights(2, 1), 1, axis=0)}),
        (2, {"bias": True}),
        (2, {"mode": "DCR", "channels": 3}),
        (2, {"op": "Sub"}),
        (2, {"op": "Mul"}),
        (2, {"op": "Max"}),
    ],
)
def test_what_is_something_else_is_left_alone(scale: int, options: dict[str, object]) -> None:
    assert without_bicubic(residual(scale, **options), scale) is None
    del options[next(k for k in options if k != "channels")]
    options.pop("other", None)
    assert without_bicubic(residual(scale, **options), scale) is not None  # without the option it is found


def test_another_scale_is_left_alone() -> None:
    for scale in (2, 3):
        assert without_bicubic(residual(scale), 5 - scale) is None


def test_an_add_of_something_else_is_left_alone() -> None:
    """Another layer, a constant as the image at scale 1, and an Add that is not the last are not removed."""
    proto = residual(1, image=0, other="x", out=6)
    assert without_bicubic(proto, 1) is None
    after = residual(2)
    after.graph.node[-1].output[0] = "sum"
    after.graph.node.append(node("Relu", ["sum"], ["hr"]))
    assert without_bicubic(after, 2) is None
    constant = residual(2)
    add = constant.graph.node[-1]
    add.input[1] = "c"
    constant.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "c"))
    assert without_bicubic(constant, 2) is None
    assert without_bicubic(bicubic.model(2), 2) is None
    for name in (n for n in bundled() if n not in EQUIVARIANT):
        data, described = spec.load(name)
        assert without_bicubic(spec.parse(data), described.scale) is None
        assert not prepare.build_program(data, described).spec.adds_bicubic


def test_detail_that_others_read_is_left_alone() -> None:
    proto = residual(2)
    nodes = list(proto.graph.node)
    twice = node("Add", ["detail", "plain"], ["half"])
    nodes[-1:] = [twice, node("Sub", ["detail", "detail"], ["zero"]), node("Add", ["half", "zero"], ["hr"])]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert without_bicubic(proto, 2) is None


def test_one_channel_added_to_three_is_the_same_for_the_engine(tmp_path: Path) -> None:
    """Detail that is broadcast has fewer channels than the model."""
    proto = residual(2, 3, out=1)
    assert is_equivariant(proto)
    assert without_bicubic(proto, 2) is None
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    x = drawing(30, 26).astype(np.float32)
    margin = spec.load(tmp_path / "m.onnx")[1].margin
    around = np.pad(x, [(margin, margin), (margin, margin), (0, 0)], mode="symmetric").transpose(2, 0, 1)[
        None
    ]
    expected = run(proto, around)[0].transpose(1, 2, 0)
    with Engine(tmp_path / "m.onnx", provider="cpu", tile=16) as engine:
        assert np.abs(engine.upscale(x) - expected).max() <= 1e-5


def test_a_model_of_several_windows_and_of_few_nodes_runs_alike(tmp_path: Path) -> None:
    """The engine adds bicubic itself, and gives the same as the file for every layout."""
    for channels in (1, 3):
        proto = residual(2, channels)
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        x = drawing(30, 26, channels).astype(np.float32)
        margin = spec.load(tmp_path / "m.onnx")[1].margin
        sides = [(margin, margin), (margin, margin), (0, 0)]
        expected = run(proto, np.pad(x, sides, mode="symmetric").transpose(2, 0, 1)[None])[0].transpose(
            1, 2, 0
        )
        for tile in (8, 512):
            with Engine(tmp_path / "m.onnx", provider="cpu", tile=tile) as engine:
                assert engine._setup.model.adds_bicubic
                assert np.abs(engine.upscale(x).reshape(expected.shape) - expected).max() <= 1e-5


def test_the_name_of_the_output_stays() -> None:
    found = alone(spec.parse(spec.load(TEST_MODEL)[0]), 2)
    assert [o.name for o in found.graph.output] == ["hr"]
    onnx.checker.check_model(found, full_check=True)
