"""Mutations of models: nodes, attributes, weights and names. Most of the model stays valid."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

# fmt: off
_OPS = (
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv",
    "ConvTranspose", "DepthToSpace", "Div", "Einsum", "Expand", "Gather", "GlobalAveragePool", "Identity",
    "If", "InstanceNormalization", "LSTM", "Loop", "MatMul", "MaxPool", "Mul", "NonZero", "OneHot", "PRelu",
    "Pad", "Range", "ReduceMean", "Relu", "Reshape", "Resize", "Shape", "Size", "Slice", "Softmax",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze", "Upsample", "Where",
)
_ATTRIBUTES = (
    "auto_pad", "pads", "strides", "dilations", "group", "axis", "axes", "blocksize", "mode", "to",
    "kernel_shape", "ceil_mode", "perm", "output_shape", "keepdims", "allowzero", "start",
)
_SMALL = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 32, 64, 255, 1000, 65536, 2**24, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1,
    -1, -2, -3, -8, -(2**31), -(2**63),
)
# fmt: on


def change_model(data: bytes, rng: Random) -> bytes:
    """Return a model with one to five changes."""
    import onnx

    proto = onnx.load_model_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        rng.choice(_GRAPH)(proto, rng)
    return bytes(proto.SerializeToString())


def _integer(rng: Random) -> int:
    return rng.choice(_SMALL[:12]) if rng.random() < 0.5 else rng.choice(_SMALL)


def _near(old: int, rng: Random) -> int:
    new = old + rng.choice((-1, 1, 2)) if rng.random() < 0.3 else _integer(rng)
    return max(-(2**63), min(new, 2**63 - 1))


def _change_attribute(proto: Any, rng: Random) -> None:
    node = rng.choice(proto.graph.node)
    if not node.attribute:
        return _add_attribute(proto, rng)
    a = rng.choice(node.attribute)
    if a.ints:
        k = rng.randrange(len(a.ints))
        if rng.random() < 0.8:
            a.ints[k] = _near(a.ints[k], rng)
        elif rng.random() < 0.5:
            a.ints.append(_integer(rng))
        else:
            del a.ints[k]
    elif a.HasField("i"):
        a.i = _near(a.i, rng)
    elif a.HasField("f"):
        a.f = rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-30))
    elif a.HasField("s"):
        a.s = rng.choice(
            (b"", b"SAME_UPPER", b"VALID", b"reflect", b"edge", b"wrap", b"cubic", b"CRD", b"x" * 300)
        )
    elif rng.random() < 0.5:
        a.type = rng.randrange(15)
    return None


def _add_attribute(proto: Any, rng: Random) -> None:
    from onnx import helper

    kinds: tuple[Any, ...] = (
        _integer(rng),
        [_integer(rng) for _ in range(rng.randrange(1, 9))],
        b"SAME_UPPER",
    )
    node = rng.choice(proto.graph.node)
    name = rng.choice(_ATTRIBUTES)
    if name not in [a.name for a in node.attribute]:
        node.attribute.append(helper.make_attribute(name, rng.choice(kinds)))


def _drop_attribute(proto: Any, rng: Random) -> None:
    node = rng.choice(proto.graph.node)
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def _change_op(proto: Any, rng: Random) -> None:
    node = rng.choice(proto.graph.node)
    node.op_type = rng.choice(_OPS) if rng.random() < 0.9 else "\x1b[2J" * 50
    if rng.random() < 0.05:
        node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "own"))


def _names(proto: Any) -> list[str]:
    graph = proto.graph
    found = [t.name for t in graph.initializer] + [v.name for v in graph.input]
    return found + [name for node in graph.node for name in node.output] or [""]


def _change_input(proto: Any, rng: Random) -> None:
    node = rng.choice(proto.graph.node)
    if node.input and rng.random() < 0.8:
        node.input[rng.randrange(len(node.input))] = rng.choice([*_names(proto), "", "nowhere"])
    elif rng.random() < 0.5:
        node.input.append(rng.choice(_names(proto)))
    elif node.input:
        del node.input[rng.randrange(len(node.input))]


def _change_output(proto: Any, rng: Random) -> None:
    node = rng.choice(proto.graph.node)
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice([*_names(proto), "", "new"])


def _drop_node(proto: Any, rng: Random) -> None:
    """Remove a node; its consumers usually read its first input instead."""
    graph = proto.graph
    if len(graph.node) < 2:
        return
    k = rng.randrange(len(graph.node))
    node = graph.node[k]
    if rng.random() < 0.8 and node.input and node.output:
        for later in graph.node:
            for j, name in enumerate(later.input):
                if name == node.output[0]:
                    later.input[j] = node.input[0]
    del graph.node[k]


def _swap_nodes(proto: Any, rng: Random) -> None:
    nodes = list(proto.graph.node)
    rng.shuffle(nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _insert_node(proto: Any, rng: Random) -> None:
    """Insert a node of any operator between two nodes."""
    from onnx import NodeProto, helper

    graph = proto.graph
    k = rng.randrange(len(graph.node))
    after = graph.node[k]
    if not after.input:
        return
    old = rng.choice(after.input)
    extra = [rng.choice(_names(proto)) for _ in range(rng.choice((0, 0, 1, 2)))]
    name = f"made{len(graph.node)}"
    made = helper.make_node(rng.choice(_OPS), [old, *extra], [name], name)
    for j, read in enumerate(after.input):
        if read == old:
            after.input[j] = name
    rest: list[NodeProto] = [made, *graph.node[k:]]
    kept = list(graph.node[:k])
    del graph.node[:]
    graph.node.extend([*kept, *rest])
    if rng.random() < 0.7:
        node = next(n for n in graph.node if n.name == name)
        node.attribute.append(helper.make_attribute(
            rng.choice(("axis", "blocksize", "axes", "pads", "kernel_shape", "to", "strides")),
            rng.choice((_integer(rng), [_integer(rng) for _ in range(rng.randrange(1, 9))])),
        ))  # fmt: skip


def _change_weight(proto: Any, rng: Random) -> None:
    from onnx import numpy_helper

    if not proto.graph.initializer:
        return
    t = rng.choice(proto.graph.initializer)
    choice = rng.random()
    if choice < 0.2 and t.dims:
        t.dims[rng.randrange(len(t.dims))] = _integer(rng)
    elif choice < 0.3:
        t.data_type = rng.randrange(25)
    elif choice < 0.35:
        t.data_location = 1
    elif choice < 0.4:
        t.external_data.add(key="location", value="/etc/passwd")
    else:
        try:
            array = numpy_helper.to_array(t).copy()
        except Exception:  # damaged by an earlier change
            return
        if array.size and array.dtype.kind in "iu":
            array.flat[rng.randrange(array.size)] = _integer(rng) % (1 << 31)
            if choice < 0.6:
                array = -array
        elif array.size and array.dtype.kind == "f":
            if choice < 0.7:
                array.flat[rng.randrange(array.size)] = rng.choice(
                    (0, 1e38, -1e38, float("nan"), float("inf"), 1e-45)
                )
            else:  # a layer of another size that is consistent in itself
                shape = [max(1, n + rng.choice((-1, 0, 0, 1, 2))) for n in array.shape]
                array = array.flat[0] * 0 + _resized(array, shape)
        t.CopyFrom(numpy_helper.from_array(array, t.name))


def _resized(array: Any, shape: list[int]) -> Any:
    import numpy as np

    return np.resize(array, shape)


def _change_interface(proto: Any, rng: Random) -> None:
    value = rng.choice([*proto.graph.input, *proto.graph.output] or [None])
    if value is None:
        return
    kind = value.type.tensor_type
    choice = rng.random()
    if choice < 0.6 and kind.shape.dim:
        rng.choice(kind.shape.dim).dim_value = rng.choice((1, 3, 16, 64, 100, 4096, 2**31, -1, 0, 2**62))
    elif choice < 0.8:
        kind.elem_type = rng.choice((0, 1, 2, 3, 7, 8, 10, 11, 16, 99))
    else:
        value.name = rng.choice(_names(proto))


def _change_rest(proto: Any, rng: Random) -> None:
    choice = rng.randrange(6)
    if choice == 0 and proto.opset_import:
        proto.opset_import[0].version = rng.choice((0, 1, 6, 7, 9, 10, 11, 13, 17, 21, 25, 99, -1, 2**62))
    elif choice == 1:
        proto.ir_version = rng.choice((0, 1, 3, 4, 8, 10, 13, 99))
    elif choice == 2:
        key = rng.choice(("format", "scale", "channels", "range", "training", "check"))
        texts = (
            "",
            "2",
            "-1",
            "9" * 5000,
            "[" * 9999,
            '{"psnr": 7}',
            "0..inf",
            "mean=1,2 std=1,2",
            "\0",
            "nan..1",
        )
        proto.metadata_props.add(key=f"srcnn_rt.{key}", value=rng.choice(texts))
    elif choice == 3:
        proto.graph.input.add().CopyFrom(proto.graph.input[0])
    elif choice == 4 and proto.graph.initializer:
        proto.graph.initializer.add().CopyFrom(rng.choice(proto.graph.initializer))
    else:
        proto.graph.name = "n" * rng.choice((0, 1, 100_000))


_GRAPH: list[Callable[[Any, Random], None]] = [
    *[_change_attribute, _insert_node, _change_weight] * 3, *[_add_attribute, _change_op, _change_input] * 2,
    _drop_attribute, _change_output, _drop_node, _swap_nodes, _change_interface, _change_rest,
]  # fmt: skip
