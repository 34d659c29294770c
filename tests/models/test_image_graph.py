"""Image graphs give the same as the engine and as the reference implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from srcnn_rt import ArgumentError, Engine, ImageError, ModelError
from srcnn_rt.backends.untiled import load_whole
from srcnn_rt.image.info import Layout
from srcnn_rt.models import image_graph, prepare, spec
from srcnn_rt.models.spec import ModelSpec, ValueRange
from tests.conftest import TEST_MODEL, drawing
from tests.helpers import reference
from tests.helpers.image_graphs import Graph, assert_same, colour, image_of
from tests.helpers.models import network_of, normal, save, value

Maker = Callable[..., tuple[Path, dict[str, object]]]
node = helper.make_node
TYPES = (np.uint8, np.uint16, np.float32)
SIZES = ((1, 1), (2, 7), (21, 26))

# Operators that may be added, and the types in which ONNX Runtime's CUDA provider computes them from operator
# set 13 on (docs/OperatorKernels.md of ONNX Runtime). A node of another type would run on the CPU, with the
# image copied there and back. Shapes (int64) are computed on the CPU by design, which copies no image.
_ANY = frozenset({"uint8", "uint16", "float32", "float16", "int64"})
_REAL = frozenset({"float32", "float16"})
OPERATORS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("Cast", "Concat", "Gather", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"), _ANY
    ),
    "Reshape": _ANY,
    **dict.fromkeys(("Add", "Div", "Max", "Mul", "Sub"), frozenset({"float32", "float16", "int64"})),
    **dict.fromkeys(("Clip", "Conv", "DepthToSpace", "Greater", "GreaterOrEqual", "Round"), _REAL),
    "Where": frozenset({"bool", "float32"}),
}


@cache
def program_for(model: str | Path, model_range: str | None = None) -> tuple[bytes, ModelSpec]:
    data, found = load_whole(model)
    if model_range:
        found = replace(found, range=ValueRange.parse(model_range))
    if np.isnan(found.facts.macs):
        return data, found
    ready = prepare.build_program(data, found)
    return ready.data, ready.spec


def build(
    model: str | Path,
    channels: int,
    dtype: type,
    source: image_graph.Source = "whole",
    *,
    model_range: str | None = None,
    bands: bool = False,
) -> Graph:
    data, found = program_for(model, model_range)
    layout = Layout.of(channels, bands=bands)
    proto = image_graph.build_image_graph(spec.parse(data), found, layout, np.dtype(dtype), source=source)
    onnx.checker.check_model(proto, full_check=True)
    check_operators(proto)
    return Graph(proto, found, layout)


def check_operators(proto: onnx.ModelProto) -> None:
    """Check every added node against the table of operators that CUDA supports."""
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    kinds = {
        v.name: v.type.tensor_type.elem_type
        for v in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    kinds |= {t.name: t.data_type for t in inferred.initializer}
    own = [n for n in inferred.node if n.name.startswith(image_graph.PREFIX)]
    assert len(own) >= 2
    for n in own:
        assert n.op_type in OPERATORS, n.op_type
        for name in (*n.input, *(n.output if n.op_type == "Cast" else ())):
            kind = helper.tensor_dtype_to_np_dtype(kinds[name]).name
            assert kind in OPERATORS[n.op_type], (n.name, kind)


def luminance(path: Path, **more: object) -> Path:
    """Write a padded x2 luminance model."""
    rng = np.random.default_rng(1)
    weights = {"w": normal(rng, 6, 1, 3, 3), "v": normal(rng, 4, 6, 3, 3)}
    nodes = [
        node("Conv", ["lr", "w"], ["a"], pads=[1] * 4), node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "v"], ["c"], pads=[1] * 4), node("DepthToSpace", ["c"], ["hr"], blocksize=2),
    ]  # fmt: skip
    return save(path, nodes, weights, **more)


def blocks(path: Path) -> Path:
    """Write a model that takes multiples of 4 only."""
    rng = np.random.default_rng(2)
    nodes = [
        node("SpaceToDepth", ["lr"], ["a"], blocksize=4), node("Conv", ["a", "w"], ["b"], pads=[1] * 4),
        node("DepthToSpace", ["b"], ["hr"], blocksize=4),
    ]  # fmt: skip
    return save(path, nodes, {"w": normal(rng, 16, 16, 3, 3)})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | Path]:
    folder = tmp_path_factory.mktemp("pixels")
    return {
        "915": TEST_MODEL,
        "915-paper": f"{TEST_MODEL}-paper",
        "955-rgb": "srcnn-955-rgb-x3",
        "bicubic": "bicubic-x3",
        "deblur": "srcnn-955-deblur-x1",
        "padded": luminance(folder / "padded.onnx"),
        "padded-rgb": colour(folder / "rgb.onnx"),
        "untold": luminance(folder / "untold.onnx", metadata=None),
        "untold-rgb": colour(folder / "untold-rgb.onnx", metadata=None),
        "five": colour(folder / "five.onnx", 5),
        "blocks": blocks(folder / "blocks.onnx"),
    }


CASES = [
    *(("915", c) for c in (1, 2, 3, 4, 5)),
    *(("915-paper", c) for c in (1, 2, 3, 4, 5)),
    *(("955-rgb", c) for c in (1, 2, 3, 4)),
    *(("bicubic", c) for c in (1, 3, 4)),
    *(("padded", c) for c in (1, 2, 3, 4)),
    *(("padded-rgb", c) for c in (1, 2, 3, 4)),
    *(("blocks", c) for c in (1, 3, 4)),
    *(("deblur", c) for c in (3, 4)),
    ("five", 5),
]


# Another order of float32 sums changes less than a code value of 8 bits, but not of 16. The engine itself is
# that far from the exact sum, and deblurring amplifies it.
def min_identical(name: str, dtype: type) -> float:
    if dtype is np.uint16:
        return 0.96 if name == "deblur" else 0.99
    return 0.999


@pytest.mark.parametrize(("name", "channels"), CASES)
@pytest.mark.parametrize("dtype", TYPES)
def test_whole_images_equal_the_engine(
    models: dict[str, str | Path], name: str, channels: int, dtype: type
) -> None:
    graph = build(models[name], channels, dtype)
    with Engine(models[name], provider="cpu", tile=None) as engine:
        for shape in SIZES:
            image = image_of(shape, channels, dtype)
            got = graph.run(image=image[None])[0]
            assert_same(
                got,
                engine.upscale(image, layout="HWC" if image.ndim == 3 else "HW"),
                graph.layout,
                minimum=min_identical(name, dtype),
            )


@pytest.mark.parametrize(("name", "channels"), CASES)
@pytest.mark.parametrize("source", ["windows", "gather"])
def test_windows_equal_the_engine(
    models: dict[str, str | Path], name: str, channels: int, source: image_graph.Source
) -> None:
    with Engine(models[name], provider="cpu", tile=512) as engine:
        for dtype, shape in ((np.uint8, (30, 45)), (np.float32, (19, 9)), (np.uint16, (3, 1))):
            graph = build(models[name], channels, dtype, source)
            image = image_of(shape, channels, dtype)
            got = graph.tiled(image, 16)
            assert_same(got, engine.upscale(image), graph.layout, minimum=min_identical(name, dtype))


@pytest.mark.parametrize("channels", [3, 4])
def test_bands_are_each_a_gray_image(channels: int) -> None:
    image = image_of((20, 17), channels, np.uint8)
    graph = build(TEST_MODEL, channels, np.uint8, bands=True)
    with Engine(TEST_MODEL, provider="cpu") as engine:
        assert_same(graph.run(image=image[None])[0], engine.upscale(image, bands=True), graph.layout)


@pytest.mark.parametrize(
    "text", ["0..255", "-1..1", "mean=0.4,0.5,0.6 std=0.2,0.3,0.25", "mean=0.5 std=0.25"]
)
def test_value_ranges(models: dict[str, str | Path], text: str) -> None:
    for name in ("untold-rgb",) if text.count(",") else ("untold-rgb", "untold"):
        with Engine(models[name], provider="cpu", tile=None, model_range=text) as engine:
            for channels, dtype in ((1, np.uint8), (2, np.float32), (3, np.float32), (4, np.uint8)):
                graph = build(models[name], channels, dtype, model_range=text)
                image = image_of((12, 15), channels, dtype)
                assert_same(graph.run(image=image[None])[0], engine.upscale(image), graph.layout)


def test_luminance_of_which_no_range_is_told(models: dict[str, str | Path]) -> None:
    """The graph and the engine feed it in studio swing, for gray and colour."""
    swing = ValueRange((219 / 255,), (16 / 255,))
    assert program_for(models["untold"])[1].range == swing
    assert program_for(models["untold-rgb"])[1].range == ValueRange()
    with Engine(models["untold"], provider="cpu", tile=None) as engine:
        assert engine.spec.range == swing
        for channels in (1, 2, 3, 4):
            graph = build(models["untold"], channels, np.uint8)
            image = image_of((12, 15), channels, np.uint8)
            assert_same(graph.run(image=image[None])[0], engine.upscale(image), graph.layout)


def test_images_of_one_batch_are_each_on_their_own() -> None:
    for channels in (1, 2, 3, 4, 5):
        graph = build(TEST_MODEL, channels, np.uint8)
        images = np.stack([image_of((9, 14), channels, np.uint8, seed) for seed in range(3)])
        together = graph.run(image=images)
        for one, result in zip(images, together, strict=True):
            assert_same(result, graph.run(image=one[None])[0], graph.layout)


@pytest.mark.parametrize("kind", ["float16", "uint8"])
def test_models_of_other_types(tmp_path: Path, kind: str) -> None:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    ends = [value(n, ["n", 3, "h", "w"], number) for n in ("lr", "hr")]
    real = TensorProto.FLOAT16 if kind == "float16" else TensorProto.FLOAT
    weight = np.full((3, 1, 3, 3), 1 / 9, np.float16 if kind == "float16" else np.float32)
    nodes = [
        node("Cast", ["lr"], ["f"], to=real), node("Conv", ["f", "w"], ["c"], pads=[1] * 4, group=3),
        node("Cast", ["c"], ["hr"], to=number),
    ]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, {"w": weight}, inputs=ends[:1], outputs=ends[1:])
    image = image_of((14, 11), 3, np.uint8)
    # On the CPU ONNX Runtime removes some casts to float16 and back.
    minimum = 0.9 if kind == "float16" else 0.999
    with Engine(path, provider="cpu", tile=None) as engine:
        for source in ("whole", "windows"):
            graph = build(path, 3, np.uint8, source)
            assert_same(graph.run(image=image[None])[0], engine.upscale(image), graph.layout, minimum=minimum)


def test_models_of_fixed_size_and_batch(tmp_path: Path) -> None:
    sizes = [value(n, [1, 1, k * 12, k * 16]) for n, k in (("lr", 1), ("hr", 2))]
    path = luminance(tmp_path / "m.onnx", inputs=sizes[:1], outputs=sizes[1:])
    with Engine(path, provider="cpu") as engine:
        for channels in (1, 2, 3, 5):
            graph = build(path, channels, np.uint8)
            dims = [d.dim_value for d in graph.proto.graph.input[0].type.tensor_type.shape.dim]
            assert dims == [1, 12, 16, channels]
            image = image_of((12, 16), channels, np.uint8)
            assert_same(graph.run(image=image[None])[0], engine.upscale(image), graph.layout)
            gathered = build(path, channels, np.uint8, "gather")
            larger = image_of((25, 31), channels, np.uint8)
            assert_same(gathered.tiled(larger, 16), engine.upscale(larger), graph.layout)


def test_a_batch_of_several_is_not_gathered(tmp_path: Path) -> None:
    path = luminance(
        tmp_path / "m.onnx", inputs=[value("lr", [4, 1, "h", "w"])], outputs=[value("hr", [4, 1, "a", "b"])]
    )
    with pytest.raises(ModelError, match="takes 4 windows per run; gather needs a model that takes one"):
        build(path, 1, np.uint8, "gather")


def test_a_model_of_unbounded_reach_runs_whole(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["lr", "w"], ["c"], pads=[1] * 4), node("GlobalAveragePool", ["c"], ["g"]),
        node("Mul", ["c", "g"], ["m"]), node("DepthToSpace", ["m"], ["hr"], blocksize=2),
    ]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, {"w": np.full((4, 1, 3, 3), 0.2, np.float32)})
    with Engine(path, provider="cpu", tile=None) as engine:
        for channels in (1, 3, 4):
            image = image_of((13, 10), channels, np.float32)
            graph = build(path, channels, np.float32)
            assert_same(graph.run(image=image[None])[0], engine.upscale(image), graph.layout)


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_operator_sets_and_names_of_the_network(tmp_path: Path, opset: int) -> None:
    """The model uses the names of the image path too, also in the subgraph of an If."""
    there = helper.make_graph([node("Relu", ["rows"], ["image.0"])], "t", [], [value("image.0", None)])
    other = helper.make_graph([node("Neg", ["rows"], ["other"])], "e", [], [value("other", None)])
    nodes = [
        node("Conv", ["image", "result"], ["rows"], pads=[1] * 4),
        node("If", ["yes"], ["pixels.conv.out"], then_branch=there, else_branch=other),
        node("Conv", ["pixels.conv.out", "result"], ["columns"], "pixels", pads=[1] * 4),
    ]
    weights = {"result": normal(np.random.default_rng(0), 1, 1, 3, 3), "yes": np.array(True)}
    path = save(
        tmp_path / "m.onnx", nodes, weights,
        inputs=[value("image", ["n", 1, "h", "w"])], outputs=[value("columns", ["n", 1, "h", "w"])],
    )  # fmt: skip
    proto = onnx.load(path)
    proto.opset_import[0].version = opset
    data, found = proto.SerializeToString(), spec.describe_untiled(proto.SerializeToString(), "m", 1)
    (tmp_path / "old.onnx").write_bytes(data)
    image = image_of((9, 8), 3, np.float32)
    made = image_graph.build_image_graph(proto, found, Layout.of(3, bands=True), image.dtype, source="whole")
    assert proto.SerializeToString() == data
    graph = Graph(made, found, Layout.of(3, bands=True))
    with Engine(tmp_path / "old.onnx", provider="cpu", tile=None) as engine:
        assert_same(graph.run(image=image[None])[0], engine.upscale(image, bands=True), graph.layout)


def test_what_is_refused() -> None:
    data, found = program_for(TEST_MODEL)
    proto = spec.parse(data)
    with pytest.raises(ArgumentError, match="an image must be uint8, uint16 or float32, got int16"):
        image_graph.build_image_graph(proto, found, Layout.of(1), np.dtype(np.int16))
    with pytest.raises(ArgumentError, match="source must be one of windows, whole, gather, got 'tiles'"):
        image_graph.build_image_graph(proto, found, Layout.of(1), np.dtype(np.uint8), source="tiles")
    with pytest.raises(ImageError, match="a colour model takes gray or RGB images, got 5 bands"):
        build("srcnn-955-rgb-x3", 5, np.uint8)
    proto.opset_import[0].version = 99
    with pytest.raises(ModelError, match="operator set 99 is not supported"):
        image_graph.build_image_graph(proto, found, Layout.of(1), np.dtype(np.uint8))


# --- bitwise, and the reference implementation --------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_integers_are_bitwise(integer_model: Maker, scale: int, channels: int) -> None:
    path, _ = integer_model(scale, (9, 1, 5), channels)
    rng = np.random.default_rng(scale)
    with Engine(path, provider="cpu", data_range="dtype") as engine:
        for shape in ((1, 1), (3, 20), (26, 31)):
            for count in {1, channels}:
                if count == 1 and channels == 3:
                    continue  # a third is not exact
                image = rng.integers(0, 4, (*shape, count)).astype(np.float32)
                expected = engine.upscale(image)
                assert (build(path, count, np.float32).run(image=image[None])[0] == expected).all()
                for source in ("windows", "gather"):
                    assert (build(path, count, np.float32, source).tiled(image, 8) == expected).all()


def oracle(image: np.ndarray, name: str) -> np.ndarray:
    network, channels = network_of(name), image.shape[2]
    if channels == 1:
        return network.image(image)
    if channels == 3:
        return reference.upscale_rgb(image, network)
    return reference.upscale_with_alpha(image, network, spec.load(name)[1].margin)


@pytest.mark.parametrize("form", ["", "-paper"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", [2, 3])
def test_the_oracle(channels: int, scale: int, form: str) -> None:
    name = f"srcnn-915-x{scale}{form}"
    image = drawing(17, 14, channels)
    if channels == 4:
        image[:6, :, 3] = 1.0
        image[12:, :, 3] = 0.0
    expected = oracle(image, name)
    got = build(name, channels, np.float32).run(image=image[None].astype(np.float32))[0]
    # Where alpha is small, a float32 rounding is divided by almost nothing.
    solid = expected[..., 3] > 0.05 if channels == 4 else np.ones(expected.shape[:2], bool)
    assert np.abs(got - expected)[solid].max() < 1e-4
    if channels == 4:
        assert np.abs(got[..., 3] - expected[..., 3]).max() < 1e-5
        assert (got[..., :3][expected[..., 3] < 1e-7] == 0).all()
    eight = reference.quantise(image, np.uint8)
    expected8 = reference.quantise(oracle(eight / 255, name), np.uint8)
    got8 = build(name, channels, np.uint8).run(image=eight[None])[0]
    apart = np.abs(got8.astype(int) - expected8)
    if channels == 4:
        apart = apart[expected8[..., 3] > 0]
    assert apart.max() <= 1
    assert (apart == 0).mean() > 0.999


@pytest.mark.parametrize("name", [TEST_MODEL, f"{TEST_MODEL}-paper", "srcnn-955-rgb-x3"])
@pytest.mark.parametrize("softness", [255, 15])
def test_a_cut_out_has_no_fringe(name: str, softness: int) -> None:
    level = (200, 60, 30)
    y, x = np.mgrid[:40, :40]
    image = np.zeros((40, 40, 4), np.uint8)
    image[..., 3] = np.clip((13 - np.hypot(y - 20, x - 20)) * softness + 128, 0, 255)
    image[..., :3] = np.where(image[..., 3:] > 0, level, (0, 255, 0))
    out = build(name, 4, np.uint8).run(image=image[None])[0].astype(int)
    assert np.abs(out[..., :3][out[..., 3] >= 16] - level).max() <= 3
    assert (out[..., :3][out[..., 3] == 0] == 0).all()


# --- shape of the graph --------------------------------------------------------------------


def test_the_bus_carries_bytes_and_nothing_is_turned_for_nothing() -> None:
    for source in ("windows", "gather"):
        for channels in (1, 3, 4):
            graph = build(TEST_MODEL, channels, np.uint8, source).proto.graph
            own = [n.op_type for n in graph.node if n.name.startswith(image_graph.PREFIX)]
            assert own.count("Transpose") == (0 if channels == 1 else 2)
            assert own.count("Cast") == 2
            assert "Shape" not in own
            assert {v.type.tensor_type.elem_type for v in (graph.input[0], graph.output[0])} == {
                TensorProto.UINT8
            }
    graph = build(TEST_MODEL, 3, np.uint8).proto.graph
    (first,) = (n for n in graph.node if "image" in n.input)
    (last,) = (n for n in graph.node if "result" in n.output)
    assert (first.op_type, last.op_type) == ("Cast", "Cast")


# --- mutants -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_margin_one_short_is_caught(integer_model: Maker, side: str, channels: int) -> None:
    path, _ = integer_model(2)
    image = np.random.default_rng(3).integers(0, 4, (30, 30, channels)).astype(np.float32)
    if channels == 4:
        image[..., 3] = image[..., 3] > 1
    graph = build(path, channels, np.float32, "windows")

    def spoil(windows: np.ndarray) -> None:
        match side:
            case "top":
                windows[:, 0] = windows[:, 1]
            case "bottom":
                windows[:, -1] = windows[:, -2]
            case "left":
                windows[:, :, 0] = windows[:, :, 1]
            case "right":
                windows[:, :, -1] = windows[:, :, -2]

    good = graph.tiled(image, 8)
    assert (graph.tiled(image, 8, lambda windows: None) == good).all()
    assert (graph.tiled(image, 8, spoil) != good).any()


def test_a_luminance_without_its_offset_is_caught() -> None:
    """The network is fed from 0 to 219/255 instead of studio swing."""
    name = f"{TEST_MODEL}-paper"
    image = drawing(15, 12)
    good = oracle(image, name)
    data, found = program_for(name)
    fed = image[None].astype(np.float32)
    for values, right in ((found.range, True), (replace(found.range, offset=(0.0,)), False)):
        described = replace(found, range=values)
        made = image_graph.build_image_graph(
            spec.parse(data), described, Layout.of(3), np.dtype(np.float32), source="whole"
        )
        got = Graph(made, described, Layout.of(3)).run(image=fed)[0]
        assert (np.abs(got - good).max() <= 1e-4) == right


def test_luminance_of_other_weights_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes a network that is added to bicubic."""
    image = drawing(15, 12)
    fed = image[None].astype(np.float32)
    monkeypatch.setattr(image_graph.color, "LUMA_WEIGHTS", (1 / 3, 1 / 3, 1 / 3))
    for name in (TEST_MODEL, f"{TEST_MODEL}-paper"):
        assert np.abs(build(name, 3, np.float32).run(image=fed)[0] - oracle(image, name)).max() > 1e-4


