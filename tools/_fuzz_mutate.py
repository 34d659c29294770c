"""How fuzzing changes a seed: bytes anywhere, numbers where the format keeps them, and graphs as graphs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

# (offset, bytes, byte order) of a number that the format's structure hangs on
Place = tuple[int, int, str]
# fmt: off
_NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 64, 100, 127, 128, 255, 256, 257, 1000, 4096, 32767, 32768,
    65535, 65536, 10**6, 2**24, 2**28, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1,
)
# fmt: on
_MOST = 2**17  # bytes of a case


def mutate(kind: str, data: bytes, other: bytes, rng: Random) -> bytes:
    """Return a damaged copy of `data`.

    Parameters
    ----------
    other : another seed of the same kind, for splices
    """
    if kind == "model":
        return _model(data, other, rng)
    out = bytearray(data)
    places = _PLACES.get(kind, _no_places)(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        if places and rng.random() < 0.6:
            _number(out, rng.choice(places), rng)
        else:
            out = rng.choice(_BYTES)(out, other, rng)
    del out[_MOST:]
    if kind == "png" and rng.random() < 0.8:
        _mend_png(out)
    return bytes(out)


def _number(out: bytearray, place: Place, rng: Random) -> None:
    at, size, order = place
    if at + size > len(out):
        return
    old = int.from_bytes(out[at : at + size], order)  # type: ignore[arg-type]
    choice = rng.random()
    if choice < 0.6:
        new = rng.choice((*_NUMBERS, len(out)))
    elif choice < 0.9:
        new = old + rng.choice((-16, -2, -1, 1, 2, 16))
    else:
        new = old ^ (1 << rng.randrange(8 * size))
    out[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]


def _flip_bits(out: bytearray, other: bytes, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 4, 16))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return out


def _set_bytes(out: bytearray, other: bytes, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 4, 16))):
        if out:
            out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return out


def _copy_block(out: bytearray, other: bytes, rng: Random) -> bytearray:
    if len(out) > 2:
        size = rng.randrange(1, min(len(out), 64))
        a, b = (rng.randrange(len(out) - size + 1) for _ in range(2))
        out[b : b + size] = out[a : a + size]
    return out


def _insert(out: bytearray, other: bytes, rng: Random) -> bytearray:
    at = rng.randrange(len(out) + 1)
    what = rng.randbytes(rng.choice((1, 2, 4, 40))) if rng.random() < 0.5 else bytes(out[at : at + 40])
    out[at:at] = what
    return out


def _remove(out: bytearray, other: bytes, rng: Random) -> bytearray:
    at = rng.randrange(len(out) + 1)
    del out[at : at + rng.choice((1, 2, 4, 40))]
    return out


def _truncate(out: bytearray, other: bytes, rng: Random) -> bytearray:
    del out[rng.randrange(len(out) + 1) :]
    return out


def _splice(out: bytearray, other: bytes, rng: Random) -> bytearray:
    a, b = rng.randrange(len(out) + 1), rng.randrange(len(other) + 1)
    return out[:a] + other[b:]


def _overlay(out: bytearray, other: bytes, rng: Random) -> bytearray:
    at = rng.randrange(len(out) + 1)
    part = other[at : at + rng.choice((4, 16, 64))]
    out[at : at + len(part)] = part
    return out


_BYTES: list[Callable[[bytearray, bytes, Random], bytearray]] = [
    *[_flip_bits, _set_bytes] * 2, _copy_block, _insert, _remove, _truncate, _splice, _overlay,
]  # fmt: skip


# Where each format keeps its numbers.


def _no_places(data: bytes) -> list[Place]:
    return []


def _tiff_places(data: bytes) -> list[Place]:
    """Every field of every entry of the file's folders, and of the arrays that they point to."""
    order = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"+\0", b"\0+")
    word, head, count_size, entry = (8, 16, 8, 20) if big else (4, 8, 2, 12)
    places: list[Place] = [(head - word, word, order)]

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    sizes = {3: 2, 4: 4, 5: 4, 12: 8, 16: 8, 9: 4, 8: 2}
    folder, seen = number(head - word, word), set()
    while folder and folder not in seen and folder < len(data) and len(seen) < 8:
        seen.add(folder)
        count = min(number(folder, count_size), 60)
        places.append((folder, count_size, order))
        for k in range(count):
            at = folder + count_size + entry * k
            places += [
                (at, 2, order),
                (at + 2, 2, order),
                (at + 4, word, order),
                (at + 4 + word, word, order),
            ]
            kind, items = number(at + 2, 2), number(at + 4, word)
            size = sizes.get(kind, 1)
            if size * items > word:
                begin = number(at + 4 + word, word)
                places += [(begin + size * i, size, order) for i in range(min(items, 8))]
            else:
                places.append((at + 4 + word, min(size, word), order))
        folder = number(folder + count_size + entry * count, word)
    return [p for p in places if p[0] + p[1] <= len(data)]


