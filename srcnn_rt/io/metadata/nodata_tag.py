"""Nodata values of files, as text and as samples."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ...image.info import Nodata

_MAX_CHARACTERS = 400  # of a number; the largest float64 has 309 digits without an exponent
_MIN_DIGITS = 6  # of a number that may be rounded; C's %g writes six


def digits_within(text: str, dtype: np.dtype[Any]) -> float:
    """Return the largest difference from a nodata value at which float samples are nodata too.

    float32 samples may differ by four units in the last place, as in GDAL (``ARE_REAL_EQUAL``). A number with
    an exponent also stands for all numbers that round to its digits, because programs write the lowest
    float32 as -3.402823e+38, with fewer digits than it needs. Other numbers, and those with fewer than six
    digits, are exact.

    Parameters
    ----------
    text : str
        Nodata value of a file.
    dtype : dtype
        Type of its samples.
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


def check(name: str | Path, value: Nodata, found: float | None, dtype: np.dtype[Any]) -> None:
    """Refuse a nodata value that samples cannot have.

    Parameters
    ----------
    name : str or Path
        Name of the file or array in messages.
    value : float, "none" or None
        The value given explicitly.
    found : float, optional
        Result of `held`.
    dtype : dtype
        Type of the samples.

    Raises
    ------
    ArgumentError
        If `value` is a number and `found` is None.
    """
    if found is None and value not in (None, "none"):
        raise ArgumentError(f"{name}: nodata must be a value that its samples can have, {dtype}, got {value}")


def held(value: float, dtype: np.dtype[Any]) -> float | None:
    """Return a value as a sample of a type, None if the type cannot hold it."""
    finite = isinstance(value, int) or math.isfinite(value)  # an integer may be larger than any float
    if dtype.kind == "f":
        try:
            with np.errstate(over="ignore"):
                return None if finite and not np.isfinite(dtype.type(value)) else float(value)
        except OverflowError:
            return None
    info = np.iinfo(dtype)
    whole = finite and value == int(value)
    return int(value) if whole and info.min <= value <= info.max else None
