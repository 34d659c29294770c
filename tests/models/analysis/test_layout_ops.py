"""Axes that are split, joined and reordered: tokens, windows of attention, parts of channels."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from srcnn_rt import Engine, ModelError
from srcnn_rt.evaluation.seam_check import verify
from srcnn_rt.models import spec
from tests.helpers.models import model, node, normal
from tests.models.analysis.test_sizes import check, classes

C = 6  # channels inside


class Build:
    """A chain of nodes on `at`, whose weights get names of their own."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.at = "lr"

    def weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = value
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        self.at = f"t{len(self.nodes)}"
        self.nodes.append(node(op, list(inputs), [self.at], **attributes))
        return self.at

    def shape(self, *sizes: int | str) -> str:
        """A shape of numbers and of sizes of the image divided: "y", "x/4"."""
        parts = []
        for size in sizes:
            if isinstance(size, int):
                parts.append(self.weight(np.array([size])))
                continue
            name, _, by = size.partition("/")
            whole = self.add("Shape", "lr")
            one = self.add("Gather", whole, self.weight(np.array(["n", "c", "y", "x"].index(name))))
            one = self.add("Unsqueeze", one, self.weight(np.array([0])))
            parts.append(self.add("Div", one, self.weight(np.array([int(by)]))) if by else one)
        return self.add("Concat", *parts, axis=0)

    def conv(self, out: int, inner: int, k: int = 3) -> None:
        self.add("Conv", self.at, self.weight(normal(self.rng, out, inner, k, k)), pads=[k // 2] * 4)

    def reshape(self, *sizes: int | str) -> None:
        at = self.at
        self.add("Reshape", at, self.shape(*sizes))

    def transpose(self, *perm: int) -> None:
        self.add("Transpose", self.at, perm=list(perm))

    def linear(self, inner: int, out: int) -> str:
        return self.add("MatMul", self.at, self.weight(normal(self.rng, inner, out)))

    def done(self) -> onnx.ModelProto:
        self.conv(1, C)
        self.nodes[-1].output[0] = "hr"
        return model(self.nodes, self.weights, out=1)


def tokens() -> onnx.ModelProto:
    """Rows and columns become one axis of tokens, with a layer norm and a layer on each."""
    b = Build()
    b.conv(C, 1)
    b.reshape("n", C, -1)
    b.transpose(0, 2, 1)
    b.add("LayerNormalization", b.at, b.weight(np.ones(C, np.float32)), axis=-1)
    b.linear(C, C)
    b.transpose(0, 2, 1)
    b.reshape("n", C, "y", "x")
    return b.done()


def attention(
    size: int, *, einsum: bool = False, across: bool = False, position: bool = True
) -> onnx.ModelProto:
    """Attention within windows of size x size; with `across` over the same pixel of all windows."""
    b = Build()
    b.conv(C, 1)
    b.reshape("n", C, f"y/{size}", size, f"x/{size}", size)
    b.transpose(0, 2, 4, 3, 5, 1)
    b.reshape(-1, size * size, C)
    if across:
        b.transpose(1, 0, 2)
    at = b.at
    q = b.linear(C, C)
    b.at = at
    k = b.linear(C, C)
    b.at = at
    v = b.linear(C, C)
    if einsum:
        scores = b.add("Einsum", q, k, equation="wic,wjc->wij")
    else:
        scores = b.add("MatMul", q, b.add("Transpose", k, perm=[0, 2, 1]))
    if position and not across:
        scores = b.add("Add", scores, b.weight(b.rng.random((1, size**2, size**2), np.float32)))
    weights = b.add("Softmax", scores, axis=-1)
    b.add("Einsum", weights, v, equation="wij,wjc->wic") if einsum else b.add("MatMul", weights, v)
    if across:
        b.transpose(1, 0, 2)
    b.reshape("n", f"y/{size}", f"x/{size}", size, size, C)
    b.transpose(0, 5, 1, 3, 2, 4)
    b.reshape("n", C, "y", "x")
    return b.done()


def proven(proto: onnx.ModelProto, tmp_path: Path) -> spec.ModelSpec:
    """Tiles give the same as the whole image, and the derived margin is exact."""
    check(proto, classes(proto))
    onnx.save(proto, tmp_path / "m.onnx")
    assert [c for c in verify(tmp_path / "m.onnx") if c.passed is False] == []
    return spec.load(tmp_path / "m.onnx")[1]


def refused(proto: onnx.ModelProto, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        spec.describe(proto.SerializeToString(), "m")
    for word in words:
        assert word in str(caught.value)


def test_tokens(tmp_path: Path) -> None:
    described = proven(tokens(), tmp_path)
    assert (described.margin, described.facts.period) == (2, 1)


@pytest.mark.parametrize("einsum", [False, True])
@pytest.mark.parametrize("size", [2, 4, 5])
def test_attention_within_windows(tmp_path: Path, size: int, einsum: bool) -> None:
    """The pixel behind a core reads all of the next window, and one more by the convolution before it."""
    described = proven(attention(size, einsum=einsum), tmp_path)
    assert (described.facts.period, described.facts.y.multiple) == (size, size)
    assert described.margin == size + 1


def test_attention_across_windows_is_refused() -> None:
    refused(attention(4, across=True), "(MatMul): multiplies along rows or columns", "--no-tiling")
    refused(attention(4, across=True, einsum=True), "(Einsum): multiplies along rows or columns")


def test_windows_that_are_moved_on_are_refused() -> None:
    """Shifted windows move rows from one end to the other."""
    b = Build()
    b.conv(C, 1)
    at = b.at
    two, far, axes = (b.weight(np.array([n])) for n in (2, 2**31 - 1, 2))
    below = b.add("Slice", at, two, far, axes)
    above = b.add("Slice", at, b.weight(np.array([0])), two, axes)
    b.add("Concat", below, above, axis=2)
    refused(b.done(), "(Concat): joins along rows or columns")


def test_windows_of_layers_with_kernels(tmp_path: Path) -> None:
    """A convolution and a mean within each window, padded there, do not cross its border."""
    b = Build()
    b.conv(C, 1)
    b.reshape("n", C, "y/4", 4, "x/4", 4)
    b.transpose(0, 2, 4, 1, 3, 5)
    b.reshape(-1, C, 4, 4)
    b.conv(C, C)
    at = b.at
    b.add("Mul", at, b.add("GlobalAveragePool", at))
    b.reshape("n", "y/4", "x/4", C, 4, 4)
    b.transpose(0, 3, 1, 4, 2, 5)
    b.reshape("n", C, "y", "x")
    described = proven(b.done(), tmp_path)
    assert (described.facts.period, described.margin) == (4, 5)


def scattered(index: np.ndarray, *, rows: bool = False) -> onnx.ModelProto:
    """The first two channels, or `rows`, are convolved and written back."""
    b = Build()
    b.conv(C, 1)
    at = b.at
    start, end = b.weight(np.array([0])), b.weight(np.array([2]))
    b.add("Slice", at, start, end, b.weight(np.array([2 if rows else 1])))
    b.conv(C if rows else 2, C if rows else 2, 5)
    b.add("ScatterND", at, b.weight(index), b.at)
    return b.done()


def test_a_part_of_the_channels(tmp_path: Path) -> None:
    pairs = np.array([[[0, 0], [0, 1]]])  # batch, channel
    described = proven(scattered(pairs), tmp_path)
    assert (described.margin, described.batch) == (4, 1)
    refused(scattered(np.array([[[0, 5], [0, 6]]])), "(ScatterND): writes outside of (1, 6)")
    refused(scattered(np.array([[[0, 5]]])), "(ScatterND): (1, 1, 2) indices for samples of shape")
    places = np.stack(np.meshgrid([0], range(C), [0, 1], indexing="ij"), axis=-1)
    refused(scattered(places, rows=True), "(ScatterND): writes to single rows, columns or pixels")


def test_channels_are_repeated(tmp_path: Path) -> None:
    def tiled(*repeats: int) -> onnx.ModelProto:
        b = Build()
        b.conv(C // 2, 1)
        b.add("Tile", b.at, b.weight(np.array(repeats)))
        return b.done()

    assert proven(tiled(1, 2, 1, 1), tmp_path).margin == 2
    refused(tiled(1, 2, 2, 1), "(Tile): repeats rows or columns")
    refused(tiled(1, 2), "(Tile): 2 repeats for 4 axes")


def test_a_product_of_two_matrices_of_channels(tmp_path: Path) -> None:
    b = Build()
    b.conv(C, 1)
    b.transpose(0, 2, 3, 1)
    at = b.at
    b.add("Einsum", at, b.weight(normal(b.rng, C, C)), equation="nhwc,ck->nhwk")
    b.transpose(0, 3, 1, 2)
    assert proven(b.done(), tmp_path).margin == 2
    for equation, words in (
        ("nhwc,cw->nhw", "multiplies along rows or columns"),
        ("nhwc,ck->nhw...", "cannot be analysed"),
        ("nhwc,ckk->nhwk", "cannot be analysed"),
        ("nhwc,nhwk->nck", "multiplies along rows or columns"),
    ):
        b = Build()
        b.conv(C, 1)
        b.transpose(0, 2, 3, 1)
        sides = {"cw": 2, "ck": 2, "ckk": 3}.get(equation.split(",")[1].split("->")[0])
        second = b.weight(normal(b.rng, *[C] * sides)) if sides else b.at
        b.add("Einsum", b.nodes[-1].output[0], second, equation=equation)
        refused(b.done(), words)


def test_what_depends_on_the_channels_alone_is_constant(tmp_path: Path) -> None:
    """A weight is reshaped by the number of channels in the image's shape."""
    b = Build()
    b.conv(C, 1)
    at = b.at
    channels = b.add("Gather", b.add("Shape", at), b.weight(np.array([1])))
    ones = b.weight(np.array([1]))
    shape = b.add("Concat", ones, channels, ones, ones, axis=0)
    b.add("Mul", at, b.add("Reshape", b.weight(b.rng.random(C, np.float32)), shape))
    assert proven(b.done(), tmp_path).margin == 2
    b = Build()
    b.conv(C, 1)
    at = b.at
    shape = b.add("Cast", b.add("Shape", at), to=TensorProto.FLOAT)
    b.add("Mul", at, b.add("Reshape", shape, b.weight(np.array([1, 4, 1, 1]))))
    b.conv(C, C)
    refused(b.done(), "depends on the image's size")


def test_one_image_at_a_time_where_shapes_are_written_for_one(tmp_path: Path) -> None:
    b = Build()
    b.conv(C, 1)
    b.reshape(1, C, -1)
    b.reshape(1, C, "y", "x")
    assert proven(b.done(), tmp_path).batch == 1
    b = Build()
    b.conv(C, 1)
    b.reshape("n", C, -1)
    b.reshape("n", C, "y", "x")
    assert proven(b.done(), tmp_path).batch is None
    for op in ("Slice", "ReduceMean", "Softmax"):  # e.g. the first image of a batch is added to all
        b = Build()
        b.conv(C, 1)
        at = b.at
        if op == "Slice":
            b.add(op, at, *(b.weight(np.array([k])) for k in (0, 1, 0)))
        elif op == "ReduceMean":
            b.add(op, at, axes=[0])
        else:
            b.add(op, at, axis=0)
        b.add("Add", at, b.at)
        assert proven(b.done(), tmp_path).batch == 1


def test_parameters_that_vary_over_the_image_are_refused() -> None:
    """A window of fixed size may have a parameter per row, or per token."""

    def fixed(b: Build) -> onnx.ModelProto:
        proto = b.done()
        del proto.graph.input[:]
        proto.graph.input.append(helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 1, 8, 8]))
        return proto

    def rows_of(count: int, op: str) -> onnx.ModelProto:
        b = Build()
        b.transpose(0, 2, 3, 1)
        at = b.at
        numbers = [b.weight(b.rng.random(count, np.float32)) for _ in range(4)]
        if op == "BatchNormalization":
            b.add(op, at, *numbers)
        elif op == "InstanceNormalization":
            b.reshape(1, 64, 1)
            b.add(op, b.at, *(b.weight(b.rng.random(64, np.float32)) for _ in range(2)))
            b.reshape(1, 8, 8, 1)
        else:  # a product with a bias for each token
            b.reshape(64, 1)
            weight, bias = (b.weight(b.rng.random(n, np.float32)) for n in ((1, 1), (64, 1)))
            b.add(op, b.at, weight, bias)
            b.reshape(1, 8, 8, 1)
        b.transpose(0, 3, 1, 2)
        b.conv(C, 1)
        return fixed(b)

    for op in ("BatchNormalization", "InstanceNormalization", "Gemm"):
        refused(rows_of(8, op), f"({op}):", "over the image")
    b = Build()
    b.add("Mul", "lr", b.weight(np.ones((2, 1, 1, 1), np.float32)))
    b.conv(C, 1)
    refused(b.done(), "returns 2 images for 1")


def at_a_grid(grid: np.ndarray, mode: str = "linear") -> onnx.ModelProto:
    b = Build()
    b.add("GridSample", "lr", b.weight(grid.astype(np.float32)), mode=mode, padding_mode="border")
    b.nodes[-1].output[0] = "hr"
    proto = model(b.nodes, b.weights, out=1)
    del proto.graph.input[:]
    proto.graph.input.append(helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 1, 32, 32]))
    proto.opset_import[0].version = 20
    return proto


