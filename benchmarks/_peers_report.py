"""Tables and plots from the JSON of peers.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from _tables import Result, grid, number, ratio, verdict
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

BASE = "OpenVINO f32"  # baseline of the tables
_COLORS = {
    "srcnn-rt": "#d1341f",
    "OpenVINO": "#1f6fb4",
    "ONNX Runtime": "#6a4fa3",
    "torch": "#8a6d3b",
    "OpenCV": "#3f8f5f",
    "ncnn": "#6b7280",
}
_LABEL_GAP = 0.042  # between the centres of two labels, as a share of the panel's height

_MEMORY = {"keep": "kept by malloc", "system": "as the system's malloc does"}

_LEADER = {"arrowstyle": "-", "lw": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 3}


class Target(NamedTuple):
    """Wanted speed of srcnn-rt relative to `peer`, for models of an architecture."""

    architecture: str
    peer: str
    wanted: float


TARGETS = (
    Target("9-1-5", BASE, 3.5),
    Target("9-1-5", "torch channels_last", 4.5),
    Target("9-1-5", "OpenVINO bf16", 1.5),
    Target("9-5-5", BASE, 4.2),
    Target("9-5-5", "OpenVINO bf16", 1.5),
)


def render(document: dict[str, Any], stem: Path) -> None:
    """Write ``stem.md`` and ``stem.png``.

    Parameters
    ----------
    document : dict
        What peers.py writes as JSON.
    stem : Path
        Path without suffix.
    """
    stem.with_suffix(".md").write_text(markdown(document))
    draw(document, stem.with_suffix(".png"))


def markdown(document: dict[str, Any]) -> str:
    """Return the machine, one table per model for the largest image, missing contestants and targets."""
    machine, settings = document["machine"], document["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        "# srcnn-rt and its peers",
        f"{machine['cpu']} ({', '.join(machine['flags'])}), {settings['threads']} threads, "
        f"memory {_MEMORY[settings['malloc']]}; revision {machine['revision']}, {document['measured']}.",
        f"{versions}.",
        f"Output Mpx/s is the median of {settings['rounds']} rounds in which the contestants took turns; "
        f"× is the median of the ratios to {BASE} within a round. rms and max: difference from ONNX "
        "Runtime's float32 result on the graph as exported, in code values of 255.",
    ]
    others = max((r["others"] for r in document["results"] if r.get("others") is not None), default=None)
    if others is not None:
        parts.append(f"Other processes used {others:.2f} CPU cores at most, averaged over a size.")
    for model in document["models"]:
        side = max(settings["sides"])
        parts.append(f"## {model['name']}, gray {side}²")
        parts.append(table(measured(document, model["name"], side)))
    missing = [r for r in document["results"] if r["status"] != "timed"]
    if missing:
        parts.append("## Not timed")
        parts.append("\n".join(sorted({_missing(r) for r in missing})))
    parts.append("## Targets")
    parts.append(targets_table(judge(document)))
    return "\n\n".join(parts) + "\n"


def measured(document: dict[str, Any], model: str, side: int | None = None) -> list[Result]:
    """Return the timed results of a model, only those of one size if `side` is given."""
    return [
        r
        for r in document["results"]
        if r["status"] == "timed" and r["model"] == model and side in (None, r["side"])
    ]


def table(results: Sequence[Result]) -> str:
    """Return a table of one model and size, the fastest first, ours in bold."""
    base = next((r for r in results if r["contestant"] == BASE), None)
    rows = []
    for r in sorted(results, key=lambda r: -r["mpx_per_s"]):
        name = f"**{r['contestant']}**" if r["ours"] else r["contestant"]
        times = "–" if base is None else f"{ratio(r, base):.2f}"
        speed, p50, p95 = (number(r[k]) for k in ("mpx_per_s", "p50", "p95"))
        rows.append((name, speed, p50, p95, times, f"{r['rms']:.3f}", f"{r['max']:.2g}"))
    return grid(("", "Mpx/s", "ms, p50", "ms, p95", f"× {BASE}", "rms", "max"), rows)


def judge(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare every model's largest image with the targets of its architecture.

    The fastest of srcnn-rt's providers counts.
    """
    verdicts = []
    side = max(document["settings"]["sides"])
    for model in document["models"]:
        results = measured(document, model["name"], side)
        for target in TARGETS:
            if target.architecture != model["architecture"]:
                continue
            ours = [r for r in results if r["ours"]]
            best = max(ours, key=lambda r: r["mpx_per_s"], default=None)
            peer = next((r for r in results if r["contestant"] == target.peer), None)
            found = None if best is None or peer is None else ratio(best, peer)
            verdicts.append(
                {
                    "model": model["name"],
                    "ours": best["contestant"] if best else "srcnn-rt exact",
                    "peer": target.peer,
                    "measured": found,
                    "wanted": target.wanted,
                    "verdict": "not measured" if found is None else verdict(found, target.wanted),
                }
            )
    return verdicts


