"""SRVGG with random weights: layers that pad, PReLU, and the enlarged input added to the result."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
from onnx import TensorProto, helper, numpy_helper

NAME = re.compile(r"srvgg-(\d+)x(\d+)-x(\d)")


def srvgg(name: str) -> bytes:
    """Return the ONNX model of a name such as ``srvgg-64x16-x4``: 64 channels, 16 inner layers, x4, RGB.

    Raises
    ------
    ValueError
        If the name is none.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"a name is srvgg-CHANNELSxLAYERS-xSCALE, got {name!r}")
    channels, layers, scale = map(int, found.groups())
    rng = np.random.default_rng(0)
    widths = [3, *[channels] * (layers + 1), 3 * scale**2]
    weights = {"scales": np.array([1, 1, scale, scale], np.float32)}
    nodes, last = [], "lr"
    for k, (inputs, outputs) in enumerate(pairwise(widths)):
        weights[f"w{k}"] = rng.normal(0, (9 * inputs) ** -0.5, (outputs, inputs, 3, 3)).astype(np.float32)
        weights[f"b{k}"] = rng.normal(0, 0.01, outputs).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{k}", f"b{k}"], [f"c{k}"], pads=[1] * 4))
        last = f"c{k}"
        if k <= layers:
            weights[f"s{k}"] = np.full((outputs, 1, 1), 0.2, np.float32)
            nodes.append(helper.make_node("PRelu", [last, f"s{k}"], [f"p{k}"]))
            last = f"p{k}"
    way = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    nodes.append(helper.make_node("DepthToSpace", [last], ["up"], blocksize=scale, mode="CRD"))
    nodes.append(helper.make_node("Resize", ["lr", "", "scales"], ["nearest"], **way))
    nodes.append(helper.make_node("Add", ["up", "nearest"], ["hr"]))
    ends = [
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", 3, f"{end}_h", f"{end}_w"])]
        for end in ("lr", "hr")
    ]
    constants = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, name, *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
