"""Scale, margin and period from the graph; what cannot be tiled is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from srcnn_rt import ModelError, bicubic, graph, spec
from srcnn_rt.graph import Step
from tests.models import save, value


def conv(x: str, w: str, y: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, w], [y], f"conv_{y}", **attributes)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def analyse(path: Path) -> graph.GraphFacts:
    return graph.analyse(onnx.load(path))


@pytest.mark.parametrize("scale", range(2, 9))
def test_bicubic(scale: int) -> None:
    facts = graph.analyse(bicubic.model(scale))
    assert (facts.scale, facts.margin, facts.period, facts.channels, facts.batch) == (scale, 2, 1, 1, None)
    assert facts.parameters == 25 * scale**2


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
    """LR convolutions count whole, HR ones by the scale; what is left over is no legal model."""
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
        with pytest.raises(ModelError, match=r"no whole multiple|same on both sides"):
            analyse(path)
    else:
        assert analyse(path).margin == before + after // scale


def test_step_size_and_need_agree() -> None:
    """What a step says it reads is just what it is given."""
    for step in (
        Step(kernel=5),
        Step(kernel=3, stride=2),
        Step(up=3),
        Step(start=2, end=3),
        Step(up=2, start=1),
    ):
        for n in range(8, 40):
            out = step.size(n)
            lo, hi = step.need(0, out)
            assert lo >= 0
            assert hi <= n
            assert step.size(hi + step.end) >= out


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        analyse(path)
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_be_tiled_is_refused_by_node_and_op(tmp_path: Path) -> None:
    w = {"w": ones(1, 1, 3, 3)}
    file = tmp_path / "m.onnx"
    refused(save(file, [conv("lr", "w", "hr", pads=[1, 1, 1, 1])], w), "conv_hr", "Conv", "pads")
    refused(save(file, [conv("lr", "w", "hr", auto_pad="SAME_UPPER")], w), "Conv", "pads")
    pool = helper.make_node("GlobalAveragePool", ["lr"], ["hr"], "squeeze")
    refused(save(file, [pool], {}), "'squeeze' (GlobalAveragePool)", "reach")
    norm = helper.make_node("InstanceNormalization", ["lr", "a", "a"], ["hr"], "norm")
    refused(save(file, [norm], {"a": ones(1)}), "'norm' (InstanceNormalization)")
    soft = helper.make_node("Softmax", ["lr"], ["hr"], "attention", axis=3)
    refused(save(file, [soft], {}), "'attention' (Softmax)")
    baked = helper.make_node("Add", ["lr", "grid"], ["hr"], "position")
    refused(save(file, [baked], {"grid": ones(1, 1, 8, 8)}), "'position' (Add)", "varies over the picture")
    computed = helper.make_node("Conv", ["lr", "lr"], ["hr"], "dynamic")
    refused(save(file, [computed], {}), "computed weights")
    stack = helper.make_node("Concat", ["lr", "lr"], ["hr"], "mosaic", axis=2)
    refused(save(file, [stack], {}), "'mosaic' (Concat)")
    uneven = {"w": ones(1, 1, 2, 2)}
    refused(save(file, [conv("lr", "w", "hr")], uneven), "same on both sides, got 1")
    refused(save(file, [conv("lr", "w", "hr")], {"w": ones(1, 1, 3, 5)}), "agree on both axes")
    half = [helper.make_node("SpaceToDepth", ["lr"], ["s"], blocksize=2), conv("s", "w", "hr")]
    refused(save(file, half, {"w": ones(1, 4, 1, 1)}), "whole number, got 1/2")
    fixed = {"s": np.array([0]), "e": np.array([64]), "a": np.array([2])}
    cut = helper.make_node("Slice", ["lr", "s", "e", "a"], ["hr"], "cut")
    refused(save(file, [cut], fixed), "'cut' (Slice)", "[0:64:1]")
    scales = [
        helper.make_node("DepthToSpace", ["lr"], ["u"], blocksize=2),
        helper.make_node("Add", ["lr", "u"], ["hr"]),
    ]
    refused(save(file, scales, {}), "different scales")
    sizes = [conv("lr", "w", "c"), helper.make_node("Add", ["lr", "c"], ["hr"])]
    refused(save(file, sizes, w), "different sizes")


def test_inputs_and_outputs_are_checked(tmp_path: Path) -> None:
    same = [helper.make_node("Identity", ["lr"], ["hr"])]
    file = tmp_path / "m.onnx"
    out = [value("hr", ["n", 1, "h", "w"])]
    refused(save(file, same, {}, inputs=[value("lr", ["n", "h", "w"])]), "'lr' must have rank 4", "rank 3")
    refused(save(file, same, {}, inputs=[value("lr", ["n", 1, 64, 64])]), "leave H and W free, got 64 x 64")
    half = [value("lr", ["n", 1, "h", "w"], TensorProto.FLOAT16)]
    refused(save(file, same, {}, inputs=half), "must be float32, got FLOAT16")
    refused(save(file, same, {}, channels=2), "one or three channels", "got 2")
    refused(save(file, same, {}, inputs=[value("lr", ["n", 3, "h", "w"])], outputs=out), "3 in and 1 out")
    two = [value("lr", ["n", 1, "h", "w"]), value("mask", ["n", 1, "h", "w"])]
    refused(save(file, same, {}, inputs=two), "one input and one output", "got 2 and 1")
    outside = [helper.make_node("Add", ["lr", "ghost"], ["hr"], "add")]
    refused(save(file, outside, {}), "'ghost' has no source")


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [conv("lr", "w", "hr")], {"w": ones(1, 1, 3, 3)})
    proto = onnx.load(path)
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ModelError, match="'w' is kept in another file"):
        spec.load(path)


def test_metadata_must_agree_with_the_graph(tmp_path: Path) -> None:
    node = [helper.make_node("Identity", ["lr"], ["hr"])]
    file = tmp_path / "m.onnx"
    save(file, node, {}, metadata={"srcnn_rt.scale": "3"})
    with pytest.raises(ModelError, match=r"m\.onnx: metadata say scale 3, the graph says 1"):
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
