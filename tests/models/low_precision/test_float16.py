"""Graphs for float16: which values are rounded and when, and that nothing overflows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from srcnn_rt import ProviderError
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.models import analysis, spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.low_precision import float16, loss
from srcnn_rt.models.low_precision.float16 import LIMIT_DB, Float16Model, float16_loss, for_float16
from srcnn_rt.models.low_precision.float16_casts import Float16Partition
from srcnn_rt.models.low_precision.loss import synthetic_image
from srcnn_rt.models.low_precision.rounding import round_together, to_float16
from srcnn_rt.models.low_precision.scaling import divide
from srcnn_rt.models.optimize.graph_edit import Edit
from srcnn_rt.models.prepare import build_program
from tests.conftest import TEST_MODEL
from tests.helpers import models
from tests.helpers.float16_simulation import simulated
from tests.helpers.models import model, node, normal
from tests.helpers.rewriting import integers

Maker = Callable[..., tuple[Path, dict[str, object]]]
run = functools.partial(models.run, optimised=True)  # like sessions


def on_cpu(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return Session(proto.SerializeToString(), 1).run(x)


def rounding(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return on_cpu(simulated(proto), x)


@functools.cache
def halved(name: str) -> tuple[onnx.ModelProto, Float16Model]:
    proto = spec.parse(build_program(*spec.load(name)).data)
    return proto, for_float16(proto, run=on_cpu)


def casts(proto: onnx.ModelProto) -> list[int]:
    return [n.attribute[0].i for n in proto.graph.node if n.op_type == "Cast"]


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of all tensors inside."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}


# A reference that shares no code with the package: float16 between layers, wider sums.


def conv16(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    kh, kw = weight.shape[2:]
    h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    total = np.zeros((len(weight), h, w))
    for i in range(kh):
        for j in range(kw):
            part = x[:, i : i + h, j : j + w].astype(np.float64)
            total += np.tensordot(weight[:, :, i, j].astype(np.float64), part, 1)
    return (total + bias.astype(np.float64)[:, None, None]).astype(np.float16)


def test_every_layer_rounds_once_as_an_oracle_does(rng: np.random.Generator) -> None:
    """The CPU provider itself leaves out the rounding between layers, which the simulation adds."""
    weights = {
        "a": normal(rng, 16, 1, 5, 5), "ab": normal(rng, 16), "b": normal(rng, 8, 16, 1, 1),
        "bb": normal(rng, 8), "c": normal(rng, 1, 8, 3, 3), "cb": normal(rng, 1),
    }  # fmt: skip
    nodes = [
        node("Conv", ["lr", "a", "ab"], ["x"]), node("Relu", ["x"], ["xr"]),
        node("Conv", ["xr", "b", "bb"], ["y"]), node("Relu", ["y"], ["yr"]),
        node("Conv", ["yr", "c", "cb"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, weights, out=1)
    made = simulated(Float16Partition(proto).convert())
    image = rng.random((1, 1, 40, 33), np.float32)
    h = {k: v.astype(np.float16) for k, v in weights.items()}
    at = image[0].astype(np.float16)
    for key in "abc":
        at = conv16(at, h[key], h[f"{key}b"])
        if key != "c":
            at = np.maximum(at, 0)
    for optimised in (False, True):
        result = models.run(made, image, optimised=optimised)[0]
        assert np.array_equal(result, result.astype(np.float16))  # every one is a float16
        # If a float32 sum rounds to the other side, a value and those computed from it are one step off.
        assert (result == at.astype(np.float32)).mean() > 0.99
        assert np.abs(result - at).max() <= 2 * np.spacing(np.float16(np.abs(at).max()))
    plain = run(proto, image)[0]
    assert np.sqrt(np.mean((at - plain) ** 2)) > 1e-4  # which float32 is not


def test_rounding_to_float16() -> None:
    ties = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65504, 65519.9, 65520, 2**-25, 3 * 2**-25])
    assert to_float16(ties).tolist() == [1, 1 + 2**-9, 65504, 65504, np.inf, 0, 2**-23]
    weight = np.random.default_rng(0).normal(size=(8, 2, 5, 5)) / 9
    together = round_together(weight, to_float16)
    assert np.array_equal(to_float16(together), together)
    alone, shared = (np.abs((w - weight).sum(axis=(2, 3))).mean() for w in (to_float16(weight), together))
    assert shared < alone / 4


# The bundled models.


@pytest.mark.parametrize("name", bundled())
def test_bundled_models_lose_next_to_nothing(name: str) -> None:
    proto, half = halved(name)
    ready = build_program(*spec.load(name))
    assert half.proven == ("m10c32" not in name)  # bounds multiply through its twelve layers
    found = float16_loss(ready, functools.partial(rounding, half.model), functools.partial(on_cpu, proto))
    if "deblur" in name:  # a deblurring model adds large details, so it is refused on a GPU
        assert found > LIMIT_DB
    else:
        assert 0 < found <= (LIMIT_DB if "paper" in name else LIMIT_DB / 5)
    # All large tensors are float16, and float32 ones are images.
    types = kinds(half.model)
    layers = [n for n in half.model.graph.node if n.op_type in ("Conv", "Relu", "DepthToSpace")]
    assert {types[n.output[0]] for n in layers} == {TensorProto.FLOAT16}
    assert len(layers) <= half.layers
    assert casts(half.model).count(TensorProto.FLOAT) == 1
    assert casts(half.model).count(TensorProto.FLOAT16) == 1  # before the image is split
    facts = analysis.analyse(half.model)
    assert facts.types == ("float32", "float32")
    assert (facts.y, facts.x, facts.kind) == (ready.spec.facts.y, ready.spec.facts.x, ready.spec.facts.kind)


@pytest.mark.parametrize("name", [TEST_MODEL, "srcnn-955-rgb-x3"])
def test_nothing_changes_but_by_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The differences come from weights and factors, with values in float32."""
    monkeypatch.setattr(float16, "to_float16", lambda values: np.asarray(values, np.float64))
    monkeypatch.setattr(float16, "Float16Partition", Plain)
    proto = spec.parse(build_program(*spec.load(name)).data)
    before = proto.SerializeToString(deterministic=True)
    made = for_float16(proto).model
    assert proto.SerializeToString(deterministic=True) == before
    assert not casts(made)
    facts = analysis.analyse(proto)
    n = 2 * facts.margin + 8 * facts.period
    x = np.stack([synthetic_image(n, k) for k in range(facts.channels)])[None]
    assert np.abs(run(made, x) - run(proto, x)).max() <= 1e-5


