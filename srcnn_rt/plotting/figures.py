"""Figures of filters, training runs, and quality over speed, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .._system.safe_files import atomic_write
from ..errors import ArgumentError, OutputError
from ..evaluation.speed import pareto_front
from .filters import Filter

_COLUMNS = 16
_DPI = 120


def draw_filters(name: str, filters: Sequence[Filter], target: Path) -> None:
    """Draw filters in rows, each scaled to its largest weight, with 0 as mid-gray.

    Parameters
    ----------
    name : str
        Name of the model.
    filters : sequence of Filter
        Filters of three channels are drawn in colour.
    target : Path
        PNG, SVG or PDF file.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    rows = math.ceil(len(filters) / _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * 0.75, rows * 0.95 + 0.6), dpi=_DPI, layout="constrained")
    figure.suptitle(f"{name}: first layer, {len(filters)} filters by variance")
    axes = np.atleast_2d(figure.subplots(rows, _COLUMNS, squeeze=False))
    for axis in axes.ravel():
        axis.axis("off")
    for axis, f in zip(axes.ravel(), filters, strict=False):
        limit = float(np.abs(f.weights).max()) or 1.0
        if f.weights.shape[0] == 3:
            axis.imshow(0.5 + f.weights.transpose(1, 2, 0) / (2 * limit), interpolation="nearest")
        else:
            axis.imshow(f.weights.mean(axis=0), cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
        label = f.kind if f.angle is None else f"{f.kind} {f.angle:.0f}°"
        axis.set_title(label, fontsize=6, pad=2)
    _save(figure, target)


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], target: Path) -> None:
    """Draw loss, PSNR and learning rate against training steps.

    Parameters
    ----------
    runs : mapping of str to sequence of mapping
        Rows of the log by name of the run.
    target : Path
        PNG, SVG or PDF file.

    Raises
    ------
    ArgumentError
        If a log is empty.
    OutputError
        If the file cannot be written.
    """
    figure = Figure(figsize=(9, 8), dpi=_DPI, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    for name, rows in runs.items():
        if not rows:
            raise ArgumentError(f"{name}: the log is empty")
        for axis, key in zip(panels, ("loss", "psnr", "lr"), strict=True):
            points = [(r["step"], r[key]) for r in rows if key in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, marker="." if key == "psnr" else "")
    for axis, title in zip(panels, ("loss", "validation PSNR, dB", "learning rate"), strict=True):
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[0].legend()
    panels[2].set_xlabel("steps")
    _save(figure, target)


def draw_front(
    panels: Mapping[str, Mapping[str, tuple[float, float]]], target: Path, *, quality: str
) -> None:
    """Draw quality over speed, with a line through the methods that no other beats in both.

    Parameters
    ----------
    panels : mapping of str to mapping of str to (float, float)
        By title: the speed in HR megapixels per second and the quality of each method, by its name.
    target : Path
        PNG, SVG or PDF file.
    quality : str
        Label of the quality axis.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    figure = Figure(figsize=(6 * len(panels) + 1, 5), dpi=_DPI, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        front = pareto_front(points)
        axis.plot(*zip(*(points[name] for name in front), strict=True), color="tab:blue", alpha=0.4)
        height = np.ptp([score for _, score in points.values()])
        for name, (speed, score) in points.items():
            color = "tab:blue" if name in front else "tab:gray"
            axis.plot(speed, score, "o", color=color)
            # The label of a point close above would be in the way.
            covered = any(0 < y - score < 0.04 * height and 0.6 < x / speed < 1.6 for x, y in points.values())
            axis.annotate(
                name,
                (speed, score),
                xytext=(4, -9 if covered else 4),
                textcoords="offset points",
                fontsize=7,
                color=color,
            )
        axis.set_xscale("log")
        axis.margins(x=0.25, y=0.1)
        axis.set_title(title)
        axis.set_xlabel("HR megapixels per second")
        axis.set_ylabel(quality)
        axis.grid(alpha=0.3, which="both")
    _save(figure, target)


def _save(figure: Figure, target: Path) -> None:
    FigureCanvasAgg(figure)
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise OutputError(f"{target}: the suffix of a figure must be .png, .svg or .pdf")
    with atomic_write(target) as file:
        figure.savefig(file, format=target.suffix[1:].lower())
