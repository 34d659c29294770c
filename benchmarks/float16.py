"""What float16 loses: python benchmarks/float16.py --data set5 --data set14 [--model NAME ...]

The graphs that a card would run, on the CPU (`srcnn_rt.precision.simulation`): weights and every layer's
result are rounded to float16, sums are made in float32, as tensor cores do but for their order. Each model
is measured in the protocol it was trained for, once in float32, once with every layer merely cast, once as
`srcnn_rt.precision.for_float16` prepares it. "expected" is what is estimated when a session is made, on
drawn pictures, before results are rounded to 8 bits; beside it the same for layers merely cast.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from srcnn_rt import Engine, evaluate, program, spec
from srcnn_rt.models import bundled
from srcnn_rt.precision.float16 import LIMIT_DB, float16_loss, for_float16
from srcnn_rt.precision.halves import Halves
from srcnn_rt.precision.simulation import simulated
from srcnn_rt.session import Session


def run(model: ModelProto, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a graph once on the CPU."""
    return Session(model.SerializeToString()).run(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder of pictures")
    parser.add_argument("--model", action="append", help="name or path; all that are bundled if none")
    args = parser.parse_args()
    print("| model | set | exact, dB | merely cast | float16 | lost | expected | merely cast | |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---|")
    for name in args.model or bundled():
        ready = program.prepare(*spec.load(name))
        graph = spec.parse(ready.data)
        values = ready.spec.range
        white = max(a + b for a, b in zip(values.gain, values.offset, strict=True))
        graphs = {
            "exact": graph,
            "cast": simulated(Halves(graph).convert()),
            "float16": simulated(for_float16(graph, min(values.offset), white, run).model),
        }
        each = {key: Session(proto.SerializeToString()) for key, proto in graphs.items()}
        worse, expected = (float16_loss(ready, each[k].run, each["exact"].run) for k in ("cast", "float16"))
        protocol = evaluate.protocol_for(ready.spec, "y", None)
        with ExitStack() as stack:
            methods = []
            for key, proto in graphs.items():
                engine = stack.enter_context(Engine(proto.SerializeToString(), "cpu"))
                methods.append(evaluate.Method(key, engine.upscale, ready.spec.channels == 3))
            for folder in args.data:
                result = evaluate.evaluate(folder, methods, protocol)
                a, b, c = (result.mean(key).psnr for key in graphs)
                kept = "" if a - c <= LIMIT_DB else "more than allowed"
                print(
                    f"| {ready.spec.name} | {result.folder} | {a:.4f} | {b:.4f} | {c:.4f} | {a - c:.4f} "
                    f"| {expected:.4f} | {worse:.4f} | {kept} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
