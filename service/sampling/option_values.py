"""Single options as callers of the library give them: numbers of any kind that are what they should be."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from service.errors import InvalidOption, cut


def whole(path: str, value: Any) -> int:
    """An int of whatever is whole, numpy's numbers too. InvalidOption for anything else, bools and 2.0 among it."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise InvalidOption.at(path, f"a whole number expected, got {shown(value)}")


def real(path: str, value: Any) -> float:
    """InvalidOption for what is no real number, bools among it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidOption.at(path, f"a number expected, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def shown(value: Any) -> str:
    return cut(repr(value))