class Plain(Float16Partition):
    """A partition that keeps float32."""

    def convert(self) -> onnx.ModelProto:
        return self._edit.model()


# Values that are too large.


def chain(largest: float, *, pads: int = 0, last: str = "") -> onnx.ModelProto:
    """Return layers of integer weights whose values reach `largest` for an image of ones."""
    weights = {
        "a": np.full((2, 1, 3, 3), largest / 9, np.float32), "ab": np.array([3, -2], np.float32),
        "b": np.array([[[[1]], [[-1]]]], np.float32) * np.float32(1 / largest),
        "bb": np.array([0.5], np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["lr", "a", "ab"], ["x"], pads=[pads] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "b", "bb"], ["z" if last else "hr"]),
    ]  # fmt: skip
    if last:
        nodes.append(node(last, ["z"], ["hr"]))
    return model(nodes, weights, out=1)


@pytest.mark.parametrize(("largest", "power"), [(9, 0), (9000, 0), (90_000, 3), (400_000, 5)])
def test_large_values_are_divided_by_a_power_of_two(largest: float, power: int) -> None:
    made = for_float16(chain(largest))
    assert (made.power, made.proven) == (power, True)
    x = np.random.default_rng(0).random((1, 1, 20, 21), np.float32)
    found = run(simulated(made.model), 3 * x - 1)  # a range beyond black and white
    assert np.isfinite(found).all()
    assert np.abs(found - run(chain(largest), 3 * x - 1)).max() <= 5e-3


