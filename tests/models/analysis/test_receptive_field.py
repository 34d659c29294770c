"""Derived receptive fields against known ones, and against brute force on random graphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from srcnn_rt import ModelError
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.models import analysis
from tests.helpers.models import save


@dataclass
class Builder:
    """A chain of nodes from ``lr``; weights are positive, so nothing cancels."""

    channels: int = 1
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    last: str = "lr"
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def name(self) -> str:
        return f"t{len(self.nodes)}_{len(self.weights)}"

    def keep(self, array: np.ndarray) -> str:
        name = "w" + self.name()
        self.weights[name] = array
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        out = self.name()
        self.nodes.append(helper.make_node(op, [self.last, *inputs], [out], out, **attributes))
        self.last = out
        return out

    def kernel(self, *shape: int) -> str:
        values = self.rng.uniform(0.5, 1, shape) / np.prod(shape[1:])
        return self.keep(values.astype(np.float32))

    def conv(self, out: int, k: int, **attributes: object) -> str:
        name = self.kernel(out, self.channels, k, k)
        self.channels = out
        return self.add("Conv", name, **attributes)

    def up(self, op: str, k: int, **attributes: object) -> str:
        name = self.kernel(self.channels, self.channels, k, k)
        return self.add(op, name, **attributes)

    def save(self, path: Path) -> Path:
        self.nodes.append(helper.make_node("Identity", [self.last], ["hr"]))
        return save(path, self.nodes, self.weights, outputs=None, channels=1)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def resize(b: Builder, factor: float, mode: str, how: str = "half_pixel", **more: object) -> None:
    b.add("Resize", "", b.keep(floats(1, 1, factor, factor)), mode=mode,
          coordinate_transformation_mode=how, **more)  # fmt: skip


def shuffle_by_reshape(b: Builder) -> None:
    """(N, 4, H, W) → (N, 1, 2H, 2W), sizes from Shape, as torch's exporter once wrote it."""
    b.conv(4, 1)
    source = b.last
    nodes, keep = b.nodes, b.keep
    nodes.append(helper.make_node("Shape", [source], ["s"]))
    nodes.append(helper.make_node("Gather", ["s", keep(ints(2))], ["h"]))
    nodes.append(helper.make_node("Gather", ["s", keep(ints(3))], ["w"]))
    front = keep(ints(1, 1, 2, 2))
    nodes.append(helper.make_node("Concat", [front, "h", "w"], ["six"], axis=0))
    nodes.append(helper.make_node("Mul", ["h", keep(ints(2))], ["h2"]))
    nodes.append(helper.make_node("Mul", ["w", keep(ints(2))], ["w2"]))
    nodes.append(helper.make_node("Concat", [keep(ints(1, 1)), "h2", "w2"], ["four"], axis=0))
    b.add("Reshape", "six")
    b.add("Transpose", perm=[0, 1, 4, 2, 5, 3])
    b.add("Reshape", "four")
    b.channels = 1


def unshuffle_by_reshape(b: Builder) -> None:
    """(N, 1, H, W) → (N, 4, H/2, W/2) → back by ConvTranspose."""
    source = b.last
    nodes, keep = b.nodes, b.keep
    nodes.append(helper.make_node("Shape", [source], ["s"]))
    nodes.append(helper.make_node("Slice", ["s", keep(ints(2)), keep(ints(4))], ["hw"]))
    nodes.append(helper.make_node("Div", ["hw", keep(ints(2))], ["half"]))
    nodes.append(helper.make_node("Split", ["half"], ["h", "w"], axis=0))
    two = keep(ints(2))
    nodes.append(helper.make_node("Concat", [keep(ints(1, 1)), "h", two, "w", two], ["six"], axis=0))
    nodes.append(helper.make_node("Concat", [keep(ints(1, 4)), "half"], ["four"], axis=0))
    b.add("Reshape", "six")
    b.add("Transpose", perm=[0, 1, 3, 5, 2, 4])
    b.add("Reshape", "four")
    b.channels = 4
    b.conv(4, 3, pads=[1] * 4)
    b.add("DepthToSpace", blocksize=2, mode="DCR")
    b.channels = 1


def resize_to_computed_sizes(b: Builder) -> None:
    """Double the size by a chain from Shape, which is how interpolate(size=…) is exported."""
    nodes, keep = b.nodes, b.keep
    nodes.append(helper.make_node("Shape", [b.last], ["s"]))
    nodes.append(helper.make_node("Slice", ["s", keep(ints(0)), keep(ints(2))], ["nc"]))
    nodes.append(helper.make_node("Slice", ["s", keep(ints(2)), keep(ints(4))], ["hw"]))
    nodes.append(helper.make_node("Cast", ["hw"], ["float"], to=1))
    nodes.append(helper.make_node("Mul", ["float", keep(floats(2))], ["twice"]))
    nodes.append(helper.make_node("Floor", ["twice"], ["floor"]))
    nodes.append(helper.make_node("Cast", ["floor"], ["size"], to=7))
    nodes.append(helper.make_node("Concat", ["nc", "size"], ["sizes"], axis=0))
    b.add("Resize", "", "", "sizes", mode="cubic", coordinate_transformation_mode="half_pixel")


