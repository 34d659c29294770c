"""Narrow convolutions in blocks: bit for bit the same as the file; mutants are caught."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcnn_rt import Engine
from srcnn_rt.models import analysis, spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.optimize import cpu_cost, optimise
from srcnn_rt.models.optimize import widen_narrow as narrow
from srcnn_rt.models.optimize.node_builder import NodeBuilder
from srcnn_rt.models.optimize.widen_narrow import best_block, block_cost, shifted, widen_narrow
from srcnn_rt.models.prepare import network_program
from tests.helpers.models import model, node, run
from tests.helpers.rewriting import agree, assert_left, blocks, integers, rewritten, shapes, sparse

Maker = Callable[..., tuple[Path, dict[str, object]]]
SIZES = [(9, 1, 5), (9, 3, 5), (9, 5, 5), (5, 1, 3)]


# Narrow convolutions, in blocks.


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_models_like_srcnn_in_blocks(
    integer_model: Maker, scale: int, sizes: tuple[int, ...], channels: int
) -> None:
    path, _ = integer_model(scale, sizes, channels)
    proto = onnx.load(path)
    for rewrite in (widen_narrow, optimise):
        result = rewritten(rewrite, proto)
        assert len(result.graph.node) > len(proto.graph.node)
        *_, block = blocks(result)
        a, b = analysis.analyse(proto), analysis.analyse(result)
        assert (b.kind, b.scale, b.margin) == (a.kind, a.scale, a.margin)
        assert b.period == block // math.gcd(block, scale)
        for extra in (0, 1):
            size = [2 * a.margin + k * b.period + extra for k in (1, 2)]
            assert agree(proto, result, integers(extra, 1, channels, *size), block)


def test_blocks_of_wide_layers() -> None:
    """64 and 32 filters with few taps: sums stay exact, and costs are those of SRCNN."""
    rng = np.random.default_rng(0)
    weights = {"a": sparse(rng, 64, 1, 9, 9), "b": sparse(rng, 32, 64, 5, 5), "d": sparse(rng, 1, 32, 5, 5)}
    weights["db"] = np.array([3], np.float32)
    nodes = [
        node("Conv", ["lr", "a"], ["x"]), node("Relu", ["x"], ["xr"]), node("Conv", ["xr", "b"], ["y"]),
        node("Relu", ["y"], ["yr"]), node("Conv", ["yr", "d", "db"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, weights)
    result = rewritten(widen_narrow, proto)
    assert blocks(result) == [4]
    assert shapes(result)[-1] == ((16, 32, 8, 8), 4)
    assert agree(proto, result, integers(0, 2, 1, 16 + 12, 16 + 9), 4)


def test_shifted_kernels_stand_at_every_place_of_the_block() -> None:
    weight = integers(0, 2, 3, 3, 4).astype(np.float64)
    wide = shifted(weight, 3).reshape(2, 3, 3, 3, 5, 6)
    for y in range(3):
        for x in range(3):
            expected = np.pad(weight, [(0, 0), (0, 0), (y, 2 - y), (x, 2 - x)])
            assert np.array_equal(wide[:, y, x], expected)


def test_blocks_left_alone() -> None:
    weights = {"a": integers(0, 16, 4, 5, 5), "d": integers(1, 1, 16, 5, 5)}

    def two(first: dict[str, object] | None = None, **last: object) -> onnx.ModelProto:
        nodes = [
            node("Conv", ["lr", "a"], ["x"], "a", **(first or {})),
            node("Conv", ["x", "d"], ["hr"], "d", **last),
        ]
        return model(nodes, weights, 4)

    assert blocks(widen_narrow(two())) == [4]
    assert_left(widen_narrow, two(strides=[2, 2]))
    assert_left(widen_narrow, two(dilations=[2, 2]))
    assert_left(widen_narrow, two(auto_pad="SAME_UPPER"))
    groups = {"a": integers(0, 16, 4, 5, 5), "d": integers(1, 2, 8, 5, 5)}
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Conv", ["x", "d"], ["hr"], group=2)]
    assert_left(widen_narrow, model(nodes, groups, 4))
    # All lanes used, a 1x1 kernel, a small share of the work, a computed kernel.
    wide = weights | {"d": integers(1, 16, 16, 5, 5)}
    nodes = [node("Conv", ["lr", "a"], ["x"]), node("Conv", ["x", "d"], ["hr"])]
    assert_left(widen_narrow, model(nodes, wide, 4))
    assert_left(widen_narrow, model(nodes, weights | {"a": integers(0, 4096, 4, 3, 3)[:, :, :, :]} | {
        "d": integers(1, 1, 4096, 1, 1)}, 4))  # fmt: skip
    heavy = {"a": integers(0, 64, 4, 9, 9), "b": integers(0, 64, 64, 9, 9), "d": integers(0, 1, 64, 2, 2)}
    three = [
        node("Conv", ["lr", "a"], ["x"]),
        node("Conv", ["x", "b"], ["y"]),
        node("Conv", ["y", "d"], ["hr"]),
    ]
    assert best_block(1, 64, (2, 2)) > 1
    assert_left(widen_narrow, model(three, heavy, 4))
    computed = [node("Mul", ["d", "d"], ["dd"]), nodes[0], node("Conv", ["x", "dd"], ["hr"])]
    assert_left(widen_narrow, model(computed, weights, 4))
    # Not the output, one of two outputs, an operator set that is too old, a fixed size.
    behind = [
        *nodes[:1],
        node("Conv", ["x", "d"], ["y"]),
        node("AveragePool", ["y"], ["hr"], kernel_shape=[3, 3]),
    ]
    assert_left(widen_narrow, model(behind, weights, 4))
    assert_left(widen_narrow, model(nodes, weights, 4, outputs=("hr", "x")))
    for opset in (9, 10):
        assert_left(widen_narrow, model(nodes, weights, 4, opset=opset))
    assert_left(widen_narrow, model(nodes, weights, 4, size=(31, 31)))
    # It does not read the image.
    weights |= {"c": integers(5, 1, 4, 9, 9)}
    constant = [
        node("Conv", ["c", "a"], ["x"]),
        node("Conv", ["x", "d"], ["y"]),
        node("Mul", ["y", "lr"], ["hr"]),
    ]
    assert_left(widen_narrow, model(constant, weights, 1))


# Models that pad: no size may change.


@functools.cache
def padded(out: int, scale: int, kind: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a padded model 5x5, ReLU, (shuffle,) 3x3 to few channels, and its rewritten form."""
    rng = np.random.default_rng([out, scale])
    inner = 16
    weights = {
        "a": sparse(rng, inner * scale**2, out, 5, 5), "ab": integers(1, inner * scale**2) - 1,
        "d": sparse(rng, out, inner, 3, 3), "db": integers(2, out) + 1,
    }  # fmt: skip
    pads = {"plain": [1, 1, 1, 1], "uneven": [0, 2, 2, 0], "by layers": [0, 0, 0, 0]}[kind]
    nodes = [node("Conv", ["lr", "a", "ab"], ["x"], pads=[2] * 4), node("Relu", ["x"], ["y"])]
    last = "y"
    if scale > 1:
        nodes.append(node("DepthToSpace", ["y"], ["u"], blocksize=scale, mode="CRD"))
        last = "u"
    if kind == "by layers":  # the layer does not pad, but the model does
        weights["pads"] = np.array([0, 0, 1, 1] * 2)
        nodes.append(node("Pad", [last, "pads"], ["v"]))
        last = "v"
    nodes += [node("Conv", [last, "d", "db"], ["z"], "last", pads=pads), node("Add", ["z", "z"], ["hr"])]
    proto = model(nodes, weights, out, out=out)
    return proto, rewritten(widen_narrow, proto)


