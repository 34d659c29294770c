"""Rewrites for tensor cores: bit for bit the same as the file, at the estimated cost; mutants are caught."""

from __future__ import annotations

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
from srcnn_rt.models.low_precision.float16 import for_float16
from srcnn_rt.models.optimize import optimise, space_to_depth, tensor_core_cost, variants
from srcnn_rt.models.optimize import unroll_rows as unroll
from srcnn_rt.models.optimize.space_to_depth import block_layers, blocked
from srcnn_rt.models.optimize.tensor_core_cost import tensor_work
from srcnn_rt.models.optimize.unroll_rows import copy_kernel, unroll_rows, vertical_kernel
from srcnn_rt.models.prepare import network_program
from tests.helpers.float16_simulation import simulated
from tests.helpers.models import Weights, model, node, normal, run
from tests.helpers.rewriting import agree, assert_left, integers, ops, rewritten, shapes, sparse

Maker = Callable[..., tuple[Path, dict[str, object]]]
SIZES = [(9, 1, 5), (9, 3, 5), (9, 5, 5), (5, 1, 3)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewrite small layers too."""
    monkeypatch.setattr(unroll, "_pays", lambda conv: conv.kernel[1] > 1)
    monkeypatch.setattr(space_to_depth, "_MAX_COST_RATIO", 1e9)


def same_receptive_field(proto: onnx.ModelProto, result: onnx.ModelProto) -> bool:
    a, b = analysis.analyse(proto), analysis.analyse(result)
    return (a.kind, a.y, a.x, a.channels, a.channels_out) == (b.kind, b.y, b.x, b.channels, b.channels_out)


# Unrolled rows.


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("before", [None, optimise])
def test_models_like_srcnn_unrolled(
    integer_model: Maker, scale: int, sizes: tuple[int, ...], channels: int, before: object
) -> None:
    """Phases are unrolled too; no margin, period or size changes."""
    proto = onnx.load(integer_model(scale, sizes, channels)[0])
    proto = before(proto) if callable(before) else proto
    result = rewritten(unroll_rows, proto)
    assert len(result.graph.node) > len(proto.graph.node)
    assert same_receptive_field(proto, result)
    facts = analysis.analyse(result)
    for extra in (0, 1):
        size = [2 * facts.margin + k * facts.period + extra for k in (1, 2)]
        assert agree(proto, result, integers(extra, 2, channels, *size))


def layer(
    rng: np.random.Generator, inner: int, kernel: tuple[int, int], **attributes: object
) -> onnx.ModelProto:
    weights = {"a": sparse(rng, 12, inner, *kernel), "ab": integers(1, 12) - 1, "b": sparse(rng, 1, 12, 1, 1)}
    nodes = [node("Conv", ["lr", "a", "ab"], ["x"], **attributes), node("Conv", ["x", "b"], ["hr"])]
    return model(nodes, weights, inner, out=1)


@settings(max_examples=40, deadline=None)
@given(
    inner=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 9), st.integers(2, 9)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    strides=st.tuples(*[st.integers(1, 3)] * 2),
    dilations=st.tuples(*[st.integers(1, 2)] * 2),
    shape=st.tuples(*[st.integers(18, 30)] * 2),
    seed=st.integers(0, 99),
)
def test_any_layer_unrolled(inner, kernel, pads, strides, dilations, shape, seed) -> None:
    proto = layer(np.random.default_rng(seed), inner, kernel, pads=pads, strides=strides, dilations=dilations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unroll, "_pays", lambda conv: conv.kernel[1] > 1)
        result = rewritten(unroll_rows, proto)
    rows, columns, _ = shapes(result)
    assert rows[0][1:] == (inner, 1, kernel[1])
    assert rows[0][0] % 8 == 0
    assert columns[0] == (12, rows[0][0], kernel[0], 1)
    assert agree(proto, result, integers(seed, 2, inner, *shape))


def test_several_layers_of_one_image_unrolled() -> None:
    rng = np.random.default_rng(0)
    weights = {"a": sparse(rng, 64, 1, 9, 9), "b": sparse(rng, 64, 1, 7, 9), "c": sparse(rng, 64, 1, 9, 7)}
    weights |= {"p": sparse(rng, 1, 64, 1, 1)}
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[4, 4, 4, 4]),
        node("Conv", ["lr", "b"], ["y"], pads=[3, 4, 3, 4]),
        node("Conv", ["lr", "c"], ["z"], pads=[4, 3, 4, 3]), node("Sum", ["x", "y", "z"], ["s"]),
        node("Conv", ["s", "p"], ["hr"]),
    ]  # fmt: skip
    proto = model(nodes, weights, out=1)
    result = rewritten(unroll_rows, proto)
    assert [s for s, _ in shapes(result)].count((16, 1, 1, 9)) == 2
    assert len(shapes(result)) == 4 + 3
    assert agree(proto, result, integers(0, 1, 1, 20, 21))


def test_unrolling_left_alone() -> None:
    rng = np.random.default_rng(0)
    last = {"p": sparse(rng, 1, 64, 1, 1)}

    def one(weight: np.ndarray, channels: int = 1, **attributes: object) -> onnx.ModelProto:
        nodes = [node("Conv", ["lr", "a"], ["x"], **attributes), node("Conv", ["x", "p"], ["hr"])]
        return model(nodes, {"a": weight, **last}, channels)

    assert len(ops(unroll_rows(one(sparse(rng, 64, 1, 9, 9))))) == 3
    assert_left(unroll_rows, one(sparse(rng, 64, 1, 9, 1)))  # a row of one tap
    assert_left(unroll_rows, one(sparse(rng, 64, 1, 1, 3)))  # a column of one tap
    assert_left(unroll_rows, one(sparse(rng, 64, 8, 9, 9), 8))
    assert_left(unroll_rows, one(sparse(rng, 64, 1, 9, 9), 2, group=2))
    assert_left(unroll_rows, one(sparse(rng, 64, 1, 9, 9), auto_pad="SAME_UPPER"))


def test_what_copies_only_copies() -> None:
    weight = copy_kernel(3, 5)
    assert weight.shape == (16, 3, 1, 5)
    assert np.array_equal(weight.sum(axis=(1, 2, 3)), [1] * 15 + [0])
    assert [np.argwhere(w).tolist()[0] for w in weight[:15]] == [
        [c, 0, x] for c in range(3) for x in range(5)
    ]
    kernel = integers(0, 4, 3, 2, 5)
    stands = vertical_kernel(kernel)
    assert np.array_equal(stands[:, :15, :, 0].reshape(4, 3, 5, 2), kernel.transpose(0, 1, 3, 2))
    assert not stands[:, 15:].any()


# Blocks.


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(9, 1, 5), (5, 1, 3), (5, 1, 9)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("b", [2, 4])
def test_models_like_srcnn_in_blocks(
    integer_model: Maker,
    monkeypatch: pytest.MonkeyPatch,
    scale: int,
    sizes: tuple[int, ...],
    channels: int,
    b: int,
) -> None:
    if any((k - 1) % b for k in sizes):
        return
    monkeypatch.setattr(space_to_depth, "BLOCKS", (b,))
    proto = onnx.load(integer_model(scale, sizes, channels)[0])
    result = rewritten(block_layers, proto)
    kinds = ops(result)
    assert kinds.count("SpaceToDepth") == 1
    assert kinds.count("Reshape") == 2
    a, f = analysis.analyse(proto), analysis.analyse(result)
    assert (f.kind, f.scale, f.margin) == (a.kind, a.scale, a.margin)
    assert f.period == b // math.gcd(b, scale)
    for k in (1, 2):
        size = [2 * a.margin + n * f.period for n in (k, 3)]
        assert agree(proto, result, integers(k, 2, channels, *size))


@pytest.mark.parametrize("rewrite", [block_layers, unroll_rows])
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.usefixtures("always")
def test_images_of_any_size_and_tile(integer_model: Maker, rewrite: object, scale: int) -> None:
    """The tiler uses the period and gives the file's image bit for bit."""
    proto = onnx.load(integer_model(scale, (9, 1, 5))[0])
    assert callable(rewrite)
    result = rewrite(proto)
    assert list(result.graph.node) != list(proto.graph.node)
    for h, w in ((37, 30), (1, 3), (12, 41)):
        image = integers(scale, h, w, 1)
        with Engine(proto.SerializeToString(), provider="cpu") as engine:
            expected = engine.upscale(image, data_range="dtype")
        for tile in (8, 13, 512):
            with Engine(result.SerializeToString(), provider="cpu", tile=tile) as engine:
                assert np.array_equal(engine.upscale(image, data_range="dtype"), expected)


@settings(max_examples=25, deadline=None)
@given(
    b=st.sampled_from([2, 4]),
    inner=st.integers(1, 3),
    sizes=st.tuples(*[st.integers(0, 2)] * 2).filter(any),
    between=st.lists(st.sampled_from(["Relu", "PRelu", "Conv", "Add", "Clip"]), max_size=4),
    seed=st.integers(0, 99),
)
def test_any_chain_in_blocks(b, inner, sizes, between, seed) -> None:
    rng = np.random.default_rng(seed)
    # The same total is lost on y and on x, which the tiler needs.
    tall, wide = (1 + b * k for k in sizes)
    weights = {
        "a": sparse(rng, 6, inner, tall, wide), "ab": integers(1, 6) - 1,
        "m": sparse(rng, 6, 6, 1, 1, taps=2), "slope": integers(seed, 6, 1, 1) - 1,
        "plane": integers(seed, 1, 6, 1, 1), "low": np.float32(-2),
        "z": sparse(rng, inner, 6, wide, tall), "zb": integers(3, inner),
    }  # fmt: skip
    more = {"PRelu": ["slope"], "Conv": ["m"], "Add": ["plane"], "Clip": ["low"]}
    nodes, at = [node("Conv", ["lr", "a", "ab"], ["t"])], "t"
    for k, op in enumerate(between):
        nodes.append(node(op, [at, *more.get(op, [])], [f"t{k}"]))
        at = f"t{k}"
    nodes += [node("Conv", [at, "z", "zb"], ["hr"], "last")]
    proto = model(nodes, weights, inner, out=inner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space_to_depth, "_MAX_COST_RATIO", 1e9)
        patch.setattr(space_to_depth, "BLOCKS", (b,))
        result = rewritten(block_layers, proto)
    assert "SpaceToDepth" in ops(result)
    size = [b * n + tall + wide - 2 for n in (9, 8)]
    assert agree(proto, result, integers(seed, 1, inner, *size))


def test_blocks_left_alone() -> None:
    rng = np.random.default_rng(0)
    weights = {"a": sparse(rng, 64, 1, 9, 9), "m": sparse(rng, 32, 64, 1, 1), "z": sparse(rng, 1, 32, 5, 5)}

    def three(
        first: dict[str, object] | None = None, weights: Weights = weights, **more: object
    ) -> onnx.ModelProto:
        nodes = [
            node("Conv", ["lr", "a"], ["x"], **(first or {})), node("Relu", ["x"], ["xr"]),
            node("Conv", ["xr", "m"], ["y"]), node("Relu", ["y"], ["yr"]), node("Conv", ["yr", "z"], ["hr"]),
        ]  # fmt: skip
        return model(nodes, weights, weights["a"].shape[1], **more)

    assert [n.op_type for n in rewritten(block_layers, three()).graph.node] == [
        "SpaceToDepth", "Conv", "Relu", "Reshape", "Conv", "Relu", "Reshape", "Conv", "DepthToSpace",
    ]  # fmt: skip
    assert_left(block_layers, three({"pads": [4] * 4}))
    assert_left(block_layers, three({"strides": [2, 2]}))
    assert_left(block_layers, three(size=(40, 40)))
    assert_left(block_layers, three(opset=10))
    assert_left(block_layers, three(weights=weights | {"a": sparse(rng, 64, 8, 9, 9)}))
    assert_left(block_layers, three(weights=weights | {"a": sparse(rng, 64, 1, 8, 9)}))  # not whole blocks
    assert_left(
        block_layers, three(weights=weights | {"m": sparse(rng, 32, 64, 2, 2)})
    )  # three layers with larger kernels
    # Dense enough already, so nothing is saved.
    dense = {"a": sparse(rng, 8, 4, 9, 9), "m": sparse(rng, 64, 8, 1, 1), "z": sparse(rng, 64, 64, 5, 5)}
    assert_left(block_layers, three(weights=dense))


@pytest.mark.parametrize("b", [2, 4])
def test_blocked_kernels_stand_at_every_place(b: int) -> None:
    weight = integers(0, 2, 3, 1 + 2 * b, 1 + b).astype(np.float64)
    made = blocked(weight, b).reshape(b, b, 2, b, b, 3, 3, 2)
    # (taps by blocks) as single samples.
    samples = made.transpose(0, 1, 2, 5, 6, 3, 7, 4).reshape(b, b, 2, 3, 3 * b, 2 * b)
    for y in range(b):
        for x in range(b):
            expected = np.pad(weight, [(0, 0), (0, 0), (y, b - 1 - y), (x, b - 1 - x)])
            assert np.array_equal(samples[y, x], expected)


# Costs.


def test_tensor_cores_compute_eight_channels() -> None:
    assert [tensor_core_cost.padded_channels(n) for n in (1, 8, 9)] == [8, 8, 16]
    assert tensor_core_cost.executed(64, 1, (9, 9)) == 64 * 8 * 81
    assert tensor_core_cost.executed(20, 5, (3, 1), 2) == 2 * 16 * 8 * 3
    weights = {"a": integers(0, 20, 1, 3, 3), "d": integers(1, 2, 20, 3, 3), "five": np.float32(5)}
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[1] * 4), node("Relu", ["x"], ["xr"]),
        node("Conv", ["xr", "d"], ["y"], pads=[1] * 4), node("Add", ["y", "five"], ["z"]),
        node("Relu", ["z"], ["hr"]),
    ]  # fmt: skip
    work = tensor_work(model(nodes, weights))
    assert work.useful == 20 * 9 + 2 * 20 * 9
    assert work.layers == {"x": 24 * 8 * 9, "y": 8 * 24 * 9}
    assert work.executed == sum(work.layers.values())
    # One channel and twenty are copied to eight and twenty-four; the first Relu is part of its layer.
    samples = (1 + 20 + (1 + 8)) + (20 + 2 + (20 + 24)) + (2 + 2) + (2 + 2)
    assert work.moved == 2 * samples
    assert work.cost == work.executed + 100 * work.moved


