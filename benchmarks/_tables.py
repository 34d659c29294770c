"""What all reports are made of: tables, numbers, ratios and verdicts; needs nothing but Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; the first `left` columns are text, the others numbers."""
    rule = [":--"] * left + ["--:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def number(value: float) -> str:
    """Return three digits, and never an exponent."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ratio(one: Result, other: Result) -> float:
    """Return how many times as fast `one` is, the median over the rounds.

    Both ran in each round within seconds, so what a shared machine does to a round cancels.
    """
    ratios = sorted(a / b for a, b in zip(one["rounds"], other["rounds"], strict=True))
    half = len(ratios) // 2
    return float(ratios[half] if len(ratios) % 2 else (ratios[half - 1] + ratios[half]) / 2)


def verdict(found: float, wanted: float, *, at_most: bool = False) -> str:
    """Return "met" or "missed"; `wanted` is a least value, or the largest allowed."""
    return "met" if (found <= wanted if at_most else found >= wanted) else "missed"
