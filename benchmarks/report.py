"""Collect the results of `make bench`: .venv/bin/python benchmarks/report.py

The script reads peers.json, end_to_end.json, memory.json and startup.json from ``--folder``, as far as they
exist. It writes report.md there, the plot docs/benchmarks.png, and the short table in README.md between
``<!-- bench -->`` and ``<!-- /bench -->``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import end_to_end
import memory
import startup
from _peers_report import Result, grid, measured, number, panel, save_figure
from _peers_report import markdown as peers_markdown
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

Document = dict[str, Any]

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
OURS = "srcnn-rt exact"
# Contestants and the titles of their columns; the others are in report.md.
PEERS = {
    "OpenVINO f32": "OpenVINO f32",
    "OpenVINO bf16": "OpenVINO bf16",
    "ONNX Runtime": "ONNX Runtime, as exported",
    "torch channels_last": "torch channels_last",
    "torch bf16": "torch bf16",
    "OpenCV DNN": "OpenCV DNN",
    "ncnn f32": "ncnn",
}


def load(folder: Path) -> dict[str, Document]:
    """Return the existing documents by name."""
    names = ("peers", "end_to_end", "memory", "startup")
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def chosen(results: Sequence[Result]) -> list[Result]:
    """Return the results that table and plot show: srcnn-rt on its fastest provider, and `PEERS`.

    The provider is the one that is fastest at the largest size, for all sizes.
    """
    largest = max((r["side"] for r in results), default=0)
    ours = [r for r in results if r["ours"]]
    best = max((r for r in ours if r["side"] == largest), key=lambda r: r["mpx_per_s"], default=None)
    same = [r for r in ours if best is not None and r["contestant"] == best["contestant"]]
    return [{**r, "contestant": OURS} for r in same] + [r for r in results if r["contestant"] in PEERS]


def peers_table(document: Document) -> str:
    """Return the table of Mpx/s of every model at the largest size, one column per contestant."""
    side = max(document["settings"]["sides"])
    rows = []
    for model in document["models"]:
        results = chosen(measured(document, model["name"]))
        speeds = {r["contestant"]: number(r["mpx_per_s"]) for r in results if r["side"] == side}
        rows.append((model["name"], *(speeds.get(name, "–") for name in (OURS, *PEERS))))
    head = (f"gray {side}², output Mpx/s", f"**{OURS}**", *PEERS.values())
    return grid(head, rows)


def files_line(document: Document) -> str:
    """Return files' share of the network's own throughput, and the cost of tiles."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for r in document["files"]:
        name = r["model"] if r["precision"] == "exact" else f"{r['model']} {r['precision']}"
        groups.setdefault((name, r["image"]), []).append(r)
    shares = [
        f"{name} {image} " + " / ".join(f"{r['share']:.0%}" for r in found)
        for (name, image), found in groups.items()
    ]
    compress = " / ".join(document["settings"]["compress"])
    tiles = [
        f"{r['model']} {r['ratio']:.2f}"
        for r in document["tiling"]
        if r["asked"] == 512 and r["precision"] == "exact"
    ]
    line = f"TIFF → TIFF ({compress}), as a share of the network's own throughput: {', '.join(shares)}."
    return (
        f"{line} Time in tiles of 512 over the time of one whole run: {', '.join(tiles)}." if tiles else line
    )


def memory_line(document: Document) -> str:
    """Return the line of peak memory."""
    sizes = ", ".join(f"{r['hr_mpx']:,.0f}" for r in document["results"])
    peaks = ", ".join(f"{r['peak_mb']:.0f}" for r in document["results"])
    return f"Peak memory of `srcnn-rt upscale` for {sizes} Mpx of output: {peaks} MB."


def startup_line(document: Document) -> str:
    """Return the line of start-up times."""
    found = [f"{r['name']} {r['seconds']:.2f} s" for r in document["results"] if r["wanted"] is not None]
    return f"Wall time of a new process: {', '.join(found)}."


def machine_line(documents: dict[str, Document]) -> str:
    """Return machine, date and revision of all documents; differing values are joined."""

    def every(value: Callable[[Document], object]) -> str:
        return " and ".join(dict.fromkeys(str(value(d)) for d in documents.values()))

    where = every(lambda d: f"{d['machine']['cpu']}, {d['machine']['processors']} CPU cores")
    when = f"revision {every(lambda d: d['machine']['revision'])}, {every(lambda d: d['measured'])}"
    return f"By `make bench` on {where}; {when}. Plot: [docs/benchmarks.png](docs/benchmarks.png)."