def split_and_join(b: Builder) -> None:
    """Half of the channels go through a convolution, the other half around it."""
    source = b.conv(4, 3, pads=[1] * 4)
    b.nodes.append(helper.make_node("Split", [source], ["left", "right"], axis=1))
    b.last, b.channels = "left", 2
    b.conv(2, 5, pads=[2] * 4)
    b.add("Concat", "right", axis=1)
    b.channels = 4
    b.conv(1, 1)


def pad_to_multiple(b: Builder) -> None:
    """Pads below and to the right to a multiple of 4, halves twice, doubles twice, crops."""
    nodes, keep = b.nodes, b.keep
    nodes.append(helper.make_node("Shape", ["lr"], ["s"]))
    nodes.append(helper.make_node("Slice", ["s", keep(ints(2)), keep(ints(4))], ["hw"]))
    nodes.append(helper.make_node("Mod", ["hw", keep(ints(4))], ["over"]))
    nodes.append(helper.make_node("Sub", [keep(ints(4)), "over"], ["rest"]))
    nodes.append(helper.make_node("Mod", ["rest", keep(ints(4))], ["more"]))
    nodes.append(helper.make_node("Concat", [keep(ints(0, 0, 0, 0, 0, 0)), "more"], ["pads"], axis=0))
    b.add("Pad", "pads", mode="reflect")
    b.conv(1, 4, strides=[4, 4])
    resize(b, 4, "nearest")
    b.add("Slice", b.keep(ints(0, 0)), "hw", b.keep(ints(2, 3)))


