"""Sizes: what a model takes is what its file takes, and every fact holds in every class of sizes.

Networks of one image's size rounded by strides and pools, and brought back by factors or by sizes that
depend on it: each is refused, or tiled as the file runs it, at sizes of every class modulo the period.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srcnn_rt import Engine, ModelError
from srcnn_rt.execution import self_check
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.analysis import facts as analysis
from srcnn_rt.models.margins import rules_for
from srcnn_rt.tiling import geometry
from tests.helpers.models import model, node, normal, run

TILES = (9, 16, 500)


def whole(proto: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """Run the file's own graph on an image mirrored up to a size that it takes."""
    described = spec.describe(proto.SerializeToString(), "m")
    sizes = [rule.extended(n) for rule, n in zip(rules_for(described), image.shape, strict=True)]
    pads = [(0, m - n) for m, n in zip(sizes, image.shape, strict=True)]
    out = run(proto, np.pad(image, pads, mode="symmetric")[None, None])[0, 0]
    s = described.scale
    return out[: s * image.shape[0], : s * image.shape[1]]


def check(proto: onnx.ModelProto, shapes: list[tuple[int, int]]) -> None:
    data = proto.SerializeToString()
    rng = np.random.default_rng(0)
    for shape in shapes:
        image = rng.random(shape, np.float32)
        expected = whole(proto, image)
        for tile in TILES:
            with Engine(data, provider="cpu", tile=tile) as engine:
                got = engine.upscale(image)
            assert np.abs(got - expected).max() <= 2e-5 * max(1, np.abs(expected).max()), (shape, tile)


def classes(proto: onnx.ModelProto) -> list[tuple[int, int]]:
    """Return sizes in every class modulo the period of either axis."""
    facts = spec.describe(proto.SerializeToString(), "m").facts
    base = 2 * facts.margin + 20
    return [(base + k, base + (3 * k + 1) % (2 * facts.period)) for k in range(2 * facts.period)]


