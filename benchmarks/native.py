"""Time the native backend against ONNX Runtime, one thread each: python benchmarks/native.py [MODEL ...]

Both run the same window in turns, with what each needs around it; the median CPU time per HR pixel counts.
``GMAC/s`` counts the multiply-accumulates that remain after the fast algorithms; the last line has that of
NumPy's matrix product for comparison, which is near the limit of the CPU.
SRCNN_RT_ISA=avx2 restricts the instruction set. ``srvgg-64x16-x4`` is an SRVGG with random weights.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported

import numpy as np
from _srvgg import NAME, srvgg

from srcnn_rt.backends.host_renderer import HostNetwork
from srcnn_rt.backends.native import NativeSession
from srcnn_rt.backends.onnxruntime import Session
from srcnn_rt.backends.srcnn_kernel import TILE
from srcnn_rt.models import conv_chain, prepare, spec, srcnn_chain
from srcnn_rt.models.margins import network_margin
from srcnn_rt.models.spec import ModelSpec

MODELS = [f"srcnn-{arch}-x{s}" for arch in ("915", "935", "955") for s in (2, 3, 4)] + [
    "compact-m4c16-x2",
    "compact-m10c32-x2",
]
FAST = 24 / 72  # products of the fast filters for 3x3, of direct ones
SPECTRUM = 382  # real products per tile of the transform


def products(program: prepare.Program) -> float:
    """Return the multiply-accumulates per HR pixel that the kernels execute."""
    chain = srcnn_chain.find(spec.parse(program.data))
    if isinstance(chain, str):
        layers = conv_chain.find(spec.parse(program.data))
        assert isinstance(layers, conv_chain.Chain)
        first, *others = (float(layer.weight.size) for layer in layers.layers)
        return (first + sum(others) * FAST) / program.spec.scale**2
    n2, n1, k2 = chain.second.weight.shape[:3]
    taps = (-(-chain.sides // 2)).mean(axis=1).prod()
    first = 9 / 4 * taps * chain.first.shape[3] * n1
    second = n1 * n2 * (1 if k2 == 1 else SPECTRUM / TILE**2)
    return first + second + chain.last.weight.size


def window(network: HostNetwork, run: ModelSpec, side: int) -> tuple[float, int]:
    """Return the CPU seconds of one run on a window of about `side` HR pixels, and its HR pixels."""
    tile = -(-(side // run.scale) // run.period) * run.period
    around, hr = 2 * network_margin(run), tile * run.scale
    bound = network.bind((1, run.channels, tile + around, tile + around), (1, run.channels, hr, hr))
    bound.input[...] = np.random.default_rng(0).random(bound.input.shape, np.float32)
    bound.run()
    start = time.thread_time()
    bound.run()
    return time.thread_time() - start, hr * hr


def peak(side: int = 1536) -> float:
    """Return the GMAC/s of one thread in a product of float32 matrices."""
    a = np.random.default_rng(0).random((side, side), np.float32)
    times = []
    for _ in range(5):
        start = time.thread_time()
        np.matmul(a, a)
        times.append(time.thread_time() - start)
    return side**3 / min(times) / 1e9


def main() -> None:
    """Print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--side", type=int, default=512, help="HR pixels of a window")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print("| model | native, ns/pixel | ONNX Runtime, ns/pixel | ratio | GMAC/s |\n|---|--:|--:|--:|--:|")
    for name in args.models:
        data, described = spec.load(srvgg(name) if NAME.fullmatch(name) else name)
        native = NativeSession(prepare.network_program(data, described), 1)
        rewritten = prepare.build_program(data, described)
        other = Session(rewritten.data, 1)
        found: list[list[float]] = [[], []]
        for _ in range(args.rounds):
            for k, (network, run) in enumerate(((native, native.program.spec), (other, rewritten.spec))):
                seconds, pixels = window(network, run, args.side)
                found[k].append(seconds / pixels * 1e9)
        ours, theirs = (float(np.median(times)) for times in found)
        rate = products(native.program) / ours
        print(f"| {name} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} | {rate:.0f} |", flush=True)
    print(
        f"\n{native.isa}, windows of {args.side} x {args.side} HR pixels; matrix product {peak():.0f} GMAC/s"
    )


if __name__ == "__main__":
    main()
