"""What a nodata value says, which files hold as a text and people type."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ...image.info import Nodata

_MAX_CHARACTERS = 400  # of a text that is a number: the largest float64 without an exponent has 309
_MIN_DIGITS = 6  # of a text that may be a rounded one: what C's %g writes


def parse(text: str) -> Nodata:
    """Return what somebody typed: a number, whole ones exactly, or ``"none"``.

    Raises
    ------
    ArgumentError
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text.lower() == "none":
        return "none"
    raise ArgumentError(f"nodata must be a number or none, got {text!r}")


def digits_within(text: str, dtype: np.dtype[Any]) -> float:
    """Return how far floats may be from a nodata value that was written so, and are it all the same.

    As GDAL compares float32 (``ARE_REAL_EQUAL``: four of its steps). A text with an exponent also stands
    for all that is rounded to its digits: programs write the lowest float32 as -3.402823e+38, with six or
    seven of the nine digits that it needs. Other texts, and those of fewer digits, mean just what they say.
    """
    try:
        number = Decimal(text[:_MAX_CHARACTERS].strip(" \0"))
        value = abs(float(number))
    except (InvalidOperation, ValueError):
        return 0.0
    if dtype.kind != "f" or not math.isfinite(value):
        return 0.0
    within = 4 * float(np.finfo(np.float32).eps) * value if dtype == np.float32 else 0.0
    _, digits, exponent = number.as_tuple()
    if "e" not in text.lower() or len(digits) < _MIN_DIGITS:
        return within
    return max(within, float(f"5e{int(exponent) - 1}"))


def check(path: Path, value: Nodata, found: float | None, dtype: np.dtype[Any]) -> None:
    """Refuse a value that was asked for and that no sample can have: `found` is what became of it.

    Raises
    ------
    ArgumentError
    """
    if found is None and value not in (None, "none"):
        raise ArgumentError(f"{path}: nodata must be a value that its samples can have, {dtype}, got {value}")


def held(value: float, dtype: np.dtype[Any]) -> float | None:
    """Return a value as samples of a type hold it; None if they cannot."""
    if dtype.kind == "f":
        return float(value)
    info = np.iinfo(dtype)
    return (
        int(value) if np.isfinite(value) and value == int(value) and info.min <= value <= info.max else None
    )
