"""Markdown reports from the JSON of gpu.py. No function here has side effects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from _gpu_targets import ARRAY, DEVICE, ROUTES
from _tables import Result, grid, number

NONE = "–"
_SIDES = {DEVICE: "device", ARRAY: "host"}  # floor with which a route is compared; files have none


def markdown(document: dict[str, Any]) -> str:
    """Return the full report: device, rates, floors, results, verdicts and profiles."""
    label = document["label"]
    parts = [
        f"# {title(label)}" if label else "# On a GPU",
        where(document),
        ceilings_table(document),
        floors_table(document["models"]),
        results_table(document),
        "Wanted:",
        targets_table(document["targets"]),
        *(profile_table(p) for p in document["profiles"]),
    ]
    if not document["complete"]:
        parts.append("**Not complete**: the run ended, or its time was used up, before all was measured.")
    if label:
        parts.append(f"**{title(label)}.**")
    return "\n\n".join(part for part in parts if part) + "\n"


def title(label: str) -> str:
    """Return a label as the beginning of a sentence."""
    return label[:1].upper() + label[1:]


def where(document: dict[str, Any]) -> str:
    """Return GPU, machine, versions and method."""
    machine, settings, device = document["machine"], document["settings"], document["device"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    side = settings["side"]
    return (
        f"{device['name']}; {machine['cpu']}, {machine['processors']} CPU cores; {versions}; revision "
        f"{machine['revision']}, {document['measured']}. A gray image of {side}² LR pixels, 8 bits, the "
        f"same for all, in one process. Medians of {settings['rounds']} rounds of {settings['seconds']:g} s "
        "in which contestants took turns; every result was first compared with ONNX Runtime's float32 on the "
        "CPU."
    )


def ceilings_table(document: dict[str, Any]) -> str:
    """Return the measured rates of the GPU."""
    found = document.get("ceilings")
    if not found:
        return ""
    cpu = bool(document["label"])
    bus = "memcpy instead of the bus" if cpu else "bus, pinned"
    rows = [
        (f"matrix product, {p}", f"{rate / 1e12:.3g} T operations/s") for p, rate in found["matrix"].items()
    ]
    rows.append(("memory, read and written", f"{found['copy'] / 1e9:.3g} GB/s"))
    directions = " / ".join(f"{found[k] / 1e9:.3g}" for k in ("up", "down", "both"))
    rows.append((f"{bus}: up / down / both at once", f"{directions} GB/s"))
    return grid((f"measured{_tag(document)}", "rate"), rows)


def floors_table(models: Iterable[dict[str, Any]]) -> str:
    """Return the roofline of every model."""
    rows = []
    for model in models:
        limits = model.get("floor")
        if not limits:
            continue
        times = (number(limits[f"{k}_ms"]) for k in ("arithmetic", "executed", "memory", "bus"))
        speeds = (number(limits[f"{k}_mpx_per_s"]) for k in ("device", "host"))
        macs = (f"{model[k]:,.0f}" for k in ("useful_macs", "executed_macs"))
        rows.append((model["name"], *macs, *times, limits["bound"], *speeds))
    head = (
        "roofline",
        "useful MACs per pixel",
        "executed",
        "arithmetic, ms",
        "of executed",
        "memory, ms",
        "bus, ms",
        "bound by",
        "device, Mpx/s",
        "host, Mpx/s",
    )
    return grid(head, rows) if rows else ""


def results_table(document: dict[str, Any], model: str | None = None) -> str:
    """Return the table of every contestant on every route; a contestant without a time has a reason.

    Parameters
    ----------
    document : dict
        What gpu.py writes as JSON.
    model : str, optional
        Show this model only.
    """
    limits = {m["name"]: m.get("floor") for m in document["models"]}
    order = {m["name"]: k for k, m in enumerate(document["models"])}

    def key(r: Result) -> tuple[int, int, float]:
        return order.get(r["model"], len(order)), ROUTES.index(r["route"]), -r.get("mpx_per_s", 0.0)

    shown = (r for r in sorted(document["results"], key=key) if model in (None, r["model"]))
    rows = [_row(r, limits.get(r["model"])) for r in shown]
    head = ("model", "from → to", "", "Mpx/s", "ms, p50", "p95", "of roofline", "PSNR, dB", "")
    before = f"{title(document['label'])}:\n\n" if document["label"] else ""
    return before + grid(head, rows, left=3)


def _row(result: Result, limits: dict[str, Any] | None) -> tuple[str, ...]:
    name = f"**{result['contestant']}**" if result["ours"] else result["contestant"]
    about = (result["model"], result["route"], name)
    if result["status"] != "timed":
        reason = f"{result['status']}: {result['reason']}".replace("|", "/")
        return (*about, *[NONE] * 5, reason)
    share, side = NONE, _SIDES.get(result["route"])
    if limits and side and result["precision"] == limits["precision"]:
        share = f"{result['mpx_per_s'] / limits[f'{side}_mpx_per_s']:.1%}"
    notes = ", ".join(f"{k} {v}" for k, v in result["notes"].items())
    times = (number(result[k]) for k in ("mpx_per_s", "p50", "p95"))
    return (*about, *times, share, decibels(result["rms"]), notes)


def decibels(rms: float) -> str:
    """Return the PSNR of an error in code values of 255."""
    return "∞" if rms == 0 else f"{20 * math.log10(255 / rms):.1f}"


def targets_table(verdicts: Iterable[dict[str, Any]]) -> str:
    """Return targets, measurements and verdicts."""
    rows = [
        (
            v["model"],
            v["what"],
            NONE if v["measured"] is None else number(v["measured"]),
            f"≥ {v['wanted']:g}",
            v["verdict"],
        )
        for v in verdicts
    ]
    return grid(("model", "", "measured", "wanted", ""), rows, left=2)


def profile_table(profile: dict[str, Any]) -> str:
    """Return where the time of one contestant went."""
    title = f"{profile['contestant']}, {profile['route']}, {profile['model']}"
    if "reason" in profile:
        return f"{title}: no profile: {profile['reason']}"
    rows: Sequence[tuple[str, ...]] = [
        (r["name"].replace("|", "/"), number(r["ms"]), f"{r['share']:.1%}", f"{r['count']:g}")
        for r in profile["rows"]
    ]
    busy = "" if profile["busy"] is None else f"; busy for {profile['busy']:.0%} of the time"
    head = (f"{title} ({profile['source']}{busy})", "ms per run", "share", "calls per run")
    return grid(head, rows)


def _tag(document: dict[str, Any]) -> str:
    return f", {document['label']}" if document["label"] else ""
