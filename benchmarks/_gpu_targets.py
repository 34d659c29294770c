"""Targets of srcnn-rt on a GPU, as ratios within one run, and their verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from _tables import Result, ratio, verdict

MECHANICS = "mechanics only, not a GPU figure"

# Roles of contestants in the verdicts; other contestants have none.
OURS, COMPILED, ONNX = "ours", "torch.compile", "ONNX Runtime"
DEVICE, ARRAY, FILE = "device → device", "array → array", "file → file"
ROUTES = (DEVICE, ARRAY, FILE)


@dataclass(frozen=True)
class Target:
    """A ratio to be reached.

    Attributes
    ----------
    what : str
        Description.
    architectures : tuple of str, optional
        Architectures to which it applies; all if None.
    wanted : float
        Smallest accepted value.
    measure : callable
        Maps a model's results and floor to the ratio, or to None if a result is missing.
    """

    what: str
    architectures: tuple[str, ...] | None
    wanted: float
    measure: Callable[[Sequence[Result], dict[str, Any] | None], float | None]


def pick(results: Sequence[Result], route: str, role: str) -> Result | None:
    """Return the timed result of a role on a route."""
    timed = (r for r in results if r["status"] == "timed" and (r["route"], r["role"]) == (route, role))
    return next(timed, None)


def times(results: Sequence[Result], route: str, role: str) -> float | None:
    """Return the speed of ours relative to another role, the median over the rounds."""
    one, other = pick(results, route, OURS), pick(results, route, role)
    return None if one is None or other is None else ratio(one, other)


def of_roofline(results: Sequence[Result], limits: dict[str, Any] | None) -> float | None:
    """Return our share of the GPU-to-GPU roofline."""
    one = pick(results, DEVICE, OURS)
    return None if one is None or limits is None else one["mpx_per_s"] / limits["device_mpx_per_s"]


def of_lower(results: Sequence[Result], limits: dict[str, Any] | None) -> float | None:
    """Return our speed from host bytes divided by our speed on the GPU, or by that of the bus if it is lower.

    The ratio to our speed on the GPU is taken within each round. The bus was measured once.
    """
    host, device = pick(results, ARRAY, OURS), pick(results, DEVICE, OURS)
    if host is None or device is None or limits is None:
        return None
    bus = limits["bus_mpx_per_s"]
    pairs = zip(host["rounds"], device["rounds"], strict=True)
    return statistics.median(here / min(there, bus) for here, there in pairs)


TARGETS = (
    Target("device → device, of the roofline", ("9-5-5",), 0.40, of_roofline),
    Target("device → device, times torch.compile", ("9-5-5",), 2.0, lambda r, _: times(r, DEVICE, COMPILED)),
    Target("array → array, of device → device or the bus, the lower", None, 0.85, of_lower),
    Target("array → array, times ONNX Runtime's defaults", None, 10.0, lambda r, _: times(r, ARRAY, ONNX)),
)


def judge(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare the results of a document with the targets of each model.

    A run without a GPU gets ratios, which test the arithmetic, but no verdict.
    """
    verdicts = []
    for model in document["models"]:
        own = [r for r in document["results"] if r["model"] == model["name"]]
        for target in TARGETS:
            if target.architectures and model["architecture"] not in target.architectures:
                continue
            found = target.measure(own, model.get("floor"))
            word = "not measured" if found is None else verdict(found, target.wanted)
            verdicts.append(
                {
                    "model": model["name"],
                    "what": target.what,
                    "measured": found,
                    "wanted": target.wanted,
                    "verdict": MECHANICS if document["label"] else word,
                }
            )
    return verdicts
