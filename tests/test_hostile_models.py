"""Model files made to hurt: one line that names file, rule and value; no other file, no memory, no time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from srcnn_rt import Engine, ModelError, SourceMissingError, SrcnnError, program, spec
from srcnn_rt.graph import fold, guard
from tests import models
from tests.conftest import TEST_MODEL

node = helper.make_node
Proto = onnx.ModelProto

LIMITED = """
import json, resource, sys, time
from pathlib import Path
from srcnn_rt import Engine, SrcnnError, spec, program
from srcnn_rt.engine import peak_memory
import onnx.checker, onnx.reference, onnxruntime
before, seconds, errors = peak_memory(), [], []
for call in (
    lambda: Engine(sys.argv[1], "cpu", 16, threads=1).close(),
    lambda: Engine(sys.argv[1], "cpu", 16, threads=1, whole=True).close(),
    lambda: program.prepare(*spec.load(sys.argv[1])),
):
    begun = time.process_time()  # not the clock's: other processes are no fault of a file's
    try:
        call()
        errors.append("")
    except SrcnnError as error:
        errors.append(str(error))
    seconds.append(time.process_time() - begun)
print(json.dumps([errors, peak_memory() - before, max(seconds)]))
"""


def proto(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None) -> Proto:
    """A model of one channel from ``lr`` to ``hr``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [models.value("lr", ["n", 1, "h", "w"])],
        [models.value("hr", ["n", 1, "sh", "sw"])],
        [models.tensor(k, np.asarray(v)) for k, v in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


def convolution() -> Proto:
    weights = {"w": np.ones((1, 1, 3, 3), np.float32), "b": np.zeros(1, np.float32)}
    return proto([node("Conv", ["lr", "w", "b"], ["hr"], "conv", pads=[1] * 4)], weights)


def refused(path: Path, made: Proto | bytes, rule: str) -> None:
    """The file is refused by name and rule; so are its bytes; nothing is upscaled."""
    data = made if isinstance(made, bytes) else made.SerializeToString()
    path.write_bytes(data)
    for call in (spec.load, Engine):
        with pytest.raises(ModelError) as caught:
            call(path)
        line = str(caught.value)
        assert line.startswith(str(path))
        assert rule in line
        assert line.isprintable()
        assert len(line) < 1100
    with pytest.raises(ModelError):
        spec.load(data)


def limited(path: Path) -> list[str]:
    """Make engines, tiled and whole, in a process of its own: no crash, 10 s, 1 GB. Return the errors."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors, memory, seconds = json.loads(done.stdout.splitlines()[-1])
    assert memory < 1e9
    assert seconds < 10
    return errors


# Other files.


def external(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="36")


def in_a_weight(made: Proto, location: str) -> None:
    external(made.graph.initializer[0], location)


def in_a_constant(made: Proto, location: str) -> None:
    constant = node("Constant", [], ["w"], "constant", value=made.graph.initializer[0])
    external(constant.attribute[0].t, location)
    del made.graph.initializer[0]
    conv = onnx.NodeProto()
    conv.CopyFrom(made.graph.node[0])
    del made.graph.node[:]
    made.graph.node.extend([constant, conv])


def in_a_body(made: Proto, location: str) -> None:
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "inner")
    external(weight, location)
    body = helper.make_graph(
        [node("Conv", ["lr", "inner"], ["out"])],
        "body",
        [],
        [models.value("out", [1, 1, "h", "w"])],
        [weight],
    )
    made.graph.initializer.append(models.tensor("yes", np.array(True)))
    del made.graph.node[:]
    made.graph.node.append(node("If", ["yes"], ["hr"], "choice", then_branch=body, else_branch=body))


def in_a_function(made: Proto, location: str) -> None:
    constant = node(
        "Constant", [], ["w"], value=numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    )
    external(constant.attribute[0].t, location)
    opset = [helper.make_opsetid("", 17)]
    made.functions.append(
        helper.make_function("own", "f", ["x"], ["y"], [constant, node("Conv", ["x", "w"], ["y"])], opset)
    )
    made.opset_import.append(helper.make_opsetid("own", 1))
    del made.graph.node[:]
    made.graph.node.append(node("f", ["lr"], ["hr"], domain="own"))


def only_named(made: Proto, location: str) -> None:
    """Data in the model, and the name of a file besides."""
    made.graph.initializer[0].external_data.add(key="location", value=location)


PLACES = [in_a_weight, in_a_constant, in_a_body, in_a_function, only_named]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["secret.bin", "absolute", "../other/secret.bin", "pipe", ""])
def test_no_tensor_makes_us_open_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Proto, str], None], location: str
) -> None:
    for folder in ("model", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "secret.bin").write_bytes(bytes(100))
    os.mkfifo(tmp_path / "model" / "pipe")  # opening it would hang
    monkeypatch.chdir(tmp_path / "model")
    if location == "absolute":
        location = str(tmp_path / "other" / "secret.bin")
    made = convolution()
    place(made, location)
    data = made.SerializeToString()
    (tmp_path / "model" / "m.onnx").write_bytes(data)
    opened: list[str] = []

    def watch(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and threading.current_thread() is threading.main_thread():
            opened.append(str(args[0]))

    watching.append(watch)
    try:
        for call in (lambda: spec.load("m.onnx"), lambda: Engine("m.onnx", whole=True), lambda: Engine(data)):
            with pytest.raises(ModelError, match="is kept in another file; save the model as one file"):
                call()
    finally:
        watching.clear()
    assert "m.onnx" in opened
    assert [name for name in opened if "secret" in name or "pipe" in name] == []
    # What a whole model is asked first, before ONNX Runtime, whose C++ tells no hook what it opens.
    with pytest.raises(ModelError, match="is kept in another file"):
        spec.interface(data)


watching: list[Callable[[str, tuple[object, ...]], None]] = []
sys.addaudithook(lambda event, args: [w(event, args) for w in watching] and None)


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
            with Engine(made.SerializeToString(), "cpu") as engine:
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
    if name not in ("Resize", "RandomNormal"):  # these are computed by no analysis, however small
        assert f"a constant may hold at most {fold.LARGEST} numbers" in tiled
        assert "may hold at most" in whole
    else:
        assert "'bomb'" in tiled


def test_many_constants_of_a_legal_size_are_too_much_in_all(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", ["shape"], [f"k{i}"], f"fill{i}") for i in range(60)]
    made = proto([*nodes, node("Relu", ["lr"], ["hr"])], {"shape": np.array([fold.LARGEST])})
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    tiled, whole, _ = limited(tmp_path / "m.onnx")
    assert f"constants may cost at most {fold.CONSTANTS} numbers in all" in tiled
    assert "in all" in whole


def test_constants_by_the_pictures_size_are_small(tmp_path: Path) -> None:
    """A grid of positions: as many numbers as the picture has pixels, computed at every size looked at."""
    nodes = [
        node("Shape", ["lr"], ["size"], "size"),
        node("ConstantOfShape", ["size"], ["grid"], "grid"),
        node("Add", ["lr", "grid"], ["hr"], "add"),
    ]
    refused(tmp_path / "m.onnx", proto(nodes), "node 'grid' (ConstantOfShape): ")


def test_tensors_of_the_picture_are_bounded(tmp_path: Path) -> None:
    """What is no constant, but made of the picture: asked for when a window is run."""
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
            "'wide' has 206720 samples for 6720: more than it is enlarged by",
        ),
        "channels": (
            [
                node("Expand", ["lr", "shape"], ["many"], "many"),
                node("ReduceMean", ["many"], ["hr"], axes=[1]),
            ],
            {"shape": np.array([1, 10**9, 1, 1])},
            "16384 samples a pixel of the picture, got shape (1, 1000000000,",
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
            "its least window, 6008 x 6008 LR pixels, needs 9240592384 bytes for one tensor",
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


def test_a_large_fixed_picture_is_refused(tmp_path: Path) -> None:
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
    with Engine(made.SerializeToString(), "cpu", 16) as engine:
        assert engine.upscale(np.zeros((20, 30), np.uint8)).shape == (20, 30)


# Numbers of things.


def test_too_many_nodes(tmp_path: Path) -> None:
    nodes = [node("Relu", [f"x{i}" if i else "lr"], [f"x{i + 1}"]) for i in range(guard.MOST_NODES)]
    made = proto([*nodes, node("Relu", [f"x{len(nodes)}"], ["hr"])])
    path = tmp_path / "m.onnx"
    refused(path, made, f"a graph may hold at most {guard.MOST_NODES} nodes, got {guard.MOST_NODES + 1}")


@pytest.mark.parametrize("kind", ["relu", "norm", "identity", "conv", "slow to settle"])
def test_many_nodes_are_analysed_in_seconds(tmp_path: Path, kind: str) -> None:
    count = guard.MOST_NODES - 2 if kind == "relu" else program.MOST_NODES - 2
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
    refused(tmp_path / "m.onnx", nested(9), "bodies may be nested at most 8 deep")
    refused(tmp_path / "m.onnx", nested(2), "control flow cannot be analysed")
    limited(tmp_path / "m.onnx")
    # Deeper than protobuf itself reads: one body in the other, by hand.
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
    """A model that calls ``f0``; each function calls the others given, one after the other."""
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
    """Thirty lines that come to 2^30 nodes when written out."""
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


# Graphs that are none.


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
        ({"kernel_shape": [5, 5]}, "its kernel_shape is (5, 5), its weight's (3, 3)"),
    ):
        refused(path, proto([node("Conv", ["lr", "w"], ["hr"], "conv", **attributes)], weights), rule)
    refused(
        path,
        proto([node("DepthToSpace", ["lr"], ["hr"], "d", blocksize=0)]),
        "1 channels are no blocks of 0 x 0",
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
        "'t' (Transpose): its attributes",
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
    assert not program.prepare(*spec.load(data)).rewritten
    weights["big"] = np.array([0.01], np.float32)
    assert program.prepare(*spec.load(proto(nodes, weights).SerializeToString())).rewritten


@pytest.mark.parametrize("kernel", [1, 101])
def test_rewrites_of_huge_layers_are_left_out(tmp_path: Path, kernel: int) -> None:
    """Groups written out, or kernels multiplied: small files that would come to gigabytes and minutes."""
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


# Text.


def test_long_names_make_no_long_line(tmp_path: Path) -> None:
    name = "\x1b[2Jx\n" * 500_000
    made = proto([node("GlobalMaxPool", ["lr"], ["hr"], name)])
    refused(tmp_path / "m.onnx", made, "(GlobalMaxPool)")
    assert "\\x1b[2Jx" in str(SrcnnError("\x1b[2Jx"))
    assert str(SrcnnError("caf\udce9.png")) == "caf\\udce9.png"
    assert len(str(SrcnnError("x" * 10**7))) == 1005


def test_names_that_are_no_text(tmp_path: Path) -> None:
    made = convolution()
    helper.set_model_props(made, {"srcnn_rt.scaleXX": "1"})
    data = made.SerializeToString()
    refused(tmp_path / "m.onnx", data.replace(b"scaleXX", b"scale\xff\xff"), "is not UTF-8: b'srcnn_rt.scale")
    refused(tmp_path / "m.onnx", data.replace(b"conv", b"con\xff"), "not UTF-8")


@pytest.mark.parametrize(
    ("key", "text", "rule"),
    [
        ("training", "[" * 100_000, "srcnn_rt.training is not JSON"),
        ("training", '{"a": ' + "9" * 5000 + "}", "srcnn_rt.training is not JSON"),
        ("training", '{"psnr": {"set5": "many"}}', "psnr must be an object of numbers in dB"),
        ("training", '{"psnr": {"set5": NaN}}', "psnr must be an object of numbers in dB"),
        ("training", '{"psnr": 7}', "psnr must be an object of numbers in dB"),
        ("check", "3", "srcnn_rt.check is not a JSON object"),
        ("range", "0..inf", "a value range is"),
        ("range", "0..1e-320", "a value range is"),
        ("range", "mean=0,0 std=1,1", "srcnn_rt.range needs 1 or 1 numbers, got 2"),
        ("scale", "1" * 10**6, "metadata say scale 1111"),
    ],
)
def test_metadata(tmp_path: Path, key: str, text: str, rule: str) -> None:
    made = convolution()
    helper.set_model_props(made, {f"srcnn_rt.{key}": text})
    refused(tmp_path / "m.onnx", made, rule)


# Files.


# The fields that are messages: graph and metadata; nodes, weights, inputs, outputs; attributes, types.
INNER = {(): (7, 14), (7,): (1, 5, 11, 12), (7, 1): (5,), (7, 11): (2,), (7, 12): (2,)}


def boundaries(data: bytes, start: int = 0, stop: int | None = None, path: tuple[int, ...] = ()) -> list[int]:
    """Byte offsets where a field of the message, or of one in it, begins or its content does."""
    found, at, stop = [], start, len(data) if stop is None else stop

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if not data[at - 1] & 128:
                return value, at

    while at < stop:
        found.append(at)
        tag, at = varint(at)
        found.append(at)
        match tag & 7:
            case 0:
                _, at = varint(at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = varint(at)
                found.append(at)
                if tag >> 3 in INNER.get(path, ()):
                    found += boundaries(data, at, at + size, (*path, tag >> 3))
                at += size
            case _:
                raise AssertionError(tag)
    return found


def test_truncated_at_every_field(tmp_path: Path) -> None:
    data = spec.read("bicubic-x2")[0]
    cuts = sorted(set(boundaries(data)))
    assert len(cuts) > 100
    accepted = 0
    for cut in cuts:
        (tmp_path / "m.onnx").write_bytes(data[:cut])
        try:
            with Engine(tmp_path / "m.onnx", "cpu"):
                accepted += 1
        except ModelError as error:
            assert str(error).startswith((str(tmp_path / "m.onnx"), "m: "))
    assert accepted < 12  # metadata at the end may be missing


def test_files_that_are_too_large_or_no_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(spec.LARGEST + 1)
    with pytest.raises(
        ModelError, match=f"{spec.LARGEST + 1} bytes, an ONNX file holds at most {spec.LARGEST}"
    ):
        spec.load(path)
    with path.open("wb") as file:
        file.truncate(spec.LARGEST)  # zeros: told from a model by the first, not read
    assert all("not an ONNX model" in error for error in limited(path))
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in (tmp_path / "pipe.onnx", "/dev/zero"):
        with pytest.raises(ModelError, match="not a file, but a device or a pipe"):
            spec.load(name)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(SourceMissingError, match="no such file"):
            spec.load(name)


def test_inspect_says_it_in_one_line(tmp_path: Path) -> None:
    made = convolution()
    external(made.graph.initializer[0], "/etc/passwd")
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-m", "srcnn_rt", "inspect", str(tmp_path / "m.onnx")],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'm.onnx'}: weight 'w' is kept in another file; save the model as one file"
    ]


def test_bundled_models_pass() -> None:
    assert spec.load(TEST_MODEL)[1].scale == 2