def test_a_sum_without_its_bicubic_is_caught() -> None:
    data, found = program_for(TEST_MODEL)
    assert found.adds_bicubic
    for channels in (1, 3):
        image, layout = drawing(15, 12, channels), Layout.of(channels)
        described = replace(found, adds_bicubic=False)
        made = image_graph.build_image_graph(
            spec.parse(data), described, layout, np.dtype(np.float32), source="whole"
        )
        got = Graph(made, described, layout).run(image=image[None].astype(np.float32))[0]
        assert np.abs(got - oracle(image, TEST_MODEL)).max() > 1e-2


def test_colour_that_is_not_premultiplied_is_caught() -> None:
    image = image_of((15, 12), 4, np.uint8)
    graph = build(TEST_MODEL, 4, np.uint8)
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    weights = {t.name for t in proto.graph.initializer}
    first = next(n for n in proto.graph.node if n.op_type == "Mul" and not weights & set(n.input))
    first.op_type = "Identity"
    del first.input[1:]
    with Engine(TEST_MODEL, provider="cpu") as engine:
        expected = engine.upscale(image)
    assert_same(graph.run(image=image[None])[0], expected, graph.layout)
    with pytest.raises(AssertionError):
        assert_same(Graph(proto, graph.spec, graph.layout).run(image=image[None])[0], expected, graph.layout)