def _png_places(data: bytes) -> list[Place]:
    places: list[Place] = [(16, 4, "big"), (20, 4, "big"), *((24 + k, 1, "big") for k in range(5))]
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        places += [(at, 4, "big"), (at + 4, 1, "big")]
        places += [(at + 8 + 4 * k, 4, "big") for k in range(min(size // 4, 6))]
        at += 12 + size
    return places


def _mend_png(out: bytearray) -> None:
    """Write each chunk's checksum anew, or a reader would look no further."""
    at = 8
    while at + 12 <= len(out):
        size = int.from_bytes(out[at : at + 4], "big")
        if at + 12 + size > len(out):
            return
        out[at + 8 + size : at + 12 + size] = zlib.crc32(out[at + 4 : at + 8 + size]).to_bytes(4, "big")
        at += 12 + size


def _jpeg_places(data: bytes) -> list[Place]:
    places: list[Place] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        places += [(at + 1, 1, "big"), (at + 2, 2, "big")]
        places += [(at + 4 + k, 1, "big") for k in range(min(size - 2, 24))]
        if 0xC0 <= data[at + 1] <= 0xCF:
            places += [(at + 5, 2, "big"), (at + 7, 2, "big")] * 3
        if data[at + 1] == 0xDA:
            break
        at += 2 + size
    return places


def _riff_places(data: bytes) -> list[Place]:
    places: list[Place] = [(4, 4, "little")]
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4 + 4][4:], "little")
        places += [(at + 4, 4, "little"), *((at + 8 + k, 1, "little") for k in range(min(size, 16)))]
        places += [(at + 8 + k, 3, "little") for k in (4, 7)]
        at += 8 + size + size % 2
    return places


def _bmp_places(data: bytes) -> list[Place]:
    wide = [(k, 4, "little") for k in (2, 10, 14, 18, 22, 30, 34, 38, 42, 46, 50)]
    return [*wide, *wide, (26, 2, "little"), (28, 2, "little"), *((k, 1, "little") for k in range(54, 80))]


def _box_places(data: bytes) -> list[Place]:
    """Boxes of ISO files, in boxes: sizes, types, and the numbers that follow."""
    places: list[Place] = []

    def walk(start: int, stop: int, depth: int) -> None:
        at = start
        while at + 8 <= stop:
            size = struct.unpack_from(">I", data, at)[0]
            places.extend([(at, 4, "big"), (at + 4, 1, "big")])
            places.extend((at + 8 + 4 * k, 4, "big") for k in range(min(max(size - 8, 0) // 4, 5)))
            if size < 8:
                return
            kind = data[at + 4 : at + 8]
            if depth < 4 and kind in (b"meta", b"iprp", b"ipco", b"iinf", b"moov"):
                walk(
                    at + (12 if kind == b"meta" else 14 if kind == b"iinf" else 8),
                    min(at + size, stop),
                    depth + 1,
                )
            at += size

    walk(0, len(data), 0)
    return [p for p in places if p[0] + p[1] <= len(data)]


_PLACES: dict[str, Callable[[bytes], list[Place]]] = {
    "tiff": _tiff_places, "png": _png_places, "jpeg": _jpeg_places, "webp": _riff_places, "bmp": _bmp_places,
    "avif": _box_places, "jxl": lambda data: [(k, 1, "little") for k in range(min(len(data), 40))],
}  # fmt: skip


# Models.

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


def _model(data: bytes, other: bytes, rng: Random) -> bytes:
    if rng.random() < 0.25:
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            out = rng.choice(_BYTES)(out, other, rng)
        return bytes(out)
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
    """Take a node out; its readers read what it read."""
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
    """Put a node of any operator between two."""
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
        except Exception:  # changed before
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
            else:  # a layer of another size, whole in itself
                shape = [max(1, n + rng.choice((-1, 0, 0, 1, 2))) for n in array.shape]
                array = array.flat[0] * 0 + _resized(array, shape)
        t.CopyFrom(numpy_helper.from_array(array, t.name))


def _resized(array: Any, shape: list[int]) -> Any:
    import numpy as np

    return np.resize(array, shape)


def _change_face(proto: Any, rng: Random) -> None:
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
    _drop_attribute, _change_output, _drop_node, _swap_nodes, _change_face, _change_rest,
]  # fmt: skip
