"""Hostile graphs: wrong sizes, constants of terabytes, too many nodes, invalid graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from srcnn_rt import Engine
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.analysis import shape_folding, validation
from tests.helpers import models
from tests.helpers.hostile import Proto, convolution, limited, proto, refused

node = helper.make_node


# Sizes.


def test_a_weight_holds_what_its_shape_says(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for dims, rule in (
        ([1, 1, 3, 4], "weight 'w' of shape 1x1x3x4 needs 48 bytes, its file holds 36"),
        ([1, 1, 3, 2], "needs 24 bytes, its file holds 36"),
        ([10**6, 10**6, 3, 3], "needs 36000000000000 bytes"),
        ([2**62, 2**62, 3, 3], "bytes, its file holds 36"),
        ([1, 1, -3, -3], "weight 'w' has a negative dimension: 1x1x-3x-3"),
        ([], "needs 4 bytes"),
    ):
        made = convolution()
        del made.graph.initializer[0].dims[:]
        made.graph.initializer[0].dims.extend(dims)
        refused(path, made, rule)


def test_numbers_in_fields_are_counted_too(tmp_path: Path) -> None:
    made = convolution()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.float_data.extend([1.0] * 8)
    refused(tmp_path / "m.onnx", made, "weight 'w' of shape 1x1x3x3 needs 9 numbers, its file holds 8")
    weight.float_data.append(1.0)
    assert spec.load(made.SerializeToString())[1].margin == 1
    for kind, name in ((TensorProto.STRING, "STRING"), (TensorProto.COMPLEX64, "COMPLEX64"), (77, "77")):
        weight.data_type = kind
        refused(tmp_path / "m.onnx", made, f"weight 'w' is of type {name}, not of numbers")


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16]
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(tmp_path: Path, kind: int, value: float) -> None:
    made = convolution()
    made.graph.initializer[0].CopyFrom(helper.make_tensor("w", kind, [1, 1, 3, 3], [1.0] * 8 + [value]))
    refused(tmp_path / "m.onnx", made, "weight 'w': weights must be finite, got NaN or infinity")


def test_a_bound_may_be_infinite(tmp_path: Path) -> None:
    for value, fine in ((np.inf, True), (np.nan, False)):
        nodes = [node("Clip", ["lr", "low", "high"], ["hr"], "clip")]
        made = proto(nodes, {"low": np.float32(0), "high": np.float32(value)})
        if fine:
            with Engine(made.SerializeToString(), provider="cpu", model_range="0..1") as engine:
                assert engine.upscale(np.full((9, 9), 7, np.float32)).max() == 7
        else:
            refused(tmp_path / "m.onnx", made, "weights must be finite")


MANY = 10**12
INTS = {"shape": [10**6, 10**6], "repeats": [MANY], "many": MANY, "one": [1], "zero": 0, "step": 1}
BOMBS: dict[str, list[onnx.NodeProto]] = {
    "ConstantOfShape": [node("ConstantOfShape", ["shape"], ["k"], "bomb")],
    "Expand": [node("Expand", ["one", "shape"], ["k"], "bomb")],
    "Tile": [node("Tile", ["one", "repeats"], ["k"], "bomb")],
    "Range": [node("Range", ["zero", "many", "step"], ["k"], "bomb")],
    "OneHot": [node("OneHot", ["one", "many", "pair"], ["k"], "bomb")],
    "Pad": [node("Pad", ["one", "both"], ["k"], "bomb")],
    "Resize": [node("Resize", ["image", "", "", "sizes"], ["k"], "bomb")],
    "RandomNormal": [node("RandomNormal", [], ["k"], "bomb", shape=[10**6, 10**6])],
    "MatMul": [node("MatMul", ["column", "row"], ["k"], "bomb")],
    "broadcast": [node("Add", ["column", "row"], ["k"], "bomb")],
    "doubling": [
        node(
            "Concat", [f"d{i}" if i else "one", f"d{i}" if i else "one"], [f"d{i + 1}"], f"double{i}", axis=0
        )
        for i in range(40)
    ]
    + [node("Identity", ["d40"], ["k"])],
}


@pytest.mark.parametrize("name", BOMBS)
def test_constants_too_large_to_be_computed_are_not(tmp_path: Path, name: str) -> None:
    """10^12 numbers, asked for by some hundred bytes; used by nothing, and by the output."""
    values = {k: np.array(v, np.int64) for k, v in INTS.items()}
    values |= {
        "pair": np.array([0, 1]), "both": np.array([MANY, 0]), "sizes": np.array([1, 1, 10**6, 10**6]),
        "image": np.ones((1, 1, 2, 2), np.float32), "row": np.ones((1, 10**4), np.float32),
        "column": np.ones((10**4, 1), np.float32),
    }  # fmt: skip
    used = {n for made in BOMBS[name] for n in made.input if n}
    nodes = [*BOMBS[name], node("Relu", ["lr"], ["hr"])]
    made = proto(nodes, {k: v for k, v in values.items() if k in used})
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    tiled, whole, prepared = limited(path)
    assert tiled == prepared
    assert tiled.startswith(str(path))
    if name not in ("Resize", "RandomNormal"):  # the analysis computes none of these, whatever their size
        assert f"a constant may hold at most {shape_folding.LARGEST} numbers" in tiled
        assert "may hold at most" in whole
    else:
        assert "'bomb'" in tiled


def test_many_constants_of_a_legal_size_are_too_much_in_all(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", ["shape"], [f"k{i}"], f"fill{i}") for i in range(60)]
    made = proto([*nodes, node("Relu", ["lr"], ["hr"])], {"shape": np.array([shape_folding.LARGEST])})
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    tiled, whole, _ = limited(tmp_path / "m.onnx")
    assert f"constants may cost at most {shape_folding.CONSTANTS} numbers in all" in tiled
    assert "in all" in whole


def test_constants_by_the_images_size_are_small(tmp_path: Path) -> None:
    """A grid of positions has a value per pixel of the image, and is computed at every traced size."""
    nodes = [
        node("Shape", ["lr"], ["size"], "size"),
        node("ConstantOfShape", ["size"], ["grid"], "grid"),
        node("Add", ["lr", "grid"], ["hr"], "add"),
    ]
    refused(tmp_path / "m.onnx", proto(nodes), "node 'grid' (ConstantOfShape): ")


def test_tensors_of_the_image_are_bounded(tmp_path: Path) -> None:
    """Tensors computed from the image would be allocated when a window runs."""
    cases = {
        "up": (
            [node("Resize", ["lr", "", "scales"], ["hr"], "up", mode="nearest")],
            {"scales": np.array([1, 1, 1000, 1000], np.float32)},
            "a factor must be over 0 and at most 64, got 1000",
        ),
        "pad": (
            [
                node("Pad", ["lr", "pads"], ["wide"], "pad"),
                node("Slice", ["wide", "from", "to", "axes"], ["hr"], "cut"),
            ],
            {
                "pads": np.array([0, 0, 10**5, 10**5, 0, 0, 10**5, 10**5]), "from": np.array([10**5, 10**5]),
                "to": np.array([-(10**5)] * 2), "axes": np.array([2, 3]),
            },
            "'wide' has 206720 samples for 6720, more than its scale explains",
        ),
        "channels": (
            [
                node("Expand", ["lr", "shape"], ["many"], "many"),
                node("ReduceMean", ["many"], ["hr"], axes=[1]),
            ],
            {"shape": np.array([1, 10**9, 1, 1])},
            "16384 samples per pixel of the image, got shape (1, 1000000000,",
        ),
        "shuffle": (
            [
                node("Expand", ["lr", "shape"], ["many"], "many"),
                node("DepthToSpace", ["many"], ["hr"], "up", blocksize=32),
            ],
            {"shape": np.array([1, 1024, 1, 1])},
            "the scale must be at most 16, got 32",
        ),
        "window": (
            [
                node("Expand", ["lr", "shape"], ["many"], "many"),
                node("Conv", ["many", "w"], ["hr"], "conv", dilations=[3000, 3000]),
            ],
            {"shape": np.array([1, 64, 1, 1]), "w": np.ones((1, 64, 3, 3), np.float32)},
            "its smallest window, 6008 x 6008 LR pixels, needs 9240592384 bytes for one tensor",
        ),
    }  # fmt: skip
    for name, (nodes, weights, rule) in cases.items():
        path = tmp_path / f"{name}.onnx"
        refused(path, proto(nodes, weights), rule)
        limited(path)


@pytest.mark.parametrize(
    "dims", [[10**6, 1, "h", "w"], ["n", 10**6, "h", "w"], ["n", 1, 2**20, "w"], [1, 1, 2**40, 1]]
)
def test_declared_sizes_are_bounded(tmp_path: Path, dims: list[object]) -> None:
    made = proto([node("Relu", ["lr"], ["hr"])])
    made.graph.input[0].CopyFrom(models.value("lr", dims))
    refused(tmp_path / "m.onnx", made, "'lr' may be at most 256 x 1024 x 32768 x 32768, got")


def test_a_large_fixed_image_is_refused(tmp_path: Path) -> None:
    made = proto([node("Relu", ["lr"], ["hr"])])
    made.graph.input[0].CopyFrom(models.value("lr", [1, 1, 32768, 32768]))
    refused(tmp_path / "m.onnx", made, "needs 4294967296 bytes for one tensor")


@pytest.mark.parametrize("size", [-2, -(2**63), 2**63 - 1])
def test_impossible_declared_sizes(tmp_path: Path, size: int) -> None:
    for place in ("input", "value_info"):
        made = convolution()
        getattr(made.graph, place).append(models.value("x", [1, 1, size, 4]))
        refused(tmp_path / "m.onnx", made, "'x' has an impossible shape: 1 x 1 x")


def test_minus_one_stands_for_a_free_size() -> None:
    made = convolution()
    made.graph.input[0].CopyFrom(models.value("lr", [-1, 1, -1, -1]))
    with Engine(made.SerializeToString(), provider="cpu", tile=16) as engine:
        assert engine.upscale(np.zeros((20, 30), np.uint8)).shape == (20, 30)


# Counts.


def test_too_many_nodes(tmp_path: Path) -> None:
    nodes = [node("Relu", [f"x{i}" if i else "lr"], [f"x{i + 1}"]) for i in range(validation.MAX_NODES)]
    made = proto([*nodes, node("Relu", [f"x{len(nodes)}"], ["hr"])])
    path = tmp_path / "m.onnx"
    refused(
        path, made, f"a graph may hold at most {validation.MAX_NODES} nodes, got {validation.MAX_NODES + 1}"
    )


@pytest.mark.parametrize("kind", ["relu", "norm", "identity", "conv", "slow to settle"])
def test_many_nodes_are_analysed_in_seconds(tmp_path: Path, kind: str) -> None:
    count = validation.MAX_NODES - 2 if kind == "relu" else prepare.MAX_NODES - 2
    weights = {
        "w": np.ones((1, 1, 3, 3), np.float32),
        "one": np.ones(1, np.float32),
        "k": np.ones((1, 1, 1, 1), "f4"),
    }
    made = []
    for i in range(count):
        read, name = f"x{i}" if i else "lr", f"x{i + 1}"
        match kind:
            case "norm" if i % 2 == 0:
                made.append(node("Conv", [read, "k"], [name]))
            case "norm":
                made.append(node("BatchNormalization", [read, "one", "one", "one", "one"], [name]))
            case "identity":
                made.append(node("Identity", [read], [name]))
            case "conv":
                made.append(node("Conv", [read, "w"], [name], pads=[1] * 4))
            case "slow to settle" if i < 6:  # sizes of multiples of 64 only
                made.append(node("MaxPool", [read], [name], kernel_shape=[2, 2], strides=[2, 2]))
            case "slow to settle" if i < 12:
                made.append(node("ConvTranspose", [read, "two"], [name], strides=[2, 2]))
            case _:
                made.append(node("Relu", [read], [name]))
    weights["two"] = np.ones((1, 1, 2, 2), np.float32)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto([*made, node("Relu", [f"x{count}"], ["hr"])], weights).SerializeToString())
    limited(path)


def nested(depth: int) -> Proto:
    body = helper.make_graph(
        [node("Relu", ["lr"], ["out"])], "body", [], [models.value("out", [1, 1, "h", "w"])]
    )
    for _ in range(depth):
        choice = node("If", ["yes"], ["out"], "choice", then_branch=body, else_branch=body)
        body = helper.make_graph([choice], "body", [], [models.value("out", [1, 1, "h", "w"])])
    made = proto([], {"yes": np.array(True)})
    made.graph.node.append(node("If", ["yes"], ["hr"], "choice", then_branch=body, else_branch=body))
    return made


def test_bodies_in_bodies(tmp_path: Path) -> None:
    refused(tmp_path / "m.onnx", nested(9), "subgraphs may be nested at most 8 deep")
    refused(tmp_path / "m.onnx", nested(2), "control flow cannot be analysed")
    limited(tmp_path / "m.onnx")
    # Deeper than protobuf itself reads, so the subgraphs are nested by hand.
    graph = convolution().graph.SerializeToString()
    for _ in range(300):
        attribute = b"\x0a\x01b" + b"\x32" + _length(graph) + graph
        inner = b"\x22\x02If\x2a" + _length(attribute) + attribute
        graph = b"\x0a" + _length(inner) + inner
    refused(tmp_path / "m.onnx", b"\x08\x08\x3a" + _length(graph) + graph, "not an ONNX model")


def _length(data: bytes) -> bytes:
    n, out = len(data), b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def with_functions(bodies: dict[str, list[str]]) -> Proto:
    """Return a model that calls ``f0``; each function calls the given others, one after the other."""
    made = proto([node("f0", ["lr"], ["hr"], domain="own")])
    made.opset_import.append(helper.make_opsetid("own", 1))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for name, calls in bodies.items():
        at, nodes = "x", []
        for k, called in enumerate(calls):
            out = "y" if k + 1 == len(calls) else f"t{k}"
            nodes.append(node(called, [at], [out], domain="" if called == "Relu" else "own"))
            at = out
        made.functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, opsets))
    return made


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    refused(path, with_functions({"f0": ["f0"]}), "function 'f0' calls itself")
    refused(
        path, with_functions({"f0": ["f1"], "f1": ["f2"], "f2": ["Relu", "f1"]}), "function 'f1' calls itself"
    )
    limited(path)


def test_functions_that_double(tmp_path: Path) -> None:
    """Thirty functions come to 2^30 nodes when they are inlined."""
    bodies = {f"f{k}": [f"f{k + 1}"] * 2 for k in range(30)} | {"f30": ["Relu"]}
    refused(
        tmp_path / "m.onnx", with_functions(bodies), "a graph may hold at most 50000 nodes, got 3221225471"
    )
    chain = {f"f{k}": [f"f{k + 1}"] for k in range(3000)} | {"f3000": ["Relu"]}
    refused(tmp_path / "m.onnx", with_functions(chain), "Function call chain depth exceeds limit")


def test_a_function_is_no_operator_of_onnx(tmp_path: Path) -> None:
    made = with_functions({"f0": ["Relu"]})
    made.functions[0].domain, made.functions[0].name = "", "Relu"
    refused(tmp_path / "m.onnx", made, "a function may not take the place of ONNX's own 'Relu'")
    made = proto([node("Relu", ["lr"], ["hr"], "own", domain="own")])
    made.opset_import.append(helper.make_opsetid("own", 1))
    refused(tmp_path / "m.onnx", made, "so the model cannot be tiled")


# Invalid graphs.


def test_cycles(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [
        node("Add", ["lr", "b"], ["a"], "one"),
        node("Relu", ["a"], ["b"], "two"),
        node("Relu", ["b"], ["hr"]),
    ]
    refused(path, proto(nodes), "Nodes in a graph must be topologically sorted")
    refused(path, proto([node("Add", ["lr", "hr"], ["hr"], "self")]), "topologically sorted")
    twice = [node("Relu", ["lr"], ["a"]), node("Tanh", ["a"], ["a"]), node("Relu", ["a"], ["hr"])]
    refused(path, proto(twice), "single static assignment (SSA)")


def test_attributes_that_divide_by_zero(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weights = {"w": np.ones((1, 1, 3, 3), np.float32)}
    for attributes, rule in (
        ({"strides": [0, 0]}, "kernel, stride and dilation must be positive"),
        ({"strides": [1]}, "strides must be 2 numbers, got 1"),
        ({"dilations": [-1, 1]}, "must be positive"),
        ({"pads": [-1] * 4}, "pads not negative"),
        ({"pads": [1, 1]}, "pads must be 4 numbers"),
        ({"group": 0}, "needs a weight (out, in, h, w) and groups, got (1, 1, 3, 3) and 0"),
        ({"group": 2**40}, "does not take 1 channels"),
        ({"kernel_shape": [5, 5]}, "kernel_shape is (5, 5), but its weight has kernels of (3, 3)"),
    ):
        refused(path, proto([node("Conv", ["lr", "w"], ["hr"], "conv", **attributes)], weights), rule)
    refused(
        path,
        proto([node("DepthToSpace", ["lr"], ["hr"], "d", blocksize=0)]),
        "1 channels do not divide into blocks of 0 x 0",
    )
    refused(path, proto([node("SpaceToDepth", ["lr"], ["hr"], "s", blocksize=0)]), "multiples of 0")
    refused(
        path,
        proto([node("MaxPool", ["lr"], ["hr"], "p", kernel_shape=[0, 0])]),
        "kernel, stride and dilation must be positive",
    )
    refused(path, proto([node("Concat", ["lr", "lr"], ["hr"], "c", axis=2**62)]), "'c' (Concat)")
    refused(
        path,
        proto([node("Transpose", ["lr"], ["hr"], "t", perm=[9, 9, 9, 9])]),
        "'t' (Transpose): perm [9, 9, 9, 9] is not a permutation of 4 axes",
    )


def test_a_weight_that_does_not_go_with_its_input(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    w = np.ones((1, 2, 3, 3), np.float32)
    conv = [node("Conv", ["lr", "w"], ["hr"], "conv")]
    refused(
        path, proto(conv, {"w": w}), "a weight of shape (1, 2, 3, 3) in 1 groups does not take 1 channels"
    )
    conv = [node("Conv", ["lr", "w", "b"], ["hr"], "conv")]
    made = proto(conv, {"w": w[:, :1], "b": np.zeros(7, np.float32)})
    refused(path, made, "a bias of shape (7,) does not go with 1 channels")
    norm = [node("BatchNormalization", ["lr", "p", "p", "p", "p"], ["hr"], "norm")]
    refused(path, proto(norm, {"p": np.ones(3, np.float32)}), "parameters of shape (3,) for 1 channels")


def test_ever_smaller_tensors_do_not_end_the_process(tmp_path: Path) -> None:
    """ONNX's shape inference, in ONNX Runtime too, aborts in a Slice of a negative shape."""
    nodes = [
        node("Conv", ["lr", "w"], ["c"], "conv"),
        node("Slice", ["c", "from", "to", "axes"], ["hr"], "cut"),
    ]
    cut = {"from": np.array([2, 2]), "to": np.array([-2, -2]), "axes": np.array([2, 3])}
    made = proto(nodes, {"w": np.ones((1, 1, 5, 5), np.float32), **cut})
    made.graph.input[0].CopyFrom(models.value("lr", ["n", 1, "h", 1]))
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    tiled, whole, _ = limited(path)
    assert "nothing is left of its input: shape (1, 1, 6716, -3)" in tiled
    assert "nothing is left of its input" in whole
    made.graph.input[0].CopyFrom(models.value("lr", ["n", 1, "h", -1]))
    path.write_bytes(made.SerializeToString())
    assert limited(path) == ["", "", ""]


