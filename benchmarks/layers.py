"""Measure the time of a network layer by layer: python benchmarks/layers.py [MODEL ...]

This is ONNX Runtime's own profile of the optimised graph, with one thread and windows of one tile. The
phases of a layer are summed. Each layer also has its executed multiply-accumulates per second.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime as ort

from srcnn_rt.models import prepare, spec
from srcnn_rt.models.optimize.cpu_cost import work

RUNS = 20


def profile(model: str, tile: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return nanoseconds and executed multiply-accumulates per HR pixel, by layer."""
    data, described = spec.load(model)
    ready = prepare.build_program(data, described)
    side = tile // described.scale // ready.spec.period * ready.spec.period
    pixels = (side * described.scale) ** 2
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = ort.InferenceSession(ready.data, options, providers=["CPUExecutionProvider"])
        shape = (1, described.channels, *[side + 2 * ready.spec.margin] * 2)
        window = np.random.default_rng(0).random(shape, np.float32)
        for _ in range(RUNS):
            session.run(None, {session.get_inputs()[0].name: window})
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node":
            taken[event["name"].removesuffix("_kernel_time")].append(event["dur"])
    graph = spec.parse(ready.data).graph
    macs = work(spec.parse(ready.data)).layers
    # A convolution is named by its output, or by that of the activation fused into it.
    fused = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Relu"}
    totals: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    names = {n.output[0]: n.name for n in graph.node}
    for name, durations in taken.items():
        output = re.sub(r"_nchwc$", "", name)
        conv = fused.get(output, output)
        layer = names.get(conv, "")
        group = re.sub(r"(\.\d+)+$", "", layer) if conv in macs else "everything else"
        totals[group] += statistics.median(durations) * 1e3 / pixels
        counts[group] += macs.get(conv, 0.0)
    return dict(totals), dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["srcnn-915-x2", "srcnn-955-x2"])
    parser.add_argument("--tile", type=int, default=256, help="HR pixels")
    args = parser.parse_args()
    print("| model | layer | ns per pixel | executed MACs per pixel | GMAC/s |")
    print("|---|---|---:|---:|---:|")
    for model in args.models:
        totals, counts = profile(model, args.tile)
        for layer in sorted(totals):
            rate = f"{counts[layer] / totals[layer]:.0f}" if counts[layer] else "–"
            print(f"| {model} | {layer} | {totals[layer]:.1f} | {counts[layer]:.0f} | {rate} |")


if __name__ == "__main__":
    main()
