"""Traces of running contestants, from which `_gpu_profile` makes tables."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from _gpu_case import Case, Contestant
from _gpu_peers import OnnxRuntime, onnx_session
from _gpu_profile import device_profile, onnx_profile

RUNS, WARM_UP = 5, 3


def traced(contestant: Contestant, case: Case) -> dict[str, Any]:
    """Profile a contestant with torch, whose profiler sees all kernels of the process."""
    from torch.profiler import ProfilerActivity, profile

    cuda = case.place.provider == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    if not cuda and not contestant.name.startswith("torch"):
        raise RuntimeError("without a GPU, torch's profiler sees torch only")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # about profiler shutdown and timers without a GPU
        with profile(activities=[activity]):  # the first use is slow
            contestant.run()
            case.place.wait()
        with profile(activities=[activity]) as profiler:
            start = time.perf_counter()
            for _ in range(RUNS):
                contestant.run()
                case.place.wait()
            seconds = time.perf_counter() - start
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())["traceEvents"]
    found = device_profile(trace, RUNS, seconds)
    if not found["rows"]:
        raise RuntimeError("the profiler saw nothing")
    return {**found, "contestant": contestant.name, "route": contestant.route}


def onnx_traced(contestant: OnnxRuntime, case: Case) -> dict[str, Any]:
    """Profile one window of the graph as exported with ONNX Runtime's own profiler."""
    with tempfile.TemporaryDirectory() as folder:
        session = onnx_session(case, Path(folder, "profile"))
        for _ in range(WARM_UP + RUNS):
            session.run(None, contestant.feeds)
        trace = json.loads(Path(session.end_profiling()).read_text())
    found = onnx_profile(trace, WARM_UP, RUNS)
    return {**found, "contestant": contestant.name, "route": "one window"}
