"""Scale, margin and period from the graph; graphs that cannot be tiled are refused by node and operator."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from srcnn_rt import Engine, ModelError
from srcnn_rt.image import bicubic
from srcnn_rt.models import analysis, spec
from tests.helpers.models import save, value


def conv(x: str, w: str, y: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, w], [y], f"conv_{y}", **attributes)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def analyse(path: Path) -> analysis.GraphFacts:
    return analysis.analyse(onnx.load(path))


@pytest.mark.parametrize("scale", range(2, 9))
def test_bicubic(scale: int) -> None:
    facts = analysis.analyse(bicubic.model(scale))
    assert (facts.kind, facts.scale, facts.margin, facts.period) == ("valid", scale, 2, 1)
    assert (facts.channels, facts.batch, facts.parameters) == (1, None, 25 * scale**2)
    assert facts.macs == pytest.approx(25, rel=0.01)


@pytest.mark.parametrize(("name", "margin"), [("srcnn-915-x2", 5), ("srcnn-915-x3", 4), ("srcnn-915-x4", 4)])
def test_bundled_models(name: str, margin: int) -> None:
    _, described = spec.load(name)
    # 2 for bicubic and ⌈6 / s⌉ for 9-1-5's shrink of 4 + 0 + 2 HR pixels.
    assert described.margin == margin == bicubic.margin_for(6, described.scale)
    assert described.period == 1


def test_dilation_stride_and_branches(tmp_path: Path) -> None:
    # 3x3 with dilation 2 is 5 wide: margin 2 each side.
    path = save(tmp_path / "a.onnx", [conv("lr", "w", "hr", dilations=[2, 2])], {"w": ones(1, 1, 3, 3)})
    assert (analyse(path).margin, analyse(path).scale) == (2, 1)
    # Stride 2 down, shuffle up: windows must start at even pixels.
    nodes = [
        conv("lr", "w", "c", strides=[2, 2]),
        helper.make_node("DepthToSpace", ["c"], ["hr"], blocksize=4),
    ]
    path = save(tmp_path / "b.onnx", nodes, {"w": ones(16, 1, 6, 6)})
    assert (analyse(path).scale, analyse(path).margin, analyse(path).period) == (2, 2, 2)
    # Two branches of one size: 3x3 then 3x3, and 5x5.
    nodes = [
        conv("lr", "w3", "a"),
        conv("a", "w3", "b"),
        conv("lr", "w5", "c"),
        helper.make_node("Add", ["b", "c"], ["s"]),
        helper.make_node("LeakyRelu", ["s"], ["hr"]),
    ]
    path = save(tmp_path / "c.onnx", nodes, {"w3": ones(1, 1, 3, 3), "w5": ones(1, 1, 5, 5)})
    assert analyse(path).margin == 2


@settings(max_examples=60, deadline=None)
@given(
    kernels=st.lists(st.sampled_from([1, 3, 5, 7, 9]), min_size=1, max_size=4),
    scale=st.integers(2, 4),
    place=st.integers(0, 3),
)
def test_margin_is_the_sum_of_shrinks(
    tmp_path_factory: pytest.TempPathFactory, kernels: list[int], scale: int, place: int
) -> None:
    """LR convolutions add whole LR pixels to the margin, HR ones parts of them; a remainder is refused."""
    place = min(place, len(kernels))
    nodes, weights, last = [], {}, "lr"
    for k, size in enumerate([*kernels, 0]):
        if k == place:
            weights["up"] = ones(scale**2, 1, 1, 1)
            nodes += [conv(last, "up", "p"), helper.make_node("DepthToSpace", ["p"], ["u"], blocksize=scale)]
            last = "u"
        if size:
            weights[f"w{k}"] = ones(1, 1, size, size)
            nodes.append(conv(last, f"w{k}", f"y{k}"))
            last = f"y{k}"
    nodes.append(helper.make_node("Identity", [last], ["hr"]))
    path = save(tmp_path_factory.mktemp("g") / "m.onnx", nodes, weights)
    before, after = (sum(k // 2 for k in part) for part in (kernels[:place], kernels[place:]))
    if after % scale:
        with pytest.raises(ModelError, match=r"not a whole multiple|same on both sides"):
            analyse(path)
    else:
        assert analyse(path).margin == before + after // scale


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        analyse(path)
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_be_tiled_is_refused_by_node_and_op(tmp_path: Path) -> None:
    w = {"w": ones(1, 1, 3, 3)}
    file = tmp_path / "m.onnx"
    node = helper.make_node
    same = conv("lr", "w", "hr", pads=[1, 1, 1, 1])
    pool = node("GlobalAveragePool", ["lr"], ["hr"], "squeeze")
    refused(
        save(file, [pool], {}), "'squeeze' (GlobalAveragePool)", "receptive field", "unbounded", "--no-tiling"
    )
    squeeze = [node("ReduceMean", ["lr"], ["m"], "mean", axes=[2, 3]), node("Mul", ["lr", "m"], ["hr"])]
    refused(save(file, squeeze, {}), "'mean' (ReduceMean)", "receptive field", "unbounded")
    norm = node("InstanceNormalization", ["lr", "a", "a"], ["hr"], "norm")
    refused(save(file, [norm], {"a": ones(1)}), "'norm' (InstanceNormalization)")
    layer = node("LayerNormalization", ["lr", "a"], ["hr"], "layer", axis=2)
    refused(save(file, [layer], {"a": ones(1)}), "'layer' (LayerNormalization)")
    soft = node("Softmax", ["lr"], ["hr"], "attention", axis=3)
    refused(save(file, [soft], {}), "'attention' (Softmax)")
    product = node("MatMul", ["lr", "lr"], ["hr"], "scores")
    refused(save(file, [product], {}), "'scores' (MatMul)", "along rows or columns", "unbounded")
    rows = node("MatMul", ["lr", "v"], ["hr"], "rows")
    refused(save(file, [rows], {"v": ones(8, 8)}), "'rows' (MatMul)", "unbounded")
    flat = [node("Reshape", ["lr", "t"], ["f"], "tokens"), node("Softmax", ["f"], ["hr"], "all", axis=2)]
    refused(save(file, flat, {"t": np.array([0, 1, -1])}), "'all' (Softmax)", "receptive field", "unbounded")
    refused(save(file, [node("Flatten", ["lr"], ["hr"])], {}), "the output must be (N, C, H, W)")
    corners = node("Resize", ["lr", "", "s"], ["hr"], "up", mode="linear",
                   coordinate_transformation_mode="align_corners")  # fmt: skip
    scales = {"s": np.array([1, 1, 2, 2], np.float32)}
    refused(save(file, [corners], scales), "'up' (Resize)", "align_corners")
    baked = node("Add", ["lr", "grid"], ["hr"], "position")
    refused(save(file, [baked], {"grid": ones(1, 1, 8, 8)}), "'position' (Add)", "varies over the image")
    computed = node("Conv", ["lr", "lr"], ["hr"], "dynamic")
    refused(save(file, [computed], {}), "'dynamic' (Conv)", "computed from the image")
    stack = node("Concat", ["lr", "lr"], ["hr"], "mosaic", axis=2)
    refused(save(file, [stack], {}), "'mosaic' (Concat)", "joins along rows")
    mirror = {"s": np.array([-1]), "e": np.array([-(2**31)]), "a": np.array([2]), "t": np.array([-1])}
    flip = node("Slice", ["lr", "s", "e", "a", "t"], ["hr"], "flip")
    refused(save(file, [flip], mirror), "'flip' (Slice)", "flips the image")
    wrap = node("Pad", ["lr", "p"], ["hr"], "wrap", mode="wrap")
    refused(save(file, [wrap], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}), "'wrap' (Pad)")
    custom = node("Warp", ["lr"], ["hr"], "warp", domain="my.ops")
    refused(save(file, [custom], {}), "'warp' (Warp)", "unknown")
    height = [node("Shape", ["lr"], ["s"]), node("Cast", ["s"], ["f"], to=1)]
    height += [node("Gather", ["f", "i"], ["h"]), node("Mul", ["lr", "h"], ["hr"], "by_height")]
    refused(save(file, height, {"i": np.array(2)}), "'by_height' (Mul)", "depends on the image's size")
    ceil = node("MaxPool", ["lr"], ["hr", "where"], "argmax", kernel_shape=[3, 3], pads=[1] * 4)
    refused(save(file, [ceil], {}), "'argmax' (MaxPool)", "indices")
    uneven = {"w": ones(1, 1, 2, 2)}
    refused(save(file, [conv("lr", "w", "hr")], uneven), "same on both sides, got 1")
    half = [node("SpaceToDepth", ["lr"], ["s"], blocksize=2), conv("s", "w", "hr")]
    save(file, half, {"w": ones(1, 4, 1, 1)})
    assert analyse(file).scale == Fraction(1, 2)
    with pytest.raises(ModelError, match="scale must be an integer, got 1/2"):
        spec.load(file)
    up = node("DepthToSpace", ["lr"], ["u"], blocksize=2)
    refused(save(file, [up, node("Add", ["lr", "u"], ["hr"])], {}, channels=4), "different sizes")
    refused(save(file, [conv("lr", "w", "c"), node("Add", ["lr", "c"], ["hr"])], w), "different sizes")
    outside = [node("Add", ["lr", "ghost"], ["hr"], "add")]
    refused(save(file, outside, {}), "'add' (Add)", "'ghost' has no source")
    cycle = [
        node("Add", ["lr", "b"], ["a"], "first"),
        node("Relu", ["a"], ["b"]),
        node("Identity", ["b"], ["hr"]),
    ]
    refused(save(file, cycle, {}), "'first' (Add)", "'b' has no source")
    assert analyse(save(file, [same], w)).margin == 1


def test_control_flow_is_refused(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["lr"], ["y"])], "branch", [], [out])
    nodes = [helper.make_node("If", ["yes"], ["hr"], "choice", then_branch=branch, else_branch=branch)]
    file = save(tmp_path / "m.onnx", nodes, {"yes": np.array(True)})
    refused(file, "'choice' (If)", "control flow")


def test_inputs_and_outputs_are_checked(tmp_path: Path) -> None:
    same = [helper.make_node("Identity", ["lr"], ["hr"])]
    file = tmp_path / "m.onnx"
    refused(save(file, same, {}, inputs=[value("lr", ["n", "h", "w"])]), "'lr' must have rank 4", "rank 3")
    refused(save(file, same, {}, inputs=[value("lr", ["n", "c", "h", "w"])]), "how many channels")
    wide = [value("lr", ["n", 1, "h", "w"], TensorProto.DOUBLE)]
    refused(save(file, same, {}, inputs=wide), "'lr' must be one of float32, uint8, float16, got DOUBLE")
    two = [value("lr", ["n", 1, "h", "w"]), value("mask", ["n", 1, "h", "w"])]
    refused(save(file, same, {}, inputs=two), "one input and one output", "got 'lr', ")
    flow = [helper.make_node("Constant", [], ["hr"], value=helper.make_tensor("v", 1, [1], [0.0]))]
    refused(save(file, flow, {}), "does not depend on the image")
    more = save(file, [conv("lr", "w", "hr")], {"w": ones(2, 1, 1, 1)})
    with pytest.raises(ModelError, match="returns 2 channels for 1"):
        spec.load(more)


def test_sizes_that_are_baked_in_are_refused(tmp_path: Path) -> None:
    sizes = {"s": np.array([1, 1, 64, 64])}
    node = helper.make_node("Resize", ["lr", "", "", "s"], ["hr"], "to64", mode="nearest")
    file = save(tmp_path / "m.onnx", [node], sizes)
    with pytest.raises(ModelError, match=r"integer|period|depends on the image's size"):
        spec.load(file)


def test_a_rational_scale_is_analysed(tmp_path: Path) -> None:
    node = helper.make_node("Resize", ["lr", "", "s"], ["hr"], "up", mode="linear")
    facts = analyse(save(tmp_path / "m.onnx", [node], {"s": np.array([1, 1, 1.5, 1.5], np.float32)}))
    assert (facts.scale, facts.period, facts.y.multiple) == (Fraction(3, 2), 2, 2)
    assert (facts.y.before, facts.y.after) == (1, 1)


def test_the_old_upsample(tmp_path: Path) -> None:
    """Opset 9, which torch wrote for years, is asymmetric."""
    node = helper.make_node("Upsample", ["lr", "s"], ["hr"], "up", mode="linear")
    path = save(tmp_path / "m.onnx", [node], {"s": np.array([1, 1, 2, 2], np.float32)})
    proto = onnx.load(path)
    proto.opset_import[0].version = 9
    onnx.save(proto, path)
    facts = analyse(path)
    assert (facts.scale, facts.y.before, facts.y.after) == (2, 0, 1)
    image = np.random.default_rng(0).random((30, 41)).astype(np.float32)
    results = [Engine(path, provider="cpu", tile=tile).upscale(image) for tile in (512, 8)]
    assert (results[0] == results[1]).all()


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match=r"huge\.onnx: 2147483648 bytes, an ONNX file holds at most"):
        spec.load(tmp_path / "huge.onnx")


def test_weights_in_a_file_beside_the_model(tmp_path: Path) -> None:
    """torch's exporter writes all models this way; damaged ones are refused."""
    path = save(tmp_path / "m.onnx", [conv("lr", "w", "hr")], {"w": ones(1, 1, 3, 3)})
    whole = spec.load(path)[1]
    proto = onnx.load(path)
    onnx.save_model(proto, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    found = spec.load(path)[1]
    assert (found.facts, found.parameters) == (whole.facts, whole.parameters)
    with pytest.raises(ModelError, match="'w' is kept in another file"):
        spec.load(path.read_bytes())  # bytes have no folder
    beside = tmp_path / "m.onnx.data"
    kept = beside.read_bytes()
    beside.write_bytes(kept[:20])
    with pytest.raises(ModelError, match=r"m\.onnx: weight 'w' .* 36 bytes from 0 on are needed, it has 20"):
        spec.load(path)
    beside.unlink()
    with pytest.raises(ModelError, match=r"kept in 'm\.onnx\.data' beside the model, which is not there"):
        spec.load(path)
    beside.write_bytes(kept + bytes(4))
    made = onnx.load(path, load_external_data=False)
    made.graph.initializer[0].dims[0] = 2  # the declared length does not match the shape
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="needs 72 bytes, its file holds 36"):
        spec.load(path)