def grid(count: int) -> np.ndarray:
    """Return the centres of `count` pixels on both axes, from -1 to 1."""
    at = (2 * np.arange(count) + 1) / count - 1
    return np.stack(np.meshgrid(at, at, indexing="xy"), axis=-1)[None]


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_an_even_grid_is_an_enlargement(mode: str) -> None:
    """Enlarging a window of fixed size gives the same as interpolating the whole image."""
    proto = at_a_grid(grid(64), mode)
    described = spec.describe(proto.SerializeToString(), "m")
    assert (described.scale, described.facts.y.fixed) == (2, 32)
    image = np.random.default_rng(0).random((50, 71), np.float32)
    resize = [node("Resize", ["lr", "", "factors"], ["hr"], mode=mode, cubic_coeff_a=-0.75,
                   nearest_mode="round_prefer_ceil")]  # fmt: skip
    by_factor = model(resize, {"factors": np.array([1, 1, 2, 2], np.float32)}, out=1)
    results = []
    for made in (proto, by_factor):
        with Engine(made.SerializeToString(), provider="cpu", tile=16) as engine:
            results.append(engine.upscale(image))
    inner = (slice(8, -8),) * 2  # at the border one repeats the edge, and the other mirrors
    assert np.abs(results[0] - results[1])[inner].max() <= 2e-5


