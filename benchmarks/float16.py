"""Measure the loss of float16: python benchmarks/float16.py --data set5 --data set14 [--model NAME ...]

The graphs that a GPU would run are simulated on the CPU
(`tests.helpers.float16_simulation`): weights and the result of every layer are rounded to
float16, and sums are float32, as on tensor cores except for their order. Each model is measured in the
protocol it was trained for: in float32, with every layer merely cast, and as `for_float16` prepares it.
"expected" is the estimate that a session makes on synthetic images, before results are rounded to 8 bits;
the last column is the same estimate for layers that are merely cast.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from srcnn_rt import Engine
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.evaluation import runner
from srcnn_rt.image import bicubic
from srcnn_rt.models import prepare, spec
from srcnn_rt.models.bundled import bundled
from srcnn_rt.models.low_precision.float16 import LIMIT_DB, float16_loss, for_float16
from srcnn_rt.models.low_precision.float16_casts import Float16Partition

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.helpers.float16_simulation import simulated


def run(model: ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a graph once on the CPU."""
    return Session(model.SerializeToString()).run(image)


def added(graph: ModelProto, model: spec.ModelSpec) -> ModelProto:
    """Return a graph that also adds the bicubic image, which the tiler adds otherwise."""
    made = ModelProto()
    made.CopyFrom(graph)
    helper.set_model_props(made, {f"{spec.PREFIX}range": "0..1"})
    if not model.adds_bicubic:
        return made
    (target,) = (o.name for o in made.graph.output)
    for node in made.graph.node:
        for k, name in enumerate(node.output):
            node.output[k] = "detail" if name == target else name
    plain = made.graph.input[0].name
    if model.scale > 1:
        body, tensors = bicubic.nodes(plain, "plain", model.scale, model.channels, "again")
        made.graph.node.extend(body)
        made.graph.initializer.extend(tensors)
        plain = "plain"
    cut = (model.margin - (bicubic.RADIUS if model.scale > 1 else 0)) * model.scale
    for name, values in (("from", [cut] * 2), ("to", [-cut] * 2), ("axes", [2, 3])):
        made.graph.initializer.append(numpy_helper.from_array(np.array(values), f"again.{name}"))
    inner = [plain, "again.from", "again.to", "again.axes"]
    made.graph.node.append(helper.make_node("Slice", inner, ["inner"], "again.cut"))
    made.graph.node.append(helper.make_node("Add", ["detail", "inner"], [target], "again.sum"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder of test images")
    parser.add_argument("--model", action="append", help="name or path; by default every bundled model")
    args = parser.parse_args()
    print("| model | set | exact, dB | merely cast | float16 | lost | expected | merely cast | |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---|")
    for name in args.model or bundled():
        ready = prepare.build_program(*spec.load(name))
        graph = spec.parse(ready.data)
        values = ready.spec.range
        white = max(a + b for a, b in zip(values.gain, values.offset, strict=True))
        # Only the network is float16. Bicubic is float32 on a GPU as well.
        graphs = {
            "exact": graph,
            "cast": simulated(Float16Partition(graph).convert()),
            "float16": simulated(for_float16(graph, min(values.offset), white, run).model),
        }
        each = {key: Session(proto.SerializeToString()) for key, proto in graphs.items()}
        worse, expected = (float16_loss(ready, each[k].run, each["exact"].run) for k in ("cast", "float16"))
        protocol = runner.protocol_for(ready.spec, "y", None)
        with ExitStack() as stack:
            methods = []
            for key, proto in graphs.items():
                whole = added(proto, ready.spec).SerializeToString()
                engine = stack.enter_context(Engine(whole, provider="cpu", data_range="dtype"))
                methods.append(runner.Method(key, engine.upscale, ready.spec.channels == 3))
            for folder in args.data:
                result = runner.evaluate(folder, methods, protocol)
                a, b, c = (result.mean(key).psnr for key in graphs)
                kept = "" if a - c <= LIMIT_DB else "more than allowed"
                print(
                    f"| {ready.spec.name} | {result.folder} | {a:.4f} | {b:.4f} | {c:.4f} | {a - c:.4f} "
                    f"| {expected:.4f} | {worse:.4f} | {kept} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