def test_values_that_no_power_helps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tanh is not homogeneous.
    assert for_float16(chain(9, last="Tanh")).power == 0
    with pytest.raises(ProviderError, match="too large for float16"):
        for_float16(chain(90_000, last="Tanh"))
    monkeypatch.setattr(float16, "_MAX_POWER", 4)
    assert for_float16(chain(90_000)).power == 3
    with pytest.raises(ProviderError, match="too large for float16"):
        for_float16(chain(400_000), run=on_cpu)


@pytest.mark.parametrize(("black", "white"), [(0, 255), (-1, 1), (0, 65535)])
def test_other_ranges(black: float, white: float) -> None:
    """The values of a model that takes codes are in the range of codes."""
    proto, x = chain(9, pads=1), np.random.default_rng(0).integers(0, 256, (1, 1, 20, 21))
    x = (black + x / 255 * (white - black)).astype(np.float32)
    made = for_float16(proto, black, white)
    assert (made.power > 0) == (white > 9000)
    error = (run(simulated(made.model), x) - run(proto, x)) / (white - black)
    assert np.abs(error).max() <= 3e-3


def network(*, attention: bool) -> onnx.ModelProto:
    """Return a residual network of six layers; with attention, weights depend on the mean of its input."""
    rng = np.random.default_rng(3)
    weights = {
        "w": normal(rng, 8, 1, 3, 3),
        "e": normal(rng, 1, 8, 3, 3),
        "slope": np.full((8, 1, 1), 0.25, np.float32),
    }
    nodes, at = [node("Conv", ["lr", "w"], ["t"], pads=[1] * 4)], "t"
    for k in range(4):
        weights[f"w{k}"] = normal(rng, 8, 8, 3, 3) / 2
        nodes += [
            node("Conv", [at, f"w{k}"], [f"c{k}"], pads=[1] * 4),
            node("PRelu", [f"c{k}", "slope"], [f"r{k}"]),
            node("Mul" if attention and k == 3 else "Add", [f"r{k}", at], [f"t{k}"]),
        ]  # fmt: skip
        at = f"t{k}"
    nodes += [node("Conv", [at, "e"], ["residual"], pads=[1] * 4), node("Add", ["residual", "lr"], ["hr"])]
    return model(nodes, weights, out=1)


def test_values_without_bounds_are_measured() -> None:
    proto = network(attention=True)
    with pytest.raises(ProviderError, match="values have no bound"):
        for_float16(proto)
    made = for_float16(proto, run=on_cpu)
    assert (made.proven, made.power) == (False, 0)
    x = np.random.default_rng(0).random((1, 1, 20, 21), np.float32)
    assert np.abs(run(simulated(made.model), x) - run(proto, x)).max() <= 1e-2
    for k in range(4):
        weight = next(t for t in proto.graph.initializer if t.name == f"w{k}")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 4000, f"w{k}"))
    with pytest.raises(ProviderError, match="too large for float16"):
        for_float16(proto, run=on_cpu)
    with pytest.raises(ProviderError, match="NaN or infinite"):
        for_float16(proto, run=lambda model, x: np.full((1, 1, 1, 1), np.nan, np.float32))


# Nodes that compute in float16, and nodes that do not.


def test_a_image_that_is_added_at_the_end_is_added_in_float32() -> None:
    made = for_float16(network(attention=False))
    types, last = kinds(made.model), made.model.graph.node[-1]
    assert last.op_type == "Add"
    assert "lr" in last.input
    assert {types[n.output[0]] for n in made.model.graph.node if n.op_type in ("Conv", "PRelu")} == {
        TensorProto.FLOAT16
    }
    assert types[last.output[0]] == TensorProto.FLOAT