def test_views_cost_nothing_and_images_of_a_view_count() -> None:
    weights = {"a": integers(0, 16, 1, 1, 1), "m": integers(1, 4, 4, 1, 1), "z": integers(1, 1, 16, 1, 1)}
    weights |= {"s": np.array([-1, 4, 0, 0]), "t": np.array([-1, 16, 0, 0])}
    nodes = [
        node("Conv", ["lr", "a"], ["x"]), node("Reshape", ["x", "s"], ["v"]), node("Conv", ["v", "m"], ["y"]),
        node("Reshape", ["y", "t"], ["w"]), node("Conv", ["w", "z"], ["hr"]),
    ]  # fmt: skip
    work = tensor_work(model(nodes, weights))
    assert work.layers == {"x": 16 * 8, "y": 4 * 8 * 8, "hr": 8 * 16}
    assert work.useful == 16 + 4 * 16 + 16
    assert work.moved == 2 * ((1 + 16 + 9) + (16 + 16 + 4 * 12) + (16 + 1))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        # Eight rows of eight copies per phase; the grid of a phase has every fourth position.
        (
            "phases+unrolled",
            {(8, 1): 8 * 8 * 8, (64, 8): 64 * 8 * 8, (32, 64): 32 * 64, (16, 32): 16 * 32 * 4},
        ),
        # The enlarged LR image: 9 taps in 16 channels; the last layer in blocks of 4.
        (
            "narrow+unrolled",
            {(16, 1): 16 * 8 * 9, (64, 16): 64 * 16 * 9, (32, 64): 32 * 64, (16, 32): 16 * 32 * 4},
        ),
        ("blocks", {(1024, 16): 64 * 16 * 9, (32, 64): 32 * 64, (16, 512): 512 * 4}),
    ],
)  # fmt: skip
def test_what_the_variants_of_915_execute(name: str, layers: dict[tuple[int, int], float]) -> None:
    made = variants(spec.parse(network_program(*spec.load("srcnn-915-x2")).data))[name]
    found: dict[tuple[int, int], float] = {}
    convs = [n for n in made.graph.node if n.op_type == "Conv"]
    work = tensor_work(made)
    for conv, (shape, _) in zip(convs, shapes(made), strict=True):
        if shape[2:] != (5, 5) or shape[:2] != (4, 1):  # bicubic
            found[shape[:2]] = found.get(shape[:2], 0.0) + work.layers[conv.output[0]]
    assert found == pytest.approx(layers, rel=5e-3)


