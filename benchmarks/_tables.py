"""Tables, numbers, ratios and verdicts for all reports. Needs the standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; the first `left` columns are text, the others numbers."""
    rule = [":--"] * left + ["--:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def number(value: float) -> str:
    """Return a number with three digits and without an exponent."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ratio(one: Result, other: Result) -> float:
    """Return the speed of `one` relative to `other`, the median over the rounds.

    Both ran within seconds of each other in each round, so the load of a shared machine cancels out.
    """
    ratios = sorted(a / b for a, b in zip(one["rounds"], other["rounds"], strict=True))
    half = len(ratios) // 2
    return float(ratios[half] if len(ratios) % 2 else (ratios[half - 1] + ratios[half]) / 2)


def verdict(found: float, wanted: float, *, at_most: bool = False) -> str:
    """Return "met" or "missed"; `wanted` is the smallest accepted value, or with `at_most` the largest."""
    return "met" if (found <= wanted if at_most else found >= wanted) else "missed"
