"""Types of arguments. A wrong one is an error that names it, before anything is done with its value."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Mapping
from reprlib import repr as short
from typing import Any

import numpy as np

from ..errors import ArgumentError


def flags(*, optional: bool = False, **values: Any) -> None:
    """Refuse values that are not True or False; None passes where it is `optional`.

    Raises
    ------
    ArgumentError
        With the name, the rule and the value, as for all functions here.
    """
    _check("True or False", lambda value: isinstance(value, bool | np.bool_), optional, values)


def integers(*, optional: bool = False, **values: Any) -> None:
    """Refuse values that are no integers; True and False are none."""
    _check(
        "an integer",
        lambda value: isinstance(value, numbers.Integral) and not _is_flag(value),
        optional,
        values,
    )


def real_numbers(*, optional: bool = False, **values: Any) -> None:
    """Refuse values that are no numbers."""
    _check(
        "a number", lambda value: isinstance(value, numbers.Real) and not _is_flag(value), optional, values
    )


def texts(*, optional: bool = False, **values: Any) -> None:
    """Refuse values that are no strings."""
    _check("a string", lambda value: isinstance(value, str), optional, values)


def paths(*, optional: bool = False, **values: Any) -> None:
    """Refuse values that are neither strings nor paths."""
    _check("a string or a path", lambda value: isinstance(value, str | os.PathLike), optional, values)


def callables(*, optional: bool = False, **values: Any) -> None:
    """Refuse values that cannot be called."""
    _check("a callable", callable, optional, values)


def mappings(*, optional: bool = False, **values: Any) -> None:
    """Refuse values that are no mappings."""
    _check("a mapping", lambda value: isinstance(value, Mapping), optional, values)


def _check(rule: str, holds: Callable[[Any], bool], optional: bool, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if not (holds(value) or (optional and value is None)):
            raise ArgumentError(f"{name} must be {rule}{' or None' if optional else ''}, got {short(value)}")


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)