# All variants.


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.usefixtures("always")
def test_every_variant_is_the_same_function(integer_model: Maker, scale: int, sizes: tuple[int, ...]) -> None:
    proto = onnx.load(integer_model(scale, sizes)[0])
    before = proto.SerializeToString(deterministic=True)
    found = variants(proto)
    assert proto.SerializeToString(deterministic=True) == before
    costs = [tensor_work(made).cost for made in found.values()]
    assert costs == sorted(costs)
    assert {"file", "narrow", "file+unrolled", "narrow+unrolled"} <= set(found)
    a = analysis.analyse(proto)
    for made in found.values():
        onnx.checker.check_model(made, full_check=True)
        facts = analysis.analyse(made)
        assert (facts.kind, facts.scale, facts.margin) == (a.kind, a.scale, a.margin)
        side = 2 * a.margin + 2 * facts.period
        assert agree(proto, made, integers(scale, 1, 1, side, side + facts.period))


@pytest.mark.parametrize("name", bundled())
def test_variants_of_the_bundled_models(name: str, rng: np.random.Generator) -> None:
    """Variants agree within float32's rounding, and can be converted to float16."""
    proto = spec.parse(network_program(*spec.load(name)).data)
    found = variants(proto)
    facts = analysis.analyse(proto)
    bases = {"file", "narrow"} | ({"folded"} if facts.scale > 1 else set())
    bases |= {"phases", "blocks"} if "-915-" in name else set()
    unrolled = {f"{base}+unrolled" for base in bases - {"blocks"}}
    if name.startswith("compact"):  # the rewrites are for wide kernels after an enlargement
        bases, unrolled = {"file", "narrow"} if facts.scale == 1 else {"file"}, set()
    assert set(found) == bases | unrolled
    n = 2 * facts.margin + 12
    x = rng.integers(0, 256, (1, facts.channels, n, n)).astype(np.float32) / np.float32(255)
    expected = run(proto, x)
    for made in found.values():
        assert analysis.analyse(made).margin == facts.margin
        assert np.abs(run(made, x) - expected).max() <= 3e-6 * max(1, np.abs(expected).max())
        # Bounds multiply through layers; those of twelve layers say nothing, and values are measured.
        half = for_float16(made, run=lambda graph, window: run(graph, window))
        assert half.proven == ("m10c32" not in name)
        assert np.sqrt(np.mean((run(simulated(half.model), x) - expected) ** 2)) <= 3e-3