def targets_table(verdicts: Iterable[dict[str, Any]]) -> str:
    """Return a table of targets: measured, wanted, met or missed."""
    rows = [
        (
            v["model"],
            v["ours"],
            v["peer"],
            "–" if v["measured"] is None else f"{v['measured']:.2f}",
            f"{v['wanted']:.2f}",
            v["verdict"],
        )
        for v in verdicts
    ]
    return grid(("model", "ours", "times as fast as", "measured", "wanted", ""), rows, left=3)


def _missing(result: Result) -> str:
    where = f"{result['model']}, {result['side']}²" if result["side"] else result["model"]
    return f"- {result['contestant']} ({where}): {result['status']}: {result['reason']}"


def draw(document: dict[str, Any], target: Path) -> None:
    """Plot output Mpx/s against the image's side, one panel per model, with a label at the end of each line.

    Each family has one colour. Reduced precision is dashed, and ours is thick.
    """
    models = [m for m in document["models"] if measured(document, m["name"])]
    columns = min(2, max(1, len(models)))
    rows = max(1, math.ceil(len(models) / columns))
    figure = Figure(figsize=(7.2 * columns, 5.4 * rows + 0.3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(models) :]:
        axes.axis("off")
    for axes, model in zip(panels, models, strict=False):
        panel(axes, model["name"], measured(document, model["name"]))
    threads = document["settings"]["threads"]
    figure.suptitle(
        f"Gray images on {threads} threads of {document['machine']['cpu']}; dashed: reduced precision"
    )
    save_figure(figure, target)


def save_figure(figure: Figure, target: Path) -> None:
    """Write a PNG atomically."""
    partial = target.with_name(target.name + ".partial")
    figure.savefig(partial, format="png")
    partial.replace(target)


def panel(axes: Axes, name: str, results: Sequence[Result]) -> None:
    """Plot timed results of one model, one line per contestant."""
    axes.set_title(name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sides = sorted({r["side"] for r in results})
    ends = []
    for contestant in dict.fromkeys(r["contestant"] for r in results):
        line = sorted((r for r in results if r["contestant"] == contestant), key=lambda r: r["side"])
        color = _COLORS.get(line[0]["family"], "black")
        axes.plot(
            [r["side"] for r in line],
            [r["mpx_per_s"] for r in line],
            color=color,
            linestyle="--" if line[0]["reduced"] else "-",
            linewidth=3 if line[0]["ours"] else 1.3,
            marker="o",
            markersize=6 if line[0]["ours"] else 3.5,
            zorder=3 if line[0]["ours"] else 2,
        )
        ends.append((line[-1], color))
    speeds = [r["mpx_per_s"] for r in results]
    axes.set_ylim(min(speeds) / 1.25, max(speeds) * 1.25)
    axes.set_xlim(sides[0] / 1.2, sides[-1] * 1.2)
    axes.set_xticks(sides, [f"{n}²" for n in sides])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks([n for n in (0.5, 1, 2, 5, 10, 20, 50, 100) if min(speeds) <= n <= max(speeds) * 1.2])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("image, LR pixels")
    axes.set_ylabel("output, Mpx/s")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: Sequence[tuple[Result, str]]) -> None:
    """Write names and speeds to the right of the panel, each connected to the end of its line."""
    low, high = (math.log(v) for v in axes.get_ylim())
    ends = sorted(ends, key=lambda end: end[0]["mpx_per_s"])
    wanted = [(math.log(r["mpx_per_s"]) - low) / (high - low) for r, _ in ends]
    for (r, color), height in zip(ends, spread(wanted, _LABEL_GAP), strict=True):
        axes.annotate(
            f"{r['contestant']}  {r['mpx_per_s']:.3g}",
            xy=(r["side"], r["mpx_per_s"]),
            xytext=(1.02, height),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            fontweight="bold" if r["ours"] else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={**_LEADER, "color": color},
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return ascending positions at least `gap` apart, each close to the wanted one, none above 1.

    Groups of crowded neighbours are centred on the mean of their wanted positions.
    """
    # Wanted positions of the members, and the centre of the group.
    groups: list[tuple[list[float], float]] = []
    for value in wanted:
        members, middle = [value], value
        # Merge with the group below if the two overlap.
        while groups and groups[-1][1] + gap * (len(groups[-1][0]) + len(members)) / 2 > middle:
            members = groups.pop()[0] + members
            middle = sum(members) / len(members)
        groups.append((members, middle))
    found = [m + gap * (k - (len(g) - 1) / 2) for g, m in groups for k in range(len(g))]
    for k in range(len(found) - 1, -1, -1):  # positions beyond the top move down
        found[k] = min(found[k], 1 - gap * (len(found) - 1 - k))
    return found