def test_rewrites_of_huge_weights_stay_finite(tmp_path: Path) -> None:
    """1e38 times 100 is no float32: the model is run as it is."""
    nodes = [node("Conv", ["lr", "w"], ["c"], "conv"), node("Mul", ["c", "big"], ["hr"], "mul")]
    weights = {"w": np.full((1, 1, 3, 3), 1e38, np.float32), "big": np.array([100], np.float32)}
    data = proto(nodes, weights).SerializeToString()
    assert not prepare.build_program(*spec.load(data)).rewritten
    weights["big"] = np.array([0.01], np.float32)
    assert prepare.build_program(*spec.load(proto(nodes, weights).SerializeToString())).rewritten


@pytest.mark.parametrize("kernel", [1, 101])
def test_rewrites_of_huge_layers_are_left_out(tmp_path: Path, kernel: int) -> None:
    """Small files whose dense groups or multiplied kernels would need gigabytes and minutes."""
    c = 64 if kernel > 1 else 4096
    wide = {"a": np.ones((c, 1, kernel, kernel), "f4"), "b": np.ones((1, c, kernel, kernel), "f4")}
    nodes = [node("Conv", ["lr", "a"], ["c"], "first"), node("Conv", ["c", "b"], ["hr"], "second")]
    if kernel == 1:
        wide["k"] = np.ones((c, 1, 3, 3), "f4")
        nodes.insert(1, node("Conv", ["c", "k"], ["d"], "grouped", group=c))
        nodes[2].input[0] = "d"
    path = tmp_path / "m.onnx"
    path.write_bytes(proto(nodes, wide).SerializeToString())
    limited(path)