def test_variants_of_others() -> None:
    """A model in multiples of eight, and one that cannot be traced, have the file's graph only."""
    rng = np.random.default_rng(0)
    weights = {"a": normal(rng, 16, 8, 3, 3), "b": normal(rng, 8, 16, 3, 3), "s": np.array([0, -1])}
    nodes = [node("Conv", ["lr", "a"], ["x"], pads=[1] * 4), node("Conv", ["x", "b"], ["hr"], pads=[1] * 4)]
    assert set(variants(model(nodes, weights, 8, out=8))) <= {"file", "narrow"}
    strange = [nodes[0], node("CumSum", ["x", "axis"], ["y"]), node("Conv", ["y", "b"], ["hr"], pads=[1] * 4)]
    proto = model(strange, weights | {"axis": np.array(2)}, 8, out=8)
    assert list(variants(proto)) == ["file"]


def fsrcnn(rng: np.random.Generator) -> onnx.ModelProto:
    """FSRCNN has 56 and 12 channels."""
    weights = {
        "a": sparse(rng, 56, 1, 5, 5), "s": sparse(rng, 12, 56, 1, 1, taps=3), "m": sparse(rng, 12, 12, 3, 3),
        "e": sparse(rng, 56, 12, 1, 1, taps=3), "d": sparse(rng, 4, 56, 3, 3),
        "p": np.full((12, 1, 1), 2, np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["lr", "a"], ["x"], pads=[2] * 4), node("Relu", ["x"], ["xr"]),
        node("Conv", ["xr", "s"], ["y"]), node("PRelu", ["y", "p"], ["yr"]),
        node("Conv", ["yr", "m"], ["z"], pads=[1] * 4),
        node("PRelu", ["z", "p"], ["zr"]), node("Conv", ["zr", "e"], ["w"]), node("Relu", ["w"], ["wr"]),
        node("Conv", ["wr", "d"], ["v"], pads=[1] * 4), node("DepthToSpace", ["v"], ["hr"], blocksize=2),
    ]  # fmt: skip
    return model(nodes, weights, out=1)