KINDS = ["plain", "uneven", "by layers"]


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    out=st.sampled_from([1, 3]),
    scale=st.integers(1, 3),
    kind=st.sampled_from(KINDS),
)
def test_padded_models_keep_every_size(shape: tuple[int, int], out: int, scale: int, kind: str) -> None:
    proto, result = padded(out, scale, kind)
    assert len(blocks(result)) == len(blocks(proto)) + 1
    assert agree(proto, result, integers(0, 1, out, *shape))


@pytest.mark.parametrize("out", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_models_tile_as_they_did(out: int, scale: int, kind: str) -> None:
    proto, result = padded(out, scale, kind)
    a, b = analysis.analyse(proto), analysis.analyse(result)
    assert (b.kind, b.scale, b.channels) == (a.kind, a.scale, a.channels) == ("padded", scale, out)
    assert (b.y.minimum, b.y.multiple) == (1, 1)
    image = integers(3, 37, 30, out)
    expected = run(proto, np.ascontiguousarray(image.transpose(2, 0, 1)[None]))[0].transpose(1, 2, 0)
    for tile in (8, 13, 512):
        with Engine(proto.SerializeToString(), provider="cpu", tile=tile) as e:
            assert np.array_equal(e.upscale(image, data_range="dtype"), expected)


# Costs.


def test_the_best_block_for_srcnns_last_layer_is_four() -> None:
    costs = {b: math.ceil(b * b / 16) * 16 * 32 * (4 + b) ** 2 / b**2 for b in range(1, 9)}
    for b in range(2, 9):
        assert block_cost(1, 32, (5, 5), b) == costs[b]
    assert min(costs, key=lambda b: costs[b]) == 4
    assert best_block(1, 32, (5, 5)) == 4
    assert best_block(16, 32, (5, 5)) == 1  # all lanes are used
    assert best_block(1, 32, (1, 1)) == 1  # sixteen positions would be read for sixteen results


def test_executed_work_counts_lanes() -> None:
    assert cpu_cost.executed(1, 32, (5, 5)) == 16 * 32 * 25
    assert cpu_cost.executed(17, 3, (3, 1), (2, 2)) == 32 * 9 / 4
    weights = {"a": integers(0, 20, 1, 3, 3), "d": integers(1, 2, 10, 3, 3)}
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[1] * 4),
        node("Conv", ["x", "d"], ["y"], pads=[1] * 4, group=2),
    ]
    work = cpu_cost.work(model([*nodes, node("Relu", ["y"], ["hr"])], weights))
    assert work.useful == 20 * 9 + 2 * 10 * 9
    assert work.layers == {"x": 32 * 9, "y": 2 * 16 * 10 * 9}
    assert work.executed == sum(work.layers.values())


