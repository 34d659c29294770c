"""Tables of where the time goes, from traces. No function here has side effects.

There are two sources, both in Chrome's trace format (a list of events with ``cat``, ``name``, ``ts`` and
``dur`` in microseconds):

- torch's profiler sees every kernel and every copy of the process, also those of srcnn-rt and ONNX Runtime,
  because CUPTI belongs to the driver;
- ONNX Runtime's own profile names nodes of the graph and uses the host's clock. On a GPU nodes that are
  launched without waiting look cheap, and the copy at the end looks expensive.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Event = dict[str, Any]

DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
HOST = ("cpu_op",)
_LONGEST = 60  # characters of a name; names of template kernels have hundreds


def self_times(events: Iterable[Event]) -> list[tuple[str, float]]:
    """Return the name of every event and its microseconds without those of nested events.

    In this format events of one thread (or stream) are nested or disjoint.
    """
    found: list[list[Any]] = []
    threads: dict[Any, list[tuple[float, int]]] = defaultdict(list)  # open events: end, place in found
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        start, duration = float(event["ts"]), float(event["dur"])
        still = threads[event.get("pid"), event.get("tid")]
        while still and still[-1][0] <= start:
            still.pop()
        if still:
            found[still[-1][1]][1] -= duration
        still.append((start + duration, len(found)))
        found.append([event["name"], duration])
    return [(name, max(0.0, own)) for name, own in found]


def busy(events: Iterable[Event]) -> float:
    """Return the microseconds during which at least one event was active."""
    total, until = 0.0, float("-inf")
    for start, end in sorted((float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in events):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def table_of(
    parts: Iterable[tuple[str, float]], runs: int, *, name: Callable[[str], str] = str, maximum: int = 8
) -> list[dict[str, Any]]:
    """Sum times by name, the longest first; names beyond `maximum` become one row.

    Parameters
    ----------
    parts : iterable of (str, float)
        Names and microseconds.
    runs : int
        Number of runs; rows are in milliseconds per run.
    name : callable
        Maps a name before summing.
    maximum : int
        Number of rows with a name of their own.
    """
    times: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for raw, microseconds in parts:
        times[name(raw)] += microseconds
        counts[name(raw)] += 1
    total = sum(times.values())
    if not total:
        return []
    order = sorted(times, key=lambda key: -times[key])
    groups = [(key, [key]) for key in order[:maximum]]
    if order[maximum:]:
        groups.append((f"{len(order) - maximum} others", order[maximum:]))
    return [
        {
            "name": label,
            "ms": sum(times[k] for k in keys) / 1e3 / runs,
            "share": sum(times[k] for k in keys) / total,
            "count": sum(counts[k] for k in keys) / runs,
        }
        for label, keys in groups
    ]


def short(name: str) -> str:
    """Return a kernel's name without return type, arguments and template parameters."""
    name = re.sub(r"\(anonymous namespace\)::", "", name.removeprefix("void "))
    name = re.sub(r"<.*", "", name.partition("(")[0]) or name
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def device_profile(trace: Sequence[Event], runs: int, seconds: float) -> dict[str, Any]:
    """Return kernels and copies of a torch trace of `runs` runs that took `seconds` in total.

    If there are none, as on a CPU, return torch's own operators on the host.
    """
    timed = [e for e in trace if e.get("ph") == "X" and "dur" in e]
    events = [e for e in timed if e.get("cat") in DEVICE]
    on = "GPU" if events else "host"
    events = events or [e for e in timed if e.get("cat") in HOST]
    # Names of copies say their direction in brackets: "Memcpy HtoD (Pinned -> Device)".
    name = short if on == "GPU" else str
    rows = table_of(self_times(events), runs, name=lambda n: n if n.startswith("Mem") else name(n))
    return {"source": f"torch profiler, {on}", "rows": rows, "busy": busy(events) / 1e6 / seconds}


def onnx_profile(trace: Sequence[Event], skip: int, runs: int) -> dict[str, Any]:
    """Return operators of ONNX Runtime's profile.

    Parameters
    ----------
    trace : sequence of dict
        Events that ``session.end_profiling`` wrote.
    skip : int
        Warm-up runs at the start.
    runs : int
        Runs after the warm-up.
    """
    nodes = [e for e in trace if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    sessions = sorted(float(e["ts"]) for e in trace if e.get("name") == "model_run")
    since = sessions[skip] if len(sessions) > skip else 0.0
    parts, providers = [], set()
    for event in nodes:
        if float(event["ts"]) < since:
            continue
        about = event.get("args", {})
        provider = str(about.get("provider", "")).removesuffix("ExecutionProvider")
        providers.add(provider)
        parts.append((f"{about.get('op_name', '?')} {_output(event['name'])}", float(event["dur"])))
    source = f"ONNX Runtime, host clock ({', '.join(sorted(p for p in providers if p))})"
    return {"source": source, "rows": table_of(parts, runs), "busy": None}


def _output(name: str) -> str:
    return name.removesuffix("_kernel_time")