def test_a_padded_model_of_uneven_widths() -> None:
    proto = fsrcnn(np.random.default_rng(0))
    found = variants(proto)
    assert any("unrolled" in name for name in found)
    for shape in ((1, 1), (9, 12), (20, 17)):
        x = integers(0, 1, 1, *shape)
        for made in found.values():
            assert agree(proto, made, x)
    assert all(same_receptive_field(proto, made) for name, made in found.items() if name.startswith("file"))


# Mutants: an error by one must be noticed.


def spoiled(integer_model: Maker, rewrite: Callable[[onnx.ModelProto], onnx.ModelProto]) -> bool:
    proto = onnx.load(integer_model(2, (9, 1, 5))[0])
    facts = analysis.analyse(proto)
    return not agree(proto, rewrite(proto), integers(0, 1, 1, *[2 * facts.margin + 8] * 2))


@pytest.mark.usefixtures("always")
def test_the_machinery_of_the_mutants_is_innocent(integer_model: Maker) -> None:
    assert not spoiled(integer_model, unroll_rows)
    assert not spoiled(integer_model, block_layers)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("place", [0, 4, 8, -1])
def test_a_copy_of_the_wrong_sample_is_caught(
    integer_model: Maker, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    def wrong(channels: int, width: int) -> np.ndarray:
        weight = copy_kernel(channels, width)
        weight[place % width] = np.roll(weight[place % width], 1, axis=-1)
        return weight

    monkeypatch.setattr(unroll, "copy_kernel", wrong)
    assert spoiled(integer_model, unroll_rows)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("axis", [1, 2])
def test_a_standing_kernel_that_is_off_by_one_is_caught(
    integer_model: Maker, monkeypatch: pytest.MonkeyPatch, axis: int
) -> None:
    monkeypatch.setattr(
        unroll, "vertical_kernel", lambda weight: np.roll(vertical_kernel(weight), 1, axis=axis)
    )
    assert spoiled(integer_model, unroll_rows)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_block_out_of_place_is_caught(
    integer_model: Maker, monkeypatch: pytest.MonkeyPatch, axis: int
) -> None:
    monkeypatch.setattr(
        space_to_depth, "blocked", lambda weight, b: np.roll(blocked(weight, b), 1, axis=axis)
    )
    assert spoiled(integer_model, block_layers)


@pytest.mark.usefixtures("always")
def test_a_wrong_view_is_caught(integer_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels come first, as in CRD mode."""
    real = np.tile
    monkeypatch.setattr(space_to_depth.np, "tile", lambda a, n: np.repeat(a, n))
    assert spoiled(integer_model, block_layers)
    monkeypatch.setattr(space_to_depth.np, "tile", real)