def test_positions_shapes_and_strangers_stay(rng: np.random.Generator) -> None:
    weights = {
        "a": normal(rng, 4, 1, 3, 3), "b": normal(rng, 1, 4, 3, 3),
        "scales": np.array([1, 1, 2, 2], np.float32), "big": np.float32(1e6), "two": np.array([2]),
        "four": np.array([4]), "zero": np.array([0, 0]), "axes": np.array([2, 3]),
    }  # fmt: skip
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[1] * 4),
        node("Shape", ["x"], ["shape"]), node("Slice", ["shape", "two", "four"], ["size"]),
        node("Slice", ["x", "zero", "size", "axes"], ["y"]),
        node("Softplus", ["y"], ["s"]), node("Min", ["s", "big"], ["m"]),
        node("Resize", ["m", "", "scales"], ["u"], mode="linear"),
        node("Conv", ["u", "b"], ["z"], pads=[1] * 4), node("Clip", ["z", "", "big"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, weights, out=1)
    result = Float16Partition(proto).convert()
    onnx.checker.check_model(result, full_check=True)
    types = kinds(result)
    by_op = {n.op_type: types[n.output[0]] for n in result.graph.node if n.op_type != "Slice"}
    assert by_op["Conv"] == by_op["Clip"] == TensorProto.FLOAT16
    assert by_op["Softplus"] == by_op["Resize"] == by_op["Min"] == TensorProto.FLOAT
    assert by_op["Shape"] == TensorProto.INT64
    x = rng.random((1, 1, 11, 12), np.float32)
    assert np.abs(run(result, x) - run(proto, x)).max() <= 1e-2


def test_weights_beyond_float16_and_old_models_stay(rng: np.random.Generator) -> None:
    weights = {"a": normal(rng, 4, 1, 3, 3) * np.float32(1e6), "b": normal(rng, 1, 4, 3, 3)}
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Relu", ["x"], ["y"]), node("Conv", ["y", "b"], ["hr"])]
    proto = model(nodes, weights, out=1)
    assert [n.op_type for n in Float16Partition(proto).nodes] == ["Conv"]
    assert not Float16Partition(model(nodes, weights, out=1, opset=6)).nodes


def test_a_image_that_is_only_moved_keeps_its_range(rng: np.random.Generator) -> None:
    """Such nodes stay on the way to the output or beside a layer, where no Cast would cancel another."""
    weights = {
        "a": normal(rng, 4, 1, 3, 3), "b": normal(rng, 1, 4, 1, 1), "one": np.ones((1, 1, 1, 1), np.float32),
        "i": np.array([1, 1]), "j": np.array([-1, -1]), "axes": np.array([2, 3]),
    }  # fmt: skip
    cut = node("Slice", ["lr", "i", "j", "axes"], ["t"])
    layers = [node("Conv", ["lr", "a"], ["x"]), node("Conv", ["x", "b"], ["y"])]
    x = rng.random((1, 1, 12, 13), np.float32)
    for nodes in (
        [node("Conv", ["lr", "one"], ["hr"])],
        [node("Conv", ["lr", "one"], ["t"]), node("Conv", ["t", "one"], ["hr"])],
        [cut, *layers, node("Add", ["t", "y"], ["hr"])],
        [node("Slice", ["lr", "i", "j", "axes"], ["hr"])],
        [
            node("Conv", ["lr", "one"], ["t"]),
            node("Conv", ["t", "a"], ["x"]),
            node("Conv", ["x", "b"], ["hr"]),
        ],
    ):
        proto = model(nodes, weights, out=1)
        made = for_float16(proto, run=on_cpu)
        assert np.abs(run(simulated(made.model), x) - run(proto, x)).max() <= 2e-3


def test_models_of_float16_stay_as_they_are() -> None:
    _, half = halved(TEST_MODEL)
    again = for_float16(half.model)
    assert (again.layers, again.power) == (0, 0)
    assert list(again.model.graph.node) == list(half.model.graph.node)


def test_a_body_reads_float32(rng: np.random.Generator) -> None:
    """A tensor that an If reads from outside keeps its name and type, and cannot be divided."""
    weights = {"a": normal(rng, 1, 1, 3, 3), "yes": np.array(True)}
    branch = onnx.helper.make_graph(
        [node("Neg", ["x"], ["n"])], "b", [], [models.value("n", ["n", 1, "h", "w"])]
    )
    nodes = [
        node("Conv", ["lr", "a"], ["x"]),
        node("If", ["yes"], ["hr"], then_branch=branch, else_branch=branch),
    ]
    proto = model(nodes, weights, out=1)
    made = Float16Partition(proto).convert()
    x = rng.random((1, 1, 9, 9), np.float32)
    assert np.abs(run(made, x) - run(proto, x)).max() <= 1e-2
    assert not divide(Edit(proto), 3)


OPS = ["Relu", "LeakyRelu", "PRelu", "Add", "Clip", "MaxPool", "Pad", "Mul", "Sub", "Max", "Concat"]


@settings(max_examples=40, deadline=None)
@given(ops=st.lists(st.sampled_from(OPS), max_size=5), power=st.integers(1, 10), seed=st.integers(0, 99))
def test_dividing_by_a_power_of_two_is_exact(ops: list[str], power: int, seed: int) -> None:
    weights = {
        "a": integers(seed, 4, 1, 3, 3) - 1, "ab": integers(seed, 4) - 1,
        "b": integers(seed, 1, 4, 2, 2) - 1, "bb": integers(seed, 1), "m": integers(seed, 4, 8, 1, 1) - 1,
        "slope": np.full((4, 1, 1), 0.5, np.float32), "c": integers(seed, 4, 1, 1) - 2,
        "low": np.float32(-3), "high": np.float32(9), "two": np.float32(2), "five": np.float32(5),
        "pads": np.array([0, 0, 1, 1] * 2),
    }  # fmt: skip
    more = {
        "PRelu": ["slope"], "Add": ["c"], "Sub": ["c"], "Max": ["c"], "Mul": ["two"],
        "Clip": ["low", "high"], "Pad": ["pads", "five"],
    }  # fmt: skip
    nodes, at = [node("Conv", ["lr", "a", "ab"], ["x"])], "x"
    for k, op in enumerate(ops):
        if op == "Concat":
            nodes += [node("Concat", [at, at], [f"d{k}"], axis=1), node("Conv", [f"d{k}", "m"], [f"t{k}"])]
        else:
            attributes = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
            nodes.append(node(op, [at, *more.get(op, [])], [f"t{k}"], **attributes))
        at = f"t{k}"
    nodes.append(node("Conv", [at, "b", "bb"], ["hr"]))
    proto = model(nodes, weights, out=1)
    edit = Edit(proto)
    assert divide(edit, power)
    x = integers(seed, 1, 1, 14, 15)
    assert np.array_equal(run(edit.model(), x / 2**power) * 2**power, run(proto, x))


def test_what_cannot_be_divided_is_left() -> None:
    weights = {"a": integers(0, 4, 1, 3, 3), "one": np.float32(1)}
    first = node("Conv", ["lr", "a"], ["x"])
    for rest in (
        [node("Sigmoid", ["x"], ["hr"])],
        [node("Mul", ["x", "x"], ["hr"])],
        [node("Div", ["one", "x"], ["hr"])],
        [node("Conv", ["x", "x"], ["hr"])],
        [node("PRelu", ["one", "x"], ["hr"])],
        [node("Exp", ["x"], ["y"]), node("Add", ["y", "one"], ["hr"])],
    ):
        edit = Edit(model([first, *rest], weights))
        before = [n.SerializeToString() for n in edit.nodes]
        assert not divide(edit, 2)
        assert [n.SerializeToString() for n in edit.nodes] == before


# The estimate.


def test_losses_are_refused_with_the_number() -> None:
    ready = build_program(*spec.load(TEST_MODEL))
    exact = functools.partial(on_cpu, halved(TEST_MODEL)[0])
    rng = np.random.default_rng(0)

    def noisy(x: np.ndarray) -> np.ndarray:
        y = exact(x)
        return y + rng.normal(0, 1e-3, y.shape).astype(np.float32)

    psnr = next(v for k, v in ready.spec.training["psnr"].items() if "set5" in k.lower())
    found = float16_loss(ready, noisy, exact)
    assert found == pytest.approx(loss.loss_db(1e-3, psnr), rel=0.05)
    with pytest.raises(ProviderError, match=rf"would lose about {found:.2f} dB in float16, 0.01 are allowed"):
        loss.check_loss(ready.spec, found, LIMIT_DB, "float16")
    loss.check_loss(ready.spec, LIMIT_DB, LIMIT_DB, "float16")
    with pytest.raises(ProviderError, match="inf dB"):
        loss.check_loss(
            ready.spec, float16_loss(ready, lambda x: exact(x) + np.inf, exact), LIMIT_DB, "float16"
        )
