"""Small ONNX models for tests, and the layers of models for the reference implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from srcnn_rt.models.bundled import bundled
from tests.helpers.reference import Network

# Samples are fed unchanged, so integers stay integers.
PLAIN = {"srcnn_rt.range": "0..1"}

Layers = list[tuple[np.ndarray, np.ndarray]]
Weights = dict[str, np.ndarray]
node = helper.make_node


def tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def value(name: str, shape: list[object], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    metadata: dict[str, str] | None = PLAIN,
    channels: int = 1,
) -> Path:
    """Write a model that is fed samples unchanged; if `metadata` is None it declares no range of values."""
    graph = helper.make_graph(
        nodes,
        "test",
        inputs if inputs is not None else [value("lr", ["n", channels, "h", "w"])],
        outputs if outputs is not None else [value("hr", ["n", channels, "sh", "sw"])],
        [tensor(k, v) for k, v in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 8
    bytes_in = inputs is not None and inputs[0].type.tensor_type.elem_type == TensorProto.UINT8
    plain = PLAIN if metadata is not None and not bytes_in else {}
    helper.set_model_props(proto, plain | (metadata or {} if metadata is not PLAIN else {}))
    onnx.save(proto, path)
    return path


def model(
    nodes: list[onnx.NodeProto],
    weights: Weights,
    channels: int = 1,
    *,
    out: int | None = None,
    opset: int = 17,
    outputs: tuple[str, ...] = ("hr",),
    size: tuple[object, object] = ("h", "w"),
) -> onnx.ModelProto:
    """Return a model with one input and the named outputs."""
    made = helper.make_graph(
        nodes,
        "test",
        [value("lr", ["n", channels, *size])],
        [value(name, ["n", out if out else f"c_{name}", f"h_{name}", f"w_{name}"]) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(proto, PLAIN)
    return proto


def run_all(
    proto: onnx.ModelProto, x: np.ndarray, *, optimised: bool = False, **more: np.ndarray
) -> list[np.ndarray]:
    """Check a model and run it with one thread, by default without optimisations; return all outputs."""
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": x, **more})


def run(proto: onnx.ModelProto, x: np.ndarray, *, optimised: bool = False, **more: np.ndarray) -> np.ndarray:
    """Return the first output of `run_all`."""
    return run_all(proto, x, optimised=optimised, **more)[0]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return random weights (out, ...) scaled so that a layer keeps the variance of its input."""
    return (rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)


def integer_layers(rng: np.random.Generator, sizes: tuple[int, ...], channels: int = 1) -> Layers:
    """Return convolutions with few filters of weights -1, 0, 1, whose sums are exact in float32."""
    widths = [channels, 4, 3, channels]
    layers = []
    for k, size in enumerate(sizes):
        weight = rng.integers(-1, 2, (widths[k + 1], widths[k], size, size))
        # No outermost tap may be zero, or a margin that is one too small would go unnoticed.
        weight[:, :, [0, -1], :] = np.where(weight[:, :, [0, -1], :] == 0, 1, weight[:, :, [0, -1], :])
        weight[:, :, :, [0, -1]] = np.where(weight[:, :, :, [0, -1]] == 0, 1, weight[:, :, :, [0, -1]])
        bias = rng.integers(-2, 3, widths[k + 1])
        layers.append((weight.astype(np.float32), bias.astype(np.float32)))
    return layers


def enlarging_kernel(rng: np.random.Generator, scale: int) -> np.ndarray:
    """Return an integer stand-in for bicubic: (s², 1, 5, 5) of -1, 0, 1, without zeros at the border."""
    kernel = rng.integers(-1, 2, (scale * scale, 1, 5, 5))
    for rim in ((..., [0, -1], slice(None)), (..., slice(None), [0, -1])):
        kernel[rim] = np.where(kernel[rim] == 0, 1, kernel[rim])
    return kernel.astype(np.float32)


def srcnn_like(
    path: Path, scale: int, layers: Layers, kernel: np.ndarray, crop: int, channels: int = 1
) -> Path:
    """Write a valid model: kernel → DepthToSpace → crop → layers."""
    weights: dict[str, np.ndarray] = {"k": np.tile(kernel, (channels, 1, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["lr", "k"], ["phases"], "up", group=channels),
        helper.make_node("DepthToSpace", ["phases"], ["up0"], "shuffle", blocksize=scale, mode="CRD"),
    ]
    last = "up0"
    if crop:
        weights |= {
            "starts": np.array([crop, crop]),
            "ends": np.array([-crop, -crop]),
            "axes": np.array([2, 3]),
        }
        nodes.append(helper.make_node("Slice", [last, "starts", "ends", "axes"], ["cropped"], "crop"))
        last = "cropped"
    for k, (weight, bias) in enumerate(layers):
        weights |= {f"w{k}": weight, f"b{k}": bias}
        out = "hr" if k + 1 == len(layers) else f"c{k}"
        nodes.append(helper.make_node("Conv", [last, f"w{k}", f"b{k}"], [out], f"conv{k}"))
        last = out
        if k + 1 < len(layers):
            nodes.append(helper.make_node("Relu", [last], [f"r{k}"], f"relu{k}"))
            last = f"r{k}"
    return save(path, nodes, weights, channels=channels)


def layers_of(path: Path | str | bytes) -> Layers:
    """Read conv1, conv2 … from a model file; the equivariant form has biases of 0."""
    proto = onnx.load_model_from_string(path) if isinstance(path, bytes) else onnx.load(path)
    found = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    count = sum(name.startswith("conv") and name.endswith(".weight") for name in found)
    weights = [found[f"conv{k}.weight"] for k in range(1, count + 1)]
    if proto.graph.node[-1].op_type == "Add":
        assert not any(name.endswith("bias") for name in found)
        return [(w, np.zeros(len(w), np.float32)) for w in weights]
    return [(w, found[f"conv{k}.bias"]) for k, w in enumerate(weights, start=1)]


def network_of(path: Path | str) -> Network:
    """Return a bundled model, or a file, for the reference implementation, without its analysis."""
    file = bundled().get(str(path), Path(path))
    proto, layers = onnx.load(file), layers_of(file)
    meta = {p.key: p.value for p in proto.metadata_props}
    added = proto.graph.node[-1].op_type == "Add"
    slopes = None
    if meta["srcnn_rt.architecture"].startswith("compact"):
        found = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        slopes = [
            found.get(f"prelu{k}.slope", np.zeros((len(w), 1, 1)))[:, 0, 0]
            for k, (w, _) in enumerate(layers[:-1], start=1)
        ]
    studio = not added and layers[0][0].shape[1] == 1
    black, white = (16 / 255, 235 / 255) if studio else (0.0, 1.0)
    return Network(layers, int(meta["srcnn_rt.scale"]), added, black, white, slopes)
