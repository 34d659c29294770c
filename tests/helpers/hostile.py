"""Hostile models of one channel, and checks that they are refused with little memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from srcnn_rt import Engine, ModelError
from srcnn_rt.models import spec
from tests.helpers import models

node = helper.make_node
Proto = onnx.ModelProto

LIMITED = """
import json, resource, sys, time
from pathlib import Path
from srcnn_rt import Engine, SrcnnError
from srcnn_rt.models import prepare, spec
from srcnn_rt.jobs.report import peak_memory
import onnx.checker, onnx.reference, onnxruntime
before, seconds, errors = peak_memory(), [], []
for call in (
    lambda: Engine(sys.argv[1], provider="cpu", tile=16, threads=1).close(),
    lambda: Engine(sys.argv[1], provider="cpu", tile=None, threads=1).close(),
    lambda: prepare.build_program(*spec.load(sys.argv[1])),
):
    begun = time.process_time()  # CPU time, which other processes do not affect
    try:
        call()
        errors.append("")
    except SrcnnError as error:
        errors.append(str(error))
    seconds.append(time.process_time() - begun)
print(json.dumps([errors, peak_memory() - before, max(seconds)]))
"""


def proto(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None) -> Proto:
    """Return a model of one channel from ``lr`` to ``hr``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [models.value("lr", ["n", 1, "h", "w"])],
        [models.value("hr", ["n", 1, "sh", "sw"])],
        [models.tensor(k, np.asarray(v)) for k, v in (weights or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


def convolution() -> Proto:
    weights = {"w": np.ones((1, 1, 3, 3), np.float32), "b": np.zeros(1, np.float32)}
    return proto([node("Conv", ["lr", "w", "b"], ["hr"], "conv", pads=[1] * 4)], weights)


def refused(path: Path, made: Proto | bytes, rule: str) -> None:
    """Assert that a file is refused with its name and the rule, and that its bytes are refused."""
    data = made if isinstance(made, bytes) else made.SerializeToString()
    path.write_bytes(data)
    for call in (spec.load, Engine):
        with pytest.raises(ModelError) as caught:
            call(path)
        line = str(caught.value)
        assert line.startswith(str(path))
        assert rule in line
        assert line.isprintable()
        assert len(line) < 1100
    with pytest.raises(ModelError):
        spec.load(data)


def limited(path: Path) -> list[str]:
    """Create engines in another process; assert no crash, at most 10 s and 1 GB. Return the errors."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors, memory, seconds = json.loads(done.stdout.splitlines()[-1])
    assert memory < 1e9
    assert seconds < 10
    return errors
