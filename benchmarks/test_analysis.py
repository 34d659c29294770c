"""The analysis of a graph of 500 nodes takes at most 50 ms."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from srcnn_rt.models import analysis


def residual_network(blocks: int) -> object:
    """Return an EDSR-like graph of 4 nodes per block, with a pixel shuffle at the end."""
    kernel = numpy_helper.from_array(np.zeros((16, 16, 3, 3), np.float32), "w")
    enter = numpy_helper.from_array(np.zeros((16, 1, 3, 3), np.float32), "w_in")
    leave = numpy_helper.from_array(np.zeros((4, 16, 3, 3), np.float32), "w_out")
    pads = {"pads": [1] * 4}
    nodes, last = [helper.make_node("Conv", ["lr", "w_in"], ["x0"], **pads)], "x0"
    for k in range(blocks):
        nodes += [
            helper.make_node("Conv", [last, "w"], [f"a{k}"], **pads),
            helper.make_node("Relu", [f"a{k}"], [f"r{k}"]),
            helper.make_node("Conv", [f"r{k}", "w"], [f"b{k}"], **pads),
            helper.make_node("Add", [last, f"b{k}"], [f"x{k + 1}"]),
        ]
        last = f"x{k + 1}"
    nodes += [
        helper.make_node("Conv", [last, "w_out"], ["y"], **pads),
        helper.make_node("DepthToSpace", ["y"], ["hr"], blocksize=2),
    ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1, f"h{n}", f"w{n}"]) for n in ("lr", "hr")
    ]
    proto = helper.make_graph(nodes, "edsr", values[:1], values[1:], [kernel, enter, leave])
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)])


def test_five_hundred_nodes(benchmark) -> None:
    model = residual_network(125)
    assert len(model.graph.node) == 503
    facts = benchmark.pedantic(analysis.analyse, (model,), rounds=21, warmup_rounds=2)
    assert (facts.margin, facts.scale) == (252, 2)
    assert benchmark.stats.stats.median < 0.05