def test_halves_are_rounded_to_even(tmp_path: Path) -> None:
    """The mean of two neighbours ends in .5 in half of the cases."""
    weight = np.zeros((1, 1, 1, 3), np.float32)
    weight[..., 1:] = 0.5
    path = save(
        tmp_path / "m.onnx", [node("Conv", ["lr", "w"], ["hr"], pads=[0, 1, 0, 1])], {"w": weight},
        metadata={"srcnn_rt.range": "0..255"},
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 1), np.uint8)
    exact = (image + np.pad(image[:, 1:], [(0, 0), (0, 1), (0, 0)]).astype(float)) / 2
    graph = build(path, 1, np.uint8, "windows")
    assert (exact % 1 == 0.5).sum() > 20
    assert (graph.run(image=image[None])[0] == np.rint(exact)).all()
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    (rounding,) = (n for n in proto.graph.node if n.op_type == "Round")
    up = node("Add", [rounding.input[0], "half"], ["up"])
    at = list(proto.graph.node).index(rounding)
    proto.graph.node.insert(at, up)
    proto.graph.node[at + 1].op_type = "Floor"
    proto.graph.node[at + 1].input[0] = "up"
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    assert (Graph(proto, graph.spec, graph.layout).run(image=image[None])[0] != np.rint(exact)).any()
