"""Run the native backend's kernels for ARM under emulation: python tools/check_neon.py

Needs Debian's packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user. The networks and their
results in float64 are those of the tests of these kernels; ``check_neon.c`` compares.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from srcnn_rt.backends import chain_kernel, srcnn_kernel  # noqa: E402
from srcnn_rt.models import srcnn_chain  # noqa: E402
from srcnn_rt.models.conv_chain import Chain  # noqa: E402
from tests.backends import test_native_kernels as unpadded  # noqa: E402
from tests.backends import test_native_padded as padding  # noqa: E402
from tests.backends.test_native_srcnn import Case  # noqa: E402

LANES = 4
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FLAGS = [
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-static",
    "-Wall",
    "-Wno-unused-function",
]


def cases() -> list[Case]:
    """Return networks of every scale and kind."""
    papers = [Case(s, 1, k, (64, 32), 1, 1) for s in (1, 2, 3, 4) for k in ((9, 1, 5), (9, 3, 5), (9, 5, 5))]
    return [*papers, Case(3, 3, (9, 5, 5), (20, 12), 3, 0), Case(2, 3, (7, 1, 3), (7, 9), 1, 0)]


def record(case: Case) -> bytes:
    """Return a network, a window and the result as ``check_neon.c`` reads them."""
    chain = srcnn_chain.find(case.model())
    assert not isinstance(chain, str)
    extra = srcnn_kernel.extra_margin(chain, case.margin)
    margin = case.margin + extra
    tile = -(-48 // (case.scale * srcnn_kernel.period(chain))) * srcnn_kernel.period(chain)
    side = tile + 2 * margin
    window = np.random.default_rng(0).normal(0, 1, (case.inputs, side, side)).astype(np.float32)
    expected = case.oracle(window[:, extra : side - extra, extra : side - extra]).astype(np.float32)
    _, low, taps, first, bias1, second, bias2, last, bias3 = srcnn_kernel.packed(chain, extra, LANES)
    full = np.zeros((2, 2, 4), np.int32)
    full[..., : case.scale] = low, taps
    k2 = 1 if len(second) == 1 else srcnn_kernel.MAX_SECOND
    sizes = [case.scale, case.inputs, bias1.shape[1], len(bias2), len(bias3), k2, last.shape[1]]
    head = np.array([*sizes, *full.ravel(), side, side, *expected.shape[1:], first.size], np.int32)
    arrays = (first, bias1, second, bias2, last, bias3, window, expected)
    return head.tobytes() + b"".join(np.ascontiguousarray(a, np.float32).tobytes() for a in arrays)


def chain_record(count: int, width: int, scale: int, padded: bool) -> bytes:
    """Return a chain, a window and the result as ``check_neon.c`` reads them."""
    layers = unpadded.layers([3, *[width] * (count - 1), 3 * scale**2], ["prelu"] * (count - 1) + [""], 1)
    head = np.array([count, scale, padded, padded], np.int32).tobytes()
    if padded:
        window = padding.drawn(3, 13, 27)
        expected = padding.oracle(layers, scale, window, True)
    else:
        window = unpadded.drawn(layers, (12, 28))
        expected = unpadded.oracle(layers, scale, unpadded.inner(layers, window))
    sizes = [*window.shape[1:], *(n // scale for n in expected.shape[1:])]
    data = [head, np.array(sizes, np.int32).tobytes()]
    for weights, bias, slope, inputs, outputs, activation in chain_kernel.packed(
        Chain(tuple(layers), scale), LANES
    ):
        data.append(np.array([inputs, outputs, activation, weights.size], np.int32).tobytes())
        data += [a.tobytes() for a in (weights, bias, slope)]
    return b"".join([*data, window.tobytes(), expected.astype(np.float32).tobytes()])


def main() -> int:
    """Compile, run, and return the exit status."""
    chains = [(5, 16, 2), (10, 32, 3), (4, 20, 4), (1, 0, 2)]
    with tempfile.TemporaryDirectory() as folder:
        program, data, more = (Path(folder, name) for name in ("check", "srcnn", "chains"))
        data.write_bytes(b"".join(record(case) for case in cases()))
        more.write_bytes(b"".join(chain_record(*c, padded) for c in chains for padded in (False, True)))
        source = ROOT / "tools" / "check_neon.c"
        command = [COMPILER, *FLAGS, "-I", str(ROOT / "_ext"), "-o", str(program), str(source), "-lm"]
        subprocess.run(command, check=True)
        return subprocess.run([EMULATOR, str(program), str(data), str(more)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