# name: (model, scale, before, after, period)
KNOWN = {
    "conv 3": (lambda b: b.conv(1, 3, pads=[1] * 4), 1, 1, 1, 1),
    "conv same upper, even": (lambda b: b.conv(1, 4, auto_pad="SAME_UPPER"), 1, 1, 2, 1),
    "conv same lower, even": (lambda b: b.conv(1, 4, auto_pad="SAME_LOWER"), 1, 2, 1, 1),
    "conv pads apart": (lambda b: b.conv(1, 5, pads=[4, 4, 0, 0]), 1, 4, 0, 1),
    "conv dilated": (lambda b: b.conv(1, 3, dilations=[3, 3], pads=[3] * 4), 1, 3, 3, 1),
    "two convs": (lambda b: (b.conv(3, 3, pads=[1] * 4), b.conv(1, 5, pads=[2] * 4)), 1, 3, 3, 1),
    "valid conv": (lambda b: b.conv(1, 7), 1, 3, 3, 1),
    "stride 2, transposed": (
        lambda b: (b.conv(1, 3, strides=[2, 2], pads=[1, 1, 0, 0]), b.up("ConvTranspose", 2, strides=[2, 2])),
        1, 1, 0, 2,
    ),
    "transposed 4 by 2": (lambda b: b.up("ConvTranspose", 4, strides=[2, 2], pads=[1] * 4), 2, 1, 1, 1),
    "transposed 9 by 3": (
        lambda b: b.up("ConvTranspose", 9, strides=[3, 3], pads=[3] * 4), 3, 1, 1, 1,
    ),
    "transposed, output padding": (
        lambda b: b.up("ConvTranspose", 3, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]), 2, 0, 1, 1,
    ),
    "average pool": (lambda b: b.add("AveragePool", kernel_shape=[3, 3], pads=[1] * 4), 1, 1, 1, 1),
    "max pool and back": (
        lambda b: (b.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), resize(b, 2, "nearest")),
        1, 0, 0, 2,
    ),
    "max pool 3 by 2, ceil": (
        lambda b: (b.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), resize(b, 2, "nearest")),
        1, 0, 1, 2,
    ),
    "depth to space DCR": (
        lambda b: (b.conv(4, 3, pads=[1] * 4), b.add("DepthToSpace", blocksize=2)), 2, 1, 1, 1,
    ),
    "depth to space CRD": (
        lambda b: (b.conv(9, 1), b.add("DepthToSpace", blocksize=3, mode="CRD")), 3, 0, 0, 1,
    ),
    "space to depth and back": (
        lambda b: (b.add("SpaceToDepth", blocksize=2), setattr(b, "channels", 4), b.conv(4, 3, pads=[1] * 4),
                   b.add("DepthToSpace", blocksize=2)),
        1, 2, 2, 2,
    ),
    "pixel shuffle by reshape": (shuffle_by_reshape, 2, 0, 0, 1),
    "pixel unshuffle by reshape": (unshuffle_by_reshape, 1, 2, 2, 2),
    "nearest, half pixel": (lambda b: resize(b, 2, "nearest"), 2, 0, 0, 1),
    "nearest, asymmetric ceil": (
        lambda b: resize(b, 2, "nearest", "asymmetric", nearest_mode="ceil"), 2, 0, 1, 1,
    ),
    "linear": (lambda b: resize(b, 2, "linear"), 2, 1, 1, 1),
    "linear, asymmetric": (lambda b: resize(b, 2, "linear", "asymmetric"), 2, 0, 1, 1),
    "linear by 3, torch": (lambda b: resize(b, 3, "linear", "pytorch_half_pixel"), 3, 1, 1, 1),
    "cubic": (lambda b: resize(b, 2, "cubic"), 2, 2, 2, 1),
    "cubic by 3": (lambda b: resize(b, 3, "cubic"), 3, 2, 2, 1),
    "cubic, asymmetric": (lambda b: resize(b, 2, "cubic", "asymmetric"), 2, 1, 2, 1),
    "cubic to sizes from Shape": (resize_to_computed_sizes, 2, 2, 2, 1),
    "split and join": (split_and_join, 1, 3, 3, 1),
    "constant pad and valid conv": (
        lambda b: (b.add("Pad", b.keep(ints(0, 0, 2, 2, 0, 0, 1, 1)), b.keep(np.float32(0))), b.conv(1, 4)),
        1, 2, 1, 1,
    ),
    "average pool, ceil": (
        lambda b: (b.add("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[0, 0, 1, 1]),
                   resize(b, 2, "nearest")),
        1, 0, 1, 2,
    ),
    "pad and crop": (
        lambda b: (b.add("Pad", b.keep(ints(0, 0, 3, 3, 0, 0, 1, 1)), mode="edge"),
                   b.add("Slice", b.keep(ints(1, 1)), b.keep(ints(-3, -3)), b.keep(ints(2, 3)))),
        1, 2, 0, 1,
    ),
    "reflect and valid conv": (
        lambda b: (b.add("Pad", b.keep(ints(0, 0, 2, 2, 0, 0, 2, 2)), mode="reflect"), b.conv(1, 5)),
        1, 2, 2, 1,
    ),
    "pad to a multiple": (pad_to_multiple, 1, 0, 0, 4),
    "channel attention over channels": (
        lambda b: (b.conv(4, 3, pads=[1] * 4), b.add("Softmax", axis=1), b.conv(1, 1)), 1, 1, 1, 1,
    ),
    "channels last and back": (
        lambda b: (b.conv(4, 1), b.add("Transpose", perm=[0, 2, 3, 1]), b.add("MatMul", b.kernel(4, 4)),
                   b.add("LayerNormalization", b.keep(np.ones(4, np.float32)), axis=-1),
                   b.add("Transpose", perm=[0, 3, 1, 2]), b.conv(1, 3, pads=[1] * 4)),
        1, 1, 1, 1,
    ),
    "batch norm, prelu, clip": (
        lambda b: (b.conv(2, 3, pads=[1] * 4), b.add("BatchNormalization", *(b.keep(np.ones(2, np.float32)) for _ in
                   range(4))), b.add("PRelu", b.keep(np.ones((2, 1, 1), np.float32))),
                   b.add("Clip", b.keep(np.float32(0)), b.keep(np.float32(9))), b.conv(1, 1)),
        1, 1, 1, 1,
    ),
    "quantised and back": (
        lambda b: (b.conv(1, 3, pads=[1] * 4), b.add("QuantizeLinear", b.keep(np.float32(0.1)), b.keep(np.uint8(0))),
                   b.add("DequantizeLinear", b.keep(np.float32(0.1)), b.keep(np.uint8(0)))),
        1, 1, 1, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_receptive_field_known_by_hand(tmp_path: Path, name: str) -> None:
    build, scale, before, after, period = KNOWN[name]
    b = Builder()
    build(b)
    path = b.save(tmp_path / "m.onnx")
    facts = analysis.analyse(onnx.load(path))
    for axis in (facts.y, facts.x):
        assert (axis.scale, axis.before, axis.after, axis.period) == (scale, before, after, period)
    assert facts.kind == ("valid" if name == "valid conv" else "padded")
    if name not in ("quantised and back",):  # whose steps hide small changes
        check_by_brute_force(path, facts)


def check_by_brute_force(path: Path, facts: analysis.GraphFacts) -> None:
    """Change one row or column at a time, and return which ones affect a core of one period."""
    session = Session(path.read_bytes(), 1)
    for axis, a in enumerate((facts.y, facts.x)):
        valid = facts.kind == "valid"
        margin = facts.margin if valid else 0
        size = -(-(2 * (a.before + a.after) + 6 * a.period) // a.period) * a.period + 2 * margin
        start = (size // 2 - margin) // a.period * a.period
        s = int(facts.scale)
        core = slice(start * s, (start + a.period) * s)
        image = np.random.default_rng(1).uniform(0.5, 1, (1, facts.channels, size, size)).astype(np.float32)
        plain = np.moveaxis(session.run(image), 2 + axis, 0)[core]
        noticed = []
        for k in range(size):
            for delta in (1e6, -1e6):  # a maximum notices only the one that raises its samples
                changed = image.copy()
                np.moveaxis(changed, 2 + axis, 0)[k] += delta
                if (np.moveaxis(session.run(changed), 2 + axis, 0)[core] != plain).any():
                    noticed.append(k - margin)
                    break
        before, after = start - noticed[0], noticed[-1] + 1 - start - a.period
        assert (max(before, 0), max(after, 0)) == (a.before, a.after)


@st.composite
def layers(draw: st.DrawFn) -> list[tuple[object, ...]]:
    """Return a valid chain that keeps sizes exact: (kind, parameters …)."""
    chain: list[tuple[object, ...]] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(
            st.sampled_from(
                [
                    "conv",
                    "down",
                    "transposed",
                    "pool",
                    "maxdown",
                    "shuffle",
                    "unshuffle",
                    "resize",
                    "crop",
                    "branch",
                ]
            )
        )
        k, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 2))
        cut = draw(st.integers(0, (k - 1) * dilation))
        mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
        how = draw(st.sampled_from(["half_pixel", "asymmetric", "pytorch_half_pixel"]))
        rounding = draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
        chain.append((kind, k, dilation, cut, mode, how, rounding))
    return chain


def build_chain(chain: list[tuple[object, ...]]) -> Builder:
    b, rate = Builder(), 1.0
    for kind, k, dilation, cut, mode, how, rounding in chain:
        spare = (k - 1) * dilation
        match kind:
            case "conv":
                pads = [cut, cut, spare - cut, spare - cut]
                b.conv(2, k, dilations=[dilation] * 2, pads=pads)
            case "down":
                k = max(k, 2)
                b.conv(2, k, strides=[2, 2], pads=[(k - 2) // 2] * 2 + [k - 2 - (k - 2) // 2] * 2)
                rate /= 2
            case "transposed":
                k = max(k, 2)
                pads = [(k - 2) // 2] * 2 + [k - 2 - (k - 2) // 2] * 2
                b.up("ConvTranspose", k, strides=[2, 2], pads=pads)
                rate *= 2
            case "pool":
                b.add(
                    "AveragePool",
                    kernel_shape=[k, k],
                    pads=[min(cut, k - 1)] * 2 + [k - 1 - min(cut, k - 1)] * 2,
                )
            case "maxdown":
                b.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
                rate /= 2
            case "shuffle":
                b.conv(4, 1)
                b.add("DepthToSpace", blocksize=2, mode=("DCR", "CRD")[k % 2])
                b.channels, rate = 1, rate * 2
            case "unshuffle":
                b.add("SpaceToDepth", blocksize=2)
                b.channels, rate = b.channels * 4, rate / 2
            case "resize":
                resize(b, 2, mode, how, **({"nearest_mode": rounding} if mode == "nearest" else {}))
                rate *= 2
            case "crop":
                b.add("Pad", b.keep(ints(0, 0, k, k, 0, 0, dilation, dilation)), mode="edge")
                b.add("Slice", b.keep(ints(dilation, dilation)), b.keep(ints(-k, -k)), b.keep(ints(2, 3)))
            case "branch":
                source, channels = b.last, b.channels
                left = b.conv(2, 3, pads=[1] * 4)
                b.last, b.channels = source, channels
                b.conv(2, k, dilations=[dilation] * 2, pads=[cut, cut, spare - cut, spare - cut])
                b.add("Add", left)
    while rate < 1:
        resize(b, 2, "nearest")
        rate *= 2
    if b.channels != 1:
        b.conv(1, 1)
    return b


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chain=layers())
def test_derived_receptive_field_equals_brute_force(
    tmp_path_factory: pytest.TempPathFactory, chain: list
) -> None:
    """The derived margin is equal: a smaller one would give a seam, a larger one would be a guess."""
    path = build_chain(chain).save(tmp_path_factory.mktemp("g") / "m.onnx")
    try:
        facts = analysis.analyse(onnx.load(path))
    except ModelError as error:
        # Strides before enlargements can leave sizes with a remainder.
        assert "period" in str(error) or "different" in str(error), error
        assume(False)
        return
    assume(max(facts.margin, facts.period) <= 24 and facts.scale <= 8)
    check_by_brute_force(path, facts)