def compact(documents: dict[str, Document]) -> str:
    """Return the README's table and the lines below it."""
    parts = {"end_to_end": files_line, "memory": memory_line, "startup": startup_line}
    lines = [line(documents[name]) for name, line in parts.items() if name in documents]
    text = "\n\n".join([*lines, machine_line(documents)])
    return f"{peers_table(documents['peers'])}\n\n{text}" if "peers" in documents else text


def full(documents: dict[str, Document]) -> str:
    """Return the full report."""
    parts = {
        "end_to_end": end_to_end.markdown,
        "memory": memory.markdown,
        "startup": startup.markdown,
        "peers": peers_markdown,
    }
    found = [write(documents[name]) for name, write in parts.items() if name in documents]
    return "\n".join(["# Benchmarks\n", compact(documents) + "\n", *found])


def draw(documents: dict[str, Document], target: Path) -> bool:
    """Plot throughput of the first model, and memory, against size; return False if there is no data."""
    panels: list[Callable[[Axes], None]] = []
    if "peers" in documents:
        panels.append(lambda axes: _throughput(axes, documents["peers"]))
    if "memory" in documents:
        panels.append(lambda axes: _memory(axes, documents["memory"]))
    if not panels:
        return False
    figure = Figure(figsize=(7.2 * len(panels), 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(wspace=0.06)
    for axes, paint in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        paint(axes)
    save_figure(figure, target)
    return True


def _throughput(axes: Axes, document: Document) -> None:
    name, threads = document["models"][0]["name"], document["settings"]["threads"]
    panel(axes, f"{name}, gray, {threads} threads (dashed: bfloat16)", chosen(measured(document, name)))


def _memory(axes: Axes, document: Document) -> None:
    results = sorted(document["results"], key=lambda r: r["hr_mpx"])
    sizes, peaks = [r["hr_mpx"] for r in results], [r["peak_mb"] for r in results]
    axes.set_title(f"{document['settings']['model']}, gray TIFF → TIFF")
    axes.set_xscale("log")
    axes.plot(sizes, peaks, color="#d1341f", linewidth=3, marker="o", markersize=6)
    for size, peak in zip(sizes, peaks, strict=True):
        axes.annotate(f"{peak:.0f}", (size, peak), (0, 9), textcoords="offset points", ha="center")
    axes.axhline(memory.WANTED_MB, color="#6b7280", linestyle=":", linewidth=1.3)
    axes.annotate(
        "limit",
        (0, memory.WANTED_MB),
        (4, -12),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    axes.set_ylim(0, max(memory.WANTED_MB, *peaks) * 1.1)
    axes.set_xlim(sizes[0] / 2, sizes[-1] * 2)
    axes.set_xticks(sizes, [f"{size:,.3g}" if size < 100 else f"{size:,.0f}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("result, Mpx")
    axes.set_ylabel("peak memory, MB")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def replace_between(path: Path, text: str) -> bool:
    """Put `text` between the markers of a file; if they are missing, change nothing and return False."""
    before = path.read_text()
    after, count = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: f"{BEGIN}\n{text}\n{END}",
        before,
        count=1,
        flags=re.DOTALL,
    )
    if count:
        partial = path.with_name(path.name + ".partial")
        partial.write_text(after)
        partial.replace(path)
    return bool(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".benchmarks"), help="folder of the JSON files")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "benchmarks.png")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    args = parser.parse_args()
    documents = load(args.folder)
    if not documents:
        raise SystemExit(f"{args.folder}: no peers.json, end_to_end.json, memory.json or startup.json")
    (args.folder / "report.md").write_text(full(documents))
    print(f"{args.folder / 'report.md'}: {', '.join(documents)}")
    print(f"{args.plot}: {'drawn' if draw(documents, args.plot) else 'nothing to draw'}")
    if replace_between(args.readme, compact(documents)):
        print(f"{args.readme}: table replaced")
    else:
        print(f"{args.readme}: not changed, because {BEGIN} … {END} is missing; the table is:")
        print(compact(documents))


if __name__ == "__main__":
    main()