def test_old_files_whose_weights_are_no_inputs(tmp_path: Path) -> None:
    """IR version 3 wanted them listed among the inputs, but every runtime runs files without that."""
    path = save(tmp_path / "m.onnx", [conv("lr", "w", "hr")], {"w": ones(1, 1, 3, 3)})
    proto = onnx.load(path)
    proto.ir_version = 3
    path.write_bytes(proto.SerializeToString())
    with Engine(path, provider="cpu", tile=8) as engine:
        got = engine.upscale(np.ones((20, 20), np.float32))
    assert (got == 9).all()


def test_metadata_must_agree_with_the_graph(tmp_path: Path) -> None:
    node = [helper.make_node("Identity", ["lr"], ["hr"])]
    file = tmp_path / "m.onnx"
    save(file, node, {}, metadata={"srcnn_rt.scale": "3"})
    with pytest.raises(
        ModelError, match=r"m\.onnx: metadata srcnn_rt\.scale must match the graph's, 1, got 3"
    ):
        spec.load(file)
    save(file, node, {}, metadata={"srcnn_rt.format": "9"})
    with pytest.raises(ModelError, match="format must be 1, got 9"):
        spec.load(file)
    save(file, node, {}, metadata={"srcnn_rt.training": "{"})
    with pytest.raises(ModelError, match="is not JSON"):
        spec.load(file)
    save(file, node, {}, metadata={"srcnn_rt.training": "[]"})
    with pytest.raises(ModelError, match="not a JSON object"):
        spec.load(file)
    save(file, node, {}, metadata={"somebody": "else's"})
    assert spec.load(file)[1].architecture == "unknown"