def test_grids_that_are_not_even_are_refused() -> None:
    bent = grid(64)
    bent[0, :, 10, 0] += 0.2
    refused(at_a_grid(bent), "(GridSample): its grid is not even")
    refused(at_a_grid(bent + 0.01 * grid(64)[..., ::-1]), "(GridSample): its grid is bent or rotated")
    b = Build()
    b.conv(2, 1)
    b.transpose(0, 2, 3, 1)
    b.add("GridSample", "lr", b.at)
    b.nodes[-1].output[0] = "hr"
    proto = model(b.nodes, b.weights, out=1)
    proto.opset_import[0].version = 20
    refused(proto, "(GridSample): samples at positions computed from the image")


def test_an_output_without_a_shape() -> None:
    b = Build()
    b.conv(C, 1)
    proto = b.done()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    with Engine(proto.SerializeToString(), provider="cpu", tile=16) as engine:
        got = engine.upscale(np.random.default_rng(0).random((40, 50), np.float32))
    assert got.shape == (40, 50)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    windows=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4])),
    order=st.permutations(range(6)),
    joined=st.integers(1, 5),
    kernel=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_random_orders(
    windows: tuple[int, int], order: list[int], joined: int, kernel: int, seed: int
) -> None:
    """Windows of any shape, with axes in any order, some of them merged, and a softmax over the last axis."""
    b = Build(seed)
    b.conv(C, 1, kernel)
    wy, wx = windows
    axes = ["n", C, f"y/{wy}", wy, f"x/{wx}", wx]
    b.reshape(*axes)
    b.transpose(*order)
    sizes = [axes[k] for k in order]
    b.reshape(-1, *sizes[joined:])
    b.add("Softmax", b.at, axis=-1)
    b.reshape(*sizes)
    b.transpose(*np.argsort(order).tolist())
    b.reshape("n", C, "y", "x")
    proto = b.done()
    mixed = order[5] in (2, 4)
    try:
        spec.describe(proto.SerializeToString(), "m")
    except ModelError as error:
        assert mixed, error
        return
    assert not mixed
    check(proto, classes(proto)[:3])