def pooled(mode: str, ceil: int = 0) -> onnx.ModelProto:
    """Halve the size, then enlarge to the input's size: by 161/80 for 161."""
    nodes = [
        node("MaxPool", ["lr"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil),
        node("Shape", ["lr"], ["s"]),
        node("Resize", ["p", "", "", "s"], ["r"], mode=mode, coordinate_transformation_mode="half_pixel"),
        node("Add", ["r", "lr"], ["hr"]),
    ]  # fmt: skip
    return model(nodes, {}, out=1)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_a_factor_that_depends_on_the_size(mode: str, ceil: int) -> None:
    proto = pooled(mode, ceil)
    facts = spec.describe(proto.SerializeToString(), "m").facts
    assert (facts.y.period, facts.y.multiple, facts.x.multiple) == (2, 2, 2)
    check(proto, [(160, 161), (161, 161), (163, 90)])


def test_a_size_that_is_always_the_same_is_refused() -> None:
    nodes = [
        node("Resize", ["lr", "", "", "size"], ["r"], mode="linear"),
        node("Shape", ["lr"], ["s"]),
        node("Resize", ["r", "", "", "s"], ["hr"], mode="linear"),
    ]
    proto = model(nodes, {"size": np.array([1, 1, 3360, 3360])}, out=1)
    with pytest.raises(ModelError, match="scaled by a factor that depends on the image's size"):
        spec.describe(proto.SerializeToString(), "m")


def unshuffled(rng: np.random.Generator, branch: int) -> onnx.ModelProto:
    """Unshuffle 2, convolutions, shuffle 2, and a branch of a larger stride that is cropped to size."""
    weights = {"a": normal(rng, 8, 4, 3, 3), "b": normal(rng, 4, 8, 3, 3)}
    nodes = [
        node("SpaceToDepth", ["lr"], ["u"], blocksize=2),
        node("Conv", ["u", "a"], ["x"], pads=[1] * 4), node("Relu", ["x"], ["y"]),
        node("Conv", ["y", "b"], ["z"], pads=[1] * 4),
    ]  # fmt: skip
    last = "z"
    if branch > 1:
        weights |= {
            "c": normal(rng, 8, 8, 3, 3), "d": normal(rng, 8, 4, 2, 2), "from": np.array([0, 0]),
            "axes": np.array([2, 3]), "two": np.array([2]), "four": np.array([4]),
        }  # fmt: skip
        nodes += [
            node("Conv", ["y", "c"], ["c1"], strides=[2, 2], pads=[1] * 4),
            node("ConvTranspose", ["c1", "d"], ["c2"], strides=[2, 2]),
            node("Shape", ["z"], ["s"]), node("Slice", ["s", "two", "four"], ["hw"]),
            node("Slice", ["c2", "from", "hw", "axes"], ["c3"]), node("Add", ["z", "c3"], ["sum"]),
        ]  # fmt: skip
        last = "sum"
    nodes.append(node("DepthToSpace", [last], ["hr"], blocksize=2, mode="CRD"))
    return model(nodes, weights, out=1)


@pytest.mark.parametrize("branch", [1, 2])
def test_legal_sizes_are_those_of_the_file(branch: int, rng: np.random.Generator) -> None:
    """The file takes every even size; its period, or that of its rewritten graph, is larger."""
    proto = unshuffled(rng, branch)
    described = spec.describe(proto.SerializeToString(), "m")
    assert described.facts.y.multiple == 2
    assert described.facts.y.period == 2 * branch
    ready = prepare.build_program(proto.SerializeToString(), described)
    assert (ready.spec.facts.y.multiple, ready.spec.facts.x.minimum) == (2, described.facts.x.minimum)
    for shape in ((50, 70), (66, 46), (52, 64)):
        image = rng.random(shape, np.float32)
        expected = run(proto, image[None, None])[0, 0]  # by the file itself, without mirroring
        for tile in TILES:
            with Engine(proto.SerializeToString(), provider="cpu", tile=tile) as engine:
                assert np.abs(engine.upscale(image) - expected).max() <= 2e-5
    check(proto, classes(proto))


@pytest.mark.parametrize("down", ["floor", "ceil", "stride"])
@pytest.mark.parametrize("up", ["factor", "size"])
def test_the_tests_can_fail(
    down: str, up: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every size is treated as valid, tiles differ."""
    proto = unet(rng, [(down, 3)], [up], pad=0, channels=4)
    check(proto, classes(proto))
    if up == "factor":
        return

    def traced(self: analysis._Analysis, axis: int, n: int, rates: object) -> bool:
        try:
            self._at(axis, n)
        except ModelError:
            return False
        return True

    monkeypatch.setattr(analysis._Analysis, "_same", traced)
    with pytest.raises(AssertionError):
        check(proto, [(101, 103), (99, 105)])


def shifted(block: int) -> onnx.ModelProto:
    """The remainder of a multiple is padded at the top, so blocks move with the class of sizes."""
    weights = {
        "two": np.array([2]), "four": np.array([4]), "none": np.array([0, 0]), "block": np.array([block]),
        "factors": np.array([1, 1, block, block], np.float32), "axes": np.array([2, 3]),
        "far": np.array([2**31 - 1] * 2),
    }  # fmt: skip
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        node("Shape", ["lr"], ["s"]), node("Slice", ["s", "two", "four"], ["hw"]), node("Neg", ["hw"], ["n"]),
        node("Mod", ["n", "block"], ["over"]),
        node("Concat", ["none", "over", "none", "none"], ["pads"], axis=0),
        node("Pad", ["lr", "pads"], ["p"], mode="edge"),
        node("MaxPool", ["p"], ["q"], kernel_shape=[block] * 2, strides=[block] * 2),
        node("Resize", ["q", "", "factors"], ["z"], **how),
        node("Slice", ["z", "over", "far", "axes"], ["c"]), node("Add", ["c", "lr"], ["hr"]),
    ]  # fmt: skip
    return model(nodes, weights, out=1)


def drifting() -> onnx.ModelProto:
    """Enlarge by a factor that is 1 only at the first size that the analysis traces."""
    weights = {"first": np.array([6720, 6720]), "part": np.array([64, 64]), "two": np.array([2]),
               "four": np.array([4]), "one": np.array([1, 1])}  # fmt: skip
    nodes = [
        node("Shape", ["lr"], ["s"]), node("Slice", ["s", "two", "four"], ["hw"]),
        node("Sub", ["hw", "first"], ["d"]), node("Abs", ["d"], ["a"]), node("Div", ["a", "part"], ["more"]),
        node("Add", ["hw", "more"], ["size"]), node("Concat", ["one", "size"], ["to"], axis=0),
        node("Resize", ["lr", "", "", "to"], ["r"], mode="linear"),
        node("Resize", ["r", "", "", "s"], ["hr"], mode="linear"),
    ]  # fmt: skip
    return model(nodes, weights, out=1)


def halved() -> onnx.ModelProto:
    """Leave out an odd row or column."""
    nodes = [
        node("AveragePool", ["lr"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["p", "", "factors"], ["hr"], mode="linear"),
    ]
    return model(nodes, {"factors": np.array([1, 1, 2, 2], np.float32)}, out=1)


@pytest.mark.parametrize(("proto", "changes"), [
    (shifted(4), {"for r in range(0, period, multiple):": "for r in [0]:"}),
    (shifted(4), {"max(s[k] for s in sides)": "min(s[k] for s in sides)"}),
    (drifting(), {"takes(_SIZE + r) and takes(2 * _SIZE + r)": "takes(_SIZE + r)",
                  "if near != far": "if False"}),
    (drifting(), {"(_SIZE, 2 * _SIZE))": "(_SIZE, _SIZE))",
                  "takes(_SIZE + r) and takes(2 * _SIZE + r)": "takes(_SIZE + r)"}),
    (pooled("linear"), {"self._same(axis, n, rates) and ": "self._traced(axis, n) and "}),
    (halved(), {" and self._at(axis, n).output.spatial[axis] == scale * n": ""}),
], ids=["first class", "least of all", "one size", "one size of margins", "rates", "output"])  # fmt: skip
def test_mutants_of_the_residue_check_are_caught(
    proto: onnx.ModelProto, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a part of the check, tiles of models that were right or refused are wrong."""
    shapes = [(101, 103), (40, 41), (99, 46)]
    with contextlib.suppress(ModelError):
        check(proto, shapes)
    source = textwrap.dedent(inspect.getsource(analysis._Analysis._padded))
    for old, new in changes.items():
        assert old in source
        source = source.replace(old, new)
    space = dict(vars(analysis))
    exec(source, space)

    def traced(self: analysis._Analysis, axis: int, n: int) -> bool:
        try:
            self._at(axis, n)
        except ModelError:
            return False
        return True

    monkeypatch.setattr(analysis._Analysis, "_traced", traced, raising=False)
    monkeypatch.setattr(analysis._Analysis, "_padded", space["_padded"])
    with pytest.raises((AssertionError, ValueError)) as caught:
        check(proto, shapes)
    assert "receptive field depends" not in str(caught.value)


def test_odd_sizes_are_not_taken() -> None:
    facts = spec.describe(halved().SerializeToString(), "m").facts
    assert (facts.y.multiple, facts.y.minimum) == (2, 2)
    image = np.random.default_rng(0).random((40, 62), np.float32)
    expected = run(halved(), image[None, None])[0, 0]
    for tile in TILES:
        with Engine(halved().SerializeToString(), provider="cpu", tile=tile) as engine:
            assert np.abs(engine.upscale(image) - expected).max() <= 2e-5
    check(halved(), classes(halved()))


def test_a_rewrite_whose_period_is_too_long_is_left(rng: np.random.Generator) -> None:
    proto = unet(rng, [("floor", 1), ("ceil", 1), ("stride", 1)], ["size"] * 3, pad=1, channels=3, step=3)
    described = spec.describe(proto.SerializeToString(), "m")
    assert described.facts.period == 27
    assert prepare.build_program(proto.SerializeToString(), described).spec.facts.period == 27
    check(proto, [(95, 103)])


@pytest.mark.parametrize("block", [2, 4])
def test_blocks_that_lie_by_the_class_of_the_size(block: int) -> None:
    check(shifted(block), classes(shifted(block)))


def unet(
    rng: np.random.Generator,
    downs: list[tuple[str, int]],
    ups: list[str],
    pad: int,
    channels: int,
    step: int = 2,
) -> onnx.ModelProto:
    """A U-Net: `downs` are (how, kernel) from the top, `ups` how each level is brought back to its skip.

    Every level is `step` times as small as the one above.
    """
    weights: dict[str, np.ndarray] = {
        "two": np.array([2]), "four": np.array([4]), "none": np.array([0, 0]), "axes": np.array([2, 3]),
        "factors": np.array([1, 1, step, step], np.float32), "nc": np.array([0]),
        "block": np.array([step ** len(downs)]),
    }  # fmt: skip
    nodes: list[onnx.NodeProto] = []
    names = itertools.count()

    def add(op: str, *inputs: str, **attributes: object) -> str:
        out = f"t{next(names)}"
        nodes.append(node(op, list(inputs), [out], **attributes))
        return out

    def conv(at: str, out: int, inner: int, k: int, **attributes: object) -> str:
        name = f"w{next(names)}"
        weights[name] = normal(rng, out, inner, k, k)
        return add("Relu", add("Conv", at, name, pads=[k // 2] * 4, **attributes))

    at = "lr"
    if pad:  # up to a multiple of the strides, inside the model
        size = add("Slice", add("Shape", "lr"), "two", "four")
        over = add("Mod", add("Neg", size), "block")
        pads = add("Concat", "none", "none", "none", over, axis=0)
        at = add("Pad", at, pads, mode="reflect")
    at = conv(at, channels, 1, 3)
    skips = []
    for how, k in downs:
        skips.append(at)
        if how == "stride":
            at = conv(at, channels, channels, k, strides=[step] * 2)
        else:
            at = add("MaxPool", at, kernel_shape=[step] * 2, strides=[step] * 2, ceil_mode=int(how == "ceil"))
            at = conv(at, channels, channels, k)
    for skip, how in zip(reversed(skips), reversed(ups), strict=True):
        if how == "factor":
            at = add("Resize", at, "", "factors", mode="linear")
        else:
            size = add("Slice", add("Shape", skip), "two", "four")
            where = add("Concat", add("Slice", add("Shape", at), "nc", "two"), size, axis=0)
            at = add("Resize", at, "", "", where, mode="nearest" if how == "nearest" else "linear")
        at = conv(add("Concat", at, skip, axis=1), channels, 2 * channels, 3)
    weights["last"] = normal(rng, 1, channels, 3, 3)
    nodes.append(node("Conv", [at, "last"], ["full" if pad else "hr"], pads=[1] * 4))
    if pad:
        nodes.append(node("Shape", ["lr"], ["shape"]))
        nodes.append(node("Slice", ["shape", "two", "four"], ["hw"]))
        nodes.append(node("Slice", ["full", "none", "hw", "axes"], ["hr"]))
    return model(nodes, weights, out=1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    downs=st.lists(
        st.tuples(st.sampled_from(["floor", "ceil", "stride"]), st.sampled_from([1, 3])),
        min_size=1,
        max_size=3,
    ),
    ups=st.lists(st.sampled_from(["factor", "size", "nearest"]), min_size=3, max_size=3),
    pad=st.booleans(),
    step=st.sampled_from([2, 2, 3]),
    seed=st.integers(0, 999),
)
def test_random_unets(downs: list[tuple[str, int]], ups: list[str], pad: bool, step: int, seed: int) -> None:
    proto = unet(np.random.default_rng(seed), downs, ups[: len(downs)], int(pad), channels=3, step=step)
    try:
        spec.describe(proto.SerializeToString(), "m")
    except ModelError:
        return
    check(proto, classes(proto)[:: max(1, len(classes(proto)) // 4)])


def test_cores_end_where_periods_do(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receptive field is known for whole periods, so a part of a period is farther from its end."""
    proto = unet(rng, [("floor", 1), ("floor", 1)], ["size", "size"], pad=0, channels=3)
    check(proto, [(38, 39), (61, 80)])
    facts = spec.describe(proto.SerializeToString(), "m").facts
    assert facts.y.after % facts.y.period  # else the test would check nothing
    monkeypatch.setattr(geometry, "cover", unaligned)
    with pytest.raises(AssertionError):
        check(proto, [(38, 39), (61, 80)])


def unaligned(
    span: geometry.Span, length: int, tile: int, period: int = 1, inset: int = 0
) -> list[geometry.Piece]:
    """`geometry.cover` as it was."""
    last, pieces, at = max(0, geometry.ceil_to(length - tile, period)), [], span.start
    while at < span.stop:
        origin = min(max(0, (at - inset) // period * period), last)
        stop = min(length if origin == last else origin + tile - inset, span.stop)
        pieces.append(geometry.Piece(origin, geometry.Span(at, stop)))
        at = stop
    return pieces


def test_a_model_is_tried_out_once(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Models whose tiles differ are refused before the first image, and the others are remembered."""
    monkeypatch.setattr(self_check, "MAX_MACS", 2e10)
    monkeypatch.setenv("SRCNN_RT_CACHE", str(tmp_path))
    data = unet(rng, [("floor", 1), ("floor", 1)], ["size", "size"], pad=0, channels=3).SerializeToString()
    Engine(data, provider="cpu").close()
    looked: list[object] = []
    monkeypatch.setattr(self_check, "check", lambda *given, fast: looked.append(fast) or True)
    Engine(data, provider="cpu").close()
    assert not looked  # it is known
    Engine(unshuffled(rng, 2).SerializeToString(), provider="cpu", trust=True).close()
    Engine("srcnn-915-x2", provider="cpu").close()
    assert not looked
    Engine(unshuffled(rng, 2).SerializeToString(), provider="cpu").close()
    assert looked == [False]


def test_a_model_that_is_wrong_in_tiles_is_refused(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(self_check, "MAX_MACS", 2e10)
    monkeypatch.setenv("SRCNN_RT_CACHE", str(tmp_path))
    data = unet(rng, [("floor", 3)], ["factor"], pad=0, channels=4).SerializeToString()
    short = analysis._Analysis._margins
    monkeypatch.setattr(
        analysis._Analysis, "_margins", lambda *given: tuple(max(0, n - 7) for n in short(*given))
    )
    with pytest.raises(
        ModelError, match=r"model: the result in tiles differs .* inspect --verify .* --trust"
    ):
        Engine(data, provider="cpu")
    Engine(data, provider="cpu", trust=True).close()
    assert not (tmp_path / "checked.json").exists()