@pytest.mark.parametrize("name", [name for name in bundled() if name.startswith("srcnn")])
def test_costs_of_the_bundled_models(name: str) -> None:
    """Weight shapes and rates give the executed work, before and after."""
    proto = spec.parse(network_program(*spec.load(name)).data)
    scale = spec.load(name)[1].scale
    result = rewritten(optimise, proto)
    before, after = cpu_cost.work(proto), cpu_cost.work(result)
    assert before.useful == pytest.approx(
        analysis.analyse(proto).macs, rel=2e-3
    )  # other margins of other sizes
    assert after.useful == pytest.approx(analysis.analyse(result).macs, rel=2e-3)

    def lanes(shape: tuple[int, ...]) -> int:
        return math.ceil(shape[0] / 16) * 16 * math.prod(shape[1:])

    dims = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    convs = [n for n in proto.graph.node if n.op_type == "Conv"]
    (up, *layers) = (
        [dims[n.input[1]] for n in convs] if scale > 1 else [None, *(dims[n.input[1]] for n in convs)]
    )
    channels = layers[-1][0]
    plain = sum(map(lanes, layers))
    if up is not None:  # one group per channel
        plain += channels * lanes((scale**2, *up[1:])) / scale**2
    assert before.executed == pytest.approx(plain, rel=2e-3)
    *_, block = blocks(result)
    if "-915-" in name:
        made = sum(
            lanes(shape) / (block**2 if shape[0] == channels * block**2 else scale**2)
            for shape, _ in shapes(result)
        )
        assert len(shapes(result)) == 3 * scale**2
        assert after.executed < plain / 2
    else:  # only the last layer is in blocks
        made = plain - lanes(layers[-1]) + lanes(shapes(result)[-1][0]) / block**2
        assert after.executed < plain
    assert after.executed == pytest.approx(made, rel=2e-3)


@pytest.mark.parametrize("name", bundled())
def test_bundled_models_within_rounding(name: str, rng: np.random.Generator) -> None:
    data, described = spec.load(name)
    proto = spec.parse(data)
    result = optimise(proto)
    facts = analysis.analyse(result)
    assert (facts.margin, facts.kind) == (described.margin, described.facts.kind)
    n = 2 * described.margin + 8 * facts.period
    x = rng.random((1, described.channels, n, n + facts.period), np.float32)
    a, b = run(proto, x), run(result, x)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 3e-6 * max(1, np.abs(a).max())  # results on noise can exceed white


# Mutants: an error by one must be noticed.


def spoiled() -> bool:
    """Return whether the comparison notices a difference."""
    proto, _ = padded(1, 2, "plain")
    return not agree(proto, widen_narrow(proto), integers(0, 1, 1, 17, 18))


def test_the_machinery_of_the_mutants_is_innocent() -> None:
    assert not spoiled()


@pytest.mark.parametrize("place", range(16))
def test_a_kernel_at_the_wrong_place_is_caught(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    def wrong(weight: np.ndarray, b: int) -> np.ndarray:
        wide = shifted(weight, b)
        wide[place % len(wide)] = np.roll(wide[place % len(wide)], 1, axis=-1 - place % 2)
        return wide

    monkeypatch.setattr(narrow, "shifted", wrong)
    assert spoiled()


@pytest.mark.parametrize("grow", [-1, 1])
def test_a_wrong_cut_is_caught(monkeypatch: pytest.MonkeyPatch, grow: int) -> None:
    real = NodeBuilder.op

    def wrong(self, op, *inputs, **more):
        if op == "Add":
            inputs = (inputs[0], self.edit.weight("spoiled", self.edit.array(inputs[1]) + grow))
        return real(self, op, *inputs, **more)

    monkeypatch.setattr(NodeBuilder, "op", wrong)
    assert spoiled()