def scrambled(seed: int) -> onnx.ModelProto:
    """Windows with reordered and merged axes, and operators along any of them."""
    b = Build(seed)
    draw = random.Random(seed)
    b.conv(C, 1, draw.choice([1, 3]))
    wy, wx = draw.choice([1, 2, 2, 3, 4]), draw.choice([1, 2, 2, 4])
    axes = ["n", C, f"y/{wy}", wy, f"x/{wx}", wx]
    order = draw.sample(range(6), 6)
    b.reshape(*axes)
    b.transpose(*order)
    sizes = [axes[k] for k in order]
    for _ in range(draw.randint(1, 2)):
        start = draw.randint(0, 5)
        stop = draw.randint(start + 1, 6)
        joined = [*sizes[:start], -1, *sizes[stop:]] if stop - start > 1 else sizes
        b.reshape(*joined)
        along(b, draw, len(joined), joined[1:2] == [C])
        b.reshape(*sizes)
    b.transpose(*np.argsort(order).tolist())
    b.reshape("n", C, "y", "x")
    return b.done()


def along(b: Build, draw: random.Random, rank: int, images: bool) -> None:
    """Add one operator along an axis of `rank`, which keeps the shape."""
    at, axis = b.at, draw.randint(0, rank - 1)
    match draw.choice(["softmax", "reduce", "product", "sum", "slice", "gather", "conv"]):
        case "softmax":
            b.add("Softmax", at, axis=axis)
        case "reduce":
            op = draw.choice(["ReduceMean", "ReduceMax", "ReduceMin"])
            b.add("Sub", at, b.add(op, at, axes=[axis], keepdims=1))
        case "product" if rank >= 3:
            perm = [*range(rank - 2), rank - 1, rank - 2]
            scores = b.add("MatMul", at, b.add("Transpose", at, perm=perm))
            b.add("MatMul", b.add("Softmax", scores, axis=-1), at)
        case "sum":
            letters = "abcdef"[:rank]
            equation = f"{letters}->{letters.replace(letters[axis], '')}"
            b.add("Einsum", at, equation=equation)
            b.add("Add", at, b.add("Unsqueeze", b.at, b.weight(np.array([axis]))))
        case "slice":
            b.add("Add", at, b.add("Slice", at, *(b.weight(np.array([k])) for k in (0, 1, axis))))
        case "gather":
            b.add("Add", at, b.add("Gather", at, b.weight(np.array([0])), axis=axis))
        case "conv" if rank == 4 and images:
            b.conv(C, C)


def check_scrambled(seed: int) -> None:
    proto = scrambled(seed)
    try:
        spec.describe(proto.SerializeToString(), "m")
    except ModelError:
        return
    check(proto, classes(proto)[:: max(1, len(classes(proto)) // 3)])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6))
def test_random_operators(seed: int) -> None:
    check_scrambled(seed)


@pytest.mark.slow
def test_many_random_operators() -> None:
    for seed in range(300):
        check_scrambled(seed)
